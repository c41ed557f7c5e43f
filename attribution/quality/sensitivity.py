"""Max-sensitivity: how much a map changes when the image hardly does.

Yeh et al. 2019, "On the (In)fidelity and Sensitivity of Explanations", section 3.

Shape suffixes: N objects, T targets, M judged methods, C channels, H height, W width.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor
from typing_extensions import override

from ..arrays import ArraySpec, Layout
from ..batch import Batch
from ..method import Targets
from ..partials import Array, Rule, append
from ..randomness import random_words
from .judged import Quality, maps_elsewhere, maps_NTMHW


@dataclass(frozen=True, kw_only=True)
class MaxSensitivity(Quality):
    """Max-sensitivity: the largest relative change of the map within a small cube; low is good.

    Yeh et al. 2019, definition 3.1, by uniform draws, divided by the norm of the map.
    """

    samples: int = 10
    """Number of draws."""
    radius: float = 0.02
    """Largest change of a pixel, in the network's input space."""

    name: ClassVar[str] = "max_sensitivity"
    rules: ClassVar[Mapping[str, Rule]] = {"change": append}

    def __post_init__(self) -> None:
        if self.samples < 1 or self.radius <= 0:
            raise ValueError(
                f"samples is {self.samples} and radius {self.radius}; both must be above 0"
            )

    @override
    def parts(self, image_shape: tuple[int, int, int]) -> int:
        return self.samples

    @override
    def terms(self, batch: Batch, targets_NT: Targets, parts: range) -> dict[str, Array]:
        before = maps_NTMHW(self.judged, batch, targets_NT)
        size_NTM = np.sqrt(np.square(before).sum(axis=(3, 4)))
        change_NTMP = np.zeros((*size_NTM.shape, len(parts)))
        for p, sample in enumerate(parts):
            noisy = batch.images + self._noise(batch, sample)
            after = maps_elsewhere(self.judged, batch, targets_NT, images_NCHW=noisy)
            moved_NTM = np.sqrt(np.square(after - before).sum(axis=(3, 4)))
            np.divide(moved_NTM, size_NTM, out=change_NTMP[..., p], where=size_NTM > 0)
        return {"change": change_NTMP}

    def _noise(self, batch: Batch, sample: int) -> Tensor:
        keys = [batch.key(n, self.name, sample) for n in range(len(batch))]
        words = random_words(keys, batch.images[0].numel(), batch.images.device)
        uniform = (words.double() + 0.5) / 2**31 - 1
        noise = (self.radius * uniform).to(batch.images.dtype).reshape(batch.images.shape)
        present = torch.from_numpy(batch.present).to(noise.device)[:, None, None, None]
        return torch.where(present, noise, torch.zeros_like(noise))

    @override
    def finish(
        self, total: Mapping[str, Array], batch: Batch, targets_NT: Targets, layout: Layout
    ) -> dict[str, Array]:
        return {"max_sensitivity": total["change"].max(axis=-1)}

    @override
    def arrays(self, layout: Layout) -> tuple[ArraySpec, ...]:
        return (
            ArraySpec(
                "max_sensitivity",
                ("target", "judged"),
                (layout.targets, len(self.judged)),
                "largest relative change of the map",
                convention="Yeh 2019; max |Phi(x + d) - Phi(x)| / |Phi(x)| over uniform d, "
                "|d|_inf <= radius; Euclidean norm of the map summed over channels",
                attributes={"samples": self.samples, "radius": self.radius},
            ),
        )

    @override
    def passes(self, layout: Layout) -> tuple[float, float]:
        each = [method.passes(layout) for method in self.judged]
        # Each draw has the pass over its images, and all that the methods do.
        forward = self.samples * (1 + sum(f for f, _ in each))
        return (forward, self.samples * sum(b for _, b in each))
