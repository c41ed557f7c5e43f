"""Means per HEALPix cell: nested numbering, ICRS, on the sphere.

Sums of different blocks of objects merge into the sums of their union, so memory grows with the
cells that have objects and not with the objects.

Array suffixes: Q mapped quantities, C populated cells, n objects of a block.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import astropy.units as u
import numpy as np
from astropy.coordinates import Latitude, Longitude
from cdshealpix.nested import healpix_to_lonlat, lonlat_to_healpix
from numpy.typing import NDArray

from .objects import ACCURACY, UNCERTAINTIES, ObjectBlock, refuse_holes
from .source import RunSource

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class SkySums:
    """Sums over the objects of each populated cell."""

    cells: NDArray[np.int64]
    """(C,) cell numbers, rising."""
    count: NDArray[np.int64]
    """(C,) objects."""
    number: Floats
    """(Q, C) objects for which the quantity is known."""
    total: Floats
    """(Q, C) sum of the quantity."""
    square: Floats
    """(Q, C) sum of its square."""


@dataclass(frozen=True)
class CellMeans:
    """One quantity on the populated cells; NaN where too few objects know it."""

    mean: Floats
    """(C,)"""
    standard_error: Floats
    """(C,) sample standard deviation / sqrt(number); NaN for a single object."""
    number: NDArray[np.int64]
    """(C,) objects that went into the mean."""


@dataclass(frozen=True)
class SkyTable:
    """The populated cells of the sky."""

    nside: int
    """Resolution."""
    cells: NDArray[np.int64]
    """(C,) nested cell numbers, rising."""
    count: NDArray[np.int64]
    """(C,) objects, never masked."""
    means: Mapping[str, CellMeans]
    """By quantity: accuracy, predictive_entropy, mutual_information, as far as the run has them."""

    @property
    def level(self) -> int:
        """HEALPix order: log2 of nside."""
        return self.nside.bit_length() - 1

    def centres(self) -> tuple[Floats, Floats]:
        """Return ICRS right ascension and declination of the cells' centres, (C,), degrees."""
        if not len(self.cells):
            return np.empty(0), np.empty(0)
        lon, lat = healpix_to_lonlat(self.cells.astype(np.uint64), self.level, num_threads=1)
        return lon.deg, lat.deg


def quantities(source: RunSource) -> tuple[str, ...]:
    """Name the quantities, beside the count, that can be mapped for this run."""
    uncertain = [name for name, array in UNCERTAINTIES.items() if source.has(array)]
    return (ACCURACY, *uncertain)


def sum_block(source: RunSource, block: ObjectBlock, nside: int) -> SkySums:
    """Sum the complete, placed objects of a block per cell."""
    names = quantities(source)
    values_Qn = np.stack([_values(source, block, name) for name in names])
    kept = block.complete & block.placed
    values_Qn = values_Qn[:, kept]
    if not kept.any():
        empty = np.zeros((len(names), 0))
        return SkySums(np.empty(0, np.int64), np.empty(0, np.int64), empty, empty, empty)
    cells, inverse = np.unique(
        _cell_of(block.ra[kept], block.dec[kept], nside), return_inverse=True
    )
    known_Qn = np.isfinite(values_Qn)
    values_Qn = np.where(known_Qn, values_Qn, 0.0)
    return SkySums(
        cells,
        np.bincount(inverse),
        *(_per_cell(rows, inverse, len(cells)) for rows in (known_Qn, values_Qn, values_Qn**2)),
    )


def merge_sky(parts: Sequence[SkySums]) -> SkySums:
    """Add sums of disjoint blocks, in the order given."""
    cells, inverse = np.unique(np.concatenate([part.cells for part in parts]), return_inverse=True)
    count = np.zeros(len(cells), np.int64)
    np.add.at(count, inverse, np.concatenate([part.count for part in parts]))
    merged = (
        _per_cell(
            np.concatenate([getattr(part, name) for part in parts], axis=1), inverse, len(cells)
        )
        for name in ("number", "total", "square")
    )
    return SkySums(cells, count, *merged)


def finish_sky(sums: SkySums, names: Sequence[str], nside: int, min_count: int) -> SkyTable:
    """Turn sums into means with standard errors; a quantity that no object has is dropped."""
    means = {}
    for name, number, total, square in zip(
        names, sums.number, sums.total, sums.square, strict=True
    ):
        if number.any() or name != ACCURACY:
            mean, error = mean_and_error(number, total, square)
            masked = number < min_count
            mean[masked], error[masked] = np.nan, np.nan
            means[name] = CellMeans(mean, error, number.astype(np.int64))
    return SkyTable(nside, sums.cells, sums.count, means)


def mean_and_error(number: Floats, total: Floats, square: Floats) -> tuple[Floats, Floats]:
    """Return mean and standard error of the mean from count, sum and sum of squares.

    The standard error is the sample standard deviation (n - 1 in the denominator) over sqrt(n): NaN
    for fewer than two values. Shapes broadcast.
    """
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = total / number
        # Rounding may leave a tiny negative sum of squared deviations where all values agree.
        deviation = np.maximum(square - total * mean, 0.0)
        error = np.sqrt(deviation / (number - 1) / number)
    return mean, np.where(number < 2, np.nan, error)


def _values(source: RunSource, block: ObjectBlock, name: str) -> Floats:
    if name == ACCURACY:
        return block.correct
    values = source.read(UNCERTAINTIES[name], block.rows).astype(np.float64)
    refuse_holes(source, UNCERTAINTIES[name], block.rows, block.complete & ~np.isfinite(values))
    return values


def _cell_of(ra: Floats, dec: Floats, nside: int) -> NDArray[np.int64]:
    cells = lonlat_to_healpix(
        Longitude(ra, u.deg), Latitude(dec, u.deg), nside.bit_length() - 1, num_threads=1
    )
    return np.asarray(cells).astype(np.int64)


def _per_cell(rows: NDArray[np.generic], inverse: NDArray[np.intp], cells: int) -> Floats:
    return np.stack([np.bincount(inverse, weights=row, minlength=cells) for row in rows])
