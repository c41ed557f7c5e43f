"""Deletion and insertion: how fast the score falls, or rises, with the most important pixels.

Petsiuk et al. 2018, "RISE: Randomized Input Sampling for Explanation of Black-box Models",
section 4.2.

Shape suffixes: N objects, T targets, M judged methods, P fractions, C channels, H height, W width.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from typing_extensions import override

from ..arrays import ArraySpec, Layout
from ..batch import Batch
from ..method import Targets
from ..partials import Array, Rule, append
from .judged import Quality, maps_NTMHW, target_scores


@dataclass(frozen=True, kw_only=True)
class _Curve(Quality):
    steps: int = 32
    """Number of equal steps from none of the pixels to all."""
    fill: float = 0.0
    """What stands where a pixel is missing, in the network's input space."""
    output: Literal["probability", "logit"] = "probability"
    """Score of the target that is followed."""

    rules: ClassVar[Mapping[str, Rule]] = {"score": append}
    what: ClassVar[str]

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError(f"steps is {self.steps}; a curve needs 1 step or more")

    @property
    def fractions(self) -> NDArray[np.float64]:
        """Share of the pixels at each part."""
        return np.linspace(0, 1, self.steps + 1)

    @override
    def parts(self, image_shape: tuple[int, int, int]) -> int:
        return self.steps + 1

    @override
    def terms(self, batch: Batch, targets_NT: Targets, parts: range) -> dict[str, Array]:
        map_NTMHW = maps_NTMHW(self.judged, batch, targets_NT)
        score_NTMP = np.zeros((*map_NTMHW.shape[:3], len(parts)))
        pixels = map_NTMHW.shape[3] * map_NTMHW.shape[4]
        counts_P = np.rint(self.fractions[parts.start : parts.stop] * pixels)
        for n in batch.indices:
            for t, m in np.ndindex(map_NTMHW.shape[1:3]):
                order = np.argsort(-map_NTMHW[n, t, m], axis=None, kind="stable")
                rank_HW = np.empty(pixels, dtype=np.int64)
                rank_HW[order] = np.arange(pixels)
                first_PHW = (rank_HW < counts_P[:, None]).reshape(-1, *map_NTMHW.shape[3:])
                rows = self._rows(batch.images[n], torch.from_numpy(first_PHW))
                scores = target_scores(batch.forward(rows), targets_NT[n, t : t + 1], self.output)
                score_NTMP[n, t, m] = scores[:, 0]
        return {"score": score_NTMP}

    @abstractmethod
    def _rows(self, image_CHW: Tensor, first_PHW: Tensor) -> Tensor:
        """Make the images in which the first pixels are gone, or come."""

    def _where(self, kept_PHW: Tensor, image_CHW: Tensor) -> Tensor:
        kept = kept_PHW.to(image_CHW.device)[:, None]
        return torch.where(kept, image_CHW, torch.full_like(image_CHW, self.fill))

    @override
    def finish(
        self, total: Mapping[str, Array], batch: Batch, targets_NT: Targets, layout: Layout
    ) -> dict[str, Array]:
        return {
            "curve": total["score"].copy(),
            "area": np.trapezoid(total["score"], self.fractions, axis=-1),
        }

    @override
    def arrays(self, layout: Layout) -> tuple[ArraySpec, ...]:
        units = "1" if self.output == "probability" else "logit"
        attributes = {"steps": self.steps, "fill": self.fill, "output": self.output}
        sizes = (layout.targets, len(self.judged))
        convention = f"Petsiuk 2018; {self.what}; fraction k of steps at index k"
        return (
            ArraySpec(
                "curve",
                ("target", "judged", "fraction"),
                (*sizes, self.steps + 1),
                f"{self.output} of the target as pixels go by importance",
                units=units,
                convention=convention,
                attributes=attributes,
            ),
            ArraySpec(
                "area",
                ("target", "judged"),
                sizes,
                "area under the curve",
                units=units,
                convention=f"{convention}; trapezoids over the fraction, 0 to 1",
                attributes=attributes,
            ),
        )

    @override
    def passes(self, layout: Layout) -> tuple[float, float]:
        return (float((self.steps + 1) * layout.targets * len(self.judged)), 0.0)


@dataclass(frozen=True, kw_only=True)
class Deletion(_Curve):
    """Deletion: the score while pixels are removed, the most important first; low is good.

    Petsiuk et al. 2018.
    """

    name: ClassVar[str] = "deletion"
    what: ClassVar[str] = "pixels replaced by fill, highest attribution first; a low area is good"

    @override
    def _rows(self, image_CHW: Tensor, first_PHW: Tensor) -> Tensor:
        return self._where(~first_PHW, image_CHW)


@dataclass(frozen=True, kw_only=True)
class Insertion(_Curve):
    """Insertion: the score while pixels return, the most important first; high is good.

    Petsiuk et al. 2018.
    """

    name: ClassVar[str] = "insertion"
    what: ClassVar[str] = "pixels put onto fill, highest attribution first; a high area is good"

    @override
    def _rows(self, image_CHW: Tensor, first_PHW: Tensor) -> Tensor:
        return self._where(first_PHW, image_CHW)
