"""The one place where Ray is used: an embedded or an existing cluster holds the replicas."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Self

# Before Ray is imported: it reads these once, and its usage report would need a network.
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")

import ray
from ray.exceptions import ObjectLostError, RayError, RayTaskError

from . import scheduler
from .errors import ClusterLostError, OccultaError
from .provenance import code_digest, package_folders
from .replica import Replica
from .scheduler import Call, Event, Failed, Finished, Joined, Lost, first_line
from .unit import Receipt, WorkUnit
from .workload import Workload

_WINDOW = 2
"""Calls per replica in flight: one computes while the next waits at its door."""
_START_SECONDS = 300


@contextlib.contextmanager
def ray_cluster(address: str | None, cpus: int, gpus: int = 0) -> Iterator[None]:
    """Connect to a cluster, or start one inside this process when there is no address.

    The embedded cluster lives in a private temporary folder, listens for no dashboard and never
    joins one that happens to run on this machine. Ray puts the driver's working directory on its
    workers' import path, where a user's own ``jobs.py`` would shadow ours, so Ray is started from
    an empty folder.

    Raises
    ------
    ClusterLostError
        If the cluster at ``address`` can't be reached.
    """
    folder = tempfile.mkdtemp(prefix="occulta-")
    on_sigterm = signal.getsignal(signal.SIGTERM)
    common = {"log_to_driver": False, "logging_level": "ERROR", "namespace": "occulta"}
    try:
        if address is not None:
            _check_reachable(address)
        with contextlib.chdir(folder):
            if address is None:
                ray.init(
                    address="local",
                    num_cpus=cpus,
                    num_gpus=gpus,
                    include_dashboard=False,
                    _temp_dir=folder,
                    **common,
                )
            else:
                ray.init(address=address, **common)
    except (OSError, ValueError, RuntimeError) as error:
        shutil.rmtree(folder, ignore_errors=True)
        raise ClusterLostError(
            f"no Ray cluster answers at {address or 'this machine'}: {first_line(error)}; "
            "check the address and that the cluster runs"
        ) from error
    # Ray sets a handler of its own, which ends the process with a stack of C++ frames.
    signal.signal(signal.SIGTERM, on_sigterm)
    try:
        yield
    finally:
        ray.shutdown()
        shutil.rmtree(folder, ignore_errors=True)


def _check_reachable(address: str) -> None:
    """Connect once: Ray itself would try for minutes, with a line for each attempt."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if port.isdigit():
        socket.create_connection((host, int(port)), timeout=10).close()


class _ReplicaActor:
    def open(self, digest: str, workload: bytes, store: str) -> None:
        # The workload comes packed, for other code might not even be able to unpack it.
        if digest != code_digest():
            raise OccultaError(
                f"a replica imported other code than the driver, from {package_folders()['jobs']}; "
                "install the same version of occulta on every node and remove what shadows it"
            )
        self._replica = Replica(ray.cloudpickle.loads(workload), Path(store))

    def compute(
        self, unit: WorkUnit, share: int | None, *partials: Any
    ) -> tuple[Receipt | None, Any]:
        return self._replica.compute(unit, share, partials)


class RayPool:
    """Replicas as actors, kept busy with a bounded number of calls each.

    An actor that dies is replaced by a new one, whose code is checked like that of the first.

    Parameters
    ----------
    workload : what the replicas do
    store : folder of the result store, on a file system that all nodes share
    replicas : number of actors, one CPU each
    gpus_per_replica : GPUs, or a fraction of one, for each actor

    Raises
    ------
    OccultaError
        If the cluster has no room for so many replicas.
    """

    def __init__(
        self, workload: Workload, store: Path, replicas: int, gpus_per_replica: float = 0
    ) -> None:
        _check_resources(replicas, gpus_per_replica)
        self.replicas = replicas
        self._work = (code_digest(), ray.cloudpickle.dumps(workload), str(store))
        # Ray's own restarts would skip `open`, and would go on for ever where none succeeds.
        self._class = ray.remote(
            num_cpus=1, num_gpus=gpus_per_replica, max_restarts=0, max_task_retries=0
        )(_ReplicaActor)
        self._actors: dict[int, Any] = {}
        self._opening: dict[Any, int] = {}
        """Replicas that are not ready yet, by the reference to wait for."""
        self._running: dict[Any, tuple[Call, Any]] = {}
        """Calls and references to their partials, by the reference to their receipts."""

    def __enter__(self) -> Self:
        """Start the replicas, and wait until all are ready.

        Raises
        ------
        OccultaError
            If a replica has other code than this process, or can't open the workload.
        ClusterLostError
            If a replica dies, or none gets ready in time.
        """
        with contextlib.ExitStack() as on_error:
            on_error.push(self.__exit__)
            for replica in range(self.replicas):
                self._open(replica)
            while self._opening:
                match self.wait():
                    case Lost(_, error):
                        reason = first_line(error)
                        raise ClusterLostError(f"a replica could not start: {reason}") from error
            on_error.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        for actor in self._actors.values():
            with contextlib.suppress(RayError):
                ray.kill(actor)
        self._actors.clear()

    def run(self, units: Iterable[WorkUnit]) -> Iterator[Receipt]:
        """Compute units; errors as of `Pool.run`."""
        self._running.clear()
        return scheduler.compute(units, self, replicas=self.replicas, window=_WINDOW)

    def start(self, call: Call) -> None:
        """Send a call to its replica; its partial, if any, stays where it is computed."""
        compute = self._actors[call.replica].compute.options(num_returns=2)
        receipt, partial = compute.remote(call.unit, call.share, *call.partials)
        self._running[receipt] = call, partial

    def wait(self) -> Event:
        """Wait for a call to end, or a replica to get ready or die."""
        waiting = [*self._opening, *self._running]
        limit = None if self._running else _START_SECONDS
        done, _ = ray.wait(waiting, num_returns=1, timeout=limit, fetch_local=False)
        if not done:
            raise ClusterLostError(
                f"no replica started within {_START_SECONDS} s; others may use the cluster: run "
                "again when it has room"
            )
        try:
            receipt = ray.get(done[0])
        except RayTaskError as error:
            if done[0] in self._opening:
                raise error.cause from error
            call, _ = self._running.pop(done[0])
            error.cause.__cause__ = error  # which knows the traceback of the replica
            return Failed(call, error.cause, isinstance(error.cause, ObjectLostError))
        except RayError as error:
            return self._replace(done[0], error)
        if done[0] in self._opening:
            return Joined(self._opening.pop(done[0]))
        return Finished(self._running[done[0]][0], receipt, self._running.pop(done[0])[1])

    def _open(self, replica: int) -> None:
        self._actors[replica] = self._class.remote()
        self._opening[self._actors[replica].open.remote(*self._work)] = replica

    def _replace(self, ref: Any, error: RayError) -> Lost:
        """Put a new replica in the place of one whose call came to nothing."""
        replica = self._opening[ref] if ref in self._opening else self._running[ref][0].replica
        with contextlib.suppress(RayError):
            ray.kill(self._actors[replica])
        self._opening = {r: number for r, number in self._opening.items() if number != replica}
        self._running = {r: run for r, run in self._running.items() if run[0].replica != replica}
        self._open(replica)
        return Lost(replica, error)


def _check_resources(replicas: int, gpus_per_replica: float) -> None:
    have = ray.cluster_resources()
    for name, wanted in (("CPU", replicas), ("GPU", replicas * gpus_per_replica)):
        if wanted > have.get(name, 0):
            raise OccultaError(
                f"{replicas} replicas need {wanted:g} {name}s, the cluster has "
                f"{have.get(name, 0):g}; lower execution.replicas or gpus_per_replica"
            )
