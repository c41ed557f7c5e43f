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

from .contents import ACCURACY, Quantity
from .objects import ObjectBlock, refuse_holes
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

    quantity: Quantity
    """What was averaged."""
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
    """By the quantity's name: accuracy, and what the run's methods measure per object."""
    min_count: int = 1
    """Objects that a cell needs to show a mean."""

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


def quantities(source: RunSource) -> tuple[Quantity, ...]:
    """List the quantities, beside the count, that can be mapped for this run."""
    return (ACCURACY, *source.quantities.values())


def sum_block(source: RunSource, block: ObjectBlock, nside: int) -> SkySums:
    """Sum the complete, placed objects of a block per cell."""
    mapped = quantities(source)
    values_Qn = np.stack([_values(source, block, quantity) for quantity in mapped])
    kept = block.complete & block.placed
    values_Qn = values_Qn[:, kept]
    if not kept.any():
        empty = np.zeros((len(mapped), 0))
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


def finish_sky(sums: SkySums, mapped: Sequence[Quantity], nside: int, min_count: int) -> SkyTable:
    """Turn sums into means with standard errors; accuracy that no object has is dropped."""
    means = {}
    for quantity, number, total, square in zip(
        mapped, sums.number, sums.total, sums.square, strict=True
    ):
        if number.any() or quantity != ACCURACY:
            mean, error = mean_and_error(number, total, square)
            masked = number < min_count
            mean[masked], error[masked] = np.nan, np.nan
            means[quantity.name] = CellMeans(quantity, mean, error, number.astype(np.int64))
    return SkyTable(nside, sums.cells, sums.count, means, min_count)


def suggest_nside(table: SkyTable, name: str) -> int | None:
    """Return the finest coarser resolution at which at least half of the cells show a mean.

    None if no resolution shows any; otherwise the finest that shows one, if none shows half.
    """
    cells, number, nside = table.cells, table.means[name].number, table.nside
    some = None
    while nside > 1:
        cells, inverse = np.unique(cells >> 2, return_inverse=True)
        number, nside = np.bincount(inverse, weights=number).astype(np.int64), nside // 2
        shown = number >= table.min_count
        if 2 * shown.sum() >= max(len(cells), 1):
            return nside
        some = some or (nside if shown.any() else None)
    return some


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


def _values(source: RunSource, block: ObjectBlock, quantity: Quantity) -> Floats:
    if quantity == ACCURACY:
        return block.correct
    more = (0,) if quantity.of_map else ()
    values = source.read(quantity.path, block.rows, *more).astype(np.float64)
    known = block.explained(source.first_targets.get(quantity.of_map))
    refuse_holes(source, quantity.path, block.rows, known & ~np.isfinite(values))
    return np.where(known, values, np.nan)


def _cell_of(ra: Floats, dec: Floats, nside: int) -> NDArray[np.int64]:
    cells = lonlat_to_healpix(
        Longitude(ra, u.deg), Latitude(dec, u.deg), nside.bit_length() - 1, num_threads=1
    )
    return np.asarray(cells).astype(np.int64)


def _per_cell(rows: NDArray[np.generic], inverse: NDArray[np.intp], cells: int) -> Floats:
    return np.stack([np.bincount(inverse, weights=row, minlength=cells) for row in rows])
