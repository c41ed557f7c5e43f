"""What a grid of fits came to: accuracy against each field that varies."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import zarr

from cluster.place import Place
from cluster.reading import zarr_store

from ..run.status import STORE
from ..specs.diagnostics import STUDY
from .charts import Axes, Chart, Series, draw_chart

Floats = np.ndarray[Any, np.dtype[np.float64]]

SEED = "fit.seed"
"""What differs in it is repeated, not compared."""
_MOST_SERIES = 6


@dataclass(frozen=True)
class Fits:
    """Fits of a run, or of one of its studies."""

    settings: tuple[Mapping[str, Any], ...]
    """What each sets, by dotted path."""
    accuracies: Mapping[str, Floats]
    """By what judges: ``test``, or ``validation`` where there is no test set, and further surveys;
    NaN for a fit that failed."""
    rows: tuple[int, ...]
    """Where they are among all fits of the run."""
    study: str = ""
    """What the fits are for, if the run is for several things."""

    @property
    def compared(self) -> list[str]:
        """The fields that vary, but for the seed."""
        return [path for path in self.settings[0] if path not in (SEED, STUDY)]

    def label(self, path: str) -> str:
        """Name a field without the section that it is in, where that is enough."""
        short = [other.partition(".")[2] for other in self.settings[0]]
        label = path.partition(".")[2]
        return label if label and short.count(label) == 1 else path


def read_fits(run: Place) -> list[Fits]:
    """Read what the fits of a training run came to, study by study."""
    group = zarr.open_group(zarr_store(run / STORE), mode="r", path="fit")

    def column(name: str) -> Any:
        array = group[name]
        assert isinstance(array, zarr.Array)
        return array[...]

    settings = [json.loads(str(text)) for text in column("setting")]
    found = {
        name.removesuffix("_accuracy"): np.asarray(column(name), dtype=np.float64)
        for name in sorted(group.array_keys(), key=lambda name: name != "test_accuracy")
        if name.endswith("_accuracy") and not name.endswith("balanced_accuracy")
    }
    known = {part: values for part, values in found.items() if np.isfinite(values).any()}
    if "test" in known:
        known.pop("validation", None)
    studies = dict.fromkeys(str(setting.get(STUDY, "")) for setting in settings)
    return [_study(name, settings, known) for name in studies]


def _study(
    name: str, settings: Sequence[Mapping[str, Any]], accuracies: Mapping[str, Floats]
) -> Fits:
    rows = tuple(row for row, s in enumerate(settings) if s.get(STUDY, "") == name)
    some = {part: values[list(rows)] for part, values in accuracies.items()}
    return Fits(tuple(settings[row] for row in rows), some, rows, name)


def grid_charts(fits: Fits) -> list[Chart]:
    """Chart accuracy against each field that varies, a line for each setting of the others."""
    return [
        _chart(fits, path, part, accuracy)
        for path in fits.compared or [SEED]
        for part, accuracy in fits.accuracies.items()
    ]


def _chart(fits: Fits, path: str, part: str, accuracy: Floats) -> Chart:
    values = list(dict.fromkeys(json.dumps(setting[path]) for setting in fits.settings))
    numbers = [json.loads(value) for value in values]
    numeric = all(isinstance(n, int | float) and not isinstance(n, bool) for n in numbers)
    places = numbers if numeric else list(range(len(values)))
    rows = [values.index(json.dumps(setting[path])) for setting in fits.settings]
    series = []
    for name, members in settings_beside(fits, path).items():
        means, errors = [], []
        for place in range(len(values)):
            found = accuracy[[row for row in members if rows[row] == place]]
            found = found[np.isfinite(found)]
            means.append(float(found.mean()) if len(found) else math.nan)
            errors.append(_standard_error(found))
        series.append(Series(name, places, means, errors, joined=numeric))
    names = [] if numeric else [str(number) for number in numbers]
    where = "test set" if part == "test" else part
    title = f"{fits.study}: a" if fits.study else "A"
    label = fits.label(path)
    axes = Axes(f"{title}ccuracy against {label}, {where}", label, "accuracy", categories=names)
    reading = _reading(accuracy, label, where, series, numbers)
    return draw_chart(axes, series, f"{reading}{_trend(series, numbers) if numeric else ''}")


def settings_beside(fits: Fits, path: str | None) -> dict[str, list[int]]:
    """Sort fits by what they set beside a field and the seed; together if that is too much."""
    others = [other for other in fits.compared if other != path]
    found: dict[str, list[int]] = {}
    for row, setting in enumerate(fits.settings):
        name = ", ".join(f"{fits.label(other)} {setting[other]}" for other in others) or "fits"
        found.setdefault(name, []).append(row)
    if len(found) <= _MOST_SERIES:
        return found
    return {"all others": list(range(len(fits.settings)))}


def _standard_error(found: Floats) -> float:
    return float(found.std(ddof=1) / math.sqrt(len(found))) if len(found) > 1 else 0.0


def _reading(
    accuracy: Floats, label: str, where: str, series: Sequence[Series], numbers: Sequence[Any]
) -> str:
    """Say where accuracy is highest."""
    points = [
        (y, error, number, line.name)
        for line in series
        for y, error, number in zip(line.y, line.error, numbers, strict=True)
        if math.isfinite(y)
    ]
    if not points:
        return "No fit has an accuracy."
    y, error, number, name = max(points, key=lambda point: point[0])
    at = f"{label} {number}" + (f" and {name}" if len(series) > 1 else "")
    low = min(point[0] for point in points)
    spread = f" ± {error:.3f}" if error else ""
    failed = int(np.isnan(accuracy).sum())
    lost = f" {failed} of {len(accuracy)} fits diverged." if failed else ""
    return (
        f"The accuracy on the {where} is highest, {y:.3f}{spread}, with {at}; the lowest is "
        f"{low:.3f}.{lost}"
    )


def _trend(series: Sequence[Series], numbers: Sequence[Any]) -> str:
    """Say of each line where it begins and where it ends."""
    ends = [
        f"{line.y[0]:.3f} to {line.y[-1]:.3f}" + (f" ({line.name})" if len(series) > 1 else "")
        for line in series
        if len(numbers) > 1 and math.isfinite(line.y[0]) and math.isfinite(line.y[-1])
    ]
    return f" From {numbers[0]} to {numbers[-1]} it goes from {', '.join(ends)}." if ends else ""
