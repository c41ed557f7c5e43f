"""Test-time augmentation: how the answer changes when a galaxy is turned, mirrored and zoomed.

Dieleman, Willett & Dambre 2015: galaxies look the same from all sides, so predictions
are averaged over 60 views = 3 zooms x 10 rotations x 2 flips.

Shape suffixes: P parts (views), K classes, C channels, H height, W width.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, get_args

import torch
from torch import Tensor
from torch.nn import functional
from typing_extensions import override

from .batch import Batch
from .sampled_predictions import SampledPredictions

Border = Literal["reflection", "edge", "zeros"]
Resampling = Literal["bilinear", "bicubic"]
_PADDING = {"reflection": "reflection", "edge": "border", "zeros": "zeros"}


@dataclass(frozen=True)
class TestTimeAugmentation(SampledPredictions):
    """Predictive statistics over views of the object, evenly weighted."""

    zooms: tuple[float, ...] = (1 / 1.2, 1.0, 1.2)
    """Factors by which the object is enlarged about the image's centre."""
    rotations: int = 10
    """Number of evenly spaced angles, from 0 on, counter-clockwise as displayed."""
    flips: bool = True
    """Whether the object is also mirrored, left to right, before it is turned."""
    border: Border = "reflection"
    """What is seen beyond the edge: the image mirrored, its edge repeated, or 0 at the network's
    input."""
    resampling: Resampling = "bilinear"
    """bilinear smooths the sky's noise, which a network that was trained on sharp images notices;
    bicubic keeps more of it."""

    __test__: ClassVar[bool] = False  # whatever the name makes pytest believe
    name: ClassVar[str] = "test_time_augmentation"
    source: ClassVar[str] = "Dieleman 2015"
    over: ClassVar[str] = "views"

    def __post_init__(self) -> None:
        super().__post_init__()
        for zoom in self.zooms:
            if not 0.1 <= zoom <= 10:
                raise ValueError(f"zooms has {zoom}; choose factors from 0.1 to 10")
        if self.rotations < 1:
            raise ValueError(f"rotations is {self.rotations}; 1 leaves the image as it is")
        for name, choices in (("border", get_args(Border)), ("resampling", get_args(Resampling))):
            if getattr(self, name) not in choices:
                raise ValueError(
                    f"{name} is {getattr(self, name)!r}; choose one of {', '.join(choices)}"
                )
        if self._views < 2:
            raise ValueError(
                f"there are {self._views} views; a spread needs 2 or more zooms, rotations or flips"
            )

    @property
    def _views(self) -> int:
        return len(self.zooms) * self.rotations * (1 + self.flips)

    @override
    def parts(self, image_shape: tuple[int, int, int]) -> int:
        return self._views

    @property
    @override
    def parameters(self) -> dict[str, Any]:
        return {
            "zooms": list(self.zooms),
            "rotations": self.rotations,
            "flips": self.flips,
            "border": self.border,
            "resampling": self.resampling,
        }

    @override
    def sample(self, batch: Batch, n: int, parts: range) -> Tensor:
        return batch.forward(torch.stack([self.view(batch.images[n], part) for part in parts]))

    def view(self, image_CHW: Tensor, number: int) -> Tensor:
        """Return one of the views; flips run fastest, then rotations, then zooms.

        A view without zoom or rotation is the image, or its mirror image, exactly.
        """
        rest, flip = divmod(number, 1 + self.flips)
        zoom_number, turn = divmod(rest, self.rotations)
        if flip:
            image_CHW = image_CHW.flip(-1)
        zoom = self.zooms[zoom_number]
        if turn == 0 and zoom == 1:
            return image_CHW
        grid_HW2 = _sources(image_CHW, math.tau * turn / self.rotations, zoom)
        moved_1CHW = functional.grid_sample(
            image_CHW[None].double(),
            grid_HW2[None],
            mode=self.resampling,
            padding_mode=_PADDING[self.border],
            align_corners=False,
        )
        return moved_1CHW[0].to(image_CHW.dtype)


def _sources(image_CHW: Tensor, angle: float, zoom: float) -> Tensor:
    """Where each pixel of a view comes from: (H, W, 2), x before y, the image from -1 to 1."""
    h, w = image_CHW.shape[1:]
    y, x = torch.meshgrid(*(_centred(size, image_CHW.device) for size in (h, w)), indexing="ij")
    cos, sin = math.cos(angle) / zoom, math.sin(angle) / zoom
    # y points down: what is displayed counter-clockwise is fetched clockwise.
    return torch.stack(((cos * x - sin * y) * 2 / w, (sin * x + cos * y) * 2 / h), dim=-1)


def _centred(size: int, device: torch.device) -> Tensor:
    return torch.arange(size, dtype=torch.float64, device=device) - (size - 1) / 2
