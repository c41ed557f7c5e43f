"""Training, validation and test objects: stratified by class and decided by each object's id."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Rows = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Split:
    """Rows of the three parts, each in growing order; together they are all rows, once."""

    train: Rows
    validation: Rows
    test: Rows


def split(
    ids: Sequence[str],
    labels: Sequence[str] | Sequence[int],
    seed: int = 0,
    fractions: tuple[float, float, float] = (0.7, 0.15, 0.15),
    exact: bool = True,
) -> Split:
    """Split objects into training, validation and test parts.

    Parameters
    ----------
    ids
        Unique identifiers; an object's place depends on its id, never on its row.
    labels
        The class of each object; every class is split alike.
    seed
        Another seed gives another split.
    fractions
        Shares of training, validation and test; they add up to 1.
    exact
        True ranks the ids' hashes within each class: the shares of every class are right to one
        object, and a few objects near the two borders move when the survey grows. False compares
        the hashes with the shares: an object never moves, and the shares are right only on average.

    Raises
    ------
    ValueError
        For duplicate ids, unequal lengths, or fractions that are no shares.
    """
    _check(ids, labels, fractions)
    place = np.array([hash_fraction(name, seed) for name in ids], dtype=np.float64)
    if exact:
        classes = np.asarray(labels)
        for value in np.unique(classes):
            members = np.flatnonzero(classes == value)
            ranks = np.argsort(np.argsort(place[members]))
            place[members] = (ranks + 0.5) / len(members)
    borders = np.cumsum(fractions)[:2]
    part = np.searchsorted(borders, place, side="right")
    train, validation, test = (np.flatnonzero(part == which) for which in range(3))
    return Split(train, validation, test)


def hash_fraction(name: str, seed: int) -> float:
    """Return a number in [0, 1) that depends on an id and a seed alone, even and well mixed."""
    digest = hashlib.sha256(f"{seed}\0{name}".encode()).digest()
    return int.from_bytes(digest[:6], "big") / 2.0**48


def _check(
    ids: Sequence[str],
    labels: Sequence[str] | Sequence[int],
    fractions: tuple[float, float, float],
) -> None:
    if len(ids) != len(labels):
        raise ValueError(
            f"split: {len(ids)} ids and {len(labels)} labels; give one label for each id"
        )
    if len(set(ids)) != len(ids):
        seen: set[str] = set()
        twice = next(name for name in ids if name in seen or seen.add(name))  # type: ignore[func-returns-value]
        raise ValueError(f"split: id {twice!r} occurs twice; ids must be unique")
    if min(fractions) < 0.0 or abs(sum(fractions) - 1.0) > 1e-9:
        raise ValueError(f"split: fractions {fractions} are not shares >= 0 that add up to 1")
