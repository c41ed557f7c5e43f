"""Ends what an embedded cluster leaves behind when its driver has ended. A program of its own.

Ray's servers notice by themselves that a driver is gone, but some of its agents take a minute, or
stay for good where a server died before. This process reads from a pipe whose writing end only the
driver has: when that closes, the driver is done with the cluster, or was killed. Then it waits a
little, ends the processes of the cluster that are left, and removes the cluster's folder.
"""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

_LOOK_SECONDS = 2.0
_GRACE_SECONDS = 5.0

Process = tuple[int, str]
"""Process id and time of its start: ids are used again."""


@contextlib.contextmanager
def reaper(folder: str) -> Iterator[None]:
    """Watch over the processes whose command line names a folder, and those that they start."""
    # Isolated and by its path: it must not matter what lies in the working directory. In a session
    # of its own, Ctrl-C does not reach it.
    watcher = subprocess.Popen(
        [sys.executable, "-I", __file__, folder], stdin=subprocess.PIPE, start_new_session=True
    )
    assert watcher.stdin is not None
    with watcher.stdin:
        yield


def _watch(folder: str) -> None:
    family: set[Process] = set()
    while not select.select([sys.stdin], [], [], _LOOK_SECONDS)[0]:
        family = _family(folder, family)
    family = _family(folder, family)
    end = time.monotonic() + _GRACE_SECONDS
    while (left := family & _processes().keys()) and time.monotonic() < end:
        time.sleep(0.2)
    for pid, _ in left:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    shutil.rmtree(folder, ignore_errors=True)


def _family(folder: str, known: set[Process]) -> set[Process]:
    """Return the processes that name a folder, those known before, and all their descendants."""
    processes = _processes()
    family = {
        process
        for process, (_, command) in processes.items()
        if process in known or folder in command
    }
    while True:
        pids = {pid for pid, _ in family}
        new = {process for process, (parent, _) in processes.items() if parent in pids} - family
        if not new:
            return {process for process in family if process[0] != os.getpid()}
        family |= new


def _processes() -> dict[Process, tuple[int, str]]:
    """Return the parent and the command line of every process that runs."""
    found = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                # The name, in parentheses, may hold anything; state, parent and more follow.
                fields = (entry / "stat").read_text(errors="replace").rpartition(")")[2].split()
                if fields[0] != "Z":
                    command = (entry / "cmdline").read_text(errors="replace")
                    found[int(entry.name), fields[19]] = int(fields[1]), command
    return found


if __name__ == "__main__":
    _watch(sys.argv[1])
