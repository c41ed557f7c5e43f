"""Pools: units in, receipts out as they complete, in any order."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol

from . import scheduler
from .replica import Replica
from .scheduler import Call, Event, Failed, Finished
from .unit import Receipt, WorkUnit
from .workload import Workload


class Pool(AbstractContextManager["Pool"], Protocol):
    """Some replicas of one workload."""

    replicas: int

    def run(self, units: Iterable[WorkUnit]) -> Iterator[Receipt]:
        """Compute units and yield their receipts as they complete.

        Units are drawn from the iterable only as replicas become free. A unit that fails, or
        whose replica dies, is tried again.

        Raises
        ------
        OccultaError
            That a workload raised, as it is and at once.
        RetriesExhaustedError
            If a unit fails at every attempt.
        StorageError
            If the operating system refuses to read or write.
        """
        ...


class SerialPool(AbstractContextManager["SerialPool"]):
    """One replica in this process: for debugging, for tests and as the reference."""

    def __init__(self, workload: Workload, store: Path) -> None:
        self.replicas = 1
        self._replica = Replica(workload, store)
        self._call: Call

    def run(self, units: Iterable[WorkUnit]) -> Iterator[Receipt]:
        """Compute units one after the other; errors as of `Pool.run`."""
        return scheduler.compute(units, self, replicas=1, window=1)

    def start(self, call: Call) -> None:
        """Take the next call; there is never another one yet."""
        self._call = call

    def wait(self) -> Event:
        """Compute the call."""
        call = self._call
        try:
            return Finished(call, *self._replica.compute(call.unit, call.share, call.partials))
        except Exception as error:
            return Failed(call, error)

    def __exit__(self, *_: object) -> None:
        """Leave nothing behind: there is nothing to free."""
