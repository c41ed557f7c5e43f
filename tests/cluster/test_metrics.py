"""A run's counters on a cluster's own metrics endpoint equal its ledger, also after a resume."""

import os
import re
import sys
import urllib.request
from dataclasses import replace
from pathlib import Path

import pytest
from conformance.pools import Desk, Sums, wait_until

from cluster.events import RunStarted, Totals, UnitCommitted
from cluster.ledger import Ledger
from cluster.metrics import RayMetrics
from cluster.unit import ObjectFailure, UnitGrid
from jobs.plan import Plan
from jobs.run.local import run_on_ray
from jobs.run.status import STORE
from jobs.specs.jobs import SimulationJob

OBJECTS, UNIT = 46, 4


class Faulty(Sums):
    """Quarantines an object in seven, and counts rows that go backward."""

    def compute(self, unit):
        result, key = super().compute(unit), unit.key
        failures = tuple(
            ObjectFailure(row, f"J{row}", "truncated_file", "it ends early")
            for row in range(key.start, key.stop)
            if row % 7 == 0
        )
        return replace(result, failures=failures, backward=key.start + 1)


@pytest.fixture(scope="module")
def address():
    from ray.cloudpickle import register_pickle_by_value, unregister_pickle_by_value
    from ray.cluster_utils import Cluster

    register_pickle_by_value(sys.modules[__name__])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(Path(__file__).parents[1]), prepend=os.pathsep)
        cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2})
        try:
            yield cluster.address
        finally:
            cluster.shutdown()
            unregister_pickle_by_value(sys.modules[__name__])


class Endpoint:
    """Asks for the counters of one run; a subscriber, for the place is known while Ray runs."""

    def __init__(self, run):
        self.run, self.port = run, 0

    def __call__(self, event):
        if isinstance(event, RunStarted):
            import ray

            (node,) = ray.nodes()
            self.port = node["MetricsExportPort"]

    def counters(self):
        """Return the largest value of each of the run's counters."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/metrics", timeout=60) as answer:
            text = answer.read().decode()
        found = {}
        pattern = rf'^ray_occulta_(\w+)_total{{.*run="{re.escape(self.run)}".*}} (\S+)$'
        for name, value in re.findall(pattern, text, re.MULTILINE):
            found[name] = max(found.get(name, 0.0), float(value))
        return found


class PulledPlugError(Exception):
    pass


def test_counters_equal_the_ledger_also_after_a_resume(address, tmp_path):
    desk = Desk(tmp_path / "desk")
    desk.folder.mkdir()
    for start in (0, 44):
        desk.plan_faults(f"compute {start}", "fail")
    run = tmp_path / "run"
    job = SimulationJob(
        kind="simulation", name="sums", preset="A", objects=OBJECTS, output=str(run)
    )
    plan = Plan(job, Faulty(desk), UnitGrid(OBJECTS, UNIT), range(2, 3), {"spec": job.digest()})
    endpoint = Endpoint(str(run))
    units = []

    def pull_plug(event):
        units.extend([event] if isinstance(event, UnitCommitted) else [])
        if len(units) == 5:
            raise PulledPlugError

    with pytest.raises(PulledPlugError):
        run_on_ray(plan, address, [endpoint, pull_plug])
    run_on_ray(plan, address, [endpoint])

    receipts = list(Ledger(run / "ledger").receipts())
    expected = {
        "units": 12,
        "objects": OBJECTS,
        "quarantined": 7,
        "retries": sum(receipt.attempt - 1 for receipt in receipts),
        "forward": sum(receipt.forward for receipt in receipts),
        "backward": sum(range(1, OBJECTS, UNIT)),
        "bytes": sum(path.stat().st_size for path in (run / STORE / "work").glob("*/c*")),
        "seconds": sum(receipt.seconds for receipt in receipts),
    }
    assert expected["retries"] > 0
    wait_until(lambda: endpoint.counters().get("units") == 12, 180)
    found = endpoint.counters()
    if expected["seconds"] == 0:
        del expected["seconds"]
    assert found == pytest.approx(expected)


def test_units_before_a_run_count_nothing():
    metrics = RayMetrics()
    metrics(UnitCommitted("0-4", 4, 0, 0, 0, 0, 1.0, "host:1", 1))
    assert metrics._counters == {}


def test_totals_add_up():
    one, two = Totals(1, 2, 3, 4, 5, 6, 7, 0.5), Totals(seconds=1.5, units=1)
    assert one + two == Totals(2, 2, 3, 4, 5, 6, 7, 2.0)
