"""The one place where Ray is used: an embedded or an existing cluster holds the replicas."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import tempfile
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

# Before Ray is imported: it reads these once, and its usage report would need a network.
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")

import ray
from ray.exceptions import ObjectLostError, RayActorError, RayError, RayTaskError

from .errors import ClusterLostError, OccultaError, RetriesExhaustedError, StorageError
from .provenance import code_digest, package_folders
from .replica import Replica
from .unit import Receipt, UnitKey, WorkUnit
from .workload import Workload

_ATTEMPTS = 3
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
            f"no Ray cluster answers at {address or 'this machine'}: {_first_line(error)}; "
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
    def __init__(self, workload: Workload, store: str) -> None:
        self._replica = Replica(workload, Path(store))

    def code(self) -> tuple[str, str]:
        return code_digest(), str(package_folders()["jobs"])

    def run(self, unit: WorkUnit) -> Receipt:
        return self._replica.run(unit)

    def partial(self, unit: WorkUnit, share: int) -> tuple[None, Any]:
        # The first value tells the driver that the second is there, without fetching it.
        return None, self._replica.partial(unit, share)

    def merge(self, unit: WorkUnit, *partials: Any) -> Receipt:
        return self._replica.merge(unit, partials)


@dataclass
class _Call:
    """One call to a replica: a whole unit, one share of it, or the merge of its shares."""

    unit: WorkUnit
    share: int | None = None
    partials: Sequence[Any] = ()
    replica: int = -1
    result: Any = None


class RayPool:
    """Replicas as actors, kept busy with a bounded number of calls each.

    Parameters
    ----------
    workload : what the replicas do
    store : folder of the result store, on a file system that all nodes share
    replicas : number of actors, one CPU each
    gpus_per_replica : GPUs, or a fraction of one, for each actor
    """

    def __init__(
        self, workload: Workload, store: Path, replicas: int, gpus_per_replica: float = 0
    ) -> None:
        self.replicas = replicas
        self._check_resources(replicas, gpus_per_replica)
        actor = ray.remote(
            num_cpus=1, num_gpus=gpus_per_replica, max_restarts=-1, max_task_retries=0
        )(_ReplicaActor)
        self._actors = [actor.remote(workload, str(store)) for _ in range(replicas)]
        self._load = [0] * replicas
        self._running: dict[Any, _Call] = {}
        self._ready: deque[_Call] = deque()
        self._shares: dict[UnitKey, dict[int, Any]] = {}

    def __enter__(self) -> Self:
        self._check_code()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for actor in self._actors:
            with contextlib.suppress(RayError):
                ray.kill(actor)

    def run(self, units: Iterable[WorkUnit]) -> Iterator[Receipt]:
        """Compute units; a unit whose replica dies or fails is tried again, three times in all."""
        source = iter(units)
        while True:
            self._submit(source)
            if not self._running:
                return
            done, _ = ray.wait(list(self._running), num_returns=1, fetch_local=False)
            call = self._running.pop(done[0])
            self._load[call.replica] -= 1
            try:
                receipt = ray.get(done[0])
            except RayError as error:
                self._again(call, error)
                continue
            if receipt is not None:
                self._shares.pop(call.unit.key, None)
                yield receipt
            else:
                self._arrived(call)

    def _submit(self, source: Iterator[WorkUnit]) -> None:
        while min(self._load) < _WINDOW:
            if not self._ready:
                unit = next(source, None)
                if unit is None:
                    return
                self._ready.extend(_calls(unit))
            self._start(self._ready.popleft())

    def _start(self, call: _Call) -> None:
        call.replica = min(range(self.replicas), key=self._load.__getitem__)
        actor = self._actors[call.replica]
        if call.partials:
            ref = actor.merge.remote(call.unit, *call.partials)
        elif call.share is None:
            ref = actor.run.remote(call.unit)
        else:
            ref, call.result = actor.partial.options(num_returns=2).remote(call.unit, call.share)
        self._load[call.replica] += 1
        self._running[ref] = call

    def _arrived(self, call: _Call) -> None:
        assert call.share is not None
        shares = self._shares.setdefault(call.unit.key, {})
        shares[call.share] = call.result
        if len(shares) == call.unit.shares:
            in_order = [shares[share] for share in range(call.unit.shares)]
            self._ready.appendleft(_Call(call.unit, partials=in_order))

    def _again(self, call: _Call, error: RayError) -> None:
        cause = error.cause if isinstance(error, RayTaskError) else error
        if isinstance(cause, OccultaError):
            raise cause
        if isinstance(cause, OSError) and cause.errno is not None:
            raise StorageError(f"unit {call.unit.key}: {cause}; make room and run again") from error
        if call.unit.attempt >= _ATTEMPTS:
            raise RetriesExhaustedError(
                f"unit {call.unit.key} failed {_ATTEMPTS} times, last with "
                f"{type(cause).__name__}: {_first_line(cause)}; "
                "what is committed stays: mend the cause and run again"
            ) from error
        unit = replace(call.unit, attempt=call.unit.attempt + 1)
        if isinstance(cause, ObjectLostError):
            self._shares.pop(unit.key, None)
            self._ready.extendleft(reversed(_calls(unit)))
        else:
            self._ready.appendleft(_Call(unit, call.share, call.partials))

    def _check_code(self) -> None:
        """Refuse replicas that imported other code than this process did."""
        try:
            found = ray.get([a.code.remote() for a in self._actors], timeout=_START_SECONDS)
        except RayActorError as error:
            raise ClusterLostError(f"a replica could not start: {_last_line(error)}") from error
        except RayTaskError as error:
            if isinstance(error.cause, OccultaError):
                raise error.cause from error
            raise
        for digest, folder in found:
            if digest != code_digest():
                raise OccultaError(
                    f"a replica imported other code than the driver, from {folder}; install the "
                    "same version of occulta on every node and remove what shadows it"
                )

    @staticmethod
    def _check_resources(replicas: int, gpus_per_replica: float) -> None:
        have = ray.cluster_resources()
        for name, wanted in (("CPU", replicas), ("GPU", replicas * gpus_per_replica)):
            if wanted > have.get(name, 0):
                raise OccultaError(
                    f"{replicas} replicas need {wanted:g} {name}s, the cluster has "
                    f"{have.get(name, 0):g}; lower execution.replicas or gpus_per_replica"
                )


def _calls(unit: WorkUnit) -> list[_Call]:
    if unit.shares == 1:
        return [_Call(unit)]
    return [_Call(unit, share) for share in range(unit.shares)]


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def _last_line(error: BaseException) -> str:
    return ([line for line in str(error).splitlines() if line.strip()] or ["unknown"])[-1].strip()
