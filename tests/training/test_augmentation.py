from __future__ import annotations

import numpy as np
import pytest
import torch

from training.augmentation import NO_AUGMENTATION, Augmentation, augment


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


@pytest.mark.parametrize(
    "change",
    [{"rotation": 400.0}, {"shift": -1.0}, {"zoom": 0.5}, {"share": 1.5}, {"border": "wrap"}],
)
def test_impossible_settings_are_refused(change):
    with pytest.raises(ValueError, match=f"augmentation: {next(iter(change))} = .* is invalid"):
        Augmentation(**change)
