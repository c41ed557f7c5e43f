"""What named layers put out: feature maps, and where each filter responds most.

Shape suffixes: N objects, F filters (a layer's channels), y and x positions in a layer, S positions
in one row.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

import numpy as np
import torch
from torch import Tensor, nn
from typing_extensions import override

from .arrays import ArraySpec, Layout
from .batch import Batch, Needs
from .layers import Shape, check_layers, safe_name
from .method import Method, Targets
from .partials import Array, Rule

Pooling = Literal["none", "mean", "max", "grid"]
_CONVENTIONS: Mapping[Pooling, str] = {
    "none": "the layer's output",
    "mean": "mean of the layer's output over positions",
    "max": "maximum of the layer's output over positions",
    "grid": "mean of the layer's output over each cell of a grid x grid (adaptive average pooling)",
}


@dataclass(frozen=True)
class LayerMethod(Method):
    """What methods that read layers share: no target, and nothing but the pass that all share."""

    layers: tuple[str, ...]
    """Names of the layers, such as layer2.0.conv1; `occulta layers` lists them."""

    rules: ClassVar[Mapping[str, Rule]] = {}
    targeted: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_layers(self.layers)

    @property
    @override
    def needs(self) -> Needs:
        return Needs(layers=self.layers)

    @override
    def terms(self, batch: Batch, targets_NT: Targets, parts: range) -> dict[str, Array]:
        return {}

    @override
    def passes(self, layout: Layout) -> tuple[float, float]:
        return (0.0, 0.0)


@dataclass(frozen=True)
class FeatureMaps(LayerMethod):
    """The outputs of named layers, whole or pooled over positions: one array per layer."""

    pooling: Pooling = "none"
    """none keeps every position; mean and max leave one number per filter; grid averages over a
    coarse grid of positions."""
    grid: int = 4
    """Rows and columns that pooling grid leaves."""

    name: ClassVar[str] = "feature_maps"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.pooling not in get_args(Pooling):
            raise ValueError(
                f"pooling is {self.pooling!r}; choose one of {', '.join(get_args(Pooling))}"
            )
        if self.grid < 1:
            raise ValueError(f"grid is {self.grid}; it needs 1 row and column or more")

    @override
    def check(self, network: nn.Module, layout: Layout) -> None:
        if self.pooling == "none":
            return
        for layer in self.layers:
            shape = layout.layers[layer]
            require_positions(layer, shape, "set pooling: none")
            if self.pooling == "grid" and self.grid > min(shape[1:]):
                raise ValueError(
                    f"grid is {self.grid}, layer {layer!r} puts out only {shape[1]}x{shape[2]} "
                    "positions; lower it"
                )

    @override
    def finish(
        self, total: Mapping[str, Array], batch: Batch, targets_NT: Targets, layout: Layout
    ) -> dict[str, Array]:
        return {
            safe_name(layer): self._pooled(batch.activation(layer)).cpu().numpy().copy()
            for layer in self.layers
        }

    @override
    def arrays(self, layout: Layout) -> tuple[ArraySpec, ...]:
        shapes = {layer: self._shape(layout.layers[layer]) for layer in self.layers}
        return tuple(
            ArraySpec(
                safe_name(layer),
                layer_dims(layer, len(shape)),
                shape,
                f"output of layer {layer}",
                convention=_CONVENTIONS[self.pooling],
                is_map=self.pooling in ("none", "grid"),
                attributes={"layer": layer, "pooling": self.pooling, "grid": self.grid},
            )
            for layer, shape in shapes.items()
        )

    def _shape(self, shape: Shape) -> Shape:
        if self.pooling == "none":
            return shape
        return shape[:1] if self.pooling != "grid" else (shape[0], self.grid, self.grid)

    def _pooled(self, output_NFyx: Tensor) -> Tensor:
        if self.pooling == "none":
            return output_NFyx
        if self.pooling == "max":
            return output_NFyx.amax(dim=(2, 3))
        if self.pooling == "mean":
            return output_NFyx.double().mean(dim=(2, 3))
        return nn.functional.adaptive_avg_pool2d(output_NFyx.double(), self.grid)


@dataclass(frozen=True)
class TopResponses(LayerMethod):
    """Where each filter of named layers responds most in each image, and how strongly.

    It is what the strongest responses of a whole survey are found from: Zeiler & Fergus 2014,
    figure 2. Of equal responses the first counts, in rows and then in columns.
    """

    k: int = 9
    """Objects that are kept per filter when the strongest of the survey are found."""

    name: ClassVar[str] = "top_responses"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.k < 1:
            raise ValueError(f"k is {self.k}; keep 1 object per filter or more")

    @property
    @override
    def coordinates(self) -> Mapping[str, tuple[str, ...]]:
        return {"axis": ("y", "x")}

    @override
    def check(self, network: nn.Module, layout: Layout) -> None:
        for layer in self.layers:
            require_positions(layer, layout.layers[layer], "name a convolution or what follows it")

    @override
    def finish(
        self, total: Mapping[str, Array], batch: Batch, targets_NT: Targets, layout: Layout
    ) -> dict[str, Array]:
        arrays = {}
        for layer in self.layers:
            output_NFyx = batch.activation(layer)
            value_NF, first_NF = _first_maximum(output_NFyx.flatten(2))
            position = np.stack(np.unravel_index(first_NF, output_NFyx.shape[2:]), axis=-1)
            position[~batch.present] = -1
            arrays[f"{safe_name(layer)}_value"] = value_NF
            arrays[f"{safe_name(layer)}_position"] = position.astype(np.int32)
        return arrays

    @override
    def arrays(self, layout: Layout) -> tuple[ArraySpec, ...]:
        specs = []
        for layer in self.layers:
            (dim, *_), filters = layer_dims(layer, 3), layout.layers[layer][0]
            attributes = {"layer": layer, "k": self.k}
            specs += [
                ArraySpec(
                    f"{safe_name(layer)}_value",
                    (dim,),
                    (filters,),
                    f"strongest response of each filter of layer {layer}",
                    convention="Zeiler & Fergus 2014; maximum of the layer's output over positions",
                    attributes=attributes,
                ),
                ArraySpec(
                    f"{safe_name(layer)}_position",
                    (dim, "axis"),
                    (filters, 2),
                    f"where each filter of layer {layer} responds most",
                    convention="row and column in the layer's output, the first of equal ones",
                    dtype="int32",
                    attributes=attributes,
                ),
            ]
        return tuple(specs)


def _first_maximum(output_NFS: Tensor) -> tuple[Array, Array]:
    """Return the maximum over positions, and the first position that has it."""
    value_NF1 = output_NFS.amax(dim=2, keepdim=True)
    # argmax may return any of equal ones. NaN is equal to nothing: its position is 0.
    position_S = torch.arange(output_NFS.shape[2], device=output_NFS.device)
    none = output_NFS.shape[2]
    first_NF = torch.where(output_NFS == value_NF1, position_S, none).amin(dim=2) % none
    return value_NF1[..., 0].cpu().numpy(), first_NF.cpu().numpy()


def layer_dims(layer: str, count: int) -> tuple[str, ...]:
    """Name the dimensions of a layer's output; layers have different sizes, so no common names."""
    name = safe_name(layer)
    kinds = ("channel", "y", "x")[:count] if count <= 3 else range(count)
    return tuple(f"{name}_{kind}" for kind in kinds)


def require_positions(layer: str, shape: Shape, cure: str) -> None:
    """Refuse a layer whose output has no rows and columns.

    Raises
    ------
    ValueError
        With the shape that it puts out, and the cure.
    """
    if len(shape) != 3:
        raise ValueError(
            f"layer {layer!r} puts out {'x'.join(map(str, shape))} per image, not filters with "
            f"rows and columns; {cure}"
        )
