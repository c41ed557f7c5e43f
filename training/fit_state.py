"""What a fit is made of: its data, its settings, and its state after each epoch."""

from __future__ import annotations

import csv
import hashlib
import io
import math
import pickle
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from .augmentation import Augmentation
from .files import write_whole


def rows_of(array: npt.NDArray[Any] | Tensor, rows: npt.NDArray[np.int64]) -> Tensor:
    """Copy rows into a tensor of their own; arrays may be read-only, as Ray hands them out."""
    if isinstance(array, Tensor):
        return array[torch.from_numpy(rows).to(array.device)]
    return torch.from_numpy(np.ascontiguousarray(array[rows]))


@dataclass(frozen=True)
class Examples:
    """Labelled images."""

    images: npt.NDArray[np.float32] | Tensor
    """float32 (N, C, H, W), as the network shall see them."""
    labels: npt.NDArray[np.integer] | Tensor
    """Class indices (N,)."""

    def __len__(self) -> int:
        return len(self.images)

    def take(self, rows: npt.NDArray[np.int64], device: torch.device) -> tuple[Tensor, Tensor]:
        """Return some images and labels on a device."""
        return rows_of(self.images, rows).to(device), rows_of(self.labels, rows).long().to(device)

    def check(self, part: str, least: int) -> None:
        """Raise ValueError unless these are images and labels that a network can learn from."""
        images, labels = self.images, self.labels
        if images.ndim != 4 or images.dtype not in (torch.float32, np.float32):
            raise ValueError(
                f"{part} images are {images.dtype} {tuple(images.shape)}; give float32 (N, C, H, W)"
            )
        integers = np.asarray(labels[:0].cpu() if isinstance(labels, Tensor) else labels).dtype.kind
        if tuple(labels.shape) != tuple(images.shape[:1]) or integers not in "iu":
            raise ValueError(
                f"{part} labels are {labels.dtype} {tuple(labels.shape)} for {len(images)} images; "
                "give one integer for each"
            )
        if len(images) < least:
            raise ValueError(
                f"{part} set has {len(images)} images, it needs {least} or more; "
                "add objects or lower batch_size"
            )

    def digest(self) -> str:
        """Return a sha256 over images and labels."""
        digest = hashlib.sha256()
        for array in (self.images, self.labels):
            plain = array.cpu().numpy() if isinstance(array, Tensor) else array
            whole = np.ascontiguousarray(plain)
            digest.update(f"{whole.dtype.str}{whole.shape}".encode())
            digest.update(whole.data)
        return digest.hexdigest()


@dataclass(frozen=True)
class FitSettings:
    """How a network is trained."""

    epochs: int = 8
    """Most passes over the training set."""
    batch_size: int = 32
    """Most images in a step; batches are made nearly equal."""
    learning_rate: float = 3e-3
    """Highest rate of AdamW (Loshchilov & Hutter 2019)."""
    weight_decay: float = 1e-2
    """Decay of AdamW."""
    schedule: Literal["one_cycle", "cosine", "constant"] = "one_cycle"
    """How the rate changes: one_cycle warms up over 0.3 of the steps (Smith 2018)."""
    patience: int = 5
    """Epochs without a lower validation loss after which training stops."""
    label_smoothing: float = 0.0
    """Probability taken from the label and spread over all classes."""
    augmentation: Augmentation = field(default_factory=Augmentation)
    """Which views of the training images are seen."""
    seed: int = 0
    """Decides order, views and dropout; not the first weights, which are the network's."""

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "patience"):
            self._require(getattr(self, name) >= 1, name, "must be 1 or more")
        self._require(self.learning_rate > 0.0, "learning_rate", "must be positive")
        self._require(self.weight_decay >= 0.0, "weight_decay", "must not be negative")
        self._require(0.0 <= self.label_smoothing < 1.0, "label_smoothing", "must be in [0, 1)")
        known = self.schedule in ("one_cycle", "cosine", "constant")
        self._require(known, "schedule", "must be one_cycle, cosine or constant")
        self._require(self.seed >= 0, "seed", "must not be negative")

    def _require(self, holds: bool, name: str, problem: str) -> None:
        if not holds:
            raise ValueError(f"fit settings: {name} = {getattr(self, name)!r} {problem}")

    def identity(self, train: Examples, validation: Examples) -> dict[str, str]:
        """Return what a continued fit must agree on, by name."""
        named = {name: repr(value) for name, value in asdict(self).items()}
        return {
            **named,
            "training set": train.digest(),
            "validation set": validation.digest(),
        }


@dataclass(frozen=True)
class EpochRecord:
    """A row of the history."""

    epoch: int
    """Counted from 1."""
    train_loss: float
    """Mean cross entropy over the epoch's steps, with augmentation and dropout."""
    validation_loss: float
    """Mean cross entropy, without them."""
    train_accuracy: float
    """On the views seen in the epoch."""
    validation_accuracy: float
    """On the images themselves."""
    learning_rate: float
    """At the last step."""
    seconds: float
    """Wall time of the epoch."""


def learning_rate_at(settings: FitSettings, step: int, steps: int) -> float:
    """Return the learning rate of a step, counted from 0, out of ``steps``.

    A pure function, so that there is no scheduler state to lose.
    """
    peak = settings.learning_rate
    if settings.schedule == "constant":
        return peak
    warm = 0.3 * steps if settings.schedule == "one_cycle" else 0.0
    if step < warm:
        return peak * (0.04 + 0.96 * 0.5 * (1.0 - math.cos(math.pi * step / warm)))
    return peak * 0.5 * (1.0 + math.cos(math.pi * (step - warm) / max(steps - warm, 1.0)))


@dataclass
class FitState:
    """Everything that an interrupted fit needs to go on: one file, after each epoch."""

    network: nn.Module
    optimizer: torch.optim.Optimizer
    identity: dict[str, str]
    history: list[EpochRecord] = field(default_factory=list)
    best_epoch: int = 0
    best_weights: dict[str, Tensor] = field(default_factory=dict)

    @classmethod
    def start(
        cls, network: nn.Module, optimizer: torch.optim.Optimizer, identity: dict[str, str]
    ) -> FitState:
        """Return the state before the first epoch."""
        shapes = {name: tuple(part.shape) for name, part in network.state_dict().items()}
        return cls(network, optimizer, {**identity, "network": repr(shapes)})

    @property
    def best_loss(self) -> float:
        """Lowest validation loss so far."""
        if self.best_epoch == 0:
            return math.inf
        return self.history[self.best_epoch - 1].validation_loss

    def finished(self, settings: FitSettings) -> bool:
        """Whether the epochs are used up, or the validation loss has stopped falling."""
        done = len(self.history)
        return done >= settings.epochs or done - self.best_epoch >= settings.patience

    def add(self, record: EpochRecord) -> None:
        """Take an epoch into the history; keep its weights if they are the best so far."""
        better = record.validation_loss < self.best_loss
        self.history.append(record)
        if better or self.best_epoch == 0:
            self.best_epoch = record.epoch
            state = self.network.state_dict()
            self.best_weights = {name: part.detach().cpu().clone() for name, part in state.items()}

    def use_best_weights(self) -> None:
        """Put the weights of the best epoch into the network."""
        self.network.load_state_dict(self.best_weights)

    def save(self, path: Path) -> None:
        """Write the state as one file, whole or not at all."""
        buffer = io.BytesIO()
        content = {
            "identity": self.identity,
            "network": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "history": [asdict(record) for record in self.history],
            "best_epoch": self.best_epoch,
            "best_weights": self.best_weights,
        }
        torch.save(content, buffer)
        write_whole(path, buffer.getvalue())

    def restore(self, path: Path) -> None:
        """Continue from a file.

        Raises
        ------
        ValueError
            If the file is damaged or belongs to another fit.
        """
        try:
            content: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError) as error:
            raise ValueError(
                f"checkpoint {path} is damaged; remove it to train from the start"
            ) from error
        changed = [n for n, value in self.identity.items() if content["identity"].get(n) != value]
        if changed:
            raise ValueError(
                f"checkpoint {path} belongs to another fit: {', '.join(changed)} changed; "
                "put them back, or train in an empty folder"
            )
        self.network.load_state_dict(content["network"])
        self.optimizer.load_state_dict(content["optimizer"])
        self.history = [EpochRecord(**row) for row in content["history"]]
        self.best_epoch = content["best_epoch"]
        self.best_weights = content["best_weights"]

    def write_history(self, path: Path) -> None:
        """Write the history as CSV, whole or not at all."""
        text = io.StringIO()
        writer = csv.DictWriter(text, [part.name for part in fields(EpochRecord)])
        writer.writeheader()
        writer.writerows(asdict(record) for record in self.history)
        write_whole(path, text.getvalue().encode())
