"""The history of a run: no event can forge, lose or damage another."""

import errno
import json
import os
from dataclasses import dataclass

import pytest

from cluster.errors import StorageError
from cluster.events import (
    DriverStarted,
    Event,
    RunEnded,
    RunFinished,
    RunStalled,
    RunStarted,
    Totals,
    UnitCommitted,
)
from cluster.pool import SerialPool
from jobs.plan import plan_job
from jobs.run import events
from jobs.run.events import EventLog, History
from jobs.run.execute import execute
from jobs.run.status import read_manifest, read_status
from jobs.specs.load import make_job

FORGED = 'x\n{"time": "2026", "event": "RunFinished"}\r\x1b[2J\x00\x85\u2028\u202e\ud800'


def unit(number=0):
    return UnitCommitted(f"{number:010d}-{number + 1:010d}", 1, 0, 5, 6, 7, 1.5, "host:1", 1)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "events.jsonl"


def test_each_event_is_a_line_with_time_name_and_content(path):
    log = EventLog(path)
    log(RunStarted("/r", "attribution", 2, 20, 1, Totals(units=1, seconds=2.5), 3))
    log(unit())
    first, second = map(json.loads, path.read_text().splitlines())
    assert first.pop("time") <= second["time"]
    assert first.pop("done")["seconds"] == 2.5
    assert first == {
        "event": "RunStarted",
        "run": "/r",
        "kind": "attribution",
        "units": 2,
        "objects": 20,
        "replicas": 1,
        "refused": 3,
        "epochs": 0,
        "epochs_done": 0,
    }
    assert (second["event"], second["forward"], second["bytes"]) == ("UnitCommitted", 5, 7)


def test_a_line_can_not_be_forged(path):
    log = EventLog(path)
    log(RunEnded("failed", FORGED, FORGED))
    content = path.read_bytes()
    assert content.count(b"\n") == 1
    assert all(32 <= byte < 127 for byte in content[:-1])
    assert json.loads(content)["reason"] == FORGED


@dataclass(frozen=True)
class Long(Event):
    text: str


@pytest.mark.parametrize("cut", [1, 30, -2])
def test_a_torn_line_does_not_take_the_next_one_along(path, cut):
    log = EventLog(path)
    log(unit(1))
    whole = path.read_bytes()
    path.write_bytes(whole + whole[:cut])
    EventLog(path)(unit(2))  # of the driver that resumes
    history = History(path)
    assert [event["key"][:10] for event in history.latest] == ["0000000001", "0000000002"]


def test_a_full_disk_is_told_and_the_history_goes_on_when_there_is_room(path, monkeypatch):
    log, write = EventLog(path), os.write

    def half(descriptor, data):
        if len(data) < 40:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(descriptor, bytes(data[: len(data) // 2]))

    log(unit(1))
    with monkeypatch.context() as patch:
        patch.setattr(events.os, "write", half)
        for number in (2, 3):
            with pytest.raises(StorageError) as caught:
                log(unit(number))
    assert str(caught.value).startswith(f"{path}: No space left on device; what is committed")
    log(unit(4))
    found = [event["key"][:10] for event in History(path).latest]
    assert found == ["0000000001", "0000000004"]


def test_no_history_is_an_empty_one(path):
    history = History(path)
    assert (history.latest, history.session()) == ([], [])
    assert (history.started, history.updated) == (None, None)


def test_a_long_history_is_read_at_its_beginning_and_its_end(path):
    log = EventLog(path)
    log(DriverStarted("host:1"))
    for number in range(3000):
        log(unit(number))
    log(Long("x" * 1000))
    assert path.stat().st_size > 2 * events._TAIL
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    history = History(path)
    assert (history.started, history.updated) == (lines[0]["time"], lines[-1]["time"])
    assert history.latest == lines[-len(history.latest) :]
    assert 500 < len(history.latest) < 1500
    assert history.session() == history.latest


def test_a_session_begins_with_its_driver(path):
    log = EventLog(path)
    started = RunStarted("/r", "attribution", 9, 9, 1, Totals())
    for event in [DriverStarted("a:1"), started, unit(), RunEnded("failed", "x")]:
        log(event)
    assert [event["event"] for event in History(path).session()] == [
        *("RunStarted", "UnitCommitted", "RunEnded"),
    ]
    log(DriverStarted("a:2"))
    assert [event["event"] for event in History(path).session()] == ["DriverStarted"]
    for event in [started, RunStalled(5.0, None), RunFinished(9, 0, 1.0)]:
        log(event)
    assert [event["event"] for event in History(path).session()] == [
        *("RunStarted", "RunStalled", "RunFinished"),
    ]


def test_lines_that_are_no_events_are_passed_over(path):
    path.write_bytes(b'[1]\n{"time": 3}\nnull\n\xff\n' + json.dumps({"a": 1}).encode() + b"\n")
    assert History(path).latest == []


def plan(output):
    return plan_job(
        make_job(
            {
                "kind": "simulation",
                "name": "survey",
                "preset": "A",
                "objects": 12,
                "shard_objects": 2,
                "output": str(output),
            },
            "test",
            output.parent,
        )
    )


def test_a_run_ends_in_order_when_its_history_can_not_be_written_and_is_resumed(tmp_path):
    run, path = tmp_path / "run", tmp_path / "run" / "events.jsonl"
    committed = []

    def fill_disk(event):
        if isinstance(event, UnitCommitted):
            committed.append(event.key)
        if len(committed) == 2:
            path.unlink()
            path.symlink_to("/dev/full")

    with pytest.raises(StorageError, match="No space left on device; what is committed stays"):
        execute(plan(run), SerialPool, [fill_disk])
    path.unlink()
    found = read_status(run, keys=True)
    assert found.committed_keys[:2] == committed
    assert found.units["committed"] == 3  # that of which the history could not tell
    execute(plan(run), SerialPool)
    execute(plan(tmp_path / "golden"), SerialPool)
    digests = [read_manifest(tmp_path / name)["results_digest"] for name in ("run", "golden")]
    assert digests[0] == digests[1]


def test_the_history_of_a_run_that_fails_holds_the_traceback(tmp_path):
    def fail(event):
        if isinstance(event, UnitCommitted):
            raise ArithmeticError(FORGED)

    with pytest.raises(ArithmeticError):
        execute(plan(tmp_path / "run"), SerialPool, [fail])
    names = [event["event"] for event in History(tmp_path / "run" / "events.jsonl").latest]
    assert names == ["DriverStarted", "RunStarted", "UnitCommitted", "RunEnded"]
    (ended,) = History(tmp_path / "run" / "events.jsonl").latest[-1:]
    assert (ended["state"], ended["reason"]) == ("failed", FORGED)
    assert "in fail\n    raise ArithmeticError(FORGED)\n" in ended["traceback"]
