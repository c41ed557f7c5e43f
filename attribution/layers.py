"""Layers of a network by name, and what they put out in a pass."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

Shape = tuple[int, ...]


def find_layer(network: nn.Module, name: str) -> nn.Module:
    """Return the layer of that name, as in ``layer2.0.conv1``.

    Raises
    ------
    ValueError
        If there is none, with the nearest names that there are.
    """
    layers: dict[str, nn.Module] = dict(network.named_modules())
    if name and name in layers:
        return layers[name]
    near = difflib.get_close_matches(name, list(layers)[1:], n=3) or list(layers)[1:4]
    raise ValueError(
        f"layer {name!r}: the network has no such layer; did you mean {' or '.join(near)}? "
        "`occulta layers` lists them"
    )


def safe_name(layer: str) -> str:
    """Turn a layer's name into one that arrays and dimensions may have: ``layer2_0_conv1``."""
    return re.sub(r"\W", "_", layer)


def check_layers(layers: Sequence[str]) -> None:
    """Refuse a method's list of layers that no network could serve, or no store could hold.

    Raises
    ------
    ValueError
        If there is no layer, or two would have arrays of the same name.
    """
    if not layers:
        raise ValueError("layers is empty; name one or more, `occulta layers` lists them")
    names = [safe_name(layer) for layer in layers]
    for layer, name in zip(layers, names, strict=True):
        if names.count(name) > 1:
            raise ValueError(
                f"layers has {names.count(name)} whose arrays would be called {name!r}, "
                f"{layer!r} among them; name each once"
            )


@contextmanager
def captured(network: nn.Module, names: Sequence[str]) -> Iterator[dict[str, Tensor]]:
    """Keep what some layers put out in the pass that is run inside the context.

    The tensors are part of the pass's graph. A layer after them that works in place gets a copy,
    so they keep their values.

    Raises
    ------
    ValueError
        If a layer does not exist, runs more than once in a pass, or puts out no single tensor.
    """
    outputs: dict[str, Tensor] = {}
    handles = []
    try:
        for name in dict.fromkeys(names):
            hook = _keeping(name, outputs)
            handles.append(find_layer(network, name).register_forward_hook(hook))
        yield outputs
    finally:
        for handle in handles:
            handle.remove()


def _keeping(name: str, outputs: dict[str, Tensor]) -> Callable[..., Tensor]:
    def keep(_layer: nn.Module, _inputs: Any, output: Any) -> Tensor:
        if not isinstance(output, Tensor):
            raise ValueError(
                f"layer {name!r} puts out a {type(output).__name__}, not one tensor; "
                "name a layer inside it"
            )
        if name in outputs:
            raise ValueError(
                f"layer {name!r} runs more than once in a pass, so it has no single output; "
                "name a layer around it"
            )
        outputs[name] = output
        return output.clone()

    return keep


def layer_shapes(
    network: nn.Module, image_shape: tuple[int, int, int], names: Sequence[str]
) -> dict[str, Shape]:
    """Measure the shapes of layers' outputs for one image, without the leading row.

    Raises
    ------
    ValueError
        As of `captured`, or if a layer does not run at all.
    """
    if not names:
        return {}
    first = next(network.parameters(), torch.zeros(()))
    row = torch.zeros((1, *image_shape), dtype=first.dtype, device=first.device)
    with torch.inference_mode(), captured(network, names) as outputs:
        network(row)
    for name in names:
        if name not in outputs:
            raise ValueError(f"layer {name!r} does not run when the network predicts; name another")
    return {name: tuple(outputs[name].shape[1:]) for name in names}
