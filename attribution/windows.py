"""Rectangular windows on a regular grid of positions: which pixels they cover, and back to pixels.

The first window sits at 0, the following ones every ``stride`` pixels, and the last is cut off at
the image's edge: ``ceil((size - window) / stride) + 1`` positions per axis.

Shape suffixes: P parts (window positions, row by row), H height, W width.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Pair = int | tuple[int, int]
"""Height and width, or one number for both."""


@dataclass(frozen=True)
class _Axis:
    """The windows along one axis of an image."""

    name: str
    window: int
    stride: int

    def __post_init__(self) -> None:
        if self.window < 1 or self.stride < 1:
            raise ValueError(
                f"window {self.window} and stride {self.stride} ({self.name} axis) must be "
                "1 pixel or more"
            )
        if self.stride > self.window:
            raise ValueError(
                f"stride {self.stride} is larger than window {self.window} ({self.name} axis): "
                "pixels between the windows would never be hidden; lower stride or enlarge window"
            )

    def positions(self, size: int) -> int:
        """Count the windows along an axis of that many pixels."""
        return max(0, math.ceil((size - self.window) / self.stride)) + 1

    def covered(self, size: int) -> NDArray[np.bool_]:
        """Say which pixels each window covers: (positions, size)."""
        start = self.stride * np.arange(self.positions(size))[:, None]
        pixel = np.arange(size)
        covered: NDArray[np.bool_] = (start <= pixel) & (pixel < start + self.window)
        return covered


class Windows:
    """Windows of one size and stride.

    Parameters
    ----------
    window : height and width in pixels, or one number for both
    stride : step between windows in pixels, at most the window, or one number for both

    Raises
    ------
    ValueError
        If the windows would leave pixels out.
    """

    def __init__(self, window: Pair, stride: Pair) -> None:
        self.window = _pair(window)
        self.stride = _pair(stride)
        self._y, self._x = (
            _Axis(*axis) for axis in zip("yx", self.window, self.stride, strict=True)
        )

    def grid_shape(self, height: int, width: int) -> tuple[int, int]:
        """Count the window positions per axis."""
        return self._y.positions(height), self._x.positions(width)

    def hidden(self, height: int, width: int, parts: range) -> Tensor:
        """Say which pixels some of the windows cover: bool (P, 1, H, W)."""
        rows, columns = (
            torch.from_numpy(axis.covered(size))
            for axis, size in ((self._y, height), (self._x, width))
        )
        part = torch.arange(parts.start, parts.stop)
        hidden_PHW = rows[part // len(columns), :, None] & columns[part % len(columns), None, :]
        return hidden_PHW[:, None]

    def expand(
        self, grid: NDArray[np.floating], image_shape: tuple[int, int]
    ) -> NDArray[np.float64]:
        """Give each pixel the mean of the windows that cover it.

        This is linear, and one small matrix per axis.

        Parameters
        ----------
        grid : (..., window_y, window_x)
        image_shape : height and width in pixels

        Returns
        -------
        float64 (..., height, width)

        Raises
        ------
        ValueError
            If the grid's last two sizes don't belong to these windows.
        """
        expected = self.grid_shape(*image_shape)
        if grid.shape[-2:] != expected:
            raise ValueError(
                f"the grid is {grid.shape[-2:]}, these windows on {image_shape} make {expected}"
            )
        rows, columns = (
            covered / covered.sum(axis=0)
            for covered in (self._y.covered(image_shape[0]), self._x.covered(image_shape[1]))
        )
        expanded: NDArray[np.float64] = rows.T @ grid.astype(np.float64) @ columns
        return expanded


def _pair(value: Pair) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else value
