"""Runs on a Ray cluster of several unlike nodes: the same bits, in the right places, or refused."""

import json
import subprocess
import sys

import pytest
import torch

from cluster.ledger import Ledger
from cluster.pool import SerialPool
from jobs.plan import plan_job
from jobs.run.execute import execute
from jobs.run.status import read_manifest
from jobs.specs.load import load_job
from training.checkpoints import save_weights
from training.networks import build

pytestmark = pytest.mark.slow

SIMULATION = """
kind: simulation
name: survey
preset: A
objects: 48
shard_objects: 16
output: survey
"""
ATTRIBUTION = """
kind: attribution
name: why
survey: {format: simulated, path: survey}
network:
  architecture: occulta:small_cnn
  weights: weights.safetensors
  classes: [smooth, spiral, barred, edge_on]
  preprocess: {stretch: asinh, scale: 0.1}
methods:
  - {method: occlusion, window: 32, stride: 16, targets: [predicted, label]}
  - {method: integrated_gradients, steps: 11}
execution: {micro_batch: 4, shard_objects: 4, gpus_per_replica: 0, seed: 3}
output: serial
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("nodes")
    (folder / "simulation.yaml").write_text(SIMULATION)
    (folder / "attribution.yaml").write_text(ATTRIBUTION)
    torch.manual_seed(0)
    save_weights(build("occulta:small_cnn", 4, 3), folder / "weights.safetensors")
    execute(plan_job(load_job(folder / "simulation.yaml")), SerialPool)
    execute(plan_job(load_job(folder / "attribution.yaml")), SerialPool)
    return folder


@pytest.fixture(scope="module")
def nodes():
    """A head without CPUs, and three unlike nodes."""
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    cluster.add_node(num_cpus=1, labels={"zone": "earth"})
    cluster.add_node(num_cpus=2, labels={"zone": "moon"})
    cluster.add_node(num_cpus=1, num_gpus=1, labels={"zone": "moon"})
    yield cluster
    cluster.shutdown()


def occulta(folder, nodes, *arguments, code=0):
    """Run a command of our own against the cluster; return what it prints."""
    command = [sys.executable, "-c", "from jobs.cli import main; main()", *arguments]
    done = subprocess.run(
        [*command, "--address", nodes.address, "--json"],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == code, done.stderr
    return done.stderr if code else json.loads(done.stdout)


def workers(run):
    return {receipt.worker for receipt in Ledger(run / "ledger").receipts()}


def same_results(run, other):
    assert read_manifest(run)["results_digest"] == read_manifest(other)["results_digest"]


def test_as_many_replicas_as_have_room_give_the_bits_of_one(folder, nodes):
    found = occulta(folder, nodes, "run", "attribution.yaml", "--out", "all")
    assert found["state"] == "complete"
    events = [json.loads(line) for line in (folder / "all/events.jsonl").read_text().splitlines()]
    assert [e["replicas"] for e in events if e["event"] == "RunStarted"] == [4]
    assert len(workers(folder / "all")) > 1
    same_results(folder / "all", folder / "serial")


def test_replicas_stay_on_nodes_with_their_labels(folder, nodes):
    places = ["--set", "execution.node_labels={zone: moon}", "--set", "execution.replicas=3"]
    occulta(folder, nodes, "run", "attribution.yaml", "--out", "moon", *places)
    same_results(folder / "moon", folder / "serial")
    error = occulta(
        folder,
        nodes,
        *["run", "attribution.yaml", "--out", "refused", *places[:3], "execution.replicas=4"],
        code=2,
    )
    assert "4 replicas are asked for, each of which needs 1 CPU of a node with zone=moon" in error
    assert "has room for 3" in error
    assert not workers(folder / "refused")


def test_gpus_that_are_not_there_are_refused_with_both_numbers(folder, nodes):
    error = occulta(
        folder,
        nodes,
        *["run", "attribution.yaml", "--out", "gpus", "--set", "execution.gpus_per_replica=2"],
        code=2,
    )
    assert "needs 1 CPU and 2 GPU; the cluster has room for 0 (4 CPUs and 1 GPUs" in error


def test_replicas_join_as_nodes_come(folder, nodes):
    """What an autoscaler does: replicas that have no room yet make it add nodes."""
    changes = ["--set", "execution.replicas={min: 1, max: 2}"]
    changes += ["--set", "execution.node_labels={zone: mars}", "--set", "methods.0.stride=2"]
    nodes.add_node(num_cpus=1, labels={"zone": "mars"})
    command = [sys.executable, "-c", "from jobs.cli import main; main()", "run"]
    command += ["attribution.yaml", "--out", "grown", "--address", nodes.address, *changes]
    driver = subprocess.Popen(command, cwd=folder, stderr=subprocess.DEVNULL)
    try:
        _wait_for(lambda: '"RunStarted"' in _history(folder / "grown"))
        nodes.add_node(num_cpus=1, labels={"zone": "mars"})
        assert driver.wait(300) == 0
    finally:
        driver.kill()
        driver.wait()
    events = [json.loads(line) for line in _history(folder / "grown").splitlines()]
    assert [e["what"] for e in events if e["event"] == "WorkDisturbed"] == ["joined"]
    assert len(workers(folder / "grown")) == 2
    job = load_job(folder / "attribution.yaml", ["output=one", "methods.0.stride=2"])
    same_results(folder / "grown", execute(plan_job(job), SerialPool))


def _history(run):
    path = run / "events.jsonl"
    return path.read_text() if path.exists() else ""


def _wait_for(true, seconds=120):
    import time

    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it never happened"
        time.sleep(0.1)
