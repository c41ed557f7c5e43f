"""How good predictions are, in numpy."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Integers = npt.NDArray[np.integer]


def accuracy(labels: Integers, predicted: Integers) -> float:
    """Return the share of objects (N,) whose predicted class is their label; NaN for none."""
    _check_same_length(labels, predicted)
    return float(np.mean(labels == predicted)) if len(labels) else float("nan")


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


def _check_same_length(labels: Integers, predicted: Integers) -> None:
    if labels.shape != predicted.shape or labels.ndim != 1:
        raise ValueError(
            f"metrics: labels {labels.shape} and predictions {predicted.shape} differ in shape; "
            "give one of each per object"
        )
