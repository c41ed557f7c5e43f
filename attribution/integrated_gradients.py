"""Integrated gradients: the gradient averaged along the path from a baseline to the image.

Sundararajan, Taly & Yan 2017, "Axiomatic Attribution for Deep Networks", equation 1.

Shape suffixes: N objects, T targets, P parts (nodes of the paths), K classes, D draws of the
baseline, C channels, H height, W width.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from typing_extensions import override

from .arrays import ArraySpec, Layout
from .batch import Batch
from .fills import (
    Constant,
    FromImage,
    canvas,
    check_channels,
    check_fill,
    fill_attributes,
    is_constant,
)
from .method import Method, Targets
from .partials import Array, Rule, add
from .quadrature import QuadratureRule, quadrature
from .targets import NO_TARGET


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
    """Largest error_estimate that is accepted: a map with a larger one is made again with twice the
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
        return self.draws * self.steps

    @override
    def terms(self, batch: Batch, targets_NT: Targets, parts: range) -> dict[str, Array]:
        shape = (*targets_NT.shape, *batch.images.shape[1:])
        halves = {"even": np.zeros(shape), "odd": np.zeros(shape)}
        for n in batch.indices:
            asked = np.flatnonzero(targets_NT[n] != NO_TARGET)
            if asked.size:
                classes = targets_NT[n, asked].tolist()
                for half, attributions in self._along_paths(batch, n, classes, parts).items():
                    halves[half][n, asked] = [attributions[c] for c in classes]
        return {**halves, "difference": self._difference(batch, targets_NT, parts)}

    @override
    def finish(
        self, total: Mapping[str, Array], batch: Batch, targets_NT: Targets, layout: Layout
    ) -> dict[str, Array]:
        arrays = self._finished(total, targets_NT, layout)
        if self.tolerance is None:
            return arrays
        arrays["steps"] = np.where(targets_NT == NO_TARGET, -1, self.steps).astype(np.int32)
        method = self
        while 2 * method.steps <= self.max_steps:
            left_NT = (arrays["error_estimate"] > self.tolerance) & (targets_NT != NO_TARGET)
            if not left_NT.any():
                break
            method = replace(method, steps=2 * method.steps)
            targets_NT = np.where(left_NT, targets_NT, NO_TARGET)
            partial = method.partial(batch, targets_NT)
            blocks = method.blocks(layout.image_shape, batch.block_length)
            better = method._finished(partial.total(blocks), targets_NT, layout)
            better["steps"] = np.full_like(arrays["steps"], method.steps)
            for name, values in better.items():
                arrays[name][left_NT] = values[left_NT]
        return arrays

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
            convention="doubled until error_estimate is at most the tolerance; -1 without a target",
            dtype="int32",
            attributes=parameters,
        )
        return (*specs, steps)

    @override
    def passes(self, layout: Layout) -> tuple[float, float]:
        nodes = float(self.draws * self.steps)
        baselines = 0.0 if self._is_shared else float(self.draws)
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
    def _is_shared(self) -> bool:
        """Whether all objects have the same baseline."""
        return is_constant(self.baseline)

    def _baseline(self, batch: Batch, n: int, draw: int) -> Tensor:
        """Return where a path of object ``n`` begins, (C, H, W)."""
        fill = 0.0 if self.baseline == "black" else self.baseline
        found = canvas(batch, n, fill, blur_sigma=self.blur_sigma, draw=draw)
        return found.expand_as(batch.images[n])

    def _paths(self, parts: range) -> list[tuple[int, NDArray[np.intp]]]:
        """Cut a block into paths: number of the draw, and of the nodes on its path."""
        draws = range(parts.start // self.steps, (parts.stop - 1) // self.steps + 1)
        part_P = np.asarray(parts)
        return [(d, part_P[part_P // self.steps == d] - d * self.steps) for d in draws]

    def _along_paths(
        self, batch: Batch, n: int, classes: Sequence[int], parts: range
    ) -> dict[str, dict[int, Array]]:
        """Attribute a block of object ``n``'s nodes: (C, H, W) by half and class."""
        nodes, weights = quadrature(self.rule, self.steps)
        image_CHW, paths = batch.images[n], self._paths(parts)
        starts = [self._baseline(batch, n, draw) for draw, _ in paths]
        rows = [
            start_CHW + self._column(nodes[node_P], image_CHW) * (image_CHW - start_CHW)
            for start_CHW, (_, node_P) in zip(starts, paths, strict=True)
        ]
        gradients = batch.gradients(torch.cat(rows), classes)
        zero = torch.zeros_like(image_CHW, dtype=torch.float64)
        sums = {half: dict.fromkeys(gradients, zero) for half in ("even", "odd")}
        for c, gradient in gradients.items():
            some = torch.split(gradient, [len(node_P) for _, node_P in paths])
            for start_CHW, gradient_PCHW, (draw, node_P) in zip(starts, some, paths, strict=True):
                step_CHW = (image_CHW - start_CHW).double()
                for half, weight in self._by_half(draw, node_P, weights).items():
                    weight_P = torch.as_tensor(weight, device=step_CHW.device)
                    mean_CHW = torch.tensordot(weight_P, gradient_PCHW.double(), dims=1)
                    sums[half][c] = sums[half][c] + mean_CHW * step_CHW
        return {half: {c: s.cpu().numpy() for c, s in of.items()} for half, of in sums.items()}

    def _by_half(
        self, draw: int, node_P: NDArray[np.intp], weights: NDArray[np.float64]
    ) -> dict[str, NDArray[np.float64]]:
        """Return the weights of nodes in each half: of every other node, or every other draw."""
        weight_P = weights[node_P] / self.draws
        number_P = node_P if self.draws == 1 else np.full_like(node_P, draw)
        return {"even": weight_P * (number_P % 2 == 0), "odd": weight_P * (number_P % 2 == 1)}

    @property
    def _shares(self) -> tuple[float, float]:
        """Sums of the weights in each half."""
        if self.draws > 1:
            odd = self.draws // 2 / self.draws
            return 1 - odd, odd
        _, weights = quadrature(self.rule, self.steps)
        return float(weights[0::2].sum()), float(weights[1::2].sum())

    def _finished(
        self, total: Mapping[str, Array], targets_NT: Targets, layout: Layout
    ) -> dict[str, Array]:
        attribution_NTCHW = total["even"] + total["odd"]
        even, odd = self._shares
        spread_NT = _norm(total["even"] / even - total["odd"] / odd)
        size_NT = _norm(attribution_NTCHW)
        return {
            "attribution": layout.reduce(attribution_NTCHW),
            "completeness_gap": attribution_NTCHW.sum(axis=(2, 3, 4)) - total["difference"],
            "error_estimate": np.divide(
                spread_NT, size_NT, out=np.zeros_like(spread_NT), where=size_NT > 0
            ),
        }

    @staticmethod
    def _column(nodes: NDArray[np.float64], images: Tensor) -> Tensor:
        return torch.as_tensor(nodes, dtype=images.dtype, device=images.device)[:, None, None, None]

    def _difference(self, batch: Batch, targets_NT: Targets, parts: range) -> NDArray[np.float64]:
        """F(x) - F(baseline), of each draw contributed once: by the block with its first node."""
        difference_NT = np.zeros(targets_NT.shape)
        draws = [draw for draw, node_P in self._paths(parts) if node_P[0] == 0]
        if not draws or not batch.indices:
            return difference_NT
        classes_NT = np.maximum(targets_NT, 0)
        score_NK = batch.logits_NK.double().cpu().numpy()
        shared_1K = self._scores(batch, batch.indices[0], draws) if self._is_shared else None
        for n in batch.indices:
            if (targets_NT[n] == NO_TARGET).all():
                continue
            start_DK = self._scores(batch, n, draws) if shared_1K is None else shared_1K
            drop_K = (score_NK[n] - start_DK).sum(axis=0) / self.draws
            difference_NT[n] = drop_K[classes_NT[n]]
        return difference_NT

    def _scores(self, batch: Batch, n: int, draws: Sequence[int]) -> NDArray[np.float64]:
        """Return the scores of object ``n``'s baselines, (draws, K)."""
        rows = torch.stack([self._baseline(batch, n, draw) for draw in draws])
        return batch.forward(rows).double().cpu().numpy()


def _norm(map_NTCHW: NDArray[np.float64]) -> NDArray[np.float64]:
    norm: NDArray[np.float64] = np.sqrt(np.square(map_NTCHW).sum(axis=(2, 3, 4)))
    return norm
