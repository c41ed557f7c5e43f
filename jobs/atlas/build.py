"""From runs with `activation_atlas` to an atlas of each layer: arrays and pictures."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray

from attribution.inceptionism.feature_inversion import whitened
from attribution.layers import safe_name

from ..errors import RefusedError
from ..maps.aggregate import Progress
from ..products import consolidate, new_folder
from ..report.atlas_figures import AtlasPicture, draw_cells, draw_icons, draw_surveys
from ..report.layer_figures import Look
from .cells import Cells
from .icons import STEPS, Icons, Painter
from .layout import Layout, require_umap
from .store import ObjectStore, write_cells, write_icons
from .surveys import AtlasSurvey, Block, open_surveys

ATLAS = "atlas"
"""Folder of the atlas inside the run folder."""
MOST_FITTED = 100_000
"""Activations that the layout is fitted to; more are placed in it one by one, so that memory and
time stay within bounds. Carter et al. 2019 laid out 100 000 in their published code."""


@dataclass(frozen=True)
class AtlasSettings:
    """What can be chosen of an atlas."""

    layers: tuple[str, ...] = ()
    """Names of layers; all that the first run has, if none is named."""
    cells: int = 20
    """Cells along a side of the square."""
    minimum: int = 10
    """A cell is shown if it has more activations than this."""
    icons: bool = True
    """Whether each cell gets an icon."""
    steps: int = STEPS
    """Steps of gradient ascent for each icon."""

    def __post_init__(self) -> None:
        for name, least in (("cells", 1), ("minimum", 0), ("steps", 1)):
            if getattr(self, name) < least:
                raise RefusedError(f"{name} is {getattr(self, name)}; choose {least} or more")


@dataclass(frozen=True)
class AtlasProduct:
    """The atlas of each layer, and where they were written."""

    stores: tuple[Path, ...]
    """A Zarr store for each layer."""
    figures: tuple[Path, ...]
    """The pictures."""
    notes: tuple[str, ...]
    """What a reader should know; one sentence each."""


@dataclass(frozen=True)
class Listener:
    """Whom to tell how far an atlas is."""

    say: Callable[[str], None] = field(default=lambda _: None)
    """Told what happens next."""
    on_icon: Progress | None = None
    """Told the number of icons of a layer done, and of all."""


def build_atlas(
    run: Path,
    others: Sequence[Path] = (),
    settings: AtlasSettings = AtlasSettings(),
    *,
    device: str = "cpu",
    listener: Listener = Listener(),
) -> AtlasProduct:
    """Make the activation atlas of one run, or of several in one layout, and write it to RUN/atlas.

    Parameters
    ----------
    run : folder of a finished attribution run whose job has the method activation_atlas
    others : folders of further runs with the same network
    settings : layers, cells, icons
    device : where the network draws icons, ``cpu`` or ``cuda``
    listener : told how far it is

    Raises
    ------
    RefusedError
        If umap-learn is not installed, a run has no activations or those of another network, or
        they are too few.
    VerificationError
        If a shard is lost.
    StorageError
        If the survey can't be read, or the atlas can't be written.
    """
    require_umap()
    surveys = open_surveys(run, others, settings.layers)
    painter = Painter.of(surveys[0], settings.steps, device) if settings.icons else None
    layers = list(dict.fromkeys(settings.layers or surveys[0].layers))
    figures: list[str] = []
    notes: list[str] = []
    with new_folder(run / ATLAS) as folder:
        for layer in layers:
            atlas = _LayerAtlas(surveys, layer, settings, painter, listener)
            for name, picture in atlas.write(folder):
                (folder / name).write_bytes(picture)
                figures.append(name)
            notes += atlas.notes
    return AtlasProduct(
        tuple(run / ATLAS / f"{safe_name(layer)}.zarr" for layer in layers),
        tuple(run / ATLAS / name for name in figures),
        tuple(notes),
    )


@dataclass
class _LayerAtlas:
    """The atlas of one layer while it is made."""

    surveys: Sequence[AtlasSurvey]
    layer: str
    settings: AtlasSettings
    painter: Painter | None
    listener: Listener
    notes: list[str] = field(default_factory=list)

    def write(self, folder: Path) -> Iterator[tuple[str, bytes]]:
        """Write the store, and give names and pictures."""
        first, name = self.surveys[0], safe_name(self.layer)
        self.listener.say(f"laying out the activations of layer {self.layer}")
        most = MOST_FITTED // len(self.surveys)
        sample = np.concatenate([survey.sample(self.layer, most) for survey in self.surveys])
        layout = Layout.fit(sample, first.job.execution.seed)
        del sample
        root = zarr.open_group(
            folder / f"{name}.zarr", mode="w", attributes=self._attributes(layout)
        )
        cells = self._place(layout, root)
        self._check(cells)
        names, classes = [survey.name for survey in self.surveys], first.source.classes
        group = write_cells(root, cells, names, classes)
        icons = None
        if self.painter is not None:
            icons = self._draw(self.painter, cells)
            settings, box = self.painter.settings(self.layer), self.painter.box(self.layer)
            write_icons(group, cells, icons, settings, self.painter.colours, box)
        consolidate(root)
        yield from self._pictures(cells, icons)

    def _attributes(self, layout: Layout) -> dict[str, Any]:
        return {
            "title": f"activation atlas of layer {self.layer}",
            "convention": "Carter et al. 2019, Exploring neural networks with activation atlases",
            "layer": self.layer,
            "runs": [str(survey.source.path) for survey in self.surveys],
            "surveys": [survey.name for survey in self.surveys],
            "results_digests": [
                survey.source.manifest["results_digest"] for survey in self.surveys
            ],
            "network_digest": self.surveys[0].source.manifest["digests"]["network"],
            "cells": self.settings.cells,
            "minimum": self.settings.minimum,
            **layout.attributes,
        }

    def _place(self, layout: Layout, root: zarr.Group) -> Cells:
        """Place all objects, write where they are, and count them."""
        first = self.surveys[0]
        store = ObjectStore(root, sum(survey.source.objects for survey in self.surveys))
        cells = Cells.empty(
            self.settings.cells,
            self.settings.minimum,
            len(self.surveys),
            len(first.source.classes),
            first.filters(self.layer),
        )
        silent = 0
        for number, survey in enumerate(self.surveys):
            for block in survey.blocks(self.layer):
                place_N2 = _places(layout, block)
                found = cells.add(number, block, place_N2)
                columns = {"id": block.id.astype(object), "cell": found}
                columns["survey"] = np.full(len(found), survey.name, dtype=object)
                columns["x"], columns["y"] = place_N2.T
                store.append(columns)
                silent += int((block.scalars.complete & ~block.usable).sum())
        if silent:
            self.notes.append(
                f"{self.layer}: {silent:,} objects have an activation of zeros; it has no "
                "direction and so no place in the atlas"
            )
        return cells

    def _check(self, cells: Cells) -> None:
        """Refuse an atlas without a cell."""
        if not cells.populated.any():
            most = int(cells.every.max())
            raise RefusedError(
                f"layer {self.layer}: no cell has more than {cells.minimum} activations, the "
                f"fullest has {most:,} of {int(cells.every.sum()):,}; set --minimum below {most}, "
                "or --cells to less"
            )

    def _draw(self, painter: Painter, cells: Cells) -> Icons:
        numbers = np.flatnonzero(cells.populated)
        self.listener.say(f"drawing {len(numbers):,} icons of layer {self.layer}")
        directions = whitened(cells.mean[cells.populated], cells.second_moment)
        icons = painter.draw(self.layer, directions, numbers.tolist(), self.listener.on_icon)
        faithful = int((icons.rank == 0).sum())
        self.notes.append(
            f"{self.layer}: {faithful:,} of {len(numbers):,} icons excite the direction of their "
            "own cell more than that of any other"
        )
        return icons

    def _pictures(self, cells: Cells, icons: Icons | None) -> Iterator[tuple[str, bytes]]:
        first, name = self.surveys[0].source, safe_name(self.layer)
        look = Look(first.origin, blue_first=self.surveys[0].job.survey.format != "images")
        picture = AtlasPicture(
            " and ".join(survey.name for survey in self.surveys), self.layer, first.classes, cells
        )
        if icons is not None and self.painter is not None:
            shares = icons.image - _channels(self.painter.colours.low)
            shares /= _channels(self.painter.colours.high - self.painter.colours.low)
            yield f"{name}-atlas.png", draw_icons(picture, [look.rgb(icon) for icon in shares])
        yield f"{name}-cells.png", draw_cells(picture)
        if len(self.surveys) > 1:
            names = [survey.name for survey in self.surveys]
            yield f"{name}-surveys.png", draw_surveys(picture, names)


def _places(layout: Layout, block: Block) -> NDArray[np.float32]:
    """Return x and y of a block's objects, NaN for those without a place; (N, 2)."""
    usable = block.usable
    place_N2 = np.full((len(usable), 2), np.nan, dtype=np.float32)
    if usable.any():
        place_N2[usable] = layout.place(block.activation[usable])
    return place_N2


def _channels(values: NDArray[np.float64]) -> NDArray[np.float32]:
    return values.astype(np.float32)[:, None, None]
