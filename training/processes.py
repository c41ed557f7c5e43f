"""A fit's processes: one, or a group of torch.distributed that shares every batch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

Part = TypeVar("Part")


@dataclass(frozen=True)
class Processes:
    """The processes that make one fit together."""

    rank: int = 0
    """Number of this process; 0 writes."""
    count: int = 1
    """How many there are."""

    @classmethod
    def of_group(cls) -> Processes:
        """Return those of the initialised group, or this process alone."""
        if dist.is_available() and dist.is_initialized():
            return cls(dist.get_rank(), dist.get_world_size())
        return cls()

    def share(self, objects: int) -> slice:
        """Return this process's share of a batch; shares are contiguous and nearly equal."""
        borders = [objects * rank // self.count for rank in range(self.count + 1)]
        return slice(borders[self.rank], borders[self.rank + 1])

    def sum(self, values: list[float], device: torch.device) -> list[float]:
        """Return sums over the processes, the same bits in each."""
        if self.count == 1:
            return values
        # Some devices have no float64; GPUs that run NCCL and the CPU do.
        total = torch.tensor(values, dtype=torch.float64, device=device)
        dist.all_reduce(total)
        return [float(value) for value in total.tolist()]

    def from_first(self, value: Part) -> Part:
        """Return what the first process gave."""
        if self.count == 1:
            return value
        box = [value]
        dist.broadcast_object_list(box, src=0)
        return box[0]

    def wrap(self, network: nn.Module, device: torch.device) -> nn.Module:
        """Return a network whose gradients are means over the processes; weights become rank 0's.

        A network without anything to train needs no means.
        """
        if self.count == 1 or not any(part.requires_grad for part in network.parameters()):
            return network
        return DistributedDataParallel(
            network, device_ids=None if device.type == "cpu" else [device]
        )

    def align_buffers(self, network: nn.Module) -> None:
        """Give all processes the first one's buffers: running statistics of batch norm."""
        if self.count > 1:
            for part in network.buffers():
                dist.broadcast(part, src=0)
