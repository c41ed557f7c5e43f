"""HEALPix cells as polygons in the Mollweide projection, east to the left.

The projection is done here, not by matplotlib's geographic axes, so that a cell that straddles the
edge of the map is drawn at both ends.
"""

from __future__ import annotations

import numpy as np
from cdshealpix.nested import healpix_to_lonlat, vertices
from numpy.typing import NDArray

from .healpix import Floats

EQUATOR = 2.0 * float(np.sqrt(2.0))
"""Half the width of the map."""
POLE = float(np.sqrt(2.0))
"""Half its height."""

_SIDE_POINTS = 3
"""Points per side of a cell; its sides are curved."""


def project(offset: Floats, dec: Floats) -> tuple[Floats, Floats]:
    """Project positions on the sphere.

    Parameters
    ----------
    offset : right ascension minus that of the map's middle, degrees in [-180, 180]
    dec : declination, degrees

    Returns
    -------
    x, y : x in [-EQUATOR, EQUATOR] with east to the left, y in [-POLE, POLE]

    Notes
    -----
    2t + sin 2t = pi sin(dec), solved by Newton's steps (Snyder 1987, p. 251).
    """
    phi = np.deg2rad(dec)
    theta = phi.copy()
    near_pole = np.abs(phi) > 1.57
    for _ in range(30):
        slope = 2.0 + 2.0 * np.cos(2.0 * theta)
        step = (2.0 * theta + np.sin(2.0 * theta) - np.pi * np.sin(phi)) / np.maximum(slope, 1e-9)
        theta = np.where(near_pole, phi, np.clip(theta - step, -np.pi / 2, np.pi / 2))
    x = -EQUATOR * offset / 180.0 * np.cos(theta)
    return x, POLE * np.sin(theta)


def central_meridian(ra: Floats) -> float:
    """Choose the middle of the map, in steps of 30 degrees, so that its edge cuts few cells.

    Parameters
    ----------
    ra : right ascensions of the populated cells, degrees

    Returns
    -------
    The multiple of 30 degrees nearest to the point opposite the widest empty gap.
    """
    if not ra.size:
        return 0.0
    ordered = np.unique(ra)
    gaps = np.diff(np.append(ordered, ordered[0] + 360.0))
    widest = int(gaps.argmax())
    opposite = ordered[widest] + gaps[widest] / 2.0 + 180.0
    return float(np.round(opposite / 30.0) * 30.0 % 360.0)


def cell_polygons(
    cells: NDArray[np.int64], level: int, centre: float
) -> tuple[Floats, NDArray[np.int64]]:
    """Return the cells' outlines on the map.

    Parameters
    ----------
    cells : (C,) nested cell numbers
    level : HEALPix order
    centre : right ascension of the middle of the map, degrees

    Returns
    -------
    polygons : (P, points, 2), a cell that straddles the edge gives two
    owner : (P,) position in `cells` of each polygon's cell
    """
    if not len(cells):
        return np.empty((0, 4 * _SIDE_POINTS, 2)), np.empty(0, np.int64)
    numbers = cells.astype(np.uint64)
    lon, lat = vertices(numbers, level, step=_SIDE_POINTS, num_threads=1)
    middle = healpix_to_lonlat(numbers, level, num_threads=1)[0].deg[:, None]
    # A pole has every longitude; give it that of the cell, so that it widens none.
    ra = np.where(np.abs(lat.deg) > 90.0 - 1e-9, middle, lon.deg)
    middle = (middle - centre + 180.0) % 360.0 - 180.0
    offset = middle + (ra - centre - middle + 180.0) % 360.0 - 180.0
    owner = np.arange(len(cells))
    east, west = (offset > 180.0).any(axis=1), (offset < -180.0).any(axis=1)
    offset = np.concatenate([offset, offset[east] - 360.0, offset[west] + 360.0])
    dec = np.concatenate([lat.deg, lat.deg[east], lat.deg[west]])
    owner = np.concatenate([owner, owner[east], owner[west]])
    x, y = project(np.clip(offset, -180.0, 180.0), dec)
    return np.stack([x, y], axis=-1), owner
