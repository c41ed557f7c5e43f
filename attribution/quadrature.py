"""Rules that integrate over [0, 1] by a weighted sum of values at nodes."""

from __future__ import annotations

from functools import lru_cache
from typing import Literal

import numpy as np
from numpy.typing import NDArray

QuadratureRule = Literal["gauss_legendre", "midpoint", "trapezoid", "riemann_left", "riemann_right"]


@lru_cache(maxsize=64)
def quadrature(rule: QuadratureRule, steps: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the nodes in [0, 1] and the weights, which sum to 1, of a quadrature rule.

    They are kept, and can't be written to: Gauss-Legendre nodes take a time that grows as the cube
    of their number.
    """
    nodes, weights = _nodes_and_weights(rule, steps)
    for values in (nodes, weights):
        values.setflags(write=False)
    return nodes, weights


def _nodes_and_weights(
    rule: QuadratureRule, steps: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    if rule == "gauss_legendre":
        nodes, weights = np.polynomial.legendre.leggauss(steps)
        return (nodes + 1) / 2, weights / 2
    if rule == "trapezoid":
        weights = np.full(steps, 1 / (steps - 1))
        weights[[0, -1]] /= 2
        return np.linspace(0, 1, steps), weights
    offset = {"midpoint": 0.5, "riemann_left": 0.0, "riemann_right": 1.0}[rule]
    return (np.arange(steps) + offset) / steps, np.full(steps, 1 / steps)
