"""The right to write to a run: one driver has it, and loses it with its life.

Locally the operating system frees it with the process. On S3 it is an object that its owner renews;
one that was not renewed for a while is taken over. That keeps two drivers from working side by
side; what keeps a driver that lost its lease from doing harm is the ledger.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import secrets
import socket
import threading
from pathlib import Path
from typing import Any, Protocol

from .clock import now
from .errors import RunBusyError, StorageError
from .place import Place
from .remote import S3Path

_BEAT = 5.0
"""Seconds after which a lease on S3 is renewed."""
_LIFE = 20.0
"""Seconds without renewal after which another driver may take it."""


class AnyLease(Protocol):
    """The lease of one run, as one process sees it."""

    def acquire(self) -> None:
        """Take the lease, or fail at once.

        Raises
        ------
        RunBusyError
            If another process holds it.
        """
        ...

    def release(self) -> None:
        """Give the lease back; harmless when it is not held."""
        ...

    def held(self) -> bool:
        """Tell whether any process holds the lease."""
        ...


def lease_of(folder: Place) -> AnyLease:
    """Return the lease of a run.

    Parameters
    ----------
    folder : RUN/ledger
    """
    return S3Lease(folder) if isinstance(folder, S3Path) else Lease(folder)


class Lease:
    """The lease of a run on this machine."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "lease"
        self._descriptor: int | None = None

    def acquire(self) -> None:
        """Take the lease, or fail at once."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            holder = os.read(descriptor, 100).decode(errors="replace").strip() or "unknown"
            os.close(descriptor)
            raise RunBusyError(
                f"{self._path.parent.parent}: the run is busy (process {holder}); wait for it to "
                "end, or stop it"
            ) from error
        os.ftruncate(descriptor, 0)
        os.write(descriptor, f"{os.getpid()}\n".encode())
        self._descriptor = descriptor

    def release(self) -> None:
        """Give the lease back; harmless when it is not held."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def held(self) -> bool:
        """Tell whether any process holds the lease."""
        try:
            descriptor = os.open(self._path, os.O_RDONLY)
        except FileNotFoundError:
            return False
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(descriptor)
        return False


class S3Lease:
    """The lease of a run on S3."""

    def __init__(self, folder: S3Path) -> None:
        self._place = folder / "lease"
        self._clock = folder / "clock"
        self._own = {"owner": secrets.token_hex(8), **_this_process()}
        self._beats = 0
        self._over = threading.Event()
        self._one_at_a_time = threading.Lock()
        self._thread: threading.Thread | None = None

    def acquire(self) -> None:
        """Take the lease, or fail at once."""
        # Ages are differences of the server's own times: clocks of drivers may be wrong.
        self._clock.write_bytes(self._own["owner"].encode())
        holder = self._read()
        if holder is not None and not _is_dead(holder):
            age = (self._clock.modified() - self._place.modified()).total_seconds()
            if age < _LIFE:
                raise RunBusyError(
                    f"{self._place.parent.parent}: the run is busy (process {holder['pid']} on "
                    f"{holder['host']}); wait for it to end, or stop it; if it died, the run is "
                    f"free in {max(1, round(_LIFE - age))} s"
                )
        self._write()
        self._thread = threading.Thread(target=self._renew, name="lease", daemon=True)
        self._thread.start()

    def release(self) -> None:
        """Give the lease back; harmless when it is not held."""
        if self._thread is None:
            return
        self._thread = None
        self._over.set()
        with self._one_at_a_time, contextlib.suppress(StorageError):
            if self._is_own(self._read()):
                self._place.unlink()

    def held(self) -> bool:
        """Tell whether any process holds the lease."""
        holder = self._read()
        if holder is None or _is_dead(holder):
            return False
        try:
            age = (now() - self._place.modified()).total_seconds()
        except FileNotFoundError:
            return False
        return age < _LIFE

    def _renew(self) -> None:
        while not self._over.wait(_BEAT):
            with self._one_at_a_time, contextlib.suppress(StorageError):
                if self._over.is_set() or not self._is_own(self._read()):
                    return  # another driver took it; the ledger will say so
                self._write()

    def _write(self) -> None:
        self._beats += 1
        self._place.write_bytes(json.dumps({**self._own, "beats": self._beats}).encode())

    def _read(self) -> dict[str, Any] | None:
        try:
            holder = json.loads(self._place.read_bytes())
        except FileNotFoundError:
            return None
        except ValueError:
            return {"owner": "", "host": "an unknown machine", "pid": "unknown", "began": ""}
        assert isinstance(holder, dict)
        return holder

    def _is_own(self, holder: dict[str, Any] | None) -> bool:
        return holder is not None and bool(holder["owner"] == self._own["owner"])


def _this_process() -> dict[str, str]:
    pid = str(os.getpid())
    return {"host": _host(), "pid": pid, "began": _began(pid)}


def _is_dead(holder: dict[str, Any]) -> bool:
    """Tell whether a process of this machine is known to have ended."""
    return bool(holder["host"] == _host() and holder["began"] != _began(holder["pid"]))


def _host() -> str:
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        # Containers of one machine see different processes under one boot.
        space = str(Path("/proc/self/ns/pid").readlink())
    except OSError:
        boot = space = ""
    return f"{socket.gethostname()} {boot[:8]} {space}".strip()


def _began(pid: str) -> str:
    """Return when a process began, in ticks since the boot; empty if there is none."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return ""
