"""Diagnostics runs: what networks of a study come to, and what the report says of it."""

import json

import numpy as np
import pytest
import xarray as xr
import yaml

from cluster.pool import SerialPool
from jobs.errors import RefusedError
from jobs.plan import plan_job
from jobs.report import write_report
from jobs.report.diagnostics import diagnostics_charts
from jobs.run.execute import execute
from jobs.run.status import read_status
from jobs.run.verify import verify_run
from jobs.specs.load import load_job, make_job

SIMULATION = """
kind: simulation
name: survey
preset: A
objects: 64
output: survey
"""
DIAGNOSTICS = {
    "kind": "diagnostics",
    "name": "why-it-learns",
    "survey": {"format": "simulated", "path": "survey"},
    "classes": ["smooth", "spiral", "barred", "edge_on"],
    "preprocess": {"size": 16, "stretch": "asinh", "scale": 0.1},
    "options": {"width": 4, "stages": 2},
    "fit": {"batch_size": 8},
    "studies": {
        "gradients": {
            "fix": {"options.dropout": 0.0},
            "vary": {
                "options.depth": [4, 12],
                "options.initialisation": ["he", "too_small", "too_large"],
                "options.normalisation": ["none", "batch"],
            },
            "trace": {"objects": 16, "steps": 3, "records": [0, 3]},
        },
        "overfitting": {
            "fix": {"fit.epochs": 3, "options.depth": 4},
            "vary": {"options.dropout": [0.0, 0.5], "fit.seed": [0, 1]},
        },
    },
    "output": "run",
}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("diagnostics")
    (folder / "survey.yaml").write_text(SIMULATION)
    (folder / "job.yaml").write_text(yaml.safe_dump(DIAGNOSTICS, sort_keys=False))
    execute(plan_job(load_job(folder / "survey.yaml")), SerialPool)
    return execute(plan_job(load_job(folder / "job.yaml")), SerialPool)


def settings(tree):
    return [json.loads(str(text)) for text in tree["fit/setting"].values]


def test_a_network_is_made_for_each_combination_of_each_study(run):
    tree = xr.open_datatree(run / "results.zarr", engine="zarr")
    assert [found["study"] for found in settings(tree)] == ["gradients"] * 12 + ["overfitting"] * 4
    assert read_status(run).epochs == {"total": 12, "done": 12}
    assert not verify_run(run).damaged
    assert np.isfinite(tree["fit/test_accuracy"].values[12:]).all()
    assert np.isnan(tree["fit/test_accuracy"].values[:12]).all()


def test_layers_are_recorded_at_the_steps_that_were_named(run):
    tree = xr.open_datatree(run / "results.zarr", engine="zarr")
    trace = tree["trace"]
    for row, setting in enumerate(settings(tree)[:12]):
        layers = json.loads(str(trace["layers"].values[row]))
        assert len(layers) == setting["options.depth"] + 1
        known = np.isfinite(trace["weight"].values[row, 0])
        assert known.sum() == len(layers)
        assert trace["step"].values[row].tolist() == [0, 3]
        assert np.isfinite(trace["loss"].values[row, 0])
    assert (trace["step"].values[12:] == -1).all()


def gradient_lost(run, **wanted):
    """Return by what the gradient changes from the last convolution to the first."""
    tree = xr.open_datatree(run / "results.zarr", engine="zarr")
    wanted = {f"options.{name}": value for name, value in wanted.items()}
    (row,) = (
        row
        for row, found in enumerate(settings(tree)[:12])
        if all(found[name] == value for name, value in wanted.items())
    )
    gradient = tree["trace/gradient"].values[row, 0]
    return gradient[0] / gradient[wanted["options.depth"] - 1]


def test_gradients_vanish_explode_and_are_cured_as_theory_has_it(run):
    def lost(name, normalisation):
        return gradient_lost(run, depth=12, initialisation=name, normalisation=normalisation)

    # A tenth or three times of what keeps the signal's size, over eleven layers.
    assert lost("too_small", "none") < 1e-8
    assert lost("too_large", "none") > 1e3
    assert 1e-2 < lost("he", "none") < 1e2
    for name in ("he", "too_small", "too_large"):
        assert 1e-2 < lost(name, "batch") < 1e2


def test_sentences_are_computed_from_the_numbers(run):
    charts = {chart.title: chart for chart in diagnostics_charts(run)}
    bare = charts["gradients: gradient by layer, depth 12, normalisation none"]
    assert "vanishes with too_small (factor" in bare.reading
    assert "explodes with too_large (factor" in bare.reading
    assert "keeps its size with he (factor" in bare.reading
    cured = charts["gradients: gradient by layer, depth 12, normalisation batch"]
    assert "vanishes" not in cured.reading
    assert "explodes" not in cured.reading
    linear = charts["A linear network of layers diag(w0, w1)"]
    assert f"{0.9**11:.2g} for w = 0.9" in linear.reading
    assert "overfitting: accuracy against dropout, test set" in charts
    gap = charts["overfitting: gap of the losses"]
    tree = xr.open_datatree(run / "results.zarr", engine="zarr")
    ends = tree["history/gap"].values[12:, 2].reshape(2, 2).mean(axis=1)
    assert f"by {ends.max():.3f} with dropout" in gap.reading
    assert f"by {ends.min():.3f} with dropout" in gap.reading


def test_the_report_shows_every_chart(run, tmp_path):
    page = write_report([run], tmp_path / "index.html").read_text()
    for chart in diagnostics_charts(run):
        assert chart.title in page


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"vary": {"options.depht": [3]}}, None),
        ({"vary": {"execution.threads": [1, 2]}}, "studies.s.vary: execution.threads can't vary"),
        ({"vary": {"fit.epoch": [1]}}, "studies.s: fit.epoch is no field of the job"),
        ({"vary": {"fit.epochs": [1, 1]}}, "studies.s.vary: fit.epochs names 1 twice"),
        ({"vary": {"fit.epochs": [0]}}, "studies.s: fit.epochs: 0"),
        ({"vary": {}, "trace": {"records": [5, 1]}}, "records: name at least one step, in growing"),
        ({"vary": {}, "trace": {"steps": 3}}, "records: step 20 is after the last one, 3"),
        ({"vary": {}, "trace": {"stepz": 3}}, "studies.s.trace.stepz: unknown field"),
    ],
)
def test_what_is_wrong_with_a_study_is_one_line(run, tmp_path, changes, message):
    data = {**DIAGNOSTICS, "studies": {"s": {"vary": {}, **changes}}, "output": str(tmp_path)}
    with pytest.raises(RefusedError, match=message) as error:
        # An option of the architecture is known when the network is built.
        plan_job(make_job(data, "job.yaml", run.parent))
    assert "\n" not in str(error.value)
