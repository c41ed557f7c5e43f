"""What is changed when an image is optimised: its pixels, or its spectrum without correlations.

Neighbouring pixels and channels of natural images vary together. Gradient ascent on pixels ignores
that and draws noise; on parameters that are independent in natural images, it draws shapes (Olah,
Mordvintsev & Schubert 2017, "Feature visualization", section "Preconditioning").

Shape suffixes: R rows (images), C channels, H height, W width, y x spatial frequencies.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import torch
from torch import Tensor

from ..randomness import random_normal
from .colours import Colours

Shape = tuple[int, int, int]


class Parametrisation(Protocol):
    """A way to write images as parameters."""

    def start(self, keys: Sequence[int], noise: float, like: Tensor) -> Tensor:
        """Draw the parameters to start from, one image per key.

        Parameters
        ----------
        keys : what the random numbers of each row are a function of
        noise : standard deviation, relative to the survey's own
        like : tensor whose type and device the parameters get
        """
        ...

    def images(self, parameters: Tensor) -> Tensor:
        """Return the images of some parameters, (R, C, H, W)."""
        ...

    def parameters(self, images_RCHW: Tensor) -> Tensor:
        """Return the parameters of some images; undoes `images`."""
        ...

    def blurred(self, parameters: Tensor, sigma: float) -> Tensor:
        """Return the parameters of the same images, smoothed by a Gaussian of ``sigma`` pixels."""
        ...


@dataclass(frozen=True, eq=False)
class Pixels:
    """The pixels themselves (Simonyan et al. 2014)."""

    shape: Shape
    """Channels, height and width."""
    colours: Colours

    def start(self, keys: Sequence[int], noise: float, like: Tensor) -> Tensor:
        """Draw independent pixels of the survey's colours around its mean."""
        white = random_normal(keys, math.prod(self.shape), like.device)
        return self.colours.coloured(noise * white.reshape(-1, *self.shape)).to(like.dtype)

    def images(self, parameters: Tensor) -> Tensor:
        """Return the parameters."""
        return parameters

    def parameters(self, images_RCHW: Tensor) -> Tensor:
        """Return the images."""
        return images_RCHW

    def blurred(self, parameters: Tensor, sigma: float) -> Tensor:
        """Smooth the image, which goes on periodically beyond its edges."""
        height, width = self.shape[1:]
        damped = torch.fft.rfft2(parameters) * _gaussian(height, width, sigma).to(parameters)
        smooth: Tensor = torch.fft.irfft2(damped, s=(height, width))
        return smooth


@dataclass(frozen=True, eq=False)
class Fourier:
    """The image's spectrum, scaled so that independent unit numbers make images like a survey's.

    Unit noise becomes an image whose amplitude falls as 1 / frequency, as that of natural images
    does, and whose pixels have the survey's mean and covariance of colours. Parameters are real
    and imaginary parts of the half spectrum, (R, C, H, W // 2 + 1, 2).
    """

    shape: Shape
    """Channels, height and width."""
    colours: Colours

    def start(self, keys: Sequence[int], noise: float, like: Tensor) -> Tensor:
        """Draw independent numbers."""
        channels, height, width = self.shape
        size = (channels, height, width // 2 + 1, 2)
        white = random_normal(keys, math.prod(size), like.device)
        return (noise * white).reshape(-1, *size).to(like.dtype)

    def images(self, parameters: Tensor) -> Tensor:
        """Return mean + factor @ irfft2(scale * spectrum)."""
        spectrum = torch.view_as_complex(parameters) * self._scale_yx.to(parameters)
        white = torch.fft.irfft2(spectrum, s=self.shape[1:], norm="ortho")
        return self.colours.coloured(white)

    def parameters(self, images_RCHW: Tensor) -> Tensor:
        """Return rfft2(factor^-1 @ (image - mean)) / scale."""
        spectrum = torch.fft.rfft2(self.colours.whitened(images_RCHW), norm="ortho")
        return torch.view_as_real(spectrum / self._scale_yx.to(images_RCHW))

    def blurred(self, parameters: Tensor, sigma: float) -> Tensor:
        """Damp high frequencies, which smooths the image as if it were periodic."""
        return parameters * _gaussian(*self.shape[1:], sigma).to(parameters)[..., None]

    @cached_property
    def _scale_yx(self) -> Tensor:
        """Amplitude by frequency, such that unit noise has pixels of unit variance."""
        _, height, width = self.shape
        amplitude = 1 / _frequency(height, width).clamp(min=1 / max(height, width))
        # All but the first column (and the last, of an even width) stand for two frequencies.
        count = torch.full((width // 2 + 1,), 2.0, dtype=torch.float64)
        count[0] = 1
        count[-1] = 1 if width % 2 == 0 else count[-1]
        variance = ((count * amplitude) ** 2).sum() / (height * width)
        return amplitude / variance.sqrt()


def _frequency(height: int, width: int) -> Tensor:
    """Cycles per pixel of each entry of a half spectrum."""
    y = torch.fft.fftfreq(height, dtype=torch.float64)
    x = torch.fft.rfftfreq(width, dtype=torch.float64)
    return torch.hypot(y[:, None], x)


def _gaussian(height: int, width: int, sigma: float) -> Tensor:
    """Transfer function of a Gaussian of ``sigma`` pixels."""
    return torch.exp(-2 * (math.pi * sigma * _frequency(height, width)) ** 2)
