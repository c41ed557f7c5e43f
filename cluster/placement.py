"""Where replicas may be: what each needs of a node, and how many a cluster has room for."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from .errors import OccultaError

_ROUNDING = 1e-6
"""Resources are fractions that were added up: ten tenths may be a little less than one."""


@dataclass(frozen=True)
class Node:
    """A machine of a cluster."""

    resources: Mapping[str, float]
    """What it has in all, such as CPU and GPU; free or not."""
    labels: Mapping[str, str]


@dataclass(frozen=True)
class Placement:
    """What a replica needs of its node."""

    cpus: float = 1
    gpus: float = 0
    """GPUs, or a fraction of one: replicas may share it."""
    labels: Mapping[str, str] = field(default_factory=dict)
    """Labels that the node has, with their values."""
    processes: int = 1
    """Where a replica leads a group of processes, how many; each needs as much, on any node."""

    def room(self, nodes: Iterable[Node]) -> int:
        """Count the replicas that fit on some nodes, if nobody else uses them."""
        return sum(self._room(node) for node in nodes) // self.processes

    def _room(self, node: Node) -> int:
        if any(node.labels.get(name) != value for name, value in self.labels.items()):
            return 0
        fits = [int(node.resources.get("CPU", 0) / self.cpus + _ROUNDING)]
        gpus = node.resources.get("GPU", 0)
        if self.gpus >= 1:
            fits.append(int(gpus / self.gpus))
        elif self.gpus > 0:
            fits.append(int(gpus) * int(1 / self.gpus + _ROUNDING))
        return min(fits)

    def check(self, replicas: int, nodes: Iterable[Node]) -> None:
        """Refuse more replicas than there is room for: Ray would wait for ever.

        Raises
        ------
        OccultaError
            With what is needed and what there is.
        """
        nodes = list(nodes)
        room = self.room(nodes)
        if replicas <= room:
            return
        needs = f"{self.cpus:g} CPU" + (f" and {self.gpus:g} GPU" if self.gpus else "")
        if self.processes > 1:
            needs = f"{self.processes} times {needs}"
        if self.labels:
            listed = ", ".join(f"{name}={value}" for name, value in self.labels.items())
            needs += f" of a node with {listed}"
        cpus, gpus = (sum(node.resources.get(name, 0) for node in nodes) for name in ("CPU", "GPU"))
        raise OccultaError(
            f"{replicas} replicas are asked for, each of which needs {needs}; the cluster has room "
            f"for {room} ({cpus:g} CPUs and {gpus:g} GPUs on {len(nodes)} nodes): lower "
            "execution.replicas or what each needs"
        )
