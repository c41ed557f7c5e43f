"""What a replica is given to do: the seam between the cluster and the kinds of jobs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from attribution.arrays import ArraySpec
from attribution.partials import Array

from .unit import ObjectFailure, UnitKey


@dataclass(frozen=True)
class UnitResult:
    """All that a unit leaves behind."""

    arrays: Mapping[str, Array]
    """Result arrays by their path in the store, object first."""
    failures: tuple[ObjectFailure, ...] = ()
    inputs: str = ""
    forward: int = 0
    backward: int = 0


class Workload(Protocol):
    """A kind of work on blocks of objects.

    It is a small picklable value that travels to each replica, which opens it once (loads the
    network) and then computes units. ``compute(key)`` equals
    ``finish(key, [partial(key, s, n) for s in range(n)])`` bit for bit, for every n.
    """

    @property
    def template(self) -> Mapping[str, ArraySpec]:
        """Describe the result arrays by their path in the store."""
        ...

    def open(self) -> OpenWorkload:
        """Load what the work needs; called once in each replica."""
        ...


class OpenWorkload(Protocol):
    """A workload in a replica, ready to compute."""

    def compute(self, key: UnitKey) -> UnitResult:
        """Compute a whole unit."""
        ...

    def partial(self, key: UnitKey, share: int, shares: int) -> Any:
        """Compute one share of the parts axis of a unit; the result travels to another replica."""
        ...

    def finish(self, key: UnitKey, partials: Sequence[Any]) -> UnitResult:
        """Merge all shares of a unit."""
        ...
