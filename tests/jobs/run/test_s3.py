"""Runs on S3, over the command line: the bytes of a local run, whatever the network does."""

import hashlib
import json
import os
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
import zarr
from s3_server import ACCESS, BUCKET, Faults, access_to, proxy, s3_server

from cluster.ledger import Ledger
from cluster.pool import SerialPool
from cluster.remote import S3Path
from jobs.maps.source import open_source
from jobs.plan import plan_job
from jobs.run import open_run
from jobs.run.execute import execute
from jobs.run.status import read_status
from jobs.run.verify import Damage, repair_run, verify_run
from jobs.specs.load import load_job
from training.checkpoints import save_weights
from training.networks import build

SIMULATION = """
kind: simulation
name: survey
preset: A
objects: 12
shard_objects: 8
output: survey
"""
JOB = """
kind: attribution
name: why
survey: {format: simulated, path: survey}
network:
  architecture: occulta:small_cnn
  weights: weights.safetensors
  classes: [smooth, spiral, barred, edge_on]
  options: {width: 4}
  preprocess: {stretch: asinh, scale: 0.1}
methods: [{method: saliency}]
execution: {micro_batch: 2, shard_objects: 2, replicas: 1}
output: why
"""
TRAINING = """
kind: training
name: net
survey: {format: simulated, path: survey}
classes: [smooth, spiral, barred, edge_on]
options: {width: 2}
preprocess: {size: 32, stretch: asinh, scale: 0.1}
split: {validation: 0.25, test: 0.25}
fit: {epochs: 2, batch_size: 2}
output: net
"""
SHARD = "saliency/attribution/c.1.0.0.0"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("s3")
    (folder / "simulation.yaml").write_text(SIMULATION)
    (folder / "job.yaml").write_text(JOB)
    (folder / "training.yaml").write_text(TRAINING)
    torch.manual_seed(0)
    save_weights(build("occulta:small_cnn", 4, 3, {"width": 4}), folder / "weights.safetensors")
    for job in ("simulation", "job"):
        execute(plan_job(load_job(folder / f"{job}.yaml")), SerialPool)
    return folder


@pytest.fixture(scope="module")
def endpoint():
    with s3_server() as endpoint:
        yield endpoint


def run_serially(folder, url):
    return execute(plan_job(load_job(folder / "job.yaml", [f"output={url}"])), SerialPool)


def results(run):
    """Digests of all that a run's store holds."""
    store = run / "results.zarr"
    if isinstance(run, S3Path):
        files = {str(path).removeprefix(f"{store}/"): path for path in store.below()}
    else:
        files = {str(p.relative_to(store)): p for p in store.rglob("*") if p.is_file()}
    return {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in files.items()}


def digest(run):
    return json.loads((run / "manifest.json").read_text())["results_digest"]


def check_same(run, local):
    assert results(run) == results(local)
    assert digest(run) == digest(local)
    for name in ("job.yaml", "quarantine.csv"):
        ours, theirs = ((place / name).read_text() for place in (run, local))
        assert ours.replace(f"output: {run}\n", "") == theirs.replace(f"output: {local}\n", "")


FAULTS = {
    "none": {},
    "every kind": {
        "refuse": 0.05,
        "reset": 0.05,
        "forget": 0.05,
        "cut": 0.05,
        "flip": 0.05,
        "absent": 0.05,
    },
}


@pytest.mark.parametrize("faults", ["none", pytest.param("every kind", marks=pytest.mark.slow)])
def test_a_run_on_s3_has_the_bytes_of_a_local_one(folder, endpoint, faults):
    strikes = Faults(**FAULTS[faults])
    with proxy(endpoint, strikes) as bad, access_to(bad):
        run = run_serially(folder, f"s3://{BUCKET}/{faults.replace(' ', '-')}")
        assert read_status(run).state == "complete"
        assert verify_run(run).damaged == ()
        opened = open_run(str(run)).results["saliency/attribution"]
        local = open_run(folder / "why").results["saliency/attribution"]
        np.testing.assert_array_equal(opened, local)
        assert "canary" not in "".join(path.read_text("latin-1") for path in run.below())
    with access_to(endpoint):
        check_same(run, folder / "why")
    assert bool(sum(strikes.struck.values())) == bool(FAULTS[faults])


def test_a_network_trained_on_s3_is_that_of_a_local_training(folder, endpoint):
    def train(output):
        job = load_job(folder / "training.yaml", [f"output={output}"])
        return execute(plan_job(job), SerialPool)

    with access_to(endpoint):
        local, run = train(folder / "net"), train(f"s3://{BUCKET}/net")
        for name in ("weights.safetensors", "card.json"):
            assert (run / name).read_bytes() == (local / name).read_bytes()
        check_same(run, local)
        assert read_status(run).epochs == {"total": 2, "done": 2}
        (run / "weights.safetensors").unlink()
        found = verify_run(run)
        assert [damage.shard for damage in found.damaged] == ["../weights.safetensors"]
        repair_run(run, found)
        # The checkpoint has all that is needed, so no epoch is made again.
        train(str(run))
        check_same(run, local)


def test_a_damaged_run_is_repaired(folder, endpoint):
    with access_to(endpoint):
        run = run_serially(folder, f"s3://{BUCKET}/damaged")
        (run / "results.zarr" / SHARD).unlink()
        (run / "results.zarr" / SHARD.replace("c.1", "c.2")).write_bytes(b"other")
        found = verify_run(run)
        assert [damage.fact for damage in found.damaged] == ["lost", "changed"]
        assert found.damaged[0] == Damage("0000000002-0000000004", SHARD, "lost")
        repair_run(run, found)
        assert read_status(run).units["pending"] == 2
        run_serially(folder, str(run))
        check_same(run, folder / "why")


def test_parts_of_shards_that_are_damaged_on_the_way_are_read_again(folder, endpoint, monkeypatch):
    monkeypatch.setattr("cluster.store._CHUNK_BYTES", 1)  # a shard has several parts
    faults = Faults(flip=0.1)
    with access_to(endpoint):
        run = run_serially(folder, f"s3://{BUCKET}/parts")
    with proxy(endpoint, faults) as bad, access_to(bad):
        local, remote = open_source(folder / "why"), open_source(run)
        for _ in range(3):
            for row in range(12):
                rows = slice(row, row + 1)
                ours, theirs = (each.read("saliency/attribution", rows) for each in (remote, local))
                np.testing.assert_array_equal(ours, theirs)
    assert faults.struck["flip"] > 0


def test_a_complete_run_is_not_touched_by_a_resume(folder, endpoint):
    with access_to(endpoint):
        run = run_serially(folder, f"s3://{BUCKET}/complete")
        before = {str(path): path.modified() for path in run.below()}
        run_serially(folder, str(run))
        assert {str(path): path.modified() for path in run.below()} == before


def occulta(folder, endpoint, *arguments):
    command = [sys.executable, "-c", "from jobs.cli import main; main()", *map(str, arguments)]
    environment = os.environ | ACCESS | {"AWS_ENDPOINT_URL": endpoint}
    quiet = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, cwd=folder, env=environment, **quiet)


def finish(process, code=0):
    out, err = process.communicate(timeout=400)
    assert process.returncode == code, err
    return out


@pytest.mark.slow
def test_a_killed_driver_is_resumed_and_maps_and_report_follow(folder, endpoint):
    run = S3Path(f"s3://{BUCKET}/killed")
    driver = occulta(folder, endpoint, "run", "job.yaml", "--out", run)
    with access_to(endpoint):
        end = time.monotonic() + 300
        while not list(Ledger(run / "ledger").receipts()):
            assert time.monotonic() < end, "the driver committed nothing"
            time.sleep(0.01)
        driver.kill()
        finish(driver, -9)
        finish(occulta(folder, endpoint, "maps", run), 2)
        assert finish(occulta(folder, endpoint, "resume", run)).strip() == str(run)
        keys = [receipt.key for receipt in Ledger(run / "ledger").receipts()]
        assert sorted(keys) == sorted(set(keys))
        check_same(run, folder / "why")
        status = json.loads(finish(occulta(folder, endpoint, "status", run, "--json")))
        assert (status["run"], status["state"]) == (str(run), "complete")
        assert "damaged units: 0" in finish(occulta(folder, endpoint, "verify", run))
        maps = finish(occulta(folder, endpoint, "maps", run)).split()
        finish(occulta(folder, "http://nowhere", "maps", folder / "why"))
        assert f"{run}/maps/maps.zarr" in maps
        page = S3Path(finish(occulta(folder, endpoint, "report", run)).strip())
        assert page.read_text().startswith("<!doctype html>")
        opened = open_run(str(run)).maps["healpix"]
        local = zarr.open_group(folder / "why/maps/maps.zarr", mode="r")["healpix"]
        np.testing.assert_array_equal(opened["count"], local["count"])


@pytest.mark.slow
def test_a_frozen_driver_that_wakes_up_after_a_resume_commits_nothing(folder, endpoint):
    import signal

    run = S3Path(f"s3://{BUCKET}/frozen")
    # Many units, so that it has some to do when it wakes up.
    more = ("--set", "methods=[{method: occlusion, window: 8, stride: 2}]")
    zombie = occulta(folder, endpoint, "run", "job.yaml", "--out", run, *more)
    with access_to(endpoint):
        end = time.monotonic() + 300
        while not list(Ledger(run / "ledger").receipts()):
            assert time.monotonic() < end, "the driver committed nothing"
            time.sleep(0.01)
        zombie.send_signal(signal.SIGSTOP)
        busy = occulta(folder, endpoint, "resume", run)
        assert "the run is busy (process" in busy.communicate(timeout=300)[1]
        assert busy.returncode == 4
        for _ in range(600):
            resumed = occulta(folder, endpoint, "resume", run)
            resumed.communicate(timeout=400)
            if resumed.returncode != 4:
                break
            time.sleep(1)
        assert resumed.returncode == 0
        before = results(run), digest(run)
        zombie.send_signal(signal.SIGCONT)
        _, err = zombie.communicate(timeout=300)
        assert zombie.returncode == 4, err
        assert "another driver has taken over this run" in err
        assert (results(run), digest(run)) == before
        keys = [receipt.key for receipt in Ledger(run / "ledger").receipts()]
        assert sorted(keys) == sorted(set(keys))
        assert len(keys) == 6
