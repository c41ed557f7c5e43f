"""How a job is spread over machines, and what its bits depend on."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from .base import Spec

PLACES = (
    "execution.replicas",
    "execution.cpus_per_replica",
    "execution.gpus_per_replica",
    "execution.node_labels",
    "execution.unit_timeout",
)
"""Fields that say where and how long, not what."""


class ReplicasSpec(Spec):
    """From how many replicas to how many."""

    min: Annotated[int, Field(ge=0)]
    """Work begins when so many are ready, and so many are kept to the end."""
    max: Annotated[int, Field(ge=1)]
    """Asked for as long as there is work for them; a cluster that scales adds nodes for them."""

    @model_validator(mode="after")
    def _in_order(self) -> ReplicasSpec:
        if self.min > self.max:
            raise ValueError(f"min {self.min} is above max {self.max}; swap them")
        return self


Replicas = Literal["auto"] | Annotated[int, Field(ge=1)] | ReplicasSpec


def replica_range(replicas: Replicas) -> range | None:
    """Return from how many replicas to how many; None for all that there is room for."""
    if replicas == "auto":
        return None
    if isinstance(replicas, int):
        return range(replicas, replicas + 1)
    return range(replicas.min, replicas.max + 1)


class ExecutionSpec(Spec):
    """Replicas and reproducibility."""

    replicas: Replicas = "auto"
    """Copies of the network; auto uses every core or GPU there is, {min: 2, max: 16} grows and
    shrinks with the work and the cluster. Never changes results."""
    cpus_per_replica: Annotated[float, Field(gt=0)] = 1
    """CPU cores that are reserved for each replica. It computes with one thread all the same."""
    gpus_per_replica: Literal["auto"] | Annotated[float, Field(ge=0)] = "auto"
    """GPUs for each replica, also a fraction; auto is one where there are GPUs. Whether it is zero
    is part of the results' identity."""
    node_labels: dict[str, str] = Field(default={})
    """Labels, with their values, of the cluster's nodes that replicas may be on."""
    unit_timeout: Literal["auto"] | Annotated[float, Field(gt=0)] = "auto"
    """Seconds after which a unit counts as hung and its replica is replaced; auto is 20 times the
    longest so far, 10 minutes at least."""
    precision: Literal["float32", "float64"] = "float32"
    """Floating-point type of the network's passes."""
    micro_batch: Annotated[int, Field(ge=1, le=4096)] = 32
    """Rows that go through the network in one pass; lower it when memory is short. Results depend
    on it in the last bit."""
    shard_objects: Literal["auto"] | Annotated[int, Field(ge=1)] = "auto"
    """Objects per unit of work, a multiple of micro_batch; one file per array holds them."""
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    """Seed of every random draw."""
