"""Model randomisation: a map that explains the network must change when its weights do.

Adebayo et al. 2018, "Sanity Checks for Saliency Maps", section 3.1 (cascading randomisation).

Shape suffixes: N objects, T targets, M judged methods, P stages, H height, W width.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from typing_extensions import override

from ..arrays import ArraySpec, Layout
from ..batch import Batch
from ..method import Targets
from ..partials import Array, Rule, append
from ..randomness import key
from .judged import Quality, maps_elsewhere, maps_NTMHW


@dataclass(frozen=True, kw_only=True)
class ModelRandomisation(Quality):
    """Rank correlation with the maps of networks whose upper layers are random; near 0 is good.

    Adebayo et al. 2018: layers get their initial distribution back, from the output towards the
    input, until the whole network is random.
    """

    stages: int = 4
    """Number of equal steps from the layers next to the output to all layers with weights."""

    name: ClassVar[str] = "model_randomisation"
    rules: ClassVar[Mapping[str, Rule]] = {"signed": append, "absolute": append}

    def __post_init__(self) -> None:
        if self.stages < 1:
            raise ValueError(f"stages is {self.stages}; it takes 1 or more")

    @override
    def check(self, network: nn.Module, layout: Layout) -> None:
        super().check(network, layout)
        layers = len(_layers_with_weights(network))
        if layers < self.stages:
            raise ValueError(
                f"stages is {self.stages}, the network has {layers} layers with weights; "
                "lower stages"
            )

    @override
    def parts(self, image_shape: tuple[int, int, int]) -> int:
        return self.stages

    @override
    def terms(self, batch: Batch, targets_NT: Targets, parts: range) -> dict[str, Array]:
        map_NTMHW = maps_NTMHW(self.judged, batch, targets_NT)
        signed, absolute = np.zeros((2, *map_NTMHW.shape[:3], len(parts)))
        for p, stage in enumerate(parts):
            network = randomised(batch.network, (stage + 1) / self.stages, batch.seed)
            other = maps_elsewhere(self.judged, batch, targets_NT, network=network)
            for place in np.ndindex(map_NTMHW.shape[:3]):
                signed[(*place, p)] = rank_correlation(map_NTMHW[place], other[place])
                absolute[(*place, p)] = rank_correlation(
                    np.abs(map_NTMHW[place]), np.abs(other[place])
                )
        return {"signed": signed, "absolute": absolute}

    @override
    def finish(
        self, total: Mapping[str, Array], batch: Batch, targets_NT: Targets, layout: Layout
    ) -> dict[str, Array]:
        return {
            "rank_correlation": total["signed"].copy(),
            "rank_correlation_absolute": total["absolute"].copy(),
        }

    @override
    def arrays(self, layout: Layout) -> tuple[ArraySpec, ...]:
        described = {
            "rank_correlation": "signed maps",
            "rank_correlation_absolute": "absolute values of the maps",
        }
        return tuple(
            ArraySpec(
                name,
                ("target", "judged", "stage"),
                (layout.targets, len(self.judged), self.stages),
                f"rank correlation with the randomised network's, {what}",
                convention="Adebayo 2018; Spearman correlation over pixels, cascading "
                "randomisation; stage s of S: the upper (s + 1)/S of the layers are random",
                attributes={"stages": self.stages},
            )
            for name, what in described.items()
        )

    @override
    def passes(self, layout: Layout) -> tuple[float, float]:
        each = [method.passes(layout) for method in self.judged]
        forward = self.stages * (1 + sum(f for f, _ in each))
        return (forward, self.stages * sum(b for _, b in each))


def randomised(network: nn.Module, share: float, seed: int) -> nn.Module:
    """Copy a network and give the upper share of its layers their initial distribution back.

    Layers without an initialisation of their own get their weights in random order.
    """
    other = copy.deepcopy(network)
    layers = _layers_with_weights(other)
    for number in range(len(layers) - round(share * len(layers)), len(layers)):
        layer: Any = other.get_submodule(layers[number])
        # Layers, not the call, decide what is drawn: a stage is the same in every process.
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            torch.manual_seed(key(seed, "model_randomisation", number) % 2**63)
            if hasattr(layer, "reset_parameters"):
                layer.reset_parameters()
            else:
                for values in layer.parameters(recurse=False):
                    values.copy_(values.flatten()[torch.randperm(values.numel())].view_as(values))
    return other


def rank_correlation(left: NDArray[np.float64], right: NDArray[np.float64]) -> float:
    """Return Spearman's rank correlation; equal values share their mean rank; 0 if one is flat."""
    ranks = [_ranks(values.ravel()) for values in (left, right)]
    a, b = (r - r.mean() for r in ranks)
    norm = np.sqrt((a @ a) * (b @ b))
    return float(a @ b / norm) if norm > 0 else 0.0


def _ranks(values: NDArray[np.float64]) -> NDArray[np.float64]:
    _, group, sizes = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(sizes)
    mean_rank: NDArray[np.float64] = (last - (sizes - 1) / 2)[group]
    return mean_rank


def _layers_with_weights(network: nn.Module) -> list[str]:
    """Name the layers with parameters of their own, from the input to the output."""
    return [
        name
        for name, layer in network.named_modules()
        if any(True for _ in layer.parameters(recurse=False))
    ]
