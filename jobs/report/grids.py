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
from .charts import Axes, Chart, Series, draw_chart

_SEED = "fit.seed"
"""What differs in it is repeated, not compared."""
_MOST_SERIES = 6


@dataclass(frozen=True)
class Fits:
    """The fits of a run."""

    settings: tuple[Mapping[str, Any], ...]
    """What each sets, by dotted path."""
    accuracy: np.ndarray[Any, np.dtype[np.float64]]
    """Of the test set, or of the validation set where there is none; NaN for a fit that failed."""
    part: str
    """``test`` or ``validation``."""

    @property
    def compared(self) -> list[str]:
        """The fields that vary, but for the seed."""
        return [path for path in self.settings[0] if path != _SEED]


def read_fits(run: Place) -> Fits:
    """Read what the fits of a training run came to."""
    group = zarr.open_group(zarr_store(run / STORE), mode="r", path="fit")

    def column(name: str) -> Any:
        array = group[name]
        assert isinstance(array, zarr.Array)
        return array[...]

    settings = tuple(json.loads(str(text)) for text in column("setting"))
    for part in ("test", "validation"):
        accuracy = np.asarray(column(f"{part}_accuracy"), dtype=np.float64)
        if np.isfinite(accuracy).any():
            break
    return Fits(settings, accuracy, part)


def grid_charts(fits: Fits) -> list[Chart]:
    """Chart accuracy against each field that varies, a line for each setting of the others."""
    return [_chart(fits, path) for path in fits.compared or [_SEED]]


def _chart(fits: Fits, path: str) -> Chart:
    values = list(dict.fromkeys(json.dumps(setting[path]) for setting in fits.settings))
    numbers = [json.loads(value) for value in values]
    numeric = all(isinstance(n, int | float) and not isinstance(n, bool) for n in numbers)
    places = numbers if numeric else list(range(len(values)))
    rows = [values.index(json.dumps(setting[path])) for setting in fits.settings]
    series = []
    for name, members in _others(fits, path).items():
        means, errors = [], []
        for place in range(len(values)):
            found = fits.accuracy[[row for row in members if rows[row] == place]]
            found = found[np.isfinite(found)]
            means.append(float(found.mean()) if len(found) else math.nan)
            errors.append(_standard_error(found))
        series.append(Series(name, places, means, errors, joined=numeric))
    names = [] if numeric else [str(number) for number in numbers]
    axes = Axes(f"Accuracy against {path}", path, f"{fits.part} accuracy", categories=names)
    return draw_chart(axes, series, _reading(fits, path, series, numbers))


def _others(fits: Fits, path: str) -> dict[str, list[int]]:
    """Sort fits by what they set beside a field and the seed; together if that is too much."""
    others = [other for other in fits.compared if other != path]
    found: dict[str, list[int]] = {}
    for row, setting in enumerate(fits.settings):
        name = ", ".join(f"{other} {setting[other]}" for other in others) or "fits"
        found.setdefault(name, []).append(row)
    if len(found) <= _MOST_SERIES:
        return found
    return {"all others": list(range(len(fits.settings)))}


def _standard_error(found: np.ndarray[Any, np.dtype[np.float64]]) -> float:
    return float(found.std(ddof=1) / math.sqrt(len(found))) if len(found) > 1 else 0.0


def _reading(fits: Fits, path: str, series: Sequence[Series], numbers: Sequence[Any]) -> str:
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
    where = f"{path} {number}" + (f" and {name}" if len(series) > 1 else "")
    low = min(point[0] for point in points)
    spread = f" ± {error:.3f}" if error else ""
    failed = int(np.isnan(fits.accuracy).sum())
    lost = f" {failed} of {len(fits.accuracy)} fits diverged." if failed else ""
    return (
        f"The {fits.part} accuracy is highest, {y:.3f}{spread}, with {where}; the lowest is "
        f"{low:.3f}.{lost}"
    )
