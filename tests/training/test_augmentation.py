from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import ndimage

from training.augmentation import NO_AUGMENTATION, Augmentation, augment, blur


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def only(**changes):
    """Return an augmentation that does one thing, to every image."""
    return Augmentation(
        **{"rotation": 0.0, "shift": 0.0, "zoom": 1.0, "flip": False, "share": 1.0, **changes}
    )


@pytest.fixture
def blob():
    """Make an off-centre Gaussian blob of width 2.5 px, (64, 1, 33, 33), at (x, y) = (+6, 0)."""
    edge = torch.arange(33.0) - 16
    image = torch.exp(-((edge[None, :] - 6) ** 2 + edge[:, None] ** 2) / (2 * 2.5**2))
    return image.expand(64, 1, 33, 33).clone()


def centres(images):
    edge = torch.arange(33.0) - 16
    total = images.sum((1, 2, 3))
    x = (images[:, 0] * edge).sum((1, 2)) / total
    y = (images[:, 0] * edge[:, None]).sum((1, 2)) / total
    return x, y, total


def test_the_identity_gives_back_the_input_itself():
    images = torch.randn(3, 2, 16, 16)
    assert augment(images, NO_AUGMENTATION, generator()) is images
    assert augment(images, Augmentation(share=0.0, flip=False), generator()) is images


def test_views_follow_the_generator_alone():
    images = torch.randn(4, 2, 16, 16)
    first = augment(images, Augmentation(), generator(1))
    assert torch.equal(first, augment(images, Augmentation(), generator(1)))
    assert not torch.equal(first, augment(images, Augmentation(), generator(2)))


def test_rotation_keeps_distance_from_the_centre_and_reaches_every_angle(blob):
    x, y, _ = centres(augment(blob, only(rotation=360.0, border="zeros"), generator()))
    torch.testing.assert_close(torch.hypot(x, y), torch.full((64,), 6.0), atol=0.1, rtol=0.0)
    quadrants = torch.bincount((torch.atan2(y, x) / (torch.pi / 2)).floor().long() + 2)
    assert (quadrants > 5).all()


def test_a_small_rotation_stays_small(blob):
    x, y, _ = centres(augment(blob, only(rotation=40.0, border="zeros"), generator()))
    degrees = torch.rad2deg(torch.atan2(y, x))
    assert degrees.abs().max() < 20.5
    assert degrees.abs().max() > 15.0


def test_shift_is_uniform_up_to_its_limit(blob):
    x, y, _ = centres(augment(blob, only(shift=3.0, border="zeros"), generator()))
    for moved in (x - 6.0, y):
        assert moved.abs().max() < 3.05
        assert moved.max() > 2.0
        assert moved.min() < -2.0


def test_zoom_is_log_uniform(blob):
    x, _, total = centres(augment(blob, only(zoom=1.5, border="zeros"), generator()))
    logs = torch.log(x / 6.0)
    limit = float(np.log(1.5))
    assert logs.abs().max() < limit + 0.02
    assert logs.min() < -0.6 * limit
    assert logs.max() > 0.6 * limit
    # Surface brightness is kept, so the flux grows with the area.
    area = torch.exp(2 * logs)
    torch.testing.assert_close(total / (2 * np.pi * 2.5**2), area, rtol=0.03, atol=0.0)


def test_half_of_the_images_are_mirrored(blob):
    x, _, _ = centres(augment(blob, only(flip=True), generator()))
    torch.testing.assert_close(x.abs(), torch.full((64,), 6.0), atol=0.01, rtol=0.0)
    assert 20 < (x < 0).sum() < 44


def test_the_share_that_does_not_move_is_unchanged(blob):
    views = augment(blob, Augmentation(share=0.5, flip=False), generator())
    still = ((views - blob).abs().amax((1, 2, 3)) < 1e-4).sum()
    assert 20 < still < 44


def test_a_rectangular_image_is_rotated_without_shear():
    """Distances stay what they were in pixels, although grid coordinates are relative."""
    x, y = torch.arange(64.0) - 31.5, torch.arange(32.0) - 15.5
    image = torch.exp(-((x[None, :] - 6) ** 2 + y[:, None] ** 2) / 8.0).expand(32, 1, 32, 64)
    views = augment(image, only(rotation=360.0, border="zeros"), generator())
    total = views.sum((1, 2, 3))
    cx = (views[:, 0] * x).sum((1, 2)) / total
    cy = (views[:, 0] * y[:, None]).sum((1, 2)) / total
    torch.testing.assert_close(torch.hypot(cx, cy), torch.full((32,), 6.0), atol=0.1, rtol=0.0)


def test_borders():
    ones = torch.ones(16, 1, 16, 16)
    moving = {"shift": 6.0}
    reflected = augment(ones, only(**moving, border="reflection"), generator())
    torch.testing.assert_close(reflected, ones)
    zeroed = augment(ones, only(**moving, border="zeros"), generator())
    assert zeroed.amin((1, 2, 3)).max() < 0.5


def test_a_rotated_sky_has_no_border():
    """White noise that is rotated by any angle is as rough at edges and corners as inside."""
    sky = torch.randn(256, 1, 32, 32, generator=generator(3))
    still = augment(sky, only(rotation=0.0, shift=0.5), generator())
    views = augment(sky, only(rotation=360.0), generator())
    spread = views.var(0)[0]
    edge = torch.cat([spread[0], spread[-1], spread[:, 0], spread[:, -1]])
    corner = torch.stack([spread[:4, :4], spread[-4:, :4], spread[:4, -4:], spread[-4:, -4:]])
    inside = spread[8:24, 8:24].mean()
    # Variances of 256 images have a relative error of 0.09 each, of these means less than 0.03.
    assert float(edge.mean() / inside) == pytest.approx(1.0, abs=0.1)
    assert float(corner.mean() / inside) == pytest.approx(1.0, abs=0.1)
    assert float(inside) == pytest.approx(float(still.var(0)[0, 8:24, 8:24].mean()), rel=0.15)
    zeros = augment(sky, only(rotation=360.0, border="zeros"), generator()).var(0)[0]
    assert float(zeros[:4, :4].mean() / zeros[8:24, 8:24].mean()) < 0.6  # the test can see a border


def test_a_quarter_turn_is_a_rotation_of_the_pixels():
    """The widest angle that can be forced: all draws of a rotation by 90 degrees at most."""
    image = torch.randn(512, 1, 9, 9, generator=generator(1))
    views = augment(image, only(rotation=180.0), generator(2))
    turns = torch.stack([torch.rot90(image, k, (2, 3)) for k in (-1, 1)])
    nearest = (views - turns).abs().amax((2, 3, 4)).min()
    assert nearest < 0.3  # of 512 angles some are within half a degree of a quarter turn


def fwhm_of(images):
    edge = torch.arange(33.0) - 16
    total = images[:, 0].sum((1, 2))
    variance = (images[:, 0] * (edge[None, :] ** 2)).sum((1, 2)) / total
    return torch.sqrt(variance * 8 * np.log(2.0)), total


def test_a_point_becomes_a_gaussian_of_the_width_asked_for():
    points = torch.zeros(4, 2, 33, 33)
    points[:, :, 16, 16] = 1.0
    asked = torch.tensor([0.0, 2.0, 3.0, 4.5])
    blurred = blur(points, asked, 4.5)
    torch.testing.assert_close(blurred[0], points[0])
    found, total = fwhm_of(blurred)
    torch.testing.assert_close(found[1:], asked[1:], rtol=0.02, atol=0.0)
    torch.testing.assert_close(total, torch.ones(4))
    torch.testing.assert_close(blurred, blurred.transpose(2, 3))
    torch.testing.assert_close(blurred[:, 0], blurred[:, 1])


def test_blur_is_scipy_s():
    images = torch.randn(3, 2, 20, 24, generator=generator(), dtype=torch.float64)
    blurred = blur(images, torch.tensor([1.0, 2.0, 3.0]), 3.0)
    reach = int(np.ceil(9.0 / np.sqrt(8 * np.log(2.0))))
    for n, fwhm in enumerate((1.0, 2.0, 3.0)):
        sigma = fwhm / np.sqrt(8 * np.log(2.0))
        expected = ndimage.gaussian_filter(
            images[n].numpy(), sigma, mode="mirror", axes=(1, 2), radius=reach
        )
        np.testing.assert_allclose(blurred[n].numpy(), expected, atol=1e-9)


def test_blur_wider_than_the_image_is_cut():
    ones = torch.ones(2, 1, 5, 5)
    torch.testing.assert_close(blur(ones, torch.tensor([20.0, 1.0]), 20.0), ones)


def test_the_width_of_the_psf_is_uniform_in_its_range():
    points = torch.zeros(128, 1, 33, 33)
    points[:, :, 16, 16] = 1.0
    found, _ = fwhm_of(augment(points, only(blur=(2.0, 4.0)), generator()))
    assert 1.95 < found.min() < 2.2
    assert 3.8 < found.max() < 4.05
    assert float(found.mean()) == pytest.approx(3.0, abs=0.15)


def test_brightness_adds_one_normal_number_to_all_of_an_image():
    images = torch.randn(2000, 2, 4, 4, generator=generator(4))
    added = augment(images, only(brightness=0.5), generator()) - images
    torch.testing.assert_close(added, added[:, :1, :1, :1].expand_as(added), atol=1e-6, rtol=0.0)
    assert float(added[:, 0, 0, 0].std()) == pytest.approx(0.5, rel=0.06)
    assert float(added.mean()) == pytest.approx(0.0, abs=0.05)


def test_noise_is_white_and_its_level_uniform():
    noise = augment(torch.zeros(400, 1, 24, 24), only(noise=2.0), generator())
    level = noise.std((1, 2, 3))
    assert float(level.mean()) == pytest.approx(1.0, abs=0.1)
    assert level.max() < 2.2
    assert level.min() < 0.1
    neighbours = (noise[..., 1:] * noise[..., :-1]).mean() / noise.square().mean()
    assert abs(float(neighbours)) < 0.02


def test_a_share_of_a_batch_gets_the_views_of_the_whole():
    images = torch.randn(10, 2, 16, 16, generator=generator(5))
    every = Augmentation(blur=(0.0, 2.0), brightness=0.3)
    whole = augment(images, every, generator(6))
    part = augment(images[3:7], every, generator(6), batch=10, first=3)
    torch.testing.assert_close(part, whole[3:7])
    noisy = [augment(images[n : n + 1], only(noise=1.0), generator(6), 10, n) for n in (0, 1)]
    assert not torch.allclose(noisy[0] - images[0], noisy[1] - images[1])


def test_images_that_do_not_change_stay_sharp_and_clean():
    images = torch.randn(200, 1, 8, 8, generator=generator(7))
    every = only(share=0.5, blur=(1.0, 2.0), brightness=1.0, noise=1.0)
    same = ((augment(images, every, generator()) - images).abs().amax((1, 2, 3)) < 1e-6).sum()
    assert 75 < same < 125


@pytest.mark.parametrize(
    "change",
    [
        {"rotation": 400.0},
        {"shift": -1.0},
        {"zoom": 0.5},
        {"share": 1.5},
        {"border": "wrap"},
        {"blur": (2.0, 1.0)},
        {"brightness": -1.0},
        {"noise": -1.0},
    ],
)
def test_impossible_settings_are_refused(change):
    with pytest.raises(ValueError, match=f"augmentation: {next(iter(change))} = .* is invalid"):
        Augmentation(**change)
