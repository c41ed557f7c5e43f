"""Which objects are most worth labelling: those with the highest of some number (active learning).

Monte-Carlo dropout's mutual information is how much the network's weights disagree on an object,
what a label can settle (BALD: Houlsby et al. 2011; Gal, Islam & Ghahramani 2017; for galaxies
Walmsley et al. 2020).
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cluster.place import Place

from ..errors import RefusedError
from ..survey.text import did_you_mean
from .source import COMPLETE, RunSource, open_source

Floats = NDArray[np.float64]
_Facts = tuple[str, float, float, str]


def _least_confidence(p_NK: Floats) -> Floats:
    found: Floats = 1.0 - p_NK.max(axis=1)
    return found


def _margin(p_NK: Floats) -> Floats:
    first, second = np.sort(p_NK, axis=1)[:, :-3:-1].T
    found: Floats = 1.0 - (first - second)
    return found


def _entropy(p_NK: Floats) -> Floats:
    found: Floats = -np.sum(p_NK * np.log(np.maximum(p_NK, 1e-300)), axis=1)
    return found


_OF_PREDICTION: Mapping[str, Callable[[Floats], Floats]] = {
    "least_confidence": _least_confidence,
    "margin": _margin,
    "entropy": _entropy,
}
"""Scores of the softmax of a single pass, by their names in Settles (2009), section 3.1. The margin
is taken from 1, so that the highest is the most uncertain of each."""


@dataclass(frozen=True)
class Chosen:
    """An object that is worth a label."""

    rank: int
    """From 1."""
    id: str
    ra: float
    """Right ascension, degrees; NaN where unknown."""
    dec: float
    """Declination, degrees."""
    predicted: str
    """The class that the network gives it."""
    score: float
    """What it was chosen by."""
    label: str = ""
    """For whoever labels it; empty, also where the catalogue knows one."""


def select_objects(
    run: Place,
    by: str,
    count: int,
    exclude: Collection[str] = (),
    *,
    draw: int | None = None,
    partial: bool = False,
) -> list[Chosen]:
    """Return the objects of a run with the highest scores, the highest first.

    The highest of many objects are often alike, so that each tells little beside the others. A draw
    avoids that: objects are taken one after the other, with probabilities that go with their scores
    (Kirsch et al. 2023, power acquisition).

    Of equal scores, the object that comes first in the catalogue is first. Objects without a score
    are left out, as are quarantined ones. Memory is that of a block of objects, and of the result.

    Parameters
    ----------
    run
        Folder of an attribution run.
    by
        A number per object that a method has stored, such as ``mutual_information``, or
        ``entropy``, ``margin`` or ``least_confidence`` of the prediction.
    count
        How many.
    exclude
        Ids that are not to be chosen: they have a label.
    draw
        Seed of a draw; by default there is none.
    partial
        Choose among what an unfinished run has so far.

    Raises
    ------
    RefusedError
        If this is no attribution run, it is not finished, has no such number, or too few objects
        with it.
    """
    source = open_source(run)
    if not source.finished and not partial:
        raise RefusedError(
            f"{run}: the run is not finished, better objects may be missing; finish it with "
            f"`occulta resume {run}`, or choose among what there is with --partial"
        )
    score = _score(source, by)
    left_out = set(exclude)
    random = None if draw is None else np.random.default_rng(draw)
    best_merit, best_score, best_row = np.empty(0), np.empty(0), np.empty(0, np.int64)
    for rows in source.spans():
        found = np.where(source.status(rows) == COMPLETE, score(rows), np.nan)
        if left_out:
            ids = source.read("catalogue/id", rows)
            found[[str(name) in left_out for name in ids]] = np.nan
        known = np.flatnonzero(np.isfinite(found))
        # Drawn for every row, so that neither the blocks nor what is excluded matter.
        merit = found if random is None else _drawn(found, random)
        best_merit = np.concatenate([best_merit, merit[known]])
        best_score = np.concatenate([best_score, found[known]])
        best_row = np.concatenate([best_row, known + rows.start])
        order = np.lexsort((best_row, -best_merit))[:count]
        best_merit, best_score, best_row = best_merit[order], best_score[order], best_row[order]
    if len(best_row) < count:
        raise RefusedError(
            f"--n {count}: {run} has {len(best_row)} objects with a {by} that are not excluded; "
            "ask for fewer"
        )
    described = _describe(source, best_row)
    chosen = []
    for rank, (row, value) in enumerate(zip(best_row, best_score, strict=True), start=1):
        name, ra, dec, predicted = described[int(row)]
        chosen.append(Chosen(rank, name, ra, dec, predicted, float(value)))
    return chosen


def _drawn(scores: Floats, random: np.random.Generator) -> Floats:
    """Return numbers whose order is that of a draw without putting back (Gumbel-top-k)."""
    with np.errstate(divide="ignore", invalid="ignore"):
        found: Floats = np.log(np.maximum(scores, 0.0)) + random.gumbel(size=len(scores))
    return found


def selection_csv(chosen: Sequence[Chosen]) -> str:
    """Write objects as CSV, which training jobs take as ``only``."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(Chosen.__dataclass_fields__), lineterminator="\n")
    writer.writeheader()
    writer.writerows(vars(entry) for entry in chosen)
    return text.getvalue()


def _score(source: RunSource, by: str) -> Callable[[slice], Floats]:
    """Return what reads the scores of a block of objects."""
    if by in _OF_PREDICTION:
        return lambda rows: _OF_PREDICTION[by](_probabilities(source, rows))
    stored = {name: found.path for name, found in source.quantities.items() if not found.of_map}
    if by not in stored:
        known = [*stored, *_OF_PREDICTION]
        raise RefusedError(
            f"--by {by}: {source.path} has no such number per object"
            f"{did_you_mean(by, known)}; there are {', '.join(known)}"
        )
    return lambda rows: source.read(stored[by], rows).astype(np.float64)


def _probabilities(source: RunSource, rows: slice) -> Floats:
    logit = source.read("prediction/logit", rows).astype(np.float64)
    e = np.exp(logit - logit.max(axis=1, keepdims=True))
    found: Floats = e / e.sum(axis=1, keepdims=True)
    return found


def _describe(source: RunSource, rows: NDArray[np.int64]) -> dict[int, _Facts]:
    """Return id, place and predicted class of objects, by row."""
    found: dict[int, _Facts] = {}
    for span in source.spans():
        here = rows[(rows >= span.start) & (rows < span.stop)]
        if len(here):
            ids, ra, dec, logit = (
                source.read(name, span)[here - span.start]
                for name in ("catalogue/id", "catalogue/ra", "catalogue/dec", "prediction/logit")
            )
            predicted = [source.classes[k] for k in logit.argmax(axis=1)]
            entries = zip(map(str, ids), ra.tolist(), dec.tolist(), predicted, strict=True)
            found.update(zip(here.tolist(), entries, strict=True))
    return found
