"""What a run's folder says about a run that is at work: its speed, the time left, a stall."""

import json
from datetime import UTC, datetime, timedelta

import pytest

from cluster.ledger import Lease, Ledger
from cluster.unit import ObjectFailure, Receipt, UnitKey
from jobs.cli import main
from jobs.run.status import read_status

BEGAN = datetime(2026, 7, 1, 22, tzinfo=UTC)
OBJECTS, UNIT = 1000, 10


class Running:
    """A run folder that a driver works on, without a driver."""

    def __init__(self, folder, kind="attribution", **facts):
        self.folder, self.now, self.units = folder, BEGAN, 0
        manifest = {"kind": kind, "objects": OBJECTS, "units": OBJECTS // UNIT, **facts}
        (folder / "manifest.json").write_text(json.dumps(manifest | {"quarantined_by_plan": 1}))
        (folder / "ledger").mkdir()

    def tell(self, name, **content):
        line = json.dumps({"time": self.now.isoformat(), "event": name, **content})
        with (self.folder / "events.jsonl").open("a") as file:
            file.write(line + "\n")

    def start(self, seconds=10.0):
        self.tell("DriverStarted", driver="host:1")
        self.wait(seconds)
        self.tell("RunStarted")

    def commit(self, count, each, failures=()):
        """Commit some units, one after the other."""
        with Ledger(self.folder / "ledger").append() as log:
            for _ in range(count):
                self.wait(each)
                start = self.units * UNIT
                key = str(UnitKey(start, start + UNIT))
                log.commit(Receipt(key, (), failures, "", 0, 0, each, "host:2", 1))
                self.tell("UnitCommitted", key=key, objects=UNIT, seconds=each)
                self.units += 1

    def wait(self, seconds):
        self.now += timedelta(seconds=seconds)

    def status(self):
        return read_status(self.folder, now=self.now)


@pytest.fixture
def run(tmp_path):
    lease = Lease(tmp_path / "ledger")
    run = Running(tmp_path)
    lease.acquire()
    yield run
    lease.release()


def test_a_run_that_has_just_begun_knows_no_speed(run):
    run.start()
    status = run.status()
    assert (status.state, status.objects_per_second, status.eta_seconds) == ("running", None, None)
    assert status.stalled_seconds is None


def test_speed_and_time_left_are_those_of_the_last_ten_minutes(run):
    run.start(seconds=300.0)
    run.commit(10, each=200.0)
    run.commit(65, each=10.0)
    status = run.status()
    assert status.objects_per_second == 1.0
    assert status.eta_seconds == 250.0
    assert status.line() == "running: 749 of 1,000 objects, 1 quarantined, 1/s, 0:04:10 left"


def test_a_resumed_run_goes_by_its_own_speed_and_by_all_that_is_left(run):
    run.start()
    run.commit(40, each=100.0)
    run.wait(86400)
    run.start()
    status = run.status()
    assert (status.objects_per_second, status.eta_seconds) == (None, None)
    run.commit(10, each=5.0)
    status = run.status()
    assert status.objects_per_second == 2.0
    assert status.eta_seconds == 250.0


def test_quarantined_objects_are_done_and_counted(run):
    run.start()
    failure = ObjectFailure(3, "J3", "truncated_file", "a.fits: ends early")
    run.commit(5, each=10.0, failures=(failure,))
    status = run.status()
    assert status.objects == {"total": 1000, "complete": 44, "quarantined": 6}
    assert status.eta_seconds == 950.0


def test_silence_is_a_stall_when_it_is_ten_times_what_units_take(run):
    run.start()
    run.commit(5, each=30.0)
    run.wait(299.0)
    assert run.status().stalled_seconds is None
    run.wait(1.0)
    status = run.status()
    assert status.stalled_seconds == 300.0
    assert status.line().endswith(" left, no unit for 0:05:00")
    run.commit(1, each=1.0)
    assert run.status().stalled_seconds is None


def test_the_time_before_a_resume_is_no_stall(run):
    run.start()
    run.commit(5, each=30.0)
    run.wait(86400)
    run.tell("DriverStarted", driver="host:9")
    run.wait(1700)
    assert run.status().stalled_seconds is None
    run.wait(100)
    assert run.status().stalled_seconds == 1800.0


def test_a_run_that_nobody_works_on_is_not_stalled_but_interrupted(tmp_path):
    run = Running(tmp_path)
    run.start()
    run.commit(3, each=10.0)
    run.wait(86400)
    status = run.status()
    assert (status.state, status.stalled_seconds, status.eta_seconds) == ("interrupted", None, None)
    assert status.objects_per_second == 1.0


def test_watching_gives_a_line_whenever_something_changes_until_the_end(run, monkeypatch, capsys):
    run.now = datetime.now(UTC) - timedelta(seconds=500)
    run.start(seconds=0)
    commits = iter([2, 0, 0, 1, 0])

    def sleep(_):
        """Let work go on while the command sleeps, and end with the last unit."""
        count = next(commits, None)
        if count is None:
            (run.folder / "ledger" / "lease").unlink()
        else:
            run.commit(count, each=1.0)

    monkeypatch.setattr("jobs.cli.app.time.sleep", sleep)
    monkeypatch.setattr("jobs.cli.app.signal.signal", lambda *_: None)
    monkeypatch.setattr("sys.argv", ["occulta", "status", str(run.folder), "--watch"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 0
    lines = capsys.readouterr().out.splitlines()
    # Of the commits' times, the last is 8 minutes ago: a stall.
    assert [line.split(" of")[0] for line in lines[:3]] == [
        *("running: 0", "running: 19", "running: 29"),
    ]
    assert "no unit for 0:08:1" in lines[1]
    assert lines[3].startswith("run ")
    assert "interrupted" in lines[5]


def test_a_training_run_goes_by_epochs(tmp_path):
    run = Running(tmp_path, kind="training", epochs=[100], labelled={"smooth": OBJECTS})
    (tmp_path / "history.csv").write_text("epoch\n" + "1\n" * 20)
    lease = Lease(tmp_path / "ledger")
    lease.acquire()
    try:
        run.start()
        for epoch in range(20):
            run.wait(60)
            run.tell("EpochEnded", epoch=epoch)
        run.wait(86400)
        status = run.status()
    finally:
        lease.release()
    assert (status.epochs, status.eta_seconds) == ({"total": 100, "done": 20}, 4800.0)
    assert (status.objects_per_second, status.stalled_seconds) == (None, None)
