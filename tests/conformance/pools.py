"""What every pool must prove, whatever its replicas are.

    class TestMine(PoolConformance):
        @classmethod
        def open_pool(cls, workload, store):
            return MyPool(workload, store, replicas=2)

The suite puts one pool to work on a real store. Each test takes units of its own from a `Desk`,
where it also leaves the faults that these units meet, and finds who computed what.
"""

from __future__ import annotations

import errno
import hashlib
import os
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

from attribution.arrays import ArraySpec
from cluster.errors import OccultaError, RetriesExhaustedError, StorageError
from cluster.pool import Pool
from cluster.store import create_array
from cluster.unit import ObjectFailure, Receipt, UnitKey, WorkUnit
from cluster.workload import UnitResult, Workload

PARTS = 7
UNIT_OBJECTS = 4
UNITS = 200


class NoGalaxyError(OccultaError):
    """What a workload itself has to say to the user."""


class UnportableError(Exception):
    """Can be pickled, but not unpickled."""

    def __init__(self, what: str, where: str) -> None:
        super().__init__(f"{what} in {where}")


@dataclass(frozen=True)
class Desk:
    """A folder by which a test and the replicas, in whichever process, tell each other things.

    A step is named ``compute 8``, ``partial 8 0`` (with the share) or ``finish 8``, by the first
    row of its unit.
    """

    folder: Path

    def plan_faults(self, step: str, *faults: str) -> None:
        """Let the first invocations of a step meet faults (or ``ok``); further ones meet none."""
        (self.folder / f"faults of {step}").write_text("\n".join(faults))

    def poison(self, row: int, fault: str) -> None:
        """Let everything that computes this object meet a fault, each time."""
        (self.folder / f"poison {row}").write_text(fault)

    def taste(self, unit: WorkUnit, rows: range) -> None:
        """Compute objects of a unit, as far as poison is concerned."""
        for row in sorted({*rows} - {out.row for out in unit.without}):
            if (note := self.folder / f"poison {row}").exists():
                self.strike(note.read_text(), f"object {row}")

    def set_ballast(self, size: int) -> None:
        """Let partials carry this many bytes besides their terms."""
        (self.folder / "ballast").write_text(str(size))

    def ballast(self) -> bytes:
        """Return what partials carry."""
        note = self.folder / "ballast"
        return bytes(int(note.read_text())) if note.exists() else b""

    def pids(self, step: str) -> list[int]:
        """Tell which process ran each invocation of a step, in order."""
        note = self.folder / f"calls of {step}"
        return [int(line) for line in note.read_text().split()] if note.exists() else []

    def note(self, step: str) -> int:
        """Note an invocation of a step by this process; return how many there were before."""
        path = self.folder / f"calls of {step}"
        with path.open("ab") as file:
            file.write(f"{os.getpid()}\n".encode())
            file.flush()
            end = file.tell()  # others may have gone on
        return path.read_bytes()[:end].count(b"\n") - 1

    def meet(self, step: str) -> None:
        """Note an invocation of a step, and let its fault strike."""
        number = self.note(step)
        plan = self.folder / f"faults of {step}"
        faults = plan.read_text().split("\n") if plan.exists() else []
        self.strike(faults[number] if number < len(faults) else "ok", step)

    def strike(self, fault: str, step: str) -> None:
        """Do what a fault is."""
        match fault:
            case "ok":
                return
            case "fail":
                raise ArithmeticError(f"{step} failed\nand says more below")
            case "unportable":
                raise UnportableError("something", step)
            case "speak":
                raise NoGalaxyError(f"no galaxy at {step}; look elsewhere")
            case "full":
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            case "timeout":
                raise TimeoutError("the archive did not answer")
            case "exit":
                os._exit(1)
            case "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            case "meet":
                (self.folder / f"here {os.getpid()}").touch()
                wait_until(lambda: len(list(self.folder.glob("here *"))) > 1)
            case "stay":
                wait_until((self.folder / "go").exists)
            case _:
                raise AssertionError(fault)


def wait_until(true: Callable[[], bool], seconds: float = 60) -> None:
    """Wait for what another process or thread does; give up when it has surely failed."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it never happened"
        time.sleep(0.02)


class Terms:
    """A share's terms, in the order of the parts; knows who unpacks it."""

    def __init__(self, desk: Desk, numbers: list[int], ballast: bytes) -> None:
        self.desk, self.numbers, self.ballast = desk, numbers, ballast

    def __reduce__(self) -> tuple[Any, ...]:
        return _unpack, (self.desk, self.numbers, self.ballast)


def _unpack(desk: Desk, numbers: list[int], ballast: bytes) -> Terms:
    desk.note("unpack")
    return Terms(desk, numbers, ballast)


def term(row: int, part: int) -> float:
    """Return a number whose sum over parts depends on the order of summation, in every row."""
    return float(np.sin(row + 1.0) * (-1) ** part * 10.0 ** (9 * (part % 3)) + 1 / (part + 3))


def expected(key: UnitKey) -> dict[str, np.ndarray]:
    """Compute a unit's arrays without the pool, the workload and the cut."""
    sums = []
    for row in range(key.start, key.stop):
        total = 0.0
        for part in range(PARTS):
            total += term(row, part)
        sums.append(total)
    parts = np.tile(np.arange(PARTS), (key.stop - key.start, 1))
    names = [f"galaxy {row}" for row in range(key.start, key.stop)]
    return {"work/sum": np.array(sums), "work/parts": parts, "work/name": np.array(names, object)}


@dataclass(frozen=True)
class Sums:
    """Sums numbers over parts, and lists the parts, in the order in which shares are merged."""

    desk: Desk
    at_open: str = "ok"
    """The fault that opening meets."""
    template: Mapping[str, ArraySpec] = field(
        default_factory=lambda: {
            "work/sum": ArraySpec("sum", (), (), "sum of terms", dtype="float64"),
            "work/parts": ArraySpec("parts", ("part",), (PARTS,), "parts", dtype="int64"),
            "work/name": ArraySpec("name", (), (), "name", dtype="str"),
        }
    )

    def open(self) -> Sums:
        if self.at_open != "ok":
            self.desk.plan_faults("open", *[self.at_open] * 20)
        self.desk.meet("open")
        return self

    separable = True

    def compute(self, unit: WorkUnit) -> UnitResult:
        self.desk.meet(f"compute {unit.key.start}")
        self.desk.taste(unit, range(unit.key.start, unit.key.stop))
        return self._result(unit, [self._terms(0, 1)])

    def partial(self, unit: WorkUnit, share: int) -> Terms:
        self.desk.meet(f"partial {unit.key.start} {share}")
        self.desk.taste(unit, range(unit.key.start, unit.key.stop))
        return self._terms(share, unit.shares)

    def finish(self, unit: WorkUnit, partials: Sequence[Terms]) -> UnitResult:
        self.desk.meet(f"finish {unit.key.start}")
        return self._result(unit, partials)

    def probe(self, unit: WorkUnit, rows: range) -> None:
        self.desk.meet(f"probe {unit.key.start}")
        self.desk.taste(unit, rows)

    def _terms(self, share: int, shares: int) -> Terms:
        numbers = range(PARTS * share // shares, PARTS * (share + 1) // shares)
        return Terms(self.desk, list(numbers), self.desk.ballast())

    def _result(self, unit: WorkUnit, partials: Sequence[Terms]) -> UnitResult:
        key = unit.key
        parts = [part for terms in partials for part in terms.numbers]
        rows = range(key.start, key.stop)
        sums = [sum((term(row, part) for part in parts), start=0.0) for row in rows]
        names = np.array([f"galaxy {row}" for row in rows], object)
        listed = np.tile(parts, (len(rows), 1))
        arrays = {"work/sum": np.array(sums), "work/parts": listed, "work/name": names}
        failures = [
            ObjectFailure(o.row, names[o.row - key.start], o.code, o.reason) for o in unit.without
        ]
        for out in unit.without:
            arrays["work/sum"][out.row - key.start] = np.nan
        return UnitResult(arrays, tuple(failures), f"inputs {key.start}", forward=len(parts))


class Bench:
    """A store, a pool that works on it, and units that no test has used yet."""

    def __init__(self, folder: Path) -> None:
        (folder / "desk").mkdir()
        self.desk = Desk(folder / "desk")
        self.store = folder / "results.zarr"
        self.workload = Sums(self.desk)
        self.pool: Pool
        root = zarr.open_group(self.store, mode="w", zarr_format=3)
        for path, spec in self.workload.template.items():
            create_array(root, path, spec, UNITS * UNIT_OBJECTS, UNIT_OBJECTS)
        self._starts = iter(range(0, UNITS * UNIT_OBJECTS, UNIT_OBJECTS))

    def units(self, count: int, shares: int = 1) -> list[WorkUnit]:
        """Take units that were never computed."""
        starts = [next(self._starts) for _ in range(count)]
        return [WorkUnit(UnitKey(start, start + UNIT_OBJECTS), shares) for start in starts]

    def run(self, units: Sequence[WorkUnit]) -> dict[str, Receipt]:
        """Compute units, and check the receipts and all that they promise."""
        receipts = list(self.pool.run(units))
        self.check(units, receipts)
        return {receipt.key: receipt for receipt in receipts}

    def check(self, units: Sequence[WorkUnit], receipts: Sequence[Receipt]) -> None:
        """Check that units have one receipt each, and that the store holds what they say."""
        assert sorted(r.key for r in receipts) == sorted(str(unit.key) for unit in units)
        root = zarr.open_group(self.store, mode="r")
        for receipt in receipts:
            key = UnitKey.parse(receipt.key)
            assert (receipt.inputs, receipt.forward) == (f"inputs {key.start}", PARTS)
            assert [shard.path.rpartition("/")[0] for shard in receipt.shards] == [
                *self.workload.template
            ]
            for shard in receipt.shards:
                content = (self.store / shard.path).read_bytes()
                assert hashlib.sha256(content).hexdigest() == shard.sha256
                assert len(content) == shard.bytes
            for path, array in expected(key).items():
                stored = np.asarray(root[path][key.start : key.stop])
                assert stored.dtype == array.dtype or array.dtype == object
                assert list(stored.ravel()) == list(array.ravel()), path
        assert not list(self.store.rglob("*.partial"))


def sha256s(receipt: Receipt) -> list[str]:
    """Return the hashes of a unit's shards."""
    return [shard.sha256 for shard in receipt.shards]


class PoolConformance:
    """Inherit it, say how to open the pool, and every promise of a `Pool` is tested."""

    @classmethod
    def open_pool(cls, workload: Workload, store: Path) -> AbstractContextManager[Pool]:
        """Open the pool under test."""
        raise NotImplementedError

    @pytest.fixture(scope="class")
    @classmethod
    def bench(cls, tmp_path_factory) -> Iterator[Bench]:
        """Give the pool that all tests of the class share."""
        bench = Bench(tmp_path_factory.mktemp("bench"))
        with cls.open_pool(bench.workload, bench.store) as bench.pool:
            yield bench

    def test_the_expected_numbers_depend_on_the_order_of_the_parts(self):
        for row in range(UNITS * UNIT_OBJECTS):
            terms = [term(row, part) for part in range(PARTS)]
            assert sum(terms) != sum(reversed(terms))

    # Whole units.

    def test_every_unit_gives_one_receipt_that_the_store_bears_out(self, bench):
        units = bench.units(9)
        receipts = bench.run(units)
        assert {receipt.attempt for receipt in receipts.values()} == {1}
        for unit in units:
            assert len(bench.desk.pids(f"compute {unit.key.start}")) == 1

    def test_results_do_not_depend_on_the_order_of_the_units(self, bench):
        units = bench.units(5)
        forth = bench.run(units)
        back = bench.run(units[::-1])
        assert {k: sha256s(r) for k, r in forth.items()} == {k: sha256s(r) for k, r in back.items()}

    def test_no_units_give_no_receipts(self, bench):
        assert list(bench.pool.run([])) == []

    def test_all_replicas_work_at_the_same_time(self, bench):
        if bench.pool.replicas == 1:
            return
        units = bench.units(2)
        for unit in units:
            bench.desk.plan_faults(f"compute {unit.key.start}", "meet")
        assert len({receipt.worker for receipt in bench.run(units).values()}) == 2

    def test_units_are_drawn_only_as_replicas_have_room(self, bench):
        units, drawn = bench.units(20), 0

        def survey() -> Iterator[WorkUnit]:
            nonlocal drawn
            for number in range(10**6):
                drawn += 1
                yield units[number % len(units)]

        most, receipts = 2 * bench.pool.replicas, []
        for receipt in bench.pool.run(survey()):
            receipts.append(receipt)
            # The receipt at hand still counts as one that was outstanding.
            assert drawn - len(receipts) < most
            if len(receipts) == 20:
                break
        bench.run(bench.units(1))
        assert drawn < 20 + most

    def test_cut_units_are_drawn_only_as_replicas_have_room(self, bench):
        units, drawn = bench.units(8, shares=3), []
        receipts = []
        for receipt in bench.pool.run(unit for unit in units if not drawn.append(unit)):
            receipts.append(receipt)
            assert len(drawn) - len(receipts) < 2 * bench.pool.replicas
        bench.check(units, receipts)

    # Units whose parts are cut into shares.

    @pytest.mark.parametrize("shares", [2, 3, PARTS, PARTS + 4])
    def test_any_number_of_shares_gives_the_bits_of_the_uncut_unit(self, bench, shares):
        whole = bench.units(3)
        uncut = bench.run(whole)
        cut = bench.run([WorkUnit(unit.key, shares) for unit in whole])
        assert {k: sha256s(r) for k, r in cut.items()} == {k: sha256s(r) for k, r in uncut.items()}
        for unit in whole:
            start = unit.key.start
            assert len(bench.desk.pids(f"compute {start}")) == 1
            assert len(bench.desk.pids(f"finish {start}")) == 1
            for share in range(shares):
                assert len(bench.desk.pids(f"partial {start} {share}")) == 1

    def test_whole_and_cut_units_may_be_mixed(self, bench):
        shares = [1, 3, 1, 2]
        bench.run([unit for count in shares for unit in bench.units(1, count)])

    # Errors.

    @pytest.mark.parametrize("fault", ["fail", "unportable", "timeout"])
    @pytest.mark.parametrize(
        ("step", "shares"), [("compute {}", 1), ("partial {} 1", 3), ("finish {}", 3)]
    )
    def test_a_step_that_fails_is_tried_again(self, bench, step, shares, fault):
        bad, *good = bench.units(3, shares)
        step = step.format(bad.key.start)
        bench.desk.plan_faults(step, fault, fault, "ok")
        receipts = bench.run([bad, *good])
        assert len(bench.desk.pids(step)) == 3
        assert receipts[str(bad.key)].attempt == 3
        assert {receipts[str(unit.key)].attempt for unit in good} == {1}
        for share in {0, 2} if shares == 3 else ():
            assert len(bench.desk.pids(f"partial {bad.key.start} {share}")) == 1

    def test_a_unit_that_fails_at_every_attempt_is_named_with_the_cause(self, bench):
        good, bad = bench.units(2)
        step = f"compute {bad.key.start}"
        bench.desk.plan_faults(step, *["fail"] * 9)
        with pytest.raises(RetriesExhaustedError) as caught:
            list(bench.pool.run([good, bad]))
        assert str(caught.value) == (
            f"unit {bad.key} failed 6 times, last with ArithmeticError: {step} failed; "
            "what is committed stays: mend the cause and run again"
        )
        # After three times its objects were probed, and none was to blame.
        assert len(bench.desk.pids(step)) == 6
        assert len(bench.desk.pids(f"probe {bad.key.start}")) == 3

    @pytest.mark.parametrize(
        ("step", "shares"), [("compute {}", 1), ("partial {} 1", 2), ("finish {}", 2)]
    )
    def test_what_a_workload_says_to_the_user_passes_unchanged_and_at_once(
        self, bench, step, shares
    ):
        (unit,) = bench.units(1, shares)
        step = step.format(unit.key.start)
        bench.desk.plan_faults(step, *["speak"] * 9)
        with pytest.raises(NoGalaxyError) as caught:
            list(bench.pool.run([unit]))
        assert str(caught.value) == f"no galaxy at {step}; look elsewhere"
        assert len(bench.desk.pids(step)) == 1

    @pytest.mark.parametrize("shares", [1, 3])
    def test_an_object_that_makes_its_unit_fail_is_left_out_and_the_others_keep_their_bits(
        self, bench, shares
    ):
        good, bad = bench.units(2, shares)
        guilty = bad.key.start + 2
        bench.desk.poison(guilty, "fail")
        incidents = []
        receipts = {r.key: r for r in bench.pool.run([good, bad], incidents.append)}
        assert receipts[str(good.key)].failures == ()
        (failure,) = receipts[str(bad.key)].failures
        assert (failure.index, failure.code) == (guilty, "computation_failed")
        assert failure.reason == f"ArithmeticError: object {guilty} failed"
        sums = np.asarray(zarr.open_array(bench.store / "work/sum")[bad.key.start : bad.key.stop])
        clean = expected(bad.key)["work/sum"]
        clean[2] = np.nan
        np.testing.assert_array_equal(sums, clean)
        whats = [incident.what for incident in incidents]
        assert whats.count("retry") == 2
        assert whats[-2:] == ["search", "left out"]

    def test_a_full_disk_ends_the_run_at_once(self, bench):
        (unit,) = bench.units(1)
        step = f"compute {unit.key.start}"
        bench.desk.plan_faults(step, *["full"] * 9)
        with pytest.raises(StorageError, match=rf"unit {unit.key}: .*No space left on device; "):
            list(bench.pool.run([unit]))
        assert len(bench.desk.pids(step)) == 1

    def test_a_pool_works_on_after_a_run_that_failed_and_one_that_was_left(self, bench):
        bad, *others = bench.units(4, shares=3)
        bench.desk.plan_faults(f"partial {bad.key.start} 1", "speak")
        with pytest.raises(NoGalaxyError):
            list(bench.pool.run([bad, *others]))
        receipts = bench.pool.run([bad, *others])
        next(receipts)
        receipts.close()
        bench.run([bad, *others])


class PoolOpeningConformance:
    """What the opening of every pool must prove; inherited beside `PoolConformance`.

    It is a class of its own so that the pool that those tests share is closed.
    """

    @classmethod
    def open_pool(cls, workload: Workload, store: Path) -> AbstractContextManager[Pool]:
        """Open the pool under test."""
        raise NotImplementedError

    def test_a_workload_that_can_not_be_opened_is_one_clear_error(self, tmp_path):
        bench = Bench(tmp_path)
        broken = Sums(bench.desk, at_open="fail")
        with pytest.raises(OccultaError) as caught, self.open_pool(broken, bench.store):
            raise AssertionError("the pool opened")
        assert str(caught.value) == "a replica could not start: ArithmeticError: open failed"
