"""Pictures of an activation atlas: icons, numbers of objects, classes, and surveys compared.

Shape suffixes: G cells along a side, rows from the bottom up, S surveys, K classes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LogNorm, Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from numpy.typing import NDArray
from PIL import Image

from ..atlas.cells import Cells
from ..maps.figures import LIGHT, png
from .class_maps import class_rgb
from .tiles import Bytes

_DPI = 120
_SIDE = 1280
"""Pixels of the atlas of icons, about."""
_LEAST_CELL, _FRAME = 24, 3
_SMALLEST = 0.55
"""Side of the icon with the fewest activations, relative to that with the most."""
_PANEL = 3.6
"""Inches of a small panel's side."""
_MOST_COLUMNS = 3
_COUNTS, _SHARES = "viridis", "PuOr_r"
_STYLE: dict[str, Any] = {"family": "DejaVu Sans", "parse_math": False, "color": LIGHT.text}


@dataclass(frozen=True, eq=False)
class AtlasPicture:
    """What all pictures of an atlas need."""

    survey: str
    """Names of the surveys, in words."""
    layer: str
    """Name of the layer."""
    classes: tuple[str, ...]
    """Class names in the order of the logits."""
    cells: Cells
    """How many objects of which kind are in each cell."""

    def title(self, what: str) -> str:
        """Return a title: of which survey and layer, what, of how many objects."""
        return f"{self.survey}, layer {self.layer}: {what} (N = {int(self.cells.count.sum()):,})"


def draw_tiles(picture: AtlasPicture, tiles: Sequence[Bytes], words: str) -> bytes:
    """Draw what each populated cell looks like in its place, as PNG.

    Parameters
    ----------
    picture : the cells
    tiles : colours (h, w, 3), in the order of the populated cells
    words : a sentence that says what they are
    """
    cells = picture.cells
    pixels = max(_LEAST_CELL, _SIDE // cells.side)
    canvas = np.full((cells.side * pixels, cells.side * pixels, 3), 255, dtype=np.uint8)
    most = cells.predicted.sum(axis=0).argmax(axis=-1)
    frames = class_rgb(most, len(picture.classes))
    places = np.argwhere(cells.populated)
    for (row, column), tile, size in zip(places, tiles, _sizes(cells), strict=True):
        side = max(2 * _FRAME + 2, round(size * (pixels - 2)))
        y = (cells.side - 1 - row) * pixels + (pixels - side) // 2
        x = column * pixels + (pixels - side) // 2
        canvas[y : y + side, x : x + side] = frames[row, column]
        inner = side - 2 * _FRAME
        canvas[y + _FRAME : y + _FRAME + inner, x + _FRAME : x + _FRAME + inner] = _resized(
            tile, inner
        )
    lines = (
        picture.title("activation atlas"),
        f"Neighbours are what the layer answers alike. {words}",
        f"Larger: more objects, {cells.minimum + 1} at least. Frame: the class that is predicted "
        "most often. Up, down, left and right have no meaning.",
    )
    return _framed(canvas, lines, picture.classes)


def draw_cells(picture: AtlasPicture) -> bytes:
    """Draw how many objects each cell has, and which class is predicted most, as PNG."""
    cells = picture.cells
    figure, (left, right) = _panels(2, picture.title("objects and predicted classes by cell"))
    _draw_counts(figure, left, cells.every, "objects per cell", "objects")
    by_class = cells.predicted.sum(axis=0)
    purity = by_class.max(axis=-1) / np.maximum(by_class.sum(axis=-1), 1)
    # White where all classes are as frequent, the class's own colour where there is no other.
    least = 1 / by_class.shape[-1]
    strength = np.clip((purity - least) / max(1 - least, 1e-9), 0.15, 1.0)[..., None]
    strength = np.where(by_class.sum(axis=-1, keepdims=True) > 0, strength, 0.0)
    colours = class_rgb(by_class.argmax(axis=-1), by_class.shape[-1]) / 255
    right.imshow(1 - strength * (1 - colours), origin="lower", interpolation="nearest")
    right.set_title("most frequent predicted class; paler: less pure", fontsize=9)
    right.legend(
        handles=_patches(picture.classes),
        loc="upper left",
        bbox_to_anchor=(1.01, 1.0),
        frameon=False,
        fontsize=8,
    )
    return png(figure)


def draw_surveys(picture: AtlasPicture, surveys: Sequence[str]) -> bytes:
    """Draw where the objects of each survey are, and of two also their shares, as PNG."""
    cells = picture.cells
    both = len(surveys) == 2
    figure, panels = _panels(len(surveys) + both, picture.title("surveys in one layout"))
    top = int(cells.count.max())
    for axes, name, count in zip(panels, surveys, cells.count, strict=False):
        title = f"{name} (N = {int(count.sum()):,})"
        _draw_counts(figure, axes, count, title, "objects", top)
    if both:
        axes, share = panels[-1], cells.share[1]
        colours = mpl.colormaps[_SHARES].with_extremes(bad=LIGHT.ground)
        drawn = axes.imshow(
            np.ma.masked_invalid(share), origin="lower", cmap=colours, vmin=0.0, vmax=1.0
        )
        axes.set_title(f"share of {surveys[1]}, each survey counted as one", fontsize=9)
        _bar(figure, axes, drawn, f"0: only {surveys[0]}    1: only {surveys[1]}")
    return png(figure)


def _sizes(cells: Cells) -> NDArray[np.float64]:
    """Return the relative side of each populated cell's icon, by the logarithm of its count."""
    number = np.log(cells.every[cells.populated])
    low, high = np.log(max(cells.minimum, 1)), number.max()
    share = (number - low) / (high - low) if high > low else np.ones_like(number)
    return _SMALLEST + (1 - _SMALLEST) * np.clip(share, 0.0, 1.0)


def _resized(tile: Bytes, side: int) -> Bytes:
    """Bring a picture to a square of a given side, the rest of which is white."""
    height, width = tile.shape[:2]
    factor = side / max(height, width)
    size = max(1, round(width * factor)), max(1, round(height * factor))
    how = Image.Resampling.BICUBIC if factor >= 1 else Image.Resampling.LANCZOS
    small = np.asarray(Image.fromarray(np.ascontiguousarray(tile)).resize(size, how))
    square = np.full((side, side, 3), 255, dtype=np.uint8)
    y, x = (side - small.shape[0]) // 2, (side - small.shape[1]) // 2
    square[y : y + small.shape[0], x : x + small.shape[1]] = small
    return square


def _framed(canvas: Bytes, lines: Sequence[str], classes: tuple[str, ...]) -> bytes:
    """Write lines above a picture, whose pixels stay as they are, and the classes below it."""
    height, width = canvas.shape[:2]
    top, bottom = 30 + 22 * len(lines), 44
    full = height + top + bottom
    figure = Figure(figsize=(width / _DPI, full / _DPI), dpi=_DPI, facecolor=LIGHT.ground)
    axes = figure.add_axes((0, bottom / full, 1, height / full))
    axes.imshow(canvas, interpolation="nearest", aspect="auto")
    axes.set_axis_off()
    for number, line in enumerate(lines):
        y, size = 1 - (14 + 24 * number) / full, 8 if number else 11
        figure.text(10 / width, y, line, va="top", fontsize=size, **_STYLE)
    figure.legend(handles=_patches(classes), loc="lower left", ncols=8, frameon=False, fontsize=9)
    return png(figure)


def _panels(count: int, title: str) -> tuple[Figure, list[Axes]]:
    columns = min(count, _MOST_COLUMNS)
    rows = math.ceil(count / columns)
    figure = Figure(
        figsize=(columns * (_PANEL + 0.9), rows * (_PANEL + 0.7) + 0.4),
        dpi=_DPI,
        facecolor=LIGHT.ground,
        layout="constrained",
    )
    figure.suptitle(title, fontsize=11, **_STYLE)
    grid = list(np.atleast_1d(figure.subplots(rows, columns)).ravel())
    for axes in grid:
        axes.set_xticks([])
        axes.set_yticks([])
        for spine in axes.spines.values():
            spine.set_color(LIGHT.line)
    for axes in grid[count:]:
        axes.set_axis_off()
    return figure, grid[:count]


def _draw_counts(
    figure: Figure,
    axes: Axes,
    count_GG: NDArray[np.int64],
    title: str,
    label: str,
    top: int | None = None,
) -> None:
    shown = np.ma.masked_equal(count_GG, 0)
    norm: Normalize = LogNorm(1, max(top or int(count_GG.max()), 2))
    drawn = axes.imshow(shown, origin="lower", cmap=_COUNTS, norm=norm, interpolation="nearest")
    axes.set_title(title, fontsize=9)
    _bar(figure, axes, drawn, label)


def _bar(figure: Figure, axes: Axes, drawn: ScalarMappable, label: str) -> None:
    bar = figure.colorbar(drawn, ax=axes, orientation="horizontal", shrink=0.8, aspect=30, pad=0.02)
    bar.set_label(label, fontsize=8)
    bar.ax.tick_params(labelsize=8)


def _patches(classes: tuple[str, ...]) -> list[Patch]:
    colours = class_rgb(np.arange(len(classes))[None], len(classes))[0] / 255
    return [
        Patch(color=tuple(colour), label=name)
        for name, colour in zip(classes, colours, strict=True)
    ]
