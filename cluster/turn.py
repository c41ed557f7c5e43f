"""One step of the scheduler: what follows from one event."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import replace

from .calls import (
    Action,
    Call,
    Close,
    Deliver,
    Draw,
    Drawn,
    End,
    Event,
    Failed,
    Finished,
    Joined,
    Lost,
    MemoryShortError,
    Open,
    Start,
    UnitTimeoutError,
    first_line,
)
from .errors import ClusterLostError, OccultaError, RetriesExhaustedError
from .events import WorkDisturbed
from .search import DIED, FAILED, HUNG, Search
from .state import START_SECONDS, Door, Rules, State, Task, due
from .unit import UnitKey, WorkUnit

ATTEMPTS = 3
"""How often a unit may fail, or take its replica with it, before its objects are suspected."""
_HALVINGS = 6


def _halve(task: Task, error: BaseException, code: str) -> bool:
    """Tell whether a smaller micro-batch is the cure.

    A replica that was killed for the memory of its node may have been the victim of others, so it
    is tried as often as after any other death.
    """
    if not isinstance(error, MemoryShortError) or task.unit.halvings == _HALVINGS:
        return False
    return code != DIED or task.failures == ATTEMPTS


class Turn:
    """One step: a state of its own that it changes, and the actions that it collects."""

    def __init__(self, rules: Rules, state: State, now: float) -> None:
        self.rules = rules
        self.state = state
        self.now = now
        self.actions: list[Action] = []

    def take(self, event: Event) -> None:
        """Take note of what happened."""
        match event:
            case Drawn(None):
                self.state.more = False
            case Drawn(WorkUnit() as unit):
                self._begin(Task(unit))
            case Joined(replica) if replica in self.state.opening:
                self.state.opening.remove(replica)
                self.state.doors[replica] = Door()
                self._note("joined", replica=replica)
            case Lost(replica, error):
                self._lose(replica, error)
            case Failed(call, error) if task := self._leave(call):
                if event.partials_lost:
                    task = replace(task, arrived=())
                self._failed(task, call, error, FAILED)
            case Finished(call) if task := self._leave(call):
                self._finished(task, event)

    def check_time(self) -> None:
        """Close the replicas whose call takes too long; end if there has been none for long."""
        state = self.state
        for replica, door in [*state.doors.items()]:
            if door.calls and self.now >= due(self.rules, state, door):
                seconds = self.now - door.since
                self.actions.append(Close(replica))
                self._lose(replica, UnitTimeoutError(f"no answer within {seconds:,.0f} s"))
        if state.doors:
            state.empty_since = None
        elif state.empty_since is None:
            state.empty_since = self.now
        elif self.now - state.empty_since >= START_SECONDS:
            self._end(
                ClusterLostError(
                    f"no replica started within {START_SECONDS} s; others may use the cluster: "
                    "run again when it has room"
                )
            )

    def scale(self) -> None:
        """Open replicas that are missing, close those that have no use any more."""
        state, (least, most) = self.state, (self.rules.replicas[0], self.rules.replicas[-1])
        needed = len(state.ready) + sum(len(door.calls) for door in state.doors.values())
        wanted = most if state.more else min(most, max(least, needed))
        while len(state.doors) + len(state.opening) < wanted:
            self.actions.append(Open(state.replicas_made))
            state.opening.add(state.replicas_made)
            state.replicas_made += 1
        excess = len(state.doors) + len(state.opening) - wanted
        idle = [replica for replica, door in state.doors.items() if not door.calls]
        for replica in [*state.opening, *idle][:excess]:
            self.actions.append(Close(replica))
            state.opening.discard(replica)
            state.doors.pop(replica, None)

    def assign(self) -> None:
        """Hand out calls until every replica has its share of them; draw a unit if none is left."""
        state = self.state
        while (load := self._lightest()) < self.rules.window:
            if not state.ready:
                if state.more:
                    self.actions.append(Draw())
                return
            if load and state.ready[0].alone:
                return
            call = state.ready.popleft()
            replica = min(self._rooms(load), key=lambda number: (number == call.avoid, number))
            call = replace(call, replica=replica)
            door = state.doors[replica]
            state.doors[replica] = Door((*door.calls, call), door.since if load else self.now)
            self.actions.append(Start(call))

    def _lightest(self) -> int:
        """Return the smallest load of a replica that takes further calls."""
        loads = (len(d.calls) for d in self.state.doors.values() if not d.taken)
        return min(loads, default=self.rules.window)

    def _rooms(self, load: int) -> Sequence[int]:
        doors = self.state.doors.items()
        return [number for number, d in doors if len(d.calls) == load and not d.taken]

    def _leave(self, call: Call) -> Task | None:
        """Take a call off its door; return its task if it was there and still counts."""
        state = self.state
        door = state.doors.get(call.replica, Door())
        others = tuple(other for other in door.calls if other.number != call.number)
        if len(others) == len(door.calls):
            return None
        since = door.since
        if door.calls[0].number == call.number:
            state.longest = max(state.longest, self.now - since)
            since = self.now
        state.doors[call.replica] = Door(others, since)
        state.vain_losses = 0
        return self._task(call)

    def _task(self, call: Call) -> Task | None:
        """Return the task of a call; None if the call no longer counts."""
        task = self.state.tasks.get(call.unit.key)
        return task if task is not None and call.number >= task.first else None

    def _begin(self, task: Task) -> None:
        """Make the calls that compute a unit; what was computed of it so far counts no more."""
        unit, self.state.ready = task.unit, self._ready_without(task.unit.key)
        arrived = (None,) * unit.shares
        self.state.tasks[unit.key] = replace(task, first=self.state.calls_made, arrived=arrived)
        if task.search is not None and task.search.probe is not None:
            self._next(Call(-1, unit, probe=task.search.probe, alone=True))
        elif unit.shares == 1:
            self._next(Call(-1, unit))
        else:
            for share in reversed(range(unit.shares)):
                self._next(Call(-1, unit, share))

    def _ready_without(self, key: UnitKey) -> deque[Call]:
        return deque(call for call in self.state.ready if call.unit.key != key)

    def _next(self, call: Call) -> None:
        """Put a call before all others that wait, under a new number."""
        self.state.ready.appendleft(replace(call, number=self.state.calls_made))
        self.state.calls_made += 1

    def _finished(self, task: Task, event: Finished) -> None:
        call, key = event.call, task.unit.key
        if call.probe is not None:
            assert task.search is not None
            self._probed(task, task.search.innocent())
        elif call.share is not None:
            arrived = (*task.arrived[: call.share], event, *task.arrived[call.share + 1 :])
            self.state.tasks[key] = replace(task, arrived=arrived)
            if all(arrived):
                self._next(Call(-1, task.unit, partials=[done.partial for done in arrived if done]))
        else:
            assert event.receipt is not None
            del self.state.tasks[key]
            self.actions.append(Deliver(event.receipt))

    def _lose(self, replica: int, error: BaseException) -> None:
        door = self.state.doors.pop(replica, None)
        if door is None and replica not in self.state.opening:
            return
        self.state.opening.discard(replica)
        self._note("lost", replica=replica, reason=first_line(error))
        if door is None or not door.calls:
            self._lost_in_vain(error)
            return
        # The replica was computing the first, and the others waited at its door; or it was already
        # computing another, and word that the first had finished was lost with it.
        suspects = [replace(call, alone=True) for call in door.calls if self._task(call)]
        for call in reversed(suspects):
            if call.number != door.calls[0].number:
                self._next(call)
        if task := self._task(door.calls[0]):
            code = HUNG if isinstance(error, UnitTimeoutError) else DIED
            self._failed(task, suspects[0], error, code)

    def _lost_in_vain(self, error: BaseException) -> None:
        self.state.vain_losses += 1
        if self.state.vain_losses >= ATTEMPTS * self.rules.replicas[-1]:
            self._end(
                ClusterLostError(
                    f"replicas died {self.state.vain_losses} times in a row before they could "
                    f"work, last with {first_line(error)}; run again when the cluster is well"
                ),
                error,
            )

    def _failed(self, task: Task, call: Call, error: BaseException, code: str) -> None:
        """Decide what follows when a call came to nothing."""
        key, reason = task.unit.key, first_line(error)
        unit = replace(task.unit, attempt=task.unit.attempt + 1)
        task = replace(task, unit=unit, failures=task.failures + 1)
        if isinstance(error, OccultaError):
            self._end(error)
        elif _halve(task, error, code):
            self._note("halved", key, call.replica, reason)
            halved = replace(unit, halvings=unit.halvings + 1)
            self._begin(replace(task, unit=halved, failures=0))
        elif call.probe is not None:
            assert task.search is not None
            self._probed(task, task.search.suspicious(code, reason), error)
        elif task.failures >= ATTEMPTS:
            if task.search is not None or not self.rules.separable:
                self._exhausted(task, error)
            else:
                self._note("search", key, call.replica, reason)
                self._begin(replace(task, search=Search.among(key)))
        else:
            self._note("retry", key, call.replica, reason)
            self.state.tasks[key] = task
            if call.partials and not task.arrived:
                self._begin(task)
            else:
                self._next(replace(call, unit=unit, avoid=call.replica))

    def _probed(self, task: Task, search: Search, error: BaseException | None = None) -> None:
        """Go on with a search, or with the unit when the search is done."""
        unit = task.unit
        if search.vain:
            assert error is not None
            self._exhausted(task, error)
        elif search.probe is None:
            for guilty in search.guilty:
                self._note("left out", unit.key, reason=f"row {guilty.row}: {guilty.reason}")
            without = replace(unit, without=search.guilty)
            self._begin(replace(task, unit=without, failures=0, search=search))
        else:
            self.state.tasks[unit.key] = replace(task, search=search)
            self._next(Call(-1, unit, probe=search.probe, alone=True))

    def _exhausted(self, task: Task, error: BaseException) -> None:
        self._end(
            RetriesExhaustedError(
                f"unit {task.unit.key} failed {task.unit.attempt - 1} times, last with "
                f"{first_line(error)}; what is committed stays: mend the cause and run again"
            ),
            error,
        )

    def _note(
        self, what: str, unit: UnitKey | None = None, replica: int | None = None, reason: str = ""
    ) -> None:
        self.actions.append(WorkDisturbed(what, str(unit or ""), replica, reason))

    def _end(self, error: BaseException, cause: BaseException | None = None) -> None:
        if cause is not None:
            error.__cause__ = cause
        self.actions.append(End(error))
