"""Objects that no replica can compute: they alone are left out, whatever they do to replicas."""

import csv
import json
import shutil

import numpy as np
import pytest
import zarr

from benchmarks.arena import Arena

pytestmark = pytest.mark.slow

NETWORK = """
import json, os, time
from pathlib import Path

import torch
from torch import nn
from training.networks import build as small_cnn

NOTE = Path(__file__).with_name("poison.json")


class Poisoned(nn.Module):
    def __init__(self, classes, bands):
        super().__init__()
        self.network = small_cnn("occulta:small_cnn", classes, bands)

    def forward(self, x):
        if NOTE.exists():
            note = json.loads(NOTE.read_text())
            if torch.isclose(x.double().mean((1, 2, 3)), torch.tensor(note["mean"]).double()).any():
                if note["fault"] == "raises":
                    raise ArithmeticError("what a strange galaxy")
                if note["fault"] == "crashes":
                    os.abort()
                time.sleep(3600)
        return self.network(x)


def build(classes, bands):
    return Poisoned(classes, bands)
"""
CODES = {"raises": "computation_failed", "crashes": "replica_died", "hangs": "no_answer"}
GUILTY = 5


@pytest.fixture(scope="module")
def poisoned(tmp_path_factory):
    folder = tmp_path_factory.mktemp("poison")
    (folder / "net.py").write_text(NETWORK)
    scope = {"__file__": str(folder / "net.py")}
    exec(NETWORK, scope)
    import torch

    from training.checkpoints import save_weights

    torch.manual_seed(0)
    save_weights(scope["build"](4, 3), folder / "own.safetensors")

    def change(job):
        job = job.replace("architecture: occulta:small_cnn", "architecture: file:net.py:build")
        job = job.replace("weights: weights", "trust: code\n  weights: own")
        job = job.replace("  - {method: integrated_gradients, steps: 8}\n", "")
        job = job.replace("micro_batch: 2, shard_objects: 2", "micro_batch: 4, shard_objects: 16")
        return job.replace("replicas: 2", "replicas: 2, unit_timeout: 25")

    arena = Arena(folder, change)
    images = np.asarray(
        zarr.open_array(folder / "survey/results.zarr/cutout/image", mode="r")[GUILTY]
    )
    arena.mean = float(np.arcsinh(images / np.float32(0.1)).astype(np.float64).mean())
    return arena


@pytest.mark.parametrize("fault", [*CODES])
def test_poison_is_left_out_alone(poisoned, fault):
    run = poisoned.folder / fault
    note = poisoned.folder / "poison.json"
    note.write_text(json.dumps({"mean": poisoned.mean, "fault": fault}))
    try:
        done = poisoned.occulta("run", "attribution.yaml", "--out", str(run), seconds=500)
    finally:
        note.unlink()
    assert done.returncode == 3, done.stderr
    with (run / "quarantine.csv").open() as file:
        (row,) = csv.DictReader(file)
    assert row["code"] == CODES[fault]
    golden = zarr.open_group(poisoned.folder / "golden/results.zarr", mode="r")
    found = zarr.open_group(run / "results.zarr", mode="r")
    assert row["id"] == golden["catalogue/id"][GUILTY]
    innocent = np.arange(96) != GUILTY
    for path in ("prediction/logit", "occlusion/grid", "status"):
        np.testing.assert_array_equal(found[path][...][innocent], golden[path][...][innocent])
    assert np.isnan(found["occlusion/grid"][GUILTY]).all()
    assert found["status"][GUILTY] == 2
    shutil.rmtree(run)
