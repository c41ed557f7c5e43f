"""First weights of any network: how large they are decides whether signals and gradients live."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal, get_args

import torch
from torch import Tensor, nn

Scheme = Literal["default", "lecun", "glorot", "he", "orthogonal", "too_small", "too_large"]

TOO_SMALL, TOO_LARGE = 0.1, 3.0
"""Factors of He's standard deviation: signals shrink, or grow, tenfold or threefold a layer."""


def initialise(network: nn.Module, scheme: Scheme, seed: int | None = None) -> None:
    """Draw the weights of all convolutions and linear layers anew; biases become 0.

    Scales of norm layers become 1. With n_in inputs and n_out outputs of a unit (for a convolution
    of k x k: k^2 times its channels), the variance of the normal weights is

    - lecun: 1 / n_in, which keeps the variance of signals in linear layers (LeCun et al. 1998);
    - glorot: 2 / (n_in + n_out), a compromise of signals and gradients (Glorot & Bengio 2010);
    - he: 2 / n_in, which makes up for the half that a ReLU removes (He et al. 2015, eq. 10);
    - orthogonal: rows or columns of length 1 that are orthogonal (Saxe et al. 2014);
    - too_small, too_large: he with a standard deviation of 0.1 and 3 times that;
    - default: as the layers' authors have it, nothing is changed.

    Parameters
    ----------
    network
        Changed in place.
    scheme
        One of the above.
    seed
        By default the weights come from torch's global generator.

    Raises
    ------
    ValueError
        For an unknown scheme.
    """
    if scheme not in get_args(Scheme):
        raise ValueError(
            f"network: initialisation = {scheme!r} is invalid; use {', '.join(get_args(Scheme))}"
        )
    if scheme == "default":
        return
    generator = None if seed is None else torch.Generator().manual_seed(seed)
    for part in network.modules():
        if isinstance(part, nn.Conv2d | nn.Linear):
            with torch.no_grad():
                _draw(part.weight, scheme, generator, getattr(part, "groups", 1))
                if part.bias is not None:
                    part.bias.zero_()
        elif isinstance(part, nn.BatchNorm2d | nn.GroupNorm | nn.LayerNorm):
            for parameter, value in ((part.weight, 1.0), (part.bias, 0.0)):
                if parameter is not None:
                    nn.init.constant_(parameter, value)


def _draw(weight: Tensor, scheme: Scheme, generator: torch.Generator | None, groups: int) -> None:
    if scheme == "orthogonal":
        nn.init.orthogonal_(weight, generator=generator)
        return
    field = math.prod(weight.shape[2:])
    inputs, outputs = weight.shape[1] * field, weight.shape[0] // groups * field
    nn.init.normal_(weight, 0.0, _DEVIATIONS[scheme](inputs, outputs), generator=generator)


_DEVIATIONS: dict[str, Callable[[int, int], float]] = {
    "lecun": lambda inputs, _: math.sqrt(1 / inputs),
    "glorot": lambda inputs, outputs: math.sqrt(2 / (inputs + outputs)),
    "he": lambda inputs, _: math.sqrt(2 / inputs),
    "too_small": lambda inputs, _: TOO_SMALL * math.sqrt(2 / inputs),
    "too_large": lambda inputs, _: TOO_LARGE * math.sqrt(2 / inputs),
}
"""Standard deviations, by the inputs and outputs of a unit."""
