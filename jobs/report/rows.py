"""Some rows of arrays, each stored chunk read once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..maps.source import RunSource
from ..maps.stacks import read_pixels
from .facts import Floats


def gather(
    read: Callable[[slice], NDArray[Any]], chunk: int, rows: NDArray[np.integer]
) -> Iterator[tuple[int, NDArray[Any]]]:
    """Give (row, its values) for each of some rows, in rising order.

    Parameters
    ----------
    read : reads a range of rows
    chunk : rows that are stored together
    rows : which rows, in any order
    """
    wanted = np.unique(rows)
    for number in np.unique(wanted // chunk):
        here = wanted[wanted // chunk == number]
        values = read(slice(int(here[0]), int(here[-1]) + 1))
        for row in here.tolist():
            yield row, values[row - int(here[0])]


def pixel_maps(
    source: RunSource, name: str, rows: NDArray[np.integer]
) -> Iterator[tuple[int, Floats]]:
    """Give (row, map per pixel of the first target) for each of some rows."""
    chunk = int(source.array(source.maps[name].path).chunks[0])
    return gather(lambda part: read_pixels(source, name, part), chunk, rows)
