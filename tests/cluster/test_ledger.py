import json
import multiprocessing
from dataclasses import replace

import pytest

from cluster.errors import RunBusyError, VerificationError
from cluster.ledger import Lease, Ledger
from cluster.unit import ObjectFailure, Receipt, ShardReceipt


def receipt(number):
    return Receipt(
        key=f"{number:010d}-{number + 1:010d}",
        shards=(ShardReceipt("a/c.0", "0" * 64, 10),),
        failures=(ObjectFailure(number, "a,b\n", "missing_file", "gone"),),
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


def test_receipts_come_back_as_committed_over_several_drivers(tmp_path):
    commit(tmp_path, 0, 1)
    commit(tmp_path, 2)
    assert list(Ledger(tmp_path).receipts()) == [receipt(0), receipt(1), receipt(2)]


def test_driver_that_commits_nothing_leaves_no_receipt(tmp_path):
    commit(tmp_path, 0)
    commit(tmp_path)
    assert list(Ledger(tmp_path).receipts()) == [receipt(0)]


def test_driver_that_was_shut_out_is_told_and_commits_nothing(tmp_path):
    with Ledger(tmp_path).append() as zombie:
        zombie.commit(receipt(0))
        with Ledger(tmp_path).append() as driver:
            with pytest.raises(RunBusyError, match="another driver has taken over"):
                zombie.commit(receipt(1))
            with pytest.raises(RunBusyError, match="another driver has taken over"):
                zombie.revoke(receipt(0).key)
            driver.commit(receipt(2))
    assert list(Ledger(tmp_path).receipts()) == [receipt(0), receipt(2)]


def test_lines_appended_by_a_driver_that_was_shut_out_do_not_count(tmp_path):
    # As on a network file system that lost the lock, and shows the new segment late.
    commit(tmp_path, 0)
    commit(tmp_path, 1)
    for segment, number in (("000001", 7), ("000002", 8)):
        with (tmp_path / f"{segment}.jsonl").open("a") as file:
            file.write(json.dumps(receipt(number).to_json()) + "\n")
        if segment == "000001":
            assert list(Ledger(tmp_path).receipts()) == [receipt(0), receipt(1)]
    commit(tmp_path, 2)  # finds the late lines; those of a segment that was sealed stay out
    with (tmp_path / "000002.jsonl").open("a") as file:
        file.write(json.dumps(receipt(9).to_json()) + "\n")
    found = list(Ledger(tmp_path).receipts())
    assert found == [receipt(0), receipt(1), receipt(8), receipt(2)]


def test_late_line_after_a_torn_one_does_not_count(tmp_path):
    commit(tmp_path, 0)
    with (tmp_path / "000001.jsonl").open("a") as file:
        file.write('{"key":')
    commit(tmp_path, 1)
    with (tmp_path / "000001.jsonl").open("a") as file:
        file.write(json.dumps(receipt(9).to_json())[7:] + "\n")
    assert list(Ledger(tmp_path).receipts()) == [receipt(0), receipt(1)]


def test_ledgers_of_versions_without_seals_are_read(tmp_path):
    for number in (1, 2):
        line = json.dumps(receipt(number).to_json()) + "\n"
        (tmp_path / f"{number:06d}.jsonl").write_text(line)
    commit(tmp_path, 3)
    assert list(Ledger(tmp_path).receipts()) == [receipt(1), receipt(2), receipt(3)]


@pytest.mark.parametrize("kept", [1, 20, -1])
def test_torn_last_line_is_a_unit_that_was_never_committed(tmp_path, kept):
    commit(tmp_path, 0, 1)
    segment = tmp_path / "000001.jsonl"
    lines = segment.read_bytes().splitlines(keepends=True)
    segment.write_bytes(lines[0] + lines[1] + lines[2][:kept])
    commit(tmp_path, 1)
    assert list(Ledger(tmp_path).receipts()) == [receipt(0), receipt(1)]


def test_damage_before_the_last_line_is_an_error_that_names_it(tmp_path):
    commit(tmp_path, 0, 1)
    segment = tmp_path / "000001.jsonl"
    segment.write_bytes(b"{oops\n" + segment.read_bytes())
    with pytest.raises(VerificationError, match=r"000001\.jsonl: line 1 is damaged"):
        list(Ledger(tmp_path).receipts())


def older_lines(folder):
    """Rewrite a segment as an older version wrote it: the shards right after the key."""
    segment = folder / "000001.jsonl"
    lines = []
    for line in segment.read_text().splitlines()[1:]:
        values = json.loads(line)
        first = {name: values.pop(name) for name in ("key", "shards")}
        lines.append(json.dumps(first | values, separators=(",", ":")) + "\n")
    segment.write_text("".join(lines))


@pytest.mark.parametrize("rewrite", [lambda _: None, older_lines])
def test_receipts_may_be_read_without_their_shards(tmp_path, rewrite):
    evil = replace(receipt(1), inputs=',"shards":[')
    with Ledger(tmp_path).append() as writer:
        writer.commit(receipt(0))
        writer.commit(evil)
    rewrite(tmp_path)
    assert list(Ledger(tmp_path).receipts()) == [receipt(0), evil]
    bare = [replace(each, shards=()) for each in (receipt(0), evil)]
    assert list(Ledger(tmp_path).receipts(shards=False)) == bare


def test_each_line_is_json(tmp_path):
    commit(tmp_path, 0)
    _, line = (tmp_path / "000001.jsonl").read_text().splitlines()
    assert json.loads(line)["shards"][0]["sha256"] == "0" * 64


def _hold(folder, held, release):
    lease = Lease(folder)
    lease.acquire()
    held.set()
    release.wait(60)


def test_lease_is_exclusive_and_dies_with_its_process(tmp_path):
    context = multiprocessing.get_context("spawn")
    held, release = context.Event(), context.Event()
    holder = context.Process(target=_hold, args=(tmp_path / "ledger", held, release))
    holder.start()
    try:
        assert held.wait(60)
        lease = Lease(tmp_path / "ledger")
        assert lease.held()
        with pytest.raises(RunBusyError, match=f"busy .process {holder.pid}"):
            lease.acquire()
    finally:
        holder.kill()
        holder.join()
    assert not lease.held()
    lease.acquire()
    assert Lease(tmp_path / "ledger").held()
    lease.release()


def test_a_whole_line_that_is_no_receipt_is_damage(tmp_path):
    (tmp_path / "000001.jsonl").write_text('{"key": "0000000000-0000000004"}\n')
    for shards in (True, False):
        with pytest.raises(VerificationError, match=r"000001.jsonl: line 1 is damaged"):
            list(Ledger(tmp_path).receipts(shards=shards))
