"""The blocks of any network, from its input to its head, and a new head."""

from __future__ import annotations

from torch import nn

from .networks import head_of
from .zoobot import EncoderAndHead

Block = tuple[str, ...]


def blocks_of(network: nn.Module) -> tuple[Block, ...]:
    """Return the names of the modules in each block, in the order of their definition.

    A block is a convolution or linear layer, or a unit that its author made a class of, such as a
    residual unit; together with layers after it that have neither, such as norms and dropout.
    Sequences of such are taken apart. The last block holds the layer that makes the logits.

    Raises
    ------
    ValueError
        If no layer has weights.
    """
    blocks: list[list[str]] = []
    open_start = True
    for name, part in _units(network, ""):
        weighty = any(_has_weights(inner) for inner in part.modules())
        if not blocks or (weighty and not open_start):
            blocks.append([])
        blocks[-1].append(name)
        open_start = open_start and not weighty
    if not blocks or open_start:
        raise ValueError("network: it has no layers with weights, so there is nothing to train")
    return tuple(tuple(block) for block in blocks)


def replace_head(network: nn.Module, classes: int) -> None:
    """Give a network a new last layer, with random weights, for another number of classes.

    Raises
    ------
    ValueError
        If its last layer is no linear layer that ends in the logits themselves.
    """
    name = head_of(network)
    old = network.get_submodule(name) if name else None
    if name is None or not isinstance(old, nn.Linear):
        raise ValueError(
            f"network: its last layer, {name!r}, is no linear layer; build it for {classes} classes"
        )
    parent, _, attribute = name.rpartition(".")
    new = nn.Linear(old.in_features, classes, bias=old.bias is not None)
    setattr(network.get_submodule(parent), attribute, new.to(old.weight))


def _units(module: nn.Module, prefix: str) -> list[tuple[str, nn.Module]]:
    found = []
    for name, child in module.named_children():
        path = f"{prefix}{name}"
        layers = sum(_has_weights(inner) for inner in child.modules())
        plain = isinstance(child, nn.Sequential | nn.ModuleList) and layers > 1
        encoder = isinstance(module, EncoderAndHead) and name == "encoder"
        if plain or encoder:
            found += _units(child, f"{path}.")
        else:
            found.append((path, child))
    return found


def _has_weights(module: nn.Module) -> bool:
    return isinstance(module, nn.Linear | nn.Conv2d)
