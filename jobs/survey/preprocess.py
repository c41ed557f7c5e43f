"""From survey pixels to network input: resize, stretch, normalise.

Shape suffixes: C bands, H height, W width.
"""

from __future__ import annotations

import numpy as np
import torch

from jobs.errors import RefusedError
from jobs.specs.survey import PreprocessSpec

from .reader import Pixels


class Preprocess:
    """Prepare one cutout at a time, so that a result never depends on its neighbours."""

    def __init__(self, spec: PreprocessSpec, bands: int) -> None:
        """Check the spec against the network's number of bands.

        Raises
        ------
        RefusedError
            If mean or std has another number of values.
        """
        for name in ("mean", "std"):
            values = getattr(spec, name)
            if values and len(values) != bands:
                raise RefusedError(
                    f"preprocess.{name} has {len(values)} values where the network has {bands} "
                    "bands; give one per band"
                )
        self.spec = spec
        self._scale = np.float32(spec.scale)
        self._mean_C11 = _per_band(spec.mean, bands, 0.0)
        self._std_C11 = _per_band(spec.std, bands, 1.0)

    def output_shape(self, shape: tuple[int, int]) -> tuple[int, int]:
        """Return height and width that a cutout of the given height and width comes out with."""
        size = self.spec.size
        if size == "native":
            return shape
        return (size, size) if isinstance(size, int) else size

    def apply(self, pixels_CHW: Pixels) -> Pixels:
        """Return the network's input (C, h, w), float32; the cutout stays as it is."""
        height, width = pixels_CHW.shape[1:]
        x_CHW = _resized(pixels_CHW, self.output_shape((height, width)))
        x_CHW = x_CHW / self._scale
        if self.spec.stretch == "asinh":
            x_CHW = np.arcsinh(x_CHW)
        return (x_CHW - self._mean_C11) / self._std_C11


def _per_band(values: tuple[float, ...], bands: int, default: float) -> Pixels:
    filled = values or (default,) * bands
    return np.asarray(filled, dtype=np.float32).reshape(bands, 1, 1)


def _resized(pixels_CHW: Pixels, shape: tuple[int, int]) -> Pixels:
    if pixels_CHW.shape[1:] == shape:
        return pixels_CHW
    # torch refuses arrays that are not writable, such as those that Ray hands over.
    writable = pixels_CHW if pixels_CHW.flags.writeable else pixels_CHW.copy()
    resized_NCHW = torch.nn.functional.interpolate(
        torch.from_numpy(writable)[None],
        size=shape,
        mode="bilinear",
        align_corners=False,
        antialias=True,
    )
    return np.ascontiguousarray(resized_NCHW[0].numpy())
