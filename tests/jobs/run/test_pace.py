"""Speed and stall alarm, by a clock of the test's own."""

import threading

import pytest

from cluster.errors import StorageError
from cluster.events import RunStalled, RunStarted, Totals, UnitCommitted
from jobs.run.pace import Speed, StallAlarm, patience

STARTED = RunStarted("/runs/a", "attribution", 9, 90, 2, Totals())


def unit(seconds):
    return UnitCommitted("key", 10, 0, 0, 0, 0, seconds, "worker", 1)


class Clock:
    now = 1000.0

    def __call__(self):
        return self.now


def speed_after(steps, began=0.0):
    """The speed after (seconds, count) steps."""
    speed, now = Speed(began), began
    for seconds, count in steps:
        now += seconds
        speed.add(now, count)
    return speed.per_second


def test_there_is_no_speed_before_anything_is_done():
    assert speed_after([]) is None
    assert speed_after([(5, 0)]) is None
    assert speed_after([(0, 7)]) is None


def test_the_speed_counts_from_the_beginning_while_the_run_is_young():
    assert speed_after([(10, 20), (10, 40)]) == 3.0


def test_the_speed_is_that_of_the_last_ten_minutes():
    assert speed_after([(10, 1)] * 100 + [(10, 50)] * 70) == 5.0


def test_where_units_take_long_it_is_that_of_the_last_few():
    assert speed_after([(3600, 36)] * 20 + [(3600, 72)] * 8) == pytest.approx(0.02)


def test_it_holds_little_whatever_the_speed():
    speed = Speed(0.0)
    for number in range(1, 20_001):
        speed.add(number * 0.01, 3)
    assert speed.per_second == pytest.approx(300.0)
    assert len(speed._marks) == 1000


def test_patience_is_ten_usual_units_and_never_below_two_minutes():
    assert patience([]) == 1800.0
    assert patience([1.0, 2.0, 900.0]) == 120.0
    assert patience([30.0, 31.0, 900.0]) == 310.0


@pytest.fixture
def alarm():
    """The alarm of a run that has begun, with its clock and what it told."""
    told, clock = [], Clock()
    alarm = StallAlarm(told.append, clock)
    clock.now += 5000.0  # replicas took long to start
    alarm(STARTED)
    return alarm, clock, told


def test_silence_before_the_first_unit_is_told_after_half_an_hour(alarm):
    alarm, clock, told = alarm
    clock.now += 1799.0
    alarm.check()
    assert told == []
    clock.now += 1.0
    alarm.check()
    assert told == [RunStalled(1800.0, None)]


def test_silence_is_told_once_and_again_each_time_it_doubles(alarm):
    alarm, clock, told = alarm
    for _ in range(5):
        clock.now += 20.0
        alarm(unit(40.0))
    for _ in range(1700):
        clock.now += 1.0
        alarm.check()
    assert told == [RunStalled(seconds, 40.0) for seconds in (400.0, 800.0, 1600.0)]


def test_a_unit_ends_the_silence(alarm):
    alarm, clock, told = alarm
    alarm(unit(1.0))
    clock.now += 130.0
    alarm.check()
    alarm(unit(1.0))
    clock.now += 119.0
    alarm.check()
    assert len(told) == 1
    clock.now += 1.0
    alarm.check()
    assert told == [RunStalled(130.0, 1.0), RunStalled(120.0, 1.0)]


def test_the_alarm_is_raised_while_the_driver_waits():
    told, clock = threading.Event(), Clock()
    alarm = StallAlarm(lambda _: told.set(), clock)
    clock.now += 10_000.0
    with alarm.watching(period=0.001):
        assert told.wait(60)
    assert "stall alarm" not in [thread.name for thread in threading.enumerate()]


def test_a_history_that_can_not_be_written_does_not_end_the_watch():
    calls, again, clock = [], threading.Event(), Clock()

    def tell(event):
        calls.append(event)
        clock.now += 1e6
        if len(calls) > 1:
            again.set()
        raise StorageError("full")

    alarm = StallAlarm(tell, clock)
    clock.now += 10_000.0
    with alarm.watching(period=0.001):
        assert again.wait(60)
