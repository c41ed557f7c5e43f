"""What happens in a run, told to whoever subscribes: the core prints nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Self

from .unit import Receipt, UnitKey


@dataclass(frozen=True)
class Event:
    """Something that happened in a run."""


Subscriber = Callable[[Event], None]


def announce(event: Event, subscribers: Iterable[Subscriber]) -> None:
    """Tell all subscribers."""
    for subscriber in subscribers:
        subscriber(event)


@dataclass(frozen=True)
class Totals:
    """Sums over committed units; those of a run are what its ledger says."""

    units: int = 0
    objects: int = 0
    quarantined: int = 0
    """Of the objects, those that gave no results."""
    retries: int = 0
    """Attempts that came to nothing before the one that was committed."""
    forward: int = 0
    """Rows that went forward through the network."""
    backward: int = 0
    """Rows that went backward through the network."""
    bytes: int = 0
    """Of the shards."""
    seconds: float = 0.0
    """Time of replicas."""

    def __add__(self, other: Totals) -> Totals:
        return Totals(
            self.units + other.units,
            self.objects + other.objects,
            self.quarantined + other.quarantined,
            self.retries + other.retries,
            self.forward + other.forward,
            self.backward + other.backward,
            self.bytes + other.bytes,
            self.seconds + other.seconds,
        )


@dataclass(frozen=True)
class DriverStarted(Event):
    """A driver took over a run; its replicas are not there yet."""

    driver: str
    """Host and process."""


@dataclass(frozen=True)
class StepStarted(Event):
    """A step of a pipeline is next."""

    step: str
    number: int
    """From 1."""
    steps: int
    about: str
    done: bool
    """Whether its results are there already."""


@dataclass(frozen=True)
class RunStarted(Event):
    """A driver began, or resumed, work on a run: its replicas are there."""

    run: str
    kind: str
    units: int
    objects: int
    replicas: int
    done: Totals
    """What earlier drivers committed."""
    refused: int = 0
    """Objects that the plan has quarantined."""
    epochs: int = 0
    """The most that all fits of a training run may make."""
    epochs_done: int = 0
    """By earlier drivers."""


@dataclass(frozen=True)
class UnitCommitted(Event):
    """A unit is done: its shards and its ledger entry are durable."""

    key: str
    objects: int
    quarantined: int
    forward: int
    backward: int
    bytes: int
    seconds: float
    worker: str
    attempt: int

    @classmethod
    def of(cls, receipt: Receipt) -> Self:
        """Make the event of a receipt that was committed."""
        key = UnitKey.parse(receipt.key)
        return cls(
            receipt.key,
            key.stop - key.start,
            len(receipt.failures),
            receipt.forward,
            receipt.backward,
            sum(shard.bytes for shard in receipt.shards),
            receipt.seconds,
            receipt.worker,
            receipt.attempt,
        )

    @property
    def totals(self) -> Totals:
        """What the unit adds to its run."""
        return Totals(
            1,
            self.objects,
            self.quarantined,
            self.attempt - 1,
            self.forward,
            self.backward,
            self.bytes,
            self.seconds,
        )


@dataclass(frozen=True)
class WorkDisturbed(Event):
    """Something went wrong and was dealt with, or a replica came; the work goes on."""

    what: str
    """``retry``: a unit failed and is tried again; ``halved``: so is its micro-batch, for want of
    memory; ``search``: its objects are probed; ``left out``: an object that makes it fail;
    ``lost`` and ``joined``: a replica."""
    unit: str = ""
    """Key of the unit; empty where it is about a replica."""
    replica: int | None = None
    reason: str = ""


@dataclass(frozen=True)
class EpochEnded(Event):
    """A training epoch is done and its checkpoint durable."""

    epoch: int
    train_loss: float
    validation_loss: float
    train_accuracy: float
    validation_accuracy: float
    fit: int = 0
    """Which of the run's fits."""
    epochs: int = 0
    """The most that the fit may make."""


@dataclass(frozen=True)
class RunStalled(Event):
    """No unit was committed for much longer than units take; the work goes on."""

    seconds: float
    """Since the last unit, or since the driver began."""
    usual: float | None
    """Seconds that units take; None while there is none to compare with."""


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
    traceback: str = ""
