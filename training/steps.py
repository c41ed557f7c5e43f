"""The steps of an epoch: what each sees is a function of (seed, epoch, step) alone."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from .augmentation import augment
from .evaluation import device_of
from .examples import Rows, Source, read_ahead
from .fit_settings import FitSettings, learning_rate_at
from .fit_state import FitState
from .losses import Objective
from .optimizers import Freedom, set_rate
from .processes import Processes

_ORDER, _VIEWS, _DROPOUT, _STILL = range(4)
"""What a seed is for."""

_PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True)
class Steps:
    """What moves a network's weights, in one of the processes of a fit."""

    state: FitState
    """Is moved."""
    wrapped: nn.Module
    """The state's network, whose gradients are means over the processes."""
    train: Source
    """The training set."""
    settings: FitSettings
    """How."""
    objective: Objective
    """The loss."""
    freedom: Freedom
    """What may move."""
    processes: Processes
    """Who takes part."""

    @property
    def epoch(self) -> int:
        """The epoch that is to be made or finished, counted from 1."""
        return len(self.state.history) + 1

    def run(self, checkpoint: Callable[[], None]) -> float:
        """Take the steps of the epoch that are left, and return the last learning rate.

        ``checkpoint`` is called every ``checkpoint_steps``, but not after the last one.

        Raises
        ------
        FloatingPointError
            If the loss or its gradient is not finite.
        """
        settings, done = self.settings, self.state.progress
        device = device_of(self.state.network)
        batches = self._batches()
        mine = [rows[self.processes.share(len(rows))] for rows in batches[done.step :]]
        accelerators = [device] if device.type != "cpu" else []
        rate = 0.0
        self._train_mode()
        with (
            torch.random.fork_rng(devices=accelerators, device_type=_forked_type(device)),
            closing(read_ahead(self.train, mine)) as ahead,
        ):
            for images, targets in ahead:
                whole, before = len(batches[done.step]), (self.epoch - 1) * len(batches)
                rate = learning_rate_at(
                    settings, before + done.step, settings.epochs * len(batches)
                )
                views = self._views(images.to(device), whole)
                self._step(views, targets.to(device), whole, rate)
                done.step += 1
                every = settings.checkpoint_steps
                if every and done.step % every == 0 and done.step < len(batches):
                    checkpoint()
        return rate

    def still_rows(self) -> Rows:
        """Return the training objects that are evaluated without augmentation, in growing order."""
        order = _numbers(self.settings.seed, 0, 0, _STILL).permutation(len(self.train))
        return np.sort(order[: self.settings.gap_objects])

    def _batches(self) -> list[Rows]:
        """Shuffle rows and cut them into nearly equal batches.

        Equal ones, because batch norm can't train on the single object that may be left over.
        """
        count, size = len(self.train), self.settings.batch_size
        order = _numbers(self.settings.seed, self.epoch, 0, _ORDER).permutation(count)
        batches = np.array_split(order, -(-count // size))
        if len(batches[-1]) < self.processes.count:
            raise ValueError(
                f"batches of {len(batches[-1])} images have none for some of "
                f"{self.processes.count} processes; raise batch_size (now {size})"
            )
        return batches

    def _train_mode(self) -> None:
        self.wrapped.train()
        self.freedom.train(self.state.network)

    def _views(self, images: Tensor, whole: int) -> Tensor:
        """Return views of this process's share of a batch, as one process would see them."""
        seed = _seed(self.settings.seed, self.epoch, self.state.progress.step, _VIEWS)
        generator = torch.Generator().manual_seed(seed)
        first = self.processes.share(whole).start
        return augment(images, self.settings.augmentation, generator, whole, first)

    def _step(self, images: Tensor, targets: Tensor, whole: int, rate: float) -> None:
        """Move the weights once, unless the loss is not finite."""
        state, done = self.state, self.state.progress
        set_rate(state.optimizer, rate)
        # Objects of different processes drop different features.
        own = (self.processes.rank,) if self.processes.rank else ()
        torch.manual_seed(_seed(self.settings.seed, self.epoch, done.step, _DROPOUT, *own))
        precision = _PRECISIONS[self.settings.precision]
        mixed = precision != torch.float32
        with torch.autocast(images.device.type, precision, enabled=mixed):
            raw = self.wrapped(images)
        outputs = raw.float()
        total = self.objective.losses(outputs, targets, training=True).sum()
        score = self.objective.score(outputs.detach(), targets)
        loss, hits, tries = self.processes.sum([float(total.detach()), *score], images.device)
        self._check_finite("loss", loss / whole)
        state.optimizer.zero_grad(set_to_none=True)
        # The processes' gradients are averaged, so each one's share counts that much more.
        state.scaler.scale(total / whole * self.processes.count).backward()  # type: ignore[no-untyped-call]
        norm = self._cut_gradient()
        state.scaler.step(state.optimizer)
        state.scaler.update()
        done.loss, done.hits, done.tries = done.loss + loss, done.hits + hits, done.tries + tries
        done.gradient_norm += norm

    def _cut_gradient(self) -> float:
        """Shorten the gradient if it is too long, and return the norm that it had."""
        state, most = self.state, self.settings.max_gradient_norm
        state.scaler.unscale_(state.optimizer)
        parameters = list(state.network.parameters())
        norm = torch.nn.utils.get_total_norm(
            [part.grad for part in parameters if part.grad is not None]
        )
        value = float(norm)
        if state.scaler.is_enabled() and not np.isfinite(value) and state.scaler.get_scale() > 1.0:
            # float16 overflowed: the scaler leaves this step out and takes a smaller scale.
            return 0.0
        self._check_finite("gradient's norm", value)
        if most is not None:
            torch.nn.utils.clip_grads_with_norm_(parameters, most, norm)
        return value

    def _check_finite(self, what: str, value: float) -> None:
        if not np.isfinite(value):
            raise FloatingPointError(
                f"training: the {what} is {value} at epoch {self.epoch}, "
                f"step {self.state.progress.step + 1}; lower learning_rate (now "
                f"{self.settings.learning_rate:g}) or look for non-finite images"
            )


def _seed(*entropy: int) -> int:
    """Return the seed of one purpose in one step: of (seed, epoch, step, purpose)."""
    words = np.random.SeedSequence(entropy).generate_state(2, np.uint32)
    return int(words[0]) << 31 | int(words[1]) >> 1


def _numbers(*entropy: int) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(key=_seed(*entropy)))


def _forked_type(device: torch.device) -> str:
    """Return the device type that fork_rng saves beside the CPU; without devices any will do."""
    return "cuda" if device.type == "cpu" else device.type
