"""From a network of one survey to a network of another: what is trained again, and how fast."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor, nn

from .augmentation import NO_AUGMENTATION
from .blocks import blocks_of
from .evaluation import device_of, evaluating
from .examples import Examples, Source
from .files import Store
from .fit import FitResult, fit
from .fit_settings import FitSettings
from .fit_state import EpochRecord
from .networks import head_of
from .optimizers import ALL_FREE, Freedom

Strategy = Literal["frozen", "last_blocks", "all", "scratch"]

_BATCH = 128


@dataclass(frozen=True)
class Transfer:
    """What is trained again."""

    strategy: Strategy = "all"
    """frozen trains the last layer on features that are computed once, of the images without
    augmentation; last_blocks trains the last blocks and the last layer; all trains everything,
    early blocks more slowly; scratch trains everything alike, from weights that are random."""
    blocks: int = 1
    """Of last_blocks: how many blocks are trained beside the last layer's own."""
    rate_decay: float = 0.7
    """Of last_blocks and all: factor of the learning rate from one block to the one before it
    (Howard & Ruder 2018, section 3.2; Clark et al. 2020); 1 trains all alike."""

    def __post_init__(self) -> None:
        self._require(self.strategy in get_args(Strategy), "strategy", _EITHER)
        self._require(self.blocks >= 0, "blocks", "must not be negative")
        self._require(0.0 < self.rate_decay <= 1.0, "rate_decay", "must be in (0, 1]")

    def _require(self, holds: bool, name: str, problem: str) -> None:
        if not holds:
            raise ValueError(f"transfer: {name} = {getattr(self, name)!r} {problem}")


_EITHER = f"must be {', '.join(get_args(Strategy)[:-1])} or {get_args(Strategy)[-1]}"


@dataclass(frozen=True)
class Transferred:
    """What a transfer came to; the network holds the best weights."""

    fit: FitResult
    """The fit, of the last layer alone where that is what was trained."""
    trained: int
    """Parameters that could change."""
    parameters: int
    """All parameters."""


def transfer(
    network: nn.Module,
    train: Source,
    validation: Source,
    settings: FitSettings,
    choice: Transfer,
    store: Store | Path,
    on_epoch: Callable[[EpochRecord], None] | None = None,
) -> Transferred:
    """Train a network, or part of it, for another survey; parameters are those of `fit`.

    Parameters
    ----------
    network
        With the weights of the first survey; for scratch with random ones. Its outputs are the
        classes of the new survey: see `training.blocks.replace_head`.
    choice
        What is trained.

    Raises
    ------
    ValueError, FloatingPointError
        As of `fit`; and if the features of a network can't be computed apart from its last layer.
    """
    freedom = freedom_of(network, choice)
    if choice.strategy == "frozen":
        freedom.freeze(network)
        head = LastLayer(network, train)
        parts = [features_of(network, part) for part in (train, validation)]
        plain = replace(settings, augmentation=NO_AUGMENTATION)
        result = fit(head, parts[0], parts[1], plain, store, on_epoch)
        network.eval()
    else:
        result = fit(network, train, validation, settings, store, on_epoch, freedom)
    sizes = [(part.numel(), part.requires_grad) for part in network.parameters()]
    trained = sum(size for size, free in sizes if free)
    return Transferred(result, trained, sum(size for size, _ in sizes))


def freedom_of(network: nn.Module, choice: Transfer) -> Freedom:
    """Return what a strategy lets a fit change.

    Blocks that are frozen stay in evaluation mode: batch norm keeps the statistics that its
    weights were trained with, and dropout drops nothing.

    Raises
    ------
    ValueError
        If the network has fewer blocks than shall be trained.
    """
    if choice.strategy == "scratch":
        return ALL_FREE
    if choice.strategy == "frozen":
        head = _head(network)
        rates = {
            name: 0.0 for name, _ in network.named_parameters() if not name.startswith(f"{head}.")
        }
        resting = [name for name, _ in network.named_modules() if name not in ("", head)]
        return Freedom(rates, tuple(name for name in resting if not head.startswith(f"{name}.")))
    blocks = blocks_of(network)
    most = len(blocks) - 1
    if choice.strategy == "last_blocks" and choice.blocks > most:
        raise ValueError(
            f"transfer: blocks = {choice.blocks}, the network has {most} before its last layer's; "
            "train fewer, or use all"
        )
    free = len(blocks) if choice.strategy == "all" else choice.blocks + 1
    rates = {}
    for name, _ in network.named_parameters():
        # What belongs to no block, such as a token, goes with the input.
        number = next((n for n, block in enumerate(blocks) if _inside(name, block)), 0)
        above = most - number
        rates[name] = choice.rate_decay**above if above < free else 0.0
    frozen = blocks[: len(blocks) - free]
    return Freedom(rates, tuple(name for block in frozen for name in block))


class LastLayer(nn.Module):
    """The last layer of a network, on features (N, F, 1, 1) instead of images.

    Its weights are the network's own.

    Parameters
    ----------
    network
        Ends in a linear layer.
    source
        Some of its objects show that nothing follows that layer.

    Raises
    ------
    ValueError
        If the network computes something else from the features than this layer does.
    """

    def __init__(self, network: nn.Module, source: Source) -> None:
        super().__init__()
        self.layer = network.get_submodule(_head(network))
        device = device_of(network)
        images = source.take(np.arange(min(2, len(source))))[0].to(device)
        with evaluating(network):
            whole, parted = network(images), self(_features(network, images))
        if whole.shape != parted.shape or not torch.allclose(whole, parted, atol=1e-4, rtol=1e-4):
            raise ValueError(
                "transfer: frozen needs a network that ends in its last linear layer, this one "
                "goes on after it; use last_blocks with blocks = 0"
            )

    def forward(self, x_NF11: Tensor) -> Tensor:
        """Return logits (N, K)."""
        logits: Tensor = self.layer(x_NF11.flatten(1))
        return logits


@dataclass(frozen=True)
class Features(Examples):
    """What the last layer of a network sees of each object, (N, F, 1, 1)."""

    origin: str
    """Digest of the images and of the weights that made the features."""

    def digest(self) -> str:
        """Return where they come from: their own last bits depend on the machine."""
        return self.origin


def features_of(network: nn.Module, source: Source) -> Features:
    """Return what the last layer sees of each object, in evaluation mode."""
    device = device_of(network)
    parts = []
    with evaluating(network):
        for first in range(0, len(source), _BATCH):
            rows = np.arange(first, min(first + _BATCH, len(source)))
            parts.append(_features(network, source.take(rows)[0].to(device)).float().cpu())
    origin = hashlib.sha256(source.digest().encode())
    head = _head(network)
    for name, part in network.state_dict().items():
        if not name.startswith(f"{head}."):
            origin.update(name.encode())
            origin.update(part.cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return Features(torch.cat(parts).numpy(), source.targets(), origin.hexdigest())


def _features(network: nn.Module, images: Tensor) -> Tensor:
    """Return the input of the last layer, as small images (N, F, 1, 1)."""
    caught: list[Tensor] = []
    layer = network.get_submodule(_head(network))
    handle = layer.register_forward_pre_hook(lambda _, inputs: caught.append(inputs[0]))
    try:
        network(images)
    finally:
        handle.remove()
    return caught[0].flatten(1)[:, :, None, None]


def _head(network: nn.Module) -> str:
    name = head_of(network)
    if name is None or not isinstance(network.get_submodule(name), nn.Linear):
        raise ValueError(
            f"transfer: the last layer, {name!r}, is not linear; use last_blocks or all"
        )
    return name


def _inside(parameter: str, block: tuple[str, ...]) -> bool:
    return any(parameter.startswith(f"{name}.") for name in block)
