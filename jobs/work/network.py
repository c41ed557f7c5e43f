"""From a network section to a network that is ready to be explained."""

from __future__ import annotations

import hashlib
import importlib.util
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import nn

from attribution.explain import TORCH_DTYPES
from training.checkpoints import load_weights, network_digest
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
        If the architecture is unknown, untrusted or fails, or the weights don't fit it.
    """
    try:
        network = _build(spec, bands)
        load_weights(network, Path(spec.weights), spec.sha256)
    except ValueError as error:
        raise RefusedError(f"network: {error}") from error
    return network.to(device, TORCH_DTYPES[precision]).eval().requires_grad_(False)


def network_identity(spec: NetworkSpec, network: nn.Module) -> str:
    """Return the sha256 that tells whether the network changed: its state and its own source."""
    state = network_digest(network)
    if not spec.architecture.startswith("file:"):
        return state
    source, _ = _source_and_function(spec)
    return hashlib.sha256(state.encode() + source.read_bytes()).hexdigest()


def _build(spec: NetworkSpec, bands: int) -> nn.Module:
    # Weights are replaced at once: the random ones must not depend on, or move, global state.
    with torch.random.fork_rng():
        if spec.architecture.startswith("file:"):
            return _build_from_file(spec, bands)
        return build(spec.architecture, len(spec.classes), bands, spec.options)


def _build_from_file(spec: NetworkSpec, bands: int) -> nn.Module:
    """Call a user's function, from its file alone: no import path is searched or changed."""
    source, name = _source_and_function(spec)
    if spec.trust != "code":
        raise RefusedError(
            f"network.architecture: {source} is code that would run with your rights; "
            "if you trust it, set network.trust: code"
        )
    if not source.is_file():
        raise RefusedError(f"network.architecture: {source} does not exist; correct the path")
    module = _guarded(source, "can't be imported", lambda: _import(source))
    function: Any = getattr(module, name, None)
    if not callable(function):
        raise RefusedError(f"network.architecture: {source} has no function {name!r}; correct it")
    arguments = {"classes": len(spec.classes), "bands": bands, **spec.options}
    called = f"{name}({', '.join(f'{key}={value!r}' for key, value in arguments.items())})"
    network = _guarded(source, f"{called} failed", lambda: function(**arguments))
    if not isinstance(network, nn.Module):
        raise RefusedError(
            f"network.architecture: {called} in {source} returned {type(network).__name__}, "
            "no torch module; return the network"
        )
    return network


def _source_and_function(spec: NetworkSpec) -> tuple[Path, str]:
    source, separator, function = spec.architecture.removeprefix("file:").rpartition(":")
    if not separator or not source.endswith(".py"):
        raise RefusedError(
            f"network.architecture: {spec.architecture!r} is not file:PATH.py:FUNCTION"
        )
    return Path(source), function


def _import(source: Path) -> ModuleType:
    # Named after its path: two jobs' files never meet, and dataclasses find their own module.
    name = f"occulta_user_network_{hashlib.sha256(str(source).encode()).hexdigest()[:16]}"
    module_spec = importlib.util.spec_from_file_location(name, source)
    assert module_spec is not None
    assert module_spec.loader is not None
    module = importlib.util.module_from_spec(module_spec)
    sys.modules[name] = module
    try:
        module_spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _guarded(source: Path, what: str, call: Callable[[], Any]) -> Any:
    """Run a user's code; tell in one line what went wrong in it, and where."""
    path = list(sys.path)
    try:
        return call()
    except (Exception, SystemExit) as error:
        raise RefusedError(
            f"network.architecture: {source}{_line(source, error)} {what}: "
            f"{type(error).__name__}: {' '.join(str(error).split())}{_cure(source, error)}"
        ) from error
    finally:
        sys.path[:] = path


def _line(source: Path, error: BaseException) -> str:
    if isinstance(error, SyntaxError):
        return f" line {error.lineno}" if error.filename == str(source) else ""
    lines = [
        frame.lineno
        for frame in traceback.extract_tb(error.__traceback__)
        if frame.filename == str(source)
    ]
    return f" line {lines[-1]}" if lines else ""


def _cure(source: Path, error: BaseException) -> str:
    if isinstance(error, ModuleNotFoundError) and error.name is not None:
        first = error.name.split(".")[0]
        if any((source.parent / name).exists() for name in (first, f"{first}.py")):
            return "; files beside it are not searched: put all that the network needs into it"
    if isinstance(error, TypeError):
        return "; it is called with classes, bands and network.options"
    return ""
