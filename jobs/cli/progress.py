"""How far runs are and how long they still take, on stderr; a subscriber to their events.

On a terminal, every run gets a bar. Elsewhere, as in a batch job's log, a plain line now and then.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
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
    TimeRemainingColumn,
)
from rich.progress import Progress as Bar

from ..run.events import EpochEnded, Event, RunEnded, RunFinished, RunStarted, UnitCommitted

_STEP = 0.1
"""Share of a run after which there is a new plain line."""
_SPEED_SECONDS = 600
"""The time left follows from the speed over this time: units take up to minutes."""


@dataclass
class _Run:
    """The run that is being worked on."""

    name: str
    things: str
    """What is counted: objects or epochs."""
    total: int
    before: int
    """How many were done when the driver began."""
    began: float
    done: int = 0
    shown: float = 0.0
    """The share in the last plain line."""

    def seconds_left(self, now: float) -> float | None:
        mine = self.done - self.before
        return (now - self.began) / mine * (self.total - self.done) if mine > 0 else None


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
        self._console = console or Console(stderr=True, force_terminal=sys.stderr.isatty())
        self._clock = clock
        self._run: _Run | None = None
        self._task = TaskID(0)
        self._bar = (
            Bar(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[things]}"),
                TimeElapsedColumn(),
                TimeRemainingColumn(),
                console=self._console,
                speed_estimate_period=_SPEED_SECONDS,
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
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)

    def __call__(self, event: Event) -> None:
        """Follow the run."""
        if isinstance(event, RunStarted):
            self._start(event)
        elif self._run is None:
            return
        elif isinstance(event, UnitCommitted):
            self._move(min(self._run.done + event.objects, self._run.total))
        elif isinstance(event, EpochEnded):
            self._move(event.epoch)
        elif isinstance(event, RunFinished | RunEnded):
            self._end(self._run, complete=isinstance(event, RunFinished))

    def counter(self, name: str, things: str) -> Callable[[int, int], None]:
        """Return what follows work that is no run: it is called with the number done and of all."""

        def count(done: int, total: int) -> None:
            if self._run is None:
                self._begin(_Run(name, things, total, 0, self._clock()))
            self._move(done)
            if done == total and self._run is not None:
                self._end(self._run, complete=True)

        return count

    def _start(self, event: RunStarted) -> None:
        name = f"{event.kind} {Path(event.run).name}"
        if event.kind == "training":
            things, total, before = "epochs", event.units, event.committed
        else:
            before = round(event.committed * event.objects / event.units)
            things, total = "objects", event.objects
        self._begin(_Run(name, things, total, before, self._clock(), done=before))

    def _begin(self, run: _Run) -> None:
        self._run = run
        if self._bar is not None:
            self._task = self._bar.add_task(
                run.name, total=run.total, completed=run.before, things=run.things
            )
        else:
            run.shown = run.before / run.total
            self.say(f"{run.name}: {run.before:,} of {run.total:,} {run.things}")

    def _move(self, done: int) -> None:
        run = self._run
        assert run is not None
        run.done = done
        if self._bar is not None:
            self._bar.update(self._task, completed=done)
            return
        share = done / run.total
        left = run.seconds_left(self._clock())
        if share - run.shown >= _STEP - 1e-9 and done < run.total and left is not None:
            run.shown = share
            self.say(
                f"{run.name}: {done:,} of {run.total:,} {run.things} ({share:.0%}), "
                f"{timedelta(seconds=round(left))} left"
            )

    def _end(self, run: _Run, complete: bool) -> None:
        """Leave the bar as it is at the end: whole, also where training stopped early."""
        self._run = None
        if self._bar is not None:
            if complete:
                done = run.done if run.things == "epochs" else run.total
                self._bar.update(self._task, total=done, completed=done)
            self._bar.stop_task(self._task)
        elif complete:
            seconds = timedelta(seconds=round(self._clock() - run.began))
            self.say(f"{run.name}: complete after {seconds}")
