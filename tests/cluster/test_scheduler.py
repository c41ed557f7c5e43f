"""The scheduler against simulated replicas, which finish, fail and die in any order."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.errors import ClusterLostError, OccultaError, RetriesExhaustedError
from cluster.scheduler import Failed, Finished, Joined, Lost, Scheduler, compute
from cluster.unit import Receipt, UnitKey, WorkUnit


def unit_of(number, shares=1):
    return WorkUnit(UnitKey(number, number + 1), shares)


def receipt_of(unit):
    return Receipt(str(unit.key), (), (), "", 0, 0, 0.0, "simulated", unit.attempt)


class Simulation:
    """Replicas that do what ``data`` draws; more than two faults might exhaust a unit."""

    def __init__(self, data, replicas, faults):
        self.data, self.faults = data, faults
        self.doors = {replica: [] for replica in range(replicas)}
        self.joining = []

    def start(self, call):
        assert call not in self.doors[call.replica]
        self.doors[call.replica].append(call)
        assert len(self.doors[call.replica]) <= 2

    def wait(self):
        busy = [replica for replica, calls in self.doors.items() if calls]
        assert busy or self.joining
        return self.wait_at(self.data.draw(st.sampled_from([*busy, *self.joining])))

    def wait_at(self, replica):
        if replica in self.joining:
            self.joining.remove(replica)
            self.doors[replica] = []
            return Joined(replica)
        outcomes = ["finish"]
        if self.faults:
            outcomes += ["finish"] * 4 + ["fail", "lose partials", "die"]
        outcome = self.data.draw(st.sampled_from(outcomes))
        self.faults -= outcome != "finish"
        if outcome == "die":
            del self.doors[replica]
            self.joining.append(replica)
            return Lost(replica, RuntimeError("died"))
        call = self.doors[replica].pop(0)
        if outcome != "finish":
            lost = outcome == "lose partials" and bool(call.partials)
            return Failed(call, RuntimeError(outcome), partials_lost=lost)
        if call.share is not None:
            return Finished(call, None, (call.unit.key, call.share))
        if call.unit.shares > 1:
            in_order = [(call.unit.key, share) for share in range(call.unit.shares)]
            assert list(call.partials) == in_order
        return Finished(call, receipt_of(call.unit))


@settings(max_examples=200, deadline=None)
@given(st.data(), st.lists(st.integers(1, 5), max_size=9), st.integers(1, 4), st.integers(0, 2))
def test_whatever_happens_every_unit_has_one_receipt(data, shares, replicas, faults):
    drawn, units = [], [unit_of(number, count) for number, count in enumerate(shares)]
    simulation = Simulation(data, replicas, faults)
    receipts = []
    source = (unit for unit in units if not drawn.append(unit))
    for receipt in compute(source, simulation, replicas=replicas, window=2):
        receipts.append(receipt)
        assert len(drawn) - len(receipts) < 2 * replicas
    assert sorted(receipt.key for receipt in receipts) == [str(unit.key) for unit in units]
    assert sum(receipt.attempt - 1 for receipt in receipts) <= faults


def test_calls_are_spread_evenly_and_more_are_drawn_only_when_there_is_room():
    scheduler = Scheduler(map(unit_of, range(10**9)), replicas=3, window=2)
    calls = list(scheduler.assign())
    assert [call.replica for call in calls] == [0, 1, 2, 0, 1, 2]
    assert not list(scheduler.assign())
    scheduler.handle(Finished(calls[1], receipt_of(calls[1].unit)))
    (call,) = scheduler.assign()
    assert (call.replica, call.unit.key.start) == (1, 6)


def test_only_the_first_call_is_charged_for_a_death_and_then_all_suspects_are_alone():
    scheduler = Scheduler(map(unit_of, range(6)), replicas=2, window=2)
    calls = list(scheduler.assign())
    scheduler.handle(Lost(0, RuntimeError("died")))
    # The lost replica gets no calls before it is back, and suspects get none that is busy.
    assert not list(scheduler.assign())
    scheduler.handle(Joined(0))
    (suspect,) = scheduler.assign()
    assert (suspect.replica, suspect.unit.key.start, suspect.unit.attempt) == (0, 0, 2)
    scheduler.handle(Finished(calls[1], receipt_of(calls[1].unit)))
    assert not list(scheduler.assign())
    scheduler.handle(Finished(suspect, receipt_of(suspect.unit)))
    suspect, other = scheduler.assign()
    assert (suspect.replica, suspect.unit.key.start, suspect.unit.attempt) == (0, 2, 1)
    assert (other.replica, other.unit.key.start) == (1, 4)
    scheduler.handle(Finished(suspect, receipt_of(suspect.unit)))
    assert [(call.replica, call.unit.key.start) for call in scheduler.assign()] == [(0, 5)]


@settings(max_examples=100, deadline=None)
@given(st.data(), st.integers(0, 7), st.integers(1, 3))
def test_a_unit_that_kills_is_named_even_if_the_word_of_others_is_lost(data, poison, replicas):
    class Poisoned(Simulation):
        def wait(self):
            busy = [replica for replica, calls in self.doors.items() if calls]
            replica = self.data.draw(st.sampled_from([*busy, *self.joining]))
            calls = [] if replica in self.joining else self.doors[replica]
            if any(call.unit.key.start == poison for call in calls) and (
                calls[0].unit.key.start == poison or self.data.draw(st.booleans())
            ):
                del self.doors[replica]
                self.joining.append(replica)
                return Lost(replica, RuntimeError("died"))
            return self.wait_at(replica)

    simulation = Poisoned(data, replicas, 0)
    with pytest.raises(RetriesExhaustedError, match=f"unit {unit_of(poison).key} failed 3 times"):
        list(compute(map(unit_of, range(8)), simulation, replicas=replicas, window=2))


def test_shares_are_needed_again_when_partials_are_lost():
    scheduler = Scheduler([unit_of(0, shares=2)], replicas=1, window=2)
    for call in list(scheduler.assign()):
        scheduler.handle(Finished(call, None, f"partial {call.share}"))
    (merge,) = scheduler.assign()
    assert merge.partials == ["partial 0", "partial 1"]
    scheduler.handle(Failed(merge, RuntimeError("machine is gone"), partials_lost=True))
    again = list(scheduler.assign())
    assert [(call.share, call.unit.attempt) for call in again] == [(0, 2), (1, 2)]
    scheduler.handle(Finished(again[1], None, "new partial 1"))
    assert not list(scheduler.assign())
    scheduler.handle(Finished(again[0], None, "new partial 0"))
    (merge,) = scheduler.assign()
    assert merge.partials == ["new partial 0", "new partial 1"]


def test_failures_of_shares_and_merge_add_up():
    scheduler = Scheduler([unit_of(7, shares=2)], replicas=1, window=2)
    first, second = scheduler.assign()
    scheduler.handle(Failed(first, RuntimeError("once")))
    scheduler.handle(Finished(second, None))
    (first,) = scheduler.assign()
    scheduler.handle(Finished(first, None))
    (merge,) = scheduler.assign()
    scheduler.handle(Failed(merge, RuntimeError("twice")))
    (merge,) = scheduler.assign()
    with pytest.raises(RetriesExhaustedError) as caught:
        scheduler.handle(Failed(merge, RuntimeError("thrice\nand more")))
    assert str(caught.value) == (
        "unit 0000000007-0000000008 failed 3 times, last with thrice; "
        "what is committed stays: mend the cause and run again"
    )
    assert str(caught.value.__cause__).startswith("thrice")


def test_what_speaks_to_the_user_is_not_tried_again():
    scheduler = Scheduler([unit_of(0)], replicas=1, window=2)
    (call,) = scheduler.assign()
    error = OccultaError("no such file; look elsewhere")
    with pytest.raises(OccultaError) as caught:
        scheduler.handle(Failed(call, error))
    assert caught.value is error


def test_replicas_that_die_before_they_can_work_are_not_replaced_for_ever():
    scheduler = Scheduler(map(unit_of, range(9)), replicas=2, window=1)
    calls = list(scheduler.assign())
    scheduler.handle(Lost(0, RuntimeError("died")))
    for _ in range(2):
        scheduler.handle(Lost(0, RuntimeError("died at its start")))
    scheduler.handle(Finished(calls[1], receipt_of(calls[1].unit)))
    for _ in range(2):
        scheduler.handle(Lost(0, RuntimeError("died at its start")))
    with pytest.raises(ClusterLostError, match=r"died 3 times in a row .* died at its start; run"):
        scheduler.handle(Lost(0, RuntimeError("died at its start")))


def test_a_scheduler_without_units_is_idle():
    scheduler = Scheduler([], replicas=2, window=2)
    assert not list(scheduler.assign())
    assert scheduler.idle
