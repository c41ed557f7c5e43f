"""Replicas as actors of the Ray cluster that this process is connected to."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any, Self

# Before Ray: it sets what Ray reads when it is imported.
from .ray_cluster import cluster_nodes

# isort: split
import ray
from ray.exceptions import ObjectLostError, OutOfMemoryError, RayError, RayTaskError

from . import scheduler
from .calls import Call, Event, Failed, Finished, Joined, Lost, MemoryShortError, Tick, first_line
from .errors import ClusterLostError, OccultaError
from .events import Subscriber
from .head import Head
from .place import Place
from .placement import Placement
from .pool import ignore
from .provenance import code_digest, package_folders
from .replica import Replica
from .state import START_SECONDS, Rules
from .unit import Receipt, WorkUnit
from .workload import Workload


class _ReplicaActor:
    def open(self, digest: str, workload: bytes, store: Place) -> None:
        # The workload comes packed, for other code might not even be able to unpack it.
        if digest != code_digest():
            raise OccultaError(
                f"a replica imported other code than the driver, from {package_folders()['jobs']}; "
                "install the same version of occulta on every node and remove what shadows it"
            )
        self._replica = Replica(ray.cloudpickle.loads(workload), store)

    @ray.method(num_returns=2)  # type: ignore[untyped-decorator]
    def answer(self, call: Call, *partials: Any) -> tuple[Receipt | None, Any]:
        return self._replica.answer(call, partials)


class RayPool:
    """Replicas as actors, kept busy with a bounded number of calls each.

    An actor that dies is replaced by a new one, whose code is checked like that of the first.

    Parameters
    ----------
    workload : what the replicas do
    store : where the result store is: on S3, or on a file system that all nodes share
    replicas : how many, or from how many to how many; None for all that there is room for
    placement : what each needs of its node
    unit_seconds : how long a unit may take; None to judge by those that are done

    Raises
    ------
    OccultaError
        If the cluster has no room for so many replicas.
    """

    def __init__(
        self,
        workload: Workload,
        store: Place,
        replicas: int | range | None = None,
        placement: Placement | None = None,
        unit_seconds: float | None = None,
    ) -> None:
        placement = placement or Placement()
        nodes = cluster_nodes()
        if replicas is None:
            replicas = max(1, placement.room(nodes))
        if isinstance(replicas, int):
            replicas = range(replicas, replicas + 1)
        placement.check(replicas[0], nodes)
        self.replicas = replicas[-1]
        self._rules = Rules(replicas, separable=workload.separable, unit_seconds=unit_seconds)
        self._work = (code_digest(), ray.cloudpickle.dumps(workload), store)
        # Ray's own restarts would skip `open`, and would go on for ever where none succeeds.
        self._class = ray.remote(
            # Who leads a group only waits for it.
            num_cpus=placement.cpus if placement.processes == 1 else 0,
            num_gpus=placement.gpus if placement.processes == 1 else 0,
            label_selector=dict(placement.labels),
            max_restarts=0,
            max_task_retries=0,
        )(_ReplicaActor)
        self._head = Head(ray.get_runtime_context().gcs_address, _own_node_lives)
        self._actors: dict[int, Any] = {}
        self._opening: dict[Any, int] = {}
        """Replicas that are not ready yet, by the reference to wait for."""
        self._running: dict[Any, tuple[Call, Any]] = {}
        """Calls and references to their partials, by the reference to their receipts."""

    def __enter__(self) -> Self:
        """Start the replicas, and wait until as many are ready as are needed to begin.

        Raises
        ------
        OccultaError
            If a replica has other code than this process, or can't open the workload.
        ClusterLostError
            If a replica dies, or too few get ready in time.
        """
        with contextlib.ExitStack() as on_error:
            on_error.push(self.__exit__)
            least = self._rules.replicas[0]
            for replica in range(least):
                self.open(replica)
            end = time.monotonic() + START_SECONDS
            while len(self.ready) < least:
                match self.wait(end - time.monotonic()):
                    case Lost(_, error):
                        reason = _why(error)
                        raise ClusterLostError(f"a replica could not start: {reason}") from error
                    case Tick() if time.monotonic() >= end:
                        raise ClusterLostError(
                            f"{len(self.ready)} of {least} replicas started within "
                            f"{START_SECONDS} s; others may use the cluster: run again when it "
                            "has room"
                        )
            on_error.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        for replica in [*self._actors]:
            self.close(replica)

    def run(self, units: Iterable[WorkUnit], tell: Subscriber = ignore) -> Iterator[Receipt]:
        """Compute units; parameters and errors as of `Pool.run`."""
        self._running.clear()
        for replica in [*self._opening.values()]:
            self.close(replica)
        return scheduler.compute(units, self, self._rules, clock=time.monotonic, tell=tell)

    @property
    def ready(self) -> list[int]:
        """Numbers of the replicas that are ready for calls."""
        opening = {*self._opening.values()}
        return [replica for replica in self._actors if replica not in opening]

    def start(self, call: Call) -> None:
        """Send a call to its replica; its partial, if any, stays where it is computed."""
        answer = self._actors[call.replica].answer
        receipt, partial = answer.remote(replace(call, partials=()), *call.partials)
        self._running[receipt] = call, partial

    def open(self, replica: int) -> None:
        """Begin to make a replica; where there is no room yet, Ray makes it when there is."""
        self._actors[replica] = self._class.remote()
        self._opening[self._actors[replica].open.remote(*self._work)] = replica

    def close(self, replica: int) -> None:
        """End a replica at once, and hear no more of it."""
        with contextlib.suppress(RayError):
            ray.kill(self._actors.pop(replica))
        self._opening = {r: number for r, number in self._opening.items() if number != replica}
        self._running = {r: run for r, run in self._running.items() if run[0].replica != replica}

    def wait(self, seconds: float) -> Event:
        """Wait for a call to end, or a replica to get ready or die.

        Raises
        ------
        ClusterLostError
            If the head of the cluster is gone.
        """
        self._head.check()
        waiting = [*self._opening, *self._running]
        limit = max(0.0, min(seconds, self._head.pulse))
        done, _ = ray.wait(waiting, num_returns=1, timeout=limit, fetch_local=False)
        if not done:
            return Tick()
        try:
            receipt = ray.get(done[0])
        except RayTaskError as error:
            if done[0] in self._opening:
                raise error.cause from error
            call, _ = self._running.pop(done[0])
            error.cause.__cause__ = error  # which knows the traceback of the replica
            return Failed(call, error.cause, isinstance(error.cause, ObjectLostError))
        except RayError as error:
            replica = self._replica_of(done[0])
            self.close(replica)
            return Lost(replica, _cause(error))
        if done[0] in self._opening:
            return Joined(self._opening.pop(done[0]))
        call, partial = self._running.pop(done[0])
        return Finished(call, receipt, partial)

    def _replica_of(self, ref: Any) -> int:
        return self._opening[ref] if ref in self._opening else self._running[ref][0].replica


def _cause(error: Exception) -> Exception:
    """Say that a replica died because its node ran out of memory, if that is so."""
    if isinstance(error, OutOfMemoryError) or "running low on memory" in str(error):
        return MemoryShortError(first_line(error))
    return error


def _why(error: RayError) -> str:
    """Say in one line why a replica died."""
    if "creation task" not in str(error):
        return first_line(error)
    # A worker makes the actor as soon as it can import this file.
    last = str(error).rstrip().splitlines()[-1].strip()
    return f"{last}; install the same version of occulta on every node"


def _own_node_lives() -> bool:
    own = ray.get_runtime_context().get_node_id()
    return any(node["NodeID"] == own and node["Alive"] for node in ray.nodes())
