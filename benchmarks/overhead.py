"""What the machinery costs: 10^6 planned objects in 10^5 units, with an empty method.

The units go through the real plan, scheduler, Ray pool, ledger, history, metrics and finalisation,
on an embedded Ray with two replicas, in a process of its own. Then the same with units that take a
while, to see how much of the wall time is lost. The goals: 3 % of the wall time of a real run at
most, a driver whose memory does not grow with the units, a ledger of 10^5 units read in 2 s.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.driver_memory import EmptyWorkload, write_catalogue

UNITS, UNIT_OBJECTS, REPLICAS = 100_000, 10, 2
TAKING = ((0.02, 1000), (0.1, 400), (1.0, 60))
"""Seconds that a unit takes, and how many there are, in runs whose lost time is measured."""
UNIT_WALL_SECONDS = 32 * 0.0407
"""A unit of benchmarks/results/pipeline.txt: 32 objects of 40.7 ms each, on 2 replicas."""


@dataclass
class Times:
    """Wall time and this process's CPU time by name, and its memory in MB; a subscriber."""

    wall: dict[str, float] = field(default_factory=dict)
    cpu: dict[str, float] = field(default_factory=dict)
    memory: dict[str, float] = field(default_factory=dict)
    units: int = 0
    """Of the run; the memory is noted after the first 1000, half and all of them."""
    count: int = 0

    def mark(self, name: str) -> None:
        """Note the time and the memory."""
        self.wall[name], self.cpu[name] = time.perf_counter(), time.process_time()
        self.memory[name] = memory_mb()

    def __call__(self, event: Any) -> None:
        """Mark the first unit, the last one so far, and the end."""
        from cluster.events import RunFinished, RunStarted, UnitCommitted

        if isinstance(event, RunStarted):
            self.mark("started")
        elif isinstance(event, UnitCommitted):
            self.count += 1
            if self.count in (1000, self.units // 2, self.units):
                self.mark(f"{self.count} units")
            self.wall["last"], self.cpu["last"] = time.perf_counter(), time.process_time()
        elif isinstance(event, RunFinished):
            self.mark("finished")

    @contextmanager
    def around(self, name: str) -> Iterator[None]:
        """Note how long something takes."""
        wall, cpu = time.perf_counter(), time.process_time()
        yield
        self.wall[name] = time.perf_counter() - wall
        self.cpu[name] = time.process_time() - cpu


def memory_mb() -> float:
    """Return the memory that this process holds now."""
    (line,) = (x for x in Path("/proc/self/status").read_text().splitlines() if "VmRSS" in x)
    return int(line.split()[1]) / 1024


class SleepingWorkload(EmptyWorkload):
    """Units that take a fixed time."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    def compute(self, key: Any) -> Any:
        """Sleep."""
        time.sleep(self.seconds)
        return super().compute(key)


def make_plan(folder: Path, workload: Any, units: int, catalogue: bool = False) -> Any:
    """Plan a run of so many units."""
    from cluster.unit import UnitGrid
    from jobs.plan import Plan
    from jobs.specs.jobs import SimulationJob
    from jobs.specs.survey import SurveySpec
    from jobs.survey.describe import read_catalogue

    objects = units * UNIT_OBJECTS
    job = SimulationJob(
        kind="simulation", name="empty", preset="A", objects=objects, output=str(folder / "run")
    )
    spec = SurveySpec(format="fits", path=str(folder), catalogue=str(folder / "catalogue.parquet"))
    return Plan(
        job,
        workload,
        UnitGrid(objects, UNIT_OBJECTS),
        range(REPLICAS, REPLICAS + 1),
        {"spec": job.digest()},
        catalogue=read_catalogue(spec) if catalogue else None,
    )


def measure_empty(folder: Path, units: int) -> dict[str, float]:
    """Run empty units, and read what is left of them."""
    from cluster.ledger import Ledger
    from jobs.run.local import run_on_ray
    from jobs.run.status import read_status

    times = Times(units=units)
    write_catalogue(str(folder), units * UNIT_OBJECTS)
    plan = make_plan(folder, EmptyWorkload(), units, catalogue=True)
    times.mark("planned")
    run_on_ray(plan, None, [times])
    run = folder / "run"
    with times.around("ledger"):
        count = sum(1 for _ in Ledger(run / "ledger").receipts())
    assert count == units, count
    with times.around("status"):
        assert read_status(run).state == "complete"
    each = 1e3 / units
    return {
        "units": units,
        "objects": units * UNIT_OBJECTS,
        "unit_wall_ms": each * (times.wall["last"] - times.wall["started"]),
        "unit_driver_cpu_ms": each * (times.cpu["last"] - times.cpu["started"]),
        "finalise_wall_s": times.wall["finished"] - times.wall["last"],
        "finalise_cpu_s": times.cpu["finished"] - times.cpu["last"],
        "ledger_wall_s": times.wall["ledger"],
        "ledger_cpu_s": times.cpu["ledger"],
        "status_wall_s": times.wall["status"],
        "planned_mb": times.memory["planned"],
        "started_mb": times.memory["started"],
        "after_1000_mb": times.memory["1000 units"],
        "after_half_mb": times.memory[f"{units // 2} units"],
        "after_all_mb": times.memory[f"{units} units"],
        "finished_mb": times.memory["finished"],
        "ledger_unit_bytes": size(run / "ledger") / units,
        "history_unit_bytes": size(run / "events.jsonl") / units,
    }


def measure_parts(folder: Path) -> dict[str, float]:
    """Measure what one unit costs in each part alone, in milliseconds of wall and of CPU time."""
    from cluster.events import UnitCommitted
    from cluster.ledger import Ledger
    from jobs.run.events import EventLog

    receipt = typical_receipt()
    event = UnitCommitted.of(receipt)
    log = EventLog(folder / "events.jsonl")
    found = {}
    (folder / "ledger").mkdir()
    with Ledger(folder / "ledger").append() as ledger:
        found |= timed("ledger", 2000, lambda: ledger.commit(receipt))
    return found | timed("history", 10_000, lambda: log(event))


def timed(name: str, times: int, do: Callable[[], object]) -> dict[str, float]:
    """Return the milliseconds that one call takes."""
    wall, cpu = time.perf_counter(), time.process_time()
    for _ in range(times):
        do()
    return {
        f"{name}_wall_ms": (time.perf_counter() - wall) * 1e3 / times,
        f"{name}_cpu_ms": (time.process_time() - cpu) * 1e3 / times,
    }


def typical_receipt() -> Any:
    """Return the receipt of a unit of a job with four methods and their summaries."""
    from cluster.unit import Receipt, ShardReceipt

    shards = tuple(
        ShardReceipt(f"summary/method_{n}/half_light_radius/c.12345.0", "ab" * 32, 123456)
        for n in range(20)
    )
    return Receipt("0000000000-0000001024", shards, (), "cd" * 32, 9, 9, 1.5, "host:1", 1)


def measure_taking(folder: Path, seconds: float, units: int) -> dict[str, float]:
    """Return the share of the wall time that is lost with units that take a fixed time."""
    from jobs.run.local import run_on_ray

    times = Times()
    run_on_ray(make_plan(folder, SleepingWorkload(seconds), units), None, [times])
    wall = times.wall["last"] - times.wall["started"]
    return {"seconds": seconds, "units": units, "lost": 1 - units * seconds / REPLICAS / wall}


def size(path: Path) -> int:
    """Return the bytes of a file, or of all files in a folder."""
    return sum(file.stat().st_size for file in (path.iterdir() if path.is_dir() else [path]))


def child(*arguments: object) -> dict[str, float]:
    """Measure in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "benchmarks.overhead", "child", folder]
        command += [str(argument) for argument in arguments]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
    result: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return result


def main() -> None:
    """Measure everything, and print it."""
    units = int(sys.argv[1]) if len(sys.argv) > 1 else UNITS
    empty = child("empty", units)
    print(f"{empty['objects']:,} objects, {units:,} empty units, {REPLICAS} replicas, 2 cores")
    for name, value in empty.items():
        if name not in ("units", "objects"):
            print(f"{name:22} {value:10.3f}")
    share = empty["unit_driver_cpu_ms"] / 1e3 / UNIT_WALL_SECONDS
    print(f"driver's CPU time by the wall time of a unit of benchmarks.pipeline {share:.5f}")
    print("one unit in the driver, by part, with a receipt of 20 shards")
    for name, value in child("parts").items():
        print(f"{name:22} {value:10.3f}")
    print("wall time lost, with units that take a while (goal: 0.03 or less)")
    for seconds, count in TAKING:
        rounds = [
            child("taking", seconds, count)["lost"] for _ in range(3 if units == UNITS else 1)
        ]
        shown = ", ".join(f"{lost:.4f}" for lost in rounds)
        print(f"{seconds:5} s per unit       {statistics.median(rounds):10.4f}   ({shown})")


def measure(kind: str, folder: Path, arguments: list[str]) -> dict[str, float]:
    """Measure one thing in this process."""
    if kind == "empty":
        return measure_empty(folder, int(arguments[0]))
    if kind == "parts":
        return measure_parts(folder)
    return measure_taking(folder, float(arguments[0]), int(arguments[1]))


if __name__ == "__main__":
    if sys.argv[1:2] == ["child"]:
        print(json.dumps(measure(sys.argv[3], Path(sys.argv[2]), sys.argv[4:])))
    else:
        main()
