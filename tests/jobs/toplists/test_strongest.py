"""The strongest of a survey, against sorting all of it."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from jobs.toplists import strongest
from jobs.toplists.strongest import Strongest, find_strongest, merge

# Few different values: ties are everywhere, at the edge of the k strongest too.
responses = hnp.arrays(
    np.float32,
    st.tuples(st.integers(1, 40), st.integers(1, 5)),
    elements=st.sampled_from([-2.5, -0.0, 0.0, 1.0, 3.0, np.nan]),
)


def by_brute_force(values, k):
    """Sort all objects of each filter: value descending, then row ascending."""
    value = np.full((values.shape[1], k), -np.inf)
    row = np.full((values.shape[1], k), -1)
    for number, column in enumerate(values.T):
        known = [n for n in range(len(column)) if not np.isnan(column[n])]
        for rank, n in enumerate(sorted(known, key=lambda n: (-column[n], n))[:k]):
            value[number, rank], row[number, rank] = column[n], n
    return value, row


def assert_same(found: Strongest, expected) -> None:
    np.testing.assert_array_equal(found.value, expected[0])
    np.testing.assert_array_equal(found.object, expected[1])


@settings(deadline=None, derandomize=True)
@given(responses, st.integers(1, 12), st.data())
def test_any_cut_gives_what_sorting_everything_gives(values, k, data):
    cuts = sorted(data.draw(st.lists(st.integers(0, len(values)), max_size=4)))
    edges = [0, *cuts, len(values)]
    spans = [slice(a, b) for a, b in itertools.pairwise(edges)]
    found = find_strongest(spans, lambda rows: values[rows], values.shape[1], k)
    assert_same(found, by_brute_force(values, k))
    parts = [find_strongest([s], lambda rows: values[rows], values.shape[1], k) for s in spans]
    assert_same(merge(data.draw(st.permutations(parts))), by_brute_force(values, k))


@pytest.mark.parametrize("block_values", [1, 7, 100, 1 << 22])
def test_blocks_do_not_show(monkeypatch, block_values):
    monkeypatch.setattr(strongest, "_BLOCK_VALUES", block_values)
    values = np.random.default_rng(0).integers(0, 6, (150, 3)).astype(np.float32)
    read = []

    def reading(rows):
        read.append(rows)
        return values[rows]

    found = find_strongest([slice(0, 80), slice(80, 150)], reading, 3, 9)
    assert_same(found, by_brute_force(values, 9))
    assert max(rows.stop - rows.start for rows in read) <= max(1, block_values // 3)


@pytest.mark.parametrize("missing", [1, 5])
def test_missing_places_stay_missing(missing):
    values = np.array([[np.nan]] * missing + [[-7.0]], dtype=np.float32)
    found = find_strongest([slice(0, missing + 1)], lambda rows: values[rows], 1, 3)
    assert found.value.tolist() == [[-7, -np.inf, -np.inf]]
    assert found.object.tolist() == [[missing, -1, -1]]
