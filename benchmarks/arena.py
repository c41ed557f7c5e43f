"""A small run, the faults that may strike it, and what must be true of it afterwards.

`benchmarks.chaos` lets many faults strike at random; tests/chaos lets each one strike on purpose.
The run is the real command line in a process of its own, with an embedded Ray and two replicas.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

COMMAND = [sys.executable, "-c", "from jobs.cli import main; main()"]
UNITS = 48
_SIMULATION = """
kind: simulation
name: survey
preset: A
objects: 96
shard_objects: 96
replicas: 1
output: survey
"""
_ATTRIBUTION = """
kind: attribution
name: golden
survey: {format: simulated, path: survey}
network:
  architecture: occulta:small_cnn
  weights: weights.safetensors
  classes: [smooth, spiral, barred, edge_on]
  preprocess: {stretch: asinh, scale: 0.1}
methods:
  - {method: occlusion, window: 8, stride: 8}
  - {method: integrated_gradients, steps: 8}
execution: {micro_batch: 2, shard_objects: 2, seed: 3, replicas: 2, gpus_per_replica: 0}
output: golden
"""


@dataclass(frozen=True)
class Verdict:
    """What became of a run, compared with one that nothing ever struck."""

    lost: int
    """Units without a line in the ledger."""
    duplicated: int
    """Units with more than one line that counts."""
    changed: int
    """Files of results with other bytes, or missing."""
    quarantined: int
    """Objects without results."""
    false_complete: bool
    """It was called complete and is not what it should be."""

    @property
    def sound(self) -> bool:
        """Whether nothing is amiss."""
        return not (self.lost or self.duplicated or self.changed or self.quarantined)


class Arena:
    """A folder with a survey, a network and a golden run.

    Parameters
    ----------
    folder : empty
    job : changes to the job file, such as another network
    """

    def __init__(self, folder: Path, job: Callable[[str], str] = str) -> None:
        import torch

        from training.checkpoints import save_weights
        from training.networks import build

        self.folder = folder
        (folder / "simulation.yaml").write_text(_SIMULATION)
        (folder / "attribution.yaml").write_text(job(_ATTRIBUTION))
        torch.manual_seed(0)
        save_weights(build("occulta:small_cnn", 4, 3), folder / "weights.safetensors")
        for kind in ("simulation", "attribution"):
            self.occulta("run", f"{kind}.yaml").check_returncode()
        self.golden = _results(folder / "golden")
        self._digest = _manifest(folder / "golden")["results_digest"]

    def occulta(self, *arguments: str, seconds: float = 300) -> subprocess.CompletedProcess[str]:
        """Run a command to its end."""
        return subprocess.run(
            [*COMMAND, *arguments],
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=seconds,
            check=False,
        )

    def drive(self, run: Path, **environment: str) -> Driver:
        """Begin, or go on with, a run in a process of its own."""
        return Driver(self.folder, run, environment)

    def judge(self, run: Path) -> Verdict:
        """Compare a run with the golden one."""
        lines: Counter[str] = Counter()
        for line in ledger_lines(run):
            if "revoked" in line:
                lines[line["revoked"]] -= 1
            else:
                lines[line["key"]] += 1
        found = _results(run)
        changed = sum(found.get(path) != sha for path, sha in self.golden.items())
        lost = UNITS - sum(count > 0 for count in lines.values())
        manifest = _manifest(run)
        complete = bool(manifest.get("results_digest"))
        wrong = bool(lost or changed) or manifest.get("results_digest") != self._digest
        return Verdict(
            lost,
            sum(count > 1 for count in lines.values()),
            changed,
            (run / "quarantine.csv").read_text().count("\n") - 1 if complete else 0,
            complete and wrong,
        )


class Driver:
    """A process that drives a run; its output goes to a file."""

    def __init__(self, folder: Path, run: Path, environment: dict[str, str]) -> None:
        self.run = run
        self.log = folder / f"{run.name}.log"
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [*COMMAND, "run", "attribution.yaml", "--out", str(run)],
                cwd=folder,
                env={**os.environ, **environment},
                stdout=log,
                stderr=log,
            )

    def wait_for(self, committed: int, seconds: float = 120) -> bool:
        """Wait until so many units are committed; tell whether it still runs."""
        end = time.monotonic() + seconds
        while self.process.poll() is None and len(committed_keys(self.run)) < committed:
            if time.monotonic() > end:
                raise TimeoutError(f"{self.run}: no {committed} units within {seconds} s")
            time.sleep(0.05)
        return self.process.poll() is None

    def end(self, seconds: float = 240) -> int:
        """Wait for its end and return the exit code."""
        return self.process.wait(seconds)

    def family(self) -> dict[int, str]:
        """Return the command lines of all processes that it started, by process id."""
        children: dict[int, list[int]] = {}
        commands = {}
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                with contextlib.suppress(OSError):
                    stat = (entry / "stat").read_text().rpartition(")")[2].split()
                    children.setdefault(int(stat[1]), []).append(int(entry.name))
                    commands[int(entry.name)] = (entry / "cmdline").read_text().replace("\0", " ")
        found, todo = {}, [self.process.pid]
        while todo:
            for child in children.get(todo.pop(), []):
                found[child] = commands.get(child, "")
                todo.append(child)
        return found

    def replicas(self) -> list[int]:
        """Return the process ids of the replicas."""
        return [pid for pid, command in self.family().items() if "_ReplicaActor" in command]

    def server(self, name: str) -> int:
        """Return the process id of one of Ray's servers: gcs_server or raylet."""
        family = self.family().items()
        return next(pid for pid, command in family if f"/{name}" in command.split(" ")[0])


def kill(*pids: int, how: signal.Signals = signal.SIGKILL) -> None:
    """Send a signal to processes, some of which may be gone."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, how)


def alive(pids: Iterator[int] | dict[int, str]) -> list[int]:
    """Return the processes that still run; zombies that nobody waited for don't."""
    found = []
    for pid in pids:
        with contextlib.suppress(OSError):
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
            if state != "Z":
                found.append(pid)
    return found


def ledger_lines(run: Path) -> list[dict[str, Any]]:
    """Read the lines of a run's ledger that are whole and about units."""
    lines = []
    for segment in sorted((run / "ledger").glob("*.jsonl")):
        for line in segment.read_bytes().splitlines(keepends=True):
            with contextlib.suppress(ValueError):
                content = json.loads(line) if line.endswith(b"\n") else {}
                if "key" in content or "revoked" in content:
                    lines.append(content)
    return lines


def committed_keys(run: Path) -> list[str]:
    """Return the keys of the units that were committed, as often as they were."""
    return [line["key"] for line in ledger_lines(run) if "key" in line]


def shards(run: Path) -> list[Path]:
    """Return the files of committed units."""
    return [
        run / "results.zarr" / s["path"]
        for line in ledger_lines(run)
        if "key" in line
        for s in line["shards"]
    ]


def _results(run: Path) -> dict[str, str]:
    """Return the hashes of all result files, by path; those that nobody finished writing apart."""
    store = run / "results.zarr"
    return {
        str(path.relative_to(store)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in store.rglob("*")
        if path.is_file() and not path.name.endswith(".partial")
    }


def _manifest(run: Path) -> dict[str, Any]:
    path = run / "manifest.json"
    return json.loads(path.read_text()) if path.exists() else {}
