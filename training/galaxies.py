"""Galaxies of four classes, drawn from a random generator."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, slots=True)
class Bar:
    """A bar in the plane of a disk."""

    fraction: float
    """Share of the galaxy's r flux."""
    length: float
    """Semi-major axis, in half-light radii of the disk."""
    width: float
    """Minor over major axis."""
    angle: float
    """Degrees from the disk's major axis, in the plane of the disk."""


@dataclass(frozen=True, slots=True)
class Arms:
    """Logarithmic spiral arms: light of the disk that is moved on to ridges."""

    contrast: float
    """Excess of the ridge over the mean disk, in r."""
    count: int
    """Number of arms."""
    pitch: float
    """Pitch angle, degrees; negative winds the other way."""
    phase: float
    """Angle of a ridge at the half-light radius, radians."""
    sharpness: float
    """Power of the raised cosine across an arm."""


@dataclass(frozen=True, slots=True)
class Galaxy:
    """One galaxy as it is above the atmosphere."""

    label: int
    """Index into ``CLASSES``."""
    magnitude: float
    """Total r magnitude (zero point 22.5: nanomaggies)."""
    radius: float
    """Half-light semi-major axis of the main (Sersic or disk) component, arcsec."""
    axis_ratio: float
    """Minor over major axis of the main component."""
    position_angle: float
    """Of the major axis, degrees from north through east, in [0, 180)."""
    index: float
    """Sersic index of the main component."""
    colour: float
    """g - r of the main component; bulge and bar are redder, arms bluer."""
    centre: tuple[float, float]
    """Offset (x, y) from the middle of the image, arcsec."""
    bulge_fraction: float = 0.0
    """Share of the bulge in the r flux."""
    bulge_radius: float = 0.2
    """Half-light radius of the bulge, in those of the main component."""
    bar: Bar | None = None
    arms: Arms | None = None

    @property
    def bar_position_angle(self) -> float:
        """Position angle of the bar as seen on the sky, degrees in [0, 180); NaN without a bar."""
        if self.bar is None:
            return float("nan")
        angle = np.deg2rad(self.bar.angle)
        seen = np.rad2deg(np.arctan2(self.axis_ratio * np.sin(angle), np.cos(angle)))
        return float((self.position_angle + seen) % 180.0)


def draw_galaxy(label: int, magnitude: float, radius: float, random: np.random.Generator) -> Galaxy:
    """Draw a galaxy of a class.

    Parameters
    ----------
    label
        0 smooth, 1 spiral, 2 barred, 3 edge-on.
    magnitude
        Total r magnitude.
    radius
        Half-light radius of a typical galaxy of that magnitude, arcsec; the draw scatters it.
    random
        Source of the draw; the number of values taken depends on the class.
    """
    spread = float(np.exp(0.2 * random.standard_normal()))
    position_angle = float(random.uniform(0.0, 180.0))
    centre = (float(random.normal(0.0, 0.2)), float(random.normal(0.0, 0.2)))
    draw = (_draw_smooth, _draw_spiral, _draw_barred, _draw_edge_on)[label]
    shape = draw(random)
    return Galaxy(
        label=label,
        magnitude=magnitude,
        radius=radius * spread * shape.stretch,
        axis_ratio=shape.axis_ratio,
        position_angle=position_angle,
        index=shape.index,
        colour=shape.colour,
        centre=centre,
        bulge_fraction=shape.bulge_fraction,
        bulge_radius=shape.bulge_radius,
        bar=shape.bar,
        arms=shape.arms,
    )


@dataclass(frozen=True, slots=True)
class _Shape:
    """What the class of a galaxy decides."""

    axis_ratio: float
    index: float
    colour: float
    bulge_fraction: float
    bulge_radius: float
    stretch: float = 1.0
    bar: Bar | None = None
    arms: Arms | None = None


def _draw_smooth(random: np.random.Generator) -> _Shape:
    """Draw an elliptical, or (two of five) a lenticular: a disk that shows nothing but itself."""
    lenticular = random.random() < 0.4
    return _Shape(
        axis_ratio=random.uniform(0.35, 1.0) if lenticular else random.uniform(0.5, 1.0),
        index=1.0 if lenticular else random.uniform(1.8, 4.5),
        colour=random.normal(0.75, 0.1),
        bulge_fraction=random.uniform(0.1, 0.5) if lenticular else 0.0,
        bulge_radius=random.uniform(0.15, 0.4),
    )


def _draw_spiral(random: np.random.Generator) -> _Shape:
    """Draw a disk with arms; those of low contrast look smooth when blurred."""
    return _Shape(
        axis_ratio=random.uniform(0.4, 1.0),
        index=1.0,
        colour=random.normal(0.62, 0.1),
        bulge_fraction=random.uniform(0.02, 0.35),
        bulge_radius=random.uniform(0.12, 0.35),
        stretch=1.15,
        arms=_draw_arms(random, low=0.4, high=1.6),
    )


def _draw_barred(random: np.random.Generator) -> _Shape:
    """Draw a disk with a bar, and in half of the cases also with arms that start at its ends."""
    bar = Bar(
        fraction=random.uniform(0.14, 0.35),
        length=random.uniform(0.65, 1.2),
        width=random.uniform(0.18, 0.35),
        angle=random.uniform(0.0, 180.0),
    )
    arms = _draw_arms(random, low=0.2, high=0.7, bar=bar) if random.random() < 0.5 else None
    return _Shape(
        axis_ratio=random.uniform(0.4, 1.0),
        index=1.0,
        colour=random.normal(0.66, 0.1),
        bulge_fraction=random.uniform(0.02, 0.25),
        bulge_radius=random.uniform(0.12, 0.3),
        stretch=1.15,
        bar=bar,
        arms=arms,
    )


def _draw_edge_on(random: np.random.Generator) -> _Shape:
    """Draw a disk seen from its side."""
    return _Shape(
        axis_ratio=random.uniform(0.1, 0.28),
        index=1.0,
        colour=random.normal(0.7, 0.12),
        bulge_fraction=random.uniform(0.0, 0.3),
        bulge_radius=random.uniform(0.12, 0.25),
        stretch=1.3,
    )


def _draw_arms(
    random: np.random.Generator, low: float, high: float, bar: Bar | None = None
) -> Arms:
    """Draw arms of a contrast between ``low`` and ``high``; a bar's arms start at its ends."""
    count = 2 if bar is not None else int(random.choice([2, 3, 4], p=[0.65, 0.2, 0.15]))
    pitch = random.uniform(12.0, 30.0) * (1.0 if random.random() < 0.5 else -1.0)
    if bar is None:
        phase = random.uniform(0.0, 2.0 * np.pi)
    else:
        phase = np.deg2rad(bar.angle) - np.log(bar.length) / np.tan(np.deg2rad(pitch))
    return Arms(
        contrast=random.uniform(low, high),
        count=count,
        pitch=float(pitch),
        phase=float(phase),
        sharpness=random.uniform(1.2, 3.0),
    )
