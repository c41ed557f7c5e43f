from __future__ import annotations

import numpy as np
import pytest

from training.splits import split

IDS = [f"A-{n:05d}" for n in range(1000)]
LABELS = ["rare" if n % 10 == 0 else "common" for n in range(1000)]


def names(rows, ids=IDS):
    return {ids[row] for row in rows}


@pytest.mark.parametrize("exact", [True, False])
def test_parts_are_all_rows_once(exact):
    parts = split(IDS, LABELS, exact=exact)
    rows = np.concatenate([parts.train, parts.validation, parts.test])
    assert sorted(rows) == list(range(1000))


def test_every_class_is_split_exactly():
    parts = split(IDS, LABELS, seed=3, fractions=(0.7, 0.2, 0.1))
    for part, expected in ((parts.train, 70), (parts.validation, 20), (parts.test, 10)):
        assert sum(LABELS[row] == "rare" for row in part) == expected
        assert sum(LABELS[row] == "common" for row in part) == 9 * expected


@pytest.mark.parametrize("exact", [True, False])
def test_the_order_of_rows_does_not_matter(exact):
    order = np.random.default_rng(0).permutation(1000)
    shuffled = [IDS[n] for n in order]
    first = split(IDS, LABELS, exact=exact)
    second = split(shuffled, [LABELS[n] for n in order], exact=exact)
    for part in ("train", "validation", "test"):
        assert names(getattr(first, part)) == names(getattr(second, part), shuffled)


def test_hashed_objects_never_move_when_the_survey_grows():
    half = split(IDS[:500], LABELS[:500], exact=False)
    whole = split(IDS, LABELS, exact=False)
    for part in ("train", "validation", "test"):
        assert names(getattr(half, part)) <= names(getattr(whole, part))
    assert len(whole.train) == pytest.approx(700, abs=50)


def test_ranked_objects_move_only_near_the_borders():
    fewer = split(IDS[:990], LABELS[:990])
    whole = split(IDS, LABELS)
    moved = names(fewer.train) ^ (names(whole.train) & set(IDS[:990]))
    assert len(moved) <= 10


def test_another_seed_gives_another_split():
    assert names(split(IDS, LABELS, seed=0).test) != names(split(IDS, LABELS, seed=1).test)


def test_an_empty_part_is_possible():
    parts = split(IDS, LABELS, fractions=(0.5, 0.5, 0.0))
    assert len(parts.test) == 0


@pytest.mark.parametrize(
    ("ids", "labels", "fractions", "match"),
    [
        (["a", "b", "a"], [0, 0, 0], (0.5, 0.25, 0.25), "id 'a' occurs twice"),
        (["a"], [0, 1], (0.5, 0.25, 0.25), "1 ids and 2 labels"),
        (["a"], [0], (0.5, 0.25, 0.5), "add up to 1"),
        (["a"], [0], (1.5, -0.25, -0.25), "add up to 1"),
    ],
)
def test_impossible_splits_are_refused(ids, labels, fractions, match):
    with pytest.raises(ValueError, match=match):
        split(ids, labels, fractions=fractions)
