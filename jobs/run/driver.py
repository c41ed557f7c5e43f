"""One driver's time with a run: the sole right to write to it, and the last word in its history."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from cluster.ledger import Lease

from .events import EventLog, RunEnded, Subscriber, announce
from .status import MANIFEST


@contextmanager
def driving(run: Path, subscribers: Sequence[Subscriber]) -> Iterator[Sequence[Subscriber]]:
    """Hold a run's lease; when the work ends with an error, say so to all subscribers.

    Gives the subscribers with the run's own history first. What fails before there is a manifest
    leaves no history: nothing was begun.

    Raises
    ------
    RunBusyError
        If another driver works on the run.
    """
    lease = Lease(run / "ledger")
    lease.acquire()
    everyone: Sequence[Subscriber] = (EventLog(run / "events.jsonl"), *subscribers)
    try:
        yield everyone
    except BaseException as error:
        if (run / MANIFEST).exists():
            stopped = isinstance(error, KeyboardInterrupt | SystemExit)
            reason = str(error) or type(error).__name__
            announce(RunEnded("stopped" if stopped else "failed", reason), everyone)
        raise
    finally:
        lease.release()
