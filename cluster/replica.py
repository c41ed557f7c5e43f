"""One replica: a workload opened once, computing and writing units. Plain Python, no Ray."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .store import ShardWriter
from .unit import Receipt, WorkUnit
from .workload import UnitResult, Workload


class Replica:
    """Computes units and writes their shards.

    Parameters
    ----------
    workload : what to do; opened here
    store : folder of the result store
    """

    def __init__(self, workload: Workload, store: Path) -> None:
        self._work = workload.open()
        self._writer = ShardWriter(store, workload.template)
        self._worker = f"{socket.gethostname()}:{os.getpid()}"

    def run(self, unit: WorkUnit) -> Receipt:
        """Compute a whole unit and write it."""
        began = time.perf_counter()
        return self._commit(unit, self._work.compute(unit.key), began)

    def partial(self, unit: WorkUnit, share: int) -> Any:
        """Compute one share of a unit's parts axis."""
        return self._work.partial(unit.key, share, unit.shares)

    def merge(self, unit: WorkUnit, partials: Sequence[Any]) -> Receipt:
        """Merge all shares of a unit and write it."""
        began = time.perf_counter()
        return self._commit(unit, self._work.finish(unit.key, partials), began)

    def _commit(self, unit: WorkUnit, result: UnitResult, began: float) -> Receipt:
        shards = self._writer.write(unit.key, result.arrays)
        return Receipt(
            key=str(unit.key),
            shards=shards,
            failures=result.failures,
            inputs=result.inputs,
            forward=result.forward,
            backward=result.backward,
            seconds=round(time.perf_counter() - began, 3),
            worker=self._worker,
            attempt=unit.attempt,
        )
