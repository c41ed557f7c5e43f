"""Files of a finished run are damaged: it is named, kept out of maps and reports, and mended."""

import os
import shutil

import pytest

from benchmarks.arena import ledger_lines, shards

pytestmark = pytest.mark.slow

DAMAGE = {
    "flipped": lambda path: path.write_bytes(_flip(path.read_bytes())),
    "truncated": lambda path: os.truncate(path, path.stat().st_size // 2),
    "emptied": lambda path: os.truncate(path, 0),
    "deleted": lambda path: path.unlink(),
}


def _flip(data):
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 16]) + data[middle + 1 :]


@pytest.fixture
def copy(arena, run):
    """Return a copy of the golden run, and a shard of its seventh unit."""
    shutil.copytree(arena.folder / "golden", run)
    unit = [line for line in ledger_lines(run) if "key" in line][6]
    shard = next(
        run / "results.zarr" / found["path"]
        for found in unit["shards"]
        if found["path"].startswith("occlusion/grid/")
    )
    return run, unit["key"], shard


@pytest.mark.parametrize("damage", [*DAMAGE])
def test_a_damaged_shard_is_named_kept_out_of_maps_and_mended(arena, copy, damage):
    run, key, shard = copy
    DAMAGE[damage](shard)
    found = arena.occulta("verify", str(run))
    assert found.returncode == 6
    assert key in found.stdout + found.stderr
    for product, path in (("maps", run / "maps"), ("report", run / "report")):
        refused = arena.occulta(product, str(run))
        assert refused.returncode == 6, refused.stderr
        assert "results.zarr/occlusion/grid" in refused.stderr
        assert not path.exists()
    arena.occulta("verify", str(run), "--repair").check_returncode()
    others = {path: path.stat().st_mtime_ns for path in shards(run) if path.exists()}
    assert arena.drive(run).end() == 0
    verdict = arena.judge(run)
    assert verdict.sound, verdict
    assert not verdict.false_complete
    again = {path for path, time in others.items() if path.stat().st_mtime_ns != time}
    unit = next(line for line in ledger_lines(run) if line.get("key") == key)
    assert again <= {run / "results.zarr" / found["path"] for found in unit["shards"]}


def test_a_complete_run_that_is_resumed_stays_as_it_is(arena):
    golden = arena.folder / "golden"

    def state():
        files = [path for path in golden.rglob("*") if path.is_file()]
        return {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in files}

    before = state()
    assert arena.occulta("resume", str(golden)).returncode == 0
    assert state() == before
