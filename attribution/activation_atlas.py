"""What layers put out at one random place of each image: what an activation atlas is made of.

Shape suffixes: N objects, F filters (a layer's channels), y and x positions in a layer.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from typing_extensions import override

from .arrays import ArraySpec, Layout
from .batch import Batch
from .features import LayerMethod, layer_dims, require_positions
from .layers import safe_name
from .method import Targets
from .partials import Array
from .randomness import random_words


@dataclass(frozen=True)
class ActivationAtlas(LayerMethod):
    """What named layers put out at one random place of each image; `occulta atlas` maps it.

    Carter et al. 2019, "Exploring neural networks with activation atlases": one place per image,
    so that large images count no more than small ones, and none at the border, where padding shows.
    The place is a pure function of seed, object and layer.
    """

    name: ClassVar[str] = "activation_atlas"

    @property
    @override
    def coordinates(self) -> Mapping[str, tuple[str, ...]]:
        return {"axis": ("y", "x")}

    @override
    def check(self, network: torch.nn.Module, layout: Layout) -> None:
        for layer in self.layers:
            require_positions(layer, layout.layers[layer], "name a convolution or what follows it")

    @override
    def finish(
        self, total: Mapping[str, Array], batch: Batch, targets_NT: Targets, layout: Layout
    ) -> dict[str, Array]:
        arrays = {}
        for layer in self.layers:
            output_NFyx = batch.activation(layer)
            keys = [batch.key(n, self.name, layer) for n in range(len(batch))]
            height, width = output_NFyx.shape[2:]
            position_N2 = inner_positions(keys, (height, width))
            row, y, x = np.arange(len(batch)), *position_N2.T
            position_N2[~batch.present] = -1
            activation_NF = output_NFyx[row, :, y, x]
            arrays[f"{safe_name(layer)}_activation"] = activation_NF.cpu().numpy()
            arrays[f"{safe_name(layer)}_position"] = position_N2.astype(np.int32)
        return arrays

    @override
    def arrays(self, layout: Layout) -> tuple[ArraySpec, ...]:
        specs = []
        for layer in self.layers:
            (dim, *_), filters = layer_dims(layer, 3), layout.layers[layer][0]
            specs += [
                ArraySpec(
                    f"{safe_name(layer)}_activation",
                    (dim,),
                    (filters,),
                    f"output of layer {layer} at one random place",
                    convention="Carter et al. 2019: one random place per image, none at the border",
                    attributes={"layer": layer},
                ),
                ArraySpec(
                    f"{safe_name(layer)}_position",
                    ("axis",),
                    (2,),
                    f"the random place in the output of layer {layer}",
                    convention="row and column in the layer's output",
                    dtype="int32",
                    attributes={"layer": layer},
                ),
            ]
        return tuple(specs)


def inner_positions(keys: list[int], shape: tuple[int, int]) -> NDArray[np.int64]:
    """Draw a position for each key, not at the border of a layer that has an inside.

    Parameters
    ----------
    keys : what each position is a function of
    shape : rows and columns of the layer

    Returns
    -------
    row and column, (N, 2); of 1 or 2 rows, or columns, each may be drawn
    """
    words_N2 = random_words(keys, 2, torch.device("cpu")).numpy()
    border = np.array([1 if size > 2 else 0 for size in shape])
    inside = np.array(shape) - 2 * border
    return np.asarray(border + words_N2 % inside)
