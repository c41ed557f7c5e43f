"""Feature maps of chosen objects as pictures, and what the report shows of a network's inside."""

import io
import json
import re

import numpy as np
import pytest
import torch
import xarray as xr
from PIL import Image

from cluster.pool import SerialPool
from jobs.cli.app import app
from jobs.errors import RefusedError
from jobs.features import build_features
from jobs.plan import plan_job
from jobs.report import feature_figures, layer_figures, write_report
from jobs.report.layer_figures import Look, draw_features
from jobs.run.execute import execute
from jobs.specs.load import load_job
from jobs.weights import build_weights
from training.checkpoints import save_weights
from training.networks import build

SURVEY = """
kind: simulation
name: survey
preset: A
objects: 6
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
methods:
  - {method: feature_maps, layers: [features.2, features.0.0]}
  - {method: occlusion, window: 32, stride: 16, layers: [features.1]}
output: why
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("features")
    (folder / "survey.yaml").write_text(SURVEY)
    (folder / "why.yaml").write_text(JOB)
    torch.manual_seed(3)
    save_weights(build("occulta:small_cnn", 4, 3, {"width": 4}), folder / "weights.safetensors")
    execute(plan_job(load_job(folder / "survey.yaml")), SerialPool)
    execute(plan_job(load_job(folder / "why.yaml")), SerialPool)
    mean = "[{method: feature_maps, layers: [features.2], pooling: mean}]"
    pooled = [f"methods={mean}", f"output={folder / 'pooled'}"]
    execute(plan_job(load_job(folder / "why.yaml", pooled)), SerialPool)
    return folder


def ids(folder):
    tree = xr.open_datatree(folder / "why/results.zarr", engine="zarr")
    return [str(name) for name in tree["catalogue/id"].values]


def test_chosen_objects_are_drawn_with_their_own_maps(folder, monkeypatch):
    drawn = {}
    monkeypatch.setattr(
        feature_figures,
        "draw_features",
        lambda what, maps, look: drawn.setdefault(what, maps) and b"png",
    )
    names = ids(folder)
    product = build_features(folder / "why", [names[4], names[1]])
    tree = xr.open_datatree(folder / "why/results.zarr", engine="zarr")
    stored = {
        "output of layer features.0.0": "feature_maps/features_0_0",
        "output of layer features.2": "feature_maps/features_2",
        "response of layer features.1 when the window is hidden": "occlusion/response_features_1",
    }
    assert drawn.keys() == stored.keys()
    for what, path in stored.items():
        assert list(drawn[what]) == [names[4], names[1]]
        for name, row in ((names[4], 4), (names[1], 1)):
            np.testing.assert_array_equal(drawn[what][name], tree[path].values[row])
    assert product.objects == (names[4], names[1])
    assert [figure.name for figure in product.figures] == [
        "features_0_0.png",
        "features_2.png",
        "occlusion_response_features_1.png",
    ]


@pytest.mark.parametrize(
    ("run", "objects", "fact"),
    [
        ("why", ["nobody"], r"no object 'nobody' with results; see catalogue/id"),
        ("pooled", [], r"no feature maps to draw; add {method: feature_maps"),
        ("survey", [], r"a run of kind simulation"),
    ],
)
def test_what_can_not_be_drawn_is_refused(folder, run, objects, fact):
    with pytest.raises(RefusedError, match=fact):
        build_features(folder / run, objects)


@pytest.fixture
def canvases(monkeypatch):
    found = []
    make = layer_figures._page

    def page(canvas, title, text, labels=None):
        found.append((canvas, title, text, labels))
        return make(canvas, title, text, labels)

    monkeypatch.setattr(layer_figures, "_page", page)
    return found


def test_maps_are_on_one_scale_with_row_0_at_the_bottom(canvases):
    first, second = np.zeros((4, 2, 2)), np.zeros((4, 2, 2))
    first[0, 0] = 4.0
    second[3] = 2.0
    draw_features("output of conv", {"a": first, "b": second}, Look("lower"))
    canvas, title, text, labels = canvases[0]
    assert title == "output of conv: 4 filters"
    assert "black is 0, the brightest yellow 4" in text
    assert list(labels.values()) == ["a", "b"]
    (x, y), (x2, _) = labels
    tile = canvas[y + 5 : y + 69, x + 2 : x + 66].astype(int).sum(axis=2)
    assert (tile[:30] < 20).all()
    assert (tile[-30:] > 600).all()
    # Half as bright, and in the last place of the second object.
    last = canvas[y + 5 + 66 : y + 5 + 130, x2 + 2 + 66 : x2 + 66 + 66].astype(int).sum(axis=2)
    assert ((last > 100) & (last < 600)).all()


def test_negative_outputs_are_blue(canvases):
    maps = np.full((1, 2, 2), -1.0)
    maps[0, :, 1] = 1.0
    draw_features("output of conv", {"a": maps}, Look("upper"))
    canvas, _, text, labels = canvases[0]
    (x, y) = next(iter(labels))
    tile = canvas[y + 5 : y + 69, x + 2 : x + 66].astype(int)
    assert "white is 0, red 1, blue -1" in text
    assert (tile[:, :30, 2] > tile[:, :30, 0]).all()
    assert (tile[:, -30:, 0] > tile[:, -30:, 2]).all()


def test_the_report_shows_filters_and_feature_maps(folder):
    build_weights(folder / "why")
    html = write_report([folder / "why"], folder / "report.html").read_text("utf-8")
    shown = re.findall(r'alt="((?:Feature maps|Learned weights)[^"]*)"', html)
    assert shown == [
        *(f"Learned weights: features_{number}_0" for number in range(4)),
        "Feature maps: features_0_0",
        "Feature maps: features_2",
        "Feature maps: occlusion_response_features_1",
    ]
    assert html.index("Learned weights") < html.index("Feature maps")


def test_the_command_prints_the_pictures(folder, capfd):
    with pytest.raises(SystemExit) as ended:
        app(["features", str(folder / "why"), "--object", ids(folder)[2], "--json"])
    assert ended.value.code == 0
    files = json.loads(capfd.readouterr().out)["files"]
    assert len(files) == 3
    for file in files:
        with open(file, "rb") as stream, Image.open(io.BytesIO(stream.read())) as picture:
            assert min(picture.size) > 100
