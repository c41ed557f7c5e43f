"""Which galaxies the report shows: the same ones for the same results."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .facts import RunFacts

CERTAIN, WRONG, UNCERTAIN = "most certain", "wrong", "most uncertain"


@dataclass(frozen=True)
class Example:
    """An object to show, and why."""

    position: int
    """In the arrays of the facts."""
    reason: str
    """`CERTAIN`, `WRONG` or `UNCERTAIN`."""


def choose_examples(facts: RunFacts, group: int, each: int) -> list[Example]:
    """Choose objects of a class: the most certain right ones, wrong ones, the most uncertain.

    Parameters
    ----------
    group : number of the class
    each : how many of each sort, at most

    Returns
    -------
    No object twice. Wrong ones are those that the network is surest of: the most instructive.
    """
    members = np.flatnonzero(facts.complete & (facts.group == group))
    entropy = facts.entropy[members]
    rising = members[np.argsort(entropy, kind="stable")]
    judged = bool(facts.labelled.any())
    chosen: list[Example] = []
    _take(chosen, rising[facts.correct[rising]] if judged else rising, CERTAIN, each)
    if judged:
        _take(chosen, rising[~facts.correct[rising]], WRONG, each)
    _take(chosen, rising[::-1], UNCERTAIN, each)
    return chosen


def _take(chosen: list[Example], ranked: NDArray[np.intp], reason: str, each: int) -> None:
    taken = {example.position for example in chosen}
    fresh = [int(position) for position in ranked if int(position) not in taken]
    chosen += [Example(position, reason) for position in fresh[:each]]
