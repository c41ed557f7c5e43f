"""The ledger on S3: numbered objects without gaps, each created only if its number is free.

A driver begins by taking the next number. A driver before it that still lives then finds a number
taken by another at its next commit, and stops: nothing that it does later is part of the ledger.
The first object of a driver is never deleted, so that this holds for ever; of the others, many
small ones are replaced by one.
"""

from __future__ import annotations

import json
import secrets
import tempfile
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self

from .errors import RunBusyError, VerificationError
from .remote import S3Path, remove
from .unit import Receipt

_MANY = 256
"""Objects of a driver that are replaced by one."""
_WAITING = 1024
"""Lines that wait for being written at most."""
_AT_ONCE = 32
"""Objects that are read at the same time."""
_TRIES = 5
_LAST_WORDS = 2.0
"""Seconds that a driver which ends with an error waits for what it has begun to write."""


class S3Writer:
    """One driver's objects; units that are committed while one is written share the next.

    Parameters
    ----------
    folder : RUN/ledger
    told : is called with each receipt that is durable, from a thread of the writer

    Raises
    ------
    RunBusyError
        If other drivers take all the numbers that this one tries.
    """

    def __init__(self, folder: S3Path, told: Callable[[Receipt], None]) -> None:
        self._folder = folder
        self._told = told
        self._header = json.dumps({"driver": secrets.token_hex(8)}).encode() + b"\n"
        self._next = self._take_number()
        self._small: list[tuple[int, bytes]] = []
        self._waiting: list[tuple[bytes, Receipt | None]] = []
        self._changed = threading.Condition()
        self._writing = False
        self._over = False
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._work, name="ledger", daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with self._changed:
            self._over = True
            self._changed.notify_all()
        self._thread.join(None if error is None else _LAST_WORDS)
        if error is None and self._error is not None:
            raise self._error

    def commit(self, receipt: Receipt) -> None:
        """Append a unit; it is told of when it is durable."""
        self._append(json.dumps(receipt.to_json(), separators=(",", ":")), receipt)

    def revoke(self, key: str) -> None:
        """Take back what was said of a unit before: it is pending again."""
        self._append(json.dumps({"revoked": key}, separators=(",", ":")), None)

    def check(self) -> None:
        """Make sure that all is durable and nobody has taken over the run: take a number more."""
        with self._changed:
            self._waiting.append((b"", None))
            self._changed.notify_all()
            self._changed.wait_for(
                lambda: self._error is not None or not (self._waiting or self._writing)
            )
            if self._error is not None:
                raise self._error

    def _append(self, line: str, receipt: Receipt | None) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._error is not None or len(self._waiting) < _WAITING)
            if self._error is not None:
                raise self._error
            self._waiting.append((line.encode() + b"\n", receipt))
            self._changed.notify_all()

    def _work(self) -> None:
        try:
            while lines := self._take():
                self._write(b"".join(line for line, _ in lines))
                for _, receipt in lines:
                    if receipt is not None:
                        self._told(receipt)
        except Exception as error:
            with self._changed:
                self._error = error
        finally:
            with self._changed:
                self._writing = False
                self._changed.notify_all()

    def _take(self) -> list[tuple[bytes, Receipt | None]]:
        """Wait for lines, and take all there are; none at the end."""
        with self._changed:
            self._writing = False
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._over or bool(self._waiting))
            lines, self._waiting = self._waiting, []
            self._writing = bool(lines)
            self._changed.notify_all()
            return lines

    def _write(self, lines: bytes) -> None:
        place = self._folder / _name(self._next)
        try:
            place.create(self._header + lines)
        except FileExistsError as error:
            raise RunBusyError(
                f"{self._folder.parent}: another driver has taken over this run; this one stops, "
                "what it committed before stays"
            ) from error
        self._small.append((self._next, lines))
        self._next += 1
        if len(self._small) >= _MANY:
            self._compact()

    def _compact(self) -> None:
        """Replace own small objects by one; a reader may meet both, or the one alone."""
        first, last = self._small[0][0], self._small[-1][0]
        data = self._header + b"".join(lines for _, lines in self._small)
        (self._folder / f"{first:010d}-{last:010d}.jsonl").write_bytes(data)
        remove([self._folder / _name(number) for number, _ in self._small])
        self._small.clear()

    def _take_number(self) -> int:
        for _ in range(_TRIES):
            number = max((last for _, last, _ in _objects(self._folder)), default=0) + 1
            try:
                (self._folder / _name(number)).create(self._header)
            except FileExistsError:
                continue
            return number + 1
        raise RunBusyError(
            f"{self._folder.parent}: the run is busy, other drivers begin to work on it; wait for "
            "them to end, or stop them"
        )


@contextmanager
def fetch_ledger(folder: S3Path) -> Iterator[Path]:
    """Give a folder with copies of the objects that make up a ledger.

    Raises
    ------
    VerificationError
        If one is missing.
    """
    with tempfile.TemporaryDirectory(prefix="occulta-ledger-") as copies:
        for attempt in range(_TRIES):
            try:
                places = _tile(folder)
                with ThreadPoolExecutor(_AT_ONCE) as threads:
                    read = zip(places, threads.map(S3Path.read_bytes, places), strict=True)
                    for place, data in read:
                        (Path(copies) / place.name).write_bytes(data)
                break
            except (FileNotFoundError, VerificationError) as error:
                # A driver has replaced small objects since they were listed; look again.
                for copy in Path(copies).iterdir():
                    copy.unlink()
                if attempt == _TRIES - 1:
                    raise VerificationError(
                        f"{folder}: an object of the ledger is missing ({error}); restore it, or "
                        "start the run anew under another prefix"
                    ) from error
        yield Path(copies)


def _tile(folder: S3Path) -> list[S3Path]:
    """Return the objects that hold each number once, in order."""
    places, number = [], 1
    for first, last, place in sorted(_objects(folder), key=lambda found: (found[0], -found[1])):
        if last < number:
            continue  # replaced by one that holds it, too
        if first != number:
            raise VerificationError(_name(number))
        places.append(place)
        number = last + 1
    return places


def _objects(folder: S3Path) -> list[tuple[int, int, S3Path]]:
    """List the objects of a ledger: first and last number."""
    found = []
    for place in folder.below():
        first, _, last = place.stem.partition("-")
        if place.name.endswith(".jsonl") and first.isdigit():
            found.append((int(first), int(last or first), place))
    return found


def _name(number: int) -> str:
    return f"{number:010d}.jsonl"
