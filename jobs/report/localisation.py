"""Where the evidence lies against where the feature is: possible when the simulator knows."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray

from ..maps.source import RunSource
from .facts import Floats, RunFacts
from .rows import gather, pixel_maps

MAX_OBJECTS = 2000
"""Objects that are looked at for a feature, the first ones of the catalogue."""


@dataclass(frozen=True)
class Feature:
    """A feature that a simulated survey has masks of."""

    mask: str
    """Array of the survey's group ``truth``."""
    words: str
    """What it is called."""
    of_class: str
    """Part of the name of the class that it makes; empty if any object may have it."""


FEATURES = (
    Feature("bar", "bar", "bar"),
    Feature("arms", "spiral arms", "spiral"),
    Feature("shortcut", "planted stamp", ""),
)


@dataclass(frozen=True)
class Localisation:
    """How much of a method's positive evidence lies inside a feature."""

    feature: Feature
    """The feature."""
    method: str
    """The method."""
    objects: int
    """Galaxies with the feature, whose class is explained."""
    evidence: float
    """Mean share of the positive attribution inside the mask."""
    error: float
    """Its standard error."""
    area: float
    """Mean share of the image that the mask covers."""

    @property
    def gain(self) -> float:
        """How many times more evidence than area lies inside the mask."""
        return self.evidence / self.area


def localise(facts: RunFacts) -> list[Localisation]:
    """Compare positive evidence with the survey's truth masks, for each feature and method.

    Of features that make a class, only objects of that class count that the network takes for what
    they are: a map for another class says nothing about the bar. A planted stamp counts in all
    objects that have it.

    Returns
    -------
    One entry per feature and method; empty where there is no truth, or it has other pixels than
    the maps.
    """
    found: list[Localisation] = []
    if not facts.source.has("catalogue/row"):
        return found
    for feature in FEATURES:
        masks = truth_masks(facts.source, feature)
        if masks is None:
            continue
        rows = _rows(facts, feature)
        for name, array in facts.source.maps.items():
            shares = _shares(facts.source, name, masks, rows) if array.explains else []
            if shares:
                inside, area = np.array(shares).T
                found.append(_average(feature, name, inside, area))
    return found


def _average(feature: Feature, method: str, inside: Floats, area: Floats) -> Localisation:
    n = len(inside)
    error = float(inside.std(ddof=1) / np.sqrt(n)) if n > 1 else float("nan")
    return Localisation(feature, method, n, float(inside.mean()), error, float(area.mean()))


def truth_masks(source: RunSource, feature: Feature) -> zarr.Array[Any] | None:
    """Return a feature's masks (object, y, x) of a simulated survey, if it has some."""
    survey = source.job.get("survey") or {}
    if survey.get("format") != "simulated":
        return None
    try:
        root = zarr.open_group(Path(str(survey.get("path"))) / "results.zarr", mode="r")
    except (OSError, ValueError):
        return None
    masks = root.get(f"truth/{feature.mask}")
    return masks if isinstance(masks, zarr.Array) else None


def _rows(facts: RunFacts, feature: Feature) -> NDArray[np.int64]:
    """Return the rows of objects that may have a feature that matters for their class."""
    if not feature.of_class:
        return facts.rows[np.flatnonzero(facts.complete)[:MAX_OBJECTS]]
    name = next((c for c in facts.classes if feature.of_class in c.lower()), None)
    if name is None:
        return np.empty(0, np.int64)
    recognised = facts.correct & (facts.label == facts.classes.index(name))
    return facts.rows[np.flatnonzero(recognised)[:MAX_OBJECTS]]


def _shares(
    source: RunSource, method: str, masks: zarr.Array[Any], rows: NDArray[np.int64]
) -> list[tuple[float, float]]:
    """Return (share of evidence, share of area) inside the mask of each row that has both."""
    survey_row = source.array("catalogue/row")
    masks_at = dict(
        zip(rows.tolist(), _read_masks(masks, survey_row, rows), strict=True) if len(rows) else ()
    )
    shares = []
    for row, pixels in pixel_maps(source, method, rows):
        mask = masks_at[row]
        if mask.shape != pixels.shape:
            return []
        positive = np.maximum(pixels, 0.0)
        if mask.any() and positive.sum() > 0:
            shares.append((float(positive[mask].sum() / positive.sum()), float(mask.mean())))
    return shares


def _read_masks(
    masks: zarr.Array[Any], survey_row: zarr.Array[Any], rows: NDArray[np.int64]
) -> list[NDArray[np.bool_]]:
    places = np.asarray(survey_row[rows[0] : rows[-1] + 1])[rows - rows[0]]
    found = dict(gather(lambda part: np.asarray(masks[part]), int(masks.chunks[0]), places))
    return [np.asarray(found[int(place)], dtype=np.bool_) for place in places]
