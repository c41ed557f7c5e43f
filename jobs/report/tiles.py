"""Small pictures as data URIs: a galaxy in colour, an attribution map on its signed scale."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence

import matplotlib as mpl
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..maps.figures import SIGNED
from ..maps.source import Origin
from .facts import Floats

Bytes = NDArray[np.uint8]

TILE = 176
"""Side of a tile in pixels, about; smaller maps are enlarged by a whole number."""


def white_balance(images: Sequence[NDArray[np.floating]]) -> Floats:
    """Return a factor per band, (3,), that makes the typical galaxy of some images nearly white.

    One balance for all of a survey's pictures keeps red galaxies redder than blue ones.
    """
    light = [_red_green_blue(image) for image in images]
    sums = [np.nansum(np.maximum(bands - _sky(bands), 0.0), axis=(1, 2)) for bands in light]
    if not sums:
        return np.ones(3)
    typical = np.median(np.array(sums), axis=0)
    typical = np.where(typical > 0, typical, 1.0)
    # Not all the way: galaxies are warmer than white.
    return np.asarray((typical.mean() / typical) ** 0.8)


def galaxy_rgb(pixels: NDArray[np.floating], balance: Floats) -> Bytes:
    """Stretch an image for the eye.

    Parameters
    ----------
    pixels : (c, h, w), the reddest band first; one or two bands make a grey picture
    balance : factor per band, (3,)

    Returns
    -------
    uint8 (h, w, 3), with one asinh stretch for all bands so that colours stay true
    (Lupton 2004): black is the sky's median, white the 99.7th percentile
    """
    bands = _red_green_blue(pixels)
    if not np.isfinite(bands).any():
        return np.zeros((*bands.shape[1:], 3), np.uint8)
    light = np.nan_to_num((bands - _sky(bands)) * balance[:, None, None], posinf=0.0, neginf=0.0)
    noise = 1.4826 * float(np.median(np.abs(light))) or float(light.std()) or 1.0
    top = max(float(np.percentile(light, 99.7)), 3.0 * noise)
    intensity = np.maximum(light.mean(axis=0), 1e-12)
    stretched = np.arcsinh(intensity / (2.0 * noise)) / np.arcsinh(top / (2.0 * noise))
    colour = np.clip(light * (stretched / intensity), 0.0, None)
    colour /= np.maximum(colour.max(axis=0), 1.0)
    return np.asarray(np.moveaxis(colour, 0, -1) * 255.0 + 0.5, dtype=np.uint8)


def signed_rgb(values: Floats, scale: float) -> Bytes:
    """Colour a map on a scale that is symmetric about zero: uint8 (h, w, 3); NaN is grey."""
    shown = np.clip(np.nan_to_num(values) / scale, -1.0, 1.0) * 0.5 + 0.5
    colours = mpl.colormaps[SIGNED](shown, bytes=True)[..., :3]
    return np.where(np.isfinite(values)[..., None], colours, np.uint8(128))


def upright(colours: Bytes, origin: Origin) -> Bytes:
    """Put row 0 of a picture, its first row as stored, where it belongs on the page."""
    return colours[::-1] if origin == "lower" else colours


def outline(colours: Bytes, galaxy: Bytes) -> Bytes:
    """Draw the galaxy's outline, at a third of its brightness, onto a map of the same field."""
    height, width = colours.shape[:2]
    fitted = Image.fromarray(galaxy).resize((width, height), Image.Resampling.BICUBIC)
    luminance = np.asarray(fitted, dtype=np.float64).mean(axis=2)
    smooth = _box_blur(luminance, max(1, len(luminance) // 32))
    inside = smooth > max(smooth.max() / 3.0, 1.0)
    core = inside.copy()
    for axis in (0, 1):
        for step in (-1, 1):
            core &= np.roll(inside, step, axis=axis)
    edge = (inside & ~core)[..., None]
    return np.where(edge, (colours * 0.35 + 40).astype(np.uint8), colours)


def enlarge(colours: Bytes, *, smooth: bool) -> Bytes:
    """Enlarge or shrink a picture to about the size of a tile."""
    height, width = colours.shape[:2]
    factor = max(1, round(TILE / max(height, width)))
    if max(height, width) > 1.5 * TILE:
        shrink = TILE * 1.25 / max(height, width)
        size = (max(1, round(width * shrink)), max(1, round(height * shrink)))
        return np.asarray(Image.fromarray(colours).resize(size, Image.Resampling.LANCZOS))
    how = Image.Resampling.BICUBIC if smooth else Image.Resampling.NEAREST
    return np.asarray(Image.fromarray(colours).resize((width * factor, height * factor), how))


def photograph(colours: Bytes, quality: int = 84) -> str:
    """Encode a picture as WebP in a data URI."""
    return _uri(Image.fromarray(colours), quality=quality, method=2)


def diagram(png: bytes) -> str:
    """Re-encode a drawn figure as WebP, a third of its size, in a data URI."""
    with Image.open(io.BytesIO(png)) as image:
        return _uri(image.convert("RGB"), quality=90, method=2)


def colour_bar() -> str:
    """Return the signed colour scale as a strip, from negative to positive."""
    strip = np.repeat(np.linspace(-1.0, 1.0, 128)[None], 8, axis=0)
    return photograph(signed_rgb(strip, 1.0), quality=95)


def _red_green_blue(pixels: NDArray[np.floating]) -> Floats:
    bands = np.where(np.isfinite(pixels), pixels, np.nan).astype(np.float64)
    return bands[:3] if len(bands) >= 3 else np.repeat(bands.mean(axis=0)[None], 3, axis=0)


def _sky(bands: Floats) -> Floats:
    """Return the median of each band, (3, 1, 1); 0 for a band without a pixel."""
    known = [band[np.isfinite(band)] for band in bands]
    return np.array([np.median(k) if k.size else 0.0 for k in known])[:, None, None]


def _uri(image: Image.Image, **options: object) -> str:
    buffer = io.BytesIO()
    image.save(buffer, format="WEBP", **options)
    return "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def _box_blur(values: Floats, radius: int) -> Floats:
    size = 2 * radius + 1
    for axis in (0, 1):
        padding = [(radius, radius) if a == axis else (0, 0) for a in (0, 1)]
        padded = np.pad(values, padding, mode="edge")
        windows = np.lib.stride_tricks.sliding_window_view(padded, size, axis=axis)
        values = windows.mean(axis=-1)
    return values
