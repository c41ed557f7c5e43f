"""Mean attribution maps per group of objects: sums in float64, one pass, chunk by chunk.

Array suffixes: G groups, n objects, y and x pixels; an occlusion's total stays on its grid of
windows until the end, for the expansion to pixels is linear.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .contents import MapArray
from .healpix import mean_and_error
from .objects import ObjectBlock, refuse_holes
from .source import RunSource

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class StackSums:
    """Sums over the objects of each group, of one array of maps."""

    number: NDArray[np.int64]
    """(G,) objects."""
    total: Floats
    """(G, ...) sum of the stored maps: pixels, or an occlusion's grid."""
    square: Floats
    """(G, y, x) sum of the squared pixel maps."""


@dataclass(frozen=True)
class MeanAttribution:
    """The mean map of each group, of one array of maps."""

    name: str
    """Name of the maps: that of their method, if it has no others."""
    long_name: str
    """What the maps show."""
    target: str
    """What is explained, such as ``predicted``; empty if no class is."""
    groups: tuple[str, ...]
    """Names of the groups."""
    number: NDArray[np.int64]
    """(G,) objects."""
    mean: Floats
    """(G, y, x); NaN for a group without objects."""
    standard_error: Floats
    """(G, y, x) sample standard deviation / sqrt(number); NaN for fewer than two objects."""
    units: str
    """Units of the mean."""


def read_pixels(source: RunSource, name: str, rows: slice, *, target: int = 0) -> Floats:
    """Read the map per pixel of some objects, for one target.

    Returns
    -------
    float64 (n, y, x); channels are summed, a grid of windows is expanded
    """
    array = source.maps[name]
    return to_pixels(array, read_native(source, array, rows, target=target))


def read_native(source: RunSource, array: MapArray, rows: slice, *, target: int = 0) -> Floats:
    """Read the maps as they are stored, channels summed: pixels, or a grid of windows."""
    more = (target,) if array.targeted else ()
    values = source.read(array.path, rows, *more).astype(np.float64)
    return values.sum(axis=1) if values.ndim == 4 else values


def to_pixels(array: MapArray, maps: Floats) -> Floats:
    """Expand grids (..., window_y, window_x) to pixels; other maps are pixels."""
    if array.windows is None:
        return maps
    # Only runs with an occlusion pay for the import of the network library behind it.
    from attribution.occlusion import Occlusion  # noqa: PLC0415

    windows = array.windows
    return Occlusion.expand(
        maps, image_shape=windows.image_shape, window=windows.window, stride=windows.stride
    )


def sum_block(
    source: RunSource, array: MapArray, block: ObjectBlock, code: NDArray[np.int64], groups: int
) -> StackSums:
    """Sum the maps of a block's explained objects per group.

    Parameters
    ----------
    code : (n,) group of each object, -1 for none
    groups : number of groups
    """
    target = source.first_targets.get(array.method) if array.targeted else None
    code = np.where(block.explained(target), code, -1)
    shape = source.array(array.path).shape[-2:]
    template = to_pixels(array, np.zeros(shape))
    total = np.zeros((groups, *shape))
    square = np.zeros((groups, *template.shape))
    step = int(source.array(array.path).chunks[0])
    for start in range(block.rows.start, block.rows.stop, step):
        rows = slice(start, min(start + step, block.rows.stop))
        here = code[rows.start - block.rows.start : rows.stop - block.rows.start]
        if (here < 0).all():
            continue
        native = read_native(source, array, rows)
        holes = (here >= 0) & ~np.isfinite(native).all(axis=(1, 2))
        refuse_holes(source, array.path, rows, holes)
        for group in np.unique(here[here >= 0]):
            chosen = native[here == group]
            total[group] += chosen.sum(axis=0)
            square[group] += np.square(to_pixels(array, chosen)).sum(axis=0)
    return StackSums(np.bincount(code[code >= 0], minlength=groups), total, square)


def merge_stacks(parts: Sequence[StackSums]) -> StackSums:
    """Add sums of disjoint blocks, in the order given."""
    number, total, square = (
        parts[0].number.copy(),
        parts[0].total.copy(),
        parts[0].square.copy(),
    )
    for part in parts[1:]:
        number += part.number
        total += part.total
        square += part.square
    return StackSums(number, total, square)


def finish_stack(
    source: RunSource, array: MapArray, sums: StackSums, groups: tuple[str, ...]
) -> MeanAttribution:
    """Turn sums into mean maps with standard errors."""
    number = sums.number[:, None, None].astype(np.float64)
    total = to_pixels(array, sums.total)
    mean, error = mean_and_error(number, total, sums.square)
    return MeanAttribution(
        name=array.name,
        long_name=array.long_name,
        target=source.first_targets.get(array.method, "") if array.targeted else "",
        groups=groups,
        number=sums.number,
        mean=mean,
        standard_error=error,
        units=array.units,
    )
