"""Occlusion sensitivity: what the score loses when a window of the image is hidden.

Zeiler & Fergus 2014, "Visualizing and Understanding Convolutional Networks", section 4.2.

Shape suffixes: N objects, T targets, P parts (window positions), C channels, H height, W width,
y and x window positions.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from typing_extensions import override

from .arrays import ArraySpec, Layout
from .batch import Batch
from .method import Method, Targets
from .partials import Array, Rule, append


@dataclass(frozen=True)
class Occlusion(Method):
    """Occlusion sensitivity on a coarse grid of window positions.

    The first window sits at 0, the following ones every ``stride`` pixels, and the last is cut off
    at the image's edge: ``ceil((size - window) / stride) + 1`` positions per axis. All targets come
    from the same passes.
    """

    window: int | tuple[int, int]
    """Height and width of the hidden window in input pixels, or one number for both."""
    stride: int | tuple[int, int]
    """Step between windows in input pixels, at most the window, or one number for both."""
    fill: float | tuple[float, ...] = 0.0
    """Value in the network's input space that hides the window (0 is the training mean after
    normalisation), or one value per channel."""
    output: Literal["logit", "probability"] = "logit"
    """Score that is compared: the pre-softmax logit or the probability."""

    name: ClassVar[str] = "occlusion"
    rules: ClassVar[Mapping[str, Rule]] = {"score": append}

    def __post_init__(self) -> None:
        for axis, (window, stride) in zip(
            "yx", zip(self._window, self._stride, strict=True), strict=True
        ):
            if window < 1 or stride < 1:
                raise ValueError(
                    f"window {window} and stride {stride} ({axis} axis) must be 1 pixel or more"
                )
            if stride > window:
                raise ValueError(
                    f"stride {stride} is larger than window {window} ({axis} axis): pixels between "
                    "the windows would never be hidden; lower stride or enlarge window"
                )
        if self.output not in ("logit", "probability"):
            raise ValueError(f"output is {self.output!r}; choose logit or probability")

    @property
    def _window(self) -> tuple[int, int]:
        return _pair(self.window)

    @property
    def _stride(self) -> tuple[int, int]:
        return _pair(self.stride)

    def grid_shape(self, height: int, width: int) -> tuple[int, int]:
        """Count the window positions per axis."""
        rows, columns = (
            len(_starts(size, window, stride))
            for size, window, stride in zip(
                (height, width), self._window, self._stride, strict=True
            )
        )
        return rows, columns

    @override
    def parts(self, image_shape: tuple[int, int, int]) -> int:
        rows, columns = self.grid_shape(*image_shape[1:])
        return rows * columns

    @override
    def terms(self, batch: Batch, targets_NT: Targets, parts: range) -> dict[str, Array]:
        fill_C11 = self._fill(batch.images)
        score_NTP = np.zeros((*targets_NT.shape, len(parts)))
        for n in batch.indices:
            rows = batch.images[n].expand(len(parts), -1, -1, -1).clone()
            for row, (y, x) in zip(rows, self._windows(rows, parts), strict=True):
                row[:, y, x] = fill_C11
            score_PK = self._score(batch.forward(rows))
            score_NTP[n] = score_PK[:, targets_NT[n]].T
        return {"score": score_NTP}

    @override
    def finish(
        self, total: Mapping[str, Array], batch: Batch, targets_NT: Targets, layout: Layout
    ) -> dict[str, Array]:
        base_NT = np.take_along_axis(
            self._score(batch.logits_NK), np.maximum(targets_NT, 0), axis=1
        )
        grid_NTP = base_NT[:, :, None] - total["score"]
        return {
            "grid": grid_NTP.reshape(*targets_NT.shape, *self.grid_shape(*layout.image_shape[1:]))
        }

    @override
    def arrays(self, layout: Layout) -> tuple[ArraySpec, ...]:
        height, width = layout.image_shape[1:]
        return (
            ArraySpec(
                "grid",
                ("target", "window_y", "window_x"),
                (layout.targets, *self.grid_shape(height, width)),
                "score lost when the window is hidden",
                units="logit" if self.output == "logit" else "1",
                convention="Zeiler & Fergus 2014; f(x) - f(x occluded), positive is evidence for "
                "the target; the last window is truncated at the edge",
                attributes={
                    "window": list(self._window),
                    "stride": list(self._stride),
                    "image_shape": [height, width],
                    "fill": list(self.fill) if isinstance(self.fill, tuple) else self.fill,
                    "output": self.output,
                },
            ),
        )

    @override
    def passes(self, layout: Layout) -> tuple[float, float]:
        return (float(self.parts(layout.image_shape)), 0.0)

    @override
    def check(self, network: nn.Module, layout: Layout) -> None:
        channels, height, width = layout.image_shape
        if self._window[0] > height or self._window[1] > width:
            raise ValueError(
                f"window {self._window[0]}x{self._window[1]} is larger than the image, "
                f"{height}x{width}; make it smaller"
            )
        if isinstance(self.fill, tuple) and len(self.fill) != channels:
            raise ValueError(
                f"fill has {len(self.fill)} values, the image has {channels} channels; "
                "give one value, or one per channel"
            )

    @override
    def pixel_map(self, arrays: Mapping[str, Array], layout: Layout) -> Array | None:
        return self.expand(
            arrays["grid"],
            image_shape=layout.image_shape[1:],
            window=self._window,
            stride=self._stride,
        )

    @staticmethod
    def expand(
        grid: NDArray[np.floating],
        image_shape: tuple[int, int],
        window: int | tuple[int, int],
        stride: int | tuple[int, int],
    ) -> NDArray[np.float64]:
        """Expand grids to pixels: each pixel gets the mean of the windows that cover it.

        The expansion is linear, and windows are rectangles on a rectangular grid, so it is one
        small matrix per axis.

        Parameters
        ----------
        grid : (..., window_y, window_x)
        image_shape : height and width in pixels
        window, stride : as of the occlusion that made the grid

        Returns
        -------
        float64 (..., height, width)

        Raises
        ------
        ValueError
            If the grid's last two sizes don't belong to these windows.
        """
        axes = list(zip(image_shape, _pair(window), _pair(stride), strict=True))
        expected = tuple(len(_starts(*axis)) for axis in axes)
        if grid.shape[-2:] != expected:
            raise ValueError(
                f"the grid is {grid.shape[-2:]}, these windows on {image_shape} make {expected}"
            )
        rows, columns = (_averaging_matrix(*axis) for axis in axes)
        expanded: NDArray[np.float64] = rows @ grid.astype(np.float64) @ columns.T
        return expanded

    def _windows(self, rows: Tensor, parts: range) -> list[tuple[slice, slice]]:
        height, width = rows.shape[-2:]
        ys, xs = (
            _starts(size, window, stride)
            for size, window, stride in zip(
                (height, width), self._window, self._stride, strict=True
            )
        )
        corners = (divmod(part, len(xs)) for part in parts)
        tall, wide = self._window
        return [(slice(ys[j], ys[j] + tall), slice(xs[i], xs[i] + wide)) for j, i in corners]

    def _score(self, logits: Tensor) -> NDArray[np.float64]:
        logits = logits.double()
        score = torch.softmax(logits, dim=-1) if self.output == "probability" else logits
        return np.asarray(score.cpu().numpy())

    def _fill(self, images: Tensor) -> Tensor:
        return torch.as_tensor(self.fill, dtype=images.dtype, device=images.device).reshape(
            -1, 1, 1
        )


def _pair(value: int | tuple[int, int]) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else value


def _starts(size: int, window: int, stride: int) -> list[int]:
    return [stride * i for i in range(max(0, math.ceil((size - window) / stride)) + 1)]


def _averaging_matrix(size: int, window: int, stride: int) -> NDArray[np.float64]:
    """Weights (pixel, window) of the windows that cover each pixel; every row sums to 1."""
    pixel = np.arange(size)[:, None]
    start = np.array(_starts(size, window, stride))[None, :]
    covers = (start <= pixel) & (pixel < start + window)
    weights: NDArray[np.float64] = covers / covers.sum(axis=1, keepdims=True)
    return weights
