"""Damage to committed results: it is named, and a repaired run is what it was before."""

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from astropy.io import fits

from cluster.ledger import Lease, Ledger
from cluster.pool import SerialPool
from jobs.maps import build_maps
from jobs.plan import plan_job
from jobs.run import verify
from jobs.run.execute import execute
from jobs.run.status import read_status
from jobs.run.verify import Damage, repair_run, verify_run
from jobs.specs.load import load_job
from training.checkpoints import save_weights
from training.networks import build

JOB = """
kind: attribution
name: why
survey: {format: fits, path: cutouts}
network:
  architecture: occulta:small_cnn
  weights: weights.safetensors
  classes: [a, b]
  options: {width: 4}
methods: [{method: saliency}]
execution: {micro_batch: 2, shard_objects: 2}
output: why
"""
SHARD = "saliency/attribution/c.1.0.0.0"
UNIT = "0000000002-0000000004"


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "cutouts").mkdir()
    random = np.random.default_rng(0)
    for number in range(6):
        image = random.normal(size=(3, 32, 32)).astype(">f4")
        fits.writeto(tmp_path / f"cutouts/g{number}.fits", image)
    spoilt = tmp_path / "cutouts/g3.fits"  # in the unit that is damaged
    spoilt.write_bytes(spoilt.read_bytes()[:4000])
    torch.manual_seed(0)
    save_weights(build("occulta:small_cnn", 2, 3, {"width": 4}), tmp_path / "weights.safetensors")
    (tmp_path / "job.yaml").write_text(JOB)
    execute(plan_job(load_job(tmp_path / "job.yaml")), SerialPool)
    return tmp_path


def contents(run):
    """Digests of what a run holds, its history aside."""
    left_out = ("ledger", "events.jsonl", "manifest.json")
    return {
        str(path.relative_to(run)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(run.rglob("*"))
        if path.is_file() and path.relative_to(run).parts[0] not in left_out
    }


def flip_a_bit(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


DAMAGES = {"changed": flip_a_bit, "lost": Path.unlink}


def test_a_good_run_is_whole(folder):
    found = verify_run(folder / "why")
    assert found.damaged == ()
    assert found.units == 3
    shards = [
        shard for receipt in Ledger(folder / "why/ledger").receipts() for shard in receipt.shards
    ]
    assert found.shards == len(shards) > 6


@pytest.mark.parametrize("fact", DAMAGES)
def test_a_repaired_run_has_the_bytes_that_it_had(folder, fact):
    run = folder / "why"
    before, digest = (
        contents(run),
        json.loads((run / "manifest.json").read_text())["results_digest"],
    )
    DAMAGES[fact](run / "results.zarr" / SHARD)
    found = verify_run(run)
    assert found.damaged == (Damage(UNIT, SHARD, fact),)
    repair_run(run, found)
    status = read_status(run)
    assert status.state != "complete"
    assert status.units["pending"] == 1
    assert verify_run(run).damaged == ()
    others = {
        path: (run / path).stat().st_mtime_ns
        for path in before
        if path.startswith("results.zarr/saliency/attribution/c.") and not path.endswith(SHARD[-9:])
    }
    execute(plan_job(load_job(folder / "job.yaml")), SerialPool)
    assert contents(run) == before
    assert json.loads((run / "manifest.json").read_text())["results_digest"] == digest
    assert {path: (run / path).stat().st_mtime_ns for path in others} == others
    assert verify_run(run).units == 3
    build_maps(run, load_job(folder / "job.yaml").maps)


def test_a_repair_that_is_cut_off_is_finished_by_the_resume(folder, monkeypatch):
    run = folder / "why"
    before = contents(run)
    flip_a_bit(run / "results.zarr" / SHARD)

    def die(_run):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(verify, "finish_repair", die)
        with pytest.raises(KeyboardInterrupt):
            repair_run(run, verify_run(run))
    assert read_status(run).state != "complete"
    execute(plan_job(load_job(folder / "job.yaml")), SerialPool)
    assert contents(run) == before


def occulta(*arguments):
    command = [Path(sys.executable).with_name("occulta"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


def test_the_command_names_the_damage_and_ends_with_code_6(folder):
    run = folder / "why"
    assert occulta("verify", run).returncode == 0
    flip_a_bit(run / "results.zarr" / SHARD)
    done = occulta("verify", run)
    assert done.returncode == 6
    assert f"unit {UNIT}: {SHARD} is changed" in done.stdout
    assert done.stderr == f"damaged units: 1; occulta verify {run} --repair\n"
    done = occulta("verify", run, "--repair", "--json")
    assert done.returncode == 0
    assert json.loads(done.stdout)["damaged"] == [{"unit": UNIT, "shard": SHARD, "fact": "changed"}]
    assert f"occulta resume {run}" in done.stderr


def test_a_run_that_is_worked_on_is_not_repaired(folder):
    run = folder / "why"
    flip_a_bit(run / "results.zarr" / SHARD)
    lease = Lease(run / "ledger")
    lease.acquire()
    done = occulta("verify", run, "--repair")
    lease.release()
    assert done.returncode == 4
    assert f"process {os.getpid()}" in done.stderr
    assert read_status(run).state == "complete"
