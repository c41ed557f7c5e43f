"""All metrics of a network on a test set, with intervals, ready for its card."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy.typing as npt

from .calibration import expected_calibration_error, probabilities_of
from .metrics import (
    Floats,
    Integers,
    accuracy,
    average_precision,
    balanced_accuracy,
    bootstrap,
    brier_score,
    confusion_matrix,
    negative_log_likelihood,
    r_squared,
    roc_auc,
    root_mean_squared_error,
)


def judge_classes(
    labels: Integers,
    logits_NK: Floats,
    classes: Sequence[str],
    temperature: float = 1.0,
    seed: int = 0,
    resamples: int = 1000,
) -> dict[str, Any]:
    """Return the metrics of a classifier, each with its 95 % bootstrap interval.

    Parameters
    ----------
    labels
        Class indices (N,), N at least 1.
    logits_NK
        What the network puts out.
    classes
        Their names (K,).
    temperature
        Divides the logits: `training.calibration.fit_temperature` on the validation set.
    seed, resamples
        As of `training.metrics.bootstrap`; all metrics see the same resamples.

    Returns
    -------
    dict
        For JSON: numbers that are not defined, such as the ROC AUC of a class without objects, are
        None, and an interval is ``{"value", "low", "high"}``.
    """
    p_NK = probabilities_of(logits_NK, temperature)
    predicted = p_NK.argmax(axis=1)

    def interval(metric: Callable[..., float], *arrays: npt.NDArray[Any]) -> dict[str, Any]:
        return _interval(metric, *arrays, seed=seed, resamples=resamples)

    return {
        "objects": len(labels),
        "temperature": temperature,
        "accuracy": interval(accuracy, labels, predicted),
        "balanced_accuracy": interval(balanced_accuracy, labels, predicted),
        "negative_log_likelihood": interval(negative_log_likelihood, labels, p_NK),
        "brier_score": interval(brier_score, labels, p_NK),
        "expected_calibration_error": interval(expected_calibration_error, labels, p_NK),
        "roc_auc": {
            name: interval(roc_auc, labels == number, p_NK[:, number])
            for number, name in enumerate(classes)
        },
        "average_precision": {
            name: interval(average_precision, labels == number, p_NK[:, number])
            for number, name in enumerate(classes)
        },
        "confusion": confusion_matrix(labels, predicted, len(classes)).tolist(),
    }


def judge_numbers(
    wanted_NK: Floats,
    predicted_NK: Floats,
    names: Sequence[str],
    seed: int = 0,
    resamples: int = 1000,
) -> dict[str, Any]:
    """Return root mean squared error and R2 of each number, as `judge_classes` does.

    Parameters
    ----------
    wanted_NK, predicted_NK
        In the numbers' own units (N, K).
    names
        What the numbers are called (K,).
    seed, resamples
        As of `training.metrics.bootstrap`.
    """
    metrics = {"root_mean_squared_error": root_mean_squared_error, "r_squared": r_squared}
    judged: dict[str, Any] = {"objects": len(wanted_NK)}
    for title, metric in metrics.items():
        judged[title] = {
            name: _interval(
                metric,
                wanted_NK[:, number],
                predicted_NK[:, number],
                seed=seed,
                resamples=resamples,
            )
            for number, name in enumerate(names)
        }
    return judged


def judge_votes(
    votes_NK: Floats,
    outputs_NK: Floats,
    names: Sequence[str],
    questions: Sequence[int] = (),
    seed: int = 0,
    resamples: int = 1000,
) -> dict[str, Any]:
    """Return how well a network predicts the share of each answer's votes, as `judge_numbers` does.

    An object counts for the questions that it has votes for. The predicted share is the softmax of
    the outputs of a question: the probability of the multinomial, the mean of the Dirichlet
    distribution.

    Parameters
    ----------
    votes_NK, outputs_NK
        Votes for each answer, and what the network puts out (N, K).
    names
        Of the answers (K,).
    questions
        How many answers each question has; by default all answer one.
    seed, resamples
        As of `training.metrics.bootstrap`.
    """
    judged: dict[str, Any] = {"objects": len(votes_NK)}
    start = 0
    for count in questions or (len(names),):
        part = slice(start, start + count)
        votes = votes_NK[:, part]
        asked = votes.sum(axis=1) > 0
        found = judge_numbers(
            votes[asked] / votes[asked].sum(axis=1, keepdims=True),
            probabilities_of(outputs_NK[asked, part]),
            names[part],
            seed,
            resamples,
        )
        for title in ("root_mean_squared_error", "r_squared"):
            judged.setdefault(title, {}).update(found[title])
        start += count
    return judged


def _interval(
    metric: Callable[..., float], *arrays: npt.NDArray[Any], seed: int, resamples: int
) -> dict[str, Any]:
    found = bootstrap(metric, *arrays, seed=seed, resamples=resamples)
    numbers = {"value": found.value, "low": found.low, "high": found.high}
    return {name: value if math.isfinite(value) else None for name, value in numbers.items()}
