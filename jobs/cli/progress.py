"""A progress bar with a time estimate, on stderr; a subscriber to a run's events."""

from __future__ import annotations

from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from ..run.events import EpochEnded, Event, RunStarted, UnitCommitted


class Progress:
    """Shows the objects that are done and the time left."""

    def __init__(self) -> None:
        self._bar = Bar(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            console=Console(stderr=True),
        )
        self._task: TaskID | None = None

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._bar.stop()

    def __call__(self, event: Event) -> None:
        """Follow the run."""
        if isinstance(event, RunStarted):
            per_unit = event.objects / event.units
            self._task = self._bar.add_task(event.kind, total=event.objects)
            self._bar.advance(self._task, int(event.committed * per_unit))
        elif isinstance(event, UnitCommitted) and self._task is not None:
            self._bar.advance(self._task, event.objects)
        elif isinstance(event, EpochEnded) and self._task is not None:
            self._bar.update(self._task, completed=event.epoch)
