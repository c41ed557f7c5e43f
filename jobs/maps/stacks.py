"""Mean attribution maps per group of objects: sums in float64, one pass, chunk by chunk.

Array suffixes: G groups, n objects, y and x pixels; an occlusion's total stays on its grid of
windows until the end, for the expansion to pixels is linear.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .healpix import mean_and_error
from .objects import ObjectBlock, refuse_holes
from .source import RunSource, map_array_name

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class StackSums:
    """Sums over the objects of each group, of one method."""

    number: NDArray[np.int64]
    """(G,) objects."""
    total: Floats
    """(G, ...) sum of the stored maps: pixels, or an occlusion's grid."""
    square: Floats
    """(G, y, x) sum of the squared pixel maps."""


@dataclass(frozen=True)
class MeanAttribution:
    """The mean map of each group, of one method."""

    method: str
    """Name of the method's group in the store."""
    target: str
    """What is explained, such as ``predicted``."""
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


def method_array(source: RunSource, method: str) -> str:
    """Return the path in the store of a method's maps."""
    name = map_array_name(source.root[method])  # type: ignore[arg-type]
    return f"{method}/{name}"


def read_pixels(source: RunSource, method: str, rows: slice, *, target: int = 0) -> Floats:
    """Read the attribution per pixel of some objects, for one target.

    Returns
    -------
    float64 (n, y, x); channels are summed, an occlusion's grid is expanded
    """
    return to_pixels(source, method, read_native(source, method, rows, target=target))


def read_native(source: RunSource, method: str, rows: slice, *, target: int = 0) -> Floats:
    """Read the maps as they are stored, channels summed: pixels, or an occlusion's grid."""
    path = method_array(source, method)
    values = source.read(path, rows, target).astype(np.float64)
    return values.sum(axis=1) if values.ndim == 4 else values


def to_pixels(source: RunSource, method: str, maps: Floats) -> Floats:
    """Expand an occlusion's grids (..., window_y, window_x) to pixels; other maps are pixels."""
    path = method_array(source, method)
    if not path.endswith("/grid"):
        return maps
    # Only runs with an occlusion pay for the import of the network library behind it.
    from attribution.occlusion import Occlusion  # noqa: PLC0415

    attributes = source.attributes(path)
    height, width = (int(size) for size in attributes["image_shape"][-2:])
    return Occlusion.expand(
        maps,
        image_shape=(height, width),
        window=_pair(attributes["window"]),
        stride=_pair(attributes["stride"]),
    )


def sum_block(
    source: RunSource, method: str, block: ObjectBlock, code: NDArray[np.int64], groups: int
) -> StackSums:
    """Sum the maps of a block's explained objects per group.

    Parameters
    ----------
    code : (n,) group of each object, -1 for none
    groups : number of groups
    """
    path = method_array(source, method)
    code = np.where(block.explained, code, -1)
    template = to_pixels(source, method, np.zeros(_native_shape(source, path)))
    total = np.zeros((groups, *_native_shape(source, path)))
    square = np.zeros((groups, *template.shape))
    step = int(source.array(path).chunks[0])
    for start in range(block.rows.start, block.rows.stop, step):
        rows = slice(start, min(start + step, block.rows.stop))
        here = code[rows.start - block.rows.start : rows.stop - block.rows.start]
        if (here < 0).all():
            continue
        native = read_native(source, method, rows)
        holes = (here >= 0) & ~np.isfinite(native).all(axis=(1, 2))
        refuse_holes(source, path, rows, holes)
        for group in np.unique(here[here >= 0]):
            chosen = native[here == group]
            total[group] += chosen.sum(axis=0)
            square[group] += np.square(to_pixels(source, method, chosen)).sum(axis=0)
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
    source: RunSource, method: str, sums: StackSums, groups: tuple[str, ...]
) -> MeanAttribution:
    """Turn sums into mean maps with standard errors."""
    number = sums.number[:, None, None].astype(np.float64)
    total = to_pixels(source, method, sums.total)
    mean, error = mean_and_error(number, total, sums.square)
    path = method_array(source, method)
    return MeanAttribution(
        method=method,
        target=first_target(source, method),
        groups=groups,
        number=sums.number,
        mean=mean,
        standard_error=error,
        units=str(source.attributes(path).get("units", "1")),
    )


def first_target(source: RunSource, method: str) -> str:
    """Name the first target of a method: the one that is stacked."""
    name = f"{method}/target"
    return str(source.read(name, slice(0, 1))[0]) if source.has(name) else "first target"


def _native_shape(source: RunSource, path: str) -> tuple[int, ...]:
    return tuple(int(size) for size in source.array(path).shape[-2:])


def _pair(value: int | Sequence[int]) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else (int(value[0]), int(value[1]))


Stacks = Mapping[str, MeanAttribution]
"""Mean maps by method."""
