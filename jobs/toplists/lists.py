"""Which objects each filter of a layer responds to most strongly, and where in their images."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from attribution.layers import safe_name

from ..maps.source import RunSource
from ..report.rows import gather
from .strongest import find_strongest


@dataclass(frozen=True)
class TopList:
    """The k strongest responses of each of F filters, the strongest first."""

    layer: str
    """Name of the layer."""
    value: NDArray[np.float32]
    """The responses, (F, k); NaN where fewer than k objects have one."""
    object: NDArray[np.int64]
    """Rows of the catalogue, (F, k); -1 where there is none."""
    position: NDArray[np.int32]
    """Row and column in the layer's output, (F, k, 2); -1 where there is none."""
    box: NDArray[np.int32]
    """First row and column of the image that the position sees, and those after the last,
    (F, k, 4); 0 where there is none."""

    @property
    def present(self) -> NDArray[np.bool_]:
        """Places that hold an object, (F, k)."""
        return np.asarray(self.object >= 0)

    @property
    def crop_shape(self) -> tuple[int, int]:
        """Height and width of the largest box."""
        size = self.box[..., 2:] - self.box[..., :2]
        height, width = size.reshape(-1, 2).max(axis=0)
        return int(height), int(width)

    @property
    def rows(self) -> NDArray[np.int64]:
        """Rows of the catalogue that are in the list, rising."""
        return np.unique(self.object[self.present])

    def part(self, start: int, stop: int) -> TopList:
        """Return the lists of some filters."""
        some = slice(start, stop)
        value, rows, position, box = self.value, self.object, self.position, self.box
        return TopList(self.layer, value[some], rows[some], position[some], box[some])

    def crops(self, images: NDArray[np.float32], shape: tuple[int, int]) -> NDArray[np.float32]:
        """Cut the boxes out of images, one for each place that holds an object.

        Parameters
        ----------
        images : (place, C, H, W), in the order of filters and then ranks
        shape : height and width of the crops; a smaller box leaves NaN behind its last row and
            column

        Returns
        -------
        (F, k, C, *shape)
        """
        crops = np.full((*self.value.shape, images.shape[1], *shape), np.nan, dtype=np.float32)
        for place, image in zip(np.argwhere(self.present), images, strict=True):
            y0, x0, y1, x1 = self.box[tuple(place)]
            crops[tuple(place)][:, : y1 - y0, : x1 - x0] = image[:, y0:y1, x0:x1]
        return crops


def find_list(source: RunSource, layer: str, k: int, rectangles: NDArray[np.int64]) -> TopList:
    """Find the strongest responses to a layer's filters in a run.

    Parameters
    ----------
    source : a run with the method top_responses
    layer : one of the method's layers
    k : objects per filter
    rectangles : what each position of the layer sees, as of `input_rectangles`
    """
    name = f"top_responses/{safe_name(layer)}"
    filters = source.array(f"{name}_value").shape[1]
    found = find_strongest(
        source.spans(), lambda rows: source.read(f"{name}_value", rows), filters, k
    )
    position = np.full((filters, k, 2), -1, dtype=np.int32)
    box = np.zeros((filters, k, 4), dtype=np.int32)
    chunk = source.array(f"{name}_position").chunks[0]
    present = found.object >= 0
    for row, places in gather(
        lambda rows: source.read(f"{name}_position", rows), chunk, found.object[present]
    ):
        here = found.object == row
        position[here] = places[np.nonzero(here)[0]]
    box[present] = rectangles[tuple(position[present].T)]
    value = np.where(present, found.value, np.float32(np.nan))
    return TopList(layer, value, found.object, position, box)
