"""A telescope as GalSim models it (Rowe et al. 2015); needs the extra ``galsim``."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import Any

import numpy as np

from .profiles import Floats

FINER = 2
"""Pixels of the light that the telescope looks at, in each pixel of its own."""


@dataclass(frozen=True)
class GalSimTelescope:
    """What images have in GalSim's way: turbulent air, an elliptical PSF, counted photons.

    The PSF is that of Kolmogorov turbulence, sheared from object to object, light is integrated
    over pixels, and its photons are counted on top of the sky's noise.
    """

    psf_shear: float = 0.03
    """Standard deviation of each component (g1, g2) of the PSF's shear."""
    gain: float = 900.0
    """Electrons per nanomaggy: few of them make the light itself noisy."""

    def __post_init__(self) -> None:
        if not 0.0 <= self.psf_shear <= 0.2:
            raise ValueError(f"galsim: psf_shear = {self.psf_shear!r} is unusual; use 0 to 0.2")
        if not self.gain > 0.0:
            raise ValueError(f"galsim: gain = {self.gain!r} must be positive")

    def expose(
        self,
        light: Floats,
        size: int,
        pixel_scale: float,
        fwhm: float,
        random: np.random.Generator,
    ) -> Floats:
        """Return an image of light, with the noise of its own photons.

        Parameters
        ----------
        light
            (bands, y, x) above the atmosphere, nanomaggies, in `FINER` pixels to a pixel.
        size
            Edge of the image, pixels, around the middle of the light.
        pixel_scale
            Arcsec per pixel of the image.
        fwhm
            Of the PSF, arcsec.
        random
            Source of the shear and of the photons.
        """
        galsim = import_galsim()
        # GalSim refuses shears of 1 and more.
        g1, g2 = np.clip(random.normal(0.0, self.psf_shear, 2), -0.5, 0.5)
        psf = galsim.Kolmogorov(fwhm=fwhm).shear(g1=g1, g2=g2)
        image = np.empty((len(light), size, size))
        for band, values in enumerate(light):
            scene = galsim.InterpolatedImage(
                galsim.Image(values.astype(np.float64), scale=pixel_scale / FINER),
                # These take long, and light that is laid out on pixels has no finer detail.
                calculate_stepk=False,
                calculate_maxk=False,
            )
            seen = galsim.Convolve(scene, psf).drawImage(nx=size, ny=size, scale=pixel_scale)
            image[band] = seen.array
        electrons = random.poisson(np.maximum(image, 0.0) * self.gain)
        return np.asarray(electrons / self.gain, dtype=np.float32)


def import_galsim() -> Any:
    """Return GalSim.

    Raises
    ------
    ValueError
        If it is not installed.
    """
    try:
        return importlib.import_module("galsim")
    except ImportError as error:
        raise ValueError(
            'galsim is not installed; install it: pip install "occulta[galsim]"'
        ) from error
