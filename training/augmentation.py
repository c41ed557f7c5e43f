"""Random views of galaxies: moved, blurred, with noise; whole batches, on their device.

Shapes: N images, C channels, H rows, W columns.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

Border = Literal["reflection", "zeros"]

_SIGMA = 1.0 / math.sqrt(8.0 * math.log(2.0))
"""Standard deviation of a Gaussian with FWHM 1."""


def _require(holds: bool, fact: str, cure: str) -> None:
    if not holds:
        raise ValueError(f"augmentation: {fact} is invalid; {cure}")


@dataclass(frozen=True)
class Augmentation:
    """How far views may differ.

    Rotation, shift, zoom and flips are by default those of Dieleman, Willett & Dambre (2015); the
    others are off.
    """

    rotation: float = 360.0
    """Angles are uniform in [-rotation / 2, rotation / 2], degrees; 360 is any angle."""
    shift: float = 4.0
    """Shifts are uniform in [-shift, shift] along each axis, pixels."""
    zoom: float = 1.3
    """Zooms are log-uniform in [1 / zoom, zoom]; 1 is none."""
    flip: bool = True
    """Mirror half of the images."""
    blur: tuple[float, float] = (0.0, 0.0)
    """Images are blurred by a round Gaussian PSF whose FWHM is uniform between these, pixels."""
    brightness: float = 0.0
    """Standard deviation of a normal number that is added to all pixels and bands of an image, in
    the input's units; Dieleman et al. use 0.5 along the first principal component of colour."""
    noise: float = 0.0
    """White noise is added with a standard deviation uniform in [0, noise], in the input's
    units."""
    share: float = 0.7
    """Probability that an image is changed at all; the others are at most mirrored, and so keep the
    sharp noise that a network meets when it is used."""
    border: Border = "reflection"
    """What is seen beyond the edge: the image mirrored, or zeros."""

    def __post_init__(self) -> None:
        _require(0.0 <= self.rotation <= 360.0, f"rotation = {self.rotation}", "use 0 to 360")
        _require(self.shift >= 0.0, f"shift = {self.shift}", "use 0 or more pixels")
        _require(self.zoom >= 1.0, f"zoom = {self.zoom}", "use 1 or more: zooms go both ways")
        _require(0.0 <= self.share <= 1.0, f"share = {self.share}", "use a probability")
        _require(self.brightness >= 0.0, f"brightness = {self.brightness}", "use 0 or more")
        _require(self.noise >= 0.0, f"noise = {self.noise}", "use 0 or more")
        rising = len(self.blur) == 2 and 0.0 <= self.blur[0] <= self.blur[1]
        _require(rising, f"blur = {self.blur}", "use two widths, the smaller one first")
        _require(
            self.border in ("reflection", "zeros"),
            f"border = {self.border!r}",
            "use 'reflection' or 'zeros'",
        )

    @property
    def moves(self) -> bool:
        """Whether images are resampled."""
        return self.rotation > 0.0 or self.shift > 0.0 or self.zoom > 1.0

    @property
    def is_identity(self) -> bool:
        """Whether every view is the image itself."""
        still = not self.moves and self.blur[1] == self.brightness == self.noise == 0.0
        return (still or self.share == 0.0) and not self.flip


NO_AUGMENTATION = Augmentation(rotation=0.0, shift=0.0, zoom=1.0, flip=False)
"""The identity."""


def augment(
    x_NCHW: Tensor,
    augmentation: Augmentation,
    generator: torch.Generator,
    batch: int | None = None,
    first: int = 0,
) -> Tensor:
    """Return one random view of each image: resampled, blurred, brightened, with noise.

    A single bicubic resampling, because bilinear weights would halve the variance of the sky's
    noise: a network trained on such views is lost on the images themselves (accuracy 0.55 against
    0.79 on simulated galaxies).

    Parameters
    ----------
    x_NCHW
        Images (N, C, H, W), floating point, on any device.
    augmentation
        How far views may differ. The identity returns ``x_NCHW`` itself.
    generator
        A generator on the CPU, whatever the device of the images: the views are then the same on
        every device, but for the noise, which is drawn on the device.
    batch, first
        The images are those from ``first`` on of a batch of so many, and get the views that they
        would get in the whole batch, but for the noise; by default they are the whole batch.
    """
    if augmentation.is_identity:
        return x_NCHW
    count = len(x_NCHW) if batch is None else batch
    draws = _draw(count, augmentation, generator).part(first, len(x_NCHW))
    if augmentation.moves or augmentation.flip:
        theta = _transforms(draws, augmentation, x_NCHW.shape).to(x_NCHW)
        grid = functional.affine_grid(theta, list(x_NCHW.shape), align_corners=False)
        x_NCHW = functional.grid_sample(
            x_NCHW, grid, mode="bicubic", padding_mode=augmentation.border, align_corners=False
        )
    if augmentation.blur[1] > 0.0:
        low, high = augmentation.blur
        fwhm = draws.changed * (low + draws.uniform[5] * (high - low))
        x_NCHW = blur(x_NCHW, fwhm, high)
    if augmentation.brightness > 0.0:
        added = draws.changed * draws.normal * augmentation.brightness
        x_NCHW = x_NCHW + added.to(x_NCHW)[:, None, None, None]
    if augmentation.noise > 0.0:
        level = draws.changed * draws.uniform[6] * augmentation.noise
        grain = torch.Generator(x_NCHW.device).manual_seed(draws.noise_seed + first)
        noise = torch.randn(x_NCHW.shape, generator=grain, dtype=x_NCHW.dtype, device=x_NCHW.device)
        x_NCHW = x_NCHW + noise * level.to(x_NCHW)[:, None, None, None]
    return x_NCHW


def blur(x_NCHW: Tensor, fwhm_N: Tensor, most: float) -> Tensor:
    """Convolve each image with a round Gaussian of its own width; beyond the edge it is mirrored.

    Parameters
    ----------
    x_NCHW
        Images (N, C, H, W) on any device.
    fwhm_N
        Full widths at half maximum (N,), pixels; at 0 the image stays as it is.
    most
        Not less than any of them: the kernel reaches three standard deviations of it.
    """
    count, channels, height, width = x_NCHW.shape
    reach = min(math.ceil(3.0 * most * _SIGMA), height - 1, width - 1)
    offsets = torch.arange(-reach, reach + 1, dtype=torch.float64)
    sigma_N1 = (fwhm_N.to("cpu", torch.float64) * _SIGMA).clamp_min(1e-6)[:, None]
    kernel_NK = torch.exp(-0.5 * (offsets / sigma_N1) ** 2)
    kernel_NK = (kernel_NK / kernel_NK.sum(1, keepdim=True)).to(x_NCHW)
    # One group for each image and band, so that each image meets its own kernel.
    groups = count * channels
    kernels = kernel_NK.repeat_interleave(channels, 0).view(groups, 1, 1, -1)
    padded = functional.pad(x_NCHW, (reach, reach, reach, reach), mode="reflect")
    rows = functional.conv2d(padded.flatten(0, 1)[None], kernels, groups=groups)
    whole = functional.conv2d(rows, kernels.transpose(2, 3), groups=groups)
    return whole.view(count, channels, height, width)


@dataclass(frozen=True)
class _Draws:
    """The random numbers of a batch's views."""

    uniform: Tensor
    """(7, N): angle, zoom, mirror, two shifts, blur and noise."""
    normal: Tensor
    """(N,)."""
    changed: Tensor
    """1 for images that change, 0 for others (N,)."""
    noise_seed: int

    def part(self, first: int, count: int) -> _Draws:
        """Return those of some neighbouring images."""
        part = slice(first, first + count)
        return _Draws(self.uniform[:, part], self.normal[part], self.changed[part], self.noise_seed)


def _draw(count: int, augmentation: Augmentation, generator: torch.Generator) -> _Draws:
    draw = torch.rand(8, count, generator=generator, dtype=torch.float64)
    normal = torch.randn(count, generator=generator, dtype=torch.float64)
    seed = int(torch.randint(2**62, (), generator=generator))
    changed = (draw[7] < augmentation.share).to(torch.float64)
    return _Draws(draw[:7], normal, changed, seed)


def _transforms(draws: _Draws, augmentation: Augmentation, shape: torch.Size) -> Tensor:
    """Return affine maps (N, 2, 3) from places in the view to places in the image.

    Both are in grid_sample's units (-1 to 1 over the image), in which a rotation of a rectangular
    image needs the ratio of its edges.
    """
    count, _, height, width = shape
    draw, moved = draws.uniform, draws.changed
    angle = moved * (draw[0] - 0.5) * math.radians(augmentation.rotation)
    scale = torch.exp(moved * (1.0 - 2.0 * draw[1]) * math.log(augmentation.zoom))
    mirrored = (draw[2] < 0.5) & augmentation.flip
    mirror = torch.where(mirrored, -1.0, 1.0).to(torch.float64)
    shift = moved * (2.0 * draw[3:5] - 1.0) * augmentation.shift
    cosine, sine = torch.cos(angle) * scale, torch.sin(angle) * scale
    theta = torch.empty(count, 2, 3, dtype=torch.float64)
    theta[:, 0, 0] = cosine * mirror
    theta[:, 0, 1] = -sine * (height / width)
    theta[:, 0, 2] = shift[0] * (2.0 / width)
    theta[:, 1, 0] = sine * (width / height) * mirror
    theta[:, 1, 1] = cosine
    theta[:, 1, 2] = shift[1] * (2.0 / height)
    return theta
