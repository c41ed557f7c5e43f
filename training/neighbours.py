"""Which objects are neighbours on the sky, as two images of one galaxy are."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from .splits import Rows


def sky_groups(
    ra: npt.NDArray[np.float64], dec: npt.NDArray[np.float64], separation: float
) -> Rows:
    """Return the group of each object: those closer than ``separation``, and theirs, and so on.

    Connected components on the sphere. Unit vectors are put into cubes as wide as the chord of the
    separation, so that neighbours are in touching cubes; neither poles nor 360 degrees matter.

    Parameters
    ----------
    ra, dec
        Places (N,), degrees.
    separation
        Greatest distance between neighbours, arcseconds.

    Returns
    -------
    Rows
        The lowest row in each object's group (N,).

    Raises
    ------
    ValueError
        If places are not finite, or the separation is not positive or more than 180 degrees.
    """
    if not 0.0 < separation <= 648_000.0:
        raise ValueError(f"split: separation {separation} arcsec; use more than 0, at most 648000")
    if not (np.isfinite(ra).all() and np.isfinite(dec).all()):
        row = int(np.flatnonzero(~(np.isfinite(ra) & np.isfinite(dec)))[0])
        raise ValueError(f"split: row {row} has no place on the sky; leave it out")
    alpha, delta = np.radians(np.asarray(ra, np.float64)), np.radians(np.asarray(dec, np.float64))
    xyz = np.stack(
        [np.cos(delta) * np.cos(alpha), np.cos(delta) * np.sin(alpha), np.sin(delta)], axis=1
    )
    chord = 2.0 * np.sin(np.radians(separation / 3600.0) / 2.0)
    parent = np.arange(len(xyz), dtype=np.int64)
    for first, second in _near_pairs(xyz, chord):
        parent = _joined(parent, first, second)
    return parent


_MOST_PAIRS = 2_000_000
"""Candidates that are looked at together."""


def _near_pairs(xyz: npt.NDArray[np.float64], chord: float) -> list[tuple[Rows, Rows]]:
    """Return pairs of rows not further apart than a chord, in several pieces."""
    # Not below 1e-6, so that a cube's three numbers fit into one integer.
    cube = np.floor((xyz + 1.0) / max(chord, 1e-6)).astype(np.int64) + 1
    span = int(cube.max(initial=0)) + 2
    key = (cube[:, 0] * span + cube[:, 1]) * span + cube[:, 2]
    order = np.argsort(key, kind="stable")
    ordered = key[order]
    found = []
    steps = [(x, y, z) for x in (-1, 0, 1) for y in (-1, 0, 1) for z in (-1, 0, 1)]
    for x, y, z in steps:
        offset = (x * span + y) * span + z
        if offset < 0:
            continue  # the other one of the two cubes sees this one
        low = np.searchsorted(ordered, key + offset, side="left")
        counts = np.searchsorted(ordered, key + offset, side="right") - low
        ends = np.cumsum(counts)
        start = 0
        while start < len(key):
            before = ends[start - 1] if start else 0
            stop = max(start + 1, int(np.searchsorted(ends, before + _MOST_PAIRS, side="right")))
            part = counts[start:stop]
            first = np.repeat(np.arange(start, stop), part)
            within = np.arange(len(first)) - np.repeat(np.cumsum(part) - part, part)
            second = order[np.repeat(low[start:stop], part) + within]
            near = np.sum((xyz[first] - xyz[second]) ** 2, axis=1) <= chord**2
            near &= first != second
            found.append((first[near], second[near]))
            start = stop
    return found


def _joined(parent: Rows, first: Rows, second: Rows) -> Rows:
    """Join the groups of pairs; each row's parent is the lowest row of its group."""
    while True:
        a, b = parent[first], parent[second]
        apart = a != b
        if not apart.any():
            return parent
        a, b = a[apart], b[apart]
        parent = parent.copy()
        np.minimum.at(parent, np.maximum(a, b), np.minimum(a, b))
        while (parent[parent] != parent).any():
            parent = parent[parent]
