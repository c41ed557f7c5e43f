"""Quantus gives the same measures of quality where its definitions are ours.

Where they are not, docs/reference/methods.md says so: its infidelity hides patches one after
another without putting the earlier ones back.
"""

import copy
import warnings

import numpy as np
import pytest
import torch
from conformance.methods import convolutional_network

from attribution import GradientXInput, IntegratedGradients, Saliency, SmoothGrad, explain
from attribution.batch import Batch
from attribution.quality import Deletion, Infidelity, MaxSensitivity
from attribution.quality.randomisation import rank_correlation
from attribution.summary import summarise

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import quantus

TARGET = 2
PLAIN = {
    "normalise": False,
    "abs": False,
    "disable_warnings": True,
    "display_progressbar": False,
    "return_aggregate": False,
}


@pytest.fixture(scope="module")
def network():
    return convolutional_network(1, 5).double().eval()


@pytest.fixture(scope="module")
def images():
    return torch.randn(4, 1, 9, 8, generator=torch.Generator().manual_seed(0)).double()


def score(metric, network, images, maps, **options):
    """Evaluate a metric of Quantus for one class, one value per object."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = metric(
            model=network,
            x_batch=images.numpy(),
            y_batch=np.full(len(images), TARGET),
            a_batch=maps,
            device="cpu",
            **{"softmax": True, **options},
        )
    return np.asarray(found)


@pytest.mark.parametrize("judged", [GradientXInput(), IntegratedGradients(5)])
def test_deletion_is_pixel_flipping_to_zero(network, images, judged):
    network, images = copy.deepcopy(network).float(), images.float()  # the peer knows float32 only
    maps = explain(network, images, judged, targets=TARGET)["attribution"]
    found = explain(network, images, Deletion(of=(judged,), steps=12), targets=TARGET)
    metric = quantus.PixelFlipping(features_in_step=6, perturb_baseline=0.0, **PLAIN)
    curve = score(metric, network, images, maps)
    # The peer's curve begins after the first step.
    np.testing.assert_allclose(found["curve"][:, 0, 0, 1:], curve, rtol=1e-6)


def test_max_sensitivity_with_the_same_noise(network, images):
    method = MaxSensitivity(of=(Saliency(),), samples=5, radius=0.05)
    options = {"targets": TARGET, "precision": "float64", "micro_batch": 4}
    found = explain(network, images, method, **options)
    batch = Batch(network, images, np.ones(4, bool), [str(n) for n in range(4)], seed=0)
    noise = iter([method._noise(batch, sample).numpy().reshape(4, -1) for sample in range(5)])

    def maps(model, inputs, targets, **_):
        return explain(network, torch.as_tensor(inputs), Saliency(), **options)["attribution"]

    metric = quantus.MaxSensitivity(
        nr_samples=5,
        norm_numerator=quantus.norm_func.fro_norm,
        norm_denominator=quantus.norm_func.fro_norm,
        similarity_func=quantus.similarity_func.difference,
        perturb_func=lambda arr, indices, **_: arr + next(noise),
        return_nan_when_prediction_changes=False,
        **PLAIN,
    )
    before = maps(network, images, None)
    peer = score(metric, network, images, before, explain_func=maps)
    np.testing.assert_allclose(found["max_sensitivity"][:, 0, 0], peer, rtol=1e-9)


@pytest.mark.parametrize("judged", [Saliency(), SmoothGrad(3)])  # far from being contributions
def test_infidelity_of_the_one_patch_that_is_the_image(network, judged):
    # With more patches the peer never puts an earlier one back.
    network = copy.deepcopy(network).float()
    images = torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(3))
    maps = explain(network, images, judged, targets=TARGET)["attribution"]
    method = Infidelity(of=(judged,), samples=1, window=8)
    found = explain(network, images, method, targets=TARGET)["infidelity"]
    metric = quantus.Infidelity(
        perturb_patch_sizes=[8], n_perturb_samples=1, perturb_baseline=0.0, **PLAIN
    )
    # The peer multiplies maps by the change of the image, which contributions already hold.
    peer = score(metric, network, images, maps / images.numpy(), softmax=False)
    assert (peer > 1e-3).all()
    np.testing.assert_allclose(found[:, 0, 0], peer, rtol=1e-5)


def test_the_correlations_of_cascading_randomisation(network, images):
    network, images = copy.deepcopy(network).float(), images.float()
    options = {"targets": TARGET, "micro_batch": 4}
    made = []

    def maps(model, inputs, targets, **_):
        made.append(explain(model, torch.as_tensor(inputs), Saliency(), **options)["attribution"])
        return made[-1]

    before = maps(network, images, None)
    metric = quantus.MPRT(**{**PLAIN, "abs": True})
    with torch.random.fork_rng():
        peer = score_of_layers(metric, network, images, before, maps)
    # Called first on the network itself, as the peer does, and then with one more random layer.
    assert next(iter(peer)) == "original"
    assert len(made) == 1 + len(peer)
    for correlations, after in zip(peer.values(), made[1:], strict=True):
        ours = [rank_correlation(a, b) for a, b in zip(before[:, 0], after[:, 0], strict=True)]
        np.testing.assert_allclose(ours, correlations, rtol=0, atol=1e-6)


def score_of_layers(metric, network, images, before, maps):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return metric(
            model=network,
            x_batch=images.numpy(),
            y_batch=np.full(len(images), TARGET),
            a_batch=before,
            device="cpu",
            explain_func=maps,
        )


def test_the_correlation_of_model_randomisation():
    random = np.random.default_rng(1)
    for _ in range(10):
        left, right = random.normal(size=(2, 6, 7)).round(1)
        peer = quantus.similarity_func.correlation_spearman(left.ravel(), right.ravel())
        assert rank_correlation(left, right) == pytest.approx(peer, abs=1e-12)


def test_concentration_is_sparseness_for_many_pixels():
    maps = np.random.default_rng(2).normal(size=(3, 1, 20, 30)) ** 3
    found = summarise(maps)["gini"][:, 0]
    metric = quantus.Sparseness(**{**PLAIN, "abs": True})
    images = torch.zeros(3, 1, 20, 30).double()
    peer = score(metric, convolutional_network(1, 5), images, maps)
    # Lotz's coefficient reaches 1 for one bright pixel, the peer's 1 - 1/n.
    pixels = maps[0].size
    np.testing.assert_allclose(found * (pixels - 1) / pixels, peer, rtol=1e-6)
