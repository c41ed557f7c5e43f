"""Integrated gradients: the gradient averaged along the path from a baseline to the image.

Sundararajan, Taly & Yan 2017, "Axiomatic Attribution for Deep Networks", equation 1.

Shape suffixes: N objects, T targets, C channels, H height, W width.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, get_args

import numpy as np
from numpy.typing import NDArray
from torch import nn
from typing_extensions import override

from .arrays import ArraySpec, Layout
from .batch import Batch
from .fills import Constant, FromImage, check_channels, check_fill, fill_attributes
from .method import Method, Targets
from .partials import Array, Rule, add
from .paths import Paths
from .quadrature import QuadratureRule
from .targets import NO_TARGET

_MARGIN = 1.25
"""How many more steps than its estimate calls for a map is made again with: one repetition then
mostly does."""


@dataclass(frozen=True)
class IntegratedGradients(Method):
    """Integrated gradients along the straight path, with its errors.

    From several draws of sky noise the paths' attributions are averaged: expected gradients (Erion
    et al. 2021, equation 4), with sky in place of the data set.

    ``completeness_gap`` is the sum of all attributions minus F(x) - F(baseline), signed; of several
    draws F(baseline) is the mean. ``error_estimate`` compares the maps made from every other node:
    the norm of their difference over the norm of the map. It follows the map's true error where the
    gap does not, and is cautious: for ReLU networks 3 to 5 times that error. Of several draws it
    compares the maps of every other draw instead, whose spread is the larger error.

    With a ``tolerance`` each map, of one object and one target, is made again with more nodes while
    its estimate is larger: with as many as that estimate calls for, since the error of ReLU
    networks falls as 1 / steps. ``steps`` says how many it took. A map that reaches ``max_steps``
    is kept as it is, and its estimate tells how far it got. This needs the whole map, so it happens
    where the parts have been merged.
    """

    steps: int = 50
    """Number of nodes on each path, 2 or more."""
    rule: QuadratureRule = "gauss_legendre"
    """Quadrature rule; its weights sum to 1. For ReLU networks midpoint is as good as
    Gauss-Legendre."""
    baseline: Literal["black"] | Constant | FromImage = "black"
    """Where the path begins: black (0 in the network's input space), a constant there or one per
    channel, image_mean, blur, or sky_noise."""
    blur_sigma: float = 8.0
    """Standard deviation of the blur in pixels."""
    draws: int = 1
    """Draws of sky noise, whose attributions are averaged; each has a path of its own."""
    tolerance: float | None = None
    """Largest error_estimate that is accepted: a map with a larger one is made again with more
    steps until it is met, or max_steps is reached. None takes every map as it is."""
    max_steps: int = 800
    """Most nodes on the path that tolerance may lead to."""

    name: ClassVar[str] = "integrated_gradients"
    rules: ClassVar[Mapping[str, Rule]] = {"even": add, "odd": add, "difference": add}

    def __post_init__(self) -> None:
        if self.steps < 2:
            raise ValueError(f"steps is {self.steps}; the path needs 2 nodes or more")
        if self.rule not in get_args(QuadratureRule):
            raise ValueError(
                f"rule is {self.rule!r}; choose one of {', '.join(get_args(QuadratureRule))}"
            )
        words = ("black", *get_args(FromImage))
        check_fill("baseline", self.baseline, words, self.blur_sigma)
        if self.draws < 1:
            raise ValueError(f"draws is {self.draws}; take 1 or more")
        if self.draws > 1 and self.baseline != "sky_noise":
            raise ValueError(
                f"draws is {self.draws}, but all draws of baseline {self.baseline!r} are the same; "
                "set draws to 1, or baseline to sky_noise"
            )
        if self.tolerance is not None:
            self._check_refinement(self.tolerance)

    def _check_refinement(self, tolerance: float) -> None:
        if not 0 < tolerance < math.inf:
            raise ValueError(f"tolerance is {tolerance}; choose a number above 0, such as 0.05")
        if self.draws > 1:
            raise ValueError(
                "tolerance is reached by more steps, which don't bring draws closer to each other; "
                "leave it out and raise draws"
            )
        if self.max_steps < self.steps:
            raise ValueError(
                f"max_steps is {self.max_steps}, less than steps, {self.steps}; raise it"
            )

    @override
    def parts(self, image_shape: tuple[int, int, int]) -> int:
        return self._paths.nodes

    @override
    def terms(self, batch: Batch, targets_NT: Targets, parts: range) -> dict[str, Array]:
        shape = (*targets_NT.shape, *batch.images.shape[1:])
        halves = {"even": np.zeros(shape), "odd": np.zeros(shape)}
        for n in batch.indices:
            asked = np.flatnonzero(targets_NT[n] != NO_TARGET)
            if asked.size:
                classes = targets_NT[n, asked].tolist()
                for half, attributions in self._paths.attribute(batch, n, classes, parts).items():
                    halves[half][n, asked] = [attributions[c] for c in classes]
        return {**halves, "difference": self._paths.difference(batch, targets_NT, parts)}

    @override
    def finish(
        self, total: Mapping[str, Array], batch: Batch, targets_NT: Targets, layout: Layout
    ) -> dict[str, Array]:
        if self.tolerance is None:
            found = self._measured(total)
        else:
            # Measures of quality finish the same maps again; copies, since results may be changed.
            kept = batch.once(
                ("refined", self, targets_NT.tobytes()),
                lambda: self._refined(total, batch, targets_NT),
            )
            found = {name: values.copy() for name, values in kept.items()}
        return found | {"attribution": layout.reduce(found["attribution"])}

    @override
    def arrays(self, layout: Layout) -> tuple[ArraySpec, ...]:
        parameters = self._parameters
        per_target = (("target",), (layout.targets,))
        specs = (
            ArraySpec(
                "attribution",
                layout.map_dims,
                layout.map_shape,
                "integrated gradients",
                units="logit",
                convention="Sundararajan 2017; (x - b) * weighted mean gradient, weights sum to 1"
                + ("; mean over draws of b, Erion 2021" if self.draws > 1 else ""),
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
                convention="norm of the difference of the maps from even and from odd "
                f"{'draws' if self.draws > 1 else 'nodes'}, over the norm of the map",
                attributes=parameters,
            ),
        )
        if self.tolerance is None:
            return specs
        steps = ArraySpec(
            "steps",
            *per_target,
            "nodes on the path",
            convention="as many as bring error_estimate to the tolerance, max_steps at most; "
            "-1 without a target",
            dtype="int32",
            attributes=parameters,
        )
        return (*specs, steps)

    @override
    def passes(self, layout: Layout) -> tuple[float, float]:
        # Those of refinement are known when they are done: the ledger counts them.
        nodes = float(self._paths.nodes)
        baselines = 0.0 if self._paths.is_shared else float(self.draws)
        return (nodes + baselines, nodes * layout.targets)

    @override
    def check(self, network: nn.Module, layout: Layout) -> None:
        check_channels("baseline", self.baseline, layout.image_shape[0])

    @property
    def _parameters(self) -> dict[str, Any]:
        """What the arrays' attributes tell, beside what is as everywhere."""
        described: dict[str, Any] = {"steps": self.steps, "rule": self.rule}
        described |= fill_attributes("baseline", self.baseline, self.blur_sigma)
        if self.baseline == "sky_noise":
            described["draws"] = self.draws
        if self.tolerance is not None:
            described |= {"tolerance": self.tolerance, "max_steps": self.max_steps}
        return described

    @property
    def _paths(self) -> Paths:
        baseline = 0.0 if self.baseline == "black" else self.baseline
        return Paths(self.steps, self.rule, baseline, self.blur_sigma, self.draws)

    def _measured(self, total: Mapping[str, Array]) -> dict[str, Array]:
        """Return the map, (N, T, C, H, W), and its errors."""
        attribution_NTCHW = total["even"] + total["odd"]
        even, odd = self._paths.shares
        spread_NT = _norm(total["even"] / even - total["odd"] / odd)
        size_NT = _norm(attribution_NTCHW)
        return {
            "attribution": attribution_NTCHW,
            "completeness_gap": attribution_NTCHW.sum(axis=(2, 3, 4)) - total["difference"],
            "error_estimate": np.divide(
                spread_NT, size_NT, out=np.zeros_like(spread_NT), where=size_NT > 0
            ),
        }

    def _refined(
        self, total: Mapping[str, Array], batch: Batch, targets_NT: Targets
    ) -> dict[str, Array]:
        """Bring all maps to the tolerance; what is done for one follows from that one alone."""
        found = self._measured(total)
        steps_NT = np.where(targets_NT == NO_TARGET, -1, self.steps).astype(np.int32)
        found["steps"] = steps_NT
        while (wanted_NT := self._wanted(steps_NT, found["error_estimate"])).any():
            for steps in np.unique(wanted_NT[wanted_NT > 0]).tolist():
                again_NT = wanted_NT == steps
                method = replace(self, steps=steps)
                partial = method.partial(batch, np.where(again_NT, targets_NT, NO_TARGET))
                blocks = -(-method._paths.nodes // batch.block_length)
                better = method._measured(partial.total(blocks))
                for name, values in better.items():
                    found[name][again_NT] = values[again_NT]
                steps_NT[again_NT] = steps
        return found

    def _wanted(
        self, steps_NT: NDArray[np.int32], estimate_NT: NDArray[np.float64]
    ) -> NDArray[np.int64]:
        """Return the steps that a map is to be made again with; 0 where it is good as it is."""
        assert self.tolerance is not None
        excess_NT = np.minimum(estimate_NT / self.tolerance, self.max_steps)
        # Whole multiples: maps with the same number of steps are made together.
        multiple_NT = np.ceil(_MARGIN * excess_NT * steps_NT / self.steps)
        again_NT = (excess_NT > 1) & (steps_NT < self.max_steps)
        wanted_NT = np.where(again_NT, multiple_NT * self.steps, 0).astype(np.int64)
        return np.minimum(wanted_NT, self.max_steps)


def _norm(map_NTCHW: NDArray[np.float64]) -> NDArray[np.float64]:
    norm: NDArray[np.float64] = np.sqrt(np.square(map_NTCHW).sum(axis=(2, 3, 4)))
    return norm
