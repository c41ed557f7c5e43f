from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from training.neighbours import sky_groups
from training.splits import folds, nested_subsets, split

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


@st.composite
def grouped_objects(draw):
    count = draw(st.integers(1, 60))
    labels = draw(st.lists(st.integers(0, 2), min_size=count, max_size=count))
    groups = draw(st.lists(st.integers(0, 25), min_size=count, max_size=count))
    names = draw(st.lists(st.text(min_size=1), min_size=count, max_size=count, unique=True))
    return names, labels, np.array(groups)


def parts_of(split_):
    return [split_.train, split_.validation, split_.test]


@settings(max_examples=60, deadline=None)
@given(grouped_objects(), st.booleans(), st.integers(0, 3))
def test_no_group_is_in_two_parts_and_all_rows_are_in_one(objects, exact, seed):
    names, labels, groups = objects
    parts = parts_of(split(names, labels, seed, (0.5, 0.3, 0.2), exact, groups))
    assert sorted(np.concatenate(parts)) == list(range(len(names)))
    found = [set(groups[part]) for part in parts]
    assert sum(map(len, found)) == len(set(groups))


@settings(max_examples=60, deadline=None)
@given(grouped_objects(), st.integers(3, 6))
def test_every_object_is_tested_once_and_no_group_leaks_between_folds(objects, count):
    names, labels, groups = objects
    made = folds(names, labels, count, groups=groups)
    assert len(made) == count
    assert sorted(np.concatenate([one.test for one in made])) == list(range(len(names)))
    assert sorted(np.concatenate([one.validation for one in made])) == list(range(len(names)))
    for one in made:
        assert sorted(np.concatenate(parts_of(one))) == list(range(len(names)))
        found = [set(groups[part]) for part in parts_of(one)]
        assert sum(map(len, found)) == len(set(groups))


@settings(max_examples=60, deadline=None)
@given(grouped_objects(), st.randoms(use_true_random=False))
def test_groups_are_split_by_their_ids_whatever_the_order(objects, random):
    names, labels, groups = objects
    order = list(range(len(names)))
    random.shuffle(order)
    first = split(names, labels, 1, groups=groups)
    shuffled = [names[n] for n in order]
    second = split(shuffled, [labels[n] for n in order], 1, groups=groups[order])
    for one, other in zip(parts_of(first), parts_of(second), strict=True):
        assert {names[row] for row in one} == {shuffled[row] for row in other}


def test_groups_of_one_are_no_groups():
    alone = split(IDS, LABELS, 3, groups=np.arange(1000)[::-1])
    for one, other in zip(parts_of(alone), parts_of(split(IDS, LABELS, 3)), strict=True):
        np.testing.assert_array_equal(one, other)


def test_pairs_are_split_to_the_shares_asked_for():
    parts = split(IDS, LABELS, groups=np.arange(1000) // 2)
    assert [len(part) for part in parts_of(parts)] == pytest.approx([700, 150, 150], abs=4)


def test_every_class_is_in_every_fold():
    for one in folds(IDS, LABELS, 5):
        assert sum(LABELS[row] == "rare" for row in one.test) == 20
        assert len(one.test) == len(one.validation) == 200
        assert len(one.train) == 600


@settings(max_examples=60, deadline=None)
@given(grouped_objects(), st.booleans(), st.lists(st.integers(0, 60), max_size=5))
def test_subsets_are_inside_larger_ones(objects, equal, sizes):
    names, labels, _ = objects
    sizes = sorted(size for size in sizes if size <= len(names))
    subsets = nested_subsets(names, labels, sizes, 1, equal)
    assert [len(rows) for rows in subsets] == sizes
    for small, large in itertools.pairwise(subsets):
        assert set(small) <= set(large)


def test_subsets_have_every_class_by_its_share_or_alike():
    by_share = nested_subsets(IDS, LABELS, (20, 40))
    assert [sum(LABELS[n] == "rare" for n in rows) for rows in by_share] == [2, 4]
    alike = nested_subsets(IDS, LABELS, (20, 40, 400), equal_classes=True)
    assert [sum(LABELS[n] == "rare" for n in rows) for rows in alike] == [10, 20, 100]


def test_another_seed_takes_other_objects():
    assert names(nested_subsets(IDS, LABELS, [20])[0]) != names(
        nested_subsets(IDS, LABELS, [20], seed=1)[0]
    )


def test_neighbours_and_their_neighbours_are_a_group():
    """A chain of three, 0.9 arcsec apart each; a pair across 0 h; a pair across the pole."""
    step = 0.9 / 3600
    ra = np.array([10.0, 10.0, 10.0, 10.0, 0.0, 360.0 - step, 0.0, 180.0])
    dec = np.array([0.0, step, 2 * step, 4 * step, 5.0, 5.0, 90.0 - step / 2, 90.0 - step / 2])
    assert sky_groups(ra, dec, 1.0).tolist() == [0, 0, 0, 3, 4, 4, 6, 6]
    assert sky_groups(ra, dec, 2.0).tolist() == [0, 0, 0, 0, 4, 4, 6, 6]
    assert sky_groups(ra, dec, 0.5).tolist() == list(range(8))
    assert len(sky_groups(ra[:0], dec[:0], 1.0)) == 0


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 40), st.sampled_from([0.05, 1.0, 3600.0, 3e5]))
def test_sky_groups_are_those_of_all_distances(seed, count, separation):
    random = np.random.default_rng(seed)
    size = 6.0 * separation / 3600
    ra = (random.uniform(0, 1, count) * size) % 360
    dec = np.clip(random.choice([-90.0, 0.0, 45.0]) + random.uniform(0, 1, count) * size, -90, 90)
    a, d = np.radians(ra), np.radians(dec)
    xyz = np.stack([np.cos(d) * np.cos(a), np.cos(d) * np.sin(a), np.sin(d)], 1)
    distance = 2 * np.arcsin(np.minimum(np.linalg.norm(xyz[:, None] - xyz[None], axis=2) / 2, 1.0))
    near = np.degrees(distance) * 3600 <= separation
    for _ in range(count):
        near = near @ near
    expected = near.argmax(1)
    np.testing.assert_array_equal(sky_groups(ra, dec, separation), expected)


def test_sky_groups_are_astropy_s_neighbours():
    coordinates = pytest.importorskip("astropy.coordinates")
    random = np.random.default_rng(1)
    ra, dec = random.uniform(0, 0.2, 500), random.uniform(30, 30.2, 500)
    sky = coordinates.SkyCoord(ra, dec, unit="deg")
    first, second, _, _ = sky.search_around_sky(sky, coordinates.Angle("20 arcsec"))
    groups = sky_groups(ra, dec, 20.0)
    assert (groups[first] == groups[second]).all()
    assert (first != second).sum() > 50
    assert {int(n) for n in np.flatnonzero(np.bincount(groups) > 1)} <= set(first[first != second])


@pytest.mark.parametrize(
    ("places", "separation", "match"),
    [(0.0, 0.0, "use more than 0"), (0.0, 7e5, "at most 648000"), (np.nan, 1.0, "row 0 has no")],
)
def test_places_and_separations_that_make_no_sense_are_refused(places, separation, match):
    with pytest.raises(ValueError, match=match):
        sky_groups(np.array([places]), np.array([0.0]), separation)


def test_impossible_folds_subsets_and_groups_are_refused():
    with pytest.raises(ValueError, match="2 folds leave nothing to train on"):
        folds(IDS, LABELS, 2)
    with pytest.raises(ValueError, match="subset of 1001 of 1000"):
        nested_subsets(IDS, LABELS, [1001])
    with pytest.raises(ValueError, match="1000 ids and 3 groups"):
        split(IDS, LABELS, groups=np.arange(3))


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
