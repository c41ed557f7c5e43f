"""Run a plan on Ray: on a cluster inside this process, or on an existing one."""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Self

from cluster.events import Subscriber
from cluster.metrics import RayMetrics
from cluster.place import Place
from cluster.pool import Pool
from cluster.workload import Workload

from ..plan import Plan
from .execute import execute


def available_cpus(cgroup: Path = Path("/sys/fs/cgroup")) -> int:
    """Count the CPUs that this process may use: affinity, the cgroup's quota and Slurm's."""
    counts = [len(os.sched_getaffinity(0))]
    if (slurm := os.environ.get("SLURM_CPUS_PER_TASK", "")).isdigit():
        counts.append(int(slurm))
    quota, period = _cpu_quota(cgroup)
    if quota > 0:
        counts.append(max(1, quota // period))
    return min(counts)


def _cpu_quota(cgroup: Path) -> tuple[int, int]:
    """Return how long this container may compute in each period; -1 where nothing limits it."""
    try:
        quota, period = (cgroup / "cpu.max").read_text().split()
    except (OSError, ValueError):
        try:
            quota = (cgroup / "cpu/cpu.cfs_quota_us").read_text()
            period = (cgroup / "cpu/cpu.cfs_period_us").read_text()
        except OSError:
            return -1, 1
    return (-1, 1) if quota == "max" else (int(quota), int(period))


def cluster_gpus(address: str | None) -> int:
    """Count the GPUs of this machine, or of the cluster at an address.

    Raises
    ------
    ClusterLostError
        If the cluster can't be reached.
    """
    if address is None:
        import torch  # noqa: PLC0415 - slow to import

        return torch.cuda.device_count()
    from cluster.ray_cluster import cluster_nodes, ray_cluster  # noqa: PLC0415 - as below

    with ray_cluster(address, cpus=0):
        return round(sum(node.resources.get("GPU", 0) for node in cluster_nodes()))


def embedded_replicas(plan: Plan) -> range:
    """Tell from how many replicas to how many a plan runs on this machine alone."""
    room = max(1, int(available_cpus() / plan.placement.cpus) // plan.placement.processes)
    if plan.replicas is None:
        return range(room, room + 1)
    least, most = plan.replicas[0], plan.replicas[-1]
    return range(least, max(least, min(most, room)) + 1) if least < most else plan.replicas


class RayRunner:
    """Runs one plan after another on Ray, which is started when the first of them needs it.

    Parameters
    ----------
    address
        Of an existing cluster; without one, an embedded cluster is started, and another one in its
        place when a plan needs more.
    """

    def __init__(self, address: str | None) -> None:
        self._address = address
        self._cluster = ExitStack()
        self._room = (-1, -1)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._cluster.close()

    def run(self, plan: Plan, subscribers: Sequence[Subscriber] = ()) -> Place:
        """Run a plan to the end; parameters and errors as of `execute`."""

        @contextmanager
        def open_pool(workload: Workload, store: Place) -> Iterator[Pool]:
            placement = plan.placement
            replicas = embedded_replicas(plan) if self._address is None else plan.replicas
            most = 0 if replicas is None else replicas[-1]
            most *= placement.processes
            self._connect(math.ceil(most * placement.cpus), math.ceil(most * placement.gpus))
            # Ray is slow to import, and a complete or refused run needs none.
            from cluster.ray_pool import RayPool  # noqa: PLC0415

            with RayPool(workload, store, replicas, placement, plan.unit_seconds) as pool:
                yield pool

        return execute(plan, open_pool, [RayMetrics(), *subscribers])

    def _connect(self, cpus: int, gpus: int) -> None:
        from cluster.ray_cluster import ray_cluster  # noqa: PLC0415 - as above

        if cpus > self._room[0] or gpus > self._room[1]:
            self._cluster.close()
            self._room = (cpus, gpus) if self._address is None else (sys.maxsize, sys.maxsize)
            self._cluster.enter_context(ray_cluster(self._address, cpus=cpus, gpus=gpus))


def run_on_ray(plan: Plan, address: str | None, subscribers: Sequence[Subscriber] = ()) -> Place:
    """Run a plan to the end on Ray; parameters and errors as of `execute`."""
    with RayRunner(address) as runner:
        return runner.run(plan, subscribers)
