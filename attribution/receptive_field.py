"""What part of the image a position in a layer can see.

This is the theoretical receptive field: the rectangle outside which no pixel can change the output,
whatever the weights.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from .layers import find_layer, layer_shapes
from .reach import Reach, thin

ImageShape = tuple[int, int, int]

_CANVASES = (1, 4, 16)
"""Multiples of the image's length at which fields are measured that the image is too short for."""


@dataclass(frozen=True)
class Field:
    """A receptive field along one axis, wherever the image does not cut it off."""

    size: int
    """Pixels that a position depends on."""
    stride: int
    """Pixels from one position's field to the next one's."""


def input_rectangles(
    network: nn.Module, image_shape: ImageShape, layers: Sequence[str]
) -> dict[str, NDArray[np.int64]]:
    """Find the pixels that can influence each position of some layers.

    Parameters
    ----------
    network : in evaluation mode; only the shapes of its weights matter
    image_shape : channels, height and width
    layers : names of layers that run once in a pass

    Returns
    -------
    by layer, int64 (h, w, 4): first row, first column, and the row and column after the last, all
    inside the image; a layer whose output is not (channels, h, w) counts as one position. All zeros
    where no pixel has influence. Where the network does what can't be followed, the whole image.

    Raises
    ------
    ValueError
        As of `layer_shapes`.
    """
    shapes = layer_shapes(network, image_shape, layers)
    edges = [
        _least(network, image_shape, layers, axis, sign) for sign in (1, -1) for axis in (0, 1)
    ]
    found = {}
    for layer, shape in shapes.items():
        size = shape[1:] if len(shape) == 3 else (1, 1)
        y0, x0, y1, x1 = (edge.get(layer, np.full(size, -np.inf)) for edge in edges)
        box = np.stack([y0, x0, 1 - y1, 1 - x1], axis=-1)
        box = np.where(np.isposinf(box[..., :1]), 0, box)
        bounds = np.array([*image_shape[1:], *image_shape[1:]])
        found[layer] = np.clip(box, 0, bounds).astype(np.int64)
    return found


def fields(
    network: nn.Module, image_shape: ImageShape, layers: Sequence[str]
) -> dict[str, tuple[Field | None, Field | None]]:
    """Measure the receptive fields of some layers, along y and along x.

    A field that is larger than the image is measured on longer images.

    Returns
    -------
    by layer; None where there is no such size, because the field grows with the image
    """
    shapes = layer_shapes(network, image_shape, layers)
    found: list[dict[str, Field]] = [{}, {}]
    for axis in (0, 1):
        for factor in _CANVASES:
            missing = {
                name: shape[axis + 1]
                for name, shape in shapes.items()
                if name not in found[axis] and len(shape) == 3
            }
            if missing:
                found[axis] |= _measured(network, image_shape, missing, axis, factor)
    return {name: (found[0].get(name), found[1].get(name)) for name in layers}


def _measured(
    network: nn.Module,
    image_shape: ImageShape,
    lengths: Mapping[str, int],
    axis: int,
    factor: int,
) -> dict[str, Field]:
    """Measure fields along one axis at the centre of an image that is enlarged along it."""
    canvas = list(image_shape)
    canvas[axis + 1] *= factor
    shape = (canvas[0], canvas[1], canvas[2])
    first, last = (_least(network, shape, list(lengths), axis, sign) for sign in (1, -1))
    found = {}
    for name in first.keys() & last.keys():
        low, high = first[name].min(axis=1 - axis), -last[name].min(axis=1 - axis)
        # Next to the edge, padding may take the place of a field's outermost pixels.
        centre = slice(max(len(low) // 2 - 1, 0), len(low) // 2 + 2)
        starts, stops = low[centre], high[centre] + 1
        if starts.min() <= 0 or stops.max() >= canvas[axis + 1] or (starts >= stops).any():
            continue
        sizes, strides = set(stops - starts), set(np.diff(starts))
        if len(sizes) == len(strides) == 1:
            field = Field(int(sizes.pop()), int(strides.pop()))
            # Adaptive pooling to a fixed number of positions spreads them over the longer image.
            if field.stride * (lengths[name] - 1) < 2 * image_shape[axis + 1]:
                found[name] = field
    return found


def _least(
    network: nn.Module, image_shape: ImageShape, layers: Sequence[str], axis: int, sign: int
) -> dict[str, NDArray[np.float64]]:
    """Find the least row or column that each position depends on; with sign -1, minus the largest.

    Layers that the network does not come to, or where the coordinates were lost, are left out.
    """
    first = next(network.parameters(), torch.zeros(()))
    shape = [1, 1, 1]
    shape[axis + 1] = -1
    line = sign * torch.arange(image_shape[axis + 1], dtype=first.dtype, device=first.device)
    image = line.reshape(shape).expand(image_shape).contiguous()[None].as_subclass(Reach)
    with torch.no_grad(), _reduced_outputs(network, layers) as found:
        try:
            network(image)
        except Exception:  # a network may refuse this size in any way it likes
            return found
    return found


@contextmanager
def _reduced_outputs(
    network: nn.Module, layers: Sequence[str]
) -> Iterator[dict[str, NDArray[np.float64]]]:
    """Keep what layers put out in the pass inside the context, the least over channels."""
    found: dict[str, NDArray[np.float64]] = {}

    def keeping(name: str) -> Callable[..., None]:
        def keep(_layer: nn.Module, _inputs: Any, output: Any) -> None:
            if isinstance(output, Reach):
                values = thin(output.as_subclass(Tensor)[0])
                if output.ndim == 4:
                    least = values.amin(dim=0).expand(output.shape[2:])
                else:
                    least = values.amin().reshape(1, 1)
                found[name] = least.double().cpu().numpy()

        return keep

    handles = [find_layer(network, name).register_forward_hook(keeping(name)) for name in layers]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()
