"""What holds for every kind of place: a folder of this machine, a prefix of a bucket."""

from __future__ import annotations

import pytest

from cluster.errors import RunBusyError
from cluster.lease import lease_of
from cluster.ledger import Ledger
from cluster.place import clear, local_folder, open_place, write_at
from cluster.unit import Receipt, ShardReceipt


def receipt(number: int) -> Receipt:
    return Receipt(
        key=f"{number:010d}-{number + 1:010d}",
        shards=(ShardReceipt("a/c.0", "0" * 64, 10),),
        failures=(),
        inputs="",
        forward=1,
        backward=2,
        seconds=0.5,
        worker="here:1",
        attempt=1,
    )


def commit(folder, *numbers):
    with Ledger(folder).append() as writer:
        for number in numbers:
            writer.commit(receipt(number))


class StorageConformance:
    """Inherit, and give the fixture ``place``: one that is empty, and there for one test alone."""

    def test_what_was_written_is_read(self, place):
        for data in (b"", b"x", bytes(range(256)) * 999):
            write_at(place / "a/b", data)
            assert (place / "a/b").read_bytes() == data
            assert (place / "a/b").exists()

    def test_what_is_absent_is_said_to_be(self, place):
        write_at(place / "c.10", b"")
        for name in ("c.1", "c.100", "c.0", "c", "c.10/x"):
            assert not (place / name).exists()
            with pytest.raises((FileNotFoundError, NotADirectoryError)):
                (place / name).read_bytes()

    def test_names_are_those_of_files_and_folders(self, place):
        for name in ("b", "a/x", "a/y/z", "c.json"):
            write_at(place / name, b"1")
        assert sorted(entry.name for entry in place.iterdir()) == ["a", "b", "c.json"]
        assert [(place / name).is_dir() for name in ("a", "a/y", "b", "none")] == [1, 1, 0, 0]
        assert str(open_place(str(place / "a"))) == str(place / "a")
        assert (place / "a/y/z").parent.name == "y"

    def test_all_below_a_place_is_cleared_and_nothing_beside_it(self, place):
        for name in ("a/x", "a/y/z", "ab"):
            write_at(place / name, b"1")
        clear(place / "a")
        clear(place / "none")
        assert [entry.name for entry in place.iterdir()] == ["ab"]

    def test_files_of_a_local_folder_arrive(self, place):
        with local_folder(place / "a") as folder:
            (folder / "b").mkdir()
            (folder / "b/c").write_bytes(b"1")
            (folder / "d").write_bytes(b"2")
        assert (place / "a/b/c").read_text() + (place / "a/d").read_text() == "12"

    def test_receipts_come_back_as_committed_over_several_drivers(self, place):
        commit(place / "ledger", 0, 1)
        commit(place / "ledger")
        commit(place / "ledger", 2)
        found = list(Ledger(place / "ledger").receipts())
        assert found == [receipt(0), receipt(1), receipt(2)]

    def test_a_unit_that_was_taken_back_may_be_committed_again(self, place):
        commit(place / "ledger", 0, 1)
        with Ledger(place / "ledger").append() as writer:
            writer.revoke(receipt(0).key)
        assert list(Ledger(place / "ledger").receipts()) == [receipt(1)]
        commit(place / "ledger", 0)
        assert list(Ledger(place / "ledger").receipts()) == [receipt(1), receipt(0)]

    def test_receipts_are_told_of_once_they_are_read(self, place):
        told = []

        def hear(each):
            assert each in list(Ledger(place / "ledger").receipts())
            told.append(each)

        with Ledger(place / "ledger").append(hear) as writer:
            writer.commit(receipt(0))
            writer.commit(receipt(1))
            writer.check()
            assert told == [receipt(0), receipt(1)]

    def test_driver_that_was_shut_out_is_told_and_commits_nothing(self, place):
        zombie = Ledger(place / "ledger").append()
        zombie.commit(receipt(0))
        zombie.check()
        with Ledger(place / "ledger").append() as driver:
            for _ in range(2):
                with pytest.raises(RunBusyError, match="another driver has taken over"):
                    zombie.check()
            with pytest.raises(RunBusyError, match="another driver has taken over"):
                zombie.commit(receipt(1))
            driver.commit(receipt(2))
        with pytest.raises(RunBusyError), zombie:
            zombie.check()
        assert list(Ledger(place / "ledger").receipts()) == [receipt(0), receipt(2)]

    def test_lease_is_for_one_and_can_be_had_when_it_is_given_back(self, place):
        first, second = lease_of(place / "ledger"), lease_of(place / "ledger")
        assert not first.held()
        first.acquire()
        assert second.held()
        with pytest.raises(RunBusyError, match=r"the run is busy \(process"):
            second.acquire()
        first.release()
        assert not second.held()
        second.acquire()
        first.release()
        assert second.held()
        second.release()
