"""Pictures of what layers learned: their filters, and what these respond to most strongly.

Shape suffixes: F filters, C channels of the image or of a filter, k ranks, y and x pixels.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image

from attribution.weights import Filters

from ..maps.figures import SIGNED, png
from ..maps.source import Origin
from .tiles import Bytes, upright

Floats = NDArray[np.floating]

_DPI = 120
_GREY, _WHITE = 128, 255
_MOST_FILTERS, _MOST_INPUTS, _MOST_MAPS = 256, 32, 64
_KERNEL, _CROP = 72, 56
"""Sides of a kernel, at most, and of a crop in a picture, in pixels, about."""
_MAP, _WIDTH = 64, 1400
"""Sides of a feature map, about, and of a row of objects, at most."""
_LABEL, _HEADER, _LEAST_WIDTH = 16, 44, 720
"""Pixels for a filter's number, for the title, and of the narrowest picture."""


@dataclass(frozen=True)
class Look:
    """How a survey's pixels become a picture."""

    origin: Origin = "lower"
    """Where row 0 belongs."""
    blue_first: bool = True
    """Whether three bands go from blue to red, as those of flux do, or are red, green, blue."""

    def rgb(self, shares_Cyx: Floats) -> Bytes:
        """Turn shares of the scale, 0 to 1, into colours (y, x, 3); NaN is grey.

        Three channels make a picture in colour, any other number its mean in grey.
        """
        shares = shares_Cyx
        if len(shares) != 3:
            shares = np.repeat(shares.mean(axis=0)[None], 3, axis=0)
        elif self.blue_first:
            shares = shares[::-1]
        shown = np.nan_to_num(np.clip(shares, 0, 1), nan=_GREY / 255)
        return upright(np.asarray(np.moveaxis(shown, 0, -1) * 255 + 0.5, np.uint8), self.origin)


def draw_filters(found: Filters, look: Look = Look()) -> bytes:
    """Draw the filters of a convolution on one scale that is symmetric about zero, as PNG.

    Filters of three inputs are drawn in colour, as the first layer sees them; filters of any other
    number of inputs in one row each, input by input.
    """
    weights = found.weights.reshape(*found.weights.shape[:2], -1, found.weights.shape[-1])
    filters, inputs = weights.shape[:2]
    scale = float(np.abs(weights).max()) or 1.0
    shown = weights[:_MOST_FILTERS, :_MOST_INPUTS] / scale
    dead = f", {int(found.dead.sum())} dead" if found.dead.any() else ""
    title = f"{found.layer}: {filters} filters of {inputs} inputs{dead}"
    if inputs == 3:
        columns = math.ceil(math.sqrt(len(shown)))
        side = _kernel_side(columns)
        canvas = _mosaic([_enlarged(look.rgb(kernel / 2 + 0.5), side) for kernel in shown], columns)
        scale_text = f"grey is 0, black {-scale:.3g} and white {scale:.3g} in every band"
    else:
        colours = mpl.colormaps[SIGNED]
        kernels = shown.reshape(-1, *shown.shape[2:]) / 2 + 0.5
        side = _kernel_side(shown.shape[1])
        tiles = [
            _enlarged(upright(colours(kernel, bytes=True)[..., :3], look.origin), side)
            for kernel in kernels
        ]
        # White is 0 here, so kernels are told apart by their distance.
        canvas = _mosaic(tiles, shown.shape[1], gap=4)
        scale_text = (
            f"rows are filters, columns inputs; white is 0, red {scale:.3g}, blue {-scale:.3g}"
        )
    if shown.shape[:2] != (filters, inputs):
        title += f"; the first {shown.shape[0]} and {shown.shape[1]} are shown"
    return _page(canvas, title, scale_text)


def draw_top(
    pixels_FkCyx: Mapping[str, Floats],
    title: str,
    look: Look = Look(),
    *,
    first: int = 0,
) -> bytes:
    """Draw what filters respond to most strongly as PNG, as Zeiler & Fergus 2014 in figure 2.

    Each filter has a square of its k strongest images' crops, and to the left of it the projections
    of the activations, in the same order.

    Parameters
    ----------
    pixels_FkCyx : crop, the part of each image that the activation sees, NaN where there is none;
        and projection, what in it makes the filter respond, if there is one
    title : first line above the picture
    look : how pixels become colours
    first : number of the first filter
    """
    crops_FkCyx, projections_FkCyx = pixels_FkCyx["crop"], pixels_FkCyx.get("projection")
    low, high = _limits(crops_FkCyx)
    side = math.ceil(math.sqrt(crops_FkCyx.shape[1]))
    panels = []
    for number, crops in enumerate(crops_FkCyx):
        squares = [[(crop - low) / (high - low) for crop in crops]]
        if projections_FkCyx is not None:
            squares.insert(0, [_about_zero(signal) for signal in projections_FkCyx[number]])
        drawn = [
            _mosaic([_enlarged(look.rgb(tile), _CROP) for tile in tiles], side) for tiles in squares
        ]
        panels.append(_mosaic(drawn, len(drawn), gap=4))
    columns = max(1, round(math.sqrt(len(panels) / len(squares))))
    canvas = _mosaic(panels, columns, gap=_LABEL)
    text = f"crops: the network's input, black {low:.3g}, white {high:.3g}"
    if projections_FkCyx is not None:
        text += "; projections (left): grey is 0, each on its own scale, symmetric about it"
    height, width = (size + _LABEL for size in panels[0].shape[:2])
    labels = {
        (number % columns * width + _LABEL, number // columns * height + _LABEL - 3): str(
            first + number
        )
        for number in range(len(panels))
    }
    return _page(canvas, title, text, labels)


def draw_features(what: str, maps_Fyx: Mapping[str, Floats], look: Look = Look()) -> bytes:
    """Draw what the filters of a layer do for some objects as PNG, all on one scale.

    Parameters
    ----------
    what : what is shown, for the title
    maps_Fyx : a map per filter by the object's identifier
    look : which way is up
    """
    shown = {name: maps[:_MOST_MAPS] for name, maps in maps_Fyx.items()}
    filters = len(next(iter(maps_Fyx.values())))
    values = np.concatenate([maps.ravel() for maps in shown.values()]).astype(np.float64)
    signed = bool(values.min() < 0)
    scale = float(np.percentile(np.abs(values), 99.8)) or 1.0
    colours = mpl.colormaps[SIGNED if signed else "inferno"]
    columns = math.ceil(math.sqrt(min(filters, _MOST_MAPS)))
    panels = []
    for maps in shown.values():
        shares = maps / (2 * scale) + 0.5 if signed else maps / scale
        tiles = [
            _enlarged(upright(colours(share, bytes=True)[..., :3], look.origin), _MAP)
            for share in np.clip(shares, 0, 1)
        ]
        panels.append(_mosaic(tiles, columns, gap=2))
    beside = max(1, min(len(panels), _WIDTH // panels[0].shape[1]))
    title = f"{what}: {filters} filters"
    if filters > _MOST_MAPS:
        title += f", the first {_MOST_MAPS} are shown"
    height, width = (size + _LABEL for size in panels[0].shape[:2])
    labels = {
        (number % beside * width + _LABEL, number // beside * height + _LABEL - 3): name
        for number, name in enumerate(shown)
    }
    text = (
        f"white is 0, red {scale:.3g}, blue {-scale:.3g}"
        if signed
        else (f"black is 0, the brightest yellow {scale:.3g} or more")
    )
    return _page(_mosaic(panels, beside, gap=_LABEL), title, text, labels)


def _kernel_side(columns: int) -> int:
    """Return the side of a kernel such that so many fill the page, within reason."""
    return min(max(_LEAST_WIDTH // columns - 4, 20), _KERNEL)


def _limits(crops: Floats) -> tuple[float, float]:
    known = crops[np.isfinite(crops)]
    if not known.size:
        return 0.0, 1.0
    low, high = (float(limit) for limit in np.percentile(known, (1, 99.5)))
    return low, high if high > low else low + 1.0


def _about_zero(signal: Floats) -> Floats:
    largest = float(np.nanmax(np.abs(signal), initial=0.0))
    return np.asarray(signal / (2 * (largest or 1.0)) + 0.5)


def _enlarged(colours: Bytes, side: int) -> Bytes:
    """Bring a picture to about a given side, its pixels as squares unless there are too many."""
    height, width = colours.shape[:2]
    factor = side / max(height, width)
    size = max(1, round(width * factor)), max(1, round(height * factor))
    how = Image.Resampling.NEAREST if factor >= 1 else Image.Resampling.LANCZOS
    return np.asarray(Image.fromarray(np.ascontiguousarray(colours)).resize(size, how))


def _mosaic(tiles: Sequence[Bytes], columns: int, gap: int = 1) -> Bytes:
    """Put tiles of one size side by side, row after row, on white."""
    height, width = (size + gap for size in tiles[0].shape[:2])
    rows = -(-len(tiles) // columns)
    shape = (rows * height + gap, min(columns, len(tiles)) * width + gap, 3)
    canvas = np.full(shape, _WHITE, dtype=np.uint8)
    for number, tile in enumerate(tiles):
        y, x = number // columns * height + gap, number % columns * width + gap
        canvas[y : y + height - gap, x : x + width - gap] = tile
    return canvas


def _page(
    canvas: Bytes, title: str, text: str, labels: Mapping[tuple[int, int], str] | None = None
) -> bytes:
    """Write two lines above a picture, and labels into it; its pixels stay as they are."""
    height, width = canvas.shape[:2]
    full = (max(width, _LEAST_WIDTH), height + _HEADER)
    figure = Figure(figsize=(full[0] / _DPI, full[1] / _DPI), dpi=_DPI, facecolor="white")
    axes = figure.add_axes((0, 0, width / full[0], height / full[1]))
    axes.imshow(canvas, interpolation="nearest", aspect="auto")
    axes.set_axis_off()
    for (x, y), label in (labels or {}).items():
        axes.text(x, y, label, fontsize=6, family="DejaVu Sans")
    style: dict[str, Any] = {"family": "DejaVu Sans", "va": "top", "parse_math": False}
    figure.text(8 / full[0], 1 - 6 / full[1], title, fontsize=9, **style)
    figure.text(8 / full[0], 1 - 26 / full[1], text, fontsize=7, **style)
    return png(figure)
