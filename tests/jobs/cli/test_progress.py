"""Progress on a terminal and in a log: readable with several runs, honest about the time left."""

import io
import os
import re
from dataclasses import replace

import pytest
from rich.console import Console

from cluster.events import (
    EpochEnded,
    RunEnded,
    RunFinished,
    RunStalled,
    RunStarted,
    Totals,
    UnitCommitted,
    WorkDisturbed,
)
from cluster.unit import UnitKey
from jobs.cli.progress import Progress


class Clock:
    now = 100.0

    def __call__(self):
        return self.now


def started(kind="attribution", name="why-a", units=20, committed=0, objects=400):
    done = Totals(units=committed, objects=objects * committed // units)
    return RunStarted(f"/runs/{name}", kind, units, objects, 2, done)


def fitting(epochs, done=0, fits=1):
    start = RunStarted("/runs/net", "training", fits, fits, 2, Totals())
    return replace(start, epochs=epochs, epochs_done=done)


def fit(number=0):
    return UnitCommitted(str(UnitKey(number, number + 1)), 1, 0, 0, 0, 0, 1.0, "worker", 1)


def unit(objects=20, quarantined=0):
    return UnitCommitted("key", objects, quarantined, 0, 0, 0, 1.0, "worker", 1)


def epoch(number, fit=0, epochs=8):
    return EpochEnded(number, 1.0, 1.0, 0.5, 0.5, fit, epochs)


def finished():
    return RunFinished(400, 0, 1.0)


def lines_of(events, seconds=3.0, width=40):
    """What a log receives; each event takes some seconds."""
    clock, file = Clock(), io.StringIO()
    console = Console(file=file, force_terminal=False, width=width)
    with Progress(console, clock) as progress:
        for event in events:
            progress(event)
            clock.now += seconds
    return file.getvalue().splitlines()


def test_a_log_gets_a_plain_line_every_tenth_with_the_time_left():
    lines = lines_of([started(), *[unit()] * 20, finished()])
    assert lines[0] == "attribution why-a: 0 of 400 objects"
    assert lines[1] == "attribution why-a: 40 of 400 objects (10%), 6.67/s, 0:00:54 left"
    assert lines[9] == "attribution why-a: 360 of 400 objects (90%), 6.67/s, 0:00:06 left"
    assert lines[10] == "attribution why-a: complete after 0:01:03"
    assert len(lines) == 11


def test_a_log_has_no_control_characters():
    text = "\n".join(lines_of([started(), *[unit()] * 20, finished()]))
    assert re.findall(r"[^\x20-\x7e\n]", text) == []


def test_large_units_give_one_line_each_and_a_short_last_one_no_more_than_all():
    lines = lines_of([started(units=3, objects=250), unit(100), unit(100), unit(50), finished()])
    assert [line.split(": ")[1].split(" of")[0] for line in lines[:3]] == ["0", "100", "200"]
    assert len(lines) == 4


def test_a_resumed_run_counts_what_was_done_but_not_its_time():
    lines = lines_of([started(committed=10), *[unit()] * 2])
    assert lines == [
        "attribution why-a: 200 of 400 objects",
        "attribution why-a: 240 of 400 objects (60%), 6.67/s, 0:00:24 left",
    ]


def test_runs_follow_one_another_under_their_own_names():
    first = [started("simulation", "survey-a", 1, 0, 100), unit(100), finished()]
    lines = lines_of([*first, fitting(4), epoch(1), epoch(2)])
    assert lines[0].startswith("simulation survey-a: 0 of 100 objects")
    assert lines[1].startswith("simulation survey-a: complete")
    assert lines[2:] == [
        "training net: 0 of 4 epochs",
        "training net: 1 of 4 epochs (25%), 0.333/s, 0:00:09 left",
        "training net: 2 of 4 epochs (50%), 0.333/s, 0:00:06 left",
    ]


def test_a_run_that_fails_is_not_called_complete():
    lines = lines_of([started(), unit(), RunEnded("failed", "x"), unit(), epoch(3)])
    assert lines == ["attribution why-a: 0 of 400 objects"]


def test_events_before_a_run_are_ignored():
    assert lines_of([unit(), epoch(1), finished()]) == []


def test_a_terminal_keeps_one_bar_for_each_run():
    file = io.StringIO()
    with Progress(Console(file=file, force_terminal=True, width=120)) as progress:
        for event in [
            *(started("simulation", "survey-a", 2, 0, 100), unit(50), unit(50), finished()),
            *(fitting(16, 2, fits=2), epoch(3), epoch(4), fit(), epoch(1, 1), finished()),
            *(started(committed=10), unit()),
            started(name="resumed", committed=10),
            *(started(name="short", units=3, committed=1, objects=250), unit(100), unit(100)),
        ]:
            progress(event)
        progress.say("between the [bars]")
    assert "\x1b[" in file.getvalue()
    text = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", file.getvalue())
    last = dict(re.findall(r"(\w+ [\w-]+) [^\n\d]*(\d+/\d+ +\w+)", text))
    assert {name: " ".join(done.split()) for name, done in last.items()} == {
        "simulation survey-a": "100/100 objects",
        "training net": "12/12 epochs",
        "attribution why-a": "220/400 objects",
        "attribution resumed": "200/400 objects",
        "attribution short": "250/250 objects",
    }
    assert "between the [bars]" in text


@pytest.mark.parametrize("variable", ["FORCE_COLOR", "TTY_COMPATIBLE"])
def test_a_variable_alone_does_not_make_stderr_a_terminal(monkeypatch, capsys, variable):
    monkeypatch.setenv(variable, "1")
    with Progress() as progress:
        progress(started())
        progress(unit(200))
    out, error = capsys.readouterr()
    assert out == ""
    assert "\x1b" not in error
    assert "200 of 400 objects (50%)" in error


def test_work_that_is_no_run_is_followed_too():
    clock, file = Clock(), io.StringIO()
    console = Console(file=file, force_terminal=False, width=40)
    with Progress(console, clock) as progress:
        count = progress.counter("atlas", "icons")
        for _ in range(2):  # once for each layer
            for done in (0, 16, 32, 40):
                count(done, 40)
                clock.now += 4
    once = [
        "atlas: 0 of 40 icons",
        "atlas: 16 of 40 icons (40%), 4/s, 0:00:06 left",
        "atlas: 32 of 40 icons (80%), 4/s, 0:00:02 left",
        "atlas: complete after 0:00:12",
    ]
    assert file.getvalue().splitlines() == once + once


def test_the_time_left_follows_from_the_recent_speed():
    clock, file = Clock(), io.StringIO()
    with Progress(Console(file=file, force_terminal=False), clock) as progress:
        progress(started(units=400, objects=4000))
        for number in range(120):  # ten times as fast after the first 20
            clock.now += 100.0 if number < 20 else 10.0
            progress(unit(10))
    first, *_, last = [line for line in file.getvalue().splitlines() if "left" in line]
    assert first.endswith(" 60 of 4,000 objects (2%), 0.1/s, 10:56:40 left")
    assert last.endswith(" 980 of 4,000 objects (24%), 1/s, 0:50:20 left")


def test_a_slow_run_gives_a_line_every_ten_minutes():
    lines = lines_of([started(objects=40_000), *[unit(1)] * 12], seconds=100.0)
    assert [line.split(" of")[0] for line in lines] == [
        f"attribution why-a: {done}" for done in (0, 6, 12)
    ]


def test_quarantined_objects_and_those_of_earlier_drivers_are_counted():
    done = Totals(units=10, objects=200, quarantined=3)
    begin = RunStarted("/runs/why-a", "attribution", 20, 400, 2, done, refused=1)
    lines = lines_of([begin, unit(quarantined=2), unit(20)])
    assert lines[-1].endswith("(60%), 6.67/s, 0:00:24 left, 6 quarantined")


def test_retries_and_lost_replicas_are_counted():
    troubles = [WorkDisturbed(what) for what in ("retry", "lost", "joined", "retry", "lost")]
    lines = lines_of([started(), *troubles, unit(), unit(20), WorkDisturbed("lost"), *[unit()] * 2])
    assert lines[1].endswith(" left, 2 retries, 2 replicas lost")
    assert lines[2].endswith(" left, 2 retries, 3 replicas lost")


def test_a_stall_is_a_line_and_the_run_goes_on():
    first, second = RunStalled(1800.0, None), RunStalled(320.4, 31.2)
    lines = lines_of([started(), first, *[unit()] * 2, second, finished()])
    assert lines[1] == "attribution why-a: warning: no unit is done after 0:30:00"
    assert lines[3] == (
        "attribution why-a: warning: no unit for 0:05:20, units take about 0:00:31; "
        "is the cluster well?"
    )
    assert lines[-1].startswith("attribution why-a: complete")


def test_a_name_can_forge_no_line():
    lines = lines_of([started(name="why\nattribution why-b: complete\x1b[2J")])
    assert lines == [
        "attribution why\\nattribution why-b: complete\\x1b[2J: 0 of 400 objects",
    ]


def test_a_run_goes_on_when_nobody_reads_any_more(monkeypatch):
    reader, writer = os.pipe()
    with open(writer, "w") as gone, monkeypatch.context() as patch:
        patch.setattr("sys.stderr", gone)
        with Progress() as progress:
            progress(started())
            os.close(reader)
            for event in [*[unit()] * 20, finished()]:
                progress(event)
