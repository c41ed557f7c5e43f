"""Pools: units in, receipts out as they complete, in any order."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from typing import Protocol

from . import scheduler
from .calls import Call, Event, Failed, Finished
from .events import Event as Happening
from .events import Subscriber
from .place import Place
from .replica import Replica
from .state import Rules
from .unit import Receipt, WorkUnit
from .workload import Workload


def ignore(_: Happening) -> None:
    """Tell nobody."""


class Pool(AbstractContextManager["Pool"], Protocol):
    """Some replicas of one workload."""

    replicas: int
    """How many may work at the same time."""

    def run(self, units: Iterable[WorkUnit], tell: Subscriber = ignore) -> Iterator[Receipt]:
        """Compute units and yield their receipts as they complete.

        Units are drawn from the iterable only as replicas become free. A unit that fails, or
        whose replica dies, is tried again; then its objects are searched for those that make it
        fail, which are left out.

        Parameters
        ----------
        units : what to compute
        tell : is told what went wrong and was dealt with

        Raises
        ------
        OccultaError
            That a workload raised, as it is and at once.
        RetriesExhaustedError
            If a unit fails at every attempt, and not because of single objects.
        ClusterLostError
            If there are no replicas any more.
        StorageError
            If the operating system refuses to read or write.
        """
        ...


class SerialPool(AbstractContextManager["SerialPool"]):
    """One replica in this process: for debugging, for tests and as the reference.

    It can't survive a unit that ends the process, nor end one that never does.
    """

    ready = (0,)

    def __init__(self, workload: Workload, store: Place) -> None:
        self.replicas = 1
        self._rules = Rules(range(1, 2), window=1, separable=workload.separable)
        self._replica = Replica(workload, store)
        self._call: Call

    def run(self, units: Iterable[WorkUnit], tell: Subscriber = ignore) -> Iterator[Receipt]:
        """Compute units one after the other; parameters and errors as of `Pool.run`."""
        # Without a clock: nothing can be done about what takes long.
        return scheduler.compute(units, self, self._rules, clock=lambda: 0.0, tell=tell)

    def start(self, call: Call) -> None:
        """Take the next call; there is never another one yet."""
        self._call = call

    def open(self, replica: int) -> None:
        """Open no further replica: none is asked for."""
        raise AssertionError(replica)

    def close(self, replica: int) -> None:
        """Close no replica: none is ever lost."""
        raise AssertionError(replica)

    def wait(self, seconds: float) -> Event:
        """Compute the call."""
        call = self._call
        try:
            return Finished(call, *self._replica.answer(call, call.partials))
        except Exception as error:
            return Failed(call, error)

    def __exit__(self, *_: object) -> None:
        """Leave nothing behind: there is nothing to free."""
