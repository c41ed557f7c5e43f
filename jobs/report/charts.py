"""Charts as geometry: the page draws them as SVG in the colours of its theme."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from .statistics import Binned

WIDTH, HEIGHT = 460, 300
LEFT, RIGHT, TOP, BOTTOM = 68, 14, 14, 46


@dataclass(frozen=True)
class Series:
    """One line of a chart, in its units."""

    name: str
    """For the legend."""
    x: Sequence[float]
    """Positions."""
    y: Sequence[float]
    """Values; NaN is left out."""
    error: Sequence[float] = ()
    """Standard errors of `y`, or none."""
    joined: bool = True
    """Whether a line joins the points."""
    every: int = 1
    """One of how many points has a marker."""


@dataclass(frozen=True)
class Point:
    """A point in the chart's pixels, with what a pointer over it says."""

    x: float
    y: float
    low: float | None
    high: float | None
    text: str


@dataclass(frozen=True)
class DrawnSeries:
    """A series in the chart's pixels."""

    name: str
    path: str
    points: tuple[Point, ...]


@dataclass(frozen=True)
class Chart:
    """A chart, ready to be drawn."""

    title: str
    x_label: str
    y_label: str
    series: tuple[DrawnSeries, ...]
    x_ticks: tuple[tuple[float, str], ...]
    y_ticks: tuple[tuple[float, str], ...]
    diagonal: tuple[float, float, float, float] | None = None
    reading: str = ""
    width: int = WIDTH
    height: int = HEIGHT
    left: int = LEFT
    right: int = RIGHT
    top: int = TOP
    bottom: int = BOTTOM


@dataclass(frozen=True)
class Axes:
    """What a chart is of."""

    title: str
    """Heading."""
    x_label: str
    """With units."""
    y_label: str
    """With units."""
    categories: Sequence[str] = ()
    """Names of the positions 0, 1, ... on the x axis, instead of numbers."""
    x_range: tuple[float, float] | None = None
    """Ends of the x axis; by default those of the data."""
    y_range: tuple[float, float] | None = None
    """The same for y."""
    diagonal: bool = False
    """Whether to draw the line y = x."""
    whole: bool = field(default=False)
    """Whether x counts something, so that ticks are whole numbers."""


def draw_chart(axes: Axes, series: Sequence[Series], reading: str = "") -> Chart:
    """Lay a chart out."""
    x_low, x_high = axes.x_range or _x_range(axes, series)
    y_low, y_high = axes.y_range or _y_range(series)

    def across(x: float) -> float:
        return LEFT + (x - x_low) / (x_high - x_low) * (WIDTH - LEFT - RIGHT)

    def up(y: float) -> float:
        return HEIGHT - BOTTOM - (y - y_low) / (y_high - y_low) * (HEIGHT - TOP - BOTTOM)

    drawn = []
    for each in series:
        errors = each.error if len(each.error) else [math.nan] * len(each.x)
        points = tuple(
            Point(
                x=across(x),
                y=up(y),
                low=up(max(y - e, y_low)) if math.isfinite(e) else None,
                high=up(min(y + e, y_high)) if math.isfinite(e) else None,
                text=f"{each.name}: {_place(axes, x)}, {y:.3g}" + (f" ± {e:.2g}" if e > 0 else ""),
            )
            for x, y, e in zip(each.x, each.y, errors, strict=True)
            if math.isfinite(x) and math.isfinite(y)
        )
        steps = " L".join(f"{point.x:.1f} {point.y:.1f}" for point in points)
        drawn.append(
            DrawnSeries(
                each.name, f"M{steps}" if each.joined and steps else "", points[:: each.every]
            )
        )
    low, high = max(x_low, y_low), min(x_high, y_high)
    return Chart(
        title=axes.title,
        x_label=axes.x_label,
        y_label=axes.y_label,
        series=tuple(drawn),
        x_ticks=tuple((across(x), text) for x, text in _x_ticks(axes, x_low, x_high)),
        y_ticks=tuple((up(y), f"{y:g}") for y in nice_ticks(y_low, y_high)),
        diagonal=(across(low), up(low), across(high), up(high)) if axes.diagonal else None,
        reading=reading,
    )


def from_bins(name: str, bins: Binned, *, joined: bool = True, shift: float = 0.0) -> Series:
    """Return binned means as a series."""
    return Series(
        name, (bins.x + shift).tolist(), bins.y.tolist(), bins.error.tolist(), joined=joined
    )


def nice_ticks(low: float, high: float, most: int = 6) -> list[float]:
    """Return round numbers between two ends: multiples of 1, 2 or 5 times a power of ten."""
    rough = (high - low) / most
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(m * power for m in (1.0, 2.0, 5.0, 10.0) if m * power >= rough)
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [round(number * step, 12) for number in range(first, last + 1)]


def _x_ticks(axes: Axes, low: float, high: float) -> list[tuple[float, str]]:
    if axes.categories:
        return [(float(place), _short(name)) for place, name in enumerate(axes.categories)]
    ticks = nice_ticks(low, high)
    return [(x, f"{x:g}") for x in ticks if not axes.whole or x == int(x)]


def _x_range(axes: Axes, series: Sequence[Series]) -> tuple[float, float]:
    if axes.categories:
        return -0.5, len(axes.categories) - 0.5
    return _padded(np.concatenate([np.asarray(each.x, float) for each in series]), 0.04)


def _y_range(series: Sequence[Series]) -> tuple[float, float]:
    ends = []
    for each in series:
        y = np.asarray(each.y, float)
        error = np.nan_to_num(np.asarray(each.error, float)) if len(each.error) else 0.0
        ends += [y - error, y + error]
    return _padded(np.concatenate(ends), 0.08)


def _padded(
    values: np.ndarray[tuple[int, ...], np.dtype[np.float64]], by: float
) -> tuple[float, float]:
    known = values[np.isfinite(values)]
    if not known.size:
        return 0.0, 1.0
    low, high = float(known.min()), float(known.max())
    margin = (high - low) * by or abs(high) * 0.1 or 0.5
    return low - margin, high + margin


def _place(axes: Axes, x: float) -> str:
    return str(axes.categories[round(x)]) if axes.categories else f"{x:.3g}"


def _short(name: str, length: int = 12) -> str:
    return name if len(name) <= length else name[: length - 1] + "…"
