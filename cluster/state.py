"""Where a run stands, as the scheduler sees it: one record per unit, one per replica."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field, replace

from .calls import Call, Finished
from .search import Search
from .unit import UnitKey, WorkUnit

START_SECONDS = 600
"""How long a run waits while it has no replica at all."""
_FIRST_UNIT_SECONDS = 24 * 3600
"""How long a unit may take while none is done that it could be compared with."""
_LEAST_SECONDS = 600
_SLOWER = 20
"""How much longer than the longest unit so far another may take."""


@dataclass(frozen=True, slots=True)
class Rules:
    """What stays the same during a run."""

    replicas: range
    """From how many replicas, to how many where there is work for them, both included."""
    window: int = 2
    """Calls that a replica may have at once; it computes one, the others wait at its door."""
    separable: bool = False
    """Whether objects that make a unit fail can be left out."""
    unit_seconds: float | None = None
    """How long a unit may take; None to judge by those that are done."""

    @classmethod
    def fixed(cls, replicas: int, window: int = 2) -> Rules:
        """Make the rules for a fixed number of replicas."""
        return cls(range(replicas, replicas + 1), window)


@dataclass(frozen=True, slots=True)
class Task:
    """All that is known of one unit that is not done."""

    unit: WorkUnit
    first: int = 0
    """Number of its first call that counts: those before were for the unit as it was before."""
    failures: int = 0
    """Since it was drawn or changed."""
    arrived: tuple[Finished | None, ...] = ()
    """Shares that are done, by their number."""
    search: Search | None = None
    """The search for the objects that make it fail, at hand or done."""


@dataclass(frozen=True, slots=True)
class Door:
    """What a ready replica has to do."""

    calls: tuple[Call, ...] = ()
    """In the order in which it computes them."""
    since: float = 0.0
    """When it began with the first."""

    @property
    def taken(self) -> bool:
        """Whether one of its calls wants to be alone."""
        return any(call.alone for call in self.calls)


@dataclass(slots=True)
class State:
    """Where a run stands; `Scheduler.step` returns a new one and leaves the old one as it is."""

    doors: dict[int, Door]
    """Ready replicas by number."""
    opening: set[int] = field(default_factory=set)
    tasks: dict[UnitKey, Task] = field(default_factory=dict)
    """Units that were drawn and are not done."""
    ready: deque[Call] = field(default_factory=deque)
    """Calls that wait for a replica."""
    more: bool = True
    """Whether there may be units that were not drawn."""
    longest: float = 0.0
    """The longest time that a call took."""
    empty_since: float | None = None
    """Since when there is no replica."""
    vain_losses: int = 0
    """Replicas that died with nothing to do since anything was done."""
    calls_made: int = 0
    replicas_made: int = 0

    @property
    def idle(self) -> bool:
        """Whether everything is done."""
        return not self.more and not self.tasks

    def copy(self) -> State:
        """Copy the containers; what they hold never changes."""
        return replace(
            self,
            doors=dict(self.doors),
            opening=set(self.opening),
            tasks=dict(self.tasks),
            ready=deque(self.ready),
        )


def due(rules: Rules, state: State, door: Door) -> float:
    """Return when the first call at a door will have taken too long."""
    call = door.calls[0]
    # A probe computes all shares of its rows.
    size = call.unit.shares if call.probe is not None else 1
    return door.since + size * _limit(rules, state)


def _limit(rules: Rules, state: State) -> float:
    """Return how long a unit may take."""
    if rules.unit_seconds is not None:
        return rules.unit_seconds
    if not state.longest:
        return _FIRST_UNIT_SECONDS
    return max(_LEAST_SECONDS, _SLOWER * state.longest)
