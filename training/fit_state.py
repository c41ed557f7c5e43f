"""The state of a fit: one file from which it goes on, and the history of its epochs."""

from __future__ import annotations

import csv
import io
import json
import math
import pickle
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any

import torch
from torch import Tensor, nn

from .files import Store
from .fit_settings import FitSettings

CHECKPOINT = "checkpoint.pt"
HISTORY = "history.csv"
HISTORY_LINES = "history.jsonl"


@dataclass(frozen=True)
class EpochRecord:
    """A row of the history."""

    epoch: int
    """Counted from 1."""
    train_loss: float
    """Mean loss over the epoch's steps, with augmentation, dropout and label smoothing."""
    validation_loss: float
    """Mean loss of the validation set, without them."""
    train_accuracy: float
    """On the views seen in the epoch: the score of the loss, for classes the accuracy."""
    validation_accuracy: float
    """On the validation images themselves."""
    still_train_loss: float
    """Mean loss of up to ``gap_objects`` training objects, evaluated like the validation set."""
    gap: float
    """validation_loss less still_train_loss: grows when the network overfits."""
    gradient_norm: float
    """Mean over the steps of the gradient's Euclidean norm, before it is cut."""
    learning_rate: float
    """At the last step."""
    seconds: float
    """Wall time of the epoch, less what was lost when it was interrupted."""


@dataclass
class Progress:
    """How far an epoch is: what its steps so far add up to."""

    step: int = 0
    """Steps that are done."""
    loss: float = 0.0
    """Sum of the objects' losses."""
    hits: float = 0.0
    """Numerator of the score."""
    tries: float = 0.0
    """Its denominator."""
    gradient_norm: float = 0.0
    """Sum over the steps."""
    seconds: float = 0.0
    """Wall time."""


@dataclass
class FitState:
    """Everything that an interrupted fit needs to go on."""

    network: nn.Module
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    identity: dict[str, str]
    progress: Progress = field(default_factory=Progress)
    history: list[EpochRecord] = field(default_factory=list)
    best_epoch: int = 0
    best_weights: dict[str, Tensor] = field(default_factory=dict)

    @classmethod
    def start(
        cls,
        network: nn.Module,
        optimizer: torch.optim.Optimizer,
        scaler: torch.amp.GradScaler,
        identity: dict[str, str],
    ) -> FitState:
        """Return the state before the first epoch."""
        shapes = {name: tuple(part.shape) for name, part in network.state_dict().items()}
        return cls(network, optimizer, scaler, {**identity, "network": repr(shapes)})

    def finished(self, settings: FitSettings) -> bool:
        """Whether the epochs are used up, or the monitored value has stopped getting better."""
        done = len(self.history)
        return done >= settings.epochs or done - self.best_epoch >= settings.patience

    def add(self, record: EpochRecord, settings: FitSettings) -> None:
        """Take an epoch into the history; keep its weights if they are the best so far."""
        best = math.inf
        if self.best_epoch:
            best = _badness(self.history[self.best_epoch - 1], settings)
        self.history.append(record)
        self.progress = Progress()
        if _badness(record, settings) < best or self.best_epoch == 0:
            self.best_epoch = record.epoch
            state = self.network.state_dict()
            self.best_weights = {name: part.detach().cpu().clone() for name, part in state.items()}

    def use_best_weights(self) -> None:
        """Put the weights of the best epoch into the network."""
        self.network.load_state_dict(self.best_weights)

    def save(self, store: Store) -> None:
        """Write the state as one file, whole or not at all."""
        buffer = io.BytesIO()
        content = {
            "identity": self.identity,
            "network": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "progress": asdict(self.progress),
            "history": [asdict(record) for record in self.history],
            "best_epoch": self.best_epoch,
            "best_weights": self.best_weights,
        }
        torch.save(content, buffer)
        store.write(CHECKPOINT, buffer.getvalue())

    def restore(self, content: bytes, store: Store) -> None:
        """Continue from the content of a checkpoint.

        Raises
        ------
        ValueError
            If it is damaged or belongs to another fit.
        """
        try:
            state: dict[str, Any] = torch.load(
                io.BytesIO(content), map_location="cpu", weights_only=True
            )
        except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError) as error:
            raise ValueError(
                f"{store}: {CHECKPOINT} is damaged; remove it to train from the start"
            ) from error
        changed = [n for n, value in self.identity.items() if state["identity"].get(n) != value]
        if changed:
            raise ValueError(
                f"{store}: {CHECKPOINT} belongs to another fit: {', '.join(changed)} changed; "
                "put them back, or train in an empty folder"
            )
        self.network.load_state_dict(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])
        self.progress = Progress(**state["progress"])
        self.history = [EpochRecord(**row) for row in state["history"]]
        self.best_epoch = state["best_epoch"]
        self.best_weights = state["best_weights"]


def write_history(history: Sequence[EpochRecord], store: Store) -> None:
    """Write a history as CSV and as JSON lines, each whole or not at all."""
    rows = [asdict(record) for record in history]
    text = io.StringIO()
    writer = csv.DictWriter(text, [part.name for part in fields(EpochRecord)])
    writer.writeheader()
    writer.writerows(rows)
    store.write(HISTORY_LINES, "".join(f"{json.dumps(row)}\n" for row in rows).encode())
    store.write(HISTORY, text.getvalue().encode())


def _badness(record: EpochRecord, settings: FitSettings) -> float:
    if settings.monitor == "validation_accuracy":
        return -record.validation_accuracy
    return record.validation_loss
