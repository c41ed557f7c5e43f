"""Hand jobs to an existing Ray cluster, where their drivers run, and follow them."""

from __future__ import annotations

import asyncio
import os
import re
import shlex
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from .access import INSECURE, check_access
from .calls import first_line
from .errors import ClusterLostError, OccultaError

# Before Ray: it sets what Ray reads when it is imported.
from .ray_cluster import authenticate

# isort: split
from ray.dashboard.utils import get_address_for_submission_client
from ray.exceptions import AuthenticationError
from ray.job_submission import JobStatus, JobSubmissionClient

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")
_DELAYS = (1.0, 2.0, 4.0, 8.0)
"""Seconds before each further attempt."""
_PASSING = ("No available agent", "Connection", "status code 502", "status code 503")
_OVERRIDES = ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS")
"""Variables that Ray's client prefers to the address that it is given."""
_STOP_SECONDS = 60.0

T = TypeVar("T")


@dataclass(frozen=True)
class Submission:
    """A job that was handed to a cluster."""

    id: str
    state: str
    """pending, running, succeeded, failed or stopped, as Ray says."""
    run: str
    """Its run folder; empty for jobs of others."""
    exit_code: int | None
    """That of the command, once it has ended."""


class Submissions:
    """The jobs of a cluster.

    Parameters
    ----------
    address : of the head's dashboard or control service

    Raises
    ------
    OccultaError
        If the cluster asks for no token, or refuses ours.
    ClusterLostError
        If nothing answers.
    """

    def __init__(self, address: str) -> None:
        for name in _OVERRIDES:
            os.environ.pop(name, None)
        self._url = _dashboard(address)
        self._secured = check_access(self._url)
        authenticate("token" if self._secured else "disabled")
        self._client = _again(lambda: JobSubmissionClient(self._url))

    def submit(self, name: str, job: str, run: str, python: str = "python") -> str:
        """Have the cluster run a job; return its id, which is its name.

        Parameters
        ----------
        name : a new one
        job : text of the job file, with absolute paths
        run : its run folder
        python : the interpreter on the cluster
        """
        check_name(name)
        if self._find(name) is not None:
            raise OccultaError(
                f"--name {name}: the cluster has a job of this name already; choose another "
                "one, or leave it to us"
            )
        variables = {} if self._secured else {INSECURE: "1"}
        # -P: what lies in the working directory is not imported.
        entrypoint = (
            f'exec {shlex.quote(python)} -P -m jobs.cli run job.yaml --address "$RAY_ADDRESS"'
        )
        with tempfile.TemporaryDirectory(prefix="occulta-") as folder:
            (Path(folder) / "job.yaml").write_text(job, encoding="utf-8")

            def send() -> None:
                # An earlier attempt may have arrived, and only its answer got lost.
                if self._find(name) is None:
                    self._client.submit_job(
                        entrypoint=entrypoint,
                        submission_id=name,
                        runtime_env={"working_dir": folder, "env_vars": variables},
                        metadata={"occulta_run": run},
                    )

            _again(send)
        return name

    def list(self) -> list[Submission]:
        """List the jobs that were submitted, the oldest first."""
        jobs = [job for job in _again(self._client.list_jobs) if job.submission_id]
        return [_submission(job) for job in sorted(jobs, key=lambda job: job.start_time or 0)]

    def get(self, name: str) -> Submission:
        """Return what is known about a job.

        Raises
        ------
        OccultaError
            If there is none of this name.
        """
        check_name(name)
        found = self._find(name)
        if found is None:
            raise OccultaError(
                f"{name}: the cluster has no such job; `occulta list --address {self._url}` lists "
                "those that it has"
            )
        return found

    def logs(self, name: str) -> str:
        """Return what a job has printed so far."""
        self.get(name)
        return str(_again(lambda: self._client.get_job_logs(name)))

    def follow(self, name: str) -> Iterator[str]:
        """Yield what a job prints, until it ends."""
        self.get(name)
        chunks = self._client.tail_job_logs(name)
        with asyncio.Runner() as runner:
            while True:
                try:
                    yield runner.run(anext(chunks))
                except StopAsyncIteration:
                    return
                except (OSError, RuntimeError) as error:
                    raise _lost(error) from error

    def stop(self, name: str) -> Submission:
        """Ask a job to stop, and wait until it has.

        Raises
        ------
        ClusterLostError
            If it goes on for long.
        """
        self.get(name)
        _again(lambda: self._client.stop_job(name))
        end = time.monotonic() + _STOP_SECONDS
        while (found := self.get(name)).state in ("pending", "running"):
            if time.monotonic() > end:
                raise ClusterLostError(f"{name}: still {found.state} after {_STOP_SECONDS:.0f} s")
            time.sleep(0.5)
        return found

    def _find(self, name: str) -> Submission | None:
        def look() -> Submission | None:
            try:
                return _submission(self._client.get_job_info(name))
            except RuntimeError as error:
                if "status code 404" in str(error):
                    return None
                raise

        return _again(look)


def check_name(name: str) -> None:
    """Check the name of a job before Ray sees it: Ray takes it for part of a file's path.

    Raises
    ------
    OccultaError
        If it has other characters than those that are safe everywhere.
    """
    if not _NAME.fullmatch(name):
        raise OccultaError(
            f"{name!r} is no name of a job: 1 to 63 of a-z, 0-9, dot, dash and underscore, "
            "beginning with a letter or digit"
        )


def _dashboard(address: str) -> str:
    """Return the address of the dashboard; the control service knows it."""
    if address.startswith(("http://", "https://")):
        return address.rstrip("/")
    url = f"http://{address}"
    try:
        check_access(url)
    except ClusterLostError:
        authenticate("token" if check_access(address) else "disabled")
        try:
            return f"{get_address_for_submission_client(address)}"
        except (OSError, RuntimeError, ValueError) as error:
            raise _lost(error) from error
    return url


def _submission(job: Any) -> Submission:
    run = (job.metadata or {}).get("occulta_run", "")
    state = JobStatus(job.status).value.lower()
    return Submission(job.submission_id, state, run, job.driver_exit_code)


def _again(ask: Callable[[], T]) -> T:
    """Ask, and ask again where the reason why it failed may pass."""
    for delay in (*_DELAYS, None):
        try:
            return ask()
        except AuthenticationError as error:
            raise OccultaError(f"the cluster refuses our token: {first_line(error)}") from error
        except (OSError, RuntimeError) as error:
            passes = isinstance(error, OSError) or any(text in str(error) for text in _PASSING)
            if delay is None or not passes:
                raise _lost(error) from error
            time.sleep(delay)
    raise AssertionError("unreachable")


def _lost(error: Exception) -> ClusterLostError:
    return ClusterLostError(
        f"the cluster's job service failed: {first_line(error)}; check that the cluster runs, "
        "and try again"
    )
