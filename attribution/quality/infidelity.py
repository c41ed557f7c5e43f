"""Infidelity: how far the attributions of hidden pixels are from what hiding them does.

Yeh et al. 2019, "On the (In)fidelity and Sensitivity of Explanations", section 2.

Shape suffixes: N objects, T targets, M judged methods, P samples, C channels, H height, W width.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from typing_extensions import override

from ..arrays import ArraySpec, Layout
from ..batch import Batch
from ..method import Targets
from ..partials import Array, Rule, append
from ..randomness import random_words
from .judged import Quality, maps_NTMHW, target_scores


@dataclass(frozen=True, kw_only=True)
class Infidelity(Quality):
    """Infidelity of square patches: mean of (attributions inside - score lost)^2; low is good.

    Yeh et al. 2019, definition 2.1, with I the removal of a random square patch: the product of I
    and an attribution that counts contributions (such as gradient x input or integrated gradients)
    is its sum over the patch.
    """

    samples: int = 64
    """Number of random patches."""
    window: int = 16
    """Side of a patch in pixels."""
    fill: float = 0.0
    """What stands where a patch is removed, in the network's input space."""

    name: ClassVar[str] = "infidelity"
    rules: ClassVar[Mapping[str, Rule]] = {"lost": append, "promised": append}

    def __post_init__(self) -> None:
        if self.samples < 1 or self.window < 1:
            raise ValueError(
                f"samples is {self.samples} and window {self.window}; both must be 1 or more"
            )

    @override
    def check(self, network: nn.Module, layout: Layout) -> None:
        super().check(network, layout)
        if self.window > min(layout.image_shape[1:]):
            raise ValueError(
                f"window {self.window} is larger than the image, {layout.image_shape[1]}x"
                f"{layout.image_shape[2]}; make it smaller"
            )

    @override
    def parts(self, image_shape: tuple[int, int, int]) -> int:
        return self.samples

    @override
    def terms(self, batch: Batch, targets_NT: Targets, parts: range) -> dict[str, Array]:
        map_NTMHW = maps_NTMHW(self.judged, batch, targets_NT)
        lost_NTP = np.zeros((*targets_NT.shape, len(parts)))
        promised_NTMP = np.zeros((*map_NTMHW.shape[:3], len(parts)))
        for n in batch.indices:
            hidden_PHW = self._patches(batch, n, parts)
            hidden = torch.from_numpy(hidden_PHW).to(batch.images.device)[:, None]
            rows = torch.where(hidden, torch.full_like(batch.images[n], self.fill), batch.images[n])
            before = target_scores(batch.logits_NK[n : n + 1], targets_NT[n], "logit")
            after = target_scores(batch.forward(rows), targets_NT[n], "logit")
            lost_NTP[n] = (before - after).T
            for p, hidden_HW in enumerate(hidden_PHW):
                promised_NTMP[n, ..., p] = map_NTMHW[n][..., hidden_HW].sum(axis=-1)
        return {"lost": lost_NTP, "promised": promised_NTMP}

    def _patches(self, batch: Batch, n: int, parts: range) -> NDArray[np.bool_]:
        """Draw the pixels that each sample hides, (P, H, W)."""
        h, w = batch.images.shape[2:]
        keys = [batch.key(n, self.name, sample) for sample in parts]
        words_P2 = random_words(keys, 2, torch.device("cpu")).numpy()
        corners_P2 = words_P2 * (np.array([h, w]) - self.window + 1) >> 32
        (y_P, x_P) = (corners_P2[:, axis, None] for axis in (0, 1))
        rows_PH = (y_P <= np.arange(h)) & (np.arange(h) < y_P + self.window)
        columns_PW = (x_P <= np.arange(w)) & (np.arange(w) < x_P + self.window)
        patches: NDArray[np.bool_] = rows_PH[:, :, None] & columns_PW[:, None, :]
        return patches

    @override
    def finish(
        self, total: Mapping[str, Array], batch: Batch, targets_NT: Targets, layout: Layout
    ) -> dict[str, Array]:
        lost, promised = total["lost"][:, :, None], total["promised"]
        product, square = (lost * promised).mean(axis=-1), np.square(promised).mean(axis=-1)
        scale = np.divide(product, square, out=np.zeros_like(product), where=square > 0)
        return {
            "infidelity": np.square(promised - lost).mean(axis=-1),
            "infidelity_scaled": np.square(scale[..., None] * promised - lost).mean(axis=-1),
        }

    @override
    def arrays(self, layout: Layout) -> tuple[ArraySpec, ...]:
        attributes = {"samples": self.samples, "window": self.window, "fill": self.fill}
        conventions = {
            "infidelity": "Yeh 2019; E (I.Phi - (f(x) - f(x - I)))^2, I removes a square patch",
            "infidelity_scaled": "the same after the map is multiplied by the number that makes "
            "it smallest, so that maps in any units compare",
        }
        return tuple(
            ArraySpec(
                name,
                ("target", "judged"),
                (layout.targets, len(self.judged)),
                name.replace("_", ", "),
                units="logit^2",
                convention=convention,
                attributes=attributes,
            )
            for name, convention in conventions.items()
        )

    @override
    def passes(self, layout: Layout) -> tuple[float, float]:
        return (float(self.samples), 0.0)
