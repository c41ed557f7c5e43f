"""Galaxies beside their attribution maps, class by class, on one scale per method."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..maps.contents import MapArray
from ..maps.figures import signed_scale
from ..maps.source import Origin
from .class_maps import class_pixels, class_rgb
from .examples import Example, choose_examples
from .facts import Floats, RunFacts
from .pixels import ReadPixels
from .readings import readable
from .rows import pixel_maps
from .tiles import enlarge, galaxy_rgb, outline, photograph, signed_rgb, upright, white_balance

MAX_TILES = 420
"""Pictures of objects on the page; classes then show fewer objects each."""
MAX_CLASSES = 12


@dataclass(frozen=True)
class Tile:
    """A picture in the grid."""

    column: str
    """``galaxy``, or the name of an array of maps."""
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
    The grids, and the end of the colour scale of each array of maps, the same for all runs
    """
    classes = class_names(runs)[:MAX_CLASSES]
    columns = 1 + max(
        (len(facts.source.maps) + len(facts.source.class_maps) for facts in runs), default=0
    )
    tiles = len(runs) * len(classes) * columns * 3
    each = min(2, max(1, MAX_TILES // max(1, tiles)))
    chosen = [
        {
            name: choose_examples(facts, facts.classes.index(name), each)
            for name in classes
            if name in facts.classes
        }
        for facts in runs
    ]
    maps = [_read_maps(facts, picks) for facts, picks in zip(runs, chosen, strict=True)]
    scales = {
        name: signed_scale([m for found in maps for (of, _), m in found.items() if of == name])
        for name in sorted({name for facts in runs for name in facts.source.maps})
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
    """Read the maps of the chosen objects, by name and row."""
    positions = [example.position for examples in picks.values() for example in examples]
    rows = facts.rows[np.array(positions, dtype=np.int64)]
    return {
        (name, row): values
        for name in facts.source.maps
        for row, values in pixel_maps(facts.source, name, rows)
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
        row: upright(galaxy_rgb(image, balance), facts.source.origin)
        for row, image in images.items()
        if image is not None
    }
    winners = {
        (name, row): numbers
        for name in facts.source.class_maps
        for row, numbers in class_pixels(facts.source, name, np.array(rows))
    }
    return {
        name: tuple(
            _draw_object(facts, example, pictures, maps, scales, winners) for example in examples
        )
        for name, examples in picks.items()
    }


def _draw_object(
    facts: RunFacts,
    example: Example,
    pictures: dict[int, NDArray[np.uint8]],
    maps: dict[tuple[str, int], Floats],
    scales: dict[str, float],
    winners: dict[tuple[str, int], NDArray[np.int64]],
) -> ShownObject:
    position = example.position
    row = int(facts.rows[position])
    name = str(facts.source.read("catalogue/id", slice(row, row + 1))[0])
    labelled, predicted = bool(facts.labelled[position]), facts.classes[facts.predicted[position]]
    galaxy = pictures.get(row)
    tiles = [_galaxy_tile(name, galaxy)]
    tiles += [
        _map_tile(array, name, maps[of, row], scales[of], facts.source.origin, galaxy)
        for of, array in facts.source.maps.items()
    ]
    tiles += [_class_tile(of, name, winners[of, row], facts) for of in facts.source.class_maps]
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
    array: MapArray,
    name: str,
    values: Floats,
    scale: float,
    origin: Origin,
    galaxy: NDArray[np.uint8] | None,
) -> Tile:
    if not np.isfinite(values).any():
        alt = f"{name} has no map of this method: its first target is missing"
        return Tile(array.name, "", alt)
    colours = enlarge(upright(signed_rgb(values, scale), origin), smooth=False)
    if galaxy is not None:
        colours = outline(colours, galaxy)
    share = float(np.maximum(values, 0).sum() / np.abs(values).sum()) if values.any() else 0.0
    alt = f"{readable(array.name).capitalize()} of {name}: {array.long_name}, {share:.0%} positive"
    return Tile(array.name, photograph(colours), alt)


def _class_tile(of: str, name: str, numbers: NDArray[np.int64], facts: RunFacts) -> Tile:
    classes, (winner, count) = facts.classes, _most_common(numbers)
    colours = upright(class_rgb(numbers, len(classes)), facts.source.origin)
    known = 0 <= winner < len(classes)
    text = f"{classes[winner]} in {count / numbers.size:.0%}" if known else "no class"
    alt = f"{readable(of).capitalize()} of {name}: {text}"
    return Tile(of, photograph(enlarge(colours, smooth=False)), alt)


def _most_common(numbers: NDArray[np.int64]) -> tuple[int, int]:
    values, counts = np.unique(numbers, return_counts=True)
    return int(values[counts.argmax()]), int(counts.max())
