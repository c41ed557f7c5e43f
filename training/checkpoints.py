"""Networks on disk: weights that are whole, checked and never code, and a card beside them."""

from __future__ import annotations

import hashlib
import io
import json
import pickle
import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from .files import write_whole
from .networks import head_of, outputs_of
from .zoobot import EncoderAndHead

_SHOWN = 3
"""How many misfitting tensors a message names."""


@dataclass(frozen=True)
class NetworkCard:
    """What one must know about weights to use them: written as JSON beside them."""

    architecture: str
    """Name that `training.networks.build` understands."""
    classes: tuple[str, ...]
    """In the order of the network's outputs."""
    bands: tuple[str, ...]
    """In the order of the network's input channels."""
    preprocess: Mapping[str, Any]
    """How pixels become network input."""
    sha256: str
    """Of the weights file."""
    metrics: Mapping[str, Any] = field(default_factory=dict)
    """How good the network was, on what."""
    survey: str = ""
    """Digest of the survey that it was trained on."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """Further arguments of the architecture."""
    loss: Mapping[str, Any] = field(default_factory=dict)
    """What was minimised, and what one must know of it to use the outputs."""


def save_weights(network: nn.Module, path: Path) -> str:
    """Write a network's state as safetensors, whole or not at all, and return the file's sha256.

    Parameters
    ----------
    network
        Any network; tensors that it uses twice are written twice.
    path
        Ends in ``.safetensors``; its folder is made if need be.

    Raises
    ------
    ValueError
        If the name has another ending.
    """
    if path.suffix != ".safetensors":
        raise ValueError(f"weights {path}: the name must end in .safetensors; rename the target")
    content, sha256 = weights_bytes(network)
    write_whole(path, content)
    return sha256


def weights_bytes(network: nn.Module) -> tuple[bytes, str]:
    """Return a network's state as the content of a safetensors file, and its sha256."""
    # Clones, because safetensors refuses tensors that share memory.
    state = {name: part.detach().cpu().clone() for name, part in network.state_dict().items()}
    content = safetensors.torch.save({name: part.contiguous() for name, part in state.items()})
    return content, hashlib.sha256(content).hexdigest()


def load_weights(network: nn.Module, path: Path, sha256: str | None = None) -> str:
    """Load weights into a network, all of them or none, and return the file's sha256.

    Parameters
    ----------
    network
        Built for these weights; it keeps its device and its precision.
    path
        A ``.safetensors`` file; or ``.pt``, ``.pth`` or ``.ckpt`` with a plain state or one under
        ``state_dict``, as Lightning saves it, which is read without running any code of it.
    sha256
        The hash that the file must have.

    Raises
    ------
    ValueError
        In one line: the file is missing, unreadable, has another hash, doesn't fit the network, or
        holds numbers that are not finite.
    """
    state, found = _read_state(path, sha256)
    _check_fit(network, state, path)
    _check_finite(state, path)
    network.load_state_dict(state)
    return found


def load_pretrained(network: nn.Module, path: Path, sha256: str | None = None) -> str:
    """Load all weights but those of the head, which stays as it is; return the file's sha256.

    The head is the last layer; of a network of ``zoobot:`` all that follows its encoder. The file
    may have a head for other classes, or none, as the encoders that Zoobot publishes.

    Parameters and errors are those of `load_weights`.
    """
    state, found = _read_state(path, sha256)
    if isinstance(network, EncoderAndHead):
        head = "head."
        if not any(name.startswith("encoder.") for name in state):
            state = {f"encoder.{name}": part for name, part in state.items()}
    else:
        head = f"{head_of(network)}."
    own = {name: part for name, part in network.state_dict().items() if name.startswith(head)}
    merged = own | {name: part for name, part in state.items() if not name.startswith(head)}
    _check_fit(network, merged, path)
    _check_finite(merged, path)
    network.load_state_dict(merged)
    return found


def _read_state(path: Path, sha256: str | None) -> tuple[dict[str, Tensor], str]:
    """Read the tensors of a file, and its sha256."""
    content = _read_bytes(path)
    found = hashlib.sha256(content).hexdigest()
    if sha256 is not None and found != sha256.lower():
        raise ValueError(
            f"weights {path}: sha256 is {found}, expected {sha256}; "
            "get the right file, or correct the hash"
        )
    return _parse(content, path), found


def network_digest(network: nn.Module) -> str:
    """Return a sha256 over the names, types, shapes and bytes of a network's state."""
    digest = hashlib.sha256()
    for name, part in sorted(network.state_dict().items()):
        digest.update(f"{name}\0{part.dtype}\0{tuple(part.shape)}\0".encode())
        flat = part.detach().cpu().contiguous().reshape(-1)
        digest.update(flat.view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def save_card(card: NetworkCard, path: Path) -> None:
    """Write a network's card as JSON, whole or not at all."""
    write_whole(path, card_bytes(card))


def card_bytes(card: NetworkCard) -> bytes:
    """Return a network's card as JSON."""
    return (json.dumps(asdict(card), indent=2, sort_keys=True) + "\n").encode()


def load_card(path: Path) -> NetworkCard:
    """Read a network's card.

    Raises
    ------
    ValueError
        If it is missing, no JSON, or has other fields than a card.
    """
    try:
        fields = json.loads(_read_bytes(path))
        card = NetworkCard(**fields)
        return NetworkCard(
            **{**asdict(card), "classes": tuple(card.classes), "bands": tuple(card.bands)}
        )
    except (json.JSONDecodeError, UnicodeDecodeError, TypeError) as error:
        raise ValueError(
            f"network card {path}: {error}; it must be the JSON that was written with the weights"
        ) from error


def _read_bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ValueError(
            f"{path}: {error.strerror}; give the path of a file that can be read"
        ) from error


def _parse(content: bytes, path: Path) -> dict[str, Tensor]:
    if path.suffix == ".safetensors":
        try:
            return safetensors.torch.load(content)
        except safetensors.SafetensorError as error:
            raise ValueError(
                f"weights {path}: no valid safetensors file ({_first_line(error)}); copy it anew"
            ) from error
    if path.suffix not in (".pt", ".pth", ".ckpt"):
        raise ValueError(
            f"weights {path}: unknown ending {path.suffix!r}; use .safetensors, .pt, .pth or .ckpt"
        )
    try:
        with warnings.catch_warnings():
            # torch warns of pickles that are none of its own; they are refused below.
            warnings.simplefilter("ignore")
            loaded = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError) as error:
        raise ValueError(
            f"weights {path}: holds more than tensors or is damaged ({_first_line(error)}); "
            "save the state_dict alone, best as .safetensors"
        ) from error
    if isinstance(loaded, dict) and isinstance(loaded.get("state_dict"), dict):
        loaded = loaded["state_dict"]
    if not isinstance(loaded, dict) or not all(isinstance(v, Tensor) for v in loaded.values()):
        raise ValueError(
            f"weights {path}: is no table of tensors; save network.state_dict() instead"
        )
    return dict(loaded)


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:120]


def _check_fit(network: nn.Module, state: Mapping[str, Tensor], path: Path) -> None:
    """Raise one line about every way in which the file's tensors are not the network's."""
    own = network.state_dict()
    missing = [name for name in own if name not in state]
    unexpected = [name for name in state if name not in own]
    shaped = [
        f"{name} {tuple(state[name].shape)} in the file, {tuple(own[name].shape)} in the network"
        for name in own
        if name in state and state[name].shape != own[name].shape
    ]
    if not (missing or unexpected or shaped):
        return
    lists = (("missing", missing), ("unexpected", unexpected), ("of another shape", shaped))
    facts = "; ".join(f"{len(names)} {kind}: {_some(names)}" for kind, names in lists if names)
    raise ValueError(f"weights {path} don't fit the network: {facts}; {_cure(network, state)}")


def _some(names: list[str]) -> str:
    more = [f"and {len(names) - _SHOWN} more"] if len(names) > _SHOWN else []
    return ", ".join(names[:_SHOWN] + more)


def _cure(network: nn.Module, state: Mapping[str, Tensor]) -> str:
    """Say what most likely went wrong."""
    weight = state.get(f"{head_of(network)}.weight")
    outputs = outputs_of(network)
    if weight is not None and weight.ndim > 0 and weight.shape[0] != outputs:
        if isinstance(network, EncoderAndHead) and _is_dirichlet(state):
            return (
                f"the tree has {weight.shape[0]} answers in the file, {outputs} in the network: "
                f"set network.options.answers to {weight.shape[0]}, and first to the number of the "
                "first class among them"
            )
        return (
            f"the head has {weight.shape[0]} outputs in the file, {outputs} classes in the job: "
            "list the classes that the network was trained on"
        )
    if state and all(name.startswith("module.") for name in state):
        return "the names begin with 'module.', left by DataParallel: save network.module instead"
    if {name.split(".")[0] for name in state} == {"encoder", "head"}:
        return _zoobot_cure(network, state)
    return "name the architecture, bands and options that the weights were saved from"


def _zoobot_cure(network: nn.Module, state: Mapping[str, Tensor]) -> str:
    """Tell which of Zoobot's heads the weights have, where the network has another."""
    head = "dirichlet" if _is_dirichlet(state) else "linear"
    if not isinstance(network, EncoderAndHead):
        option = ", with options {head: dirichlet}" if head == "dirichlet" else ""
        return f"the names begin with 'encoder.' and 'head.': is it a zoobot:NAME{option}?"
    if _is_dirichlet(network.state_dict()) != _is_dirichlet(state):
        return f"the weights have Zoobot's {head} head: set network.options.head to {head}"
    return "name the encoder, bands and options that the weights were saved from"


def _is_dirichlet(state: Mapping[str, Tensor]) -> bool:
    return "head.1.0.weight" in state


def _check_finite(state: Mapping[str, Tensor], path: Path) -> None:
    for name, part in state.items():
        if part.is_floating_point() and not bool(torch.isfinite(part).all()):
            raise ValueError(
                f"weights {path}: {name} holds NaN or infinite numbers; "
                "take a checkpoint from before the training diverged"
            )
