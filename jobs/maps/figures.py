"""Pictures of the maps: the sky in Mollweide projection, and a row of mean attributions.

Drawn on matplotlib's objects, never on pyplot's global state, in the font that comes with it.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import PolyCollection
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Ellipse
from matplotlib.patheffects import withStroke
from matplotlib.text import Text
from matplotlib.ticker import MaxNLocator

from cluster.text import one_line

from .contents import COUNT
from .healpix import SkyTable, suggest_nside
from .mollweide import EQUATOR, POLE, cell_polygons, central_meridian, project
from .source import Origin
from .stacks import Floats, MeanAttribution

SIGNED = "RdBu_r"
"""Red is evidence for the class, blue against it."""

_COLOURS = {"count": "viridis", "accuracy": "cividis", "concentration": "plasma"}
"""Colour map by the first word of a quantity's name; all others are uncertainties, in magma."""


@dataclass(frozen=True)
class Ink:
    """Colours of everything that is not data."""

    text: str = "#1b1f24"
    """Letters, ticks and the outline."""
    line: str = "#9aa3ad"
    """Graticule."""
    ground: str = "#ffffff"
    """Behind the picture."""
    empty: str = "#c9ced6"
    """Cells whose mean is masked."""


LIGHT = Ink()
DARK = Ink(text="#e6e8eb", line="#5b6470", ground="#15181d", empty="#3a4048")


def draw_sky(
    table: SkyTable,
    name: str,
    title: str,
    *,
    limits: tuple[float, float] | None = None,
    ink: Ink = LIGHT,
) -> bytes:
    """Draw one quantity on the whole sky as PNG.

    Parameters
    ----------
    name : ``count`` or one of the table's means
    title : first line above the map
    limits : ends of the colour scale; by default the 2nd and 98th percentile of the cells
    ink : colours of text and lines
    """
    values = table.count.astype(np.float64) if name == "count" else table.means[name].mean
    low, high = limits or colour_limits(name, [values])
    with styled(ink):
        figure = Figure(figsize=(7.4, 4.75), dpi=140, facecolor=ink.ground)
        axes = figure.add_axes((0.01, 0.19, 0.98, 0.7))
        centre = central_meridian(table.centres()[0])
        _draw_graticule(axes, centre, ink)
        polygons, owner = cell_polygons(table.cells, table.level, centre)
        colours = mpl.colormaps[_COLOURS.get(name.split("_")[0], "magma")].with_extremes(
            bad=ink.empty
        )
        drawn = PolyCollection(list(polygons), cmap=colours)
        drawn.set_array(np.ma.masked_invalid(values[owner]))
        drawn.set_norm(Normalize(low, high))
        drawn.set_edgecolor("face")
        drawn.set_linewidth(0.3)
        axes.add_collection(drawn)
        _draw_colour_bar(figure, drawn, table, name, (low, high))
        figure.text(0.985, 0.2, masked_note(table, name), ha="right", fontsize=9, color=ink.text)
        axes.set_title(_short(title, 80), fontsize=12.5, pad=8, color=ink.text)
        return png(figure)


def masked_note(table: SkyTable, name: str) -> str:
    """Say what grey cells are, if there are any; if most are, which nside would show them."""
    if name == "count" or np.isfinite(table.means[name].mean).all():
        return ""
    few = f"fewer than {table.min_count} objects" if table.min_count > 1 else "no object"
    shown = np.isfinite(table.means[name].mean)
    if 2 * shown.sum() >= len(shown):
        return f"grey: {few}"
    nside = suggest_nside(table, name)
    cure = f"try nside: {nside}" if nside else "lower min_count"
    return f"grey: {few}\nin {'most cells' if shown.any() else 'every cell'}: {cure}"


def draw_mean_attribution(
    stack: MeanAttribution, title: str, *, origin: Origin, ink: Ink = LIGHT
) -> bytes:
    """Draw the mean map of every group on one signed scale as PNG.

    Parameters
    ----------
    origin : where row 0 belongs; ``lower`` shows the sky as FITS viewers do
    """
    scale = signed_scale([stack.mean])
    columns = min(max(len(stack.groups), 1), 6)
    rows = max(-(-len(stack.groups) // columns), 1)
    with styled(ink):
        width, height = 1.9 * columns + 1.1, 2.15 * rows + 0.7
        figure = Figure(
            figsize=(max(width, 5.6), height), dpi=130, facecolor=ink.ground, layout="constrained"
        )
        grid = figure.subplots(rows, columns, squeeze=False).ravel()
        picture = None
        for axes, name, number, mean in zip(
            grid, stack.groups, stack.number, stack.mean, strict=False
        ):
            picture = axes.imshow(mean, cmap=SIGNED, vmin=-scale, vmax=scale, origin=origin)
            axes.set_title(f"{_short(name)}\nN = {number:,}", fontsize=9)
        for axes in grid:
            axes.set_axis_off()
        if picture is not None:
            bar = figure.colorbar(picture, ax=list(grid), shrink=0.85, aspect=18, pad=0.02)
            unit = "" if stack.units == "1" else f" [{stack.units}]"
            bar.set_label(f"{_short(stack.long_name, 36)}{unit}", fontsize=8)
            bar.ax.tick_params(labelsize=8)
        figure.suptitle(_short(title, 80), fontsize=11)
        return png(figure)


def colour_limits(name: str, values: Sequence[Floats]) -> tuple[float, float]:
    """Return the ends of a colour scale that several maps of one quantity share."""
    every = np.concatenate([np.ravel(array) for array in values])
    every = every[np.isfinite(every)]
    if not every.size:
        return 0.0, 1.0
    low, high = (float(limit) for limit in np.percentile(every, (2, 98)))
    if name == "count":
        return 0.0, max(high, 1.0)
    if high - low < 1e-9:
        low, high = low - 0.05, high + 0.05
    return low, high


def signed_scale(maps: Sequence[Floats], percentile: float = 99.5) -> float:
    """Return the end of a scale that is symmetric about zero; a few strongest pixels saturate."""
    every = np.concatenate([np.abs(np.ravel(array)) for array in maps]) if maps else np.empty(0)
    every = every[np.isfinite(every)]
    return float(np.percentile(every, percentile)) or 1.0 if every.size else 1.0


def png(figure: Figure) -> bytes:
    """Render a figure; the bytes depend on nothing but the figure."""
    FigureCanvasAgg(figure)
    for text in figure.findobj(Text):
        lines = text.get_text().split("\n")
        if not all(line.isprintable() for line in lines):  # a control character has no glyph
            text.set_text("\n".join(map(one_line, lines)))
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()


@contextmanager
def styled(ink: Ink) -> Iterator[None]:
    """Draw with matplotlib's own defaults, whatever the user's configuration says."""
    style: dict[str, Any] = {k: v for k, v in mpl.rcParamsDefault.items() if k != "backend"}
    style |= {
        "font.family": ["DejaVu Sans"],
        "text.color": ink.text,
        "axes.labelcolor": ink.text,
        "axes.edgecolor": ink.line,
        "xtick.color": ink.text,
        "ytick.color": ink.text,
        "text.parse_math": False,
    }
    with mpl.rc_context(cast("Any", style)):
        yield


def _draw_graticule(axes: Axes, centre: float, ink: Ink) -> None:
    axes.add_patch(
        Ellipse(
            (0, 0), 2 * EQUATOR, 2 * POLE, fill=False, edgecolor=ink.line, linewidth=1.0, zorder=3
        )
    )
    dec = np.linspace(-90, 90, 91)
    halo = withStroke(linewidth=2.5, foreground=ink.ground)
    letters: dict[str, Any] = {"fontsize": 9, "zorder": 4, "path_effects": [halo]}
    for ra in range(0, 360, 30):
        offset = (ra - centre + 180.0) % 360.0 - 180.0
        if abs(offset) < 180.0:
            axes.plot(*project(np.full_like(dec, offset), dec), color=ink.line, lw=0.4, zorder=0)
        if ra % 60 == 0 and abs(offset) < 170.0:
            x, y = project(np.array([offset]), np.array([0.0]))
            axes.text(x[0], y[0], f"{ra}°", ha="center", va="bottom", **letters)
    for parallel in range(-60, 90, 30):
        x, y = project(np.array([-180.0, 180.0]), np.full(2, float(parallel)))
        axes.plot(x, y, color=ink.line, lw=0.4, zorder=0)
        if parallel:
            axes.text(x[1] - 0.04, y[1], f"{parallel:+d}°", ha="right", va="center", **letters)
    axes.set_xlim(-EQUATOR * 1.09, EQUATOR * 1.09)
    axes.set_ylim(-POLE * 1.03, POLE * 1.03)
    axes.set_aspect("equal")
    axes.set_axis_off()


def _draw_colour_bar(
    figure: Figure, drawn: PolyCollection, table: SkyTable, name: str, limits: tuple[float, float]
) -> None:
    quantity = COUNT if name == "count" else table.means[name].quantity
    values: Floats = np.ma.compressed(np.ma.asarray(drawn.get_array()))
    ends = bool((values < limits[0]).any()), bool((values > limits[1]).any())
    extend = {(True, True): "both", (True, False): "min", (False, True): "max"}.get(ends, "neither")
    place = figure.add_axes((0.24, 0.125, 0.52, 0.032))
    # Half an object is none: ticks of a count are whole numbers.
    ticks = MaxNLocator(nbins=6, integer=True) if quantity == COUNT else None
    bar = figure.colorbar(drawn, cax=place, orientation="horizontal", extend=extend, ticks=ticks)
    bar.set_label(quantity.axis_label, fontsize=11)
    bar.ax.tick_params(labelsize=10)


def _short(name: str, length: int = 22) -> str:
    return name if len(name) <= length else name[: length - 1] + "…"
