"""What result arrays look like: their dimensions, units and conventions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Channels = Literal["sum", "keep"]

MAP_MANTISSA_BITS = 10
"""Mantissa bits kept when a map is stored: a relative error of at most 2**-11."""


@dataclass(frozen=True, slots=True)
class Layout:
    """The sizes that the shapes of all results follow from."""

    image_shape: tuple[int, int, int]
    """Channels, height and width of the network's input."""
    classes: int
    """Number of logits."""
    targets: int = 1
    """Number of targets explained per object."""
    channels: Channels = "sum"
    """Whether maps are summed over the input's channels or keep them."""
    layers: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    """Shapes of the outputs of the layers that methods name, for one image."""

    @property
    def map_dims(self) -> tuple[str, ...]:
        """Dimensions of a map, after the object."""
        return ("target", "y", "x") if self.channels == "sum" else ("target", "channel", "y", "x")

    @property
    def map_shape(self) -> tuple[int, ...]:
        """Sizes of `map_dims`."""
        c, h, w = self.image_shape
        return (self.targets, h, w) if self.channels == "sum" else (self.targets, c, h, w)

    def reduce(self, map_NTCHW: NDArray[np.float64]) -> NDArray[np.float64]:
        """Bring a per-channel map, shape (N, T, C, H, W), to the layout's shape."""
        return map_NTCHW.sum(axis=2) if self.channels == "sum" else map_NTCHW


@dataclass(frozen=True, slots=True)
class ArraySpec:
    """One result array, described without its leading object dimension."""

    name: str
    """Name inside the method's group, such as ``grid``."""
    dims: tuple[str, ...]
    """Names of the dimensions after ``object``."""
    shape: tuple[int, ...]
    """Sizes of `dims`."""
    long_name: str
    """What a plot would put on its axis."""
    units: str = "1"
    """Units in CF spelling; ``1`` is dimensionless, ``logit`` a pre-softmax score."""
    convention: str = ""
    """Which of the published definitions this is."""
    dtype: str = "float32"
    """numpy name of the element type."""
    is_map: bool = False
    """Maps are stored with `MAP_MANTISSA_BITS` mantissa bits, everything else exactly."""
    attributes: Mapping[str, Any] = field(default_factory=dict)
    """Parameters a reader needs, as JSON values."""


def round_mantissa(
    values: NDArray[np.float32], bits: int = MAP_MANTISSA_BITS
) -> NDArray[np.float32]:
    """Round to ``bits`` explicit mantissa bits, half to even; NaN and infinity stay.

    Parameters
    ----------
    values : float32 array of any shape
    bits : number of mantissa bits kept, 1 to 23

    Returns
    -------
    float32 array of the same shape, whose trailing mantissa bits are zero
    """
    drop = 23 - bits
    values = np.asarray(values, dtype=np.float32)
    raw = values.view(np.uint32)
    half = np.uint32((1 << (drop - 1)) - 1) if drop else np.uint32(0)
    odd = (raw >> np.uint32(drop)) & np.uint32(1)
    rounded = (raw + half + odd) & ~np.uint32((1 << drop) - 1) if drop else raw
    return np.where(np.isfinite(values), rounded.view(np.float32), values)
