"""How good predictions are, in numpy, and how sure one can be of it.

Shapes: N objects, K classes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Integers = npt.NDArray[np.integer]
Floats = npt.NDArray[np.floating]


def accuracy(labels: Integers, predicted: Integers) -> float:
    """Return the share of objects (N,) whose predicted class is their label; NaN for none."""
    _check_same_length(labels, predicted)
    return float(np.mean(labels == predicted)) if len(labels) else float("nan")


def balanced_accuracy(labels: Integers, predicted: Integers) -> float:
    """Return the mean recall of the classes that have objects; NaN for none."""
    _check_same_length(labels, predicted)
    recalls = [np.mean(predicted[labels == value] == value) for value in np.unique(labels)]
    return float(np.mean(recalls)) if recalls else float("nan")


def confusion_matrix(labels: Integers, predicted: Integers, classes: int) -> npt.NDArray[np.int64]:
    """Count objects by label (row) and predicted class (column): int64 (classes, classes).

    Raises
    ------
    ValueError
        If the lengths differ or a class index is outside ``range(classes)``.
    """
    _check_same_length(labels, predicted)
    both = np.concatenate([labels, predicted])
    if both.size and not (both.min() >= 0 and both.max() < classes):
        raise ValueError(
            f"confusion matrix: class indices {both.min()}..{both.max()} leave 0..{classes - 1}; "
            "check the class list"
        )
    cells = labels.astype(np.int64) * classes + predicted.astype(np.int64)
    return np.bincount(cells, minlength=classes**2).reshape(classes, classes).astype(np.int64)


def per_class_recall(confusion: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """Return, for each label, the share that was recognised (classes,); NaN where it has none."""
    totals = confusion.sum(axis=1)
    hits = np.diagonal(confusion).astype(np.float64)
    recall = np.full(len(totals), np.nan)
    np.divide(hits, totals, out=recall, where=totals > 0)
    return recall


def roc_auc(positive: npt.NDArray[np.bool_], scores: Floats) -> float:
    """Return the area under the receiver operating characteristic.

    It is the probability that a positive object scores higher than a negative one, ties counting
    half (Hanley & McNeil 1982), from ranks; NaN unless there are both.

    Parameters
    ----------
    positive
        Whether each object is of the class (N,).
    scores
        Higher for objects that are more likely so (N,).
    """
    hits = int(positive.sum())
    misses = len(positive) - hits
    if not hits or not misses:
        return float("nan")
    _, place, counts = np.unique(scores, return_inverse=True, return_counts=True)
    # Equal scores share the mean of their ranks, counted from 1.
    ranks = (np.cumsum(counts) - 0.5 * (counts - 1))[place]
    return float((ranks[positive].sum() - 0.5 * hits * (hits + 1)) / (hits * misses))


def average_precision(positive: npt.NDArray[np.bool_], scores: Floats) -> float:
    """Return the area under the precision-recall curve, without interpolation.

    Sum over thresholds of the recall gained there times the precision; NaN without positives.
    Parameters are those of `roc_auc`.
    """
    hits = int(positive.sum())
    if not hits:
        return float("nan")
    order = np.argsort(-scores, kind="stable")
    last = np.append(np.diff(scores[order]) != 0.0, True)  # one threshold for equal scores
    found = np.cumsum(positive[order])[last]
    precision = found / (np.flatnonzero(last) + 1)
    return float(np.sum(np.diff(found, prepend=0) * precision) / hits)


def brier_score(labels: Integers, probabilities_NK: Floats) -> float:
    """Return the mean over objects of sum_k (p_k - [k = label])^2 (Brier 1950): 0 to 2."""
    truth = np.eye(probabilities_NK.shape[1])[labels]
    return float(np.mean(np.sum((probabilities_NK - truth) ** 2, axis=1)))


def negative_log_likelihood(labels: Integers, probabilities_NK: Floats) -> float:
    """Return the mean over objects of -log p_label; infinite if one was held impossible."""
    with np.errstate(divide="ignore"):
        return float(np.mean(-np.log(probabilities_NK[np.arange(len(labels)), labels])))


def root_mean_squared_error(wanted: Floats, predicted: Floats) -> float:
    """Return the square root of the mean squared error over all numbers."""
    return float(np.sqrt(np.mean((wanted - predicted) ** 2)))


def r_squared(wanted: Floats, predicted: Floats) -> float:
    """Return 1 less the share of the variance (N,) that is not explained; NaN if there is none."""
    whole = float(np.sum((wanted - wanted.mean()) ** 2))
    return 1.0 - float(np.sum((wanted - predicted) ** 2)) / whole if whole else float("nan")


@dataclass(frozen=True)
class Interval:
    """A number and what it might have been with other objects."""

    value: float
    """On the objects themselves."""
    low: float
    """Lower end of the bootstrap interval; NaN if no resample has a value."""
    high: float
    """Its upper end."""


def bootstrap(
    metric: Callable[..., float],
    *arrays: npt.NDArray[Any],
    seed: int = 0,
    resamples: int = 1000,
    level: float = 0.95,
) -> Interval:
    """Return a metric with its percentile interval (Efron & Tibshirani 1993, section 13.3).

    Objects are drawn with replacement from all, not class by class: how many a class has is
    uncertain too. Resamples in which the metric is not defined (NaN) are left out.

    Parameters
    ----------
    metric
        Called with the rows of each array.
    arrays
        One row per object each (N, ...).
    seed
        Decides the resamples.
    resamples
        How many.
    level
        Probability inside the interval.
    """
    count = len(arrays[0])
    if any(len(array) != count for array in arrays) or not count:
        raise ValueError(
            f"bootstrap: arrays of {[len(array) for array in arrays]} objects; give the same "
            "number, and at least one"
        )
    random = np.random.Generator(np.random.Philox(key=seed))
    draws = []
    for _ in range(resamples):
        rows = random.integers(0, count, count)
        draws.append(metric(*(array[rows] for array in arrays)))
    defined = [draw for draw in draws if not np.isnan(draw)]
    value = metric(*arrays)
    if not defined:
        return Interval(value, float("nan"), float("nan"))
    tail = 0.5 * (1.0 - level)
    low, high = np.quantile(defined, [tail, 1.0 - tail])
    return Interval(value, float(low), float(high))


def _check_same_length(labels: Integers, predicted: Integers) -> None:
    if labels.shape != predicted.shape or labels.ndim != 1:
        raise ValueError(
            f"metrics: labels {labels.shape} and predictions {predicted.shape} differ in shape; "
            "give one of each per object"
        )
