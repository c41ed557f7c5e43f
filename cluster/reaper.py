"""Ends what an embedded cluster leaves behind when its driver is killed. A program of its own.

Ray's servers notice by themselves that a driver is gone, but some of its agents take a minute. This
process holds the reading end of a pipe whose writing end only the driver has: when that closes, the
driver is gone, however it ended. Then it waits a little, ends all processes that descended from the
driver, and removes the cluster's temporary folder.
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
from pathlib import Path

_LOOK_SECONDS = 2.0
_GRACE_SECONDS = 5.0

Process = tuple[int, str]
"""Process id and time of its start: ids are used again."""


def start_reaper(folder: str) -> subprocess.Popen[bytes]:
    """Watch over this process; keep what is returned, and close its ``stdin`` to end it."""
    # Isolated and by its path: it must not matter what lies in the working directory. In a session
    # of its own, Ctrl-C does not reach it.
    return subprocess.Popen(
        [sys.executable, "-I", __file__, str(os.getpid()), folder],
        stdin=subprocess.PIPE,
        start_new_session=True,
    )


def _watch(driver: int, folder: str) -> None:
    family: set[Process] = set()
    myself = os.getpid()
    while not select.select([sys.stdin], [], [], _LOOK_SECONDS)[0]:
        family |= _descendants({driver})
    family |= _descendants({driver} | {pid for pid, _ in family})
    family = {process for process in family if process[0] != myself}
    end = time.monotonic() + _GRACE_SECONDS
    while (left := family & _processes().keys()) and time.monotonic() < end:
        time.sleep(0.2)
    for pid, _ in left:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    shutil.rmtree(folder, ignore_errors=True)


def _descendants(ancestors: set[int]) -> set[Process]:
    """Return the processes that descend from some others."""
    parents = _processes()
    found: set[Process] = set()
    while new := {p for p, parent in parents.items() if parent in ancestors} - found:
        found |= new
        ancestors = ancestors | {pid for pid, _ in new}
    return found


def _processes() -> dict[Process, int]:
    """Return the parent of every process that runs."""
    found = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                # The name, in parentheses, may hold anything; state, parent and more follow.
                fields = (entry / "stat").read_text(errors="replace").rpartition(")")[2].split()
                if fields[0] != "Z":
                    found[int(entry.name), fields[19]] = int(fields[1])
    return found


if __name__ == "__main__":
    _watch(int(sys.argv[1]), sys.argv[2])
