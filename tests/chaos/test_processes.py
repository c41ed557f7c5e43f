"""Processes of a run are killed or frozen: it ends with the golden run's bytes all the same."""

import json
import signal
import time
from pathlib import Path

import pytest
from conformance.pools import wait_until

from benchmarks.arena import alive, committed_keys, kill, shards
from jobs.run.status import read_status

ROOT = Path(__file__).parents[2]
CLOCK = """
import time
real = time.time
time.time = lambda: real() + {days} * 86400
"""
"""What Python imports at its start, in the driver and in its replicas."""
STOP_SECONDS = 3
"""What we promise; tests allow a busy machine more."""


def sound(arena, run):
    verdict = arena.judge(run)
    assert verdict.sound, verdict
    assert not verdict.false_complete
    assert read_status(run).state == "complete"


def finish(arena, run):
    """Resume a run to its end; units that were committed before are not touched."""
    before = committed_keys(run)
    kept = {path: path.stat().st_mtime_ns for path in shards(run)}
    assert arena.drive(run).end() == 0
    assert committed_keys(run)[: len(before)] == before
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    sound(arena, run)


def history(run, event):
    lines = (run / "events.jsonl").read_text().splitlines()
    return [found for line in lines if (found := json.loads(line))["event"] == event]


def gone(family, seconds=60):
    """Check that no process of a family goes on for long."""
    end = time.monotonic() + seconds
    while left := alive(family):
        assert time.monotonic() < end, {pid: family[pid] for pid in left}
        time.sleep(0.1)


def test_replicas_that_are_killed_or_frozen_cost_only_time(arena, run):
    driver = arena.drive(run)
    assert driver.wait_for(1)
    kill(*driver.replicas()[:1])
    assert driver.wait_for(4)
    frozen = driver.replicas()[:1]
    kill(*frozen, how=signal.SIGSTOP)
    assert driver.wait_for(8)
    kill(*frozen, how=signal.SIGCONT)
    kill(*driver.replicas())
    family = driver.family()
    assert driver.end() == 0
    sound(arena, run)
    disturbed = [event["what"] for event in history(run, "WorkDisturbed")]
    assert disturbed.count("lost") >= 2
    assert disturbed.count("joined") >= 1
    gone(family)


def test_a_driver_that_is_killed_leaves_no_process_and_its_run_is_resumed(arena, run):
    driver = arena.drive(run)
    assert driver.wait_for(2)
    family = driver.family()
    kill(driver.process.pid)
    assert driver.end() == -signal.SIGKILL
    assert read_status(run).state == "interrupted"
    gone(family)
    finish(arena, run)


@pytest.mark.parametrize(
    ("how", "code"),
    [
        (signal.SIGINT, 130),
        pytest.param(signal.SIGTERM, 143, marks=pytest.mark.slow),
        pytest.param("stop", 143, marks=pytest.mark.slow),
    ],
)
def test_a_run_that_is_stopped_ends_in_order(arena, run, how, code):
    driver = arena.drive(run)
    assert driver.wait_for(2)
    family = driver.family()
    began = time.monotonic()
    if how == "stop":
        done = arena.occulta("stop", str(run))
        assert (done.returncode, done.stdout) == (0, "")
        assert done.stderr == f"{run}: stopped\nto go on: occulta resume {run}\n"
    else:
        kill(driver.process.pid, how=how)
    assert driver.end() == code
    assert time.monotonic() - began < 10 * STOP_SECONDS
    assert driver.log.read_text().splitlines()[-1] == f"to go on: occulta resume {run}"
    assert read_status(run).state == "stopped"
    gone(family)
    finish(arena, run)


@pytest.mark.slow
def test_everything_may_be_killed_at_once(arena, run):
    driver = arena.drive(run)
    assert driver.wait_for(2)
    kill(driver.process.pid, *driver.family())
    driver.end()
    finish(arena, run)


@pytest.mark.slow
@pytest.mark.parametrize("server", ["gcs_server", "raylet"])
def test_a_cluster_that_is_lost_ends_the_run_with_the_command_to_go_on(arena, run, server):
    driver = arena.drive(run)
    wait_until(lambda: len(driver.replicas()) == 2)
    replicas = driver.replicas()
    assert driver.wait_for(2)
    kill(*replicas, how=signal.SIGSTOP)  # or they might be done before it is noticed
    family = driver.family()
    kill(driver.server(server))
    assert driver.end(90) == 8
    last = driver.log.read_text().splitlines()[-1]
    assert last.startswith("occulta: ")
    assert last.endswith(f"; to go on: occulta resume {run}")
    assert read_status(run).state == "failed"
    gone(family)
    finish(arena, run)


@pytest.mark.slow
def test_a_run_that_ends_well_without_its_head_leaves_no_process(arena, run):
    driver = arena.drive(run)
    assert driver.wait_for(40)
    family = driver.family()
    kill(driver.server("gcs_server"))
    assert driver.end() == 0
    sound(arena, run)
    gone(family)


@pytest.mark.slow
def test_a_frozen_driver_keeps_its_run_and_others_out(arena, run):
    driver = arena.drive(run)
    assert driver.wait_for(2)
    kill(driver.process.pid, how=signal.SIGSTOP)
    done = arena.occulta("resume", str(run))
    assert done.returncode == 4
    assert f"(process {driver.process.pid})" in done.stderr
    kill(driver.process.pid, how=signal.SIGCONT)
    assert driver.end() == 0
    sound(arena, run)


@pytest.mark.slow
def test_clocks_may_be_wrong(arena, run, tmp_path):
    for name, days in (("ahead", 400), ("behind", -400)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "sitecustomize.py").write_text(CLOCK.format(days=days))
    driver = arena.drive(run, PYTHONPATH=f"{tmp_path / 'ahead'}:{ROOT}")
    assert driver.wait_for(2)
    kill(driver.process.pid)
    driver.end()
    assert arena.drive(run, PYTHONPATH=f"{tmp_path / 'behind'}:{ROOT}").end() == 0
    sound(arena, run)
    years = [event["time"][:4] for event in history(run, "DriverStarted")]
    assert int(years[0]) > int(years[1])


def test_nothing_is_stopped_where_nothing_runs(arena):
    golden = arena.folder / "golden"
    before = {path: path.stat().st_mtime_ns for path in golden.rglob("*")}
    done = arena.occulta("stop", str(golden))
    assert done.returncode == 2
    assert "nothing runs" in done.stderr
    assert {path: path.stat().st_mtime_ns for path in golden.rglob("*")} == before
