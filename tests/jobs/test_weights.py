"""Learned weights of the networks of runs: all of them, as they are, in arrays and pictures."""

import json

import numpy as np
import pytest
import safetensors.torch
import torch
import xarray as xr
from PIL import Image

from cluster.pool import SerialPool
from jobs.cli.app import app
from jobs.errors import RefusedError
from jobs.plan import plan_job
from jobs.run.execute import execute
from jobs.run.folder import create_run
from jobs.specs.load import load_job
from jobs.weights import build_weights
from training.checkpoints import save_weights
from training.networks import build

SURVEY = """
kind: simulation
name: survey
preset: A
objects: 48
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
methods: [{method: saliency}]
execution: {precision: float64}
output: why
"""
TRAINING = """
kind: training
name: train
survey: {format: simulated, path: survey}
options: {width: 4}
classes: [smooth, spiral, barred, edge_on]
preprocess: {size: 32}
fit: {epochs: 1, batch_size: 8}
output: train
"""
LAYERS = ["features.0.0", "features.1.0", "features.2.0", "features.3.0"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("weights")
    for name, text in (("survey", SURVEY), ("why", ATTRIBUTION), ("train", TRAINING)):
        (folder / f"{name}.yaml").write_text(text)
    execute(plan_job(load_job(folder / "survey.yaml")), SerialPool)
    torch.manual_seed(3)
    network = build("occulta:small_cnn", 4, 3)
    with torch.no_grad():
        network.features[1][0].weight[[2, 5]] = 0
    save_weights(network, folder / "weights.safetensors")
    create_run(folder / "why", plan_job(load_job(folder / "why.yaml")))
    execute(plan_job(load_job(folder / "train.yaml")), SerialPool)
    return folder


@pytest.mark.parametrize(("run", "file"), [("why", "weights"), ("train", "train/weights")])
def test_all_filters_of_a_run_are_in_a_store_that_xarray_reads(folder, run, file):
    product = build_weights(folder / run)
    state = safetensors.torch.load_file(folder / f"{file}.safetensors")
    store = xr.open_datatree(product.zarr, engine="zarr")
    assert [group.attrs["layer"] for group in store.children.values()] == LAYERS
    for group in store.children.values():
        expected = state[f"{group.attrs['layer']}.weight"].numpy()
        assert group["weights"].dims == ("filter", "input", "kernel_y", "kernel_x")
        np.testing.assert_array_equal(group["weights"], expected)
        flat = expected.reshape(len(expected), -1).astype(np.float64)
        np.testing.assert_allclose(group["l1"], np.abs(flat).sum(axis=1), rtol=1e-12)
        np.testing.assert_allclose(group["l2"], np.linalg.norm(flat, axis=1), rtol=1e-12)
        assert {"long_name", "units"} <= set(group["l2"].attrs)
    for figure in product.figures:
        with Image.open(figure) as picture:
            assert min(picture.size) > 100


def test_dead_filters_are_told(folder):
    product = build_weights(folder / "why", ["features.1.0"])
    assert product.dead == {"features.1.0": (2, 32)}
    dead = xr.open_datatree(product.zarr, engine="zarr")["features_1_0/dead"]
    assert np.flatnonzero(dead).tolist() == [2, 5]


def test_only_the_named_layers_replace_what_was_there(folder):
    build_weights(folder / "why")
    build_weights(folder / "why", ["features.2.0"])
    assert sorted(path.name for path in (folder / "why/weights").iterdir()) == [
        "features_2_0.png",
        "weights.zarr",
    ]


def test_a_layer_without_filters_is_refused_and_loses_nothing(folder):
    build_weights(folder / "why")
    before = sorted((folder / "why/weights").iterdir())
    with pytest.raises(RefusedError, match=r"'features.0.2' is a ReLU, which has no filters"):
        build_weights(folder / "why", ["features.0.2"])
    assert sorted((folder / "why/weights").iterdir()) == before


def test_a_network_that_changed_is_refused(folder):
    weights = folder / "weights.safetensors"
    kept = weights.read_bytes()
    save_weights(build("occulta:small_cnn", 4, 3), weights)
    try:
        with pytest.raises(RefusedError, match="network changed since this run began"):
            build_weights(folder / "why")
    finally:
        weights.write_bytes(kept)


def test_a_run_without_a_network_is_refused(folder):
    with pytest.raises(RefusedError, match="a run of kind simulation has no network"):
        build_weights(folder / "survey")


def test_the_command_prints_the_files(folder, capfd):
    with pytest.raises(SystemExit) as ended:
        app(["weights", str(folder / "why"), "--layer", "features.1.0", "--json"])
    out, err = capfd.readouterr()
    assert ended.value.code == 0
    files = [str(folder / "why/weights" / name) for name in ("weights.zarr", "features_1_0.png")]
    assert json.loads(out) == {"files": files}
    assert "features.1.0: 2 of 32 filters learned nothing" in err
