"""One training run in one process, which can be killed at any moment and called again.

All that is random in an epoch follows from (seed, epoch), and the state after each epoch is one
file, written whole. So an interrupted run ends with the same weights as an undisturbed one, bit
for bit on one kind of CPU with the same number of threads.

Shapes: N images, C bands, H rows, W columns, K classes.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional

from .augmentation import augment
from .fit_state import EpochRecord, Examples, FitSettings, FitState, learning_rate_at, rows_of
from .metrics import accuracy

__all__ = [
    "EpochRecord",
    "Examples",
    "FitResult",
    "FitSettings",
    "fit",
    "predict_logits",
]

CHECKPOINT = "checkpoint.pt"
HISTORY = "history.csv"


@dataclass(frozen=True)
class FitResult:
    """What a fit came to; the network holds the best weights."""

    history: tuple[EpochRecord, ...]
    """One record per epoch, in order."""
    best_epoch: int
    """The epoch of the lowest validation loss, counted from 1."""
    stopped_early: bool
    """Whether the validation loss had not fallen for as long as the settings' patience."""


def fit(
    network: nn.Module,
    train: Examples,
    validation: Examples,
    settings: FitSettings,
    folder: Path,
    on_epoch: Callable[[EpochRecord], None] | None = None,
) -> FitResult:
    """Train a network, or continue where an earlier call in the same folder stopped.

    Parameters
    ----------
    network
        On the device that shall train it. A folder with a checkpoint replaces its weights; at the
        end it holds those of the best epoch and is in evaluation mode.
    train, validation
        Images as the network shall see them, before augmentation.
    settings
        Everything else that decides the result.
    folder
        Receives ``checkpoint.pt`` and ``history.csv``, and belongs to this fit alone.
    on_epoch
        Called after each epoch, once its checkpoint is on disk; an exception ends the fit there.

    Raises
    ------
    ValueError
        If the folder holds a fit of other data, settings or another network, or the data is no
        training data.
    FloatingPointError
        If the loss is not finite; the last good epoch is on disk.
    """
    train.check("training", settings.batch_size)
    validation.check("validation", 1)
    optimizer = torch.optim.AdamW(
        network.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay
    )
    state = FitState.start(network, optimizer, settings.identity(train, validation))
    path = folder / CHECKPOINT
    if path.exists():
        state.restore(path)
    else:
        # Also the untrained weights: a fit killed in its first epoch starts from the same ones.
        state.save(path)
    while not state.finished(settings):
        record = _run_epoch(state, train, validation, settings)
        state.add(record)
        state.save(path)
        state.write_history(folder / HISTORY)
        if on_epoch is not None:
            on_epoch(record)
    state.write_history(folder / HISTORY)
    state.use_best_weights()
    network.eval()
    return FitResult(tuple(state.history), state.best_epoch, len(state.history) < settings.epochs)


def predict_logits(
    network: nn.Module, images: npt.NDArray[np.float32] | Tensor, batch_size: int = 128
) -> npt.NDArray[np.float32]:
    """Return the logits (N, K), float32, of images (N, C, H, W), in evaluation mode.

    The network's mode is put back afterwards.
    """
    device = _device_of(network)
    was_training = network.training
    network.eval()
    try:
        with torch.inference_mode():
            parts = [
                network(rows_of(images, np.arange(first, last)).to(device)).float().cpu()
                for first, last in _spans(len(images), batch_size)
            ]
    finally:
        network.train(was_training)
    logits: npt.NDArray[np.float32] = torch.cat(parts).numpy()
    return logits


def _run_epoch(
    state: FitState, train: Examples, validation: Examples, settings: FitSettings
) -> EpochRecord:
    began = time.perf_counter()
    epoch = len(state.history) + 1
    loss, share, rate = _train_epoch(state, train, settings, epoch)
    validation_loss, validation_share = _evaluate(state.network, validation)
    return EpochRecord(
        epoch=epoch,
        train_loss=loss,
        validation_loss=validation_loss,
        train_accuracy=share,
        validation_accuracy=validation_share,
        learning_rate=rate,
        seconds=time.perf_counter() - began,
    )


def _train_epoch(
    state: FitState, train: Examples, settings: FitSettings, epoch: int
) -> tuple[float, float, float]:
    """Take one epoch's steps; return mean loss, accuracy on the views seen, last learning rate."""
    device = _device_of(state.network)
    batches = _batches(len(train), settings, epoch)
    views = torch.Generator().manual_seed(_epoch_seed(settings.seed, epoch, purpose=1))
    loss_sum, hits, rate = 0.0, 0, 0.0
    state.network.train()
    accelerators = [device] if device.type != "cpu" else []
    with torch.random.fork_rng(devices=accelerators, device_type=_forked_type(device)):
        torch.manual_seed(_epoch_seed(settings.seed, epoch, purpose=2))  # dropout draws from here
        for step, rows in enumerate(batches):
            done = (epoch - 1) * len(batches) + step
            rate = learning_rate_at(settings, done, settings.epochs * len(batches))
            images, labels = train.take(rows, device)
            images = augment(images, settings.augmentation, views)
            loss, logits = _step(state, images, labels, settings, rate)
            _check_finite(loss, epoch, step, settings)
            loss_sum += loss * len(rows)
            hits += int((logits.argmax(1) == labels).sum())
    return loss_sum / len(train), hits / len(train), rate


def _step(
    state: FitState, images: Tensor, labels: Tensor, settings: FitSettings, rate: float
) -> tuple[float, Tensor]:
    """Move the weights once, unless the loss is not finite; return the loss and the logits."""
    for group in state.optimizer.param_groups:
        group["lr"] = rate
    logits = state.network(images)
    loss = functional.cross_entropy(logits, labels, label_smoothing=settings.label_smoothing)
    value = float(loss.detach())
    if np.isfinite(value):
        state.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        state.optimizer.step()
    return value, logits.detach()


def _check_finite(loss: float, epoch: int, step: int, settings: FitSettings) -> None:
    if not np.isfinite(loss):
        raise FloatingPointError(
            f"training: the loss is {loss} at epoch {epoch}, step {step + 1}; lower "
            f"learning_rate (now {settings.learning_rate:g}) or look for non-finite images"
        )


def _evaluate(network: nn.Module, examples: Examples) -> tuple[float, float]:
    """Return mean cross entropy and accuracy, without augmentation or dropout."""
    logits = torch.from_numpy(predict_logits(network, examples.images))
    labels = rows_of(examples.labels, np.arange(len(examples))).long().cpu()
    loss = float(functional.cross_entropy(logits, labels))
    return loss, accuracy(labels.numpy(), logits.argmax(1).numpy())


def _batches(count: int, settings: FitSettings, epoch: int) -> list[npt.NDArray[np.int64]]:
    """Shuffle rows and cut them into nearly equal batches.

    Equal ones, because batch norm can't train on the single object that may be left over.
    """
    seed = _epoch_seed(settings.seed, epoch, purpose=0)
    order = np.random.Generator(np.random.Philox(key=seed)).permutation(count)
    return np.array_split(order, -(-count // settings.batch_size))


def _epoch_seed(seed: int, epoch: int, purpose: int) -> int:
    """Return a seed for one purpose (0 order, 1 views, 2 dropout) in one epoch."""
    words = np.random.SeedSequence([seed, epoch, purpose]).generate_state(2, np.uint32)
    return int(words[0]) << 31 | int(words[1]) >> 1


def _spans(count: int, length: int) -> list[tuple[int, int]]:
    return [(first, min(first + length, count)) for first in range(0, count, length)]


def _device_of(network: nn.Module) -> torch.device:
    return next(network.parameters()).device


def _forked_type(device: torch.device) -> str:
    """Return the device type that fork_rng saves beside the CPU; without devices any will do."""
    return "cuda" if device.type == "cpu" else device.type
