"""The icons of an atlas: for each cell, the image that the network answers with its activation.

Shape suffixes: K icons, C channels of the image, F filters of the layer.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from attribution.batch import reproducible
from attribution.inceptionism import ClassImage, Colours, survey_colours
from attribution.inceptionism.feature_inversion import Likeness, icon_settings
from attribution.layers import layer_shapes
from attribution.memory import bytes_per_row
from attribution.randomness import key
from attribution.receptive_field import input_rectangles

from ..errors import RefusedError
from ..maps.aggregate import Progress
from ..maps.source import COMPLETE
from ..run.folder import check_same
from ..run.local import available_cpus
from ..toplists.images import ObjectImages
from ..work.network import network_identity, open_network
from .surveys import AtlasSurvey

STEPS = 512
"""Steps of gradient ascent for each icon (Carter et al. 2019)."""
_TOGETHER = 16
"""Icons that are drawn together, unless the network is large."""
_BATCH_BYTES = 1 << 30
"""Memory of those."""
_COLOURS_FROM = 128
"""Objects that the survey's colours are estimated from."""
Shape = tuple[int, int, int]
Box = tuple[int, int, int, int]


@dataclass(frozen=True, eq=False)
class Icons:
    """The icons of some directions."""

    image: NDArray[np.float32]
    """What the place sees of them, at the network's input, (K, C, h, w)."""
    cosine: NDArray[np.float32]
    """Cosine between what the place puts out for an icon and the icon's direction, (K,)."""
    rank: NDArray[np.int32]
    """Directions that the place answers an icon with more strongly than with its own, (K,)."""


@dataclass(frozen=True, eq=False)
class Painter:
    """Draws icons with the network of a run, in the colours of its survey."""

    network: nn.Module
    image_shape: Shape
    """Channels, height and width of the network's input."""
    colours: Colours
    seed: int
    device: str
    steps: int

    @classmethod
    def of(cls, survey: AtlasSurvey, steps: int, device: str) -> Painter:
        """Load the network of a run, and look at some objects of its survey.

        Raises
        ------
        RefusedError
            If the network is not what it was, or the objects can't be read.
        """
        source, job = survey.source, survey.job
        bands, *_ = survey.image_shape
        network = open_network(job.network, bands, job.execution.precision, device)
        identity = {"network": network_identity(job.network, network)}
        check_same(source.path, job, identity, source.manifest["device"])
        rows = _first_complete(survey)
        images = ObjectImages(source.path, job, bands, rows).read(rows.tolist())
        try:
            colours = survey_colours(np.stack(list(images.values())))
        except ValueError as error:
            raise RefusedError(f"{source.path}: survey: {error}") from error
        seed = job.execution.seed
        return cls(network, survey.image_shape, colours, seed, device, steps)

    def place(self, layer: str) -> tuple[int, int]:
        """Return the middle row and column of a layer's output."""
        _, height, width = layer_shapes(self.network, self.image_shape, [layer])[layer]
        return height // 2, width // 2

    def box(self, layer: str) -> Box:
        """Return first row and column that the middle of a layer sees, and those after the last.

        Raises
        ------
        RefusedError
            If it sees nothing.
        """
        y, x = self.place(layer)
        box = input_rectangles(self.network, self.image_shape, [layer])[layer][y, x]
        top, left, bottom, right = (int(edge) for edge in box)
        if top == bottom or left == right:
            raise RefusedError(
                f"layer {layer!r}: no pixel has influence on its middle; name another, or leave "
                "the icons out: --no-icons"
            )
        return top, left, bottom, right

    def settings(self, layer: str) -> ClassImage:
        """Return how the icons of a layer are drawn."""
        top, left, bottom, right = self.box(layer)
        return icon_settings(self.steps, (bottom - top, right - left))

    def draw(
        self,
        layer: str,
        directions_KF: NDArray[np.float64],
        cells: Sequence[int],
        on_progress: Progress | None = None,
    ) -> Icons:
        """Draw an icon for each direction; it is a function of seed, layer, cell and direction.

        Parameters
        ----------
        directions_KF : unit vectors, one for each cell
        cells : numbers of the cells
        on_progress : told the number of icons done, and of all
        """
        top, left, bottom, right = self.box(layer)
        image_KChw = np.empty(
            (len(cells), self.image_shape[0], bottom - top, right - left), dtype=np.float32
        )
        activation_KF = np.empty_like(directions_KF)
        done, tell = 0, on_progress or (lambda _done, _all: None)
        tell(done, len(cells))
        for rows, images, activations in self._in_batches(layer, directions_KF, cells):
            image_KChw[rows] = images[:, :, top:bottom, left:right]
            activation_KF[rows] = activations
            done += len(activations)
            tell(done, len(cells))
        return Icons(image_KChw, *_answers(activation_KF, directions_KF))

    def _in_batches(
        self, layer: str, directions_KF: NDArray[np.float64], cells: Sequence[int]
    ) -> Iterator[tuple[slice, NDArray[np.floating], NDArray[np.floating]]]:
        """Give rows, whole images and activations, batch by batch, of one fixed shape each."""
        settings, place = self.settings(layer), self.place(layer)
        row_bytes = bytes_per_row(self.network, self.image_shape, gradients=True)
        length = max(1, min(_TOGETHER, _BATCH_BYTES // row_bytes))

        def work(start: int) -> tuple[slice, NDArray[np.floating], NDArray[np.floating]]:
            rows = slice(start, min(start + length, len(cells)))
            # A batch that is not full is filled up with its last icon.
            padded = [min(start + n, rows.stop - 1) for n in range(length)]
            # Layers are watched while it draws: each thread watches a network of its own.
            network = Likeness(copy.deepcopy(self.network), layer, place, directions_KF[padded])
            drawn = settings.draw(
                network.to(self.device).eval().requires_grad_(False),
                range(length),
                [key(self.seed, "activation_atlas", layer, cells[row]) for row in padded],
                self.image_shape,
                self.colours,
                dtype=next(self.network.parameters(), torch.empty(())).dtype,
                device=self.device,
            )
            with torch.inference_mode():
                images = torch.as_tensor(drawn.image, device=self.device)
                activation = network.activation(images).double().cpu().numpy()
            count = rows.stop - rows.start
            return rows, drawn.image[:count], activation[:count]

        threads = available_cpus() if self.device == "cpu" else 1
        with reproducible(), ThreadPoolExecutor(threads) as pool:
            yield from pool.map(work, range(0, len(cells), length))


def _answers(
    activation_KF: NDArray[np.float64], directions_KF: NDArray[np.float64]
) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
    """Return the cosine of each activation with its own direction, and how many exceed it."""
    strength_KK = activation_KF @ directions_KF.T
    own_K1 = strength_KK.diagonal()[:, None]
    length_K = np.linalg.norm(activation_KF, axis=1)
    cosine_K = own_K1[:, 0] / np.where(length_K > 0, length_K, 1.0)
    return cosine_K.astype(np.float32), (strength_KK > own_K1).sum(axis=1).astype(np.int32)


def _first_complete(survey: AtlasSurvey) -> NDArray[np.int64]:
    """Return rows of the first objects with results."""
    found: list[int] = []
    for span in survey.source.spans():
        here = span.start + np.flatnonzero(survey.source.status(span) == COMPLETE)
        found += here.tolist()
        if len(found) >= _COLOURS_FROM:
            break
    return np.array(found[:_COLOURS_FROM], dtype=np.int64)
