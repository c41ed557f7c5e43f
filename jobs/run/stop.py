"""Stop a run from its folder alone, on whichever machine sees it."""

from __future__ import annotations

import _thread
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from cluster.errors import RunBusyError, StorageError
from cluster.lease import lease_of
from cluster.place import Place, write_at

from ..errors import RefusedError
from .status import read_manifest

_REQUEST = "ledger/stop"
"""A file that asks the driver to stop; who finds it takes it away."""
_LOOK_SECONDS = 1.0
_STOP_SECONDS = 60.0


def stop_run(run: Place, seconds: float = _STOP_SECONDS) -> None:
    """Ask the driver of a run to stop, and wait until it has: what is committed stays.

    Raises
    ------
    RefusedError
        If there is no run, or nobody works on it.
    RunBusyError
        If the driver does not stop: it is frozen, or its machine is.
    """
    read_manifest(run)
    lease = lease_of(run / "ledger")
    if not lease.held():
        raise RefusedError(f"{run}: nothing runs; `occulta status {run}` tells how far it is")
    write_at(run / _REQUEST, b"")
    end = time.monotonic() + seconds
    while lease.held():
        if time.monotonic() > end:
            raise RunBusyError(
                f"{run}: its driver has not stopped within {seconds:.0f} s; "
                f"end the process that {run / 'ledger' / 'lease'} names"
            )
        time.sleep(_LOOK_SECONDS / 5)


@contextmanager
def stoppable(run: Place) -> Iterator[None]:
    """Let `stop_run` end what this thread, the main one, does meanwhile, as SIGTERM would."""
    request, done = run / _REQUEST, threading.Event()
    request.unlink(missing_ok=True)  # was meant for a driver before

    def look() -> None:
        while not done.wait(_LOOK_SECONDS):
            with suppress(StorageError):  # which the work itself will meet
                if request.is_file():
                    request.unlink(missing_ok=True)
                    _thread.interrupt_main(signal.SIGTERM)
                    return

    watcher = threading.Thread(target=look, name="stop", daemon=True)
    watcher.start()
    try:
        yield
    finally:
        done.set()
        watcher.join()
