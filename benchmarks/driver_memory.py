"""The driver's peak memory for runs of 10^3, 10^5 and 10^6 objects with an empty method.

Each run goes through the real catalogue, plan, template, ledger and finalisation, on an embedded
Ray with one replica, in a process of its own. The goal: flat within 200 MB, and under 1 GB.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

SIZES = (1_000, 100_000, 1_000_000)


def measure(folder: str, objects: int) -> dict[str, float]:
    """Run a job of so many objects in this process, and return its peak memory and time."""
    import time

    from cluster.unit import UnitGrid
    from jobs.plan import Plan
    from jobs.run.local import run_on_ray
    from jobs.specs.jobs import SimulationJob
    from jobs.specs.survey import SurveySpec
    from jobs.survey import Survey, open_reader
    from jobs.survey.describe import read_catalogue

    began = time.perf_counter()
    spec = SurveySpec(format="fits", path=folder, catalogue=f"{folder}/catalogue.parquet")
    survey = Survey(spec, read_catalogue(spec), open_reader(spec, 3))
    job = SimulationJob(
        kind="simulation", name="empty", preset="A", objects=objects, output=f"{folder}/run"
    )
    plan = Plan(
        job,
        EmptyWorkload(),
        UnitGrid(objects, 1024),
        range(1, 2),
        {"survey": survey.digest()},
        catalogue=survey.catalogue,
        failures=tuple(survey.catalogue.failures()),
    )
    run_on_ray(plan, None)
    seconds = time.perf_counter() - began
    # Not getrusage: its maximum survives exec, so it would be the parent's.
    (line,) = (x for x in Path("/proc/self/status").read_text().splitlines() if "VmHWM" in x)
    peak = int(line.split()[1]) / 1024
    return {"objects": objects, "peak_mb": round(peak), "seconds": round(seconds, 2)}


class EmptyWorkload:
    """Work without results."""

    template: Mapping[str, Any] = {}
    separable = True

    def open(self) -> EmptyWorkload:
        """Return itself."""
        return self

    def compute(self, unit: Any) -> Any:
        """Do nothing."""
        from cluster.workload import UnitResult

        return UnitResult({})

    def partial(self, unit: Any, share: int) -> None:
        """Do nothing."""

    def finish(self, unit: Any, partials: Sequence[Any]) -> Any:
        """Do nothing."""
        return self.compute(unit)

    def probe(self, unit: Any, rows: range) -> None:
        """Do nothing."""


def write_catalogue(folder: str, objects: int) -> None:
    """Write a catalogue as a survey of that size has it."""
    import numpy as np
    import pyarrow as pa
    from pyarrow import parquet

    random = np.random.default_rng(0)
    ids = pa.array([f"J{n:012d}" for n in range(objects)])
    columns = {
        "id": ids,
        "ra": random.uniform(0, 360, objects),
        "dec": random.uniform(-60, 60, objects),
        "label": pa.array(random.choice(["smooth", "spiral"], objects)),
        "file_loc": pa.array([f"{n % 1000:03d}/J{n:012d}.fits" for n in range(objects)]),
    }
    parquet.write_table(pa.table(columns), Path(folder) / "catalogue.parquet")


def main() -> None:
    """Measure every size in a process of its own, and print a table."""
    print(f"{'objects':>10} {'peak MB':>8} {'seconds':>8}")
    for objects in SIZES:
        with tempfile.TemporaryDirectory() as folder:
            write_catalogue(folder, objects)
            command = [sys.executable, "-m", "benchmarks.driver_memory", folder, str(objects)]
            result = subprocess.run(command, check=True, capture_output=True, text=True)
        row = json.loads(result.stdout)
        print(f"{row['objects']:>10} {row['peak_mb']:>8} {row['seconds']:>8}")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        print(json.dumps(measure(sys.argv[1], int(sys.argv[2]))))
    else:
        main()
