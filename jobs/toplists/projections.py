"""Single activations, computed again from images and projected back to the pixels.

Shape suffixes: R rows of one pass, C channels, H height, W width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from attribution.batch import reproducible
from attribution.deconvnet import project
from attribution.layers import captured


@dataclass(frozen=True)
class Activations:
    """One activation of a layer per image: its channel, and its row and column."""

    layer: str
    """Name of the layer."""
    images: Sequence[NDArray[np.float32]]
    """Network inputs (C, H, W), one or more."""
    places: NDArray[np.integer]
    """Channel, row and column in the layer's output, one line per image."""

    def values(self, network: nn.Module, rows: int) -> NDArray[np.float64]:
        """Compute the activations again, one per image, in passes of that many rows."""

        def of_pass(images_RCHW: Tensor, places: NDArray[np.integer]) -> Tensor:
            with torch.inference_mode(), captured(network, [self.layer]) as outputs:
                network(images_RCHW)
            channels, ys, xs = places.T
            return outputs[self.layer][np.arange(len(places)), channels, ys, xs]

        return self._in_passes(of_pass, network, rows)

    def projections(self, network: nn.Module, rows: int) -> NDArray[np.float64]:
        """Project each activation back to the pixels of its image: (image, C, H, W).

        Raises
        ------
        ValueError
            If deconvnet is not defined for the network.
        """

        def of_pass(images_RCHW: Tensor, places: NDArray[np.integer]) -> Tensor:
            channels = [int(channel) for channel in places[:, 0]]
            positions = [(int(y), int(x)) for y, x in places[:, 1:]]
            return project(network, images_RCHW, self.layer, channels, positions)

        return self._in_passes(of_pass, network, rows)

    def _in_passes(
        self,
        of_pass: Callable[[Tensor, NDArray[np.integer]], Tensor],
        network: nn.Module,
        rows: int,
    ) -> NDArray[np.float64]:
        """Compute in passes of one fixed shape, the last one padded."""
        first = next(network.parameters(), torch.zeros(()))
        results = []
        with reproducible():
            for start in range(0, len(self.images), rows):
                images = self.images[start : start + rows]
                padded = np.zeros((rows, *images[0].shape), dtype=np.float32)
                padded[: len(images)] = images
                places = np.zeros((rows, 3), dtype=np.int64)
                places[: len(images)] = self.places[start : start + rows]
                found = of_pass(torch.from_numpy(padded).to(first), places)
                results.append(found[: len(images)].detach().double().cpu().numpy())
        return np.concatenate(results)
