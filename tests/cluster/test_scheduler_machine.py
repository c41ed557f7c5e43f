"""A whole run in simulation: hypothesis lets replicas, replies, the disk and the driver fail.

The scheduler is the real one. Simulated are the replicas, a disk with shards and a ledger, the
clock and the driver, which runs until it is done, fails or is killed, and is then begun anew from
the ledger alone, as `resume` does. Zombies are replicas of dead drivers and replicas that were
given up: they may still write, and still answer.
"""

import os
from collections import deque
from dataclasses import dataclass, field

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from cluster.calls import (
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
from cluster.errors import OccultaError, StorageError, VerificationError
from cluster.scheduler import Scheduler
from cluster.state import Rules
from cluster.unit import Receipt, UnitKey, WorkUnit

OBJECTS = 8
TIMEOUT = 60.0
POISONS = ("raise", "kill", "hang")


def content(unit):
    """What a unit's shard holds: objects' results, blank where left out, in bits of its batch."""
    without = {out.row for out in unit.without}
    rows = range(unit.key.start, unit.key.stop)
    return tuple(None if row in without else (row, unit.halvings) for row in rows)


@dataclass
class Process:
    """A replica: calls at its door, of which it computes the first."""

    driver: int
    door: deque = field(default_factory=deque)
    ready: bool = False
    frozen: bool = False
    """It hangs, or its replies get lost: nothing is heard of it until its driver gives it up."""


class Machine(RuleBasedStateMachine):
    @initialize(
        units=st.integers(1, 6),
        shares=st.integers(1, 3),
        replicas=st.tuples(st.integers(0, 2), st.integers(1, 3)).filter(lambda r: r[0] <= r[1]),
        poison=st.dictionaries(
            st.integers(0, 6 * OBJECTS - 1), st.sampled_from(POISONS), max_size=2
        ),
    )
    def begin(self, units, shares, replicas, poison):
        self.units = [
            WorkUnit(UnitKey(n * OBJECTS, (n + 1) * OBJECTS), shares) for n in range(units)
        ]
        self.poison = poison
        self.rules = Rules(
            range(replicas[0], replicas[1] + 1), separable=True, unit_seconds=TIMEOUT
        )
        self.shards, self.ledger = {}, []
        self.now, self.driver, self.struck_alone = 0.0, 0, False
        self.processes, self.zombies, self.late = {}, [], []
        self.disk_full = self.complete = False
        self.error = None
        self._start_driver()

    # The driver.

    def _start_driver(self):
        self.driver += 1
        self.alive, self.error, self.late = True, None, []
        self.zombies += self.processes.values()
        self.processes = {}
        committed = {receipt.key for receipt in self.ledger}
        self.pending = deque(unit for unit in self.units if str(unit.key) not in committed)
        self.scheduler = Scheduler(self.rules)
        for number in range(self.rules.replicas[0]):
            self.processes[number] = Process(self.driver, ready=True)
        self.state = self.scheduler.begin(self.processes)
        self.tell(Tick())

    def tell(self, event):
        """Let the driver take one step, and all further ones that it asks for itself."""
        events = deque([event])
        while events:
            self.state, actions = self.scheduler.step(self.state, events.popleft(), self.now)
            for action in actions:
                match action:
                    case Draw():
                        events.append(Drawn(self.pending.popleft() if self.pending else None))
                    case Start(call):
                        self.processes[call.replica].door.append(call)
                        assert len(self.processes[call.replica].door) <= 2
                    case Open(replica):
                        assert replica not in self.processes
                        self.processes[replica] = Process(self.driver)
                    case Close(replica):
                        self.zombies.append(self.processes.pop(replica))
                    case Deliver(receipt):
                        if self.disk_full:
                            return self.fail(StorageError("ledger: no space"))
                        self.ledger.append(receipt)
                    case End(error):
                        return self.fail(error)
        if self.state.idle:
            self.finalise()
        return None

    def finalise(self):
        """Hash the shards of a disturbed run again: a zombie may have written to them."""
        if self.driver > 1 or any(receipt.attempt > 1 for receipt in self.ledger):
            sound = [r for r in self.ledger if r.inputs == repr(self.shards[r.key])]
            if len(sound) < len(self.ledger):
                self.ledger = sound
                return self.fail(VerificationError("changed"))
        self.complete, self.alive = True, False
        return None

    def fail(self, error):
        assert isinstance(error, OccultaError), error
        self.alive, self.error = False, error

    # Replicas.

    def compute(self, call):
        """Do what a replica does with a call: return what it says, or None if it dies or hangs."""
        unit = call.unit
        rows = call.probe
        if rows is None:
            rows = range(unit.key.start, unit.key.stop)
        left_out = {out.row for out in unit.without}
        met = {self.poison[row] for row in rows if row in self.poison and row not in left_out}
        if "kill" in met:
            return "kill"
        if "hang" in met:
            return "hang"
        if met:
            return Failed(call, WorkFailedError("poison"))
        if call.probe is not None:
            return Finished(call)
        if call.share is not None:
            return Finished(call, partial=(unit.key, call.share, unit.halvings, unit.without))
        if call.unit.shares > 1:
            assert list(call.partials) == [
                (unit.key, share, unit.halvings, unit.without) for share in range(unit.shares)
            ]
        if self.disk_full:
            return Failed(call, StorageError("shard: no space"))
        self.shards[str(unit.key)] = content(unit)
        digest = repr(content(unit))
        return Finished(call, Receipt(str(unit.key), (), (), digest, 0, 0, 0.0, "", unit.attempt))

    def strike(self, process):
        """Note that a fault comes from outside."""
        if process.door and process.door[0].probe is not None and len(process.door[0].probe) == 1:
            self.struck_alone = True

    def die(self, replica):
        self.processes.pop(replica)
        self.tell(Lost(replica, RuntimeError("died")))

    def working(self):
        return [
            number
            for number, process in self.processes.items()
            if process.ready and process.door and not process.frozen
        ]

    def answer(self, replica):
        """Let a replica compute its first call and say what came of it."""
        process = self.processes[replica]
        said = self.compute(process.door[0])
        if said == "kill":
            self.die(replica)
        elif said == "hang":
            process.frozen = True
        else:
            process.door.popleft()
            self.late.append(said)
            self.tell(said)

    # What may happen.

    @precondition(lambda self: self.alive and self.working())
    @rule(data=st.data())
    def work(self, data):
        self.now += 1
        self.answer(data.draw(st.sampled_from(self.working())))

    @precondition(lambda self: self.alive and any(not p.ready for p in self.processes.values()))
    @rule(data=st.data(), dies=st.sampled_from([False] * 5 + [True]))
    def join(self, data, dies):
        opening = [number for number, process in self.processes.items() if not process.ready]
        number = data.draw(st.sampled_from(opening))
        if dies:
            self.die(number)
        else:
            self.processes[number].ready = True
            self.tell(Joined(number))

    @precondition(lambda self: self.alive and self.processes)
    @rule(data=st.data())
    def replica_dies(self, data):
        number = data.draw(st.sampled_from([*self.processes]))
        self.strike(self.processes[number])
        self.die(number)

    @precondition(lambda self: self.alive and self.working())
    @rule(data=st.data())
    def replica_dies_after_it_wrote(self, data):
        number = data.draw(st.sampled_from(self.working()))
        self.strike(self.processes[number])
        self.compute(self.processes[number].door[0])
        self.die(number)

    @precondition(lambda self: self.alive and self.working())
    @rule(data=st.data(), error=st.sampled_from([WorkFailedError, MemoryShortError]))
    def call_fails(self, data, error):
        process = self.processes[data.draw(st.sampled_from(self.working()))]
        self.strike(process)
        self.tell(Failed(process.door.popleft(), error("now and then")))

    @precondition(lambda self: self.alive and self.working())
    @rule(data=st.data())
    def partials_are_lost(self, data):
        process = self.processes[data.draw(st.sampled_from(self.working()))]
        call = process.door[0]
        if call.partials:
            process.door.popleft()
            self.tell(Failed(call, WorkFailedError("gone"), partials_lost=True))

    @precondition(lambda self: self.alive and self.working())
    @rule(data=st.data())
    def reply_is_lost(self, data):
        process = self.processes[data.draw(st.sampled_from(self.working()))]
        self.strike(process)
        self.compute(process.door[0])
        process.frozen = True

    @precondition(lambda self: self.alive and self.late)
    @rule(data=st.data())
    def reply_comes_again(self, data):
        self.tell(data.draw(st.sampled_from(self.late)))

    @precondition(lambda self: self.zombies and not self.complete)
    @rule(data=st.data())
    def zombie_goes_on(self, data):
        zombie = data.draw(st.sampled_from(self.zombies))
        if zombie.door:
            said = self.compute(zombie.door.popleft())
            # The executor hears nothing of a replica that it closed; should it, it must not count.
            if zombie.driver == self.driver and self.alive and not isinstance(said, str):
                self.tell(said)

    @precondition(lambda self: self.alive)
    @rule(seconds=st.sampled_from([1.0, TIMEOUT + 1, 700.0]))
    def time_passes(self, seconds):
        if seconds > TIMEOUT:
            for process in self.processes.values():
                self.strike(process)
        self.now += seconds
        self.tell(Tick())

    @rule(full=st.booleans())
    def disk_fills_or_empties(self, full):
        self.disk_full = full

    @precondition(lambda self: self.alive)
    @rule()
    def driver_is_killed(self):
        self.alive = False

    @precondition(lambda self: not self.alive and not self.complete)
    @rule()
    def resume(self):
        self._start_driver()

    # What always holds.

    @invariant()
    def nothing_is_lost_doubled_or_changed(self):
        if not hasattr(self, "ledger"):
            return
        keys = [receipt.key for receipt in self.ledger]
        assert len(keys) == len(set(keys))
        for receipt in self.ledger:
            key, results = UnitKey.parse(receipt.key), self.shards[receipt.key]
            assert all(
                found is None or found[0] == row for row, found in enumerate(results, key.start)
            )
        if self.complete:
            assert sorted(keys) == [str(unit.key) for unit in self.units]
            assert all(r.inputs == repr(self.shards[r.key]) for r in self.ledger)
            blank = {
                UnitKey.parse(receipt.key).start + place
                for receipt in self.ledger
                for place, found in enumerate(self.shards[receipt.key])
                if found is None
            }
            # Faults that strike an object twice when it is alone can't be told from poison; but
            # poison is never called complete, and without such faults nothing else is blank.
            assert blank >= {row for row in self.poison if row < len(self.units) * OBJECTS}
            assert self.struck_alone or blank <= self.poison.keys()

    @invariant()
    def every_unit_is_somewhere(self):
        if not hasattr(self, "ledger") or not self.alive:
            return
        known = {receipt.key for receipt in self.ledger}
        known |= {str(key) for key in self.state.tasks} | {str(u.key) for u in self.pending}
        assert known == {str(unit.key) for unit in self.units}
        at_doors = [call.number for p in self.processes.values() for call in p.door]
        waiting = [call.number for call in self.state.ready]
        assert len({*at_doors, *waiting}) == len(at_doors) + len(waiting)
        for task in self.state.tasks.values():
            calls = [*self.state.ready, *(c for p in self.processes.values() for c in p.door)]
            assert any(call.unit.key == task.unit.key for call in calls), "a unit without a call"

    def teardown(self):
        """Once faults stop, the run ends, complete but for objects that are poison."""
        if not hasattr(self, "ledger"):
            return
        self.disk_full = False
        for _ in range(5000):
            if self.complete:
                break
            if not self.alive:
                self._start_driver()
            opening = [n for n, process in self.processes.items() if not process.ready]
            for number in opening:
                if number in self.processes:
                    self.processes[number].ready = True
                    self.tell(Joined(number))
            if self.alive and self.working():
                self.now += 1
                self.answer(self.working()[0])
            elif self.alive:
                self.now += TIMEOUT + 1
                self.tell(Tick())
        assert self.complete
        self.nothing_is_lost_doubled_or_changed()


def run(examples, steps):
    run_state_machine_as_test(
        Machine,
        settings=settings(
            max_examples=examples,
            stateful_step_count=steps,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )


def test_a_run_survives_whatever_happens():
    run(60, 40)


@pytest.mark.slow
def test_a_run_survives_a_hundred_thousand_steps():
    run(int(os.environ.get("OCCULTA_EXAMPLES", "1000")), 100)
