"""What to compute next, where, and what to do when it fails. Knows no Ray, no disk and no clock."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol

from .calls import (
    Action,
    Call,
    Close,
    Deliver,
    Draw,
    Drawn,
    End,
    Event,
    Open,
    Start,
    Tick,
)
from .events import Subscriber, WorkDisturbed
from .state import START_SECONDS, Door, Rules, State, due
from .turn import Turn
from .unit import Receipt, WorkUnit


class Executor(Protocol):
    """Where calls are computed. After `close`, nothing more is heard of a replica."""

    @property
    def ready(self) -> Iterable[int]:
        """Numbers of the replicas that are ready for calls."""
        ...

    def start(self, call: Call) -> None:
        """Begin a call at the replica that it names, after those that are there already."""
        ...

    def open(self, replica: int) -> None:
        """Begin to make a replica; a `Joined` or `Lost` will tell."""
        ...

    def close(self, replica: int) -> None:
        """End a replica at once."""
        ...

    def wait(self, seconds: float) -> Event:
        """Wait for the next event; a `Tick` if there is none for so long, or before."""
        ...


@dataclass(frozen=True)
class Scheduler:
    """Decides; a pure function of what it is told.

    Units whose receipt is outstanding are never more than replicas times window: each has a call
    at some replica whenever another unit is drawn.
    """

    rules: Rules

    def begin(self, replicas: Iterable[int]) -> State:
        """Return the state before any work, with replicas that are ready."""
        doors = {replica: Door() for replica in replicas}
        return State(doors, replicas_made=max(doors, default=-1) + 1)

    def step(self, state: State, event: Event, now: float) -> tuple[State, tuple[Action, ...]]:
        """Take note of an event and decide what to do.

        Events of calls and replicas that are none any more change nothing.

        Parameters
        ----------
        now : seconds of a clock that never goes back
        """
        turn = Turn(self.rules, state.copy(), now)
        turn.take(event)
        turn.check_time()
        turn.scale()
        turn.assign()
        return turn.state, tuple(turn.actions)

    def deadline(self, state: State) -> float:
        """Tell when something will have taken too long, if nothing happens before."""
        times = [due(self.rules, state, door) for door in state.doors.values() if door.calls]
        if state.empty_since is not None:
            times.append(state.empty_since + START_SECONDS)
        return min(times, default=math.inf)


def compute(
    units: Iterable[WorkUnit],
    executor: Executor,
    rules: Rules,
    *,
    clock: Callable[[], float],
    tell: Subscriber,
) -> Iterator[Receipt]:
    """Compute units and yield their receipts as they complete; errors as of `Pool.run`.

    Parameters
    ----------
    units : drawn one by one, as replicas have room
    executor : computes the calls
    rules : how
    clock : gives seconds; never goes back
    tell : is told what went wrong and was dealt with
    """
    source = iter(units)
    scheduler = Scheduler(rules)
    state = scheduler.begin(executor.ready)
    event: Event | None = Tick()
    while not state.idle:
        if event is None:
            event = executor.wait(max(0.0, scheduler.deadline(state) - clock()))
        state, actions = scheduler.step(state, event, clock())
        event = None
        for action in actions:
            match action:
                case Deliver(receipt):
                    yield receipt
                case Draw():
                    event = Drawn(next(source, None))
                case Start(call):
                    executor.start(call)
                case Open(replica):
                    executor.open(replica)
                case Close(replica):
                    executor.close(replica)
                case WorkDisturbed():
                    tell(action)
                case End(error):
                    raise error
