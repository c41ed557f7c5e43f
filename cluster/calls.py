"""What passes between the scheduler and whatever computes: calls, events, actions. Values only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from .events import WorkDisturbed
from .text import one_line, redact
from .unit import Receipt, WorkUnit


class WorkFailedError(Exception):
    """A unit failed; tells of its cause in one line.

    The cause itself may be of a class that another process can't import or rebuild, such as one
    that a user's network defines.
    """


class MemoryShortError(WorkFailedError):
    """A unit failed because there was too little memory for its micro-batch."""


class UnitTimeoutError(Exception):
    """A call took too long."""


@dataclass(frozen=True, eq=False, slots=True)
class Call:
    """One call to a replica: a whole unit, a share of it, the merge of its shares, or a probe."""

    number: int
    """Its name: no other call of a run has it, also none that repeats it."""
    unit: WorkUnit
    share: int | None = None
    partials: Sequence[Any] = ()
    """Of a merge: what stands for the shares' results, in plan order."""
    probe: range | None = None
    """Of a probe: rows that are computed, and nothing is written."""
    replica: int = -1
    avoid: int = -1
    """A replica where it failed before; another one is better."""
    alone: bool = False
    """It was at a replica that died, so now it gets one to itself: if that dies too, it did it."""


@dataclass(frozen=True, slots=True)
class Drawn:
    """The next unit, or None where there are no more."""

    unit: WorkUnit | None


@dataclass(frozen=True, slots=True)
class Finished:
    """A call ended well: a share with its partial, a unit with its receipt, a probe with none."""

    call: Call
    receipt: Receipt | None = None
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
    """A replica that was opened is ready for calls."""

    replica: int


@dataclass(frozen=True, slots=True)
class Tick:
    """Nothing happened, but time has passed."""


Event = Drawn | Finished | Failed | Lost | Joined | Tick


@dataclass(frozen=True, slots=True)
class Draw:
    """Draw the next unit and say what came."""


@dataclass(frozen=True, slots=True)
class Start:
    """Begin a call at the replica that it names, after those that are there already."""

    call: Call


@dataclass(frozen=True, slots=True)
class Open:
    """Begin to make a replica of this number, which none had before."""

    replica: int


@dataclass(frozen=True, slots=True)
class Close:
    """End a replica at once, whatever it does; nothing that it still says counts."""

    replica: int


@dataclass(frozen=True, slots=True)
class Deliver:
    """A unit is done: its shards are durable, and the ledger may say so."""

    receipt: Receipt


@dataclass(frozen=True, slots=True)
class End:
    """Nothing more can be done."""

    error: BaseException


Action = Draw | Start | Open | Close | Deliver | WorkDisturbed | End


def first_line(error: BaseException) -> str:
    """Say in one line what an error is; what it quotes forges no line and tells no secret."""
    return redact(one_line((str(error).splitlines() or [type(error).__name__])[0]))
