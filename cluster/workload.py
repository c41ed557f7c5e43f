"""What a replica is given to do: the seam between the cluster and the kinds of jobs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from attribution.arrays import ArraySpec
from attribution.partials import Array

from .unit import ObjectFailure, WorkUnit


@dataclass(frozen=True)
class UnitResult:
    """All that a unit leaves behind."""

    arrays: Mapping[str, Array]
    """Result arrays by their path in the store, object first."""
    failures: tuple[ObjectFailure, ...] = ()
    inputs: str = ""
    forward: int = 0
    backward: int = 0
    left_out: tuple[ObjectFailure, ...] = ()
    """Where an object of the run is made of many of a survey: those that could not be read."""
    files: Mapping[str, bytes] = field(default_factory=dict)
    """What is no array, such as weights, by its path in the run folder."""


class Workload(Protocol):
    """A kind of work on blocks of objects.

    It is a small picklable value that travels to each replica, which opens it once (loads the
    network) and then computes units. ``compute(unit)`` equals
    ``finish(unit, [partial(unit, share) for share in range(unit.shares)])`` bit for bit, however
    many shares there are.
    """

    @property
    def template(self) -> Mapping[str, ArraySpec]:
        """Describe the result arrays by their path in the store."""
        ...

    @property
    def separable(self) -> bool:
        """Tell whether a unit can be computed without some of its objects, the others unchanged."""
        ...

    def open(self) -> OpenWorkload:
        """Load what the work needs; called once in each replica."""
        ...


class OpenWorkload(Protocol):
    """A workload in a replica, ready to compute."""

    def compute(self, unit: WorkUnit) -> UnitResult:
        """Compute a whole unit."""
        ...

    def partial(self, unit: WorkUnit, share: int) -> Any:
        """Compute one share of the parts axis of a unit; the result travels to another replica."""
        ...

    def finish(self, unit: WorkUnit, partials: Sequence[Any]) -> UnitResult:
        """Merge all shares of a unit."""
        ...

    def probe(self, unit: WorkUnit, rows: range) -> None:
        """Compute a unit as if it had no other objects than ``rows``, to see whether that fails.

        With no rows, blank images go through the network. Called only if separable.
        """
        ...
