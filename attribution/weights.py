"""What a network learned and how it is built: its filters, which are dead, and its layers.

Shape suffixes: F filters (a convolution's outputs), C inputs of one filter, y and x in a kernel,
N objects.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from .layers import Shape, find_layer
from .receptive_field import Field, ImageShape, fields

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)

DEAD = 1e-6
"""Share of a layer's median norm below which a filter counts as dead."""


@dataclass(frozen=True)
class Filters:
    """The learned weights of one convolution."""

    layer: str
    """Name of the layer."""
    weights: NDArray[np.float32]
    """(F, C, y, x), with the kernel axes that the convolution has; C are a group's inputs."""
    l1: NDArray[np.float64]
    """Sum of the absolute weights of each filter, (F,)."""
    l2: NDArray[np.float64]
    """Root of the sum of squares of each filter, (F,)."""

    @property
    def dead(self) -> NDArray[np.bool_]:
        """Filters with only zeros, or with an L2 norm below 1e-6 of the layer's median, (F,)."""
        return np.asarray((self.l2 == 0) | (self.l2 < DEAD * np.median(self.l2)))


def filters(network: nn.Module, layer: str) -> Filters:
    """Return the filters of a convolution.

    Raises
    ------
    ValueError
        If there is no such layer, or it is no convolution.
    """
    module = find_layer(network, layer)
    if not isinstance(module, _CONVOLUTIONS + _TRANSPOSED):
        raise ValueError(
            f"layer {layer!r} is a {type(module).__name__}, which has no filters; name a "
            f"convolution: {', '.join(convolutions(network)[:3]) or 'this network has none'}"
        )
    weights = module.weight.detach().float().cpu().numpy()
    if isinstance(module, _TRANSPOSED):
        # Stored as (input, output of a group, ...): the filter of an output takes its group's.
        groups, kernel = module.groups, weights.shape[2:]
        grouped = weights.reshape(groups, -1, weights.shape[1], *kernel).swapaxes(1, 2)
        weights = grouped.reshape(module.out_channels, -1, *kernel)
    flat = weights.reshape(len(weights), -1).astype(np.float64)
    return Filters(layer, weights.copy(), np.abs(flat).sum(axis=1), np.sqrt((flat**2).sum(axis=1)))


def convolutions(network: nn.Module) -> list[str]:
    """Name the network's convolutions, in its order."""
    kinds = _CONVOLUTIONS + _TRANSPOSED
    return [name for name, module in network.named_modules() if name and isinstance(module, kinds)]


def never_respond(responses_NF: NDArray[np.floating]) -> NDArray[np.bool_]:
    """Tell which filters respond to no object of a survey: no response is above 0.

    That means something for layers that end in a ReLU; others put out negative numbers as well.

    Parameters
    ----------
    responses_NF : strongest response per object and filter, as `FeatureMaps` with pooling max or
        `TopResponses` give them; NaN for objects without results
    """
    # A comparison with NaN is False.
    return np.asarray(~(responses_NF > 0).any(axis=0))


@dataclass(frozen=True)
class LayerRow:
    """A layer that methods can name, as a row of a table."""

    name: str
    """As methods take it."""
    kind: str
    """Class of the module."""
    shape: Shape
    """Of its output for one image."""
    parameters: int
    """Numbers that it and the layers inside it learn."""
    field: tuple[Field | None, Field | None]
    """Receptive field along y and x; None where it grows with the image."""


def layer_table(network: nn.Module, image_shape: ImageShape) -> list[LayerRow]:
    """List the layers that methods can name, in the order in which they run.

    Layers that run more than once in a pass, not at all, or put out something else than one tensor
    have no single output, so they are not listed.

    Parameters
    ----------
    network : in evaluation mode
    image_shape : channels, height and width
    """
    first = next(network.parameters(), torch.zeros(()))
    row = torch.zeros((1, *image_shape), dtype=first.dtype, device=first.device)
    with torch.inference_mode(), _outputs(network) as found:
        network(row)
    shapes = {name: shape for name, shape in found.items() if shape is not None}
    sizes = fields(network, image_shape, list(shapes))
    modules = dict(network.named_modules())
    return [
        LayerRow(
            name,
            type(modules[name]).__name__,
            shape,
            sum(parameter.numel() for parameter in modules[name].parameters()),
            sizes[name],
        )
        for name, shape in shapes.items()
    ]


@contextmanager
def _outputs(network: nn.Module) -> Iterator[dict[str, Shape | None]]:
    """Keep the shapes that layers put out in the pass inside the context; None if not one."""
    found: dict[str, Shape | None] = {}

    def keeping(name: str) -> Any:
        def keep(_layer: nn.Module, _inputs: Any, output: Any) -> None:
            single = isinstance(output, Tensor) and name not in found
            found[name] = tuple(output.shape[1:]) if single else None

        return keep

    handles = [
        module.register_forward_hook(keeping(name))
        for name, module in network.named_modules()
        if name
    ]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()
