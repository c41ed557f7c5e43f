"""The output's file system fills up or turns read-only: exit code 7, nothing lost, resumable."""

import os
import subprocess

import pytest
from chaos.test_processes import finish

from benchmarks.arena import committed_keys
from jobs.run.status import read_status

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount a small file system"),
]


def mount(place, size, *options):
    command = ["mount", "-t", "tmpfs", "-o", ",".join([f"size={size}", *options]), "tmpfs", place]
    subprocess.run(command, check=True)


@pytest.fixture
def small(tmp_path):
    """A file system of 24 MB."""
    mount(tmp_path, "24m")
    yield tmp_path
    subprocess.run(["umount", "--lazy", tmp_path], check=True)


def gave_up(driver, run):
    assert driver.end() == 7
    last = driver.log.read_text().splitlines()[-1]
    assert last.startswith("occulta: ")
    assert last.endswith(f"to go on: occulta resume {run}")
    assert read_status(run).state in ("failed", "interrupted")


def test_a_full_disk(arena, small):
    run = small / "full"
    driver = arena.drive(run)
    assert driver.wait_for(2)
    with (small / "filler").open("wb", buffering=0) as file:
        while driver.process.poll() is None:
            try:
                file.write(bytes(1024))
            except OSError:
                continue
    gave_up(driver, run)
    (small / "filler").unlink()
    finish(arena, run)


def test_a_disk_that_turns_read_only(arena, small):
    run = small / "read-only"
    driver = arena.drive(run)
    assert driver.wait_for(2)
    # Where files are open, only a second view of the file system can be read-only.
    for options in (["--bind"], ["-o", "remount,bind,ro"]):
        subprocess.run(["mount", *options, small, small], check=True)
    gave_up(driver, run)
    subprocess.run(["umount", small], check=True)
    finish(arena, run)


@pytest.mark.parametrize("name", ["ledger", "events.jsonl"])
def test_no_room_for_the_ledger_or_the_history_alone(arena, run, tmp_path, name):
    """It has a file system of its own, of a few pages."""
    run.mkdir()
    place = run / name
    if name == "ledger":
        place.mkdir()
        mount(place, "16k")
    else:
        mount(tmp_path, "8k")
        (tmp_path / name).touch()
        place.touch()
        subprocess.run(["mount", "--bind", tmp_path / name, place], check=True)
    try:
        driver = arena.drive(run)
        gave_up(driver, run)
        assert committed_keys(run)
        # Room is made by copying it to where there is some.
        kept = {path.name: path.read_bytes() for path in run.glob(f"{name}/*")}
        kept = kept or {"": place.read_bytes()}
    finally:
        subprocess.run(["umount", "--lazy", place], check=True)
        if name != "ledger":
            subprocess.run(["umount", "--lazy", tmp_path], check=True)
    for file, data in kept.items():
        (place / file if file else place).write_bytes(data)
    finish(arena, run)
