"""Every method in one job: through the pool, cut and uncut, with no pass too many."""

import hashlib
import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr
from typer.testing import CliRunner

from attribution import IntegratedGradients, explain
from attribution.registry import METHODS
from cluster.ledger import Ledger
from cluster.pool import SerialPool
from cluster.unit import WorkUnit
from jobs.cli.app import app
from jobs.maps.contents import Windows
from jobs.plan import plan_job
from jobs.preflight import open_job_network
from jobs.report import write_report
from jobs.report.class_maps import nearest
from jobs.run.execute import execute
from jobs.specs.load import load_job
from jobs.survey import Preprocess, open_reader
from training.checkpoints import save_weights
from training.networks import build

SIMULATION = """
kind: simulation
name: survey
preset: A
objects: 5
output: survey
"""
JOB = """
kind: attribution
name: all
survey: {format: simulated, path: survey}
network:
  architecture: occulta:small_cnn
  weights: weights.safetensors
  classes: [smooth, spiral, barred, edge_on]
  options: {width: 4}
  preprocess: {stretch: asinh, scale: 0.1, size: 32}
methods:
  - {method: occlusion, window: 16, stride: 8}
  - {method: gradient_x_input}
  - {method: integrated_gradients, baseline: 0.3, steps: 4, tolerance: 0.2, max_steps: 16}
  - {method: saliency}
  - {method: smoothgrad, samples: 5}
  - {method: vargrad, samples: 5}
  - {method: grad_cam, layer: features.3}
  - {method: deconvnet}
  - {method: guided_backprop}
  - {method: feature_maps, layers: [features.3, features.2.0], pooling: mean}
  - {method: top_responses, layers: [features.3]}
  - {method: activation_atlas, layers: [features.1, features.3]}
  - {method: mc_dropout, samples: 6}
  - {method: test_time_augmentation, rotations: 2}
  - {method: attribution_uncertainty, samples: 3}
  - {method: mutual_information_attribution, samples: 3}
  - {method: deletion, steps: 3}
  - {method: insertion, steps: 3}
  - {method: infidelity, samples: 5, of: [saliency, occlusion]}
  - {method: max_sensitivity, samples: 2, of: [gradient_x_input]}
  - {method: model_randomisation, stages: 2, of: [gradient_x_input, grad_cam]}
execution: {micro_batch: 4, seed: 3}
output: all
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("all")
    (folder / "simulation.yaml").write_text(SIMULATION)
    (folder / "all.yaml").write_text(JOB)
    torch.manual_seed(0)
    save_weights(build("occulta:small_cnn", 4, 3, {"width": 4}), folder / "weights.safetensors")
    execute(plan_job(load_job(folder / "simulation.yaml")), SerialPool)
    execute(plan_job(load_job(folder / "all.yaml")), SerialPool)
    return folder


def test_the_job_names_every_method(folder):
    job = load_job(folder / "all.yaml")
    assert [section.method for section in job.methods] == list(METHODS)


def test_every_array_is_there_finite_and_read_by_xarray_alone(folder):
    tree = xr.open_datatree(folder / "all/results.zarr", engine="zarr")
    for name in METHODS:
        group = tree[name].to_dataset()
        assert group.data_vars, name
        for array in group.data_vars.values():
            assert array.attrs.get("long_name"), (name, array.name)
            if array.dtype.kind == "f":
                assert np.isfinite(array.values).all(), (name, array.name)
    assert (tree["integrated_gradients"]["steps"].values > 4).all()
    assert tree["infidelity"]["judged"].values.tolist() == ["saliency", "occlusion"]
    assert tree["model_randomisation"]["judged"].values.tolist() == ["gradient_x_input", "grad_cam"]


def test_a_cut_parts_axis_gives_the_same_bits(folder):
    plan = plan_job(load_job(folder / "all.yaml"))
    unit, work = WorkUnit(plan.units[0], shares=3), plan.workload.open()
    whole = work.compute(unit)
    cut = work.finish(unit, [work.partial(unit, share) for share in range(3)])
    assert whole.arrays.keys() == cut.arrays.keys()
    for path, array in whole.arrays.items():
        assert _digest(array) == _digest(cut.arrays[path]), path


def _digest(array):
    return hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()


def test_the_manifest_counts_the_passes(folder):
    receipts = list(Ledger(folder / "all/ledger").receipts())
    manifest = json.loads((folder / "all/manifest.json").read_text())
    assert manifest["passes"] == {
        "forward": sum(receipt.forward for receipt in receipts),
        "backward": sum(receipt.backward for receipt in receipts),
    }


def passes(folder, *methods):
    """Rows that went forward and backward for the first unit of such a job: four objects."""
    plan = plan_of(folder, *methods)
    result = plan.workload.open().compute(WorkUnit(plan.units[0]))
    return result.forward, result.backward


def plan_of(folder, *methods):
    sections = json.dumps([{"method": name} | fields for name, fields in methods])
    return plan_job(load_job(folder / "all.yaml", [f"methods={sections}"]))


SHARED = [
    ("gradient_x_input", {}),
    ("saliency", {}),
    ("grad_cam", {"layer": "features.3"}),
    ("feature_maps", {"layers": ["features.2.0"]}),
    ("top_responses", {"layers": ["features.3"]}),
    ("activation_atlas", {"layers": ["features.1"]}),
]
OCCLUSION = ("occlusion", {"window": 16, "stride": 8})


def test_one_forward_and_one_backward_serve_prediction_gradients_and_layers(folder):
    assert passes(folder, *SHARED) == (4, 4)
    assert passes(folder, ("feature_maps", {"layers": ["features.3"]})) == (4, 0)


def test_measures_of_quality_reuse_the_maps(folder):
    forward, backward = passes(folder, *SHARED, OCCLUSION)
    assert (forward, backward) == (4 + 4 * 9, 4)
    # Three steps make four points of a curve for each of four maps.
    assert passes(folder, *SHARED, OCCLUSION, ("deletion", {"steps": 3})) == (
        forward + 4 * 4 * 4,
        backward,
    )


# From black this network, which has no biases yet, has the same gradient everywhere.
REFINED = (
    "integrated_gradients",
    {"baseline": 0.3, "steps": 4, "tolerance": 0.2, "max_steps": 22},
)
EXPECTED = (
    "integrated_gradients",
    {"steps": 3, "baseline": "sky_noise", "draws": 3, "targets": ["predicted", "barred"]},
)


def test_measures_of_quality_reuse_refined_maps(folder):
    forward, backward = passes(folder, REFINED)
    assert backward > 4 * 4
    assert passes(folder, REFINED, ("deletion", {"steps": 3}), ("insertion", {"steps": 3})) == (
        forward + 2 * 4 * 4,
        backward,
    )


@pytest.mark.parametrize("method", [REFINED, EXPECTED])
def test_cut_paths_give_the_same_bits(folder, method):
    plan = plan_of(folder, method)
    key, work = plan.units[0], plan.workload.open()
    whole = work.compute(WorkUnit(key))
    for shares in (2, 3):
        unit = WorkUnit(key, shares)
        cut = work.finish(unit, [work.partial(unit, share) for share in range(shares)])
        for path, array in whole.arrays.items():
            assert _digest(array) == _digest(cut.arrays[path]), path


def test_expected_gradients_of_a_job_file_are_those_of_explain(folder):
    plan = plan_of(folder, EXPECTED)
    method = IntegratedGradients(3, baseline="sky_noise", draws=3)
    described = plan.template["integrated_gradients/attribution"]
    assert described.attributes["draws"] == 3
    assert "Erion 2021" in described.convention
    result = plan.workload.open().compute(WorkUnit(plan.units[0]))
    # A path has 3 nodes, and each draw one start: of the image's own pass there is one more.
    assert (result.forward, result.backward) == (4 * (9 + 3 + 1), 4 * 9 * 2)
    network, _ = open_job_network(plan.job)
    names, pixels = inputs_of(plan, 4)
    expected = explain(
        network, pixels, method, targets=["predicted", 2], ids=names, seed=3, micro_batch=4
    )
    for name, array in expected.items():
        found = result.arrays[f"integrated_gradients/{name}"]
        np.testing.assert_array_equal(found.astype(np.float32), array, err_msg=name)


def inputs_of(plan, count):
    """Identifiers and network inputs of the first objects, as a replica reads them."""
    rows = plan.catalogue.slice(0, count)
    prepare = Preprocess(plan.job.network.preprocess, 3)
    found = open_reader(plan.job.survey).read(rows)
    return list(rows.ids), np.stack([prepare.apply(cutout.pixels) for cutout in found])


def test_the_report_shows_them(folder):
    page = write_report([folder / "all"], folder / "report.html").read_text()
    for name in ("deconvnet", "grad_cam", "smoothgrad"):
        assert name in page or name.replace("_", " ") in page
    tree = xr.open_datatree(folder / "all/results.zarr", engine="zarr")
    classes = load_job(folder / "all.yaml").network.classes
    shown = re.findall(r"Occlusion most probable class of ([\w.-]+): (\w+) in (\d+)%", page)
    names = tree["catalogue/id"].values.tolist()
    assert {name for name, *_ in shown} <= set(names)
    assert shown
    for name, winner, share in shown:
        grid = tree["occlusion/most_probable_class"].values[names.index(name)]
        # Windows of 16 in steps of 8 on 32 pixels; a pixel has the class of the nearest one.
        pixels = nearest(grid, Windows((32, 32), (16, 16), (8, 8)))
        counts = np.bincount(pixels.ravel(), minlength=len(classes))
        assert classes[counts.argmax()] == winner
        assert int(share) == round(100 * counts.max() / pixels.size)


def test_layers_and_top_are_reached_from_the_command_line(folder):
    runner = CliRunner()
    listed = runner.invoke(app, ["layers", str(folder / "all.yaml"), "--json"])
    assert listed.exit_code == 0, listed.output
    rows = {row["name"]: row for row in json.loads(listed.stdout)}
    assert rows["features.3"]["shape"] == [24, 2, 2]
    assert [axis["size"] for axis in rows["features.2"]["field"]] == [22, 22]
    made = runner.invoke(app, ["top", str(folder / "all"), "--json"])
    assert made.exit_code == 0, made.output
    store, *figures = json.loads(made.stdout)["files"]
    assert xr.open_datatree(store, engine="zarr").children
    assert figures
    assert all(Path(figure).stat().st_size > 1000 for figure in figures)
