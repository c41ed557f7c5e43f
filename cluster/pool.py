"""Pools: units in, receipts out as they complete, in any order."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

from .replica import Replica
from .unit import Receipt, WorkUnit
from .workload import Workload


class Pool(Protocol):
    """Some replicas of one workload."""

    replicas: int

    def run(self, units: Iterable[WorkUnit]) -> Iterator[Receipt]:
        """Compute units and yield their receipts as they complete.

        Units are drawn from the iterable only as replicas become free.

        Raises
        ------
        RetriesExhaustedError
            If a unit fails at every attempt.
        """
        ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...


class SerialPool:
    """One replica in this process: for debugging, for tests and as the reference."""

    def __init__(self, workload: Workload, store: Path) -> None:
        self.replicas = 1
        self._replica = Replica(workload, store)

    def run(self, units: Iterable[WorkUnit]) -> Iterator[Receipt]:
        """Compute units one after the other; errors pass through as they are."""
        for unit in units:
            if unit.shares == 1:
                yield self._replica.run(unit)
            else:
                shares = [self._replica.partial(unit, share) for share in range(unit.shares)]
                yield self._replica.merge(unit, shares)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        return None
