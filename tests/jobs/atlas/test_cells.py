"""Cells of an atlas, against counting by hand."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jobs.atlas.cells import NOWHERE, Cells, cell_of, dominant
from jobs.atlas.surveys import Block
from jobs.maps.objects import ObjectBlock


def block(activation, predicted, label, complete=None):
    count = len(activation)
    absent = np.full(count, np.nan)
    status = np.ones(count, np.uint8) if complete is None else np.where(complete, 1, 2)
    scalars = ObjectBlock(
        slice(0, count), status, absent, absent, np.asarray(predicted), np.asarray(label)
    )
    return Block(scalars, np.array([f"g{n}" for n in range(count)]), np.asarray(activation))


def drawn(seed, count=60):
    random = np.random.default_rng(seed)
    place = random.uniform(size=(count, 2)).astype(np.float32)
    place[random.uniform(size=count) < 0.2] = np.nan
    activation = random.normal(size=(count, 3)).astype(np.float32)
    return place, block(activation, random.integers(0, 4, count), random.integers(-1, 4, count))


def test_a_place_is_in_the_cell_that_it_lies_in():
    place = np.float32(
        [[0, 0], [0.49, 0], [0.5, 0], [0, 0.5], [1, 1], [0.99, 0.01], [np.nan, 0.5], [0.5, np.nan]]
    )
    row, column = cell_of(place, 2)
    assert row.tolist() == [0, 0, 0, 1, 1, 0, NOWHERE, NOWHERE]
    assert column.tolist() == [0, 0, 1, 0, 1, 1, NOWHERE, NOWHERE]


def test_counts_and_means_are_those_of_the_objects_in_a_cell():
    cells = Cells.empty(3, 2, surveys=2, classes=4, filters=3)
    content = [drawn(0), drawn(1)]
    found = [cells.add(n, objects, place) for n, (place, objects) in enumerate(content)]
    for row in range(3):
        for column in range(3):
            inside = [numbers == 3 * row + column for numbers in found]
            assert cells.count[:, row, column].tolist() == [here.sum() for here in inside]
            together = np.concatenate(
                [
                    objects.activation[here]
                    for here, (_, objects) in zip(inside, content, strict=True)
                ]
            )
            assert cells.populated[row, column] == (len(together) > 2)
            if len(together) > 2:
                np.testing.assert_allclose(
                    cells.mean[row, column], together.mean(axis=0), rtol=1e-6
                )
            for number, (here, (_, objects)) in enumerate(zip(inside, content, strict=True)):
                predicted = cells.predicted[number, row, column]
                label = cells.label[number, row, column]
                scalars = objects.scalars
                known = scalars.label[here] >= 0
                expected = np.bincount(scalars.label[here][known], minlength=4)
                assert label.tolist() == expected.tolist()
                expected = np.bincount(scalars.predicted[here], minlength=4)
                assert predicted.tolist() == expected.tolist()
    placed = np.concatenate(
        [o.activation[f != NOWHERE] for f, (_, o) in zip(found, content, strict=True)]
    )
    np.testing.assert_allclose(cells.second_moment, placed.T @ placed / len(placed), rtol=1e-5)


@settings(max_examples=20, deadline=None, derandomize=True)
@given(st.integers(0, 60), st.integers(0, 60))
def test_any_cut_into_blocks_gives_the_same_counts_and_means(first, second):
    place, whole = drawn(3)
    cells, cut = (Cells.empty(4, 0, surveys=1, classes=4, filters=3) for _ in range(2))
    cells.add(0, whole, place)
    edges = sorted({0, first, second, 60})
    for start, stop in itertools.pairwise(edges):
        some = slice(start, stop)
        scalars = whole.scalars
        part = block(whole.activation[some], scalars.predicted[some], scalars.label[some])
        cut.add(0, part, place[some])
    np.testing.assert_array_equal(cut.count, cells.count)
    np.testing.assert_array_equal(cut.predicted, cells.predicted)
    np.testing.assert_array_equal(cut.total, cells.total)
    np.testing.assert_allclose(cut.moment, cells.moment, rtol=1e-12)


def test_a_share_counts_each_survey_as_one():
    cells = Cells.empty(2, 0, surveys=2, classes=1, filters=1)
    cells.count[0] = [[80, 20], [0, 0]]
    cells.count[1] = [[2, 8], [0, 0]]
    np.testing.assert_allclose(cells.share[:, 0, 0], [0.8, 0.2])
    np.testing.assert_allclose(cells.share[:, 0, 1], [0.2, 0.8])
    assert np.isnan(cells.share[:, 1]).all()


def test_an_object_without_results_or_with_zeros_only_has_no_direction():
    activation = np.float32([[1, 0], [0, 0], [np.nan, np.nan], [0, -2]])
    complete = np.array([True, True, False, True])
    assert block(activation, [0] * 4, [0] * 4, complete).usable.tolist() == [
        True,
        False,
        False,
        True,
    ]


def test_the_dominant_class_is_the_most_frequent_and_the_first_of_equal_ones():
    counts = np.array([[0, 3, 1], [2, 2, 0], [0, 0, 0]])
    assert dominant(counts, ("smooth", "spiral", "barred")).tolist() == ["spiral", "smooth", ""]


def test_cells_of_one_object_less_than_asked_are_not_populated():
    cells = Cells.empty(1, 5, surveys=1, classes=1, filters=1)
    place = np.zeros((5, 2), np.float32)
    cells.add(0, block(np.ones((5, 1), np.float32), [0] * 5, [0] * 5), place)
    assert not cells.populated.any()
    cells.add(0, block(np.ones((1, 1), np.float32), [0], [0]), place[:1])
    assert cells.populated.all()
    assert cells.mean == pytest.approx(1)
