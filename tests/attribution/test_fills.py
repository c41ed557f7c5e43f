"""What stands in place of an image: analytic cases, and scipy's filter.

Shape suffixes: C channels, H height, W width.
"""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage, stats

from attribution.batch import Needs
from attribution.explain import make_batch
from attribution.fills import blur, canvas, check_fill, fill_attributes, sky

reproducibly = settings(deadline=None, derandomize=True, max_examples=40)
WORDS = ("image_mean", "blur", "sky_noise")


def drawn(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def batch_of(images, ids=None, seed=0):
    ids = [str(n) for n in range(len(images))] if ids is None else ids
    return make_batch(torch.nn.Identity(), images, ids, len(images), seed=seed, needs=Needs())


def test_numbers_and_means_fill_whole_channels():
    images = drawn(2, 3, 5, 4)
    batch = batch_of(images)

    def filled(fill, n=1):
        return canvas(batch, n, fill, blur_sigma=1.0).expand(3, 5, 4)

    assert (filled(-0.5) == -0.5).all()
    assert torch.equal(filled((1.0, 2.0, 3.0))[:, 4, 3], torch.tensor([1.0, 2.0, 3.0]).double())
    expected = images[1].numpy().mean(axis=(1, 2))
    np.testing.assert_allclose(filled("image_mean")[:, 2, 2], expected, rtol=1e-14)


@pytest.mark.parametrize("fill", [0.25, *WORDS])
def test_a_canvas_is_in_the_images_type_and_follows_from_its_object_alone(fill):
    images = drawn(3, 2, 6, 5).float()
    found = canvas(batch_of(images), 1, fill, blur_sigma=1.5)
    assert found.dtype == torch.float32
    assert torch.broadcast_shapes(found.shape, images[1].shape) == images[1].shape
    alone = canvas(batch_of(images[1:2], ids=["1"]), 0, fill, blur_sigma=1.5)
    assert torch.equal(found, alone)


@reproducibly
@given(st.integers(1, 20), st.integers(1, 20), st.floats(0.1, 12))
def test_the_blur_is_scipys(height, width, sigma):
    image = drawn(2, height, width, seed=height)
    expected = ndimage.gaussian_filter(
        image.numpy(), (0, sigma, sigma), mode="reflect", radius=math.ceil(4 * sigma)
    )
    np.testing.assert_allclose(blur(image, sigma), expected, rtol=0, atol=1e-13)


def test_the_blur_keeps_the_sum_and_a_point_becomes_a_gaussian():
    image = torch.zeros(1, 81, 81, dtype=torch.float64)
    image[0, 40, 40] = 1
    found = blur(image, 5.0)[0]
    assert found.sum() == pytest.approx(1, abs=1e-13)
    y, x = np.mgrid[-40:41, -40:41]
    gauss = np.exp(-(x**2 + y**2) / 50) / (50 * math.pi)
    # Cutting it off at 4 sigma moves 1e-4 of it.
    np.testing.assert_allclose(found, gauss, atol=2e-4 * gauss.max())
    assert blur(drawn(1, 9, 7), 3.0).sum() == pytest.approx(float(drawn(1, 9, 7).sum()), abs=1e-12)


def test_a_narrow_blur_changes_nothing_and_a_wide_one_leaves_the_mean():
    image = drawn(2, 8, 8)
    np.testing.assert_allclose(blur(image, 0.1), image, atol=1e-12)
    mean = image.mean(dim=(1, 2), keepdim=True).expand_as(image)
    np.testing.assert_allclose(blur(image, 100.0), mean, atol=1e-5)


def test_the_sky_is_measured_in_the_frame_and_not_in_the_galaxy():
    image = torch.full((2, 40, 48), 1e6, dtype=torch.float64)
    frame = torch.ones(40, 48, dtype=torch.bool)
    frame[2:38, 2:46] = False
    # 1, 2, 3, 4 and 10 in equal numbers: median 3, absolute deviations 2, 1, 0, 1, 7.
    values = torch.tensor([1.0, 2, 3, 4, 10], dtype=torch.float64).repeat(67)
    image[0, frame] = torch.cat((values, torch.tensor([3.0])))
    image[1, frame] = -7
    location, scale = sky(image)
    assert location.tolist() == [3, -7]
    np.testing.assert_allclose(scale, [1 / stats.norm.ppf(0.75), 0], rtol=1e-12)


def test_a_star_in_the_frame_hardly_moves_the_sky():
    image = 0.2 * drawn(1, 64, 64) + 5
    image[0, :4, 10:18] += 100
    location, scale = sky(image)
    # 32 of 960 pixels: the median moves by 0.04 sigma, and its own error is 0.04.
    assert location[0] == pytest.approx(5, abs=0.03)
    assert scale[0] == pytest.approx(0.2, rel=0.12)


def test_sky_noise_has_the_sky_s_level_and_spread():
    image = drawn(2, 96, 96) * torch.tensor([0.5, 3.0])[:, None, None] + 2
    image[:, 30:60, 30:60] += 50
    batch = batch_of(image[None])
    location, scale = sky(image)
    noise = canvas(batch, 0, "sky_noise", blur_sigma=1.0)
    assert noise.shape == image.shape
    for c in range(2):
        standard = (noise[c] - location[c]) / scale[c]
        assert stats.kstest(standard.numpy().ravel(), "norm").pvalue > 0.01
    correlation = np.corrcoef(noise[0].ravel(), noise[1].ravel())[0, 1]
    assert abs(correlation) < 4 / 96


def test_noise_is_drawn_by_seed_object_and_draw():
    images = drawn(1, 2, 8, 8).expand(2, -1, -1, -1).contiguous()

    def noise(ids=("a", "b"), seed=0, n=0, draw=0):
        return canvas(batch_of(images, ids, seed), n, "sky_noise", blur_sigma=1.0, draw=draw)

    same = noise()
    assert torch.equal(noise(), same)
    assert torch.equal(noise(ids=("b", "a"), n=1), same)
    for other in (noise(n=1), noise(seed=1), noise(draw=1)):
        assert (other != same).all()


@pytest.mark.parametrize("fill", [0, -1.5, (0.0, 1.0), *WORDS])
def test_fills_with_a_meaning_pass(fill):
    check_fill("fill", fill, WORDS, 8.0)


@pytest.mark.parametrize(
    "fill", [math.nan, math.inf, (0.0, math.nan), (), "white", None, ("blur",)]
)
def test_fills_without_meaning_are_refused(fill):
    with pytest.raises(
        ValueError, match=r"fill is .*; choose a finite number, one per channel, or"
    ):
        check_fill("fill", fill, WORDS, 8.0)


@pytest.mark.parametrize("sigma", [0.0, -1.0, math.nan, 1e6])
def test_a_blur_without_width_is_refused(sigma):
    with pytest.raises(ValueError, match=r"blur_sigma is .*; choose 0\.1 to 1000 pixels"):
        check_fill("fill", "blur", WORDS, sigma)


def test_attributes_say_what_was_filled_in():
    assert fill_attributes("fill", (1.0, 2.0), 8.0) == {"fill": [1.0, 2.0]}
    assert fill_attributes("baseline", "blur", 3.0) == {"baseline": "blur", "blur_sigma": 3.0}
    assert fill_attributes("fill", "sky_noise", 3.0) == {"fill": "sky_noise"}
