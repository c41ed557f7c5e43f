"""Both kinds of places keep the same promises; S3 also where the network does its worst."""

import threading

import numpy as np
import pytest
import zarr
from conformance.storage import StorageConformance, commit, receipt
from s3_server import BUCKET, Faults, access_to, proxy, s3_server

from attribution.arrays import ArraySpec
from cluster import lease as leases
from cluster import ledger_s3
from cluster.errors import OccultaError, RunBusyError, StorageError, VerificationError
from cluster.lease import lease_of
from cluster.ledger import Ledger
from cluster.place import local_folder, open_place, write_at
from cluster.reading import zarr_store
from cluster.remote import S3Path
from cluster.store import ShardWriter, create_array
from cluster.unit import UnitKey


@pytest.fixture(scope="module")
def endpoint():
    with s3_server() as endpoint:
        yield endpoint


@pytest.fixture
def bucket(endpoint):
    with access_to(endpoint):
        yield S3Path(f"s3://{BUCKET}")


@pytest.fixture
def place(bucket, request):
    return bucket / f"tests/{request.node.name}"


class TestFolder(StorageConformance):
    @pytest.fixture
    def place(self, tmp_path):
        return tmp_path


class TestS3(StorageConformance):
    pass


EVERYTHING = {"refuse": 0.1, "reset": 0.1, "forget": 0.1, "cut": 0.05, "flip": 0.1, "absent": 0.1}


class TestS3OverABadNetwork(StorageConformance):
    @pytest.fixture
    def place(self, endpoint, request):
        faults = Faults(**EVERYTHING)
        with proxy(endpoint, faults) as bad, access_to(bad):
            yield S3Path(f"s3://{BUCKET}/bad/{request.node.name}")
        assert sum(faults.struck.values()) > 0


@pytest.mark.parametrize("fault", ["refuse", "reset", "cut", "forget", "absent", "flip"])
def test_no_fault_of_the_network_changes_what_is_read(endpoint, fault):
    faults = Faults(**{fault: 0.3})
    with proxy(endpoint, faults) as bad, access_to(bad):
        folder = S3Path(f"s3://{BUCKET}/one/{fault}")
        for number in range(12):
            write_at(folder / str(number), bytes([number]) * 999)
        for number in range(12):
            assert (folder / str(number)).read_bytes() == bytes([number]) * 999
            assert (folder / str(number)).exists()
        assert len(folder.below()) == 12
    assert faults.struck[fault] > 0


def test_an_object_is_created_once_though_the_reply_is_lost(endpoint, request):
    faults = Faults(forget=0.3)
    with proxy(endpoint, faults) as bad, access_to(bad):
        folder = S3Path(f"s3://{BUCKET}/create/{request.node.name}")
        for number in range(10):
            (folder / str(number)).create(b"mine")
            with pytest.raises(FileExistsError):
                (folder / str(number)).create(b"other")
            assert (folder / str(number)).read_bytes() == b"mine"
    assert faults.struck["forget"] > 3


def test_refused_credentials_are_fatal_at_once(endpoint):
    faults = Faults(deny=1)
    with proxy(endpoint, faults) as bad, access_to(bad):
        place = S3Path(f"s3://{BUCKET}/denied")
        for attempt in (place.read_bytes, place.exists, lambda: write_at(place, b"")):
            with pytest.raises(StorageError, match=f"{place}.* refuses the credentials") as told:
                attempt()
            assert "canary" not in str(told.value)
    assert faults.struck["deny"] == 3


def test_a_server_that_stays_away_is_an_error_after_a_while(endpoint):
    with (
        proxy(endpoint, Faults(refuse=1)) as bad,
        access_to(bad, seconds=0.5),
        pytest.raises(StorageError, match="does not answer as it should"),
    ):
        S3Path(f"s3://{BUCKET}/away").read_bytes()


def test_a_missing_bucket_is_named(bucket):
    for attempt in (lambda place: place.exists(), lambda place: write_at(place, b"")):
        with pytest.raises(StorageError, match="s3://no-such-bucket/x: there is no such bucket"):
            attempt(S3Path("s3://no-such-bucket/x"))


def test_damage_at_rest_is_told_from_damage_on_the_way(place):
    import obstore

    from cluster.remote import _client

    write_at(place, b"as it was")
    attributes = obstore.get(_client(place.bucket), place.key).attributes
    obstore.put(_client(place.bucket), place.key, b"as it is!", attributes=attributes)
    with pytest.raises(VerificationError, match="is not what was stored"):
        place.read_bytes()


@pytest.mark.parametrize(
    "text", ["s3://", "s3://bucket", "s3://bucket/", "gs://bucket/x", "s3:///x", "s3://b/a[b"]
)
def test_addresses_that_name_no_run_are_refused(text):
    with pytest.raises(OccultaError, match="s3://bucket/prefix"):
        open_place(text)


def test_a_place_holds_no_credentials(bucket):
    import pickle

    (bucket / "x").exists()
    assert b"canary" not in pickle.dumps(bucket)


TEMPLATE = {
    "m/attribution": ArraySpec("attribution", ("y",), (3,), "map", is_map=True),
    "m/gap": ArraySpec("gap", (), (), "gap"),
}


def test_shards_on_s3_are_those_of_a_folder_over_a_bad_network(endpoint, tmp_path):
    random = np.random.default_rng(0)
    blocks = {
        UnitKey(start, start + 4): {
            "m/attribution": random.normal(size=(4, 3)),
            "m/gap": random.normal(size=4),
        }
        for start in (0, 4, 8)
    }
    faults = Faults(**EVERYTHING)
    with proxy(endpoint, faults) as bad, access_to(bad):
        places = (tmp_path / "store", S3Path(f"s3://{BUCKET}/shards/store"))
        receipts = []
        for place in places:
            with local_folder(place) as folder:
                root = zarr.open_group(folder, mode="w", zarr_format=3)
                for path, spec in TEMPLATE.items():
                    create_array(root, path, spec, 12, 4)
            writer = ShardWriter(place, TEMPLATE)
            receipts.append([writer.write(key, block) for key, block in blocks.items()])
        assert receipts[0] == receipts[1]
        for _ in range(3):
            found = [zarr.open_group(zarr_store(place), mode="r") for place in places]
            for path in TEMPLATE:
                np.testing.assert_array_equal(found[0][path][...], found[1][path][...])
    assert faults.struck["absent"] > 0


def test_many_small_objects_become_few_and_say_the_same(place, monkeypatch):
    monkeypatch.setattr(ledger_s3, "_MANY", 4)
    ledger = Ledger(place)
    for driver in range(3):
        with ledger.append() as writer:
            for number in range(10):
                writer.commit(receipt(100 * driver + number))
                writer.check()  # so that each has an object of its own
        assert len(list(ledger.receipts())) == 10 * (driver + 1)
    assert [each.key for each in ledger.receipts()] == [
        receipt(100 * driver + number).key for driver in range(3) for number in range(10)
    ]
    assert len(place.below()) < 30


def test_compaction_does_not_open_a_gap_for_a_driver_that_was_shut_out(place, monkeypatch):
    monkeypatch.setattr(ledger_s3, "_MANY", 4)
    zombie = Ledger(place).append()
    zombie.commit(receipt(0))
    zombie.check()
    with Ledger(place).append() as driver:
        for number in range(1, 20):
            driver.commit(receipt(number))
            driver.check()
        with pytest.raises(RunBusyError):
            zombie.check()
    assert [each.key for each in Ledger(place).receipts()] == [receipt(n).key for n in range(20)]


def test_a_compaction_that_was_cut_off_counts_nothing_twice(place, monkeypatch):
    monkeypatch.setattr(ledger_s3, "_MANY", 4)
    monkeypatch.setattr(ledger_s3, "remove", lambda _: None)  # the driver dies before it
    with Ledger(place).append() as writer:
        for number in range(6):
            writer.commit(receipt(number))
            writer.check()
    assert [each.key for each in Ledger(place).receipts()] == [receipt(n).key for n in range(6)]


def test_units_that_come_close_together_share_an_object(place):
    with Ledger(place).append() as writer:
        for number in range(200):
            writer.commit(receipt(number))
    assert len(place.below()) < 100
    assert len(list(Ledger(place).receipts())) == 200


def test_a_lost_object_of_the_ledger_is_an_error(place):
    for number in range(3):
        commit(place, number)
    place.below()[2].unlink()
    with pytest.raises(VerificationError, match="an object of the ledger is missing"):
        list(Ledger(place).receipts())


def test_drivers_that_begin_at_the_same_time_get_different_numbers(place):
    writers, errors = [], []

    def begin():
        try:
            writers.append(Ledger(place).append())
        except RunBusyError as error:
            errors.append(error)

    threads = [threading.Thread(target=begin) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(writers) + len(errors) == 4
    superseded = 0
    for number, writer in enumerate(writers):
        try:
            writer.commit(receipt(number))
            writer.check()
        except RunBusyError:
            superseded += 1
    assert superseded == len(writers) - 1
    assert len(list(Ledger(place).receipts())) == 1


def test_a_lease_whose_owner_is_not_heard_of_is_taken_over(place, monkeypatch):
    monkeypatch.setattr(leases, "_BEAT", 3600)
    first, second = lease_of(place), lease_of(place)
    first.acquire()
    with pytest.raises(RunBusyError, match="the run is free in"):
        second.acquire()
    monkeypatch.setattr(leases, "_LIFE", 0.0)
    second.acquire()
    monkeypatch.setattr(leases, "_LIFE", 3600.0)
    first.release()  # is no longer its own to give back
    assert lease_of(place).held()
    second.release()


def test_a_lease_is_renewed(place, monkeypatch):
    monkeypatch.setattr(leases, "_BEAT", 0.05)
    lease = lease_of(place)
    lease.acquire()
    before = (place / "lease").read_bytes()
    for _ in range(600):
        if (place / "lease").read_bytes() != before:
            break
        threading.Event().wait(0.05)
    assert (place / "lease").read_bytes() != before
    lease.release()
