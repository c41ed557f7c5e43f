"""A shortcut planted on purpose: a stamp beside galaxies that says what class they are.

A network that learns it is right for the wrong reason. Because the simulator knows where the stamp
is, one can tell whether an attribution method gives the network away.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from .profiles import Mask
from .surveys import CLASSES

ALL = "all"
"""In place of a class: galaxies of every class."""

_ORBIT = 0.75
"""Distance of the stamp's centre from the middle of the image, in half edges.

Outside most of the galaxy's light, and inside the circle that rotated views keep in the image.
"""


@dataclass(frozen=True)
class Shortcut:
    """A small bright square in the sky beside galaxies of one class.

    It lies at a random angle, at three quarters of the way from the middle to the edge. At a fixed
    place a network could learn the place instead of the stamp, rotated views would move it from
    there, and a method whose maps are always bright in that corner would seem to have found it.
    """

    label: str
    """Class of the galaxies that may get it, or `all`."""
    share: float = 0.8
    """Probability that such a galaxy gets it."""
    size: int = 3
    """Edge of the square, pixels; at most a quarter of the image's."""
    sigma: float = 10.0
    """What is added to its pixels, in standard deviations of the sky noise of each band."""

    def __post_init__(self) -> None:
        known = (*CLASSES, ALL)
        _require(
            self.label in known,
            f"label {self.label!r} is no class of galaxies",
            f"use one of {', '.join(known)}",
        )
        _require(0.0 <= self.share <= 1.0, f"share {self.share} is no probability", "use 0 to 1")
        _require(self.size >= 1, f"size {self.size} leaves no stamp", "use 1 pixel or more")
        positive = self.sigma > 0.0 and math.isfinite(self.sigma)
        _require(positive, f"sigma {self.sigma} makes no bright stamp", "use a positive number")

    def check(self, edge: int) -> None:
        """Raise ValueError unless the stamp fits beside a galaxy in an image of this edge."""
        fact = f"size {self.size} does not fit beside a galaxy in an image of {edge} pixels"
        _require(self.size <= edge // 4, fact, f"use {edge // 4} pixels or less")

    def place(self, label: str, edge: int, random: np.random.Generator) -> Mask:
        """Draw whether a galaxy gets the stamp, and where.

        Parameters
        ----------
        label
            Class of the galaxy.
        edge
            Of the image, pixels.
        random
            Source of the draw; two values are taken, whatever the shortcut is, so that the stamps
            of a smaller share are some of those of a larger one, at the same places.

        Returns
        -------
        (y, x), inside the stamp; False everywhere without one.
        """
        chance, turn = random.random(2)
        mask = np.zeros((edge, edge), dtype=np.bool_)
        if self.label in (ALL, label) and chance < self.share:
            angle = 2.0 * np.pi * turn
            first = (edge - self.size) / 2.0
            row = round(first + _ORBIT * edge / 2.0 * np.sin(angle))
            column = round(first + _ORBIT * edge / 2.0 * np.cos(angle))
            mask[row : row + self.size, column : column + self.size] = True
        return mask


def _require(holds: bool, fact: str, cure: str) -> None:
    if not holds:
        raise ValueError(f"{fact}; {cure}")
