"""What stands in place of an image, or of a part of it: the absence that attributions compare with.

Occlusion hides a window with it; the path of integrated gradients begins at it. All values are in
the network's input space, and are computed in float64 from one object alone.

Shape suffixes: C channels, H height, W width, S pixels.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from .batch import Batch
from .randomness import random_normal

Constant = float | tuple[float, ...]
"""One value for all channels, or one per channel."""
FromImage = Literal["image_mean", "blur", "sky_noise"]
"""Fills that each image has of its own; `canvas` defines them."""

_GAUSSIAN_MAD = 1.482602218505602
"""Standard deviation of a Gaussian over its median absolute deviation: 1 / Phi^-1(3/4)."""


def canvas(
    batch: Batch, n: int, fill: Constant | FromImage, *, blur_sigma: float, draw: int = 0
) -> Tensor:
    """Make what stands in place of the image of object ``n``.

    Parameters
    ----------
    fill : a number, one per channel, or

        - ``image_mean``: each channel's mean over the image
        - ``blur``: the image, smoothed by `blur`
        - ``sky_noise``: Gaussian noise like the image's sky, `sky`; independent in each pixel
    blur_sigma : standard deviation of the blur's Gaussian in pixels
    draw : number of the draw of sky noise; the same draw of an object is the same in all methods

    Returns
    -------
    tensor in the images' type that broadcasts to (C, H, W)
    """
    image_CHW = batch.images[n].double()
    if fill == "image_mean":
        filled = image_CHW.mean(dim=(1, 2), keepdim=True)
    elif fill == "blur":
        filled = blur(image_CHW, blur_sigma)
    elif fill == "sky_noise":
        location_C, scale_C = sky(image_CHW)
        keys = [batch.key(n, "sky_noise", draw)]
        noise_CHW = random_normal(keys, image_CHW.numel(), image_CHW.device).reshape_as(image_CHW)
        filled = location_C[:, None, None] + scale_C[:, None, None] * noise_CHW
    else:
        filled = torch.as_tensor(fill, dtype=torch.float64, device=image_CHW.device)
        filled = filled.reshape(-1, 1, 1)
    return filled.to(batch.images.dtype)


def blur(image_CHW: Tensor, sigma: float) -> Tensor:
    """Smooth with a Gaussian of that standard deviation in pixels, cut off at 4 of them.

    Beyond its edge the image is reflected: d c b a | a b c d | d c b a.
    """
    rows, columns = (_blur_matrix(size, sigma).to(image_CHW) for size in image_CHW.shape[1:])
    return rows @ image_CHW @ columns.T


@lru_cache(maxsize=8)
def _blur_matrix(size: int, sigma: float) -> Tensor:
    """Weights (pixel, source) of the blur along one axis; every row sums to 1."""
    reach = math.ceil(4 * sigma)
    offset = torch.arange(-reach, reach + 1, dtype=torch.float64)
    weight = torch.exp(-0.5 * (offset / sigma) ** 2)
    # Reflection repeats after two images; in its second half the pixels come in reverse.
    source = (torch.arange(size)[:, None] + offset.long()) % (2 * size)
    source = torch.minimum(source, 2 * size - 1 - source)
    matrix = torch.zeros((size, size), dtype=torch.float64)
    return matrix.scatter_add_(1, source, (weight / weight.sum()).expand(size, -1))


def sky(image_CHW: Tensor) -> tuple[Tensor, Tensor]:
    """Estimate level and noise of the sky per channel from the image's border.

    Returns
    -------
    the median, and 1.4826 times the median absolute deviation from it, of the pixels in a frame
    whose width is 1/16 of the shorter side, 1 pixel at least; two tensors (C,)
    """
    h, w = image_CHW.shape[1:]
    width = max(1, min(h, w) // 16)
    border_HW = torch.ones((h, w), dtype=torch.bool, device=image_CHW.device)
    border_HW[width : h - width, width : w - width] = False
    border_CS = image_CHW[:, border_HW]
    median_C = border_CS.quantile(0.5, dim=1)
    deviation_C = (border_CS - median_C[:, None]).abs().quantile(0.5, dim=1)
    return median_C, _GAUSSIAN_MAD * deviation_C


def check_fill(name: str, fill: object, words: tuple[str, ...], blur_sigma: float) -> None:
    """Refuse a fill that is neither finite numbers nor one of the words.

    Raises
    ------
    ValueError
        With the parameter's name and the choices; also if the blur has no width.
    """
    values = fill if isinstance(fill, tuple) and fill else (fill,)
    numbers = all(isinstance(value, int | float) and math.isfinite(value) for value in values)
    if not numbers and fill not in words:
        raise ValueError(
            f"{name} is {fill!r}; choose a finite number, one per channel, or {', '.join(words)}"
        )
    if not 0.1 <= blur_sigma <= 1000:
        raise ValueError(f"blur_sigma is {blur_sigma}; choose 0.1 to 1000 pixels")


def check_channels(name: str, fill: object, channels: int) -> None:
    """Refuse values per channel that are not as many as the channels.

    Raises
    ------
    ValueError
        With both numbers.
    """
    if isinstance(fill, tuple) and len(fill) != channels:
        raise ValueError(
            f"{name} has {len(fill)} values, the image has {channels} channels; "
            "give one value, or one per channel"
        )


def fill_attributes(name: str, fill: object, blur_sigma: float) -> dict[str, Any]:
    """Describe a fill as JSON values, for the arrays' attributes."""
    described = {name: list(fill) if isinstance(fill, tuple) else fill}
    return described | ({"blur_sigma": blur_sigma} if fill == "blur" else {})


def is_constant(fill: object) -> bool:
    """Whether the fill is the same for all objects."""
    return fill not in get_args(FromImage)
