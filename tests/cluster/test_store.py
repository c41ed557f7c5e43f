import hashlib

import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

from attribution.arrays import ArraySpec, round_mantissa
from cluster.store import ShardWriter, create_array
from cluster.unit import UnitGrid, UnitKey

TEMPLATE = {
    "m/attribution": ArraySpec("attribution", ("target", "y"), (2, 3), "map", is_map=True),
    "m/gap": ArraySpec("gap", ("target",), (2,), "gap"),
    "truth/bar": ArraySpec("bar", ("y",), (3,), "bar", dtype="bool"),
    "catalogue/id": ArraySpec("id", (), (), "id", dtype="str"),
}


@pytest.fixture
def store(tmp_path):
    root = zarr.open_group(tmp_path, mode="w", zarr_format=3)
    for path, spec in TEMPLATE.items():
        create_array(root, path, spec, 10, 4)
    return tmp_path


def block(key, seed=0):
    random = np.random.default_rng(seed + key.start)
    count = key.stop - key.start
    return {
        "m/attribution": random.normal(size=(count, 2, 3)),
        "m/gap": random.normal(size=(count, 2)),
        "truth/bar": random.random((count, 3)) > 0.5,
        "catalogue/id": np.array([f"id-{key.start + n}é" for n in range(count)]),
    }


def test_written_units_are_read_back_and_the_rest_is_empty(store):
    writer = ShardWriter(store, TEMPLATE)
    for key in (UnitKey(8, 10), UnitKey(0, 4)):
        writer.write(key, block(key))
    root = zarr.open_group(store, mode="r")
    for key in (UnitKey(8, 10), UnitKey(0, 4)):
        rows, data = slice(key.start, key.stop), block(key)
        rounded = round_mantissa(data["m/attribution"].astype(np.float32))
        np.testing.assert_array_equal(root["m/attribution"][rows], rounded)
        np.testing.assert_array_equal(root["m/gap"][rows], data["m/gap"].astype(np.float32))
        np.testing.assert_array_equal(root["truth/bar"][rows], data["truth/bar"])
        assert list(root["catalogue/id"][rows]) == list(data["catalogue/id"])
    assert np.isnan(root["m/gap"][4:8]).all()


def test_receipts_prove_the_files(store):
    receipts = ShardWriter(store, TEMPLATE).write(UnitKey(4, 8), block(UnitKey(4, 8)))
    assert [receipt.path for receipt in receipts] == [
        "m/attribution/c.1.0.0",
        "m/gap/c.1.0",
        "truth/bar/c.1.0",
        "catalogue/id/c.1",
    ]
    for receipt in receipts:
        content = (store / receipt.path).read_bytes()
        assert hashlib.sha256(content).hexdigest() == receipt.sha256
        assert len(content) == receipt.bytes


def test_units_whose_values_all_equal_the_fill_value_are_stored(store):
    # As of a unit whose objects are all quarantined, or of galaxies without a bar.
    key = UnitKey(0, 4)
    blank = {
        "m/attribution": np.full((4, 2, 3), np.nan),
        "m/gap": np.full((4, 2), np.nan),
        "truth/bar": np.zeros((4, 3), dtype=bool),
        "catalogue/id": np.full(4, ""),
    }
    receipts = ShardWriter(store, TEMPLATE).write(key, blank)
    assert all((store / receipt.path).stat().st_size > 0 for receipt in receipts)
    assert np.isnan(zarr.open_group(store, mode="r")["m/gap"][:4]).all()


def test_writing_again_gives_the_same_bytes_over_a_damaged_shard(store):
    key = UnitKey(0, 4)
    first = ShardWriter(store, TEMPLATE).write(key, block(key))
    for receipt in first:
        (store / receipt.path).write_bytes(b"")
    assert ShardWriter(store, TEMPLATE).write(key, block(key)) == first
    assert not list(store.rglob("*.partial"))


def test_flipped_bit_is_noticed(store):
    ShardWriter(store, TEMPLATE).write(UnitKey(0, 4), block(UnitKey(0, 4)))
    shard = store / "m/gap/c.0.0"
    content = bytearray(shard.read_bytes())
    content[len(content) // 4] ^= 1
    shard.write_bytes(bytes(content))
    with pytest.raises((ValueError, RuntimeError)):
        zarr.open_group(store, mode="r")["m/gap"][...]


@given(st.integers(1, 500), st.integers(1, 64))
@settings(max_examples=100, deadline=None)
def test_units_cover_every_object_once(objects, unit_objects):
    grid = UnitGrid(objects, unit_objects)
    covered = [row for key in grid for row in range(key.start, key.stop)]
    assert covered == list(range(objects))
    for number, key in enumerate(grid):
        assert grid.number(key) == number
        assert UnitKey.parse(str(key)) == key
        assert key.start % unit_objects == 0
