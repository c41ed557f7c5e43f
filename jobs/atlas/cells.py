"""The cells of an atlas: how many activations lie in each, of which objects, and their mean.

Shape suffixes: N objects, F filters, S surveys, K classes, G cells along a side (rows from the
bottom up).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .surveys import Block

Counts = NDArray[np.int64]
NOWHERE = -1
"""Cell of an object that has no place."""


@dataclass(frozen=True, eq=False)
class Cells:
    """Sums over the activations in each cell; `add` adds to them."""

    minimum: int
    """A cell counts if it has more activations than this."""
    count: Counts
    """Activations by survey, (S, G, G)."""
    predicted: Counts
    """The same by predicted class, (S, G, G, K)."""
    label: Counts
    """The same by the catalogue's label, where it is a class, (S, G, G, K)."""
    total: NDArray[np.float64]
    """Sum of the activations, (G, G, F)."""
    moment: NDArray[np.float64]
    """Sum of the outer products of the activations with themselves, (F, F)."""

    @classmethod
    def empty(cls, side: int, minimum: int, surveys: int, classes: int, filters: int) -> Cells:
        """Return cells without activations."""
        count = np.zeros((surveys, side, side), dtype=np.int64)
        by_class = np.zeros((*count.shape, classes), dtype=np.int64)
        total, moment = np.zeros((side, side, filters)), np.zeros((filters, filters))
        return cls(minimum, count, by_class, by_class.copy(), total, moment)

    @property
    def side(self) -> int:
        """Cells along a side."""
        return int(self.count.shape[1])

    def add(self, survey: int, block: Block, place_N2: NDArray[np.float32]) -> NDArray[np.int32]:
        """Count some objects of a survey in.

        Parameters
        ----------
        survey : its number
        block : the objects
        place_N2 : their x and y in the unit square, NaN for objects without a place

        Returns
        -------
        number of each object's cell, row * G + column, `NOWHERE` for objects without a place; (N,)
        """
        row_N, column_N = cell_of(place_N2, self.side)
        here = row_N != NOWHERE
        row, column = row_N[here], column_N[here]
        activation_NF = block.activation[here].astype(np.float64)
        np.add.at(self.count[survey], (row, column), 1)
        np.add.at(self.total, (row, column), activation_NF)
        self.moment[...] += activation_NF.T @ activation_NF
        for counts, found in (
            (self.predicted, block.scalars.predicted[here]),
            (self.label, block.scalars.label[here]),
        ):
            known = found >= 0
            np.add.at(counts[survey], (row[known], column[known], found[known]), 1)
        return np.where(here, row_N * self.side + column_N, NOWHERE).astype(np.int32)

    @property
    def every(self) -> Counts:
        """Activations of all surveys, (G, G)."""
        return np.asarray(self.count.sum(axis=0))

    @property
    def populated(self) -> NDArray[np.bool_]:
        """Cells with more activations than the minimum, (G, G)."""
        return np.greater(self.every, self.minimum)

    @property
    def mean(self) -> NDArray[np.float64]:
        """Mean activation of each populated cell, NaN in others, (G, G, F)."""
        number = np.where(self.populated, self.every, 1)[..., None]
        return np.where(self.populated[..., None], self.total / number, np.nan)

    @property
    def second_moment(self) -> NDArray[np.float64]:
        """Mean of the outer products of all activations with themselves, (F, F)."""
        return self.moment / max(1, int(self.count.sum()))

    @property
    def share(self) -> NDArray[np.float64]:
        """Share of each survey in each populated cell, each survey counted as one, (S, G, G)."""
        size = np.maximum(self.count.sum(axis=(1, 2), keepdims=True), 1)
        relative = self.count / size
        every = relative.sum(axis=0)
        return np.where(self.populated, relative / np.where(every > 0, every, 1.0), np.nan)


def cell_of(place_N2: NDArray[np.float32], side: int) -> tuple[Counts, Counts]:
    """Return row and column of each place's cell; `NOWHERE` where the place is NaN.

    The far edges of the square belong to the last row and column.
    """
    known = np.asarray(np.isfinite(place_N2).all(axis=1))
    scaled = np.where(known[:, None], place_N2, 0.0) * side
    cell_N2 = np.minimum(scaled.astype(np.int64), side - 1)
    cell_N2[~known] = NOWHERE
    return cell_N2[:, 1], cell_N2[:, 0]


def dominant(counts: Counts, classes: tuple[str, ...]) -> NDArray[np.str_]:
    """Return the most frequent class of each cell, the first of equal ones; empty without any.

    Parameters
    ----------
    counts : by class, (..., K)
    """
    names = np.array(classes)[counts.argmax(axis=-1)]
    return np.where(counts.sum(axis=-1) > 0, names, "")
