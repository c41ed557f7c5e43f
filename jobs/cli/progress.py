"""How far runs are and how long they still take, on stderr; a subscriber to their events.

On a terminal, every run gets a bar. Elsewhere, as in a batch job's log, a plain line now and then.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
)
from rich.progress import Progress as Bar

from cluster.events import (
    EpochEnded,
    Event,
    RunEnded,
    RunFinished,
    RunStalled,
    RunStarted,
    StepStarted,
    UnitCommitted,
    WorkDisturbed,
)
from cluster.text import one_line
from cluster.unit import UnitKey

from ..run.pace import Speed

_STEP, _STEP_SECONDS = 0.1, 600
"""Share of a run, or time, after which there is a new plain line."""


class _Console(Console):
    """A console that nobody need read: the run goes on when the terminal has gone."""

    def on_broken_pipe(self) -> None:
        """Print no more; rich would end the process."""
        self.quiet = True
        # What is still buffered would be an error at the end.
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self.file.fileno())
        os.close(nowhere)


@dataclass
class _Run:
    """The run that is being worked on."""

    name: str
    things: str
    """What is counted: objects or epochs."""
    total: int
    began: float
    speed: Speed
    done: int
    quarantined: int = 0
    retries: int = 0
    lost: int = 0
    """Replicas that died."""
    shown: float = 0.0
    """The share in the last plain line."""
    shown_at: float = 0.0

    def facts(self) -> str:
        """Tell the speed, the time left and what went wrong."""
        parts = []
        if (speed := self.speed.per_second) is not None:
            left = timedelta(seconds=round((self.total - self.done) / speed))
            parts = [f"{speed:.3g}/s", f"{left} left"]
        counts = {
            "quarantined": self.quarantined,
            "retries": self.retries,
            "replicas lost": self.lost,
        }
        return ", ".join([*parts, *(f"{n:,} {name}" for name, n in counts.items() if n)])


class Progress:
    """Shows what is done and the time left, of one run after another.

    Parameters
    ----------
    console : where to; stderr by default
    clock : seconds, for the time left in plain lines
    """

    def __init__(
        self, console: Console | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        # Nothing but a terminal makes it a bar: FORCE_COLOR alone would put it into a log.
        self._console = console or _Console(stderr=True, force_terminal=sys.stderr.isatty())
        self._clock = clock
        self._run: _Run | None = None
        self._epochs_left: dict[int, int] = {}
        """By fit."""
        self._task = TaskID(0)
        self._bar = (
            Bar(
                TextColumn("{task.description}", markup=False),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[things]}"),
                TimeElapsedColumn(),
                TextColumn("{task.fields[facts]}", markup=False),
                console=self._console,
            )
            if self._console.is_interactive
            else None
        )

    def __enter__(self) -> Self:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def say(self, text: str) -> None:
        """Print a line above the bars."""
        with suppress(OSError):
            self._console.print(one_line(text), markup=False, highlight=False, soft_wrap=True)

    def __call__(self, event: Event) -> None:
        """Follow the run."""
        if isinstance(event, StepStarted):
            done = ": done before" * event.done
            self.say(f"[{event.number}/{event.steps}] {event.about}{done}")
        elif isinstance(event, RunStarted):
            self._start(event)
        elif self._run is None:
            return
        elif isinstance(event, UnitCommitted):
            self._run.quarantined += event.quarantined
            if self._run.things == "objects":
                self._move(min(self._run.done + event.objects, self._run.total))
            else:
                self._shorten(self._epochs_left.pop(UnitKey.parse(event.key).start, 0))
        elif isinstance(event, WorkDisturbed):
            self._run.retries += event.what == "retry"
            self._run.lost += event.what == "lost"
        elif isinstance(event, RunStalled):
            self.say(f"{self._run.name}: {_stall(event)}")
        elif isinstance(event, EpochEnded):
            self._epochs_left[event.fit] = event.epochs - event.epoch
            self._move(self._run.done + 1)
        elif isinstance(event, RunFinished | RunEnded):
            self._end(self._run, complete=isinstance(event, RunFinished))

    def counter(self, name: str, things: str) -> Callable[[int, int], None]:
        """Return what follows work that is no run: it is called with the number done and of all."""

        def count(done: int, total: int) -> None:
            if self._run is None:
                self._begin(name, things, total, 0)
            self._move(done)
            if done == total and self._run is not None:
                self._end(self._run, complete=True)

        return count

    def _start(self, event: RunStarted) -> None:
        name = f"{event.kind} {Path(event.run).name}"
        if event.epochs:
            self._begin(name, "epochs", event.epochs, event.epochs_done, event.refused)
        else:
            quarantined = event.refused + event.done.quarantined
            self._begin(name, "objects", event.objects, event.done.objects, quarantined)

    def _begin(self, name: str, things: str, total: int, done: int, quarantined: int = 0) -> None:
        now = self._clock()
        run = _Run(name, things, total, now, Speed(now), done, quarantined)
        self._run = run
        if self._bar is not None:
            self._task = self._bar.add_task(
                one_line(name), total=total, completed=done, things=things, facts=run.facts()
            )
        else:
            run.shown, run.shown_at = done / total, now
            self.say(f"{name}: {done:,} of {total:,} {things}")

    def _move(self, done: int) -> None:
        run, now = self._run, self._clock()
        assert run is not None
        run.speed.add(now, done - run.done)
        run.done = done
        if self._bar is not None:
            self._bar.update(self._task, completed=done, facts=run.facts())
            return
        share = done / run.total
        due = share - run.shown >= _STEP - 1e-9 or now - run.shown_at >= _STEP_SECONDS
        if due and done < run.total and run.speed.per_second is not None:
            run.shown, run.shown_at = share, now
            self.say(
                f"{run.name}: {done:,} of {run.total:,} {run.things} ({share:.0%}), {run.facts()}"
            )

    def _shorten(self, steps: int) -> None:
        """Take what will not be done out of the total: a fit stopped early."""
        assert self._run is not None
        self._run.total -= steps
        if self._bar is not None:
            self._bar.update(self._task, total=self._run.total)

    def _end(self, run: _Run, complete: bool) -> None:
        """Leave the bar as it is at the end."""
        self._run = None
        if self._bar is not None:
            if complete:
                self._bar.update(self._task, completed=run.total)
            self._bar.stop_task(self._task)
        elif complete:
            seconds = timedelta(seconds=round(self._clock() - run.began))
            self.say(f"{run.name}: complete after {seconds}")


def _stall(event: RunStalled) -> str:
    silent = timedelta(seconds=round(event.seconds))
    if event.usual is None:
        return f"warning: no unit is done after {silent}"
    usual = timedelta(seconds=max(1, round(event.usual)))
    return f"warning: no unit for {silent}, units take about {usual}; is the cluster well?"
