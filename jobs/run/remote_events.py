"""The history of a run on S3, where nothing can be appended: objects of whole lines, in order."""

from __future__ import annotations

import secrets
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from cluster.clock import now
from cluster.errors import StorageError
from cluster.events import Event, Subscriber
from cluster.place import Place
from cluster.remote import S3Path

from .events import EventLog, LineMaker

_PERIOD = 1.0
"""Seconds between two writings of what happened; a driver that is killed loses as much."""
_SEGMENT = 1 << 16
"""Bytes after which a new object is begun."""


@contextmanager
def recording(place: Place) -> Iterator[Subscriber]:
    """Give a subscriber that writes down a run's history; at the end all of it is written.

    Raises
    ------
    StorageError
        At its end, if the history can't be written.
    """
    if not isinstance(place, S3Path):
        yield EventLog(place)
        return
    log = S3EventLog(place)
    try:
        yield log
    except BaseException:
        with suppress(StorageError):
            log.close()
        raise
    log.close()


class S3EventLog:
    """Writes events to objects below a prefix; a subscriber.

    The newest object is replaced by a longer one until it is long enough; its name begins with
    the time at which the driver began and belongs to it alone.

    Parameters
    ----------
    place : the prefix

    Raises
    ------
    StorageError
        From a call after events that can't be written down.
    """

    def __init__(self, place: S3Path) -> None:
        began = now().strftime("%Y%m%dT%H%M%S.%f")
        self._stem = f"{began}-{secrets.token_hex(4)}"
        self._place = place
        self._line = LineMaker()
        self._segment = b""
        self._number = 1
        self._waiting: list[bytes] = []
        self._changed = threading.Condition()
        self._closed = threading.Event()
        self._error: StorageError | None = None
        self._thread = threading.Thread(target=self._work, name="history", daemon=True)
        self._thread.start()

    def __call__(self, event: Event) -> None:
        """Take note of an event."""
        line = self._line(event)
        with self._changed:
            if self._error is not None:
                raise self._error
            self._waiting.append(line)
            self._changed.notify()

    def close(self) -> None:
        """Write down all that happened."""
        with self._changed:
            self._closed.set()
            self._changed.notify()
        self._thread.join()
        if self._error is not None:
            raise self._error

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._closed.is_set())
                lines, self._waiting = self._waiting, []
            if not lines:
                return
            try:
                self._write(b"".join(lines))
            except StorageError as error:
                with self._changed:
                    self._error = error
                return
            self._closed.wait(_PERIOD)

    def _write(self, lines: bytes) -> None:
        self._segment += lines
        (self._place / f"{self._stem}-{self._number:06d}.jsonl").write_bytes(self._segment)
        if len(self._segment) >= _SEGMENT:
            self._segment, self._number = b"", self._number + 1
