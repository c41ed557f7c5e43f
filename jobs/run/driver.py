"""One driver's time with a run: the sole right to write to it, and the last word in its history."""

from __future__ import annotations

import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress

from cluster.errors import StorageError
from cluster.events import RunEnded, Subscriber, announce
from cluster.lease import lease_of
from cluster.place import Place

from .remote_events import recording
from .status import EVENTS, MANIFEST
from .stop import stoppable

_TRACEBACK = 20_000
"""Characters of a traceback that are kept."""


@contextmanager
def driving(run: Place, subscribers: Sequence[Subscriber]) -> Iterator[Sequence[Subscriber]]:
    """Hold a run's lease; when the work ends with an error, say so to all subscribers.

    Gives the subscribers with the run's own history first. What fails before there is a manifest
    leaves no history: nothing was begun.

    Raises
    ------
    RunBusyError
        If another driver works on the run.
    """
    lease = lease_of(run / "ledger")
    lease.acquire()
    try:
        with recording(run / EVENTS) as log:
            everyone: Sequence[Subscriber] = (log, *subscribers)
            try:
                with stoppable(run):
                    yield everyone
            except BaseException as error:
                # Where the history can't be written either, the error is still the one to tell.
                with suppress(StorageError):
                    _tell_end(run, error, everyone)
                raise
    finally:
        lease.release()


def _tell_end(run: Place, error: BaseException, subscribers: Sequence[Subscriber]) -> None:
    if (run / MANIFEST).exists():
        stopped = isinstance(error, KeyboardInterrupt | SystemExit)
        reason = "it was told to stop" if stopped else str(error) or type(error).__name__
        trace = "" if stopped else "".join(traceback.format_exception(error))[-_TRACEBACK:]
        announce(RunEnded("stopped" if stopped else "failed", reason, trace), subscribers)
