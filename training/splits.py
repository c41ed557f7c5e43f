"""Training, validation and test objects, folds and nested subsets: decided by each object's id.

All are stratified by class and seeded. Objects of one group, such as two images of one galaxy, are
never in two parts.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Rows = npt.NDArray[np.int64]
Labels = Sequence[str] | Sequence[int]


@dataclass(frozen=True)
class Split:
    """Rows of the three parts, each in growing order; together they are all rows, once."""

    train: Rows
    validation: Rows
    test: Rows


def split(
    ids: Sequence[str],
    labels: Labels,
    seed: int = 0,
    fractions: tuple[float, float, float] = (0.7, 0.15, 0.15),
    exact: bool = True,
    groups: Rows | None = None,
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
    groups
        Number of the group of each object, as from `training.neighbours.sky_groups`. A group goes
        where its object with the first id goes, and counts for that object's class; the shares are
        then right to one group.

    Raises
    ------
    ValueError
        For duplicate ids, unequal lengths, or fractions that are no shares.
    """
    if min(fractions) < 0.0 or abs(sum(fractions) - 1.0) > 1e-9:
        raise ValueError(f"split: fractions {fractions} are not shares >= 0 that add up to 1")
    place = _places(ids, labels, seed, exact, groups)
    part = np.searchsorted(np.cumsum(fractions)[:2], place, side="right")
    train, validation, test = (np.flatnonzero(part == which) for which in range(3))
    return Split(train, validation, test)


def folds(
    ids: Sequence[str],
    labels: Labels,
    count: int,
    seed: int = 0,
    groups: Rows | None = None,
) -> tuple[Split, ...]:
    """Return one split for each fold, which is its test part; the next fold is its validation part.

    Every object is tested once and validates once. Parameters are those of `split`.

    Raises
    ------
    ValueError
        For fewer than 3 folds, and as of `split`.
    """
    if count < 3:
        raise ValueError(f"split: {count} folds leave nothing to train on; use 3 or more")
    fold = (_places(ids, labels, seed, True, groups) * count).astype(np.int64)
    parts = [np.flatnonzero(fold == number) for number in range(count)]
    return tuple(
        Split(
            np.flatnonzero((fold != number) & (fold != (number + 1) % count)),
            parts[(number + 1) % count],
            parts[number],
        )
        for number in range(count)
    )


def nested_subsets(
    ids: Sequence[str],
    labels: Labels,
    sizes: Sequence[int],
    seed: int = 0,
    equal_classes: bool = False,
) -> tuple[Rows, ...]:
    """Return subsets of each size, every one inside all larger ones, as learning curves need.

    Parameters
    ----------
    ids, labels, seed
        As of `split`.
    sizes
        How many objects each subset has.
    equal_classes
        True takes the same number of every class as long as there are any; False takes classes by
        their share, right to one object.

    Returns
    -------
    tuple of arrays
        Rows in growing order, in the order of ``sizes``.

    Raises
    ------
    ValueError
        For a size that is negative or more than there are, and as of `split`.
    """
    for size in sizes:
        if not 0 <= size <= len(ids):
            raise ValueError(f"split: a subset of {size} of {len(ids)} objects; use 0 to that many")
    ranked = _places(ids, labels, seed, True, None)
    if equal_classes:
        classes = np.asarray(labels)
        for value in np.unique(classes):
            members = np.flatnonzero(classes == value)
            ranked[members] = np.argsort(np.argsort(ranked[members]))
    # Of several objects with the same rank in their classes, the hash decides.
    chance = np.array([hash_fraction(name, seed) for name in ids], dtype=np.float64)
    order = np.lexsort((chance, ranked))
    return tuple(np.sort(order[:size]) for size in sizes)


def hash_fraction(name: str, seed: int) -> float:
    """Return a number in [0, 1) that depends on an id and a seed alone, even and well mixed."""
    digest = hashlib.sha256(f"{seed}\0{name}".encode()).digest()
    return int.from_bytes(digest[:6], "big") / 2.0**48


def _places(
    ids: Sequence[str], labels: Labels, seed: int, exact: bool, groups: Rows | None
) -> npt.NDArray[np.float64]:
    """Return a number in [0, 1) for each object, even within each class, alike within a group."""
    _check(ids, labels, groups)
    if groups is None:
        leaders = member_of = np.arange(len(ids))
    else:
        by_name = np.argsort(np.asarray(ids), kind="stable")
        _, first, inverse = np.unique(groups[by_name], return_index=True, return_inverse=True)
        leaders = by_name[first]
        member_of = np.empty(len(ids), dtype=np.int64)
        member_of[by_name] = inverse
    place = np.array([hash_fraction(ids[row], seed) for row in leaders.tolist()], dtype=np.float64)
    if exact:
        sizes = np.bincount(member_of, minlength=len(leaders))
        classes = np.asarray(labels)[leaders]
        for value in np.unique(classes):
            members = np.flatnonzero(classes == value)
            members = members[np.argsort(place[members])]
            ends = np.cumsum(sizes[members])
            place[members] = (ends - 0.5 * sizes[members]) / ends[-1]
    return place[member_of]


def _check(ids: Sequence[str], labels: Labels, groups: Rows | None) -> None:
    if len(ids) != len(labels):
        raise ValueError(
            f"split: {len(ids)} ids and {len(labels)} labels; give one label for each id"
        )
    if groups is not None and len(groups) != len(ids):
        raise ValueError(
            f"split: {len(ids)} ids and {len(groups)} groups; give one group for each id"
        )
    if len(set(ids)) != len(ids):
        seen: set[str] = set()
        twice = next(name for name in ids if name in seen or seen.add(name))  # type: ignore[func-returns-value]
        raise ValueError(f"split: id {twice!r} occurs twice; ids must be unique")
