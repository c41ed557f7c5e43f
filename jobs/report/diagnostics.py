"""What diagnostics jobs show: gradients by layer, depth and overfitting, each with a sentence."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import zarr

from cluster.place import Place
from cluster.reading import zarr_store
from training.gradient_flow import linear_product

from ..run.status import STORE
from .charts import Axes, Chart, Series, draw_chart
from .grids import Fits, Floats, grid_charts, read_fits, settings_beside

_LOST = 1e3
"""A gradient that changes by more than this from the last layer to the first vanishes or
explodes."""
_LEARNS = 0.1
"""Share by which a loss must fall to count as learning."""
_FACTORS = (0.5, 0.9, 1.0, 1.1, 1.5)
"""Entries of the diagonal layers of the linear network."""
_SMALLEST = 1e-40


def diagnostics_charts(run: Place) -> list[Chart]:
    """Chart all studies of a diagnostics run."""
    group = zarr.open_group(zarr_store(run / STORE), mode="r")
    charts = []
    for fits in read_fits(run):
        if _is_traced(group, fits):
            charts += _trace_charts(group, fits)
        else:
            charts += [*grid_charts(fits), *_curves(group, fits)]
    return charts


def _array(group: zarr.Group, path: str) -> Any:
    array = group[path]
    assert isinstance(array, zarr.Array)
    return array[...]


def _is_traced(group: zarr.Group, fits: Fits) -> bool:
    return "trace" in group and bool(str(_array(group, "trace/layers")[fits.rows[0]]))


def _trace_charts(group: zarr.Group, fits: Fits) -> list[Chart]:
    """Chart the gradient in each layer, a line for each value of the field that varies most."""
    gradient = np.asarray(_array(group, "trace/gradient"), np.float64)[list(fits.rows), 0]
    loss = np.asarray(_array(group, "trace/loss"), np.float64)[list(fits.rows)]
    deepest, depth = _largest(fits)
    values = {path: list(dict.fromkeys(_values(fits, path, deepest))) for path in fits.compared}
    lines = max(values, key=lambda path: len(values[path]))
    others = [path for path in values if path != lines]
    charts = []
    for combination in itertools.product(*(values[path] for path in others)):
        wanted = dict(zip(others, combination, strict=True))
        rows = [row for row in deepest if all(_said(fits, row, p) == v for p, v in wanted.items())]
        if rows:
            charts.append(_gradient_chart(fits, rows, lines, wanted, gradient, loss))
    return [*charts, _linear_chart(depth or gradient.shape[1])]


def _largest(fits: Fits) -> tuple[list[int], int]:
    """Return the fits whose numbers are the largest, such as the deepest, and that number."""
    rows, largest = list(range(len(fits.settings))), 0
    for path in fits.compared:
        found = [fits.settings[row][path] for row in rows]
        if all(isinstance(v, int | float) and not isinstance(v, bool) for v in found):
            largest = max(found)
            rows = [row for row in rows if fits.settings[row][path] == largest]
    return rows, int(largest)


def _said(fits: Fits, row: int, path: str) -> str:
    return json.dumps(fits.settings[row][path])


def _values(fits: Fits, path: str, rows: Sequence[int]) -> list[str]:
    return [_said(fits, row, path) for row in rows]


def _gradient_chart(
    fits: Fits,
    rows: Sequence[int],
    lines: str,
    wanted: Mapping[str, str],
    gradient: Floats,
    loss: Floats,
) -> Chart:
    series, factors, falls = [], {}, {}
    for row in rows:
        name = str(fits.settings[row][lines])
        known = gradient[row][: _count(gradient[row])]
        y = np.log10(np.maximum(known, _SMALLEST))
        series.append(Series(name, list(range(1, len(y) + 1)), y.tolist()))
        # The last layer is the head, whose gradient is the loss's own.
        factors[name] = float(known[0] / known[-2]) if known[-2] > 0 else 0.0
        ends = loss[row][np.isfinite(loss[row])]
        finished = len(ends) == len(loss[row][: _steps(loss)])
        falls[name] = 1 - ends[-1] / ends[0] if finished and ends[0] > 0 else math.nan
    with_ = ", ".join(f"{fits.label(path)} {json.loads(v)}" for path, v in wanted.items())
    axes = Axes(
        f"{fits.study}: gradient by layer" + (f", {with_}" if with_ else ""),
        "layer, from the input",
        "log10 of the gradient's rms",
        whole=True,
    )
    return draw_chart(axes, series, _gradient_reading(with_, factors, falls))


def _count(values: Floats) -> int:
    """Count layers: what follows the last one is NaN."""
    known = np.flatnonzero(~np.isnan(values))
    return int(known[-1]) + 1 if len(known) else 0


def _steps(loss: Floats) -> int:
    """Count the steps of the longest trace."""
    return int((~np.isnan(loss)).any(axis=0).sum())


def _gradient_reading(with_: str, factors: Mapping[str, float], falls: Mapping[str, float]) -> str:
    vanish = {name: f for name, f in factors.items() if f < 1 / _LOST}
    explode = {name: f for name, f in factors.items() if not f <= _LOST}
    kept = {n: f for n, f in factors.items() if n not in vanish and n not in explode}
    parts = []
    if vanish:
        parts.append(f"vanishes with {_listed(vanish)}")
    if explode:
        parts.append(f"explodes with {_listed(explode)}")
    if kept:
        low, high = min(kept.values()), max(kept.values())
        span = f"{low:.2g}" if low == high else f"{low:.2g} to {high:.2g}"
        parts.append(f"keeps its size with {_and(kept)} (factor {span})")
    learns = [name for name, fall in falls.items() if fall > _LEARNS]
    stuck = [name for name in falls if name not in learns]
    told = "all learn" if not stuck else f"{_and(learns) or 'none'} learn{'s' * (len(learns) == 1)}"
    return (
        f"{'With ' + with_ + ', f' if with_ else 'F'}rom the last layer to the first the gradient "
        f"{'; it '.join(parts)}. On one batch, {told} (the loss falls by more than "
        f"{_LEARNS:.0%} in the steps of the trace)."
    )


def _listed(factors: Mapping[str, float]) -> str:
    return _and([f"{name} (factor {factor:.0e})" for name, factor in factors.items()])


def _and(names: Sequence[str] | Mapping[str, Any]) -> str:
    *first, last = list(names) or [""]
    return f"{', '.join(first)} and {last}" if first else last


def _linear_chart(depth: int) -> Chart:
    """Chart the gradient of a linear network whose layers are all diag(w0, w1, ...)."""
    _, gradients = linear_product(_FACTORS, depth)
    layers = list(range(1, depth + 1))
    series = [
        Series(f"w = {factor}", layers, np.log10(column).tolist())
        for factor, column in zip(_FACTORS, gradients.T, strict=True)
    ]
    axes = Axes(
        "A linear network of layers diag(w0, w1)", "layers", "log10 of the gradient", whole=True
    )
    told = _and([f"{g:.2g} for w = {f}" for f, g in zip(_FACTORS, gradients[-1], strict=True)])
    return draw_chart(
        axes,
        series,
        f"The product of L layers is diag(w0^L, w1^L), so the derivative with respect to an entry "
        f"is w^(L-1): after {depth} layers {told}.",
    )


def _curves(group: zarr.Group, fits: Fits) -> list[Chart]:
    """Chart validation loss and gap against the epoch, means over the seeds."""
    named = settings_beside(fits, None)
    if len(named) < 2:
        return []
    charts = []
    for column, label in (("validation_loss", "validation loss"), ("gap", "gap of the losses")):
        values = np.asarray(_array(group, f"history/{column}"), np.float64)[list(fits.rows)]
        curves = {name: _mean(values[rows]) for name, rows in named.items()}
        series = [
            Series(name, list(range(1, len(curve) + 1)), curve.tolist(), every=len(curve))
            for name, curve in curves.items()
        ]
        read = _loss_reading if column == "validation_loss" else _gap_reading
        axes = Axes(f"{fits.study}: {label}", "epoch", label, whole=True)
        charts.append(draw_chart(axes, series, read(curves)))
    return charts


def _mean(values: Floats) -> Floats:
    """Average curves over the epochs that all of them have."""
    curve: Floats = values.mean(axis=0)
    return curve[: _count(curve)]


def _loss_reading(curves: Mapping[str, Floats]) -> str:
    known = {name: curve for name, curve in curves.items() if len(curve)}
    if not known:
        return ""
    best = min(known, key=lambda name: known[name].min())
    risen = max(known, key=lambda name: known[name][-1] - known[name].min())
    curve = known[risen]
    text = f"The validation loss is lowest, {known[best].min():.3f}, with {best}."
    if curve[-1] > curve.min():
        text += (
            f" It rises most with {risen}: early stopping keeps {curve.min():.3f} of epoch "
            f"{int(curve.argmin()) + 1}, where the last one has {curve[-1]:.3f}."
        )
    return text


def _gap_reading(curves: Mapping[str, Floats]) -> str:
    ends = {name: float(curve[-1]) for name, curve in curves.items() if len(curve)}
    if not ends:
        return ""
    most, least = max(ends, key=lambda n: ends[n]), min(ends, key=lambda n: ends[n])
    return (
        f"At the end, the loss of validation exceeds that of training by {ends[most]:.3f} with "
        f"{most}, and by {ends[least]:.3f} with {least}."
    )
