import functools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attribution.partials import Partial, add, append

RULES = {"sum": add, "row": append}
reproducibly = settings(deadline=None, derandomize=True, max_examples=60)


def block(number, values):
    value = np.float64(values[number])
    return Partial.of_block(RULES, number, {"sum": value, "row": np.array([value])})


def merged(partials):
    return functools.reduce(Partial.merge, partials, Partial(RULES))


# Magnitudes this different make every reordering of a plain sum visible.
some_values = st.lists(st.floats(-1e30, 1e30, allow_subnormal=False), min_size=1, max_size=40)


@reproducibly
@given(some_values, st.data())
def test_every_order_and_grouping_gives_the_same_bits(values, data):
    blocks = [block(n, values) for n in range(len(values))]
    expected = merged(blocks).total(len(values))
    order = data.draw(st.permutations(range(len(values))))
    cut = data.draw(st.integers(0, len(values)))
    left, right = (merged([blocks[n] for n in part]) for part in (order[:cut], order[cut:]))
    found = left.merge(right).total(len(values))
    assert found["sum"].tobytes() == expected["sum"].tobytes()
    assert found["row"].tobytes() == expected["row"].tobytes()


@reproducibly
@given(some_values)
def test_terms_are_summed_and_joined_in_the_order_of_the_parts(values):
    total = merged([block(n, values) for n in reversed(range(len(values)))]).total(len(values))
    assert total["row"].tolist() == values
    np.testing.assert_allclose(total["sum"], np.sum(values), atol=1e-12 * np.abs(values).sum())


@pytest.mark.parametrize("count", [1, 2, 3, 7, 64, 1000])
def test_a_contiguous_range_needs_few_nodes(count):
    partial = merged([block(n, [1.0] * 2000) for n in range(333, 333 + count)])
    assert len(partial.nodes) <= 2 * max(1, np.log2(count + 1))


@reproducibly
@given(st.data())
def test_an_overlap_is_refused_and_names_the_block(data):
    values = [1.0] * 32
    numbers = data.draw(st.sets(st.integers(0, 31), min_size=1))
    twice = data.draw(st.sampled_from(sorted(numbers)))
    cover = merged([block(n, values) for n in numbers])
    with pytest.raises(ValueError, match=f"block {twice} arrived twice"):
        cover.merge(block(twice, values))


@reproducibly
@given(st.sets(st.integers(0, 20)), st.integers(1, 21))
def test_a_total_needs_exactly_its_blocks(numbers, expected):
    partial = merged([block(n, [1.0] * 21) for n in numbers])
    if numbers == set(range(expected)):
        assert partial.total(expected)["sum"] == expected
    else:
        with pytest.raises(ValueError, match=r"is missing from|covers \d+ blocks, expected"):
            partial.total(expected)
