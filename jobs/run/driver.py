"""One driver's time with a run: the sole right to write to it, and the last word in its history."""

from __future__ import annotations

import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from cluster.errors import StorageError
from cluster.events import RunEnded, Subscriber, announce
from cluster.ledger import Lease

from .events import EventLog
from .status import EVENTS, MANIFEST

_TRACEBACK = 20_000
"""Characters of a traceback that are kept."""


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
    everyone: Sequence[Subscriber] = (EventLog(run / EVENTS), *subscribers)
    try:
        yield everyone
    except BaseException as error:
        if (run / MANIFEST).exists():
            stopped = isinstance(error, KeyboardInterrupt | SystemExit)
            reason = str(error) or type(error).__name__
            trace = "" if stopped else "".join(traceback.format_exception(error))[-_TRACEBACK:]
            # Where the history can't be written either, the error is still the one to tell.
            with suppress(StorageError):
                announce(RunEnded("stopped" if stopped else "failed", reason, trace), everyone)
        raise
    finally:
        lease.release()
