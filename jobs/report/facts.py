"""The numbers of a run that the report speaks about: scalars of its objects, never their pixels."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cluster.place import Place

from ..errors import RefusedError
from ..maps import MapsProduct, aggregate_maps, read_store, spec_of
from ..maps.build import survey_name
from ..maps.objects import read_block
from ..maps.source import COMPLETE, QUARANTINED, RunSource, open_source

Floats = NDArray[np.float64]

MAX_OBJECTS = 1_000_000
"""Objects whose scalars are held; of a larger survey every k-th block is looked at."""

TREND_COLUMNS = {
    "seeing": ("seeing", "psf_fwhm", "psfsize_r"),
    "magnitude": ("magnitude", "mag", "mag_r", "r_mag"),
}
"""Catalogue columns that uncertainty is shown against, and the names they go by."""


@dataclass(frozen=True)
class RunFacts:
    """What the report knows of one run; arrays have one value per object looked at, (n,)."""

    source: RunSource
    """The run."""
    product: MapsProduct
    """Its maps."""
    name: str
    """What the page calls it."""
    spans: Sequence[slice]
    """Blocks of the catalogue that were looked at: all, or of a large survey an even selection."""
    rows: NDArray[np.int64]
    """Rows of the catalogue in `spans`."""
    status: NDArray[np.uint8]
    """As in the store."""
    label: NDArray[np.int64]
    """Class of the catalogue's label, -1 without one."""
    predicted: NDArray[np.int64]
    """Class of the highest logit, -1 unless complete."""
    probability: NDArray[np.float64]
    """(n, class) softmax of the logits; NaN unless complete."""
    entropy: Floats
    """Predictive entropy in nats; NaN unless complete."""
    entropy_from: str
    """Where the entropy comes from."""
    columns: Mapping[str, Floats]
    """Catalogue columns of `TREND_COLUMNS` that there are."""
    gini: Mapping[str, Floats]
    """Concentration of the first target's map, by method."""

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names."""
        return self.source.classes

    @property
    def complete(self) -> NDArray[np.bool_]:
        """Which objects have results."""
        return np.equal(self.status, COMPLETE)

    @property
    def labelled(self) -> NDArray[np.bool_]:
        """Which objects have results and a label that is a class."""
        return np.asarray(self.complete & (self.label >= 0))

    def explained(self, target: str | None) -> NDArray[np.bool_]:
        """Which objects have results for a target: without a label none for the label."""
        return self.labelled if target == "label" else self.complete

    @property
    def correct(self) -> NDArray[np.bool_]:
        """Which objects are labelled and classified as their label."""
        return np.asarray(self.labelled & (self.predicted == self.label))

    @property
    def confidence(self) -> Floats:
        """Probability of the predicted class."""
        confidence: Floats = self.probability.max(axis=1)
        return confidence

    @property
    def accuracy(self) -> float:
        """Share of the labelled objects that are classified as their label; NaN without any."""
        labelled = int(self.labelled.sum())
        return float(self.correct.sum() / labelled) if labelled else float("nan")

    @property
    def group(self) -> NDArray[np.int64]:
        """Class that an object is shown under: its label, or without any labels its prediction."""
        return self.label if self.labelled.any() else self.predicted

    @property
    def grouped_by(self) -> str:
        """Name of what `group` is."""
        return "label" if self.labelled.any() else "predicted class"


def load_facts(path: Place, *, partial: bool) -> RunFacts:
    """Read what the report says about a run; its maps are aggregated if they are missing or stale.

    Raises
    ------
    RefusedError
        If this is no attribution run, or it is not finished and `partial` is not set.
    """
    source = open_source(path)
    if not source.finished and not partial:
        raise RefusedError(
            f"{path}: the run is not finished, a report would miss objects; finish it with "
            f"`occulta resume {path}`, or report what there is with --partial"
        )
    spans = source.spans()[:: -(-source.objects // MAX_OBJECTS)]
    blocks = [read_block(source, rows) for rows in spans]
    dropout = source.has("mc_dropout/predictive_entropy")
    probability = np.concatenate([_softmax(source.read("prediction/logit", s)) for s in spans])
    entropy = (
        _column(source, "mc_dropout/predictive_entropy", spans)
        if dropout
        else _entropy(probability)
    )
    return RunFacts(
        source=source,
        product=_maps(source, partial=partial),
        name=survey_name(source),
        spans=spans,
        rows=np.concatenate([np.arange(s.start, s.stop) for s in spans]),
        status=np.concatenate([block.status for block in blocks]),
        label=np.concatenate([block.label for block in blocks]),
        predicted=np.concatenate([block.predicted for block in blocks]),
        probability=probability,
        entropy=entropy,
        entropy_from="Monte-Carlo dropout" if dropout else "the softmax of the logits",
        columns=_trend_columns(source, spans),
        gini={
            quantity.of_map: _column(source, quantity.path, spans, 0)
            for quantity in source.quantities.values()
            if quantity.of_map
        },
    )


def read_quarantine(path: Place, limit: int) -> tuple[list[dict[str, str]], int]:
    """Read the first rows of quarantine.csv, and count all."""
    try:
        text = (path / "quarantine.csv").read_bytes().decode()
    except FileNotFoundError:
        return [], 0
    lines = csv.DictReader(io.StringIO(text, newline=""))
    rows = [{k: v or "" for k, v in row.items() if k} for row in lines]
    return rows[:limit], len(rows)


def count_status(source: RunSource) -> dict[str, int]:
    """Count all objects of a run by their status."""
    status = np.concatenate([source.status(rows) for rows in source.spans()])
    return {
        "objects": len(status),
        "complete": int((status == COMPLETE).sum()),
        "quarantined": int((status == QUARANTINED).sum()),
        "pending": int((status == 0).sum()),
    }


def _maps(source: RunSource, *, partial: bool) -> MapsProduct:
    """Return the maps of exactly these results."""
    try:
        product = read_store(source.path / "maps")
    except (OSError, KeyError, ValueError):
        product = None
    digest = source.manifest.get("results_digest")
    if product is not None and digest and product.results_digest == digest:
        return product
    return aggregate_maps(source.path, spec_of(source.job), partial=partial)


def _trend_columns(source: RunSource, spans: list[slice]) -> dict[str, Floats]:
    found = {}
    for name, aliases in TREND_COLUMNS.items():
        alias = next((a for a in aliases if source.has(f"catalogue/{a}")), None)
        if alias and source.array(f"catalogue/{alias}").dtype.kind in "fiu":
            found[name] = _column(source, f"catalogue/{alias}", spans)
    return found


def _column(source: RunSource, name: str, spans: list[slice], *more: Any) -> Floats:
    return np.concatenate([source.read(name, rows, *more).astype(np.float64) for rows in spans])


def _softmax(logit: NDArray[np.floating]) -> Floats:
    shifted = logit.astype(np.float64) - logit.max(axis=1, keepdims=True)
    odds = np.exp(shifted)
    share: Floats = odds / odds.sum(axis=1, keepdims=True)
    return share


def _entropy(probability: Floats) -> Floats:
    """Return the entropy in nats, with 0 log 0 = 0."""
    logarithm = np.log(np.where(probability > 0, probability, 1.0))
    total: Floats = -(probability * logarithm).sum(axis=1)
    return total
