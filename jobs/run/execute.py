"""Work on a run until it is complete: create or recognise it, do what is pending, finalise."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from cluster.ledger import Ledger
from cluster.pool import Pool
from cluster.unit import UnitKey, WorkUnit
from cluster.workload import Workload

from ..plan import Plan
from .driver import driving
from .events import Event, RunFinished, RunStarted, Subscriber, UnitCommitted, announce
from .folder import check_same, create_run, finalise
from .status import MANIFEST, STORE, read_status
from .verify import finish_repair

OpenPool = Callable[[Workload, Path], AbstractContextManager[Pool]]
"""Opens a pool of replicas for a workload and a result store."""


@dataclass
class _Driver:
    """One driver's time with a run that it holds the lease of."""

    run: Path
    plan: Plan
    subscribers: Sequence[Subscriber]

    def work(self, open_pool: OpenPool) -> None:
        began = time.monotonic()
        ledger = Ledger(self.run / "ledger")
        committed = bytearray(len(self.plan.units))
        for receipt in ledger.receipts():
            committed[self.plan.units.number(UnitKey.parse(receipt.key))] = 1
        pending = committed.count(0)
        if pending:
            with open_pool(self.plan.workload, self.run / STORE) as pool, ledger.append() as log:
                self._tell_start(len(committed) - pending, pool.replicas)
                # Fewer units than replicas: cut the parts axis, so that all have work.
                shares = -(-pool.replicas // pending) if pending < pool.replicas else 1
                for receipt in pool.run(self._units(committed, shares)):
                    log.commit(receipt)
                    key = UnitKey.parse(receipt.key)
                    self._tell(
                        UnitCommitted(
                            receipt.key,
                            key.stop - key.start,
                            len(receipt.failures),
                            receipt.seconds,
                            receipt.worker,
                            receipt.attempt,
                        )
                    )
        finalise(self.run, self.plan)
        objects = read_status(self.run).objects
        seconds = round(time.monotonic() - began, 3)
        self._tell(RunFinished(objects["total"], objects["quarantined"], seconds))

    def _units(self, committed: bytearray, shares: int) -> Iterator[WorkUnit]:
        # Read lazily, so `committed` is what it was at the start: a unit is handed out once.
        for number, done in enumerate(bytes(committed)):
            if not done:
                yield WorkUnit(self.plan.units[number], shares)

    def _tell_start(self, committed: int, replicas: int) -> None:
        units = self.plan.units
        kind = self.plan.job.kind
        self._tell(RunStarted(str(self.run), kind, len(units), committed, units.objects, replicas))

    def _tell(self, event: Event) -> None:
        announce(event, self.subscribers)


def execute(plan: Plan, open_pool: OpenPool, subscribers: Sequence[Subscriber] = ()) -> Path:
    """Run a plan to the end, or the rest of it if its folder holds part of it already.

    A complete run is left exactly as it is.

    Returns
    -------
    The run folder.

    Raises
    ------
    RefusedError
        If the folder holds another run, or this run with something changed.
    RunBusyError
        If another driver works on it.
    """
    run = Path(plan.job.output)
    if (run / MANIFEST).exists():
        manifest = check_same(run, plan.job, plan.digests, plan.device)
        if manifest.get("results_digest"):
            return run
    with driving(run, subscribers) as everyone:
        if (run / MANIFEST).exists():
            finish_repair(run)
        else:
            create_run(run, plan)
        _Driver(run, plan, everyone).work(open_pool)
    return run
