"""Dropout as a pure function of keys: where a network drops values, and which it drops.

Shape suffixes: R rows of one pass.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from .dropout_functions import CHANNELWISE, DROPOUT_LAYERS, UNSUPPORTED, DropoutFunctions
from .randomness import key, random_words

_WEIGHTED = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)


@dataclass(frozen=True)
class Site:
    """A place in a network where values are dropped."""

    layer: nn.Module
    """A dropout layer, or the layer that injected dropout comes before."""
    p: float
    """Probability that a value is dropped."""
    injected: bool = False
    """Whether the input of `layer` is dropped from, instead of its output."""


def dropout_sites(network: nn.Module, inject: float | None = None) -> list[Site]:
    """List the layers where a network drops values, in its order of definition; maybe none.

    Calls of dropout functions are not among them: only a pass tells of them.

    Parameters
    ----------
    network : in evaluation mode
    inject : drop the inputs of the last linear layer with this probability, in a network that has
        no active dropout of its own

    Raises
    ------
    ValueError
        If dropout can't be injected, or a layer drops values in another way than is meant.
    """
    active = [
        layer for layer in network.modules() if isinstance(layer, DROPOUT_LAYERS) and layer.p > 0
    ]
    if inject is not None:
        if active:
            raise own_dropout(inject, f"layers: {len(active)}")
        return [Site(_last_linear(network), inject, injected=True)]
    for layer in active:
        if isinstance(layer, UNSUPPORTED):
            raise ValueError(
                f"{type(layer).__name__} is not supported: it replaces values by others than 0; "
                "use Dropout or Dropout2d layers"
            )
    return [Site(layer, float(layer.p)) for layer in active]


def own_dropout(inject: float, what: str) -> ValueError:
    """Explain that nothing is injected where a network has dropout."""
    return ValueError(
        f"inject is {inject}, and the network has active dropout of its own ({what}); "
        "leave inject out"
    )


def _last_linear(network: nn.Module) -> nn.Module:
    weighted = [layer for layer in network.modules() if isinstance(layer, _WEIGHTED)]
    if not weighted or not isinstance(weighted[-1], nn.Linear):
        last = type(weighted[-1]).__name__ if weighted else "none"
        raise ValueError(
            f"inject puts dropout before the last linear layer; the last layer with weights is "
            f"{last}: use a network with dropout layers, or with a linear layer at its end"
        )
    return weighted[-1]


@contextmanager
def hashed_dropout(
    network: nn.Module, keys: Sequence[int], inject: float | None = None
) -> Iterator[None]:
    """Switch dropout on, alone, with masks that are a pure function of the rows' keys.

    Row r of every pass inside the context uses the masks of ``keys[r]``; a single key serves all
    rows. Passes through the whole network repeat the masks; a layer that is used several times in
    one pass draws a new mask each time, and so does each call of a dropout function.
    """

    def drop_in_function(values: Tensor, p: float, whole_channels: bool, call: int) -> Tensor:
        return _masked(values, p, whole_channels, [key(k, "function", call) for k in keys])

    calls: Counter[Site] = Counter()
    handles = [network.register_forward_pre_hook(lambda *_: calls.clear())]
    for number, site in enumerate(dropout_sites(network, inject)):
        handles.append(_hook(site, partial(_drop, site, keys, number, calls)))
    try:
        with DropoutFunctions(network, drop_in_function):
            yield
    finally:
        for handle in handles:
            handle.remove()


def _hook(site: Site, drop: Callable[[Tensor], Tensor]) -> RemovableHandle:
    def drop_input(_layer: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        return (drop(inputs[0]), *inputs[1:])

    def drop_output(_layer: nn.Module, _inputs: Any, output: Tensor) -> Tensor:
        return drop(output)

    if site.injected:
        return site.layer.register_forward_pre_hook(drop_input)
    return site.layer.register_forward_hook(drop_output)


def _drop(
    site: Site, keys: Sequence[int], number: int, calls: Counter[Site], values: Tensor
) -> Tensor:
    call = calls[site]
    calls[site] += 1
    own_keys = [key(k, number, call) for k in keys]
    return _masked(values, site.p, isinstance(site.layer, CHANNELWISE), own_keys)


def _masked(values: Tensor, p: float, whole_channels: bool, keys: Sequence[int]) -> Tensor:
    """Drop values, or whole channels, and scale what is kept."""
    shape = values.shape[1:]
    if whole_channels:
        shape = torch.Size((shape[0], *[1] * (len(shape) - 1)))
    words = random_words(keys, math.prod(shape), values.device)
    kept = (words >= round(p * 2**32)).reshape(len(keys), *shape)
    scaled = values / (1 - p) if p < 1 else values
    return torch.where(kept, scaled, torch.zeros_like(values))
