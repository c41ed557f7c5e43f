"""Run a plan on Ray: on a cluster inside this process, or on an existing one."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from cluster.events import Subscriber
from cluster.metrics import RayMetrics
from cluster.pool import Pool
from cluster.workload import Workload

from ..plan import Plan
from .execute import execute


def available_cpus() -> int:
    """Count the CPUs that this process may use: affinity, the cgroup's quota and Slurm's."""
    counts = [len(os.sched_getaffinity(0))]
    if (slurm := os.environ.get("SLURM_CPUS_PER_TASK", "")).isdigit():
        counts.append(int(slurm))
    quota = Path("/sys/fs/cgroup/cpu.max")
    if quota.exists():
        allowed, _, period = quota.read_text().partition(" ")
        if allowed != "max":
            counts.append(max(1, int(allowed) // int(period)))
    return min(counts)


def run_on_ray(plan: Plan, address: str | None, subscribers: Sequence[Subscriber] = ()) -> Path:
    """Run a plan to the end on Ray; parameters and errors as of `execute`."""

    @contextmanager
    def open_pool(workload: Workload, store: Path) -> Iterator[Pool]:
        # Ray is slow to import, and a complete or refused run needs none.
        from cluster.ray_pool import RayPool, ray_cluster  # noqa: PLC0415

        replicas = plan.replicas or available_cpus()
        gpus = round(replicas * plan.gpus_per_replica)
        with (
            ray_cluster(address, cpus=replicas, gpus=gpus),
            RayPool(workload, store, replicas, plan.gpus_per_replica) as pool,
        ):
            yield pool

    return execute(plan, open_pool, [RayMetrics(), *subscribers])
