"""Each exit code, through the installed command: one line on stderr, nothing on stdout."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from astropy.io import fits

from cluster.ledger import Lease
from cluster.pool import SerialPool
from jobs.plan import plan_job
from jobs.run.execute import execute
from jobs.specs.load import load_job
from training.checkpoints import save_weights
from training.networks import build

COMMAND = Path(sys.executable).with_name("occulta")
SIMULATION = """
kind: simulation
name: survey
preset: A
objects: 6
shard_objects: 2
output: survey
"""
ATTRIBUTION = """
kind: attribution
name: why
survey: {format: fits, path: cutouts}
network: {architecture: "occulta:small_cnn", weights: weights.safetensors, classes: [a, b]}
methods: [{method: gradient_x_input}]
execution: {micro_batch: 2, shard_objects: 2}
output: why
"""


def occulta(*arguments, cwd, prefix=()):
    command = [*prefix, COMMAND, *arguments]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=60)


def complaint(done, code):
    """Check that a command failed with this code and quietly; return its one line."""
    assert done.returncode == code, done.stderr
    assert done.stdout == ""
    lines = [line for line in done.stderr.splitlines() if line]
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("occulta: ")
    return lines[0]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two complete runs; one object of the second is quarantined."""
    folder = tmp_path_factory.mktemp("codes")
    (folder / "simulation.yaml").write_text(SIMULATION)
    (folder / "attribution.yaml").write_text(ATTRIBUTION)
    (folder / "cutouts").mkdir()
    for row in range(4):
        pixels = np.random.default_rng(row).normal(size=(3, 32, 32)).astype(">f4")
        fits.PrimaryHDU(pixels).writeto(folder / f"cutouts/{row}.fits")
    (folder / "cutouts/2.fits").write_bytes(b"SIMPLE")
    torch.manual_seed(0)
    save_weights(build("occulta:small_cnn", 2, 3), folder / "weights.safetensors")
    for name in ("simulation", "attribution"):
        execute(plan_job(load_job(folder / f"{name}.yaml")), SerialPool)
    return folder


def test_0_a_complete_run_is_told_by_its_folder(folder):
    done = occulta("run", "simulation.yaml", cwd=folder)
    assert (done.returncode, done.stdout) == (0, f"{folder / 'survey'}\n")
    assert done.stderr.strip() == ""


def test_2_a_mistake_in_the_job_is_refused_before_anything_is_written(folder):
    done = occulta("run", "attribution.yaml", "--set", "methods.0.metod=x", cwd=folder)
    assert "methods[0].metod: unknown field; did you mean 'method'?" in complaint(done, 2)
    done = occulta(
        "run", "attribution.yaml", "--set", "survey.path=cutout", "--out", "x", cwd=folder
    )
    assert f"survey.path: '{folder / 'cutout'}' is no folder" in complaint(done, 2)
    assert not (folder / "x").exists()


def test_3_a_complete_run_with_a_bad_object(folder):
    done = occulta("resume", "why", cwd=folder)
    assert (done.returncode, done.stdout) == (3, f"{folder / 'why'}\n")
    assert f"see {folder / 'why/quarantine.csv'}" in done.stderr
    assert "truncated_file" in (folder / "why/quarantine.csv").read_text()


def test_4_a_run_that_another_process_works_on(folder):
    busy = folder / "busy"
    lease = Lease(busy / "ledger")
    lease.acquire()
    try:
        done = occulta("run", "simulation.yaml", "--out", "busy", cwd=folder)
    finally:
        lease.release()
    assert f"{busy}: the run is busy (process {os.getpid()})" in complaint(done, 4)
    assert [path.name for path in busy.iterdir()] == ["ledger"]


@pytest.mark.parametrize("command", ["status", "resume"])
def test_6_a_damaged_ledger_line_is_named(folder, tmp_path, command):
    run = tmp_path / "run"
    shutil.copytree(folder / "why", run)
    (segment,) = run.glob("ledger/*.jsonl")
    lines = segment.read_bytes().splitlines(keepends=True)
    lines[1] = lines[1].replace(b'"key"', b'"key')
    segment.write_bytes(b"".join(lines))
    line = complaint(occulta(command, "run", cwd=tmp_path), 6)
    assert str(segment) in line
    assert "line 2" in line


def test_7_an_output_that_can_not_be_made(folder):
    done = occulta("run", "simulation.yaml", "--out", "simulation.yaml/run", cwd=folder)
    assert str(folder / "simulation.yaml/run") in complaint(done, 7)


@pytest.fixture
def small_disk(tmp_path):
    """Return the start of a command whose `disk` holds 64 kB, where the system allows that."""
    (tmp_path / "disk").mkdir()
    mount = ["unshare", "--mount", "--map-root-user", "sh", "-c"]
    script = 'mount -t tmpfs -o size=64k none disk && exec "$0" "$@"'
    if shutil.which("unshare") is None:
        pytest.skip("no unshare")
    tried = subprocess.run([*mount, script, "true"], cwd=tmp_path, capture_output=True)
    if tried.returncode:
        pytest.skip("this system lets nobody mount in a namespace of their own")
    return [*mount, script]


def test_7_a_full_disk(folder, tmp_path, small_disk):
    shutil.copy(folder / "simulation.yaml", tmp_path)
    change = ["--set", "objects=2000000", "--set", "shard_objects=2000"]
    done = occulta(
        "run", "simulation.yaml", "--out", "disk/run", *change, cwd=tmp_path, prefix=small_disk
    )
    assert "No space left on device" in complaint(done, 7)


NETWORK = """
import torch

class Broken(torch.nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.head = torch.nn.Linear(1, classes)

    def forward(self, x):
        if len(x) > 1:
            raise ArithmeticError("no galaxy pleases me")
        return self.head(x.mean((1, 2, 3))[:, None])

def build(classes, bands):
    return Broken(classes)
"""


@pytest.mark.slow
def test_5_a_unit_that_fails_at_every_attempt(folder, tmp_path):
    source = tmp_path / "net.py"
    source.write_text(NETWORK)
    space = {}
    exec(NETWORK, space)
    save_weights(space["build"](2, 3), tmp_path / "net.safetensors")
    changes = [
        f"network.architecture=file:{source}:build",
        f"network.weights={tmp_path / 'net.safetensors'}",
        "network.trust=code",
        "execution.replicas=1",
    ]
    sets = [part for change in changes for part in ("--set", change)]
    out = tmp_path / "broken"
    done = occulta("run", "attribution.yaml", "--out", out, *sets, cwd=folder)
    assert done.returncode == 5, done.stderr
    assert done.stdout == ""
    line = done.stderr.splitlines()[-1]
    # Three times, and then twice without any object: so none of them is the cause.
    assert re.search(r"unit \d{10}-\d{10} failed 5 times", line)
    assert "ArithmeticError: no galaxy pleases me" in line
    assert "Traceback" not in done.stderr
    assert json.loads(occulta("status", out, "--json", cwd=folder).stdout)["state"] == "failed"


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_130_and_143_a_stopped_run_is_finished_by_the_same_command(folder, tmp_path, number, code):
    out = tmp_path / "stopped"
    changes = ["--set", "objects=3000", "--set", "shard_objects=25", "--set", "replicas=1"]
    command = [COMMAND, "run", "simulation.yaml", "--out", out, *changes]
    run = subprocess.Popen(
        command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    events = out / "events.jsonl"
    while not (events.exists() and "UnitCommitted" in events.read_text()):
        assert run.poll() is None, run.communicate()
        time.sleep(0.1)
    run.send_signal(number)
    stdout, stderr = run.communicate(timeout=60)
    assert run.returncode == code, stderr
    assert stdout == ""
    assert "Traceback" not in stderr
    status = json.loads(occulta("status", out, "--json", cwd=folder).stdout)
    assert status["state"] == "stopped"
    assert 0 < status["units"]["committed"] < 120
    done = occulta(*command[1:], "--json", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["units"]["committed"] == 120


@pytest.mark.slow
def test_8_an_address_where_nothing_answers(folder, tmp_path):
    command = ["run", "simulation.yaml", "--out", tmp_path / "run", "--address", "127.0.0.1:1"]
    assert "no Ray cluster answers at 127.0.0.1:1" in complaint(occulta(*command, cwd=folder), 8)
    assert not (tmp_path / "run").exists()
