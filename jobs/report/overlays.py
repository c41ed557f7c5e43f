"""Galaxies beside their attribution maps, class by class, on one scale per method."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..maps.figures import signed_scale
from .examples import Example, choose_examples
from .facts import Floats, RunFacts
from .pixels import ReadPixels
from .readings import readable
from .rows import pixel_maps
from .tiles import enlarge, galaxy_rgb, outline, photograph, signed_rgb, white_balance

MAX_TILES = 420
"""Pictures of objects on the page; classes then show fewer objects each."""
MAX_CLASSES = 12


@dataclass(frozen=True)
class Tile:
    """A picture in the grid."""

    column: str
    """``galaxy`` or a method."""
    uri: str
    """The picture; empty where there is none."""
    alt: str
    """What it shows, in words."""


@dataclass(frozen=True)
class ShownObject:
    """A row of the grid: an object, its picture and its maps."""

    id: str
    label: str
    predicted: str
    probability: float
    entropy: float
    reason: str
    right: bool | None
    tiles: tuple[Tile, ...]


@dataclass(frozen=True)
class ClassGrid:
    """The objects of one class, by run."""

    name: str
    runs: tuple[tuple[str, tuple[ShownObject, ...]], ...]


def class_grids(
    runs: Sequence[RunFacts], read_pixels: ReadPixels
) -> tuple[list[ClassGrid], dict[str, float]]:
    """Choose objects of each class and draw them.

    Returns
    -------
    The grids, and the end of each method's colour scale, the same for all runs
    """
    classes = class_names(runs)[:MAX_CLASSES]
    columns = 1 + max((len(facts.source.methods) for facts in runs), default=0)
    each = min(2, max(1, MAX_TILES // (len(runs) * len(classes) * columns * 3)))
    chosen = [
        {
            name: choose_examples(facts, facts.classes.index(name), each)
            for name in classes
            if name in facts.classes
        }
        for facts in runs
    ]
    maps = [_read_maps(facts, picks) for facts, picks in zip(runs, chosen, strict=True)]
    methods = sorted({method for facts in runs for method in facts.source.methods})
    scales = {
        method: signed_scale(
            [m for found in maps for (name, _), m in found.items() if name == method]
        )
        for method in methods
    }
    shown = [
        _draw_run(facts, picks, found, scales, read_pixels)
        for facts, picks, found in zip(runs, chosen, maps, strict=True)
    ]
    grids = [
        ClassGrid(
            name,
            tuple(
                (facts.name, objects.get(name, ()))
                for facts, objects in zip(runs, shown, strict=True)
            ),
        )
        for name in classes
    ]
    return [grid for grid in grids if any(objects for _, objects in grid.runs)], scales


def class_names(runs: Sequence[RunFacts]) -> list[str]:
    """Return the classes of all runs, in the order of their first appearance."""
    return list(dict.fromkeys(name for facts in runs for name in facts.classes))


def _read_maps(facts: RunFacts, picks: dict[str, list[Example]]) -> dict[tuple[str, int], Floats]:
    """Read the maps of the chosen objects, by method and row."""
    positions = [example.position for examples in picks.values() for example in examples]
    rows = facts.rows[np.array(positions, dtype=np.int64)]
    return {
        (method, row): values
        for method in facts.source.methods
        for row, values in pixel_maps(facts.source, method, rows)
    }


def _draw_run(
    facts: RunFacts,
    picks: dict[str, list[Example]],
    maps: dict[tuple[str, int], Floats],
    scales: dict[str, float],
    read_pixels: ReadPixels,
) -> dict[str, tuple[ShownObject, ...]]:
    rows = sorted({int(facts.rows[e.position]) for examples in picks.values() for e in examples})
    images = dict(zip(rows, read_pixels(facts.source.path, rows), strict=True)) if rows else {}
    balance = white_balance([image for image in images.values() if image is not None])
    pictures = {
        row: galaxy_rgb(image, balance) for row, image in images.items() if image is not None
    }
    return {
        name: tuple(_draw_object(facts, example, pictures, maps, scales) for example in examples)
        for name, examples in picks.items()
    }


def _draw_object(
    facts: RunFacts,
    example: Example,
    pictures: dict[int, NDArray[np.uint8]],
    maps: dict[tuple[str, int], Floats],
    scales: dict[str, float],
) -> ShownObject:
    position = example.position
    row = int(facts.rows[position])
    name = str(facts.source.read("catalogue/id", slice(row, row + 1))[0])
    labelled, predicted = bool(facts.labelled[position]), facts.classes[facts.predicted[position]]
    galaxy = pictures.get(row)
    tiles = [_galaxy_tile(name, galaxy)]
    tiles += [
        _map_tile(method, name, predicted, maps[method, row], scales[method], galaxy)
        for method in facts.source.methods
    ]
    return ShownObject(
        id=name,
        label=facts.classes[facts.label[position]] if labelled else "none",
        predicted=predicted,
        probability=float(facts.confidence[position]),
        entropy=float(facts.entropy[position]),
        reason=example.reason,
        right=bool(facts.correct[position]) if labelled else None,
        tiles=tuple(tiles),
    )


def _galaxy_tile(name: str, galaxy: NDArray[np.uint8] | None) -> Tile:
    if galaxy is None:
        return Tile("galaxy", "", f"The image of {name} can't be read")
    return Tile("galaxy", photograph(enlarge(galaxy, smooth=True)), f"Image of {name}")


def _map_tile(
    method: str,
    name: str,
    predicted: str,
    values: Floats,
    scale: float,
    galaxy: NDArray[np.uint8] | None,
) -> Tile:
    if not np.isfinite(values).any():
        return Tile(method, "", f"{name} has no map of this method: its first target is missing")
    colours = enlarge(signed_rgb(values, scale), smooth=False)
    if galaxy is not None:
        colours = outline(colours, galaxy)
    share = float(np.maximum(values, 0).sum() / np.abs(values).sum()) if values.any() else 0.0
    alt = f"{readable(method).capitalize()} of {name}, predicted {predicted}: {share:.0%} positive"
    return Tile(method, photograph(colours), alt)
