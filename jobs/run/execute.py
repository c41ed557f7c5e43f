"""Work on a run until it is complete: create or recognise it, do what is pending, finalise."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace

from cluster.events import (
    DriverStarted,
    Event,
    RunFinished,
    RunStarted,
    Subscriber,
    Totals,
    UnitCommitted,
    announce,
)
from cluster.ledger import Ledger, LedgerWriter
from cluster.place import Place, open_place
from cluster.pool import Pool
from cluster.unit import Receipt, UnitKey, WorkUnit
from cluster.workload import Workload

from ..plan import Plan
from .driver import driving
from .epochs import EpochWatch
from .folder import check_same, create_run, finalise
from .pace import StallAlarm
from .status import MANIFEST, STORE, read_status
from .verify import check_shards, finish_repair

OpenPool = Callable[[Workload, Place], AbstractContextManager[Pool]]
"""Opens a pool of replicas for a workload and a result store."""


class _Driver:
    """One driver's time with a run that it holds the lease of."""

    def __init__(self, run: Place, plan: Plan, subscribers: Sequence[Subscriber]) -> None:
        self.run = run
        self.plan = plan
        self._subscribers = subscribers
        self._alarm = StallAlarm(self._tell)
        self._one_at_a_time = threading.Lock()
        self._epochs = EpochWatch(run, plan.facts.get("epochs", ()), self._tell)
        self._disturbed = False
        """Whether somebody that this driver does not hear may still have written to the store."""

    def work(self, open_pool: OpenPool) -> None:
        began = time.monotonic()
        self._tell(DriverStarted(f"{socket.gethostname()}:{os.getpid()}"))
        ledger = Ledger(self.run / "ledger")
        # First of all: from here on, no earlier driver can commit anything.
        with ledger.append(self._tell_committed) as log:
            committed, done = bytearray(len(self.plan.units)), Totals()
            for receipt in ledger.receipts():
                committed[self.plan.units.number(UnitKey.parse(receipt.key))] = 1
                done += UnitCommitted.of(receipt).totals
            self._disturbed = done.units > 0
            if 0 in committed:
                self._compute(open_pool, committed, done, log)
            if self._disturbed:
                check_shards(self.run)
            finalise(self.run, self.plan, log.check)
        objects = read_status(self.run).objects
        seconds = round(time.monotonic() - began, 3)
        self._tell(RunFinished(objects["total"], objects["quarantined"], seconds))

    def _compute(
        self, open_pool: OpenPool, committed: bytearray, done: Totals, log: LedgerWriter
    ) -> None:
        pending = committed.count(0)
        with open_pool(self.plan.workload, self.run / STORE) as pool:
            self._tell_start(done, pool.replicas)
            # Fewer units than replicas: cut the parts axis, so that all have work.
            shares = -(-pool.replicas // pending) if pending < pool.replicas else 1
            with self._alarm.watching(), self._epochs.watching():
                for receipt in pool.run(self._units(committed, shares), self._tell_disturbed):
                    log.commit(receipt)
            # Until all is durable: whoever listens may need the pool.
            log.check()

    def _tell_committed(self, receipt: Receipt) -> None:
        self._epochs.close(UnitKey.parse(receipt.key).start)
        self._tell(UnitCommitted.of(receipt))

    def _units(self, committed: bytearray, shares: int) -> Iterator[WorkUnit]:
        # Read lazily, so `committed` is what it was at the start: a unit is handed out once.
        for number, done in enumerate(bytes(committed)):
            if not done:
                yield WorkUnit(self.plan.units[number], shares)

    def _tell_start(self, done: Totals, replicas: int) -> None:
        units, kind = self.plan.units, self.plan.job.kind
        refused = len(self.plan.failures)
        start = RunStarted(str(self.run), kind, len(units), units.objects, replicas, done, refused)
        epochs, epochs_done = sum(self.plan.facts.get("epochs", ())), self._epochs.done
        self._tell(replace(start, epochs=epochs, epochs_done=epochs_done))

    def _tell_disturbed(self, event: Event) -> None:
        self._disturbed = True
        self._tell(event)

    def _tell(self, event: Event) -> None:
        # The alarm tells from a thread of its own, as does a ledger on S3.
        with self._one_at_a_time:
            announce(event, (*self._subscribers, self._alarm))


def execute(plan: Plan, open_pool: OpenPool, subscribers: Sequence[Subscriber] = ()) -> Place:
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
    run = open_place(plan.job.output)
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
