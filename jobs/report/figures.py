"""The report's figures, each with its one-sentence reading."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..maps import MapsProduct
from ..maps.build import figure_title
from ..maps.contents import Quantity
from ..maps.figures import DARK, LIGHT, colour_limits, draw_sky, masked_note, signed_scale
from . import readings
from .charts import Axes, Chart, Series, draw_chart, from_bins
from .facts import Floats, RunFacts
from .overlays import Tile, class_names
from .statistics import confusion, mean_by_class, quantile_bins, recall, reliability
from .tiles import diagram, enlarge, photograph, signed_rgb, upright


@dataclass(frozen=True)
class SkyMap:
    """A map of one quantity of one run, drawn for light and for dark pages."""

    light: str
    dark: str
    alt: str
    reading: str


@dataclass(frozen=True)
class SkyRow:
    """The maps of one quantity, one per run that has it."""

    title: str
    concentration: bool
    """Whether this is how concentrated a method's maps are."""
    maps: tuple[SkyMap, ...]


@dataclass(frozen=True)
class MeanRow:
    """The mean of one array of maps, by run and group, on one scale."""

    method: str
    long_name: str
    scale: float
    units: str
    reading: str
    runs: tuple[tuple[str, tuple[tuple[Tile, str, int], ...]], ...]


@dataclass(frozen=True)
class Confusion:
    """A confusion matrix: rows are labels, with counts, shares and a shade from 0 to 10."""

    run: str
    classes: tuple[str, ...]
    rows: tuple[tuple[str, tuple[tuple[int, float, int], ...]], ...]
    reading: str


def sky_rows(runs: Sequence[RunFacts]) -> list[SkyRow]:
    """Draw the sky maps; all maps of a quantity share one colour scale.

    A run without a position has none.
    """
    placed = [facts.product for facts in runs if len(facts.product.sky.cells)]
    quantities = {name: q for product in placed for name, q in product.quantities.items()}
    rows = []
    for name, quantity in quantities.items():
        having = [product for product in placed if name in product.quantities]
        limits = colour_limits(name, [_values(product, name) for product in having])
        maps = tuple(_sky_map(product, quantity, limits) for product in having)
        title = quantity.axis_label[0].upper() + quantity.axis_label[1:]
        rows.append(SkyRow(title, name.startswith("concentration_"), maps))
    return rows


def mean_rows(runs: Sequence[RunFacts]) -> list[MeanRow]:
    """Draw the mean attribution maps, one scale per method."""
    methods = dict.fromkeys(method for facts in runs for method in facts.product.stacks)
    rows = []
    for method in methods:
        having = [facts for facts in runs if method in facts.product.stacks]
        scale = signed_scale([facts.product.stacks[method].mean for facts in having])
        rows.append(
            MeanRow(
                method=method,
                long_name=having[0].product.stacks[method].long_name,
                scale=scale,
                units=having[0].product.stacks[method].units,
                reading=readings.mean_attributions(having, method),
                runs=tuple((facts.name, _mean_tiles(facts, method, scale)) for facts in having),
            )
        )
    return rows


def trend_charts(runs: Sequence[RunFacts]) -> list[Chart]:
    """Chart uncertainty and accuracy against seeing and magnitude, as far as they are known."""
    columns = dict.fromkeys(column for facts in runs for column in facts.columns)
    charts = []
    for column in columns:
        having = [facts for facts in runs if column in facts.columns]
        charts.append(_trend(having, column, "entropy", "mean predictive entropy [nat]"))
        judged = [facts for facts in having if facts.labelled.any()]
        if judged:
            charts.append(_trend(judged, column, "accuracy", "accuracy"))
    return charts


def calibration_chart(runs: Sequence[RunFacts]) -> Chart | None:
    """Chart accuracy against confidence; None without labels."""
    found = [(facts.name, result) for facts in runs if (result := reliability(facts))]
    if not found:
        return None
    axes = Axes(
        "Reliability",
        "probability of the predicted class",
        "accuracy",
        x_range=(0.0, 1.0),
        y_range=(0.0, 1.0),
        diagonal=True,
    )
    series = [from_bins(name, result.bins) for name, result in found]
    return draw_chart(axes, series, readings.calibration(found))


def confusions(runs: Sequence[RunFacts]) -> list[Confusion]:
    """Tabulate label against prediction for each run with labels."""
    found = []
    for facts in runs:
        if not facts.labelled.any():
            continue
        found.append(shaded(facts.name, facts.classes, confusion(facts), readings.mistakes(facts)))
    return found


def shaded(run: str, classes: Sequence[str], counts: NDArray[np.int64], reading: str) -> Confusion:
    """Shade a confusion matrix, counted by (label, predicted), by the share of each label."""
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    rows = tuple(
        (
            name,
            tuple(
                (int(n), float(s), round(10 * float(s)))
                for n, s in zip(counts[c], share[c], strict=True)
            ),
        )
        for c, name in enumerate(classes)
    )
    return Confusion(run, tuple(classes), rows, reading)


def concentration_charts(runs: Sequence[RunFacts]) -> list[Chart]:
    """Chart the mean Gini coefficient per class, one chart per method."""
    classes = class_names(runs)
    charts = []
    for method in dict.fromkeys(method for facts in runs for method in facts.gini):
        having = [facts for facts in runs if method in facts.gini]
        means = [(facts, mean_by_class(facts, facts.gini[method])) for facts in having]
        series = []
        for number, (facts, binned) in enumerate(means):
            place = [classes.index(facts.classes[round(x)]) for x in binned.x]
            shift = 0.12 * (number - (len(means) - 1) / 2)
            x = [p + shift for p in place]
            series.append(
                Series(facts.name, x, binned.y.tolist(), binned.error.tolist(), joined=False)
            )
        axes = Axes(
            readings.readable(method).capitalize(), "", "mean Gini coefficient", categories=classes
        )
        charts.append(draw_chart(axes, series, readings.concentration(method, means)))
    return charts


def training_charts(history: Mapping[str, list[float]]) -> list[Chart]:
    """Chart losses and accuracies against epochs."""
    epochs = history.get("epoch", [])
    charts = []
    for word, label in (("loss", "loss"), ("accuracy", "accuracy")):
        columns = [column for column in history if word in column]
        if columns and len(epochs):
            axes = Axes(word.capitalize(), "epoch", label, whole=True)
            series = [Series(readings.readable(c), epochs, history[c]) for c in columns]
            reading = readings.training(dict(history)) if word == "loss" else ""
            charts.append(draw_chart(axes, series, reading))
    return charts


def class_table(facts: RunFacts) -> list[tuple[str, int, float, float, dict[str, float]]]:
    """Tabulate per class: name, objects, recall, mean entropy, mean Gini by method."""
    found = recall(facts) if facts.labelled.any() else np.full(len(facts.classes), np.nan)
    rows = []
    for c, name in enumerate(facts.classes):
        here = facts.complete & (facts.group == c)
        gini = {method: _mean(values[here]) for method, values in facts.gini.items()}
        rows.append((name, int(here.sum()), float(found[c]), _mean(facts.entropy[here]), gini))
    return rows


def _trend(runs: Sequence[RunFacts], column: str, quantity: str, label: str) -> Chart:
    values = [
        facts.entropy
        if quantity == "entropy"
        else np.where(facts.labelled, facts.correct.astype(np.float64), np.nan)
        for facts in runs
    ]
    bins = [
        (facts.name, quantile_bins(facts.columns[column], np.where(facts.complete, y, np.nan)))
        for facts, y in zip(runs, values, strict=True)
    ]
    axes = Axes(f"{quantity.capitalize()} against {column}", _axis_label(runs[0], column), label)
    series = [from_bins(name, binned) for name, binned in bins]
    return draw_chart(axes, series, readings.trend(quantity, column, bins))


def _axis_label(facts: RunFacts, column: str) -> str:
    units = {"seeing": "arcsec FWHM", "magnitude": "mag"}.get(column, "")
    name = f"catalogue/{column}"
    stored = facts.source.attributes(name).get("units", "") if facts.source.has(name) else ""
    unit = units if stored in ("", "1") else str(stored)
    return f"{column} [{unit}]" if unit else column


def _values(product: MapsProduct, name: str) -> Floats:
    if name == "count":
        return product.sky.count.astype(np.float64)
    return product.sky.means[name].mean


def _sky_map(product: MapsProduct, quantity: Quantity, limits: tuple[float, float]) -> SkyMap:
    name, title = quantity.name, figure_title(product, quantity.long_name)
    light, dark = (
        diagram(draw_sky(product.sky, name, title, limits=limits, ink=ink)) for ink in (LIGHT, DARK)
    )
    reading = readings.sky(name, product.survey, product.sky)
    note = masked_note(product.sky, name).replace("\n", " ")
    if note:
        reading += f" {note[0].upper()}{note[1:]}."
    return SkyMap(
        light, dark, f"Map of the sky in Mollweide projection. {title}. {reading}", reading
    )


def _mean_tiles(facts: RunFacts, method: str, scale: float) -> tuple[tuple[Tile, str, int], ...]:
    stack = facts.product.stacks[method]
    tiles = []
    for name, number, mean in zip(stack.groups, stack.number, stack.mean, strict=True):
        colours = upright(signed_rgb(mean, scale), facts.product.origin)
        alt = f"Mean {readings.readable(method)} of {number:,} objects of {name} in {facts.name}"
        tiles.append(
            (Tile(method, photograph(enlarge(colours, smooth=False)), alt), name, int(number))
        )
    return tuple(tiles)


def _mean(values: Floats) -> float:
    known = values[np.isfinite(values)]
    return float(known.mean()) if known.size else float("nan")
