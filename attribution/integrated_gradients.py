"""Integrated gradients: the gradient averaged along the path from a baseline to the image.

Sundararajan, Taly & Yan 2017, "Axiomatic Attribution for Deep Networks", equation 1.

Shape suffixes: N objects, T targets, P parts (nodes of the path), C channels, H height, W width.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from typing_extensions import override

from .arrays import ArraySpec, Layout
from .batch import Batch
from .method import Method, Targets
from .partials import Array, Rule, add

QuadratureRule = Literal["gauss_legendre", "midpoint", "trapezoid", "riemann_left", "riemann_right"]


def quadrature(rule: QuadratureRule, steps: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the nodes in [0, 1] and the weights, which sum to 1, of a quadrature rule."""
    if rule == "gauss_legendre":
        nodes, weights = np.polynomial.legendre.leggauss(steps)
        return (nodes + 1) / 2, weights / 2
    if rule == "trapezoid":
        weights = np.full(steps, 1 / (steps - 1))
        weights[[0, -1]] /= 2
        return np.linspace(0, 1, steps), weights
    offset = {"midpoint": 0.5, "riemann_left": 0.0, "riemann_right": 1.0}[rule]
    return (np.arange(steps) + offset) / steps, np.full(steps, 1 / steps)


@dataclass(frozen=True)
class IntegratedGradients(Method):
    """Integrated gradients along the straight path, with its errors.

    ``completeness_gap`` is the sum of all attributions minus F(x) - F(baseline), signed.
    ``error_estimate`` compares the maps made from every other node: the norm of their difference
    over the norm of the map. It follows the map's true error where the gap does not, and is
    cautious: for ReLU networks 3 to 5 times that error.
    """

    steps: int = 50
    """Number of nodes on the path, 2 or more."""
    rule: QuadratureRule = "gauss_legendre"
    """Quadrature rule; its weights sum to 1. For ReLU networks midpoint is as good as
    Gauss-Legendre."""
    baseline: Literal["black"] | float = "black"
    """Where the path begins: black (0 in the network's input space), or a constant there."""

    name: ClassVar[str] = "integrated_gradients"
    rules: ClassVar[Mapping[str, Rule]] = {"even": add, "odd": add, "difference": add}

    def __post_init__(self) -> None:
        if self.steps < 2:
            raise ValueError(f"steps is {self.steps}; the path needs 2 nodes or more")
        if self.rule not in get_args(QuadratureRule):
            raise ValueError(
                f"rule is {self.rule!r}; choose one of {', '.join(get_args(QuadratureRule))}"
            )
        if self.baseline != "black" and not isinstance(self.baseline, int | float):
            raise ValueError(f"baseline is {self.baseline!r}; choose black or a number")

    @override
    def parts(self, image_shape: tuple[int, int, int]) -> int:
        return self.steps

    @override
    def terms(self, batch: Batch, targets_NT: Targets, parts: range) -> dict[str, Array]:
        nodes, weights = (values[parts.start : parts.stop] for values in self._quadrature())
        baseline = self._baseline(batch.images)
        shape = (*targets_NT.shape, *batch.images.shape[1:])
        halves = {"even": np.zeros(shape), "odd": np.zeros(shape)}
        number = np.asarray(parts)
        weights_by_half = {
            half: torch.as_tensor(weights * (number % 2 == parity), device=batch.images.device)
            for half, parity in (("even", 0), ("odd", 1))
        }
        for n in batch.indices:
            path_PCHW = baseline + self._column(nodes, batch.images) * (batch.images[n] - baseline)
            classes = [int(c) for c in np.maximum(targets_NT[n], 0)]
            gradients = batch.gradients(path_PCHW, classes)
            for half, weight_P in weights_by_half.items():
                summed = {
                    c: torch.tensordot(weight_P, gradient.double(), dims=1).cpu().numpy()
                    for c, gradient in gradients.items()
                }
                halves[half][n] = [summed[c] for c in classes]
        return {**halves, "difference": self._difference(batch, targets_NT, parts)}

    @override
    def finish(
        self, total: Mapping[str, Array], batch: Batch, targets_NT: Targets, layout: Layout
    ) -> dict[str, Array]:
        step_N1CHW = (batch.images - self._baseline(batch.images)).cpu().numpy()
        step_N1CHW = step_N1CHW.astype(np.float64)[:, None]
        attribution_NTCHW = (total["even"] + total["odd"]) * step_N1CHW
        _, weights = self._quadrature()
        halves = (total["even"] / weights[0::2].sum(), total["odd"] / weights[1::2].sum())
        spread_NT = _norm((halves[0] - halves[1]) * step_N1CHW)
        size_NT = _norm(attribution_NTCHW)
        return {
            "attribution": layout.reduce(attribution_NTCHW),
            "completeness_gap": attribution_NTCHW.sum(axis=(2, 3, 4)) - total["difference"],
            "error_estimate": np.divide(
                spread_NT, size_NT, out=np.zeros_like(spread_NT), where=size_NT > 0
            ),
        }

    @override
    def arrays(self, layout: Layout) -> tuple[ArraySpec, ...]:
        parameters = {"steps": self.steps, "rule": self.rule, "baseline": self.baseline}
        per_target = (("target",), (layout.targets,))
        return (
            ArraySpec(
                "attribution",
                layout.map_dims,
                layout.map_shape,
                "integrated gradients",
                units="logit",
                convention="Sundararajan 2017; (x - b) * weighted mean gradient, weights sum to 1",
                is_map=True,
                attributes={**parameters, "channels": layout.channels},
            ),
            ArraySpec(
                "completeness_gap",
                *per_target,
                "sum of attributions minus the difference of scores",
                units="logit",
                convention="sum(attribution) - (F(x) - F(baseline)), signed",
                attributes=parameters,
            ),
            ArraySpec(
                "error_estimate",
                *per_target,
                "relative error of the map, estimated",
                convention="norm of the difference of the maps from even and from odd nodes, "
                "over the norm of the map",
                attributes=parameters,
            ),
        )

    @override
    def passes(self, layout: Layout) -> tuple[float, float]:
        return (float(self.steps), float(self.steps * layout.targets))

    def _quadrature(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        return quadrature(self.rule, self.steps)

    def _baseline(self, images: Tensor) -> Tensor:
        value = 0.0 if self.baseline == "black" else float(self.baseline)
        return torch.full_like(images[0], value)

    @staticmethod
    def _column(nodes: NDArray[np.float64], images: Tensor) -> Tensor:
        return torch.as_tensor(nodes, dtype=images.dtype, device=images.device)[:, None, None, None]

    def _difference(self, batch: Batch, targets_NT: Targets, parts: range) -> NDArray[np.float64]:
        """F(x) - F(baseline), contributed once: by the block that holds the first node."""
        if parts.start > 0:
            return np.zeros(targets_NT.shape)
        at_baseline_1K = batch.forward(self._baseline(batch.images)[None])
        difference_NK = batch.logits_NK.double() - at_baseline_1K.double()
        return np.take_along_axis(difference_NK.cpu().numpy(), np.maximum(targets_NT, 0), axis=1)


def _norm(map_NTCHW: NDArray[np.float64]) -> NDArray[np.float64]:
    norm: NDArray[np.float64] = np.sqrt(np.square(map_NTCHW).sum(axis=(2, 3, 4)))
    return norm
