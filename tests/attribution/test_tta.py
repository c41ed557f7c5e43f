"""Test-time augmentation: the views by hand and against torchvision, and their statistics."""

import numpy as np
import pytest
import torch
from conformance.methods import MethodConformance
from hypothesis import strategies as st
from torch import nn
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as transforms

from attribution import explain
from attribution.augmentation_views import TestTimeAugmentation as Views
from attribution.sampled_predictions import entropy


class TestConformance(MethodConformance):
    methods = st.builds(
        Views,
        zooms=st.sampled_from([(1.0,), (0.8, 1.0, 1.3)]),
        rotations=st.integers(2, 5),
        flips=st.booleans(),
        border=st.sampled_from(["reflection", "edge", "zeros"]),
        resampling=st.sampled_from(["bilinear", "bicubic"]),
        outputs=st.sampled_from(["classification", "vote_fractions", "regression"]),
    )


def all_views(method, image):
    return torch.stack([method.view(image, n) for n in range(method.parts(tuple(image.shape)))])


@pytest.fixture(scope="module")
def image():
    return torch.randn(2, 9, 9, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def smooth():
    """An image that linear interpolation reproduces: two planes (2, 21, 16), float64."""
    y, x = torch.meshgrid(
        torch.arange(21, dtype=torch.float64), torch.arange(16, dtype=torch.float64), indexing="ij"
    )
    return torch.stack((2 * x - y, 3 + x + 5 * y))


def test_there_are_the_60_views_of_dieleman(image):
    views = all_views(Views(), image)
    assert len(views) == 60
    assert len({view.numpy().tobytes() for view in views}) == 60


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("resampling", ["bilinear", "bicubic"])
def test_the_unmoved_views_are_the_image_and_its_mirror_image_bit_for_bit(resampling, dtype):
    # Sizes whose pixel positions float64 does not hold exactly.
    image = torch.randn(2, 11, 13, generator=torch.Generator().manual_seed(0)).to(dtype)
    method = Views(resampling=resampling)
    # One zoom has 20 views, flips run fastest: those of zoom 1 begin at 20.
    assert torch.equal(method.view(image, 20), image)
    assert torch.equal(method.view(image, 21), image.flip(-1))
    equal = [bool(torch.equal(view, image)) for view in all_views(method, image)]
    assert equal.count(True) == 1


@pytest.mark.parametrize("border", ["reflection", "edge", "zeros"])
def test_quarter_turns_are_counter_clockwise(image, border):
    views = all_views(Views(zooms=(1.0,), rotations=4, flips=False, border=border), image)
    for turns, view in enumerate(views):
        torch.testing.assert_close(view, torch.rot90(image, turns, (1, 2)), rtol=0, atol=1e-6)


def test_mirroring_comes_before_turning(image):
    views = all_views(Views(zooms=(1.0,), rotations=4), image)
    torch.testing.assert_close(views[3], torch.rot90(image.flip(-1), 1, (1, 2)), rtol=0, atol=1e-6)


@pytest.mark.parametrize("zoom", [0.9, 1.25, 2.0])
def test_a_zoom_enlarges_about_the_centre(smooth, zoom):
    (view, _) = all_views(Views(zooms=(zoom,), rotations=1), smooth)
    centre = smooth.mean(dim=(1, 2), keepdim=True)
    expected = centre + (smooth - centre) / zoom
    # Below 1 the view shows what lies beyond the edge, where the planes end.
    inside = (slice(None), slice(2, -2), slice(2, -2))
    torch.testing.assert_close(view[inside], expected[inside], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("border", ["zeros", "edge", "reflection"])
def test_what_lies_beyond_the_edge(border):
    row = torch.tensor([[[1.0, 2.0, 4.0, 8.0]]]).expand(1, 4, 4)
    view = Views(zooms=(0.5, 1.0), border=border).view(row, 0)[0, 1]
    # Pixel centres at -1.5 ... 1.5 show -3, -1, 1 and 3, that is columns -1.5, 0.5, 2.5 and 4.5.
    left, right = {"zeros": (0.0, 0.0), "edge": (1.0, 8.0), "reflection": (1.5, 6.0)}[border]
    np.testing.assert_allclose(view, [left, 1.5, 6.0, right])


def test_torchvision_makes_the_same_views():
    image = torch.randn(3, 17, 17, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    method = Views(border="zeros", flips=False)
    for number, view in enumerate(all_views(method, image)):
        zoom_number, turn = divmod(number, 10)
        expected = transforms.affine(
            image, -36.0 * turn, [0, 0], method.zooms[zoom_number], [0.0, 0.0],
            interpolation=InterpolationMode.BILINEAR,
        )  # fmt: skip
        torch.testing.assert_close(view, expected, rtol=0, atol=1e-5)


def test_statistics_are_those_of_the_views(image):
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(196, 3)).double()
    images = torch.stack((image, image.flip(0))).double()
    found = explain(network, images, Views(), precision="float64", micro_batch=7)
    for n in range(2):
        with torch.inference_mode():
            p_PK = torch.softmax(network(all_views(Views(), images[n])), dim=1).numpy()
        expected = {
            "probability_mean": p_PK.mean(axis=0),
            "probability_std": p_PK.std(axis=0),
            "predictive_entropy": entropy(p_PK.mean(axis=0)),
            "expected_entropy": entropy(p_PK).mean(),
            "mutual_information": entropy(p_PK.mean(axis=0)) - entropy(p_PK).mean(),
            "variation_ratio": 1 - np.bincount(p_PK.argmax(axis=1)).max() / 60,
        }
        assert list(found) == list(expected)
        for name, value in expected.items():
            np.testing.assert_allclose(found[name][n], value, rtol=1e-9, atol=1e-9)
        assert found["probability_std"][n].min() > 1e-3


def test_turns_leave_a_network_that_sees_no_direction_unmoved(image):
    class Moments(nn.Module):
        def forward(self, images):
            return torch.stack((images.mean(dim=(1, 2, 3)), images.square().mean(dim=(1, 2, 3))), 1)

    method = Views(zooms=(1.0,), rotations=4, outputs="regression")
    found = explain(Moments(), image[None], method)
    assert found["output_std"].max() < 1e-6
    np.testing.assert_allclose(found["output_mean"][0], Moments()(image[None])[0], rtol=1e-6)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"zooms": (0.0,)}, r"zooms has 0.0; choose factors from 0.1 to 10"),
        ({"rotations": 0}, "rotations is 0; 1 leaves the image as it is"),
        ({"border": "wrap"}, "border is 'wrap'; choose one of reflection, edge, zeros"),
        ({"resampling": "nearest"}, "resampling is 'nearest'; choose one of bilinear, bicubic"),
        ({"zooms": (1.0,), "rotations": 1, "flips": False}, "there are 1 views; a spread needs 2"),
        ({"zooms": ()}, "there are 0 views"),
        ({"outputs": "votes"}, "outputs is 'votes'; choose one of classification, vote_fractions"),
    ],
)
def test_parameters_without_meaning_are_refused(parameters, message):
    with pytest.raises(ValueError, match=message):
        Views(**parameters)
