"""What the filters of layers do for chosen objects, as pictures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from cluster.place import Place

from .errors import RefusedError
from .maps.source import COMPLETE, RunSource, open_source
from .products import new_folder
from .report.feature_figures import draw_layers, layer_arrays

FEATURES = "features"
"""Folder of the pictures inside the run folder."""
_SHOWN = 4
"""Objects that are shown if none is named: the first ones with results."""


@dataclass(frozen=True)
class FeaturesProduct:
    """Pictures of layers, and where they were written."""

    objects: tuple[str, ...]
    """Identifiers of the objects."""
    figures: tuple[Place, ...]
    """A picture per layer."""


def build_features(run: Place, ids: Sequence[str] = ()) -> FeaturesProduct:
    """Draw feature maps, and responses under occlusion, of some objects into RUN/features.

    Parameters
    ----------
    run : folder of an attribution run with the method feature_maps, or occlusion with layers
    ids : identifiers of the objects; by default the first ones with results

    Raises
    ------
    RefusedError
        If the run has neither with positions, or an object has no results.
    StorageError
        If the store can't be read, or the pictures can't be written.
    """
    source = open_source(run)
    if not layer_arrays(source):
        raise RefusedError(
            f"{run}: the run has no feature maps to draw; add {{method: feature_maps, layers: "
            "[..], pooling: none}} to a job of its own and run that"
        )
    rows = _find(source, ids) if ids else _first(source)
    with new_folder(run / FEATURES) as folder:
        names = []
        for name, picture in draw_layers(source, rows):
            (folder / f"{name}.png").write_bytes(picture)
            names.append(f"{name}.png")
    return FeaturesProduct(tuple(rows.values()), tuple(run / FEATURES / name for name in names))


def _find(source: RunSource, ids: Sequence[str]) -> dict[int, str]:
    """Find objects by identifier: in the order in which they are named."""
    rows: dict[str, int] = {}
    for span in source.spans():
        for row, name in enumerate(source.read("catalogue/id", span), start=span.start):
            if name in ids and source.status(slice(row, row + 1))[0] == COMPLETE:
                rows[str(name)] = row
    for id_ in ids:
        if id_ not in rows:
            raise RefusedError(
                f"{source.path}: no object {id_!r} with results; see catalogue/id in its store, "
                "and quarantine.csv"
            )
    return {rows[id_]: id_ for id_ in ids}


def _first(source: RunSource) -> dict[int, str]:
    found: dict[int, str] = {}
    for span in source.spans():
        complete = np.flatnonzero(source.status(span) == COMPLETE)[: _SHOWN - len(found)]
        names = source.read("catalogue/id", span)
        found |= {span.start + int(place): str(names[place]) for place in complete}
        if len(found) == _SHOWN:
            break
    if not found:
        raise RefusedError(f"{source.path}: no object has results yet; finish the run")
    return found
