"""Run a plan on Ray: on a cluster inside this process, or on an existing one."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

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


def run_on_ray(plan: Plan, address: str | None, subscribers: Sequence[Subscriber] = ()) -> Place:
    """Run a plan to the end on Ray; parameters and errors as of `execute`."""

    @contextmanager
    def open_pool(workload: Workload, store: Place) -> Iterator[Pool]:
        # Ray is slow to import, and a complete or refused run needs none.
        from cluster.ray_cluster import ray_cluster  # noqa: PLC0415
        from cluster.ray_pool import RayPool  # noqa: PLC0415

        placement = plan.placement
        replicas = embedded_replicas(plan) if address is None else plan.replicas
        most = 0 if replicas is None else replicas[-1]
        most *= placement.processes
        cpus, gpus = math.ceil(most * placement.cpus), math.ceil(most * placement.gpus)
        with (
            ray_cluster(address, cpus=cpus, gpus=gpus),
            RayPool(workload, store, replicas, placement, plan.unit_seconds) as pool,
        ):
            yield pool

    return execute(plan, open_pool, [RayMetrics(), *subscribers])
