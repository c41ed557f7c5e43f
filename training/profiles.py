"""Light profiles of galaxy components: pure functions of coordinates, in units of flux per area.

Lengths are in any one unit (arcsec in the simulator); surface brightness is flux per that unit
squared. Position angles follow the sky: degrees from north (up, growing row index) through east
(left, falling column index).
"""

from __future__ import annotations

from math import gamma

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]


def sersic(radius: Floats, half_light_radius: float, index: float, axis_ratio: float) -> Floats:
    """Evaluate a Sersic profile of unit total flux.

    Parameters
    ----------
    radius
        Elliptical radius along the major axis, any shape.
    half_light_radius
        Semi-major axis of the ellipse that holds half of the flux.
    index
        Sersic index n: 1 is exponential, 4 de Vaucouleurs.
    axis_ratio
        Minor over major axis; only the normalisation depends on it.

    Notes
    -----
    Sersic (1968); normalisation as in Graham & Driver (2005), eq. 4.
    """
    b = sersic_b(index)
    shape = 2.0 * np.pi * index * b ** (-2.0 * index) * gamma(2.0 * index)
    peak = 1.0 / (shape * half_light_radius**2 * axis_ratio)
    scaled = radius / np.float32(half_light_radius)
    if index != 1.0:
        scaled = scaled ** np.float32(1.0 / index)
    return np.asarray(np.float32(peak) * np.exp(np.float32(-b) * scaled), dtype=np.float32)


def sersic_b(index: float) -> float:
    """Return b_n, with which the half-light radius of a Sersic profile holds half of the light.

    Ciotti & Bertin (1999), eq. 18: better than 1e-5 for an index of 0.5 and above.
    """
    inverse = 1.0 / index
    series = (4.0 / 405.0, 46.0 / 25515.0, 131.0 / 1148175.0, -2194697.0 / 30690717750.0)
    powers = (inverse ** (power + 1) for power in range(len(series)))
    correction = sum(term * power for term, power in zip(series, powers, strict=True))
    return 2.0 * index - 1.0 / 3.0 + correction


def ferrers_bar(along: Floats, across: Floats, length: float, width: float) -> Floats:
    """Evaluate a Ferrers bar of unit flux: (1 - m^2)^2 inside its ellipse, zero outside.

    Parameters
    ----------
    along, across
        Coordinates along and across the bar in the plane of the disk.
    length, width
        Semi-axes of the ellipse at which the light ends.

    Notes
    -----
    Ferrers (1877) with exponent 2, the usual bar of orbit studies (Binney & Tremaine 2008, 2.5.3).
    """
    inside = np.maximum(1.0 - bar_ellipse(along, across, length, width), np.float32(0.0))
    return np.asarray(np.float32(3.0 / (np.pi * length * width)) * inside**2, dtype=np.float32)


def bar_ellipse(along: Floats, across: Floats, length: float, width: float) -> Floats:
    """Return m^2, the squared elliptical radius of a bar: 1 at the bar's end."""
    return np.asarray(
        (along / np.float32(length)) ** 2 + (across / np.float32(width)) ** 2, dtype=np.float32
    )


def spiral_ridge(
    x: Floats, y: Floats, count: int, pitch: float, phase: float, sharpness: float
) -> Floats:
    """Return how near each place is to a logarithmic spiral arm: 1 on the ridge, 0 between arms.

    Parameters
    ----------
    x, y
        Coordinates in the plane of the disk, in units of its half-light radius.
    count
        Number of arms m.
    pitch
        Pitch angle in degrees, the angle between arm and circle; negative winds the other way.
    phase
        Angle of an arm's ridge at radius 1, in radians.
    sharpness
        Power of the raised cosine across the arm; larger is narrower.
    """
    winding = np.float32(1.0 / np.tan(np.deg2rad(pitch)))
    log_radius = np.float32(0.5) * np.log(x * x + y * y + np.float32(1e-4))
    angle = np.arctan2(y, x) - winding * log_radius - np.float32(phase)
    cosine = np.float32(0.5) + np.float32(0.5) * np.cos(np.float32(count) * angle)
    return np.asarray(cosine ** np.float32(sharpness), dtype=np.float32)


def raised_cosine_mean(sharpness: float) -> float:
    """Return the mean over a turn of ((1 + cos a) / 2)^s, so that arms move light, not add it."""
    return gamma(sharpness + 0.5) / (gamma(0.5) * gamma(sharpness + 1.0))


def arm_envelope(radius: Floats) -> Floats:
    """Return where arms live: 0 in the centre, 1 near the half-light radius, fading outside.

    ``radius`` is in units of the disk's half-light radius.
    """
    rise = np.float32(1.0) - np.exp(-((radius / np.float32(0.45)) ** 2))
    return np.asarray(rise * np.exp(-((radius / np.float32(2.6)) ** 4)), dtype=np.float32)


def sky_to_axes(x: Floats, y: Floats, position_angle: float) -> tuple[Floats, Floats]:
    """Turn image coordinates into coordinates along the major and the minor axis.

    ``x`` grows with the column, ``y`` with the row; ``position_angle`` is in degrees, from +y
    towards -x.
    """
    sine = np.float32(np.sin(np.deg2rad(position_angle)))
    cosine = np.float32(np.cos(np.deg2rad(position_angle)))
    return y * cosine - x * sine, -x * cosine - y * sine
