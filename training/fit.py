"""One training run, in one process or a group, which can be killed at any moment and called again.

All that is random in a step follows from (seed, epoch, step), and the state after each epoch, and
within it if asked, is one file, written whole. So an interrupted run ends with the same weights as
an undisturbed one, bit for bit on one kind of CPU with the same number of threads and processes.

Shapes: N images, C bands, H rows, W columns, K outputs.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from .evaluation import device_of, evaluate, predict_logits, ratio
from .examples import Examples, Rows, Source
from .files import Folder, Store
from .fit_settings import FitSettings
from .fit_state import CHECKPOINT, EpochRecord, FitState, write_history
from .losses import objective_of
from .optimizers import ALL_FREE, Freedom, make_optimizer
from .processes import Processes
from .steps import Steps
from .tensorboard import EVENTS, check_installed, events_of

__all__ = [
    "EpochRecord",
    "Examples",
    "FitResult",
    "FitSettings",
    "fit",
    "predict_logits",
]


@dataclass(frozen=True)
class FitResult:
    """What a fit came to; the network holds the best weights."""

    history: tuple[EpochRecord, ...]
    """One record per epoch, in order."""
    best_epoch: int
    """The epoch of the best monitored value, counted from 1."""
    stopped_early: bool
    """Whether the monitored value had not got better for as long as the settings' patience."""
    loss: Mapping[str, Any]
    """The loss, and what one must know of it to use the outputs, for the network's card."""


def fit(
    network: nn.Module,
    train: Source,
    validation: Source,
    settings: FitSettings,
    store: Store | Path,
    on_epoch: Callable[[EpochRecord], None] | None = None,
    freedom: Freedom = ALL_FREE,
) -> FitResult:
    """Train a network, or continue where an earlier call with the same store stopped.

    Where torch.distributed has a group, every process of it calls this with the same arguments and
    takes its share of each batch; all end with the same weights, and the first one writes.

    Parameters
    ----------
    network
        On the device that shall train it. A checkpoint replaces its weights; at the end it holds
        those of the best epoch and is in evaluation mode.
    train, validation
        Images as the network shall see them, before augmentation.
    settings
        Everything else that decides the result.
    store
        Receives ``checkpoint.pt``, ``history.csv``, ``history.jsonl`` and TensorBoard's events if
        asked, and belongs to this fit alone; a path is a folder.
    on_epoch
        Called after each epoch, once its checkpoint is written; an exception ends the fit there.
    freedom
        Which parts of the network may change; by default all.

    Raises
    ------
    ValueError
        If the store holds a fit of other data, settings or another network, the data is no
        training data, or the device doesn't know the precision.
    FloatingPointError
        If the loss or its gradient is not finite; the last good checkpoint is written.
    """
    store = Folder(store) if isinstance(store, Path) else store
    processes = Processes.of_group()
    train.check("training", settings.batch_size)
    validation.check("validation", 1)
    objective = objective_of(settings, train.targets(), validation.targets())
    device = device_of(network)
    _check_precision(settings, device)
    if settings.tensorboard:
        check_installed()
    freedom.freeze(network)
    state = FitState.start(
        network,
        make_optimizer(network, settings, freedom),
        torch.amp.GradScaler(device.type, enabled=settings.precision == "float16"),
        _identity(train, validation, settings, freedom, processes),
    )
    content = processes.from_first(store.read(CHECKPOINT) if processes.rank == 0 else None)
    if content is not None:
        state.restore(content, store)
    wrapped = processes.wrap(network, device)
    steps = Steps(state, wrapped, train, settings, objective, freedom, processes)
    run = _Run(steps, validation, store)
    if content is None:
        # Also the untrained weights: a fit killed in its first epoch starts from the same ones.
        run.save()
    while not state.finished(settings):
        record = run.epoch()
        state.add(record, settings)
        run.save()
        run.write_history()
        if on_epoch is not None:
            on_epoch(record)
    run.write_history()
    state.use_best_weights()
    network.eval()
    early = len(state.history) < settings.epochs
    return FitResult(tuple(state.history), state.best_epoch, early, objective.card())


@dataclass
class _Run:
    """A fit in one of its processes."""

    steps: Steps
    validation: Source
    store: Store

    def save(self) -> None:
        if self.steps.processes.rank == 0:
            self.steps.state.save(self.store)

    def write_history(self) -> None:
        if self.steps.processes.rank == 0:
            write_history(self.steps.state.history, self.store)
            if self.steps.settings.tensorboard:
                self.store.write(EVENTS, events_of(self.steps.state.history))

    def epoch(self) -> EpochRecord:
        """Make an epoch, or the rest of it."""
        steps, done = self.steps, self.steps.state.progress
        began = time.perf_counter() - done.seconds

        def checkpoint() -> None:
            done.seconds = time.perf_counter() - began
            self.save()

        rate = steps.run(checkpoint)
        steps.processes.align_buffers(steps.state.network)
        loss, score = self._evaluate(self.validation, np.arange(len(self.validation)))
        still, _ = self._evaluate(steps.train, steps.still_rows())
        return EpochRecord(
            epoch=steps.epoch,
            train_loss=done.loss / len(steps.train),
            validation_loss=loss,
            train_accuracy=ratio(done.hits, done.tries),
            validation_accuracy=score,
            still_train_loss=still,
            gap=loss - still,
            gradient_norm=done.gradient_norm / done.step,
            learning_rate=rate,
            seconds=time.perf_counter() - began,
        )

    def _evaluate(self, source: Source, rows: Rows) -> tuple[float, float]:
        steps = self.steps
        return evaluate(steps.state.network, source, rows, steps.objective, steps.processes)


def _identity(
    train: Source,
    validation: Source,
    settings: FitSettings,
    freedom: Freedom,
    processes: Processes,
) -> dict[str, str]:
    """Return what a continued fit must agree on, by name."""
    named = {name: repr(value) for name, value in asdict(settings).items()}
    # How often a fit saves its state, and what it tells, changes nothing of it.
    del named["checkpoint_steps"], named["tensorboard"]
    return {
        **named,
        "training set": train.digest(),
        "validation set": validation.digest(),
        "freedom": repr((sorted(freedom.rates.items()), sorted(freedom.resting))),
        "number of processes": str(processes.count),
    }


def _check_precision(settings: FitSettings, device: torch.device) -> None:
    if settings.precision == "float16" and device.type == "cpu":
        raise ValueError(
            "fit settings: precision = 'float16' needs a GPU; use bfloat16 or float32 on the CPU"
        )
