"""From a network section to a network that is ready to be explained."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import torch
from torch import nn

from attribution.explain import TORCH_DTYPES
from training.checkpoints import load_weights
from training.networks import build

from ..errors import RefusedError
from ..specs.network import NetworkSpec


def open_network(
    spec: NetworkSpec, bands: int, precision: str = "float32", device: str = "cpu"
) -> nn.Module:
    """Build the network, load its weights and put it into evaluation mode.

    Raises
    ------
    RefusedError
        If the architecture is unknown or untrusted, or the weights don't fit it.
    """
    try:
        network = _build(spec, bands)
        load_weights(network, Path(spec.weights), spec.sha256)
    except ValueError as error:
        raise RefusedError(f"network: {error}") from error
    return network.to(device, TORCH_DTYPES[precision]).eval().requires_grad_(False)


def _build(spec: NetworkSpec, bands: int) -> nn.Module:
    if spec.architecture.startswith("file:"):
        return _build_from_file(spec, bands)
    # Weights are replaced at once: the random ones must not depend on, or move, global state.
    with torch.random.fork_rng():
        return build(spec.architecture, len(spec.classes), bands, spec.options)


def _build_from_file(spec: NetworkSpec, bands: int) -> nn.Module:
    """Call a user's function, from its file alone: no import path is searched or changed."""
    source, separator, function = spec.architecture.removeprefix("file:").rpartition(":")
    if not separator or not source.endswith(".py"):
        raise RefusedError(
            f"network.architecture: {spec.architecture!r} is not file:PATH.py:FUNCTION"
        )
    if spec.trust != "code":
        raise RefusedError(
            f"network.architecture: {source} is code that would run with your rights; "
            "if you trust it, set network.trust: code"
        )
    if not Path(source).is_file():
        raise RefusedError(f"network.architecture: {source} does not exist; correct the path")
    module_spec = importlib.util.spec_from_file_location("occulta_user_network", source)
    assert module_spec is not None
    assert module_spec.loader is not None
    module = importlib.util.module_from_spec(module_spec)
    module_spec.loader.exec_module(module)
    builder: Any = getattr(module, function, None)
    if builder is None:
        raise RefusedError(f"network.architecture: {source} has no {function!r}; name its function")
    network = builder(classes=len(spec.classes), bands=bands, **spec.options)
    if not isinstance(network, nn.Module):
        raise RefusedError(f"network.architecture: {function} in {source} returned no torch module")
    return network
