"""The pools pass one conformance suite; RayPool also survives what only happens to processes."""

import os
from pathlib import Path

import pytest
from conformance.pools import (
    Bench,
    NoGalaxyError,
    PoolConformance,
    PoolOpeningConformance,
    sha256s,
    wait_until,
)

from cluster import ray_pool
from cluster.calls import Lost
from cluster.errors import ClusterLostError, OccultaError, RetriesExhaustedError
from cluster.placement import Placement
from cluster.pool import SerialPool
from cluster.ray_cluster import ray_cluster
from cluster.ray_pool import RayPool
from cluster.unit import WorkUnit

TESTS = Path(__file__).parents[1]
MOON = Placement(labels={"zone": "moon"})


class Serial:
    @classmethod
    def open_pool(cls, workload, store):
        return SerialPool(workload, store)


class TestSerialPool(Serial, PoolConformance):
    pass


class TestOpeningSerialPool(Serial, PoolOpeningConformance):
    pass


@pytest.fixture(scope="module")
def cluster():
    with pytest.MonkeyPatch.context() as patch:
        # Workers import the suite's workload like any other module.
        patch.setenv("PYTHONPATH", str(TESTS), prepend=os.pathsep)
        with ray_cluster(None, cpus=2):
            yield


@pytest.mark.usefixtures("cluster")
class OnRay:
    @classmethod
    def open_pool(cls, workload, store):
        return RayPool(workload, store, replicas=2)


class TestRayPool(OnRay, PoolConformance):
    def test_units_are_computed_elsewhere(self, bench):
        (receipt,) = bench.run(bench.units(1)).values()
        assert not receipt.worker.endswith(f":{os.getpid()}")

    @pytest.mark.parametrize("ballast", [0, 1 << 20])
    def test_partials_never_come_to_the_driver(self, bench, ballast):
        (bench.desk.folder / "calls of unpack").unlink(missing_ok=True)
        bench.desk.set_ballast(ballast)
        units = bench.units(3, shares=3)
        bench.run(units)
        unpackers = bench.desk.pids("unpack")
        assert len(unpackers) == 9
        assert os.getpid() not in unpackers

    @pytest.mark.parametrize(
        ("step", "shares", "faults", "others"),
        [
            ("compute {}", 1, ["kill", "exit"], 4),
            ("partial {} 1", 3, ["exit"], 4),
            ("finish {}", 3, ["kill"], 0),
        ],
    )
    def test_a_unit_whose_replica_dies_is_tried_again(
        self, bench, monkeypatch, step, shares, faults, others
    ):
        bad, *good = bench.units(1 + others, shares)
        step = step.format(bad.key.start)
        bench.desk.plan_faults(step, *faults)
        events, wait = [], bench.pool.wait
        monkeypatch.setattr(bench.pool, "wait", lambda s: events.append(wait(s)) or events[-1])
        receipts = bench.run([bad, *good])
        assert sum(isinstance(event, Lost) for event in events) == len(faults)
        pids = bench.desk.pids(step)
        assert len(set(pids)) == len(pids) == len(faults) + 1
        # Whoever waited at the door of the dead is innocent.
        attempts = {receipt.key: receipt.attempt for receipt in receipts.values()}
        assert attempts == {str(bad.key): len(pids)} | {str(unit.key): 1 for unit in good}
        uncut = bench.run([WorkUnit(bad.key)])
        assert sha256s(uncut[str(bad.key)]) == sha256s(receipts[str(bad.key)])

    def test_partials_outlive_the_replica_that_computed_them(self, bench):
        # The fifth share is handed to a replica of which one share has arrived already.
        (unit,) = bench.units(1, shares=5)
        start = unit.key.start
        bench.desk.plan_faults(f"partial {start} 4", "kill")
        bench.run([unit])
        dead, _ = bench.desk.pids(f"partial {start} 4")
        others = [bench.desk.pids(f"partial {start} {share}") for share in range(4)]
        assert [dead] in others
        assert dead not in bench.desk.pids(f"finish {start}")

    def test_all_replicas_may_die_at_once(self, bench):
        units = bench.units(8)
        for unit in units[2:4]:
            bench.desk.plan_faults(f"compute {unit.key.start}", "kill")
        bench.run(units)

    def test_a_unit_that_always_kills_its_replica_is_named(self, bench):
        bad, *good = bench.units(4)
        bench.desk.plan_faults(f"compute {bad.key.start}", *["kill"] * 9)
        with pytest.raises(RetriesExhaustedError, match=rf"unit {bad.key} failed 6 times, last "):
            list(bench.pool.run([bad, *good]))
        assert len(bench.desk.pids(f"compute {bad.key.start}")) == 6

    def test_more_replicas_than_the_cluster_has_room_for_are_refused(self, bench):
        with pytest.raises(OccultaError, match=r"^3 replicas .* needs 1 CPU; .* has room for 2 "):
            RayPool(bench.workload, bench.store, replicas=3)
        half = Placement(gpus=0.5)
        with pytest.raises(OccultaError, match=r"^2 replicas .* and 0.5 GPU; .* has room for 0 "):
            RayPool(bench.workload, bench.store, replicas=2, placement=half)
        with pytest.raises(OccultaError, match=r"of a node with zone=moon; .* has room for 0 "):
            RayPool(bench.workload, bench.store, replicas=range(1, 9), placement=MOON)


class TestOpeningRayPool(OnRay, PoolOpeningConformance):
    @pytest.mark.slow
    @pytest.mark.parametrize(("fault", "code"), [("kill", "replica_died"), ("stay", "no_answer")])
    def test_an_object_that_kills_or_hangs_is_left_out(self, tmp_path, fault, code):
        bench = Bench(tmp_path)
        units = bench.units(3)
        guilty = units[1].key.start + 3
        bench.desk.poison(guilty, fault)
        with RayPool(bench.workload, bench.store, replicas=2, unit_seconds=5) as bench.pool:
            receipts = {receipt.key: receipt for receipt in bench.pool.run(units)}
        assert [len(receipts[str(unit.key)].failures) for unit in units] == [0, 1, 0]
        (failure,) = receipts[str(units[1].key)].failures
        assert (failure.index, failure.code) == (guilty, code)

    @pytest.mark.slow
    def test_replicas_come_while_there_is_work_and_go_when_there_is_none(self, tmp_path):
        bench = Bench(tmp_path)
        units = bench.units(40)
        incidents = []
        with RayPool(bench.workload, bench.store, replicas=range(1, 3)) as bench.pool:
            assert bench.pool.ready == [0]
            # The first unit waits for the second replica.
            bench.desk.plan_faults(f"compute {units[0].key.start}", "meet")
            bench.desk.plan_faults(f"compute {units[9].key.start}", "meet")
            receipts = list(bench.pool.run(units, incidents.append))
            assert len(bench.pool.ready) == 1
        bench.check(units, receipts)
        assert [incident.what for incident in incidents] == ["joined"]

    def test_a_replica_that_dies_at_its_start_is_an_error_and_takes_the_others_along(
        self, tmp_path
    ):
        bench = Bench(tmp_path)
        bench.desk.plan_faults("open", "exit")
        with pytest.raises(ClusterLostError) as caught, self.open_pool(bench.workload, bench.store):
            raise AssertionError("the pool opened")
        assert str(caught.value).startswith("a replica could not start: The actor ")
        wait_until(lambda: not any(map(alive, bench.desk.pids("open"))))

    def test_other_code_is_refused_before_the_workload_is_unpacked(self, tmp_path, monkeypatch):
        bench = Bench(tmp_path)
        monkeypatch.setattr(ray_pool, "code_digest", lambda: "another")
        with (
            pytest.raises(OccultaError, match=r"imported other code than the driver, from .*jobs;"),
            self.open_pool(bench.workload, bench.store),
        ):
            raise AssertionError("the pool opened")
        assert bench.desk.pids("open") == []

    def test_a_run_that_the_user_stops_leaves_no_replica_behind(self, tmp_path):
        bench = Bench(tmp_path)
        units = bench.units(8)
        pool = self.open_pool(bench.workload, bench.store)
        with pytest.raises(KeyboardInterrupt), pool:  # noqa: PT012
            for _ in pool.run(units):
                raise KeyboardInterrupt
        replicas = bench.desk.pids("open")
        assert len(replicas) == 2
        wait_until(lambda: not any(map(alive, replicas)))

    def test_a_replica_that_dies_at_its_start_is_replaced_again_and_one_that_refuses_ends_the_run(
        self, tmp_path
    ):
        bench = Bench(tmp_path)
        bad, *good = bench.units(3)
        bench.desk.plan_faults(f"compute {bad.key.start}", "kill")
        bench.desk.plan_faults("open", "ok", "ok", "exit", "speak")
        with (
            self.open_pool(bench.workload, bench.store) as pool,
            pytest.raises(NoGalaxyError, match="no galaxy at open"),
        ):
            # Enough to keep the other replica busy until the new one is there.
            list(pool.run([bad, *good] * 10_000))


def alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
