"""The atlas of one layer, from the activations to the store and the pictures.

Shape suffixes: N objects.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray

from attribution.inceptionism import Colours
from attribution.inceptionism.feature_inversion import whitened
from attribution.layers import safe_name

from ..errors import RefusedError
from ..maps.aggregate import Progress
from ..products import consolidate
from ..report.atlas_figures import AtlasPicture, draw_cells, draw_surveys, draw_tiles
from ..report.layer_figures import Look
from ..specs.survey import PICTURES
from .cells import Cells
from .examples import find_examples, read_patches
from .icons import Painter
from .layout import Layout
from .store import ObjectStore, write_cells, write_examples, write_icons
from .surveys import AtlasSurvey, Block

MOST_FITTED = 100_000
"""Activations that the layout is fitted to, of all surveys together and as many of each, chosen by
hash; others are placed in it afterwards, so that memory stays within bounds. The published code of
Carter et al. 2019 lays out 100 000."""
_BLACK_WHITE = (1.0, 99.5)
"""Percentiles of the pixels of all patches that are black and white."""
_ICONS = (
    "Each icon is drawn so that the layer answers it as it does, on average, what is in the cell."
)
_EXAMPLES = "Each patch is what the layer saw of the object that is most typical of the cell."


@dataclass(eq=False)
class LayerAtlas:
    """The atlas of one layer; `draw` adds what its cells look like."""

    surveys: Sequence[AtlasSurvey]
    layer: str
    root: zarr.Group
    """The store."""
    cells: Cells
    objects: ObjectStore
    group: zarr.Group
    """The store's group of cells."""
    notes: list[str]
    """What a reader should know."""
    tiles: dict[str, tuple[NDArray[np.float32], str]] = field(default_factory=dict)
    """Pictures of the populated cells, (K, C, h, w) from black at 0 to white at 1, and what they
    are; by name."""

    @classmethod
    def of(
        cls, surveys: Sequence[AtlasSurvey], layer: str, grid: tuple[int, int], folder: Path
    ) -> LayerAtlas:
        """Lay out the activations of some surveys, count them by cell, and write the store.

        Parameters
        ----------
        surveys : runs with activations of the layer
        layer : name of the layer
        grid : cells along a side, and the activations that a populated cell has more than
        folder : where the store goes

        Raises
        ------
        RefusedError
            If there are too few different activations, or no cell has enough of them.
        """
        most = MOST_FITTED // len(surveys)
        sample = np.concatenate([survey.sample(layer, most) for survey in surveys])
        layout = Layout.fit(sample, surveys[0].job.execution.seed)
        del sample
        attributes = _describe(surveys, layer, grid) | layout.attributes
        store = folder / f"{safe_name(layer)}.zarr"
        root = zarr.open_group(store, mode="w", attributes=attributes)
        objects = ObjectStore(root, sum(survey.source.objects for survey in surveys))
        cells, notes = _place(surveys, layer, layout, grid, objects)
        names = [survey.name for survey in surveys]
        group = write_cells(root, cells, names, surveys[0].source.classes)
        consolidate(root)
        return cls(surveys, layer, root, cells, objects, group, notes)

    @property
    def populated(self) -> int:
        """Number of populated cells."""
        return int(self.cells.populated.sum())

    def draw(self, painter: Painter, on_progress: Progress | None = None) -> None:
        """Draw an icon for each populated cell, and cut its most typical object's patch out."""
        self._add_examples(painter)
        self._add_icons(painter, on_progress)
        consolidate(self.root)

    def _add_icons(self, painter: Painter, on_progress: Progress | None) -> None:
        cells = self.cells
        directions_KF = whitened(cells.mean[cells.populated], cells.second_moment)
        numbers = np.flatnonzero(cells.populated).tolist()
        icons = painter.draw(self.layer, directions_KF, numbers, on_progress)
        settings, box = painter.settings(self.layer), painter.box(self.layer)
        write_icons(self.group, cells, icons, settings, painter.colours, box)
        faithful = int((icons.rank == 0).sum())
        self.notes.append(
            f"{self.layer}: {faithful:,} of {len(numbers):,} icons excite the direction of their "
            "own cell more than that of any other"
        )
        self.tiles["atlas-icons"] = (_shares(icons.image, painter.colours), _ICONS)

    def _add_examples(self, painter: Painter) -> None:
        starts = [0, *accumulate(survey.source.objects for survey in self.surveys)]

        def cell_numbers(survey: int, rows: slice) -> NDArray[np.int32]:
            start = starts[survey]
            return self.objects.read("cell", slice(start + rows.start, start + rows.stop))

        found = find_examples(self.surveys, self.layer, self.cells, cell_numbers)
        patches = read_patches(self.surveys, self.layer, painter.network, found)
        ids = [
            self.objects.read("id", slice(place, place + 1))[0]
            for place in (np.array(starts)[found.survey] + found.row).tolist()
        ]
        surveys = [self.surveys[number].name for number in found.survey.tolist()]
        names = {
            "example": np.array(ids, dtype=object),
            "example_survey": np.array(surveys, dtype=object),
        }
        write_examples(self.group, self.cells, names, found.cosine, patches)
        low, high = np.nanpercentile(patches, _BLACK_WHITE)
        self.tiles["atlas-examples"] = ((patches - low) / max(high - low, 1e-9), _EXAMPLES)

    def pictures(self) -> Iterator[tuple[str, bytes]]:
        """Give names and pictures."""
        first, name = self.surveys[0], safe_name(self.layer)
        names = [survey.name for survey in self.surveys]
        picture = AtlasPicture(" and ".join(names), self.layer, first.source.classes, self.cells)
        look = Look(first.source.origin, blue_first=first.job.survey.format not in PICTURES)
        for what, (shares, words) in self.tiles.items():
            yield f"{name}-{what}.png", draw_tiles(picture, [look.rgb(t) for t in shares], words)
        yield f"{name}-cells.png", draw_cells(picture)
        if len(names) > 1:
            yield f"{name}-surveys.png", draw_surveys(picture, names)


def _describe(surveys: Sequence[AtlasSurvey], layer: str, grid: tuple[int, int]) -> dict[str, Any]:
    """Say what an atlas is of, as JSON values."""
    manifests = [survey.source.manifest for survey in surveys]
    return {
        "title": f"activation atlas of layer {layer}",
        "convention": "Carter et al. 2019, Exploring neural networks with activation atlases",
        "layer": layer,
        "runs": [str(survey.source.path) for survey in surveys],
        "surveys": [survey.name for survey in surveys],
        "results_digests": [manifest["results_digest"] for manifest in manifests],
        "network_digest": manifests[0]["digests"]["network"],
        "cells": grid[0],
        "minimum": grid[1],
    }


def _place(
    surveys: Sequence[AtlasSurvey],
    layer: str,
    layout: Layout,
    grid: tuple[int, int],
    objects: ObjectStore,
) -> tuple[Cells, list[str]]:
    """Place all objects, write where they are, and count them; also say who has no place."""
    first, notes, silent = surveys[0], [], 0
    sizes = (len(surveys), len(first.source.classes), first.filters(layer))
    cells = Cells.empty(*grid, *sizes)
    for number, survey in enumerate(surveys):
        for block in survey.blocks(layer):
            place_N2 = _places(layout, block)
            columns = {"id": block.id.astype(object), "cell": cells.add(number, block, place_N2)}
            columns["survey"] = np.full(len(block.id), survey.name, dtype=object)
            columns["x"], columns["y"] = place_N2.T
            objects.append(columns)
            silent += int((block.scalars.complete & ~block.usable).sum())
    if silent:
        notes.append(
            f"{layer}: objects whose activation is all zeros, so that it has no direction and they "
            f"have no place: {silent:,}"
        )
    most = int(cells.every.max())
    if most <= cells.minimum:
        raise RefusedError(
            f"layer {layer}: no cell has more than {cells.minimum} activations, the fullest has "
            f"{most:,} of {int(cells.every.sum()):,}; set --minimum below {most}, or --cells to "
            "less"
        )
    return cells, notes


def _places(layout: Layout, block: Block) -> NDArray[np.float32]:
    """Return x and y of a block's objects, NaN for those without a place; (N, 2)."""
    usable = block.usable
    place_N2 = np.full((len(usable), 2), np.nan, dtype=np.float32)
    if usable.any():
        place_N2[usable] = layout.place(block.activation[usable])
    return place_N2


def _shares(images: NDArray[np.float32], colours: Colours) -> NDArray[np.float32]:
    """Bring network inputs (K, C, h, w) to shares of the survey's valid range."""
    low, high = (end.astype(np.float32)[:, None, None] for end in (colours.low, colours.high))
    return np.asarray((images - low) / np.where(high > low, high - low, 1), dtype=np.float32)
