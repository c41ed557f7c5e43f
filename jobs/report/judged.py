"""How good a trained network is, by the test set and by further surveys: from its card."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from cluster.place import Place

from ..errors import RefusedError
from ..work.fit_files import CARD
from .figures import Confusion, shaded

_WORDS = {
    "accuracy": "accuracy",
    "balanced_accuracy": "balanced accuracy",
    "negative_log_likelihood": "negative log likelihood",
    "brier_score": "Brier score",
    "expected_calibration_error": "expected calibration error",
    "roc_auc": "area under the ROC curve",
    "average_precision": "average precision",
    "root_mean_squared_error": "root mean squared error",
    "r_squared": "R²",
    "domain_auc": "told from the test set: area under the ROC curve",
}


@dataclass(frozen=True)
class Judgement:
    """A network's numbers, and its confusion matrices."""

    parts: tuple[str, ...]
    """What judged it: the test set, then further surveys."""
    objects: tuple[int, ...]
    """How many each has."""
    rows: tuple[tuple[str, tuple[tuple[float, str], ...]], ...]
    """What is measured; of each part the number and how it is written, with its interval."""
    confusions: tuple[Confusion, ...]
    reading: str


def read_judgement(run: Place) -> Judgement | None:
    """Read what the card of a single fit says; None if nothing judged it, or there is no card.

    Raises
    ------
    RefusedError
        If the card is damaged.
    """
    try:
        card = json.loads((run / CARD).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise RefusedError(
            f"{run / CARD}: can't be read ({error}); make it again with `occulta verify {run} "
            "--repair`"
        ) from error
    # The file has its names in alphabetical order.
    judged = {
        "test set" if name == "test" else name: numbers
        for name, numbers in sorted(card["metrics"].items(), key=lambda item: item[0] != "test")
        if isinstance(numbers, Mapping)
    }
    if not judged:
        return None
    rows = []
    for name, words in _WORDS.items():
        found = [
            dict(_numbers(numbers.get(name), words, card["classes"])) for numbers in judged.values()
        ]
        titles = dict.fromkeys(title for entry in found for title in entry)
        rows += [(title, tuple(_written(entry.get(title)) for entry in found)) for title in titles]
    confusions = tuple(
        shaded(part, card["classes"], np.array(numbers["confusion"]), "")
        for part, numbers in judged.items()
        if "confusion" in numbers
    )
    objects = tuple(numbers["objects"] for numbers in judged.values())
    return Judgement(tuple(judged), objects, tuple(rows), confusions, _reading(judged))


def _numbers(
    found: Any, words: str, classes: Sequence[str]
) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Name a number, or that of each class."""
    if found is None:
        return
    if "value" in found:
        yield words, found
        return
    for name in classes:
        yield f"{words}, {name}", found[name]


def _written(entry: Mapping[str, Any] | None) -> tuple[float, str]:
    if entry is None or entry["value"] is None:
        return math.nan, "–"
    value, low, high = (entry[part] for part in ("value", "low", "high"))
    interval = f" ({low:.3f} to {high:.3f})" if low is not None and high is not None else ""
    return value, f"{value:.3f}{interval}"


def _reading(judged: Mapping[str, Mapping[str, Any]]) -> str:
    """Say how accurate the network is, and how much less elsewhere."""
    (first, numbers), *others = judged.items()
    if "accuracy" not in numbers:
        return ""
    sentences = [f"On the {first} it is right on {_share(numbers)}"]
    for name, other in others:
        change = other["accuracy"]["value"] - numbers["accuracy"]["value"]
        gap = other.get("domain_auc")
        told = ""
        if gap is not None:
            told = f"; its features are told from the test set's with an AUC of {gap['value']:.2f}"
        sentences.append(
            f"on {name} on {_share(other)}, {abs(change) * 100:.0f} points "
            f"{'more' if change > 0 else 'less'}{told}"
        )
    return f"{'. '.join(text[0].upper() + text[1:] for text in sentences)}."


def _share(numbers: Mapping[str, Any]) -> str:
    accuracy = numbers["accuracy"]
    return (
        f"{accuracy['value']:.0%} of {numbers['objects']:,} objects "
        f"({accuracy['low']:.0%} to {accuracy['high']:.0%})"
    )
