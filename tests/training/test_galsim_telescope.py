from __future__ import annotations

import sys
from dataclasses import replace

import galsim
import numpy as np
import pytest

from training.galaxies import Galaxy
from training.galsim_telescope import FINER, GalSimTelescope
from training.layout import lay_out
from training.simulation import SURVEYS, simulate

A = SURVEYS["A"]
QUIET = replace(A, noise=(0.0, 0.0, 0.0), star_density=0.0, size=65)
ROUND = GalSimTelescope(psf_shear=0.0, gain=1e9)
"""Its image has next to no noise."""


def test_as_much_light_arrives_as_without_galsim():
    plain = simulate(QUIET, 3, range(6)).images.sum(axis=(2, 3))
    seen = simulate(QUIET, 3, range(6), telescope=ROUND).images.sum(axis=(2, 3))
    # The wings of Kolmogorov's PSF are wider: some more is lost beyond the edge.
    np.testing.assert_allclose(seen, plain, rtol=0.03)


def test_a_disk_is_galsim_s_own_exponential():
    disk = Galaxy(0, 16.0, 4.0, 0.6, 30.0, 1.0, 0.7, (0.0, 0.0))
    light = lay_out(disk, ("r",), 129 * FINER, A.pixel_scale / FINER).light
    image = ROUND.expose(light, 65, A.pixel_scale, 1.3, np.random.default_rng(0))[0]
    profile = galsim.Exponential(half_light_radius=4.0 * np.sqrt(0.6), flux=10**2.6)
    # Rows grow to the north, columns to the west: the position angle is from +y towards -x.
    profile = profile.shear(q=0.6, beta=(90 + 30) * galsim.degrees)
    seen = galsim.Convolve(profile, galsim.Kolmogorov(fwhm=1.3))
    expected = seen.drawImage(nx=65, ny=65, scale=A.pixel_scale).array
    np.testing.assert_allclose(image, expected, atol=0.01 * expected.max())


def test_the_psf_is_sheared_from_object_to_object():
    point = np.zeros((1, 128, 128), np.float32)
    point[0, 64, 64] = 100.0

    def ellipticity(telescope, seed):
        image = telescope.expose(point, 48, 0.3, 1.2, np.random.default_rng(seed))[0]
        shape = galsim.hsm.FindAdaptiveMom(galsim.Image(image.astype(float)))
        return shape.observed_shape.g1, shape.observed_shape.g2

    assert ellipticity(ROUND, 0) == pytest.approx((0.0, 0.0), abs=2e-3)
    shears = np.array([ellipticity(GalSimTelescope(0.05, 1e9), seed) for seed in range(60)])
    np.testing.assert_allclose(shears.std(axis=0), 0.05, rtol=0.3)


def test_photons_are_counted():
    light = np.full((1, 80 * FINER, 80 * FINER), 0.5 / FINER**2, np.float32)
    image = GalSimTelescope(0.0, 100.0).expose(light, 24, 0.4, 1.3, np.random.default_rng(2))
    assert image.mean() == pytest.approx(0.5, rel=0.02)
    # A Poisson number of electrons: variance is mean over gain.
    assert image.var() == pytest.approx(0.5 / 100.0, rel=0.15)


def test_an_object_is_the_same_in_every_block_and_its_catalogue_is_that_of_the_plain_one():
    telescope = GalSimTelescope()
    whole, alone = (
        simulate(A, 3, range(3), telescope=telescope),
        simulate(A, 3, [2], telescope=telescope),
    )
    assert alone.images[0].tobytes() == whole.images[2].tobytes()
    plain = simulate(A, 3, range(3))
    for name, column in plain.columns.items():
        np.testing.assert_array_equal(whole.columns[name], column)
    np.testing.assert_array_equal(whole.bar_mask, plain.bar_mask)
    assert np.corrcoef(whole.images.ravel(), plain.images.ravel())[0, 1] > 0.97


def test_stars_shine_where_they_do_without_galsim():
    crowded = replace(QUIET, star_density=60.0, magnitudes=(25.0, 25.0), seeing=1.3)
    plain = simulate(crowded, 1, [0]).images
    seen = simulate(crowded, 1, [0], telescope=ROUND).images
    assert np.corrcoef(seen.ravel(), plain.ravel())[0, 1] > 0.99


def test_without_galsim_a_line_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "galsim", None)
    with pytest.raises(ValueError, match=r'pip install "occulta\[galsim\]"'):
        simulate(A, 0, [0], telescope=GalSimTelescope())


@pytest.mark.parametrize(
    ("change", "match"), [({"psf_shear": -0.1}, "psf_shear = -0.1"), ({"gain": 0.0}, "gain = 0.0")]
)
def test_a_meaningless_telescope_is_refused(change, match):
    with pytest.raises(ValueError, match=match):
        GalSimTelescope(**change)
