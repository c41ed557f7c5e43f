"""Connect to an existing Ray cluster, or to one of our own that nobody else can use."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import signal
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

# Before Ray is imported: it reads these once, and its usage report would need a network.
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
# How soon a signal ends a wait for Ray.
os.environ.setdefault("RAY_get_check_signal_interval_milliseconds", "200")
# A call's second reference fails with its first, which is looked at; Ray would print a traceback.
os.environ.setdefault("RAY_IGNORE_UNHANDLED_ERRORS", "1")

import ray
from ray._raylet import AuthenticationTokenLoader, Config  # type: ignore[attr-defined]

from .access import check_access, find_token
from .calls import first_line
from .errors import ClusterLostError, OccultaError
from .placement import Node
from .reaper import reaper

_TOKEN_VARIABLES = ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")
# One for all clusters of this process: Ray's counters keep the token that they began with.
_TOKEN = secrets.token_hex(32)


@contextlib.contextmanager
def ray_cluster(address: str | None, cpus: int, gpus: int = 0) -> Iterator[None]:
    """Connect to a cluster, or start one inside this process when there is no address.

    The embedded cluster has a token of its own, lives in a folder that only this user can enter,
    has no dashboard and never joins one that happens to run on this machine. Ray puts the driver's
    working directory on its workers' import path, where a user's own ``jobs.py`` would shadow ours,
    so Ray is started from an empty folder.

    Raises
    ------
    OccultaError
        If the cluster at ``address`` has no token authentication, or refuses our token.
    ClusterLostError
        If it can't be reached.
    """
    folder = Path(tempfile.mkdtemp(prefix="occulta-"))
    on_sigterm = signal.getsignal(signal.SIGTERM)
    with contextlib.ExitStack() as stack:
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        try:
            if address is None:
                stack.enter_context(_private_token(folder / "token"))
                _embed(folder, cpus, gpus)
                stack.enter_context(reaper(str(folder)))
            else:
                _connect(folder, address)
        except OccultaError:
            raise
        except (OSError, ValueError, RuntimeError) as error:
            raise ClusterLostError(
                f"no Ray cluster answers at {address or 'this machine'}: {first_line(error)}; "
                "check the address and that the cluster runs"
            ) from error
        stack.callback(ray.shutdown)
        # Ray sets a handler of its own, which ends the process with a stack of C++ frames.
        signal.signal(signal.SIGTERM, on_sigterm)
        yield


def cluster_nodes() -> list[Node]:
    """List the machines of the cluster that this process is connected to."""
    return [Node(node["Resources"], node["Labels"]) for node in ray.nodes() if node["Alive"]]


def _embed(folder: Path, cpus: int, gpus: int) -> None:
    # Ray opens its folder to everybody, so it gets one inside of ours.
    _init(
        folder,
        address="local",
        num_cpus=cpus,
        num_gpus=gpus,
        include_dashboard=False,
        _temp_dir=str(folder / "ray"),
    )


def _connect(folder: Path, address: str) -> None:
    if "://" in address:
        raise OccultaError(
            f"--address {address}: give host and port of the head's control service, such as "
            "10.0.0.7:6379"
        )
    _check_reachable(address)
    authenticate("token" if check_access(address) else "disabled")
    _init(folder, address=address)


def _init(folder: Path, **options: object) -> None:
    with contextlib.chdir(folder):
        ray.init(log_to_driver=False, logging_level="ERROR", namespace="occulta", **options)


@contextlib.contextmanager
def _private_token(path: Path) -> Iterator[None]:
    """Have Ray use a token that the environment gives, or else one that only this process knows."""
    if any(os.environ.get(name) for name in _TOKEN_VARIABLES):
        find_token()  # which also closes its file
        authenticate("token")
        yield
        return
    path.touch(mode=0o600)
    path.write_text(_TOKEN)
    os.environ["RAY_AUTH_TOKEN_PATH"] = str(path)
    authenticate("token")
    try:
        yield
    finally:
        del os.environ["RAY_AUTH_TOKEN_PATH"]
        authenticate("token")


def authenticate(mode: str) -> None:
    """Have Ray read mode and token again: it keeps what it found when it was imported."""
    os.environ["RAY_AUTH_MODE"] = mode
    Config.initialize("")
    AuthenticationTokenLoader.instance().reset_cache()


def _check_reachable(address: str) -> None:
    """Connect once: Ray itself would try for minutes, with a line for each attempt."""
    host, _, port = address.rpartition(":")
    if port.isdigit():
        socket.create_connection((host, int(port)), timeout=10).close()
