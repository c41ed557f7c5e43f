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
    samples: int = 50
    """Number of noisy copies."""
    noise: float = 0.15
    """Standard deviation of the noise as a share of the image's range, maximum minus minimum."""
    magnitude: Magnitude = "signed"
    """What is averaged: the gradient, its absolute value or its square."""

    rules: ClassVar[Mapping[str, Rule]] = {"sum": add, "sum_of_squares": add}
    convention: ClassVar[str]

    def __post_init__(self) -> None:
        if self.samples < 2 or self.noise <= 0:
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
        total, squares = np.zeros((2, *targets_NT.shape, *batch.images.shape[1:]))
        for sample in parts:
            noisy = batch.images + self._draw(batch, sample)
            columns = batch.row_gradients(noisy, np.maximum(targets_NT, 0))
            for t, column in enumerate(columns):
                values = self._measure(column.cpu().numpy().astype(np.float64))
                total[:, t] += values
                squares[:, t] += np.square(values)
        return {"sum": total, "sum_of_squares": squares}

    def _draw(self, batch: Batch, sample: int) -> Tensor:
        images = batch.images
        # Keyed without the method's name: all methods see the same noisy copies.
        keys = [batch.key(n, "noise", sample) for n in range(len(batch))]
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
        return (
            ArraySpec(
                "attribution",
                layout.map_dims,
                layout.map_shape,
                f"{self.name} of the {self.magnitude} gradient",
                units="logit per input unit",
                convention=self.convention,
                is_map=True,
                attributes={
                    "channels": layout.channels,
                    "samples": self.samples,
                    "noise": self.noise,
                    "magnitude": self.magnitude,
                },
            ),
        )

    @override
    def passes(self, layout: Layout) -> tuple[float, float]:
        return (float(self.samples), float(self.samples * layout.targets))


@dataclass(frozen=True)
class SmoothGrad(_NoisyGradient):
    """SmoothGrad: the mean gradient over noisy copies of the image.

    Smilkov et al. 2017, "SmoothGrad: removing noise by adding noise".
    """

    name: ClassVar[str] = "smoothgrad"
    convention: ClassVar[str] = "Smilkov 2017; mean of dS/dx over x + noise * (max - min) * N(0, 1)"

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
    convention: ClassVar[str] = "Adebayo 2018; variance (1/n) of dS/dx over noisy copies, summed"

    @override
    def finish(
        self, total: Mapping[str, Array], batch: Batch, targets_NT: Targets, layout: Layout
    ) -> dict[str, Array]:
        mean = total["sum"] / self.samples
        variance = total["sum_of_squares"] / self.samples - np.square(mean)
        return {"attribution": layout.reduce(np.maximum(variance, 0))}
