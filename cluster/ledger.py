"""The durable record of what is committed: append-only segments, one line per unit, one writer.

A unit counts as done when its line is here and nowhere else. The line is written after the unit's
shards are durable, and is durable itself before anybody hears of it. A driver that dies leaves at
most one torn last line, which readers pass over: that unit was never reported.

Each driver begins with a line that shuts out those before it: from then on, whatever a driver
appends that lost its lease without knowing is no part of the ledger. Here, that line says how long
each older segment was; on S3, see `ledger_s3`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

from .durable import sync_folder
from .errors import RunBusyError, StorageError, VerificationError
from .lease import Lease
from .ledger_s3 import S3Writer, fetch_ledger
from .place import Place
from .remote import S3Path
from .unit import Receipt

__all__ = ["Lease", "Ledger", "LedgerWriter"]

_REVOKED = b'{"revoked":'
"""What a line that takes a unit back begins with; lines of receipts begin with their key."""
_SEALED = b'{"sealed":'
"""What the first line of a driver begins with: the lengths of older segments."""
_DRIVER = b'{"driver":'
"""What the first line of an object on S3 begins with."""


def ignore(_: Receipt) -> None:
    """Tell nobody."""


class LedgerWriter(Protocol):
    """One driver's part of a ledger."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...

    def commit(self, receipt: Receipt) -> None:
        """Append a unit; when it is durable, whoever was named to `Ledger.append` is told.

        Raises
        ------
        RunBusyError
            If another driver has taken over the run: nothing can be committed any more.
        StorageError
            If the ledger can't be written.
        """
        ...

    def revoke(self, key: str) -> None:
        """Take back what was said of a unit before: it is pending again. Errors as of `commit`."""
        ...

    def check(self) -> None:
        """Make sure that all is durable and nobody has taken over the run.

        Raises
        ------
        RunBusyError, StorageError
            As of `commit`.
        """
        ...


class Ledger:
    """The segments of one run.

    Parameters
    ----------
    folder : RUN/ledger
    """

    def __init__(self, folder: Place) -> None:
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
        with self._segments() as segments:
            revoked = {
                str(json.loads(line)["revoked"]): place
                for place, _, _, line in _lines(segments)
                if line.startswith(_REVOKED)
            }
            for place, segment, number, line in _lines(segments):
                if line.startswith(_REVOKED):
                    continue
                receipt = _parse(self._folder / segment.name, number, line, shards)
                if place > revoked.get(receipt.key, -1):
                    yield receipt

    def append(self, told: Callable[[Receipt], None] = ignore) -> LedgerWriter:
        """Shut out earlier drivers, and begin a part of one's own; the caller holds the lease.

        Parameters
        ----------
        told : is called with each receipt that is durable, maybe from another thread

        Raises
        ------
        RunBusyError
            If another driver does so at the same time.
        """
        if isinstance(self._folder, S3Path):
            return S3Writer(self._folder, told)
        return _LocalWriter(self._folder, told)

    @contextmanager
    def _segments(self) -> Iterator[list[Path]]:
        if isinstance(self._folder, S3Path):
            with fetch_ledger(self._folder) as folder:
                yield _segments(folder)
        else:
            yield _segments(self._folder)


class _LocalWriter:
    """One segment, open for appending."""

    def __init__(self, folder: Path, told: Callable[[Receipt], None]) -> None:
        older = _segments(folder)
        number = max((int(segment.stem) for segment in older), default=0) + 1
        self._path = folder / f"{number:06d}.jsonl"
        self._next = folder / f"{number + 1:06d}.jsonl"
        self._told = told
        folder.mkdir(parents=True, exist_ok=True)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND
        try:
            self._descriptor = os.open(self._path, flags, 0o644)
        except FileExistsError as error:
            raise _superseded(folder) from error
        # Only now: what an older driver appends after this look is shut out.
        seals = _seals(older)
        lengths = {segment.stem: _length(segment, seals.get(segment.stem)) for segment in older}
        self._append({"sealed": lengths})
        sync_folder(folder)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        os.close(self._descriptor)

    def commit(self, receipt: Receipt) -> None:
        """Append a unit and make it durable."""
        self.check()
        self._append(receipt.to_json())
        self._told(receipt)

    def revoke(self, key: str) -> None:
        """Take back what was said of a unit before: it is pending again."""
        self.check()
        self._append({"revoked": key})

    def check(self) -> None:
        """Make sure that nobody has taken over the run."""
        if self._next.exists():
            raise _superseded(self._path.parent)

    def _append(self, content: Mapping[str, Any]) -> None:
        line = json.dumps(content, separators=(",", ":")).encode() + b"\n"
        view = memoryview(line)
        try:
            while view:
                view = view[os.write(self._descriptor, view) :]
            os.fsync(self._descriptor)
        except OSError as error:
            raise StorageError(
                f"{self._path}: {error.strerror}; make room or mend the disk"
            ) from error


def _superseded(folder: Path) -> RunBusyError:
    return RunBusyError(
        f"{folder.parent}: another driver has taken over this run; this one stops, what it "
        "committed before stays"
    )


def _segments(folder: Path) -> list[Path]:
    return sorted(folder.glob("[0-9]*.jsonl"))


def _seals(segments: list[Path]) -> dict[str, int]:
    """Return how much of segments counts: their lengths when a driver first sealed them."""
    seals: dict[str, int] = {}
    for segment in segments:
        with segment.open("rb") as file:
            first = file.readline()
        if first.startswith(_SEALED) and first.endswith(b"\n"):
            for name, length in json.loads(first)["sealed"].items():
                seals[name] = min(int(length), seals.get(name, int(length)))
    return seals


def _length(segment: Path, sealed: int | None) -> int:
    """Return the bytes of a segment's whole lines."""
    if sealed is not None:
        return sealed
    with segment.open("rb") as file:
        return sum(len(line) for line in file if line.endswith(b"\n"))


def _lines(segments: list[Path]) -> Iterator[tuple[int, Path, int, bytes]]:
    """Give all whole lines about units: their place among all, segment and number in it."""
    place = 0
    seals = _seals(segments)
    for segment in segments:
        left = seals.get(segment.stem)
        with segment.open("rb") as file:
            for number, line in enumerate(file, start=1):
                if not line.endswith(b"\n"):
                    break  # torn: the driver died while it was written
                if left is not None:
                    left -= len(line)
                    if left < 0:
                        break  # appended by a driver that was shut out
                if not line.startswith((_SEALED, _DRIVER)):
                    yield place, segment, number, line
                place += 1


def _parse(segment: Place, number: int, line: bytes, shards: bool) -> Receipt:
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
