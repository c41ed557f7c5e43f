"""What happens in a run, told to whoever subscribes: the core prints nothing."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path


@dataclass(frozen=True)
class Event:
    """Something that happened in a run."""


@dataclass(frozen=True)
class RunStarted(Event):
    """A driver began, or resumed, work on a run."""

    run: str
    kind: str
    units: int
    committed: int
    """Units that earlier drivers committed."""
    objects: int
    replicas: int


@dataclass(frozen=True)
class UnitCommitted(Event):
    """A unit is done: its shards and its ledger entry are durable."""

    key: str
    objects: int
    quarantined: int
    seconds: float
    worker: str
    attempt: int


@dataclass(frozen=True)
class EpochEnded(Event):
    """A training epoch is done and its checkpoint durable."""

    epoch: int
    train_loss: float
    validation_loss: float
    train_accuracy: float
    validation_accuracy: float


@dataclass(frozen=True)
class RunFinished(Event):
    """The run is complete."""

    objects: int
    quarantined: int
    seconds: float


@dataclass(frozen=True)
class RunEnded(Event):
    """The driver ended before the run was complete."""

    state: str
    """``stopped`` or ``failed``."""
    reason: str


Subscriber = Callable[[Event], None]


class EventLog:
    """Appends events as JSON lines; a subscriber."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __call__(self, event: Event) -> None:
        """Append one line."""
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        line = {"time": now, "event": type(event).__name__, **asdict(event)}
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")


def announce(event: Event, subscribers: Iterable[Subscriber]) -> None:
    """Tell all subscribers."""
    for subscriber in subscribers:
        subscriber(event)
