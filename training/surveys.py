"""What a simulated survey is: pixels, seeing, noise, its footprint on the sky and its galaxies."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from types import MappingProxyType
from typing import TypedDict

import numpy as np
import numpy.typing as npt

CLASSES = ("smooth", "spiral", "barred", "edge_on")
"""The labels of simulated galaxies, in the order of a network's outputs."""

BAND_SLOPE: Mapping[str, float] = MappingProxyType(
    {"u": 2.2, "g": 1.0, "r": 0.0, "i": -0.5, "z": -0.9}
)
"""Magnitude in a band minus magnitude in r, for a galaxy component of g - r = 1."""

Degrees = npt.NDArray[np.float64]


@dataclass(frozen=True)
class SkyPatch:
    """A part of a footprint: all places between two meridians and two parallels.

    ``ra_min > ra_max`` means that the patch crosses RA 0.
    """

    ra_min: float
    """Western edge, degrees in [0, 360)."""
    ra_max: float
    """Eastern edge, degrees in (0, 360]."""
    dec_min: float
    """Southern edge, degrees."""
    dec_max: float
    """Northern edge, degrees."""

    def __post_init__(self) -> None:
        if not (0.0 <= self.ra_min < 360.0 and 0.0 < self.ra_max <= 360.0):
            raise ValueError(
                f"sky patch: ra {self.ra_min}..{self.ra_max} leaves [0, 360]; "
                "give both edges in degrees"
            )
        if not -90.0 <= self.dec_min < self.dec_max <= 90.0:
            raise ValueError(
                f"sky patch: dec {self.dec_min}..{self.dec_max} is empty or leaves [-90, 90]; "
                "give the southern edge first, in degrees"
            )

    @property
    def width(self) -> float:
        """Extent in right ascension, degrees; a patch of equal edges is the whole circle."""
        return (self.ra_max - self.ra_min) % 360.0 or 360.0

    @property
    def area(self) -> float:
        """Solid angle in square degrees."""
        sines = np.sin(np.deg2rad(self.dec_max)) - np.sin(np.deg2rad(self.dec_min))
        return float(self.width * np.rad2deg(sines))

    def place(self, across: float, upward: float) -> tuple[float, float]:
        """Return the (ra, dec) in degrees of two numbers in [0, 1), uniform in solid angle."""
        low, high = np.sin(np.deg2rad([self.dec_min, self.dec_max]))
        dec = float(np.rad2deg(np.arcsin(low + upward * (high - low))))
        return (self.ra_min + across * self.width) % 360.0, dec

    def contains(self, ra: Degrees, dec: Degrees) -> npt.NDArray[np.bool_]:
        """Return which positions (degrees) lie in the patch."""
        inside_ra = (ra - self.ra_min) % 360.0 <= self.width
        return inside_ra & (dec >= self.dec_min) & (dec <= self.dec_max)


@dataclass(frozen=True)
class SeeingPattern:
    """How seeing varies over the sky: its logarithm is a mean of plane waves on the sphere."""

    amplitude: float = 0.25
    """Largest departure of ln(seeing) from its median."""
    waves: tuple[tuple[float, float, float, float], ...] = (
        (3.1, 1.7, 4.3, 0.4),
        (-2.2, 4.6, 1.9, 2.1),
        (5.3, -2.9, 2.4, 4.4),
    )
    """Wave vectors (radians per unit length on the unit sphere) and phases: kx, ky, kz, phase."""

    def factor(self, ra: Degrees, dec: Degrees) -> Degrees:
        """Return seeing over median seeing at positions in degrees; smooth, and 1 in the median."""
        longitude, latitude = np.deg2rad(ra), np.deg2rad(dec)
        x = np.cos(latitude) * np.cos(longitude)
        y = np.cos(latitude) * np.sin(longitude)
        z = np.sin(latitude)
        total = np.zeros_like(x)
        for kx, ky, kz, phase in self.waves:
            total = total + np.sin(kx * x + ky * y + kz * z + phase)
        return np.asarray(np.exp(self.amplitude * total / max(len(self.waves), 1)))


@dataclass(frozen=True)
class SurveyModel:
    """All that defines a simulated survey; the objects follow from it, a seed and an index."""

    name: str
    """Prefix of the object ids, and a part of every object's random key."""
    pixel_scale: float
    """Arcsec per pixel."""
    seeing: float
    """Median full width at half maximum of the PSF, arcsec."""
    noise: tuple[float, ...]
    """Standard deviation of the sky per pixel and band, nanomaggies."""
    footprint: tuple[SkyPatch, ...]
    """Patches that the objects fill evenly; they should not overlap."""
    bands: tuple[str, ...] = ("g", "r", "z")
    """Filters, one channel each."""
    size: int = 64
    """Edge of an image, pixels."""
    seeing_pattern: SeeingPattern = SeeingPattern()
    """How the seeing varies over the sky."""
    seeing_scatter: float = 0.03
    """Standard deviation of ln(seeing) from object to object, on top of the pattern."""
    class_mix: tuple[float, ...] = (0.25, 0.25, 0.25, 0.25)
    """Share of each class, in the order of ``CLASSES``."""
    magnitudes: tuple[float, float] = (15.5, 17.5)
    """Brightest and faintest r magnitude."""
    radius: float = 4.2
    """Median half-light radius of a galaxy of magnitude 17, arcsec."""
    radius_slope: float = -0.12
    """Change of log10(radius) per magnitude: fainter galaxies are smaller."""
    star_density: float = 2.0
    """Mean number of foreground stars per square arcminute."""
    redshifts: tuple[float, float] | None = None
    """Nearest and farthest redshift, drawn evenly between; None leaves galaxies as they are drawn.
    The galaxies are the same, but smaller, fainter, and dimmer as (1 + z)^4."""
    reference_redshift: float = 0.05
    """Redshift at which galaxies have the magnitudes and radii above."""

    def __post_init__(self) -> None:
        for name in ("pixel_scale", "seeing", "radius"):
            self._require(getattr(self, name) > 0.0, name, "must be positive")
        for name in ("seeing_scatter", "star_density"):
            self._require(getattr(self, name) >= 0.0, name, "must not be negative")
        self._require(bool(self.name), "name", "is empty; it makes the object ids")
        self._require(self.size >= 16, "size", "is too small for a galaxy; use 16 pixels or more")
        known = ", ".join(BAND_SLOPE)
        all_known = bool(self.bands) and all(band in BAND_SLOPE for band in self.bands)
        self._require(all_known, "bands", f"must be some of: {known}")
        one_each = len(self.noise) == len(self.bands) and all(s >= 0.0 for s in self.noise)
        self._require(one_each, "noise", f"needs a number >= 0 for each of {self.bands}")
        self._require(bool(self.footprint), "footprint", "needs at least one patch of sky")
        shares = len(self.class_mix) == len(CLASSES) and min(self.class_mix) >= 0.0
        summed = shares and abs(sum(self.class_mix) - 1.0) < 1e-6
        self._require(summed, "class_mix", f"needs {len(CLASSES)} shares >= 0 that add up to 1")
        ordered = self.magnitudes[0] <= self.magnitudes[1]
        self._require(ordered, "magnitudes", "must name the brightest (smallest) first")
        if self.redshifts is not None:
            near, far = self.redshifts
            self._require(0.0 < near <= far <= 20.0, "redshifts", "must be a range in (0, 20]")
        seen = 0.0 < self.reference_redshift <= 20.0
        self._require(seen, "reference_redshift", "must be in (0, 20]")

    def _require(self, holds: bool, field: str, problem: str) -> None:
        if not holds:
            raise ValueError(
                f"survey model {self.name!r}: {field} = {getattr(self, field)!r} {problem}"
            )

    def seeing_at(self, ra: Degrees, dec: Degrees) -> Degrees:
        """Return the seeing (arcsec) that the sky pattern gives at positions in degrees."""
        return self.seeing * self.seeing_pattern.factor(ra, dec)

    def digest(self) -> str:
        """Return a sha256 over every field: the identity of the survey, but for the seed."""
        text = json.dumps(asdict(self), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()


class Preprocess(TypedDict):
    """How nanomaggies become network input: asinh(x / scale), then (x - mean) / std per band."""

    stretch: str
    scale: float
    mean: list[float]
    std: list[float]


SURVEYS: Mapping[str, SurveyModel] = MappingProxyType(
    {
        "A": SurveyModel(
            name="A",
            pixel_scale=0.396,
            seeing=1.3,
            noise=(0.015, 0.02, 0.036),
            footprint=(SkyPatch(120.0, 240.0, 0.0, 60.0), SkyPatch(320.0, 50.0, -2.0, 10.0)),
        ),
        "B": SurveyModel(
            name="B",
            pixel_scale=0.263,
            seeing=0.9,
            noise=(0.007, 0.009, 0.017),
            footprint=(SkyPatch(305.0, 90.0, -60.0, -25.0), SkyPatch(315.0, 45.0, -7.0, 5.0)),
            magnitudes=(15.7, 17.7),
            radius=3.6,
        ),
    }
)
"""A: shallow and blurred, in the manner of SDSS. B: deep and sharp, in the manner of DES."""

PREPROCESS: Preprocess = {
    "stretch": "asinh",
    "scale": 0.1,
    "mean": [0.18, 0.29, 0.42],
    "std": [0.41, 0.57, 0.77],
}
"""Measured on survey A; a network trained on A sees every survey through it."""
