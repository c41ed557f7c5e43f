"""SmoothGrad and VarGrad: mean and variance of the gradient over noisy copies of the image.

Shape suffixes: N objects, T targets, C channels, H height, W width.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

import numpy as np
from numpy.typing import NDArray
from torch import Tensor
from typing_extensions import override

from .arrays import ArraySpec, Layout
from .batch import Batch
from .method import Method, Targets
from .partials import Array, Rule, add
from .randomness import random_normal

Magnitude = Literal["signed", "absolute", "squared"]


@dataclass(frozen=True)
class _NoisyGradient(Method):
    """What both methods share: the noisy copies and their gradients."""

    samples: int = 50
    """Number of noisy copies."""
    noise: float = 0.15
    """Standard deviation of the noise as a share of the image's range, maximum minus minimum."""
    magnitude: Magnitude = "signed"
    """What is averaged: the gradient, its absolute value or its square."""

    statistic: ClassVar[str]
    order: ClassVar[int]
    source: ClassVar[str]

    def __post_init__(self) -> None:
        if self.samples < 2 or not 0 < self.noise < np.inf:
            raise ValueError(
                f"samples is {self.samples} and noise {self.noise}; it takes 2 samples or more, "
                "and noise above 0"
            )
        if self.magnitude not in get_args(Magnitude):
            raise ValueError(
                f"magnitude is {self.magnitude!r}; choose {', '.join(get_args(Magnitude))}"
            )

    @override
    def parts(self, image_shape: tuple[int, int, int]) -> int:
        return self.samples

    @override
    def terms(self, batch: Batch, targets_NT: Targets, parts: range) -> dict[str, Array]:
        terms = {
            name: np.zeros((*targets_NT.shape, *batch.images.shape[1:])) for name in self.rules
        }
        for sample in parts:
            noisy = batch.images + self._draw(batch, sample)
            columns = batch.row_gradients(noisy, np.maximum(targets_NT, 0))
            for t, column in enumerate(columns):
                values = self._measure(column.cpu().numpy().astype(np.float64))
                terms["sum"][:, t] += values
                if "sum_of_squares" in terms:
                    terms["sum_of_squares"][:, t] += np.square(values)
        return terms

    def _draw(self, batch: Batch, sample: int) -> Tensor:
        images = batch.images
        # Both methods see the same noisy copies: their mean and variance belong together.
        keys = [batch.key(n, SmoothGrad.name, sample) for n in range(len(batch))]
        normal = random_normal(keys, images[0].numel(), images.device).reshape(images.shape)
        low, high = images.flatten(1).min(dim=1).values, images.flatten(1).max(dim=1).values
        scale_N = self.noise * (high - low).double()
        return (normal * scale_N[:, None, None, None]).to(images.dtype)

    def _measure(self, gradient: NDArray[np.float64]) -> NDArray[np.float64]:
        if self.magnitude == "absolute":
            return np.abs(gradient)
        return np.square(gradient) if self.magnitude == "squared" else gradient

    @override
    def arrays(self, layout: Layout) -> tuple[ArraySpec, ...]:
        measure = {"signed": "dS/dx", "absolute": "|dS/dx|", "squared": "(dS/dx)^2"}
        return (
            ArraySpec(
                "attribution",
                layout.map_dims,
                layout.map_shape,
                f"{self.statistic} of the {self.magnitude} gradient over noisy copies",
                units=self._units(),
                convention=f"{self.source}; {self.statistic} of {measure[self.magnitude]} at "
                "x + noise * (max(x) - min(x)) * N(0, 1)",
                is_map=True,
                attributes={
                    "channels": layout.channels,
                    "samples": self.samples,
                    "noise": self.noise,
                    "magnitude": self.magnitude,
                },
            ),
        )

    def _units(self) -> str:
        power = self.order * (2 if self.magnitude == "squared" else 1)
        return "logit per input unit" if power == 1 else f"(logit per input unit)^{power}"

    @override
    def passes(self, layout: Layout) -> tuple[float, float]:
        return (float(self.samples), float(self.samples * layout.targets))


@dataclass(frozen=True)
class SmoothGrad(_NoisyGradient):
    """SmoothGrad: the mean gradient over noisy copies of the image.

    Smilkov et al. 2017, "SmoothGrad: removing noise by adding noise".
    """

    name: ClassVar[str] = "smoothgrad"
    rules: ClassVar[Mapping[str, Rule]] = {"sum": add}
    statistic: ClassVar[str] = "mean"
    order: ClassVar[int] = 1
    source: ClassVar[str] = "Smilkov 2017"

    @override
    def finish(
        self, total: Mapping[str, Array], batch: Batch, targets_NT: Targets, layout: Layout
    ) -> dict[str, Array]:
        return {"attribution": layout.reduce(total["sum"] / self.samples)}


@dataclass(frozen=True)
class VarGrad(_NoisyGradient):
    """VarGrad: the variance of the gradient over noisy copies of the image.

    Adebayo et al. 2018, "Local Explanation Methods for Deep Neural Networks Lack Sensitivity to
    Parameter Values".
    """

    name: ClassVar[str] = "vargrad"
    rules: ClassVar[Mapping[str, Rule]] = {"sum": add, "sum_of_squares": add}
    statistic: ClassVar[str] = "variance (1/n)"
    order: ClassVar[int] = 2
    source: ClassVar[str] = "Adebayo 2018"

    @override
    def finish(
        self, total: Mapping[str, Array], batch: Batch, targets_NT: Targets, layout: Layout
    ) -> dict[str, Array]:
        mean = total["sum"] / self.samples
        variance = total["sum_of_squares"] / self.samples - np.square(mean)
        return {"attribution": layout.reduce(np.maximum(variance, 0))}
