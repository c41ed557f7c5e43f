"""What an optimiser moves, how fast, and what rests while a network is trained."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import nn

from .fit_settings import FitSettings


@dataclass(frozen=True)
class Freedom:
    """Which parts of a network a fit may change, and how fast."""

    rates: Mapping[str, float] = field(default_factory=dict)
    """Factors of the learning rate by name of parameter, 1 where none is given; 0 freezes it."""
    resting: tuple[str, ...] = ()
    """Names of modules that stay in evaluation mode: batch norm keeps its statistics, dropout
    drops nothing."""

    def freeze(self, network: nn.Module) -> None:
        """Let torch compute gradients for what is free alone.

        Raises
        ------
        ValueError
            If the network has no parameter or module of a name, or nothing is free.
        """
        known = dict(network.named_parameters())
        modules = {name for name, _ in network.named_modules()}
        for name in (*(set(self.rates) - set(known)), *(set(self.resting) - modules)):
            raise ValueError(f"fit: the network has no {name!r}; name its own parts")
        for name, parameter in known.items():
            parameter.requires_grad_(self.rates.get(name, 1.0) > 0.0)
        if not any(parameter.requires_grad for parameter in known.values()):
            raise ValueError("fit: all of the network is frozen; leave some of it free")

    def train(self, network: nn.Module) -> None:
        """Put the network into training mode, but for what rests."""
        network.train()
        for name in self.resting:
            network.get_submodule(name).eval()


ALL_FREE = Freedom()
"""Everything may change."""


def make_optimizer(
    network: nn.Module, settings: FitSettings, freedom: Freedom
) -> torch.optim.Optimizer:
    """Make the optimiser of a network's free parameters.

    Weights decay, but not parameters of one dimension: decay is a prior on what multiplies the
    input, whereas pulling biases and the scales of norm layers to zero only distorts the network
    (He et al. 2019, "Bag of Tricks", section 3.1). Each group has its ``rate_factor``.
    """
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in network.named_parameters():
        if parameter.requires_grad:
            decay = settings.weight_decay if parameter.ndim > 1 else 0.0
            groups.setdefault((freedom.rates.get(name, 1.0), decay), []).append(parameter)
    described = [
        {"params": parameters, "weight_decay": decay, "rate_factor": factor}
        for (factor, decay), parameters in groups.items()
    ]
    if settings.optimizer == "sgd":
        return torch.optim.SGD(described, lr=settings.learning_rate, momentum=settings.momentum)
    return torch.optim.AdamW(described, lr=settings.learning_rate)


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Set the learning rate of every group, times its factor."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group["rate_factor"]
