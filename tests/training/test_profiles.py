from __future__ import annotations

import numpy as np
import pytest

from training.galaxies import Arms, Bar, Galaxy
from training.layout import lay_out
from training.profiles import ferrers_bar, raised_cosine_mean, sersic, sky_to_axes, spiral_ridge


def grid(extent: float, step: float):
    edge = np.arange(-extent, extent, step, dtype=np.float32) + np.float32(step / 2)
    return edge[None, :], edge[:, None]


def plain_galaxy(**changes):
    fields = {
        "label": 0,
        "magnitude": 17.0,
        "radius": 3.0,
        "axis_ratio": 0.5,
        "position_angle": 30.0,
        "index": 1.0,
        "colour": 0.7,
        "centre": (0.0, 0.0),
    }
    return Galaxy(**{**fields, **changes})


@pytest.mark.parametrize("index", [0.7, 1.0, 2.0])
@pytest.mark.parametrize("axis_ratio", [1.0, 0.4])
def test_half_light_radius_holds_half_of_unit_flux(index, axis_ratio):
    x, y = grid(40.0, 0.1)
    radius = np.hypot(x, y / axis_ratio)
    light = sersic(radius, 2.0, index, axis_ratio).astype(np.float64) * 0.1**2
    assert light.sum() == pytest.approx(1.0, abs=0.01)
    assert light[radius <= 2.0].sum() == pytest.approx(0.5, abs=0.01)


def test_bar_has_unit_flux_and_ends_at_its_length():
    x, y = grid(5.0, 0.02)
    light = ferrers_bar(x, y, 3.0, 1.0).astype(np.float64)
    assert light.sum() * 0.02**2 == pytest.approx(1.0, abs=1e-3)
    assert np.abs(np.broadcast_to(x, light.shape)[light > 0]).max() == pytest.approx(3.0, abs=0.1)


def test_spiral_arm_keeps_its_pitch_angle():
    """Along a logarithmic spiral of the same pitch, the ridge is 1 at every radius."""
    radius = np.linspace(0.3, 3.0, 50, dtype=np.float32)
    angle = 0.7 + np.log(radius) / np.tan(np.deg2rad(20.0))
    x, y = radius * np.cos(angle), radius * np.sin(angle)
    on = spiral_ridge(x, y, count=2, pitch=20.0, phase=0.7, sharpness=2.0)
    between = spiral_ridge(-y, x, count=2, pitch=20.0, phase=0.7, sharpness=2.0)
    np.testing.assert_allclose(on, 1.0, atol=0.01)
    np.testing.assert_allclose(between, 0.0, atol=0.01)


@pytest.mark.parametrize("sharpness", [1.0, 1.7, 3.0])
def test_mean_of_the_raised_cosine(sharpness):
    angle = np.linspace(0.0, 2.0 * np.pi, 10_000, endpoint=False)
    mean = (((1.0 + np.cos(angle)) / 2.0) ** sharpness).mean()
    assert raised_cosine_mean(sharpness) == pytest.approx(mean, rel=1e-6)


def test_position_angle_runs_from_north_through_east():
    north, east = np.float32(1.0), np.float32(-1.0)  # +y is north, -x is east
    nothing = np.zeros(1, dtype=np.float32)
    along, across = sky_to_axes(nothing, nothing + north, 0.0)
    assert (along[0], across[0]) == pytest.approx((1.0, 0.0), abs=1e-6)
    along, across = sky_to_axes(nothing + east, nothing, 90.0)
    assert (along[0], across[0]) == pytest.approx((1.0, 0.0), abs=1e-6)


@pytest.mark.parametrize("index", [1.0, 2.5, 4.0])
def test_layout_has_the_flux_of_the_magnitude(index):
    scene = lay_out(plain_galaxy(index=index, radius=1.5), ("r",), 192, 0.4)
    assert scene.light.sum() == pytest.approx(10 ** (0.4 * 5.5), rel=0.04)


def test_edge_on_disk_has_its_axis_ratio_and_position_angle():
    galaxy = plain_galaxy(axis_ratio=0.2, position_angle=30.0)
    light = lay_out(galaxy, ("r",), 256, 0.2).light[0].astype(np.float64)
    edge = np.arange(256) - 127.5
    x, y = edge[None, :], edge[:, None]
    moments = np.array(
        [
            [(light * x * x).sum(), (light * x * y).sum()],
            [(light * x * y).sum(), (light * y * y).sum()],
        ]
    )
    values, vectors = np.linalg.eigh(moments)
    assert np.sqrt(values[0] / values[1]) == pytest.approx(0.2, abs=0.02)
    major = vectors[:, 1]
    assert np.rad2deg(np.arctan2(-major[0], major[1])) % 180.0 == pytest.approx(30.0, abs=1.0)


@pytest.mark.parametrize("angle", [0.0, 40.0, 130.0])
def test_bar_mask_lies_along_the_bar_s_position_angle_and_holds_its_light(angle):
    bar = Bar(fraction=0.3, length=1.0, width=0.25, angle=angle)
    galaxy = plain_galaxy(bar=bar, axis_ratio=0.7, position_angle=65.0)
    scene = lay_out(galaxy, ("r",), 128, 0.1)
    rows, columns = np.nonzero(scene.bar_mask)
    spread = np.cov(np.stack([columns - 63.5, rows - 63.5]))
    major = np.linalg.eigh(spread)[1][:, 1]
    seen = np.rad2deg(np.arctan2(-major[0], major[1]))
    # Projection shears the ellipse a little, so that its axis is not quite the bar's.
    away = (seen - galaxy.bar_position_angle + 90.0) % 180.0 - 90.0
    assert abs(away) < 4.0
    without = lay_out(plain_galaxy(axis_ratio=0.7, position_angle=65.0), ("r",), 128, 0.1)
    excess = scene.light[0] - 0.7 * without.light[0]
    assert excess[~scene.bar_mask].max() < 0.01 * excess.max()


def test_arms_move_light_on_to_the_arm_mask_without_adding_any():
    arms = Arms(contrast=1.0, count=2, pitch=20.0, phase=0.3, sharpness=2.0)
    plain = lay_out(plain_galaxy(axis_ratio=1.0), ("g", "r"), 192, 0.2).light
    scene = lay_out(plain_galaxy(axis_ratio=1.0, arms=arms), ("g", "r"), 192, 0.2)
    ratio = scene.light / plain
    assert ratio[1][scene.arm_mask].mean() > 1.2
    assert scene.light[1].sum() == pytest.approx(plain[1].sum(), rel=0.02)
    assert ratio[0][scene.arm_mask].mean() > ratio[1][scene.arm_mask].mean()  # arms are blue
