"""What the filters of layers do for some objects of a run, as pictures."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
from numpy.typing import NDArray

from ..maps.contents import Array, dimensions, method_groups
from ..maps.source import RunSource
from .layer_figures import Look, draw_features
from .rows import gather

_PLAIN = "feature_maps"
"""The method whose pictures go by the names of the layers alone."""


def layer_arrays(source: RunSource) -> dict[str, Array]:
    """Return the arrays (object, filter, row, column) of layers that a run has, by path."""
    return {
        f"{method}/{name}": array
        for method, group in method_groups(source.root)
        for name, array in sorted(group.arrays())
        if "layer" in array.attrs and len(dimensions(array)) == 4
    }


def draw_layers(source: RunSource, rows: Mapping[int, str]) -> Iterator[tuple[str, bytes]]:
    """Give (name, picture) of what each layer does for some objects.

    Parameters
    ----------
    source : the run
    rows : identifiers of objects with results, by row of the catalogue
    """
    look = Look(source.origin)
    wanted = np.array(list(rows), dtype=np.int64)
    for path, array in layer_arrays(source).items():

        def read(part: slice, path: str = path) -> NDArray[np.floating]:
            return source.read(path, part)

        maps = dict(gather(read, int(array.chunks[0]), wanted))
        shown = {id_: maps[row] for row, id_ in rows.items()}
        name = path.removeprefix(f"{_PLAIN}/").replace("/", "_")
        yield name, draw_features(str(array.attrs["long_name"]), shown, look)
