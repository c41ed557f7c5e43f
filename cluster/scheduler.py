"""What to compute next, where, and what to do when it fails. Knows no Ray, no disk and no clock."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from .errors import ClusterLostError, OccultaError, RetriesExhaustedError
from .unit import Receipt, UnitKey, WorkUnit

ATTEMPTS = 3
"""How often a unit may fail, or take its replica with it, before the run ends."""


@dataclass(frozen=True, eq=False, slots=True)
class Call:
    """One call to a replica: a whole unit, one share of it, or the merge of its shares."""

    unit: WorkUnit
    share: int | None = None
    partials: Sequence[Any] = ()
    """Of a merge: what stands for the shares' results, in plan order."""
    replica: int = -1
    alone: bool = False
    """It was at a replica that died, so now it gets one to itself: if that dies too, it did it."""


@dataclass(frozen=True, slots=True)
class Finished:
    """A call ended well: a share with its partial, anything else with a receipt."""

    call: Call
    receipt: Receipt | None
    partial: Any = None


@dataclass(frozen=True, slots=True)
class Failed:
    """A call ended with an error, and its replica lives."""

    call: Call
    error: BaseException
    partials_lost: bool = False
    """The partials of a merge were on a machine that is gone: all shares are needed again."""


@dataclass(frozen=True, slots=True)
class Lost:
    """A replica died, and all calls that it had with it."""

    replica: int
    error: BaseException


@dataclass(frozen=True, slots=True)
class Joined:
    """A replica, new in the place of a lost one, is ready for calls."""

    replica: int


Event = Finished | Failed | Lost | Joined


class Executor(Protocol):
    """Where calls are computed."""

    def start(self, call: Call) -> None:
        """Begin a call at the replica that it names, after those that are there already."""
        ...

    def wait(self) -> Event:
        """Wait for the next event; asked only while a call or a new replica is on its way."""
        ...


def compute(
    units: Iterable[WorkUnit], executor: Executor, *, replicas: int, window: int
) -> Iterator[Receipt]:
    """Compute units and yield their receipts as they complete; errors as of `Pool.run`.

    Parameters
    ----------
    units : drawn one by one, as replicas have room
    executor : computes the calls
    replicas : number of replicas that are ready
    window : calls that a replica may have at once; it computes one, the others wait at its door
    """
    scheduler = Scheduler(units, replicas, window)
    while True:
        for call in scheduler.assign():
            executor.start(call)
        if scheduler.idle:
            return
        receipt = scheduler.handle(executor.wait())
        if receipt is not None:
            yield receipt


class Scheduler:
    """The state of all calls that are not done.

    Parameters are those of `compute`. Units whose receipt is outstanding are never more than
    ``replicas * window``: each has a call at some replica whenever another unit is drawn.
    """

    def __init__(self, units: Iterable[WorkUnit], replicas: int, window: int) -> None:
        self._units = iter(units)
        self._window = window
        self._at: dict[int, list[Call]] = {replica: [] for replica in range(replicas)}
        """Calls by replica, in the order in which it computes them."""
        self._ready: deque[Call] = deque()
        self._partials: dict[UnitKey, dict[int, Finished]] = {}
        self._vain_losses = 0

    @property
    def idle(self) -> bool:
        """Whether all units that could be drawn are done; ask after `assign`."""
        return not self._ready and not any(self._at.values())

    def assign(self) -> Iterator[Call]:
        """Hand out calls until every replica has its share of them, or no unit is left."""
        while True:
            rooms = [
                (len(calls), replica)
                for replica, calls in self._at.items()
                if not any(call.alone for call in calls)
            ]
            load, replica = min(rooms, default=(self._window, -1))
            if load >= self._window or not self._draw() or (load and self._ready[0].alone):
                return
            call = replace(self._ready.popleft(), replica=replica)
            self._at[replica].append(call)
            yield call

    def handle(self, event: Event) -> Receipt | None:
        """Take note of an event; return the receipt if it completes a unit.

        Raises
        ------
        OccultaError
            The call's own, as it is, if it speaks to the user: another attempt would not help.
        RetriesExhaustedError
            If this was a unit's last attempt.
        ClusterLostError
            If replicas die again and again with nothing to do.
        """
        match event:
            case Joined(replica):
                self._at.setdefault(replica, [])
            case Lost(replica, error):
                self._lose(self._at.pop(replica, []), error)
            case Failed(call, error):
                self._at[call.replica].remove(call)
                self._again(call, error, event.partials_lost)
            case Finished(call, receipt):
                self._at[call.replica].remove(call)
                self._vain_losses = 0
                if call.share is not None:
                    self._arrived(event, call.share)
                return receipt
        return None

    def _draw(self) -> bool:
        """Draw a unit if no call is ready; tell whether one is now."""
        if not self._ready and (unit := next(self._units, None)) is not None:
            self._ready.extend(_calls(unit))
        return bool(self._ready)

    def _arrived(self, event: Finished, share: int) -> None:
        unit = event.call.unit
        arrived = self._partials.setdefault(unit.key, {})
        arrived[share] = event
        if len(arrived) == unit.shares:
            del self._partials[unit.key]
            in_order = [arrived[number] for number in range(unit.shares)]
            attempt = max(finished.call.unit.attempt for finished in in_order)
            partials = [finished.partial for finished in in_order]
            self._ready.appendleft(Call(replace(unit, attempt=attempt), partials=partials))

    def _lose(self, calls: Sequence[Call], error: BaseException) -> None:
        # The replica was computing the first, and the others waited at its door; or it was already
        # computing another, and word that the first had finished was lost with it.
        suspects = [replace(call, alone=True) for call in calls]
        self._ready.extendleft(reversed(suspects[1:]))
        if suspects:
            self._again(suspects[0], error, partials_lost=False)
            return
        self._vain_losses += 1
        if self._vain_losses == ATTEMPTS:
            raise ClusterLostError(
                f"replicas died {ATTEMPTS} times in a row before they could work, last with "
                f"{first_line(error)}; run again when the cluster is well"
            ) from error

    def _again(self, call: Call, error: BaseException, partials_lost: bool) -> None:
        unit = call.unit
        if isinstance(error, OccultaError):
            raise error
        if unit.attempt >= ATTEMPTS:
            raise RetriesExhaustedError(
                f"unit {unit.key} failed {ATTEMPTS} times, last with {first_line(error)}; "
                "what is committed stays: mend the cause and run again"
            ) from error
        unit = replace(unit, attempt=unit.attempt + 1)
        again = _calls(unit) if partials_lost else [replace(call, unit=unit)]
        self._ready.extendleft(reversed(again))


def _calls(unit: WorkUnit) -> list[Call]:
    if unit.shares == 1:
        return [Call(unit)]
    return [Call(unit, share) for share in range(unit.shares)]


def first_line(error: BaseException) -> str:
    """Say in one line what an error is."""
    return (str(error).splitlines() or [type(error).__name__])[0]
