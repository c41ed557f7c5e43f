"""The names of pieces of work and of what came of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Self


@dataclass(frozen=True, slots=True, order=True)
class UnitKey:
    """Name a unit by the rows of the catalogue that it covers: whole shards, never half of one."""

    start: int
    stop: int

    def __str__(self) -> str:
        return f"{self.start:010d}-{self.stop:010d}"

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read back what `str` wrote."""
        start, stop = text.split("-")
        return cls(int(start), int(stop))


@dataclass(frozen=True, slots=True)
class LeftOut:
    """An object that a unit is computed without, because the unit fails with it."""

    row: int
    """Row of the object in the run's catalogue."""
    code: str
    """A documented error code."""
    reason: str
    """What happens when it is computed."""


@dataclass(frozen=True, slots=True)
class WorkUnit:
    """One block of objects, to be explained and written by one replica."""

    key: UnitKey
    shares: int = 1
    """Into how many shares the parts axis is cut; any number gives the same bits."""
    attempt: int = 1
    halvings: int = 0
    """How often its micro-batch is halved because memory did not suffice."""
    without: tuple[LeftOut, ...] = ()
    """Objects to leave blank, as if they could not be read."""


class UnitGrid(Sequence[UnitKey]):
    """The units of a run, counted but never listed: a survey has as many as it needs."""

    def __init__(self, objects: int, unit_objects: int) -> None:
        self.objects = objects
        self.unit_objects = unit_objects

    def __len__(self) -> int:
        return -(-self.objects // self.unit_objects)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        if not 0 <= index < len(self):
            raise IndexError(index)
        start = index * self.unit_objects
        return UnitKey(start, min(start + self.unit_objects, self.objects))

    def number(self, key: UnitKey) -> int:
        """Tell which unit a key names."""
        return key.start // self.unit_objects


@dataclass(frozen=True, slots=True)
class ObjectFailure:
    """Why one object could not be explained; its neighbours are not affected."""

    index: int
    """Row of the object in the run's catalogue."""
    id: str
    """The object's identifier, as the catalogue gives it."""
    code: str
    """A documented error code, such as ``truncated_file``."""
    reason: str
    """One line: what is wrong, in which file, and how to mend it."""


class ShardReceipt(NamedTuple):
    """Proof of one shard file."""

    path: str
    """Relative to the result store; of a file beside it, ../ and its path in the run folder."""
    sha256: str
    """Of the encoded bytes."""
    bytes: int


@dataclass(frozen=True, slots=True)
class Receipt:
    """What a replica reports about a unit whose shards are all on disk."""

    key: str
    shards: tuple[ShardReceipt, ...]
    failures: tuple[ObjectFailure, ...]
    inputs: str
    """SHA-256 over the content hashes of the unit's objects, in order."""
    forward: int
    """Rows that went forward through the network."""
    backward: int
    """Rows that went backward through the network."""
    seconds: float
    """Wall time at the replica."""
    worker: str
    """Host and process that did the work."""
    attempt: int
    halvings: int = 0
    """How often the micro-batch was halved for want of memory: the last bits depend on it."""
    left_out: tuple[ObjectFailure, ...] = ()
    """Where an object of the run is made of many of a survey: those that could not be read."""

    def to_json(self) -> dict[str, Any]:
        """Return JSON values that `from_json` reads back; the shards come last."""
        # `asdict` copies deeply: ten times as slow, in the driver, for each unit.
        values = _fields(self)
        del values["shards"]
        return values | {
            "failures": [_fields(failure) for failure in self.failures],
            "left_out": [_fields(failure) for failure in self.left_out],
            "shards": [shard._asdict() for shard in self.shards],
        }

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Self:
        """Read back what `to_json` wrote."""
        # A ledger has millions of these: keywords would take twice as long.
        shards = tuple(
            [ShardReceipt(s["path"], s["sha256"], s["bytes"]) for s in data["shards"]],
        )
        failures = tuple(ObjectFailure(**failure) for failure in data["failures"])
        left_out = tuple(ObjectFailure(**failure) for failure in data["left_out"])
        return cls(**{**data, "shards": shards, "failures": failures, "left_out": left_out})


def _fields(value: Receipt | ObjectFailure) -> dict[str, Any]:
    return {name: getattr(value, name) for name in value.__slots__}
