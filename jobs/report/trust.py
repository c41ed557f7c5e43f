"""Which map deserves trust: the measures of quality of a run, one column each."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import zarr

from ..maps.contents import dimensions, method_groups
from ..maps.healpix import mean_and_error
from ..maps.objects import refuse_holes
from .charts import Axes, Chart, Series, draw_chart
from .facts import Floats, RunFacts
from .localisation import Localisation
from .statistics import Estimate
from .verdict import Column, reading

STEP = 4096
"""Objects whose curves are held at once."""


@dataclass(frozen=True)
class Measure:
    """A measure of quality, and where it is in the store."""

    path: str
    title: str
    good: Literal["low", "high"] | None
    note: str
    """What it says, and what is good."""
    value: Callable[[Floats], Floats] = lambda values: values
    """From (object, judged, ...) as stored to one number each, (object, judged)."""


MEASURES = (
    Measure("deletion/area", "Deletion area", "low", "score left as the map's pixels go; low"),
    Measure("insertion/area", "Insertion area", "high", "score as the map's pixels come; high"),
    Measure(
        "infidelity/infidelity_scaled",
        "Infidelity, scaled",
        "low",
        "squared error of the score that the map promises for a patch; low",
    ),
    Measure(
        "max_sensitivity/max_sensitivity",
        "Max-sensitivity",
        "low",
        "relative change of the map when the image hardly changes; low",
    ),
    Measure(
        "model_randomisation/rank_correlation",
        "Model randomisation",
        "low",
        "|rank correlation| with the map of a wholly random network; near 0",
        lambda values: np.abs(values[..., -1]),
    ),
)


@dataclass(frozen=True)
class Trust:
    """The measures of one run: a row per method, a column per measure."""

    run: str
    methods: tuple[str, ...]
    columns: tuple[Column, ...]
    reading: str
    charts: tuple[Chart, ...]


def judge(facts: RunFacts, localised: Sequence[Localisation]) -> Trust | None:
    """Tabulate the measures of quality that a run has; None if it has none."""
    judged = [
        Column(m.title, m.note, m.good, scores)
        for m in (*MEASURES, *_others(facts))
        if (scores := _scores(facts, m.path, m.value))
    ]
    if not judged:
        return None
    columns = [column for column in (*judged, _gaps(facts), *_truth(localised)) if column.scores]
    methods = dict.fromkeys(name for column in columns for name in column.scores)
    return Trust(
        run=facts.name,
        methods=tuple(methods),
        columns=tuple(columns),
        reading=reading(facts.name, list(methods), columns),
        charts=tuple(chart for name in ("Deletion", "Insertion") if (chart := _curve(facts, name))),
    )


def _scores(
    facts: RunFacts, path: str, value: Callable[[Floats], Floats] = lambda values: values
) -> dict[str, Estimate]:
    """Average a measure over the objects, by judged method."""
    if not facts.source.has(path):
        return {}
    mean, error = _average(facts, path, value)
    names = _judged(facts, path.split("/")[0])
    return {
        name: Estimate(float(m), float(e)) for name, m, e in zip(names, mean, error, strict=True)
    }


def _average(
    facts: RunFacts, path: str, value: Callable[[Floats], Floats]
) -> tuple[Floats, Floats]:
    """Return mean and standard error over the objects of the first target's values."""
    source, method = facts.source, path.split("/")[0]
    explained = dict(
        zip(facts.rows.tolist(), facts.explained(source.first_targets.get(method)), strict=True)
    )
    number, total, square = 0.0, np.zeros(()), np.zeros(())
    for span in facts.spans:
        for start in range(span.start, span.stop, STEP):
            rows = slice(start, min(start + STEP, span.stop))
            known = np.array([explained[row] for row in range(rows.start, rows.stop)])
            stored = source.read(path, rows, 0).astype(np.float64)
            holes = ~np.isfinite(stored).reshape(len(stored), -1).all(axis=1)
            refuse_holes(source, path, rows, known & holes)
            values = value(stored[known])
            number += len(values)
            total, square = total + values.sum(axis=0), square + np.square(values).sum(axis=0)
    return mean_and_error(np.asarray(number), total, square)


def _judged(facts: RunFacts, group: str) -> tuple[str, ...]:
    path = f"{group}/judged"
    names = facts.source.read(path, slice(0, facts.source.array(path).shape[0]))
    return tuple(str(name) for name in names)


def _others(facts: RunFacts) -> list[Measure]:
    """Find measures that are not named here; what is good is read from their convention."""
    known = {measure.path.split("/")[0] for measure in MEASURES}
    found = []
    for method, group in method_groups(facts.source.root):
        for name, array in sorted(group.arrays()):
            if method in known or dimensions(array) != ("object", "target", "judged"):
                continue
            convention = str(array.attrs.get("convention", ""))
            said = re.search(r"\b(low|high)\b[^;.]* is good", convention)
            good: Literal["low", "high"] | None = None
            if said:
                good = "low" if said[1] == "low" else "high"
            title = str(array.attrs.get("long_name", name.replace("_", " ")))
            found.append(Measure(f"{method}/{name}", title.capitalize(), good, convention))
    return found


def _gaps(facts: RunFacts) -> Column:
    scores = {}
    for name, array in facts.source.maps.items():
        path = f"{array.method}/completeness_gap"
        if array.explains and isinstance(facts.source.root.get(path), zarr.Array):
            mean, error = _average(facts, path, np.abs)
            scores[name] = Estimate(float(mean), float(error))
    note = "|sum of the map - difference of scores|; low"
    return Column("Completeness gap [logit]", note, "low", scores)


def _truth(localised: Sequence[Localisation]) -> list[Column]:
    """One column per feature. Evidence in a planted stamp is no merit: nothing is good there."""
    columns = []
    for feature in dict.fromkeys(entry.feature for entry in localised):
        scores = {
            entry.method: Estimate(entry.evidence, entry.error)
            for entry in localised
            if entry.feature == feature
        }
        good: Literal["high"] | None = "high" if feature.of_class else None
        note = f"share of the positive evidence{'; high' if good else ''}"
        columns.append(Column(f"Evidence in the {feature.words}", note, good, scores))
    return columns


def _curve(facts: RunFacts, name: str) -> Chart | None:
    path = f"{name.lower()}/curve"
    if not facts.source.has(path):
        return None
    mean, _ = _average(facts, path, lambda values: values)
    fraction = np.linspace(0.0, 1.0, mean.shape[-1]).tolist()
    series = [
        Series(method.replace("_", " "), fraction, values.tolist(), every=4)
        for method, values in zip(_judged(facts, name.lower()), mean, strict=True)
    ]
    long_name = str(facts.source.attributes(path).get("long_name", "score"))
    what = "removed" if name == "Deletion" else "put back"
    axes = Axes(name, f"share of the pixels {what}", f"mean {long_name.split(' as ')[0]}")
    return draw_chart(axes, series)
