"""Maps of classes, such as the class that wins when a window is hidden, in colours."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import matplotlib as mpl
import numpy as np
from numpy.typing import NDArray

from ..maps.contents import Windows
from ..maps.source import RunSource
from .rows import gather
from .tiles import Bytes, photograph

_PALETTE = "tab20"
_NO_CLASS = np.uint8(128)


@dataclass(frozen=True)
class Swatch:
    """A class and its colour, for the legend."""

    name: str
    uri: str


def class_pixels(
    source: RunSource, name: str, rows: NDArray[np.integer]
) -> Iterator[tuple[int, NDArray[np.int64]]]:
    """Give (row, class number per pixel) for each of some rows; of targets, the first."""
    array = source.class_maps[name]
    chunk, more = int(source.array(array.path).chunks[0]), (0,) if array.targeted else ()
    for row, values in gather(lambda part: source.read(array.path, part, *more), chunk, rows):
        numbers = values.astype(np.int64)
        yield row, numbers if array.windows is None else nearest(numbers, array.windows)


def nearest(grid: NDArray[np.int64], windows: Windows) -> NDArray[np.int64]:
    """Give each pixel the value of the window whose centre is nearest: (height, width)."""
    places = [
        _nearest_window(*axis)
        for axis in zip(
            grid.shape, windows.image_shape, windows.window, windows.stride, strict=True
        )
    ]
    return grid[np.ix_(*places)]


def class_rgb(numbers: NDArray[np.int64], classes: int) -> Bytes:
    """Colour a map of class numbers: uint8 (h, w, 3); what is no class is grey."""
    colours = mpl.colormaps[_PALETTE](_order(numbers), bytes=True)[..., :3]
    known = (numbers >= 0) & (numbers < classes)
    return np.where(known[..., None], colours, _NO_CLASS)


def swatches(classes: tuple[str, ...]) -> list[Swatch]:
    """Return the legend of the maps of these classes."""
    return [
        Swatch(name, photograph(class_rgb(np.full((12, 12), number), len(classes)), quality=95))
        for number, name in enumerate(classes)
    ]


def _order(numbers: NDArray[np.int64]) -> NDArray[np.int64]:
    """Take the palette's ten strong colours before its ten pale ones."""
    ten = np.mod(numbers, 20)
    return np.where(ten < 10, 2 * ten, 2 * ten - 19)


def _nearest_window(count: int, size: int, window: int, stride: int) -> NDArray[np.intp]:
    start = stride * np.arange(count)
    centre = (start + np.minimum(start + window, size) - 1) / 2
    distance = np.abs(np.arange(size)[:, None] - centre)
    return np.asarray(distance.argmin(axis=1))
