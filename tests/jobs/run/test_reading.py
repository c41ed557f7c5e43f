"""What a plan promises beforehand, and what can be read of a run afterwards."""

import numpy as np
import pytest
import torch

from cluster.ledger import Lease
from cluster.pool import SerialPool
from jobs.cost import seconds_per_object
from jobs.errors import RefusedError
from jobs.plan import plan_job
from jobs.run import open_run
from jobs.run.execute import execute
from jobs.run.status import read_status
from jobs.specs.load import load_job
from training.checkpoints import save_weights
from training.networks import build

SIMULATION = """
kind: simulation
name: survey
preset: A
objects: 6
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
methods: [{method: gradient_x_input}]
execution: {micro_batch: 4}
output: why
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("reading")
    (folder / "simulation.yaml").write_text(SIMULATION)
    (folder / "attribution.yaml").write_text(ATTRIBUTION)
    torch.manual_seed(0)
    save_weights(build("occulta:small_cnn", 4, 3), folder / "weights.safetensors")
    execute(plan_job(load_job(folder / "simulation.yaml")), SerialPool)
    execute(plan_job(load_job(folder / "attribution.yaml")), SerialPool)
    return folder


def test_an_opened_run_gives_status_results_and_quarantine(folder):
    run = open_run(folder / "why")
    assert run.status().state == "complete"
    assert run.results["gradient_x_input/attribution"].shape == (6, 1, 64, 64)
    assert np.isfinite(run.results["prediction/logit"].values).all()
    assert list(run.quarantine.columns) == ["id", "unit", "code", "reason"]
    assert len(run.quarantine) == 0
    with pytest.raises(RefusedError, match="make them with `occulta maps"):
        _ = run.maps


def test_a_folder_without_a_run_is_refused(tmp_path):
    with pytest.raises(RefusedError, match="holds no run"):
        open_run(tmp_path)


@pytest.mark.parametrize("kind", ["simulation", "attribution"])
def test_the_probe_measures_and_leaves_no_run(folder, kind):
    plan = plan_job(load_job(folder / f"{kind}.yaml", [f"output={folder}/probed"]))
    assert 0 < seconds_per_object(plan) < 10
    assert not (folder / "probed").exists()


def test_a_plan_estimates_the_replicas_memory(folder):
    small, large = (
        plan_job(load_job(folder / "attribution.yaml", [f"execution.micro_batch={rows}"]))
        for rows in (4, 64)
    )
    assert large.replica_bytes - small.replica_bytes > 60 * large.row_bytes
    # The small CNN's widest layers alone: 3 x 16 channels of 64 x 64 float32.
    assert large.row_bytes > 3 * 16 * 64 * 64 * 4


def test_progress_in_one_line(folder):
    assert read_status(folder / "why").line().startswith("complete: 6 of 6 objects")
    lease = Lease(folder / "why" / "ledger")
    lease.acquire()
    manifest = folder / "why" / "manifest.json"
    kept = manifest.read_text()
    manifest.write_text(kept.replace('"results_digest"', '"none"'))
    try:
        assert read_status(folder / "why").line().startswith("running: 6 of 6 objects")
    finally:
        manifest.write_text(kept)
        lease.release()


def test_a_plan_refuses_what_would_fail_later(folder):
    job = folder / "attribution.yaml"
    with pytest.raises(RefusedError, match=r"group_by: .* no text column 'colour'; use predicted"):
        plan_job(load_job(job, ["maps.group_by=colour"]))
    with pytest.raises(RefusedError, match=r"no label of the catalogue \(.*\) is one of netw"):
        plan_job(load_job(job, ["methods.0.targets=[label]", "network.classes=[a,b,c,d]"]))
    (folder / "taken").mkdir()
    (folder / "taken" / "thesis.tex").touch()
    with pytest.raises(RefusedError, match=r"taken holds 'thesis.tex', which is no part of a run"):
        plan_job(load_job(job, ["output=taken"]))
