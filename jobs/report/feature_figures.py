"""Feature maps of a run's objects as pictures."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray

from ..maps.contents import dimensions
from ..maps.source import RunSource
from .layer_figures import Look, draw_features
from .rows import gather

_GROUP = "feature_maps"


def feature_layers(source: RunSource) -> dict[str, zarr.Array[Any]]:
    """Return the arrays (object, filter, y, x) of a run's feature maps, by name."""
    group = source.root.get(_GROUP)
    if not isinstance(group, zarr.Group):
        return {}
    found = dict(sorted(group.arrays()))
    return {name: array for name, array in found.items() if len(dimensions(array)) == 4}


def draw_layers(source: RunSource, rows: Mapping[int, str]) -> Iterator[tuple[str, bytes]]:
    """Give (name, picture) of each layer's output for some objects.

    Parameters
    ----------
    source : the run
    rows : identifiers of objects with results, by row of the catalogue
    """
    look = Look(source.origin)
    wanted = np.array(list(rows), dtype=np.int64)
    for name, array in feature_layers(source).items():

        def read(part: slice, path: str = f"{_GROUP}/{name}") -> NDArray[Any]:
            return source.read(path, part)

        maps = dict(gather(read, int(array.chunks[0]), wanted))
        shown = {id_: maps[row] for row, id_ in rows.items()}
        yield name, draw_features(str(array.attrs["layer"]), shown, look)
