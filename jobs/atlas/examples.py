"""The most typical object of each cell: the one that the layer answers most like the cell's mean.

Shape suffixes: N objects, F filters, K cells, C channels of the image.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import nn

from attribution.receptive_field import input_rectangles

from ..toplists.images import ObjectImages
from .cells import NOWHERE, Cells
from .surveys import AtlasSurvey


@dataclass(frozen=True, eq=False)
class Examples:
    """An object for each populated cell."""

    survey: NDArray[np.int64]
    """Number of its survey, (K,)."""
    row: NDArray[np.int64]
    """Its row in the catalogue of that survey, (K,)."""
    cosine: NDArray[np.float32]
    """Cosine of its activation and the cell's mean, (K,)."""


def find_examples(
    surveys: Sequence[AtlasSurvey],
    layer: str,
    cells: Cells,
    cell_numbers: Callable[[int, slice], NDArray[np.int32]],
) -> Examples:
    """Find the object of each populated cell whose activation is nearest to the cell's mean.

    Of equally near ones, the first counts.

    Parameters
    ----------
    surveys : the runs
    layer : whose activations
    cells : what is in them
    cell_numbers : gives the cells of some objects of a survey, by its number
    """
    mean_KF = cells.mean[cells.populated]
    mean_KF = mean_KF / np.linalg.norm(mean_KF, axis=1, keepdims=True)
    which = np.full(cells.populated.size, NOWHERE)
    which[np.flatnonzero(cells.populated)] = np.arange(len(mean_KF))
    cosine = np.full(len(mean_KF), -np.inf)
    survey_K, row_K = np.zeros((2, len(mean_KF)), dtype=np.int64)
    for number, survey in enumerate(surveys):
        for block in survey.blocks(layer):
            rows = block.scalars.rows
            cell_N = cell_numbers(number, rows)
            here = np.flatnonzero((cell_N != NOWHERE) & (which[cell_N] != NOWHERE))
            k = which[cell_N[here]]
            activation_NF = block.activation[here].astype(np.float64)
            dot = np.einsum("nf,nf->n", activation_NF, mean_KF[k])
            found = dot / np.linalg.norm(activation_NF, axis=1)
            # The nearest of each cell in this block, the first of equal ones.
            order = np.lexsort((here, -found, k))
            first = order[np.unique(k[order], return_index=True)[1]]
            better = first[found[first] > cosine[k[first]]]
            cosine[k[better]] = found[better]
            survey_K[k[better]], row_K[k[better]] = number, rows.start + here[better]
    return Examples(survey_K, row_K, cosine.astype(np.float32))


def read_patches(
    surveys: Sequence[AtlasSurvey], layer: str, network: nn.Module, examples: Examples
) -> NDArray[np.float32]:
    """Return what the places of examples see of their images, at the network's input.

    Returns
    -------
    (K, C, h, w); NaN behind the last row and column where the image ends before

    Raises
    ------
    RefusedError
        If an object can't be read any more.
    """
    patches: dict[int, NDArray[np.float32]] = {}
    for number in np.unique(examples.survey).tolist():
        survey, source = surveys[number], surveys[number].source
        shape = survey.image_shape
        boxes = input_rectangles(network, shape, [layer])[layer]
        mine = np.flatnonzero(examples.survey == number)
        images = ObjectImages(source.path, survey.job, shape[0], examples.row[mine])
        places = dict(survey.positions(layer, examples.row[mine]))
        pixels = images.read(places)
        for k in mine.tolist():
            row = int(examples.row[k])
            y, x = places[row]
            top, left, bottom, right = boxes[y, x]
            patches[k] = pixels[row][:, top:bottom, left:right]
    size = np.max([patch.shape for patch in patches.values()], axis=0)
    padded = np.full((len(patches), *size), np.nan, dtype=np.float32)
    for k, patch in patches.items():
        padded[k, :, : patch.shape[1], : patch.shape[2]] = patch
    return padded
