import numpy as np
import pytest
import torch
from conformance.methods import MethodConformance
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from torch import nn

from attribution import Layout, Occlusion, explain
from attribution.explain import make_batch
from attribution.fills import canvas

reproducibly = settings(deadline=None, derandomize=True, max_examples=40)


@st.composite
def all_options(draw):
    window = draw(st.tuples(st.integers(1, 9), st.integers(1, 8)))
    return Occlusion(
        window,
        tuple(draw(st.integers(1, size)) for size in window),
        draw(st.sampled_from(["image_mean", "patch_mean", "blur", "sky_noise", (0.25, -1.0)])),
        draw(st.sampled_from(["logit", "probability"])),
        draw(st.sampled_from([0.5, 8.0])),
        # A convolution, a ReLU that works in place, and a layer without positions.
        draw(st.sampled_from([(), ("5",), ("2", "8")])),
        draw(st.sampled_from(["max", "mean"])),
    )


class TestAllOptions(MethodConformance):
    methods = all_options()
    layers = ("2", "5", "8")


@pytest.mark.parametrize(
    ("size", "stride", "pixels"),
    [(8, 2, [3, 3, 3, 3, 3, 3, 2.5, 2]), (7, 3, [3, 3, 3, 3, 3, 3, 1])],
)
@pytest.mark.parametrize("axis", ["x", "y"])
def test_the_worked_numbers(size, stride, pixels, axis, sum_of_pixels):
    wide = (1, size), (1, 3), (1, stride)
    shape, window, stride = wide if axis == "x" else [pair[::-1] for pair in wide]
    grid = explain(sum_of_pixels, torch.ones(1, 1, *shape), Occlusion(window, stride), targets=0)
    found = Occlusion.expand(grid["grid"], shape, window, stride)
    assert found.shape == (1, 1, *shape)
    assert found.ravel().tolist() == pixels


@st.composite
def windows(draw):
    window = draw(st.tuples(st.integers(1, 5), st.integers(1, 6)))
    return window, tuple(draw(st.integers(1, size)) for size in window)


def _corners(size, window, stride):
    """Window positions as published: the first at 0, the last one reaches the edge."""
    starts = [0]
    while starts[-1] + window < size:
        starts.append(starts[-1] + stride)
    return starts


@reproducibly
@given(windows(), st.sampled_from([0.0, 0.5, (1.0, -2.0)]))
def test_a_cell_of_a_linear_network_is_the_weighted_sum_of_what_was_hidden(
    linear, some_images, window_and_stride, fill
):
    (network, weights), (window, stride) = linear, window_and_stride
    found = explain(
        network, some_images, Occlusion(window, stride, fill), targets=[2, 0],
        precision="float64", micro_batch=4,
    )["grid"]  # fmt: skip
    hidden = torch.as_tensor(fill, dtype=torch.float64).reshape(-1, 1, 1)
    evidence = ((some_images - hidden)[:, None] * weights[[2, 0]]).sum(dim=2).numpy()
    expected = np.array(
        [
            [
                evidence[:, :, y : y + window[0], x : x + window[1]].sum(axis=(2, 3))
                for x in _corners(6, window[1], stride[1])
            ]
            for y in _corners(5, window[0], stride[0])
        ]
    )
    np.testing.assert_allclose(found, expected.transpose(2, 3, 0, 1), atol=1e-12)


@reproducibly
@given(windows(), st.integers(0, 4), st.integers(0, 5))
def test_a_pixel_is_the_mean_of_the_windows_that_cover_it(window_and_stride, y, x):
    window, stride = window_and_stride
    ys, xs = (_corners(n, w, s) for n, w, s in zip((5, 6), window, stride, strict=True))
    grid = np.random.default_rng(0).normal(size=(2, 3, len(ys), len(xs)))
    covering = [
        grid[..., j, i]
        for j, top in enumerate(ys)
        for i, left in enumerate(xs)
        if top <= y < top + window[0] and left <= x < left + window[1]
    ]
    expanded = Occlusion.expand(grid, (5, 6), window, stride)
    assert expanded.shape == (2, 3, 5, 6)
    np.testing.assert_allclose(expanded[..., y, x], np.mean(covering, axis=0), rtol=1e-12)


def filled(fill, image, top, left, window):
    """What hides a window, by its definition: broadcasts to the image, (C, H, W)."""
    here = image[:, top : top + window[0], left : left + window[1]]
    if fill == "patch_mean":
        return here.mean(axis=(1, 2), keepdims=True)
    if fill == "image_mean":
        return image.mean(axis=(1, 2), keepdims=True)
    assert fill == "blur"
    return ndimage.gaussian_filter(image, (0, 1.5, 1.5), mode="reflect", truncate=4)


@pytest.mark.parametrize("fill", ["image_mean", "patch_mean", "blur"])
@pytest.mark.parametrize("window_and_stride", [((2, 3), (2, 1)), ((3, 5), (1, 4))])
def test_fills_that_each_image_has_of_its_own(fill, window_and_stride, linear, some_images):
    (network, weights), (window, stride) = linear, window_and_stride
    found = explain(
        network, some_images, Occlusion(window, stride, fill, blur_sigma=1.5), targets=1,
        precision="float64", micro_batch=4,
    )["grid"][:, 0]  # fmt: skip
    for n, image in enumerate(some_images.numpy()):
        for j, top in enumerate(_corners(5, window[0], stride[0])):
            for i, left in enumerate(_corners(6, window[1], stride[1])):
                evidence = weights[1].numpy() * (image - filled(fill, image, top, left, window))
                hidden = evidence[:, top : top + window[0], left : left + window[1]]
                assert found[n, j, i] == pytest.approx(hidden.sum(), abs=1e-12)


def test_the_mean_of_the_window_hides_nothing_from_a_sum(sum_of_pixels):
    images = torch.randn(2, 3, 7, 7, generator=torch.Generator().manual_seed(0)).double()
    grid = explain(sum_of_pixels, images, Occlusion(3, 2, "patch_mean"), precision="float64")
    np.testing.assert_allclose(grid["grid"], 0, atol=1e-12)


def test_one_draw_of_sky_noise_serves_all_windows_of_an_object(linear, some_images):
    network, weights = linear
    found = explain(
        network, some_images, Occlusion((2, 3), (2, 3), "sky_noise"), targets=0,
        precision="float64", micro_batch=2, seed=5,
    )["grid"][:, 0]  # fmt: skip
    ids = [str(n) for n in range(len(some_images))]
    batch = make_batch(network, some_images, ids, 7, seed=5, needs=Occlusion(2, 2).needs)
    noise = torch.stack([canvas(batch, n, "sky_noise", blur_sigma=1.0) for n in range(7)])
    evidence = ((some_images - noise) * weights[0]).sum(dim=1)
    for j, i in np.ndindex(3, 2):
        expected = evidence[:, 2 * j : 2 * j + 2, 3 * i : 3 * i + 3].sum(dim=(1, 2))
        np.testing.assert_allclose(found[:, j, i], expected, atol=1e-12)


def test_the_most_probable_class_is_that_of_the_hidden_image(formula):
    network = formula(lambda x: x.flatten(1))
    image = torch.tensor([[[[3.0, 5.0, 4.0, 4.0]]]])
    arrays = explain(network, image, Occlusion(1, 1))
    # Without the second pixel the third and fourth tie: the first of them wins.
    assert arrays["most_probable_class"].tolist() == [[[1, 2, 1, 1]]]
    assert arrays["most_probable_class"].dtype == np.int32
    together = explain(network, image, Occlusion((1, 2), (1, 1), output="probability"))
    assert together["most_probable_class"].tolist() == [[[2, 3, 1]]]


class Echo(nn.Module):
    """A network whose layers put out the image, and the sums of its channels."""

    def __init__(self):
        super().__init__()
        self.body = nn.ModuleDict({"image": nn.Identity(), "sums": nn.Identity()})
        self.tokens = nn.Identity()

    def forward(self, x):
        x = self.body["image"](x)
        self.tokens(x.flatten(2))
        return self.body["sums"](x.sum(dim=(2, 3)))


def test_the_response_of_a_layer_is_its_maximum_or_mean_for_every_window():
    image = torch.tensor([[[[1.0, 5.0, 2.0]], [[-1.0, -2.0, -3.0]]]])
    layers = ("body.image", "body.sums")
    strongest = explain(Echo(), image, Occlusion(1, 1, -9.0, layers=layers))
    assert strongest["response_body_image"].tolist() == [[[[5, 2, 5]], [[-2, -1, -1]]]]
    assert strongest["response_body_sums"].tolist() == [[[[-2, -6, -3]], [[-14, -13, -12]]]]
    mean = explain(Echo(), image, Occlusion(1, 1, -9.0, layers=layers, response="mean"))
    sums = mean["response_body_sums"]
    assert sums.tolist() == strongest["response_body_sums"].tolist()
    np.testing.assert_allclose(mean["response_body_image"], sums / 3, rtol=1e-7)


def test_responses_have_names_that_a_store_may_have():
    method = Occlusion(1, 1, layers=("body.image",))
    layout = Layout((2, 1, 3), 2, layers={"body.image": (2, 1, 3)})
    *_, response = method.arrays(layout)
    assert response.name == "response_body_image"
    assert response.dims == ("body_image_channel", "window_y", "window_x")
    assert response.attributes["layer"] == "body.image"


def test_responses_cost_no_passes(linear, some_images):
    network, _ = linear
    passes = []
    handle = network.register_forward_hook(lambda *_: passes.append(1))
    try:
        explain(network, some_images, Occlusion(2, 2), micro_batch=4)
        needed = len(passes)
        explain(network, some_images, Occlusion(2, 2, layers=("1",)), micro_batch=4)
    finally:
        handle.remove()
    # One more, which measures the layers' shapes.
    assert len(passes) - needed == needed + 1


def test_the_grid_of_the_usual_windows_is_27_x_27():
    assert Occlusion(16, 8).grid_shape(224, 224) == (27, 27)
    assert Occlusion(16, 8).parts((3, 224, 224)) == 729


def test_several_targets_come_from_the_same_passes(linear, some_images):
    network, _ = linear
    passes = []
    handle = network.register_forward_hook(lambda *_: passes.append(1))
    try:
        together = explain(network, some_images, Occlusion(2, 2), targets="all", micro_batch=4)
        needed = len(passes)
        alone = explain(network, some_images, Occlusion(2, 2), targets=1, micro_batch=4)
    finally:
        handle.remove()
    # Two micro-batches' own logits; three blocks of nine windows for each of seven objects.
    assert needed == len(passes) - needed == 2 + 7 * 3
    np.testing.assert_array_equal(together["grid"][:, 1:2], alone["grid"])


def test_probabilities_on_request(formula):
    network = formula(lambda x: x.flatten(1)[:, :2])
    image = torch.tensor([[[[2.0, -1.0, 7.0]]]], dtype=torch.float64)
    method = Occlusion((1, 1), (1, 1), output="probability")
    found = explain(network, image, method, targets=0, precision="float64")["grid"]
    before = 1 / (1 + np.exp(-3))
    expected = [before - 1 / (1 + np.exp(-1)), before - 1 / (1 + np.exp(-2)), 0]
    np.testing.assert_allclose(found[0, 0, 0], expected, atol=1e-15)
    assert method.arrays(Layout((1, 1, 3), 2))[0].units == "1"


def test_what_hides_the_window_is_the_fill(formula):
    seen = []

    def remember(images):
        seen.append(images.clone())
        return images.flatten(1)[:, :2]

    images = torch.arange(24.0).reshape(1, 2, 3, 4)
    explain(formula(remember), images, Occlusion((2, 3), (1, 2), (50.0, -50.0)), micro_batch=4)
    expected = images[0].clone()
    expected[0, 1:3, 2:4], expected[1, 1:3, 2:4] = 50, -50
    assert torch.equal(seen[1][3], expected)
    assert torch.equal(seen[0][0], images[0])


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"window": 0, "stride": 1}, r"window 0 and stride 1 \(y axis\) must be 1 pixel or more"),
        ({"window": (3, 2), "stride": (3, 0)}, r"window 2 and stride 0 \(x axis\) must be 1 pixel"),
        ({"window": (4, 2), "stride": 3}, r"stride 3 is larger than window 2 \(x axis\): pixels"),
        ({"window": 2, "stride": 2, "output": "softmax"}, "output is 'softmax'; choose logit or"),
        (
            {"window": 2, "stride": 2, "fill": "white"},
            "fill is 'white'; .*, blur, sky_noise, patch_",
        ),
        ({"window": 2, "stride": 2, "blur_sigma": 0.0}, r"blur_sigma is 0\.0; choose 0\.1 to 1000"),
        ({"window": 2, "stride": 2, "response": "sum"}, "response is 'sum'; choose max or mean"),
        (
            {"window": 2, "stride": 2, "layers": ("a.b", "a_b")},
            "layers has 2 whose arrays would be",
        ),
    ],
)
def test_parameters_without_meaning_are_refused(parameters, message):
    with pytest.raises(ValueError, match=message):
        Occlusion(**parameters)


def test_what_does_not_fit_the_image_is_refused(linear, some_images):
    network, _ = linear
    with pytest.raises(ValueError, match="window 3x7 is larger than the image, 5x6; make it smal"):
        explain(network, some_images, Occlusion((3, 7), 1))
    with pytest.raises(ValueError, match="fill has 3 values, the image has 2 channels; give one"):
        explain(network, some_images, Occlusion(2, 1, fill=(0.0, 1.0, 2.0)))
    with pytest.raises(
        ValueError, match="layer 'tokens' puts out 2x30 per image, not one value or"
    ):
        explain(Echo(), some_images, Occlusion(2, 1, layers=("tokens",)))
    with pytest.raises(ValueError, match=r"the grid is \(4, 4\), these windows on \(5, 6\) make"):
        Occlusion.expand(np.zeros((4, 4)), (5, 6), 2, 1)
