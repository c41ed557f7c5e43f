"""The history of a run: a line of JSON for each event, and what a reader makes of them.

The history tells what happened; what is committed is what the ledger says. A line can't be forged:
JSON escapes line breaks and control characters, and all that is not ASCII; secrets are hidden.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cluster.clock import timestamp
from cluster.errors import StorageError
from cluster.events import Event
from cluster.place import Place
from cluster.remote import S3Path
from cluster.text import redact, secrets

_TAIL = 1 << 18
"""Bytes at the end of a history that tell how a run is doing: the last 500 units or more."""


class LineMaker:
    """Turns events into lines of a history, without secrets."""

    def __init__(self) -> None:
        self._secrets = secrets()

    def __call__(self, event: Event) -> bytes:
        """Return the line of an event that happens now."""
        content = {"time": timestamp(), "event": type(event).__name__, **vars(event)}
        return redact(json.dumps(content, default=vars), self._secrets).encode() + b"\n"


class EventLog:
    """Appends events to a history; a subscriber.

    Parameters
    ----------
    path : the file; made with its first line

    Raises
    ------
    StorageError
        From each call that can't be written down.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._torn = _is_torn(path)
        self._line = LineMaker()

    def __call__(self, event: Event) -> None:
        """Append one line."""
        line = self._line(event)
        try:
            descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
            try:
                self._append(descriptor, line)
            finally:
                os.close(descriptor)
        except OSError as error:
            raise StorageError(
                f"{self._path}: {error.strerror}; what is committed stays: make room or mend the "
                "disk, and run again"
            ) from error

    def _append(self, descriptor: int, line: bytes) -> None:
        """Write a line, after the end of one that a full disk or a killed driver cut off."""
        view = memoryview(b"\n" + line if self._torn else line)
        self._torn = True
        while view:
            view = view[os.write(descriptor, view) :]
        self._torn = False


def _is_torn(path: Path) -> bool:
    """Tell whether the last line of a file has no end."""
    try:
        with path.open("rb") as file:
            if file.seek(0, os.SEEK_END):
                file.seek(-1, os.SEEK_END)
                return file.read() != b"\n"
    except FileNotFoundError:
        pass
    return False


class History:
    """The beginning and the end of a run's history, read without what lies between.

    Parameters
    ----------
    path : the file, or the prefix of objects; an absent one is an empty history
    """

    def __init__(self, path: Place) -> None:
        head, tail = _objects(path) if isinstance(path, S3Path) else _file(path)
        first = next(_events(head), None)
        self.latest = list(_events(tail))
        """The last events, in the order in which they happened."""
        self.started: str | None = first["time"] if first else None
        self.updated: str | None = self.latest[-1]["time"] if self.latest else self.started

    def session(self) -> list[dict[str, Any]]:
        """Return those of the latest events that happened since the last driver began."""
        for number in range(len(self.latest) - 1, -1, -1):
            if self.latest[number]["event"] in ("DriverStarted", "RunStarted"):
                return self.latest[number:]
        return self.latest


def _file(path: Path) -> tuple[bytes, bytes]:
    """Read the first line of a file, and its last ones."""
    if not path.exists():
        return b"", b""
    with path.open("rb") as file:
        head = file.readline()
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - _TAIL))
        return head, file.read()


def _objects(place: S3Path) -> tuple[bytes, bytes]:
    """Read the first line of the oldest object below a prefix, and the newest objects."""
    objects = place.below()
    if not objects:
        return b"", b""
    head, tail = objects[0].read_bytes().partition(b"\n")[0], b""
    while objects and len(tail) < _TAIL:
        tail = objects.pop().read_bytes() + tail
    return head, tail


def _events(text: bytes) -> Iterator[dict[str, Any]]:
    """Read lines; one that is torn, at the beginning or by a driver's death, is passed over."""
    for line in text.split(b"\n"):
        try:
            event = json.loads(line)
        except ValueError:
            continue
        if isinstance(event, dict) and {"time", "event"} <= event.keys():
            yield event
