"""Small random shifts, zooms and turns: what survives them is no pattern of single pixels.

Shape suffixes: R rows (images), C channels, H height, W width of the canvas, h w of what is seen,
P pixels seen.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..randomness import random_words
from .colours import Floats, per_channel


@dataclass(frozen=True)
class View:
    """How each row's canvas is looked at."""

    shift: NDArray[np.int64]
    """Rows and columns by which the canvas is moved, (R, 2)."""
    scale: Floats
    """Enlargement about the centre, (R,)."""
    angle: Floats
    """Turn about the centre, in radians, (R,)."""


@dataclass(frozen=True)
class Views:
    """The random views of each row at each step (Olah et al. 2017, "Transformation robustness")."""

    jitter: int
    """Largest shift in pixels, each way."""
    scale: float
    """Largest enlargement or reduction: the factor is uniform in 1 +- scale."""
    rotate: float
    """Largest turn in degrees, each way."""

    def draw(self, keys: Sequence[int], steps: int) -> list[View]:
        """Draw the views of all steps, a pure function of each row's key and the step."""
        words = random_words(keys, 4 * steps, torch.device("cpu")).reshape(-1, steps, 4).numpy()
        uniform = 2 * ((words + 0.5) / 2**32) - 1
        shift = words[..., :2] % (2 * self.jitter + 1) - self.jitter
        scale = 1 + self.scale * uniform[..., 2]
        angle = np.deg2rad(self.rotate) * uniform[..., 3]
        return [View(shift[:, s], scale[:, s], angle[:, s]) for s in range(steps)]


def look(canvas_RCHW: Tensor, view: View, seen: tuple[int, int], outside_C: Floats) -> Tensor:
    """Return the middle of the moved canvas, sampled bilinearly.

    A view without zoom and turn copies pixels exactly.

    Parameters
    ----------
    canvas_RCHW : images with their margin
    seen : height h and width w of what is returned
    outside_C : what lies beyond the canvas

    Returns
    -------
    (R, C, h, w)
    """
    rows, _, height, width = canvas_RCHW.shape
    y_RP, x_RP = _sources(view, (height, width), seen)
    outside = per_channel(outside_C, canvas_RCHW)
    pixels_RSC = (canvas_RCHW - outside).flatten(2).transpose(1, 2)
    row = torch.arange(rows, device=canvas_RCHW.device)[:, None]
    total = torch.zeros((), dtype=canvas_RCHW.dtype, device=canvas_RCHW.device)
    for y_corner in (0, 1):
        for x_corner in (0, 1):
            y, x = np.floor(y_RP) + y_corner, np.floor(x_RP) + x_corner
            weight = (1 - np.abs(y_RP - y)) * (1 - np.abs(x_RP - x))
            weight *= (y >= 0) & (y < height) & (x >= 0) & (x < width)
            source = (y.clip(0, height - 1) * width + x.clip(0, width - 1)).astype(np.int64)
            # Indexing, not grid_sample: its way back has a fixed order on every device.
            taken_RPC = pixels_RSC[row, torch.as_tensor(source, device=canvas_RCHW.device)]
            total = total + taken_RPC * torch.as_tensor(weight).to(canvas_RCHW)[..., None]
    return total.transpose(1, 2).reshape(rows, -1, *seen) + outside


def _sources(view: View, canvas: tuple[int, int], seen: tuple[int, int]) -> tuple[Floats, Floats]:
    """Row and column on the canvas, (R, P) each, of every pixel that is seen."""
    y_hw, x_hw = np.indices(seen).astype(np.float64)
    y_P = (y_hw - (seen[0] - 1) / 2).ravel()
    x_P = (x_hw - (seen[1] - 1) / 2).ravel()
    cos_R1 = (np.cos(view.angle) / view.scale)[:, None]
    sin_R1 = (np.sin(view.angle) / view.scale)[:, None]
    centre_R2 = (np.array(canvas) - 1) / 2 - view.shift
    y_RP = cos_R1 * y_P + sin_R1 * x_P + centre_R2[:, :1]
    x_RP = cos_R1 * x_P - sin_R1 * y_P + centre_R2[:, 1:]
    return y_RP, x_RP
