from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from astropy.cosmology import FlatLambdaCDM

from training.galaxies import draw_galaxy
from training.layout import lay_out
from training.redshift import HUBBLE_CONSTANT, MATTER, move
from training.simulation import SURVEYS, simulate

A = SURVEYS["A"]
QUIET = replace(A, noise=(0.0, 0.0, 0.0), star_density=0.0)


@pytest.fixture
def galaxy():
    return draw_galaxy(0, 16.5, 4.0, np.random.default_rng(1))


@pytest.mark.parametrize("redshift", [0.02, 0.3, 2.0])
def test_size_and_flux_go_with_the_distances(galaxy, redshift):
    universe = FlatLambdaCDM(H0=HUBBLE_CONSTANT, Om0=MATTER)
    moved = move(galaxy, 0.05, redshift)
    angular = universe.angular_diameter_distance([0.05, redshift]).value
    assert moved.radius / galaxy.radius == pytest.approx(angular[0] / angular[1], rel=1e-9)
    modulus = universe.distmod([0.05, redshift]).value
    assert moved.magnitude - galaxy.magnitude == pytest.approx(modulus[1] - modulus[0], abs=1e-9)


def test_surface_brightness_falls_as_the_fourth_power(galaxy):
    def brightness(of):
        return 10 ** (-0.4 * of.magnitude) / of.radius**2

    near, far = move(galaxy, 0.05, 0.1), move(galaxy, 0.05, 0.7)
    assert brightness(far) / brightness(near) == pytest.approx((1.1 / 1.7) ** 4, rel=1e-9)


def test_pixels_of_a_smooth_galaxy_dim_as_the_fourth_power(galaxy):
    """The same ellipse on the sky, on pixels that grow with it, has only its brightness changed."""
    far = move(galaxy, 0.05, 0.4)
    seen = [
        lay_out(replace(of, centre=(0.0, 0.0)), ("r",), 65, 0.1 * of.radius).light[0]
        / (0.1 * of.radius) ** 2
        for of in (galaxy, far)
    ]
    np.testing.assert_allclose(seen[1] / seen[0], (1.05 / 1.4) ** 4, rtol=1e-4)


def test_a_galaxy_moved_to_where_it_is_stays_the_same_bit_for_bit():
    stay = replace(A, redshifts=(0.05, 0.05))
    there, moved = simulate(A, 3, range(3)), simulate(stay, 3, range(3))
    assert moved.images.tobytes() == there.images.tobytes()
    assert moved.columns["redshift"].tolist() == [0.05] * 3
    assert "redshift" not in there.columns


def test_another_redshift_is_another_view_of_the_same_galaxy():
    near, far = (
        simulate(replace(QUIET, redshifts=(z, z)), 3, range(40)).columns for z in (0.05, 0.3)
    )
    for name in ("id", "ra", "label", "axis_ratio", "position_angle", "seeing"):
        np.testing.assert_array_equal(near[name], far[name])
    assert (far["magnitude"] - near["magnitude"]).std() == pytest.approx(0.0, abs=1e-9)
    assert (far["half_light_radius"] < near["half_light_radius"]).all()


def test_redshifts_fill_their_range_and_do_not_depend_on_the_block():
    model = replace(A, size=32, redshifts=(0.05, 0.35))
    redshift = simulate(model, 1, range(400)).columns["redshift"]
    assert redshift.min() >= 0.05
    assert redshift.max() < 0.35
    assert redshift.mean() == pytest.approx(0.2, abs=0.02)
    assert simulate(model, 1, [7]).columns["redshift"][0] == redshift[7]


@pytest.mark.parametrize("redshifts", [(0.0, 0.1), (0.3, 0.1), (0.1, 30.0), (float("nan"), 1.0)])
def test_a_range_of_no_redshifts_is_refused(redshifts):
    with pytest.raises(ValueError, match=r"redshifts = .* must be a range in"):
        replace(A, redshifts=redshifts)


def test_a_reference_out_of_range_is_refused():
    with pytest.raises(ValueError, match=r"reference_redshift = 0\.0 must be in"):
        replace(A, reference_redshift=0.0)
