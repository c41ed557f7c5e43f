"""What comes before a network's first dropout is the same for all samples: run it once.

A network is split where that can be done without a doubt: where the layers from the first dropout
on are a chain whose output is the network's. That holds for the heads of most classifiers. Any
other network is its own tail, and its samples are whole passes; so is one that calls dropout as a
function, of which no layer tells.

Shape suffixes: N objects, R rows of one pass.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from .dropout_functions import DropoutFunctions
from .dropout_masks import Site, own_dropout


@dataclass(frozen=True)
class Split:
    """A network in two: what the first part put out, and the layers that remain."""

    features: Tensor
    """What enters the tail, (N, ...)."""
    tail: tuple[nn.Module, ...]
    """Layers that lead from there to the logits; all dropout is among them."""

    def logits(self, features_R: Tensor) -> Tensor:
        """Run the tail over some rows, which it may overwrite."""
        for layer in self.tail:
            features_R = layer(features_R)
        return features_R


def split(network: nn.Module, images_NCHW: Tensor, sites: Sequence[Site]) -> Split:
    """Run the images once, without dropout, and keep what enters the first dropout.

    The features are part of the pass's graph where gradients are enabled.

    Raises
    ------
    ValueError
        If no dropout takes part in the pass, or another one than is injected.
    """
    layers = {site.layer for site in sites}
    holding = [module for module in network.modules() if layers <= set(module.modules())]
    around = holding if layers else []
    tails = {module: _from_first(module, layers) for module in around}
    watch = _Watch(layers)
    functions = DropoutFunctions(network)
    with watch.over(around, [tail[0] for tail in tails.values()]), functions:
        logits_NK = network(images_NCHW.clone())
    if functions.calls:
        for site in sites:
            if site.injected:
                raise own_dropout(site.p, f"calls of dropout functions: {functions.calls}")
        return Split(images_NCHW, (network,))
    if not sites:
        raise ValueError(
            "the network has no dropout layer with p > 0, so all samples would be equal and "
            "the uncertainty zero; set inject, for example to 0.2, to put dropout before the last "
            "linear layer, or use a network with dropout"
        )
    if not watch.drops:
        raise ValueError(
            "none of the network's dropout layers runs when it predicts, so all samples would be "
            "equal; use a network with dropout on the way to its logits"
        )
    for module in reversed(around):
        if tails[module] == (network,):
            break
        features_N = watch.only_input(tails[module][0])
        if features_N is not None and watch.puts_out(module, logits_NK):
            found = Split(features_N, tails[module])
            if _repeats(found, logits_NK, layers, watch.drops):
                return found
    return Split(images_NCHW, (network,))


def _from_first(module: nn.Module, layers: set[nn.Module]) -> tuple[nn.Module, ...]:
    """List the layers of a chain, nested or not, from the first on that holds dropout."""
    if not isinstance(module, nn.Sequential) or type(module).forward is not nn.Sequential.forward:
        return (module,)
    chain = list(module)
    first = next(i for i, child in enumerate(chain) if layers & set(child.modules()))
    return (*_from_first(chain[first], layers), *chain[first + 1 :])


class _Watch:
    """What some modules took in and put out in a pass."""

    def __init__(self, dropping: set[nn.Module]) -> None:
        self.drops = 0
        """Runs of layers that drop."""
        self._dropping = dropping
        self._inputs: dict[nn.Module, list[Tensor | None]] = {}
        self._outputs: dict[nn.Module, tuple[Any, int]] = {}

    def over(self, outputs_of: Sequence[nn.Module], inputs_of: Sequence[nn.Module]) -> ExitStack:
        hooks = ExitStack()
        for module in dict.fromkeys(outputs_of):
            hooks.callback(module.register_forward_hook(self._put_out).remove)
        for module in dict.fromkeys(inputs_of):
            handle = module.register_forward_pre_hook(self._took_in, with_kwargs=True)
            hooks.callback(handle.remove)
        for module in self._dropping:
            hooks.callback(module.register_forward_pre_hook(self._drop).remove)
        return hooks

    def only_input(self, module: nn.Module) -> Tensor | None:
        """Return what a module took in, if it ran once and took in one tensor alone."""
        inputs = self._inputs.get(module, [])
        return inputs[0] if len(inputs) == 1 else None

    def puts_out(self, module: nn.Module, logits: Tensor) -> bool:
        """Tell whether the logits are what a module put out, and nothing was done to them."""
        output, version = self._outputs.get(module, (None, 0))
        return output is logits and version == _version(logits)

    def _drop(self, *_: object) -> None:
        self.drops += 1

    def _took_in(
        self, module: nn.Module, inputs: tuple[Any, ...], more: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        alone = len(inputs) == 1 and not more and isinstance(inputs[0], Tensor)
        self._inputs.setdefault(module, []).append(inputs[0] if alone else None)
        # A module may overwrite what it takes in: it gets a copy.
        return ((inputs[0].clone(),) if alone else inputs), more

    def _put_out(self, module: nn.Module, _inputs: object, output: Any) -> None:
        self._outputs[module] = (output, _version(output))


def _version(output: Any) -> int:
    """Count how often a tensor was overwritten, where torch knows."""
    known = isinstance(output, Tensor) and not output.is_inference()
    return output._version if known else 0


@torch.no_grad()
def _repeats(found: Split, logits_NK: Tensor, layers: set[nn.Module], drops: int) -> bool:
    """Try the tail: it gives the logits, and runs every dropout that the pass ran."""
    watch = _Watch(layers)
    with watch.over((), ()):
        again_NK = found.logits(found.features.clone())
    # The tolerance is for kernels that look at the alignment of memory.
    return watch.drops == drops and torch.allclose(
        again_NK, logits_NK, rtol=1e-3, atol=1e-6, equal_nan=True
    )
