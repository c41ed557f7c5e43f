"""Attributions from one gradient per target; here those of the gradient at the image itself.

Shape suffixes: N objects, T targets, C channels, H height, W width.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from torch import Tensor
from typing_extensions import override

from .arrays import ArraySpec, Layout
from .batch import Batch, Needs
from .method import Method, Targets
from .partials import Array, Rule, add


@dataclass(frozen=True)
class GradientMap(Method):
    """What maps that one gradient per object and target makes have in common."""

    rules: ClassVar[Mapping[str, Rule]] = {"gradient": add}
    long_name: ClassVar[str]
    units: ClassVar[str] = "logit per input unit"
    convention: ClassVar[str]

    @override
    def terms(self, batch: Batch, targets_NT: Targets, parts: range) -> dict[str, Array]:
        columns = self._gradients(batch, np.maximum(targets_NT, 0))
        found = [column.cpu().numpy().astype(np.float64) for column in columns]
        return {"gradient": np.stack(found, axis=1)}

    @override
    def finish(
        self, total: Mapping[str, Array], batch: Batch, targets_NT: Targets, layout: Layout
    ) -> dict[str, Array]:
        image_N1CHW = batch.images.cpu().numpy().astype(np.float64)[:, None]
        return {"attribution": layout.reduce(self._attribution(total["gradient"], image_N1CHW))}

    @abstractmethod
    def _gradients(self, batch: Batch, classes_NT: NDArray[np.int64]) -> list[Tensor]:
        """Differentiate one logit per object and target: (N, C, H, W) per target."""

    @abstractmethod
    def _attribution(
        self, gradient_NTCHW: NDArray[np.float64], image_N1CHW: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        """Make the map of gradient and image, an array of its own."""

    @override
    def arrays(self, layout: Layout) -> tuple[ArraySpec, ...]:
        return (
            ArraySpec(
                "attribution",
                layout.map_dims,
                layout.map_shape,
                self.long_name,
                units=self.units,
                convention=self.convention,
                is_map=True,
                attributes={"channels": layout.channels},
            ),
        )


@dataclass(frozen=True)
class _GradientAtImage(GradientMap):
    """What methods that read the gradient from the pass over the images have in common."""

    @property
    @override
    def needs(self) -> Needs:
        return Needs(gradients=True)

    @override
    def _gradients(self, batch: Batch, classes_NT: NDArray[np.int64]) -> list[Tensor]:
        return [batch.gradient_at_images(classes_N) for classes_N in classes_NT.T]

    @override
    def passes(self, layout: Layout) -> tuple[float, float]:
        return (0.0, float(layout.targets))


@dataclass(frozen=True)
class GradientXInput(_GradientAtImage):
    """Gradient x input, signed: ``x * dS_c/dx`` with the pre-softmax score S_c.

    Shrikumar et al. 2016, "Not Just a Black Box".
    """

    name: ClassVar[str] = "gradient_x_input"
    long_name: ClassVar[str] = "gradient x input"
    units: ClassVar[str] = "logit"
    convention: ClassVar[str] = "Shrikumar 2016; x * dS/dx, signed, S is the pre-softmax score"

    @override
    def _attribution(
        self, gradient_NTCHW: NDArray[np.float64], image_N1CHW: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        return gradient_NTCHW * image_N1CHW


@dataclass(frozen=True)
class Saliency(_GradientAtImage):
    """Saliency: the absolute gradient ``|dS_c/dx|`` of the pre-softmax score.

    Simonyan et al. 2014, "Deep Inside Convolutional Networks", section 3.
    """

    name: ClassVar[str] = "saliency"
    long_name: ClassVar[str] = "absolute gradient"
    convention: ClassVar[str] = "Simonyan 2014; |dS/dx|, S is the pre-softmax score"

    @override
    def _attribution(
        self, gradient_NTCHW: NDArray[np.float64], image_N1CHW: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        return np.abs(gradient_NTCHW)
