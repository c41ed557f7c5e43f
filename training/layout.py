"""A galaxy's light on a pixel grid, above the atmosphere, and the masks that tell its parts."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .galaxies import Arms, Bar, Galaxy
from .profiles import (
    Floats,
    Mask,
    arm_envelope,
    bar_ellipse,
    ferrers_bar,
    raised_cosine_mean,
    sersic,
    sky_to_axes,
    spiral_ridge,
)
from .surveys import BAND_SLOPE

_SUBSAMPLES = 5
"""Points per pixel edge in the centre, where a Sersic cusp changes within a pixel."""
_CENTRE = 2
"""Pixels on each side of the central one that are subsampled."""


@dataclass(frozen=True, slots=True)
class Scene:
    """Noise-free light on a pixel grid, and the truth about it."""

    light: Floats
    """(bands, y, x), flux per pixel in nanomaggies."""
    bar_mask: Mask
    """(y, x), inside the bar."""
    arm_mask: Mask
    """(y, x), on a spiral arm."""


def lay_out(galaxy: Galaxy, bands: tuple[str, ...], size: int, pixel_scale: float) -> Scene:
    """Lay a galaxy's light on a square grid, above the atmosphere and without noise.

    Parameters
    ----------
    galaxy
        What to lay out; its ``centre`` is relative to the middle of the grid.
    bands
        Names in ``BAND_SLOPE``.
    size
        Edge of the grid, pixels.
    pixel_scale
        Arcsec per pixel.
    """
    edge = (np.arange(size, dtype=np.float32) - np.float32((size - 1) / 2)) * np.float32(
        pixel_scale
    )
    x = edge[None, :] - np.float32(galaxy.centre[0])
    y = edge[:, None] - np.float32(galaxy.centre[1])
    along, across = sky_to_axes(x, y, galaxy.position_angle)
    plane = across / np.float32(galaxy.axis_ratio)
    slope = np.array([BAND_SLOPE[band] for band in bands], dtype=np.float32)[:, None, None]
    area = pixel_scale**2 * 10.0 ** (0.4 * (22.5 - galaxy.magnitude))
    bar_fraction = galaxy.bar.fraction if galaxy.bar is not None else 0.0
    main = (1.0 - galaxy.bulge_fraction - bar_fraction) * _main_light(galaxy, x, y, pixel_scale)
    arm_mask, bar_mask = np.zeros((2, size, size), dtype=np.bool_)
    light = main[None] * _tint(slope, galaxy.colour)
    if galaxy.arms is not None:
        excess, arm_mask = _arm_excess(galaxy.arms, along, plane, galaxy.radius)
        # Young stars sit on the arms: their contrast is higher in the blue.
        light = light * (1.0 + np.float32(galaxy.arms.contrast) * (1.0 + 0.4 * slope) * excess)
    old = np.zeros((size, size), dtype=np.float32)
    if galaxy.bulge_fraction > 0.0:
        old += np.float32(galaxy.bulge_fraction) * _bulge_light(galaxy, x, y, pixel_scale)
    if galaxy.bar is not None:
        bar_light, bar_mask = _bar_light(galaxy, galaxy.bar, along, plane)
        old += np.float32(bar_fraction) * bar_light
    light = light + old[None] * _tint(slope, galaxy.colour + 0.12)
    return Scene(np.maximum(light * np.float32(area), np.float32(0.0)), bar_mask, arm_mask)


def _tint(slope: Floats, colour: float) -> Floats:
    """Return the flux in each band over that in r for a component of a given g - r."""
    return np.asarray(np.float32(10.0) ** (np.float32(-0.4 * colour) * slope), dtype=np.float32)


def _main_light(galaxy: Galaxy, x: Floats, y: Floats, pixel_scale: float) -> Floats:
    shape = (galaxy.position_angle, galaxy.axis_ratio)
    return _pixel_average(x, y, pixel_scale, galaxy.radius, galaxy.index, shape)


def _bulge_light(galaxy: Galaxy, x: Floats, y: Floats, pixel_scale: float) -> Floats:
    """Lay out the bulge: rounder than its disk, of Sersic index 2."""
    shape = (galaxy.position_angle, 0.4 + 0.6 * galaxy.axis_ratio)
    radius = galaxy.bulge_radius * galaxy.radius
    return _pixel_average(x, y, pixel_scale, radius, 2.0, shape)


def _pixel_average(
    x: Floats,
    y: Floats,
    pixel_scale: float,
    radius: float,
    index: float,
    shape: tuple[float, float],
) -> Floats:
    """Evaluate a Sersic profile at the pixel centres, and as a mean over pixels in its middle."""
    light = _elliptical(x, y, radius, index, shape)
    row = int(np.argmin(np.abs(y)))
    column = int(np.argmin(np.abs(x)))
    rows = slice(max(row - _CENTRE, 0), row + _CENTRE + 1)
    columns = slice(max(column - _CENTRE, 0), column + _CENTRE + 1)
    steps = (np.arange(_SUBSAMPLES, dtype=np.float32) + 0.5) / _SUBSAMPLES - 0.5
    offsets = np.asarray(steps * np.float32(pixel_scale), dtype=np.float32)
    fine_x = (x[0, columns, None] + offsets).reshape(1, -1)
    fine_y = (y[rows, 0, None] + offsets).reshape(-1, 1)
    fine = _elliptical(fine_x, fine_y, radius, index, shape)
    blocks = fine.reshape(-1, _SUBSAMPLES, fine.shape[1] // _SUBSAMPLES, _SUBSAMPLES)
    light[rows, columns] = blocks.mean(axis=(1, 3))
    return light


def _elliptical(
    x: Floats, y: Floats, radius: float, index: float, shape: tuple[float, float]
) -> Floats:
    position_angle, axis_ratio = shape
    along, across = sky_to_axes(x, y, position_angle)
    distance = np.sqrt(along**2 + (across / np.float32(axis_ratio)) ** 2)
    return sersic(distance, radius, index, axis_ratio)


def _arm_excess(arms: Arms, along: Floats, plane: Floats, radius: float) -> tuple[Floats, Mask]:
    """Return the arms' modulation of the disk, of zero mean over a turn, and their mask."""
    x, y = along / np.float32(radius), plane / np.float32(radius)
    ridge = spiral_ridge(x, y, arms.count, arms.pitch, arms.phase, arms.sharpness)
    envelope = arm_envelope(np.sqrt(x * x + y * y))
    mask = (ridge > 0.5) & (envelope > 0.5)
    excess = (ridge - np.float32(raised_cosine_mean(arms.sharpness))) * envelope
    return np.asarray(excess, dtype=np.float32), np.asarray(mask, dtype=np.bool_)


def _bar_light(galaxy: Galaxy, bar: Bar, along: Floats, plane: Floats) -> tuple[Floats, Mask]:
    """Return the light of the bar, of unit flux on the sky, and its mask."""
    sine = np.float32(np.sin(np.deg2rad(bar.angle)))
    cosine = np.float32(np.cos(np.deg2rad(bar.angle)))
    bar_x = along * cosine + plane * sine
    bar_y = plane * cosine - along * sine
    length = bar.length * galaxy.radius
    # Inclination squeezes the plane, so the same flux falls on less sky.
    light = ferrers_bar(bar_x, bar_y, length, bar.width * length) / np.float32(galaxy.axis_ratio)
    mask = bar_ellipse(bar_x, bar_y, length, bar.width * length) <= 1.0
    return light, np.asarray(mask, dtype=np.bool_)
