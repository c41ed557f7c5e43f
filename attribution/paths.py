"""Straight paths from baselines to images, and what the gradients along them attribute.

Shape suffixes: N objects, T targets, P parts (nodes of the paths), K classes, D draws of the
baseline, C channels, H height, W width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .batch import Batch
from .fills import Constant, FromImage, canvas, is_constant
from .method import Targets
from .partials import Array
from .quadrature import QuadratureRule, quadrature
from .targets import NO_TARGET


@dataclass(frozen=True)
class Paths:
    """The paths of each object, one per draw of its baseline; parts are the nodes of all of them.

    Nodes come in two halves, whose results can be compared: every other node, or of several draws
    every other draw.
    """

    steps: int
    rule: QuadratureRule
    baseline: Constant | FromImage
    blur_sigma: float
    draws: int

    @property
    def nodes(self) -> int:
        """Count the nodes of all paths of an object."""
        return self.draws * self.steps

    @property
    def is_shared(self) -> bool:
        """Whether all objects have the same baseline."""
        return is_constant(self.baseline)

    @property
    def shares(self) -> tuple[float, float]:
        """Sums of the weights in each half."""
        if self.draws > 1:
            odd = self.draws // 2 / self.draws
            return 1 - odd, odd
        _, weights = quadrature(self.rule, self.steps)
        return float(weights[0::2].sum()), float(weights[1::2].sum())

    def attribute(
        self, batch: Batch, n: int, classes: Sequence[int], parts: range
    ) -> dict[str, dict[int, Array]]:
        """Attribute a block of object ``n``'s nodes: (C, H, W) by half and class."""
        nodes, weights = quadrature(self.rule, self.steps)
        image_CHW, paths = batch.images[n], self._split(parts)
        starts = [self._start(batch, n, draw) for draw, _ in paths]
        rows = [
            start_CHW + _column(nodes[node_P], image_CHW) * (image_CHW - start_CHW)
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

    def difference(self, batch: Batch, targets_NT: Targets, parts: range) -> NDArray[np.float64]:
        """F(x) - F(baseline), of each draw contributed once: by the block with its first node."""
        difference_NT = np.zeros(targets_NT.shape)
        draws = [draw for draw, node_P in self._split(parts) if node_P[0] == 0]
        if not draws or not batch.indices:
            return difference_NT
        classes_NT = np.maximum(targets_NT, 0)
        score_NK = batch.logits_NK.double().cpu().numpy()
        shared_1K = self._scores(batch, batch.indices[0], draws) if self.is_shared else None
        for n in batch.indices:
            if (targets_NT[n] == NO_TARGET).all():
                continue
            start_DK = self._scores(batch, n, draws) if shared_1K is None else shared_1K
            drop_K = (score_NK[n] - start_DK).sum(axis=0) / self.draws
            difference_NT[n] = drop_K[classes_NT[n]]
        return difference_NT

    def _start(self, batch: Batch, n: int, draw: int) -> Tensor:
        """Return where a path of object ``n`` begins, (C, H, W)."""
        found = canvas(batch, n, self.baseline, blur_sigma=self.blur_sigma, draw=draw)
        return found.expand_as(batch.images[n])

    def _split(self, parts: range) -> list[tuple[int, NDArray[np.intp]]]:
        """Cut a block into paths: number of the draw, and of the nodes on its path."""
        draws = range(parts.start // self.steps, (parts.stop - 1) // self.steps + 1)
        part_P = np.asarray(parts)
        return [(d, part_P[part_P // self.steps == d] - d * self.steps) for d in draws]

    def _by_half(
        self, draw: int, node_P: NDArray[np.intp], weights: NDArray[np.float64]
    ) -> dict[str, NDArray[np.float64]]:
        """Return the weights of nodes in each half."""
        weight_P = weights[node_P] / self.draws
        number_P = node_P if self.draws == 1 else np.full_like(node_P, draw)
        return {"even": weight_P * (number_P % 2 == 0), "odd": weight_P * (number_P % 2 == 1)}

    def _scores(self, batch: Batch, n: int, draws: Sequence[int]) -> NDArray[np.float64]:
        """Return the scores of object ``n``'s baselines, (draws, K)."""
        rows = torch.stack([self._start(batch, n, draw) for draw in draws])
        return batch.forward(rows).double().cpu().numpy()


def _column(nodes: NDArray[np.float64], image: Tensor) -> Tensor:
    return torch.as_tensor(nodes, dtype=image.dtype, device=image.device)[:, None, None, None]
