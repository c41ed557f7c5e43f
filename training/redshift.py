"""Galaxies moved to other redshifts: smaller, fainter, and dimmer as (1 + z)^4 (Tolman 1930)."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import cache
from typing import Any

from .galaxies import Galaxy

HUBBLE_CONSTANT, MATTER = 70.0, 0.3
"""Of the flat universe in which galaxies move: km/s/Mpc, and the share of matter."""


def move(galaxy: Galaxy, origin: float, redshift: float) -> Galaxy:
    """Return a galaxy of one redshift as it would be seen at another.

    Its angular size goes as the inverse of the angular diameter distance, its flux as that of the
    squared luminosity distance (Hogg 1999, sections 6 and 7), so surface brightness falls as
    (1 + z)^4. Colours stay: bands are not shifted, and the galaxy is not younger.

    Parameters
    ----------
    galaxy
        As seen at the redshift ``origin``.
    origin, redshift
        Above 0.
    """
    distances = _comoving_distance(redshift) / _comoving_distance(origin)
    stretch = (1.0 + redshift) / (1.0 + origin)
    return replace(
        galaxy,
        radius=galaxy.radius * stretch / distances,
        magnitude=galaxy.magnitude + 5.0 * math.log10(distances * stretch),
    )


def _comoving_distance(redshift: float) -> float:
    return float(_universe().comoving_distance(redshift).value)


@cache
def _universe() -> Any:
    # A second to import, and seldom needed.
    from astropy.cosmology import FlatLambdaCDM  # noqa: PLC0415

    return FlatLambdaCDM(H0=HUBBLE_CONSTANT, Om0=MATTER)
