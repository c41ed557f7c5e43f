"""The durable record of what is committed: append-only segments, one line per unit, one writer.

A unit counts as done when its line is here and nowhere else. The line is written after the unit's
shards are durable, and is durable itself before anybody hears of it. A driver that dies leaves at
most one torn last line, which readers pass over: that unit was never reported.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from .durable import sync_folder
from .errors import RunBusyError, VerificationError
from .unit import Receipt

_REVOKED = b'{"revoked":'
"""What a line that takes a unit back begins with; lines of receipts begin with their key."""


class Lease:
    """The right to write to a run: the operating system frees it when the process dies."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "lease"
        self._descriptor: int | None = None

    def acquire(self) -> None:
        """Take the lease, or fail at once.

        Raises
        ------
        RunBusyError
            If another process holds it.
        """
        self._path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            holder = os.read(descriptor, 100).decode(errors="replace").strip() or "unknown"
            os.close(descriptor)
            raise RunBusyError(
                f"{self._path.parent.parent}: the run is busy (process {holder}); wait for it to "
                "end, or stop it"
            ) from error
        os.ftruncate(descriptor, 0)
        os.write(descriptor, f"{os.getpid()}\n".encode())
        self._descriptor = descriptor

    def release(self) -> None:
        """Give the lease back; harmless when it is not held."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def held(self) -> bool:
        """Tell whether any process holds the lease."""
        try:
            descriptor = os.open(self._path, os.O_RDONLY)
        except FileNotFoundError:
            return False
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(descriptor)
        return False


class Ledger:
    """The segments of one run.

    Parameters
    ----------
    folder : RUN/ledger
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def receipts(self, *, shards: bool = True) -> Iterator[Receipt]:
        """Read all committed units, in the order in which they were committed.

        Parameters
        ----------
        shards : whether to read the proofs of shards too, which are most of a ledger

        Raises
        ------
        VerificationError
            If a line other than the last of a segment is damaged.
        """
        revoked = self._revoked()
        for place, segment, number, line in self._lines():
            if line.startswith(_REVOKED):
                continue
            receipt = _parse(segment, number, line, shards)
            if place > revoked.get(receipt.key, -1):
                yield receipt

    def _revoked(self) -> dict[str, int]:
        """Return the place of the line that last revoked a unit, by its key."""
        return {
            str(json.loads(line)["revoked"]): place
            for place, _, _, line in self._lines()
            if line.startswith(_REVOKED)
        }

    def _lines(self) -> Iterator[tuple[int, Path, int, bytes]]:
        """Give all whole lines: their place among all, segment and number in it."""
        place = 0
        for segment in self._segments():
            with segment.open("rb") as file:
                for number, line in enumerate(file, start=1):
                    if not line.endswith(b"\n"):
                        break  # torn: the driver died while it was written
                    yield place, segment, number, line
                    place += 1

    def append(self) -> LedgerWriter:
        """Open a new segment for writing; the caller holds the run's lease."""
        numbers = [int(segment.stem) for segment in self._segments()]
        return LedgerWriter(self._folder / f"{max(numbers, default=0) + 1:06d}.jsonl")

    def _segments(self) -> list[Path]:
        return sorted(self._folder.glob("[0-9]*.jsonl"))


class LedgerWriter:
    """One segment, open for appending; created with its first line."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._descriptor: int | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)

    def commit(self, receipt: Receipt) -> None:
        """Append a unit and make it durable."""
        self._append(receipt.to_json())

    def revoke(self, key: str) -> None:
        """Take back what was said of a unit before: it is pending again."""
        self._append({"revoked": key})

    def _append(self, content: Mapping[str, Any]) -> None:
        if self._descriptor is None:
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND
            self._descriptor = os.open(self._path, flags, 0o644)
            sync_folder(self._path.parent)
        line = json.dumps(content, separators=(",", ":")).encode() + b"\n"
        view = memoryview(line)
        while view:
            view = view[os.write(self._descriptor, view) :]
        os.fsync(self._descriptor)


def _parse(segment: Path, number: int, line: bytes, shards: bool) -> Receipt:
    try:
        data = json.loads(line) if shards else _without_shards(line)
        return Receipt.from_json(data)
    except (ValueError, KeyError, TypeError) as error:
        raise VerificationError(
            f"{segment}: line {number} is damaged; restore the file from a backup, or start the "
            "run anew in an empty folder"
        ) from error


def _without_shards(line: bytes) -> dict[str, Any]:
    """Read the beginning of a line: its shards come last."""
    # No text can hold these bytes: JSON escapes quotation marks.
    head, found, _ = line.partition(b',"shards":[')
    data = json.loads(head + b"}") if found else {}
    if "attempt" not in data:
        data = json.loads(line)  # of an older version, which wrote the shards first
    return {**data, "shards": []}
