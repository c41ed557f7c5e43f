"""Partial results that merge to the same bits, whatever the cut and the order of arrival.

Floating-point addition is not associative, so a running sum would depend on where the parts axis
was cut. A `Partial` therefore keeps its terms as nodes of one fixed binary tree over the blocks of
the parts axis: two nodes meet only when they are siblings in that tree, always left with right.
The value of a node is thus a function of the blocks below it alone. A contiguous range of n blocks
needs at most 2 log2(n) nodes, so memory stays small.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Rule = Callable[[Array, Array], Array]
"""How the terms of two neighbouring ranges of parts combine: ``rule(left, right)``."""


def add(left: Array, right: Array) -> Array:
    """Sum the terms of two ranges; terms are float64."""
    return np.add(left, right)


def append(left: Array, right: Array) -> Array:
    """Put the terms of two ranges side by side along their last axis, the parts axis."""
    return np.concatenate((left, right), axis=-1)


class Partial:
    """Terms of some blocks of the parts axis: a commutative monoid under `merge`.

    Parameters
    ----------
    rules : one rule per term name
    nodes : terms by (level, index): the node covers blocks ``index * 2**level`` up to, and without,
        ``(index + 1) * 2**level``
    """

    def __init__(
        self,
        rules: Mapping[str, Rule],
        nodes: Mapping[tuple[int, int], Mapping[str, Array]] | None = None,
    ) -> None:
        self.rules = rules
        self.nodes = dict(nodes or {})

    @classmethod
    def of_block(cls, rules: Mapping[str, Rule], block: int, terms: Mapping[str, Array]) -> Partial:
        """Wrap the terms of one block."""
        return cls(rules, {(0, block): terms})

    def merge(self, other: Partial) -> Partial:
        """Return the partial that covers the blocks of both.

        Raises
        ------
        ValueError
            If a block is covered twice.
        """
        merged = Partial(self.rules, self.nodes)
        for key, terms in other.nodes.items():
            merged._insert(key, terms)
        return merged

    def total(self, blocks: int) -> dict[str, Array]:
        """Combine all terms, which must cover blocks 0 to ``blocks`` without a gap.

        Raises
        ------
        ValueError
            If a block is missing or there are more blocks than asked for.
        """
        keys = sorted(self.nodes, key=lambda key: key[1] << key[0])
        reached = 0
        for level, index in keys:
            if index << level != reached:
                raise ValueError(f"block {reached} of {blocks} is missing from the partial result")
            reached = (index + 1) << level
        if reached != blocks:
            raise ValueError(f"the partial result covers {reached} blocks, expected {blocks}")
        total = dict(self.nodes[keys[0]])
        for key in keys[1:]:
            total = self._combine(total, self.nodes[key])
        return total

    def _combine(self, left: Mapping[str, Array], right: Mapping[str, Array]) -> dict[str, Array]:
        return {name: rule(left[name], right[name]) for name, rule in self.rules.items()}

    def _insert(self, key: tuple[int, int], terms: Mapping[str, Array]) -> None:
        level, index = key
        for other_level, other_index in self.nodes:
            low, high = sorted([(level, index), (other_level, other_index)])
            if low[1] >> (high[0] - low[0]) == high[1]:
                raise ValueError(f"block {low[1] << low[0]} arrived twice")
        while (sibling := (level, index ^ 1)) in self.nodes:
            other = self.nodes.pop(sibling)
            pair = (other, terms) if index & 1 else (terms, other)
            terms = self._combine(*pair)
            level, index = level + 1, index >> 1
        self.nodes[level, index] = terms
