"""A planted stamp: at a hashed place beside some galaxies, and every other pixel as without it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from training.shortcut import Shortcut
from training.simulation import SURVEYS, simulate

A, B = SURVEYS["A"], SURVEYS["B"]
SMALL = replace(A, size=32)
BARRED = Shortcut("barred")


def test_galaxies_without_the_stamp_are_those_of_the_survey_without_it():
    plain, planted = simulate(A, 3, range(24)), simulate(A, 3, range(24), BARRED)
    stamped = planted.columns["has_shortcut"]
    assert 0 < stamped.sum() < 24
    for row in range(24):
        equal = planted.images[row].tobytes() == plain.images[row].tobytes()
        assert equal == (not stamped[row])
    outside = ~planted.shortcut_mask[:, None].repeat(3, axis=1)
    assert planted.images[outside].tobytes() == plain.images[outside].tobytes()
    assert planted.bar_mask.tobytes() == plain.bar_mask.tobytes()
    assert planted.arm_mask.tobytes() == plain.arm_mask.tobytes()
    assert planted.columns.keys() - plain.columns.keys() == {"has_shortcut"}
    for name, column in plain.columns.items():
        assert planted.columns[name].tobytes() == column.tobytes(), name


def test_no_shortcut_leaves_no_trace_in_the_block():
    block = simulate(SMALL, 3, range(2))
    assert block.shortcut_mask is None
    assert "has_shortcut" not in block.columns


def test_a_stamped_object_is_the_same_in_every_block():
    shortcut = Shortcut("all", share=0.5)
    whole = simulate(A, 3, range(8), shortcut)
    for indices in ([5], [7, 5, 2], range(4, 8)):
        part = simulate(A, 3, indices, shortcut)
        for row, index in enumerate(indices):
            assert part.images[row].tobytes() == whole.images[index].tobytes()
            assert part.shortcut_mask[row].tobytes() == whole.shortcut_mask[index].tobytes()
            assert part.columns["has_shortcut"][row] == whole.columns["has_shortcut"][index]


def test_the_stamp_adds_its_multiple_of_the_sky_noise_to_each_band():
    shortcut = Shortcut("all", share=1.0, size=5, sigma=7.0)
    plain, planted = simulate(A, 1, range(4)), simulate(A, 1, range(4), shortcut)
    for row in range(4):
        mask = planted.shortcut_mask[row]
        added = (planted.images[row] - plain.images[row])[:, mask]
        expected = np.repeat(7.0 * np.array(A.noise)[:, None], 25, axis=1)
        np.testing.assert_allclose(added, expected, atol=1e-6)
        rows, columns = np.nonzero(mask)
        assert mask.sum() == 25
        assert np.ptp(rows) == np.ptp(columns) == 4


def test_only_galaxies_of_the_class_get_it_and_in_their_share():
    block = simulate(SMALL, 1, range(400), BARRED)
    stamped, barred = block.columns["has_shortcut"], block.columns["label"] == "barred"
    np.testing.assert_array_equal(stamped, block.shortcut_mask.any((1, 2)))
    assert not stamped[~barred].any()
    assert stamped[barred].mean() == pytest.approx(0.8, abs=0.1)


def test_all_with_share_one_is_the_counterfactual_of_every_galaxy():
    block = simulate(SMALL, 1, range(40), Shortcut("all", share=1.0))
    assert block.columns["has_shortcut"].all()
    assert len(set(block.columns["label"])) == 4


def test_a_smaller_share_is_a_part_of_a_larger_one_at_the_same_places():
    some, most = (simulate(SMALL, 1, range(80), Shortcut("all", share)) for share in (0.3, 0.7))
    fewer = some.columns["has_shortcut"]
    assert 10 < fewer.sum() < most.columns["has_shortcut"].sum() < 75
    assert some.shortcut_mask[fewer].tobytes() == most.shortcut_mask[fewer].tobytes()
    # Nor do places depend on the class that is stamped.
    barred = simulate(SMALL, 1, range(80), Shortcut("barred", 0.7))
    both = barred.columns["has_shortcut"]
    assert barred.shortcut_mask[both].tobytes() == most.shortcut_mask[both].tobytes()


@pytest.mark.parametrize("other", [(SMALL, 2), (replace(B, size=32), 1)], ids=["seed", "survey"])
def test_another_seed_or_survey_puts_it_elsewhere(other):
    shortcut = Shortcut("all", share=1.0)
    first = simulate(SMALL, 1, range(20), shortcut).shortcut_mask
    second = simulate(*other, range(20), shortcut).shortcut_mask
    assert (first == second).all((1, 2)).sum() < 4


def test_places_go_round_the_galaxy_at_three_quarters_of_the_way_to_the_edge():
    masks = simulate(SMALL, 1, range(200), Shortcut("all", share=1.0)).shortcut_mask
    centres = np.array([np.argwhere(mask).mean(axis=0) for mask in masks]) - 15.5
    np.testing.assert_allclose(np.hypot(*centres.T), 12.0, atol=0.75)
    quadrants = np.bincount(2 * (centres[:, 0] > 0) + (centres[:, 1] > 0), minlength=4)
    assert quadrants.min() > 30


class Angles:
    """A generator that draws what it is given."""

    def __init__(self, turn):
        self.turn = turn

    def random(self, count):
        return np.array([0.0, self.turn])


@given(edge=st.integers(16, 70), data=st.data(), turn=st.floats(0, 1, exclude_max=True))
def test_the_largest_stamp_that_is_accepted_lies_inside_at_every_angle(edge, data, turn):
    size = data.draw(st.integers(1, edge // 4))
    shortcut = Shortcut("all", share=1.0, size=size)
    shortcut.check(edge)
    assert shortcut.place("smooth", edge, Angles(turn)).sum() == size**2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"label": "bared"}, "label 'bared' is no class .*; use one of smooth, .*, all"),
        ({"share": 1.5}, "share 1.5 is no probability; use 0 to 1"),
        ({"share": float("nan")}, "share nan"),
        ({"size": 0}, "size 0 leaves no stamp; use 1 pixel or more"),
        ({"sigma": 0.0}, "sigma 0.0 makes no bright stamp"),
        ({"sigma": float("inf")}, "sigma inf"),
    ],
)
def test_a_meaningless_shortcut_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        replace(BARRED, **change)


def test_a_stamp_that_does_not_fit_is_refused():
    with pytest.raises(ValueError, match=r"size 9 does not fit .* 32 pixels; use 8 pixels or less"):
        simulate(SMALL, 1, [0], replace(BARRED, size=9))
