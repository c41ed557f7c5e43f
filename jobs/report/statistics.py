"""The statistics behind the report's figures, from per-object numbers."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .facts import Floats, RunFacts


@dataclass(frozen=True)
class Binned:
    """Means of y in bins of x."""

    x: Floats
    """Mean of x in each bin."""
    y: Floats
    """Mean of y in each bin."""
    error: Floats
    """Standard error of `y`."""
    number: NDArray[np.int64]
    """Objects in each bin."""

    def estimate(self, place: int) -> Estimate:
        """Return y in one bin."""
        return Estimate(float(self.y[place]), float(self.error[place]))


@dataclass(frozen=True)
class Estimate:
    """A mean with its standard error."""

    mean: float
    error: float
    """NaN for a single value."""

    def __str__(self) -> str:
        """Write both with two significant digits of the error."""
        if not self.error > 0:
            return f"{self.mean:.3g}"
        digits = min(max(1 - math.floor(math.log10(self.error)), 0), 6)
        return f"{self.mean:.{digits}f} ± {self.error:.{digits}f}"


@dataclass(frozen=True)
class Reliability:
    """How often the network is right when it says so."""

    bins: Binned
    """Accuracy (y) against confidence (x)."""
    calibration_error: float
    """Mean of |accuracy - confidence| over bins, weighted by their objects (ECE, 10 equal bins)."""
    overconfidence: float
    """Mean confidence minus accuracy."""


def differ(one: Estimate, other: Estimate) -> bool:
    """Return whether two means differ by more than two standard errors of their difference."""
    return abs(one.mean - other.mean) > 2 * math.hypot(one.error, other.error)


def share(found: float, of: int) -> Estimate:
    """Return a share of so many objects with its binomial standard error."""
    return Estimate(found, math.sqrt(found * (1 - found) / of) if of else math.nan)


def confusion(facts: RunFacts) -> NDArray[np.int64]:
    """Count labelled objects by (label, predicted)."""
    k, labelled = len(facts.classes), facts.labelled
    cell = facts.label[labelled] * k + facts.predicted[labelled]
    return np.bincount(cell, minlength=k * k).reshape(k, k)


def recall(facts: RunFacts) -> Floats:
    """Return the share of each class that is found; NaN for a class without labels."""
    counts = confusion(facts)
    with np.errstate(invalid="ignore"):
        return np.asarray(counts.diagonal() / counts.sum(axis=1), dtype=np.float64)


def quantile_bins(x: Floats, y: Floats, bins: int = 8) -> Binned:
    """Average y in bins of equal numbers of objects, sorted by x; pairs with NaN are left out."""
    known = np.isfinite(x) & np.isfinite(y)
    order = np.argsort(x[known], kind="stable")
    x, y = x[known][order], y[known][order]
    parts = [
        part for part in np.array_split(np.arange(len(x)), min(bins, len(x) // 5) or 1) if len(part)
    ]
    return _bins(x, y, parts)


def reliability(facts: RunFacts, bins: int = 10) -> Reliability | None:
    """Compare confidence and accuracy of the labelled objects; None without any."""
    if not facts.labelled.any():
        return None
    confidence = facts.confidence[facts.labelled]
    right = facts.correct[facts.labelled].astype(np.float64)
    place = np.minimum((confidence * bins).astype(int), bins - 1)
    parts = [np.flatnonzero(place == b) for b in range(bins)]
    found = _bins(confidence, right, [part for part in parts if len(part)])
    gap = np.abs(found.y - found.x) * found.number
    return Reliability(found, float(gap.sum() / len(right)), float((confidence - right).mean()))


def mean_by_class(facts: RunFacts, values: Floats) -> Binned:
    """Average a number over the objects of each class; x is the class's position."""
    known = np.isfinite(values) & facts.complete
    parts = [np.flatnonzero(known & (facts.group == c)) for c in range(len(facts.classes))]
    kept = [(c, part) for c, part in enumerate(parts) if len(part)]
    position = np.zeros(len(values))
    for c, part in kept:
        position[part] = c
    return _bins(position, values, [part for _, part in kept])


def half_evidence_radius(mean_map: Floats) -> float:
    """Return the radius about the centre that holds half of a map's positive part, in pixels."""
    positive = np.where(np.isfinite(mean_map), np.maximum(mean_map, 0.0), 0.0)
    if not positive.any():
        return float("nan")
    height, width = positive.shape
    y, x = np.mgrid[:height, :width]
    radius = np.hypot(y - (height - 1) / 2, x - (width - 1) / 2).ravel()
    order = np.argsort(radius, kind="stable")
    grown = np.cumsum(positive.ravel()[order])
    return float(radius[order][np.searchsorted(grown, grown[-1] / 2)])


def _bins(x: Floats, y: Floats, parts: list[NDArray[np.intp]]) -> Binned:
    number = np.array([len(part) for part in parts], dtype=np.int64)
    spread = [y[part].std(ddof=1) if len(part) > 1 else np.nan for part in parts]
    return Binned(
        x=np.array([x[part].mean() for part in parts]),
        y=np.array([y[part].mean() for part in parts]),
        error=np.array(spread) / np.sqrt(number) if len(number) else np.empty(0),
        number=number,
    )
