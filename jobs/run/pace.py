"""How fast a run goes now, and whether it still goes: from the times at which units are done."""

from __future__ import annotations

import statistics
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress

from cluster.errors import OccultaError
from cluster.events import EpochEnded, Event, RunStalled, RunStarted, Subscriber, UnitCommitted

_SPEED_SECONDS = 600
_FEWEST_MARKS = 9
"""Where units take minutes, the speed is that of the last few."""
_MOST_MARKS = 1000
_UNITS = 101
"""How many units tell what is usual."""
_FACTOR, _FLOOR, _FIRST = 10, 120.0, 1800.0


class Speed:
    """Things per second over the recent past: what the run does now, not what it did at first.

    Parameters
    ----------
    began : when the work began, in seconds
    """

    def __init__(self, began: float) -> None:
        self._marks = deque([(began, 0.0)], maxlen=_MOST_MARKS)

    def add(self, now: float, count: float) -> None:
        """Take note that so many more things are done."""
        marks = self._marks
        marks.append((now, marks[-1][1] + count))
        while len(marks) > _FEWEST_MARKS and marks[1][0] < now - _SPEED_SECONDS:
            marks.popleft()

    @property
    def per_second(self) -> float | None:
        """The speed; None before anything is done."""
        (began, before), (now, done) = self._marks[0], self._marks[-1]
        return (done - before) / (now - began) if done > before and now > began else None


def patience(seconds: Sequence[float]) -> float:
    """Return how long a run may commit nothing before that is worth a warning.

    Parameters
    ----------
    seconds : what the last units took; none if there are none yet

    Returns
    -------
    Ten times the median, but at least two minutes; half an hour before the first unit.
    """
    return max(_FLOOR, _FACTOR * statistics.median(seconds)) if seconds else _FIRST


class StallAlarm:
    """Tells when no unit is committed for much longer than units take; a subscriber.

    It says so again each time the silence has doubled.

    Parameters
    ----------
    tell : is told
    clock : seconds
    """

    def __init__(self, tell: Subscriber, clock: Callable[[], float] = time.monotonic) -> None:
        self._tell = tell
        self._clock = clock
        self._seconds: deque[float] = deque(maxlen=_UNITS)
        self._since = clock()
        self._limit = patience(())

    def __call__(self, event: Event) -> None:
        """Follow the run."""
        if isinstance(event, UnitCommitted):
            self._seconds.append(event.seconds)
        if isinstance(event, UnitCommitted | EpochEnded | RunStarted):
            self._since = self._clock()
            self._limit = patience(self._seconds)

    def check(self) -> None:
        """Tell if it is time to."""
        silent = self._clock() - self._since
        if silent >= self._limit:
            self._limit = 2 * silent
            usual = statistics.median(self._seconds) if self._seconds else None
            self._tell(RunStalled(round(silent, 1), usual))

    @contextmanager
    def watching(self, period: float = 1.0) -> Iterator[None]:
        """Check now and then, in a thread: whoever waits for a unit can't."""
        over = threading.Event()

        def watch() -> None:
            while not over.wait(period):
                # A history that can't be written ends the run at its next unit.
                with suppress(OccultaError):
                    self.check()

        thread = threading.Thread(target=watch, name="stall alarm", daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()
