"""The scheduler, one step at a time: who gets which call, and what a failure leads to."""

from collections import deque

import pytest

from cluster.calls import (
    Call,
    Close,
    Deliver,
    Draw,
    Drawn,
    End,
    Failed,
    Finished,
    Joined,
    Lost,
    MemoryShortError,
    Open,
    Start,
    Tick,
    WorkFailedError,
)
from cluster.errors import ClusterLostError, OccultaError, RetriesExhaustedError
from cluster.events import WorkDisturbed
from cluster.scheduler import Scheduler
from cluster.state import Rules
from cluster.unit import LeftOut, Receipt, UnitKey, WorkUnit

DIED = RuntimeError("died")


def unit_of(number, shares=1, objects=1):
    start = number * objects
    return WorkUnit(UnitKey(start, start + objects), shares)


def receipt_of(unit):
    return Receipt(str(unit.key), (), (), "", 0, 0, 0.0, "simulated", unit.attempt)


class Run:
    """A scheduler with replicas that are ready, its units, and all that it did."""

    def __init__(self, units, replicas=2, **rules):
        if isinstance(replicas, int):
            replicas = range(replicas, replicas + 1)
        self.scheduler = Scheduler(Rules(replicas, **rules))
        self.state = self.scheduler.begin(range(replicas[0]))
        self.units = deque(units)
        self.now = 0.0
        self.actions = []
        self.calls = []
        """Calls that were begun and of which nothing was heard yet."""
        self.tell(Tick())

    def tell(self, event):
        """Let something happen; return what was done then."""
        if isinstance(event, Finished | Failed):
            self.calls.remove(event.call)
        if isinstance(event, Lost):
            self.calls = [call for call in self.calls if call.replica != event.replica]
        done, events = [], [event]
        while events:
            self.state, actions = self.scheduler.step(self.state, events.pop(), self.now)
            done += actions
            if any(isinstance(action, Draw) for action in actions):
                events.append(Drawn(self.units.popleft() if self.units else None))
        for action in done:
            if isinstance(action, Close):
                self.calls = [call for call in self.calls if call.replica != action.replica]
            if isinstance(action, Start):
                self.calls.append(action.call)
        self.actions += done
        return done

    def finish(self, call, partial=None):
        """Let a call end well."""
        whole = call.share is None and call.probe is None
        return self.tell(Finished(call, receipt_of(call.unit) if whole else None, partial))

    def fail(self, call, error=DIED, **more):
        return self.tell(Failed(call, error, **more))

    def lose(self, replica, error=DIED):
        """Let a replica die, and the one that is opened in its place join."""
        done = self.tell(Lost(replica, error))
        for action in done:
            if isinstance(action, Open):
                done += self.tell(Joined(action.replica))
        return done

    def open_calls(self):
        return [(call.replica, call.unit.key.start) for call in self.calls]


def begun(actions):
    return [(a.call.replica, a.call.unit.key.start) for a in actions if isinstance(a, Start)]


def of(kind, actions):
    return [action for action in actions if isinstance(action, kind)]


def error_of(actions):
    (end,) = of(End, actions)
    return end.error


def test_a_step_leaves_the_state_before_it_as_it_was():
    scheduler = Scheduler(Rules.fixed(1))
    before = scheduler.begin([0])
    drawn, _ = scheduler.step(before, Drawn(unit_of(0)), 1.0)
    assert (before.tasks, before.doors[0].calls, before.calls_made) == ({}, (), 0)
    again, _ = scheduler.step(before, Drawn(unit_of(0)), 1.0)
    assert [*drawn.tasks] == [*again.tasks] == [unit_of(0).key]


def test_calls_are_spread_evenly_and_more_are_drawn_only_when_there_is_room():
    run = Run(map(unit_of, range(100)), replicas=3)
    assert run.open_calls() == [(0, 0), (1, 1), (2, 2), (0, 3), (1, 4), (2, 5)]
    assert begun(run.finish(run.calls[1])) == [(1, 6)]
    assert len(run.units) == 100 - 7


def test_a_receipt_is_delivered_before_the_next_unit_is_drawn():
    run = Run(map(unit_of, range(9)), replicas=1)
    done = run.finish(run.calls[0])
    assert [type(action) for action in done] == [Deliver, Draw, Start]


def test_only_the_first_call_is_charged_for_a_death_and_then_all_suspects_are_alone():
    run = Run(map(unit_of, range(6)))
    assert run.open_calls() == [(0, 0), (1, 1), (0, 2), (1, 3)]
    assert begun(run.lose(0)) == [(2, 0)]
    suspect = run.calls[-1]
    assert (suspect.unit.attempt, suspect.alone) == (2, True)
    # The other suspect waits for a replica of its own, and nobody else gets in between.
    assert begun(run.finish(run.calls[0])) == []
    assert begun(run.finish(suspect)) == [(2, 2), (1, 4)]
    suspect = next(call for call in run.calls if call.replica == 2)
    assert (suspect.unit.attempt, suspect.alone) == (1, True)
    assert begun(run.finish(run.calls[0])) == [(1, 5)]


def test_a_unit_that_failed_goes_to_another_replica_if_there_is_one():
    run = Run(map(unit_of, range(2)))
    first, second = run.calls
    run.finish(second)
    assert begun(run.fail(first)) == [(1, 0)]


def test_what_a_dead_replica_still_says_counts_for_nothing():
    run = Run([unit_of(0)])
    (call,) = run.calls
    run.lose(0)
    (again,) = run.calls
    late = run.scheduler.step(run.state, Finished(call, receipt_of(call.unit)), 0.0)
    assert not of(Deliver, late[1])
    assert of(Deliver, run.finish(again))
    doubled = run.scheduler.step(run.state, Finished(again, receipt_of(again.unit)), 0.0)
    assert not of(Deliver, doubled[1])
    assert run.scheduler.step(run.state, Lost(0, DIED), 0.0)[1] == ()
    assert run.scheduler.step(run.state, Joined(99), 0.0)[0].doors.keys() == run.state.doors.keys()


# Shares.


def test_shares_are_needed_again_when_partials_are_lost():
    run = Run([unit_of(0, shares=2)], replicas=1)
    for call in [*run.calls]:
        run.finish(call, f"partial {call.share}")
    (merge,) = run.calls
    assert merge.partials == ["partial 0", "partial 1"]
    run.fail(merge, partials_lost=True)
    again = [*run.calls]
    assert [(call.share, call.unit.attempt) for call in again] == [(0, 2), (1, 2)]
    run.finish(again[1], "new partial 1")
    run.finish(again[0], "new partial 0")
    (merge,) = run.calls
    assert merge.partials == ["new partial 0", "new partial 1"]
    assert not run.state.idle
    run.finish(merge)
    assert run.state.idle


def test_failures_of_shares_and_merge_add_up():
    run = Run([unit_of(7, shares=2)], replicas=1)
    first, second = run.calls
    run.fail(first, RuntimeError("once"))
    run.finish(second)
    run.finish(run.calls[0])
    run.fail(run.calls[0], RuntimeError("twice"))
    error = error_of(run.fail(run.calls[0], RuntimeError("thrice\nand more")))
    assert isinstance(error, RetriesExhaustedError)
    assert str(error) == (
        "unit 0000000007-0000000008 failed 3 times, last with thrice; "
        "what is committed stays: mend the cause and run again"
    )
    assert str(error.__cause__).startswith("thrice")


def test_what_speaks_to_the_user_is_not_tried_again():
    run = Run([unit_of(0)])
    error = OccultaError("no such file; look elsewhere")
    assert error_of(run.fail(run.calls[0], error)) is error


# Memory.


def test_a_micro_batch_that_does_not_fit_is_halved_and_the_receipt_says_so():
    run = Run([unit_of(0, shares=2)], replicas=2)
    first, second = run.calls
    done = run.fail(first, MemoryShortError("no memory"))
    assert [i.what for i in of(WorkDisturbed, done)] == ["halved"]
    # The other share, cut for the whole micro-batch, comes too late.
    run.finish(second, "of the whole micro-batch")
    for call in [*run.calls]:
        assert call.unit.halvings == 1
        run.finish(call, f"partial {call.share}")
    (merge,) = run.calls
    assert (merge.unit.halvings, merge.partials) == (1, ["partial 0", "partial 1"])


def test_a_replica_that_is_killed_for_memory_is_tried_again_before_the_batch_is_halved():
    run = Run([unit_of(0)], replicas=1)
    for replica in range(3):
        assert run.calls[0].unit.halvings == 0
        run.lose(replica, MemoryShortError("node is out of memory"))
    assert run.calls[0].unit.halvings == 1


def test_halving_ends_where_it_does_not_help():
    run = Run([unit_of(0)])
    for _ in range(20):
        done = run.fail(run.calls[0], MemoryShortError("no memory"))
        if of(End, done):
            break
    assert isinstance(error_of(done), RetriesExhaustedError)


# Objects that make a unit fail.


class Poisoned(Run):
    """A run whose calls fail if they compute a poison object."""

    def __init__(self, units, poison, **rules):
        self.poison = poison
        self.ended = []
        self.receipts = {}
        super().__init__(units, separable=True, **rules)

    def work(self, steps=2000):
        """Answer calls until all is done."""
        for _ in range(steps):
            if self.state.idle or self.ended:
                return
            call = self.calls[0]
            rows = call.probe
            if rows is None:
                without = {out.row for out in call.unit.without}
                rows = set(range(call.unit.key.start, call.unit.key.stop)) - without
            if self.poison(set(rows)):
                done = self.fail(call, WorkFailedError("ArithmeticError: poison"))
            else:
                done = self.finish(call)
            if of(Deliver, done):
                self.receipts[call.unit.key.start] = call.unit
            self.ended += of(End, done)
        raise AssertionError("it never ends")


@pytest.mark.parametrize("poison", [{37}, {32, 63}, {40, 41, 42}, set(range(32, 40))])
@pytest.mark.parametrize("shares", [1, 3])
def test_objects_that_make_a_unit_fail_are_found_and_left_out(poison, shares):
    run = Poisoned([unit_of(n, shares, objects=32) for n in range(3)], lambda rows: rows & poison)
    run.work()
    assert not run.ended
    assert run.receipts.keys() == {0, 32, 64}
    reason = "ArithmeticError: poison"
    expected = tuple(LeftOut(row, "computation_failed", reason) for row in sorted(poison))
    assert {start: unit.without for start, unit in run.receipts.items()} == {
        0: (),
        32: expected,
        64: (),
    }
    assert {unit.shares for unit in run.receipts.values()} == {shares}


@pytest.mark.parametrize(
    "poison",
    [
        lambda rows: True,  # also without any object
        lambda rows: bool(rows),  # every object
        lambda rows: len(rows) > 5,  # no object alone
    ],
)
def test_a_unit_that_fails_for_another_reason_ends_the_run(poison):
    run = Poisoned([unit_of(1, objects=32)], poison)
    run.work()
    (end,) = run.ended
    assert isinstance(end.error, RetriesExhaustedError)
    assert str(end.error).startswith(f"unit {unit_of(1, objects=32).key} failed ")
    assert not run.receipts


def test_an_object_is_guilty_only_if_it_fails_twice_alone():
    failures = {frozenset({5}): 1}

    def flaky(rows):
        # The whole unit fails three times, then the object once by itself.
        key = frozenset(rows)
        failures.setdefault(key, 3 if len(rows) == 8 else 99 if 5 in rows and len(rows) > 1 else 0)
        failures[key] -= 1
        return failures[key] >= 0

    run = Poisoned([unit_of(0, objects=8)], flaky)
    run.work()
    assert not run.ended
    assert run.receipts[0].without == ()


def test_objects_that_kill_or_hang_are_named_as_such():
    for event, code in ((lambda run, c: run.lose(c.replica), "replica_died"), (_hang, "no_answer")):
        run = Run([unit_of(0, objects=8)], separable=True, unit_seconds=60)
        while not run.state.idle:
            call = run.calls[0]
            rows = call.probe if call.probe is not None else range(8)
            if 3 in rows and 3 not in {out.row for out in call.unit.without}:
                event(run, call)
            else:
                run.finish(call)
        (out,) = call.unit.without
        assert (out.row, out.code) == (3, code)


def _hang(run, call):
    run.now += 61
    for action in run.tell(Tick()):
        if isinstance(action, Open):
            run.tell(Joined(action.replica))
    assert call not in run.calls


# Time.


def test_a_unit_that_takes_much_longer_than_all_others_is_taken_from_its_replica():
    run = Run(map(unit_of, range(9)), replicas=1)
    run.now = 100.0
    run.finish(run.calls[0])
    assert run.scheduler.deadline(run.state) == 100 + 20 * 100
    run.now = 2099.0
    assert not of(Close, run.tell(Tick()))
    run.now = 2100.0
    done = run.tell(Tick())
    assert of(Close, done) == [Close(0)]
    assert of(Open, done) == [Open(1)]
    assert [i.reason for i in of(WorkDisturbed, done) if i.what == "lost"] == [
        "no answer within 2,000 s"
    ]


def test_short_units_get_ten_minutes_and_the_first_one_a_day():
    run = Run(map(unit_of, range(9)), replicas=1)
    assert run.scheduler.deadline(run.state) == 24 * 3600
    run.now = 1.0
    run.finish(run.calls[0])
    assert run.scheduler.deadline(run.state) == 1 + 600


def test_a_run_without_any_replica_does_not_wait_for_ever():
    run = Run([unit_of(0)], replicas=1)
    run.tell(Lost(0, DIED))
    assert run.scheduler.deadline(run.state) == 600
    run.now = 600.0
    error = error_of(run.tell(Tick()))
    assert isinstance(error, ClusterLostError)
    assert str(error).startswith("no replica started within 600 s; ")


def test_replicas_that_die_before_they_can_work_are_not_replaced_for_ever():
    run = Run(map(unit_of, range(9)), replicas=2, window=1)
    at_start = RuntimeError("died at its start")
    run.tell(Lost(0, DIED))
    for number in range(2, 7):
        assert not of(End, run.tell(Lost(number, at_start)))
    run.finish(run.calls[0])  # so the cluster is not lost
    for number in range(7, 12):
        assert not of(End, run.tell(Lost(number, at_start)))
    error = error_of(run.tell(Lost(12, at_start)))
    assert isinstance(error, ClusterLostError)
    assert str(error) == (
        "replicas died 6 times in a row before they could work, last with died at its start; "
        "run again when the cluster is well"
    )


# How many replicas.


def test_replicas_are_opened_while_there_is_work_and_closed_when_there_is_none():
    run = Run(map(unit_of, range(5)), replicas=range(1, 4))
    assert of(Open, run.actions) == [Open(1), Open(2)]
    run.tell(Joined(1))
    assert run.open_calls() == [(0, 0), (0, 1), (1, 2), (1, 3)]
    run.tell(Joined(2))
    assert run.calls[-1].replica == 2
    # Nothing is left to draw: whoever has nothing to do goes, but for the least number.
    closed = [of(Close, run.finish(call)) for call in [*run.calls]]
    assert sum(map(len, closed)) == 2
    assert run.state.idle
    assert len(run.state.doors) == 1


def test_replicas_that_never_came_are_not_waited_for():
    run = Run([unit_of(0)], replicas=range(1, 9))
    run.finish(run.calls[0])
    assert run.state.idle


def test_work_begins_with_the_first_replica_where_none_is_needed_to_begin():
    run = Run(map(unit_of, range(2)), replicas=range(3))
    assert run.calls == []
    run.tell(Joined(1))
    assert run.open_calls() == [(1, 0), (1, 1)]


def test_a_scheduler_without_units_is_idle():
    run = Run([])
    assert run.state.idle
    assert not of(Start, run.actions)


def test_calls_are_told_apart_by_their_number_alone():
    one, other = Call(3, unit_of(0)), Call(3, unit_of(0))
    assert one != other
    assert one.number == other.number
