"""The colours of a survey: how its channels vary together, and between which values.

Shape suffixes: N images, C channels, H height, W width, P pixels of all images.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Floats = NDArray[np.float64]

TAIL = 0.01
"""Per cent of the pixels beyond each end of the valid range: hot pixels are no part of it."""
_RIDGE = 1e-6
"""Added to the covariance, relative to the mean variance: channels may be copies of another."""


@dataclass(frozen=True, eq=False)
class Colours:
    """What the pixels of a survey are like, in the network's input space."""

    mean: Floats
    """Mean of each channel, (C,)."""
    factor: Floats
    """Lower Cholesky factor of the channels' covariance over pixels, (C, C): it gives independent
    unit noise the survey's colours."""
    low: Floats
    """Lower end of the valid range of each channel, (C,)."""
    high: Floats
    """Upper end, (C,)."""

    @classmethod
    def unknown(cls, channels: int) -> Colours:
        """Return independent channels of mean 0 and variance 1, without bounds."""
        zero_C, inf_C = np.zeros(channels), np.full(channels, np.inf)
        return cls(zero_C, np.eye(channels), -inf_C, inf_C)

    @property
    def bounded(self) -> bool:
        """Whether the valid range is known."""
        return bool(np.isfinite(self.high - self.low).all())

    def coloured(self, white_RCHW: Tensor) -> Tensor:
        """Give the survey's mean and colours to channels that are independent."""
        factor_CC = torch.as_tensor(self.factor).to(white_RCHW)
        mixed = torch.einsum("dc,rchw->rdhw", factor_CC, white_RCHW)
        return mixed + per_channel(self.mean, white_RCHW)

    def whitened(self, images_RCHW: Tensor) -> Tensor:
        """Undo `coloured`."""
        centred = images_RCHW - per_channel(self.mean, images_RCHW)
        inverse_CC = torch.as_tensor(np.linalg.inv(self.factor)).to(images_RCHW)
        return torch.einsum("dc,rchw->rdhw", inverse_CC, centred)

    def bend(self, images_RCHW: Tensor) -> Tensor:
        """Bend values into the valid range, smoothly.

        The mean stays, and so do small differences from it: with s the distance from the mean m
        to the end of the range on that side, x becomes m + s tanh((x - m) / s).
        """
        mean = per_channel(self.mean, images_RCHW)
        above = per_channel(self.high - self.mean, images_RCHW).clamp(min=1e-12)
        below = per_channel(self.mean - self.low, images_RCHW).clamp(min=1e-12)
        away = images_RCHW - mean
        side = torch.where(away > 0, above, below)
        return mean + side * torch.tanh(away / side)

    def clip(self, images_RCHW: Tensor) -> Tensor:
        """Cut values off at the ends of the valid range."""
        low, high = (per_channel(end, images_RCHW) for end in (self.low, self.high))
        return torch.minimum(torch.maximum(images_RCHW, low), high)


def survey_colours(images_NCHW: NDArray[np.floating]) -> Colours:
    """Estimate the colours of a survey from some of its images.

    Parameters
    ----------
    images_NCHW : network inputs, any number of channels

    Raises
    ------
    ValueError
        If the images have no pixels, or all their pixels are equal.
    """
    if images_NCHW.ndim != 4 or images_NCHW.size == 0:
        raise ValueError(f"images have shape {images_NCHW.shape}, expected (N, C, H, W) with N > 0")
    pixels_CP = np.moveaxis(images_NCHW, 1, 0).reshape(images_NCHW.shape[1], -1)
    mean_C = pixels_CP.mean(axis=1, dtype=np.float64)
    centred_CP = pixels_CP - mean_C[:, None]
    # Sums, not matrix products: their bits do not depend on the number of threads.
    covariance_CC = np.array([[(a * b).mean() for b in centred_CP] for a in centred_CP])
    variance = covariance_CC.trace() / len(mean_C)
    if variance == 0:
        raise ValueError("all pixels of the images are equal, so there are no colours to estimate")
    covariance_CC += _RIDGE * variance * np.eye(len(mean_C))
    low_C, high_C = np.percentile(pixels_CP, [TAIL, 100 - TAIL], axis=1).astype(np.float64)
    return Colours(mean_C, np.linalg.cholesky(covariance_CC), low_C, high_C)


def per_channel(values_C: Floats, like: Tensor) -> Tensor:
    """Return one value per channel as a tensor (C, 1, 1) of another one's type and device."""
    return torch.as_tensor(values_C).to(like)[:, None, None]
