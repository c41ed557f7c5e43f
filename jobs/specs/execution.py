"""How a job is spread over machines, and what its bits depend on."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from .base import Spec


class ExecutionSpec(Spec):
    """Replicas and reproducibility."""

    replicas: Literal["auto"] | Annotated[int, Field(ge=1)] = "auto"
    """Copies of the network, one CPU core each; auto uses every core or GPU there is. Never
    changes results."""
    gpus_per_replica: Literal["auto"] | Annotated[float, Field(ge=0)] = "auto"
    """GPUs for each replica, also a fraction; auto is one where there are GPUs. Whether it is zero
    is part of the results' identity."""
    precision: Literal["float32", "float64"] = "float32"
    """Floating-point type of the network's passes."""
    micro_batch: Annotated[int, Field(ge=1, le=4096)] = 32
    """Rows that go through the network in one pass; lower it when memory is short. Results depend
    on it in the last bit."""
    shard_objects: Literal["auto"] | Annotated[int, Field(ge=1)] = "auto"
    """Objects per unit of work, a multiple of micro_batch; one file per array holds them."""
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    """Seed of every random draw."""
