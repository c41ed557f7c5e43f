import numpy as np
import pytest
import torch
from torch import nn

from attribution import GradientXInput, IntegratedGradients, MCDropout, Occlusion, Prediction
from attribution import explain as explain_images


def explain(linear, images, method=None, **options):
    options = {"precision": "float64", "micro_batch": 4} | options
    return explain_images(linear[0], images, method or GradientXInput(), **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"targets": "spiral"}, "target 'spiral' is neither predicted, label nor all, nor one of "
         "the classes 0, 1, 2"),
        ({"targets": 3}, "target 3 is out of range: the network has classes 0 to 2"),
        ({"targets": []}, "targets is empty; name predicted, label, all or a class"),
        ({"targets": "label"}, "targets asks for label: pass the class indices as labels="),
        ({"targets": ["predicted", "label"]}, "targets asks for label: pass the class indices as "
         "labels="),
        ({"targets": "label", "labels": np.arange(7)}, "labels range from 0 to 6; the network has "
         "classes 0 to 2, and -1 stands for none"),
        ({"targets": "label", "labels": np.arange(3)}, "labels has shape (3,), expected (7,)"),
        ({"targets": np.arange(7)}, "targets range from 0 to 6; the network has classes 0 to 2, "
         "and -1 stands for none"),
        ({"targets": torch.full((7,), -2)}, "targets range from -2 to -2; the network has classes "
         "0 to 2, and -1 stands for none"),
        ({"targets": np.array([0, 1])}, "targets has shape (2,), expected (7,) or (7, T), T > 0"),
        ({"targets": np.zeros((7, 0), int)}, "targets has shape (7, 0), expected (7,) or (7, T), "
         "T > 0"),
        ({"targets": torch.tensor(1)}, "targets has shape (), expected (7,) or (7, T), T > 0"),
        ({"ids": ["a", "b"]}, "ids has 2 entries for 7 images"),
        ({"micro_batch": 0}, "micro_batch is 0; a pass needs 1 row or more"),
        ({"precision": "float16"}, "precision is 'float16'; choose float32 or float64"),
        ({"channels": "mean"}, "channels is 'mean'; choose sum or keep"),
    ],
)  # fmt: skip
def test_what_makes_no_sense_is_refused(options, message, linear, some_images):
    with pytest.raises(ValueError) as refusal:  # noqa: PT011 - the whole text is compared
        explain(linear, some_images, **options)
    assert str(refusal.value) == message


@pytest.mark.parametrize("shape", [(2, 5, 6), (0, 2, 5, 6)])
def test_images_of_another_shape_are_refused(shape, linear):
    with pytest.raises(ValueError, match=r"^images has shape .*, expected \(N, C, H, W\) with N >"):
        explain(linear, np.zeros(shape))


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_pixels_that_are_not_finite_are_refused(value, linear, some_images):
    images = some_images.clone()
    images[5, 1, 2, 3] = value
    with pytest.raises(ValueError, match=r"^images\[5\] has NaN or infinite pixels; fill or leave"):
        explain(linear, images)


@pytest.mark.parametrize(
    ("targets", "indices"),
    [
        (1, [[1]] * 7),
        (np.int64(1), [[1]] * 7),
        ("2", [[2]] * 7),
        ("all", [[0, 1, 2]] * 7),
        ([2, 0], [[2, 0]] * 7),
        (torch.arange(7) % 3, [[n % 3] for n in range(7)]),
        (np.array([[0, 2]] * 7, dtype=np.uint8), [[0, 2]] * 7),
        ("label", [[-1], [1], [2], [-1], [-1], [-1], [-1]]),
    ],
)
def test_targets_may_be_written_in_many_ways(targets, indices, linear, some_images):
    # No object of the second micro-batch has a label: that is no reason to refuse.
    labels = np.array([-1, 1, 2, -1, -1, -1, -1])
    found = explain(linear, some_images, Prediction(), targets=targets, labels=labels)
    np.testing.assert_array_equal(found["target"], indices)
    maps = explain(linear, some_images, targets=targets, labels=labels)["attribution"]
    expected = (some_images[:, None] * linear[1][np.array(indices)]).sum(dim=2).numpy()
    missing = np.array(indices) == -1
    assert np.isnan(maps[missing]).all()
    np.testing.assert_allclose(maps[~missing], expected[~missing], rtol=1e-12, atol=1e-14)


def test_arrays_lists_and_tensors_that_require_grad_are_taken(linear, some_images):
    expected = explain(linear, some_images)["attribution"]
    wanting = some_images.clone().requires_grad_()
    for images in (some_images.numpy(), some_images.tolist(), wanting):
        np.testing.assert_array_equal(explain(linear, images)["attribution"], expected)
    assert wanting.grad is None


@pytest.mark.parametrize(
    "method", [GradientXInput(), IntegratedGradients(4), Occlusion(2, 2)], ids=lambda m: m.name
)
def test_a_callers_no_grad_changes_nothing(method, linear, some_images):
    expected = explain(linear, some_images, method)
    with torch.no_grad():
        found = explain(linear, some_images, method)
        assert not torch.is_grad_enabled()
    for name, array in found.items():
        np.testing.assert_array_equal(array, expected[name])


def test_a_float32_network_is_explained_in_float64_and_stays_float32(some_images):
    network = nn.Sequential(nn.Flatten(), nn.Linear(60, 3))
    double = explain_images(network, some_images, Prediction(), precision="float64")["logit"]
    single = explain_images(network, some_images, Prediction())["logit"]
    assert (double.dtype, single.dtype) == (np.float64, np.float32)
    np.testing.assert_allclose(single, double, rtol=1e-5, atol=1e-6)
    assert {parameter.dtype for parameter in network.parameters()} == {torch.float32}


def test_the_network_is_restored_when_it_fails(formula):
    def fail(images):
        raise RuntimeError("out of order")

    network = nn.Sequential(nn.Dropout(0.5), nn.BatchNorm2d(2), formula(fail))
    network[1].eval()
    with pytest.raises(RuntimeError, match="out of order"):
        explain_images(network, torch.zeros(2, 2, 5, 6), MCDropout(3))
    assert [module.training for module in network] == [True, False, True]
    assert network.training
    assert not network[0]._forward_hooks


def test_ids_of_any_string_type_draw_the_same_masks():
    network = nn.Sequential(nn.Dropout(0.5), nn.Flatten(), nn.Linear(12, 3))
    images = torch.ones(3, 1, 3, 4)
    names = ["a", "b", "c"]
    plain = explain_images(network, images, MCDropout(4), ids=names, seed=3)
    numpy = explain_images(network, images, MCDropout(4), ids=np.array(names), seed=np.int64(3))
    np.testing.assert_array_equal(plain["probability_mean"], numpy["probability_mean"])
