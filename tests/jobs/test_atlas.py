"""The activation atlas of real runs, against the activations that they collected."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr
import zarr
from PIL import Image
from typer.testing import CliRunner

from attribution.inceptionism.feature_inversion import Likeness
from attribution.receptive_field import input_rectangles
from cluster.pool import SerialPool
from jobs.atlas import layer as layer_module
from jobs.atlas.build import AtlasSettings, Listener, build_atlas
from jobs.atlas.icons import Painter
from jobs.atlas.surveys import open_surveys
from jobs.cli.app import app
from jobs.errors import RefusedError
from jobs.plan import plan_job
from jobs.report.gallery import network_shelves
from jobs.run.execute import execute
from jobs.specs.load import load_job
from training.checkpoints import save_weights
from training.networks import build as build_network

OBJECTS, CELLS, MINIMUM = 60, 4, 3
NAME = "features_2"
SURVEY = """
kind: simulation
name: survey
preset: A
objects: 60
output: survey-a
"""
JOB = """
kind: attribution
name: why-a
survey: {format: simulated, path: survey-a}
network:
  architecture: occulta:small_cnn
  weights: weights.safetensors
  classes: [smooth, spiral, barred, edge_on]
  options: {width: 4}
  preprocess: {stretch: asinh, scale: 0.1, size: 32}
methods: [{method: activation_atlas, layers: [features.1, features.2]}]
execution: {micro_batch: 16, seed: 3}
output: why-a
"""
SMALL = AtlasSettings(layers=("features.2",), cells=CELLS, minimum=MINIMUM, steps=2)
WITHOUT_ICONS = AtlasSettings(layers=("features.2",), cells=CELLS, minimum=MINIMUM, icons=False)


def run(folder, *changes):
    execute(plan_job(load_job(folder / "why.yaml", changes)), SerialPool)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("atlas")
    (folder / "survey.yaml").write_text(SURVEY)
    (folder / "why.yaml").write_text(JOB)
    torch.manual_seed(3)
    save_weights(
        build_network("occulta:small_cnn", 4, 3, {"width": 4}), folder / "weights.safetensors"
    )
    execute(plan_job(load_job(folder / "survey.yaml")), SerialPool)
    b = ["preset=B", f"output={folder / 'survey-b'}", "objects=40"]
    execute(plan_job(load_job(folder / "survey.yaml", b)), SerialPool)
    run(folder)
    run(folder, "name=why-b", f"survey.path={folder / 'survey-b'}", f"output={folder / 'why-b'}")
    shutil.rmtree(folder / "why-a/results.zarr/catalogue/label")  # no object has a label there
    return folder


@pytest.fixture(scope="module")
def both(folder):
    told = []
    listener = Listener(on_icon=lambda *counts: told.append(counts))
    product = build_atlas(folder / "why-a", [folder / "why-b"], SMALL, listener=listener)
    return product, told


def opened(run):
    return xr.open_datatree(run / f"atlas/{NAME}.zarr", engine="zarr")


def activations(run):
    results = xr.open_datatree(run / "results.zarr", engine="zarr")
    return results[f"activation_atlas/{NAME}_activation"].values


def test_cells_are_those_of_the_objects_and_their_activations(folder, both):
    atlas = opened(folder / "why-a")
    objects, cells = atlas["objects"], atlas["cells"]
    assert objects["survey"].values.tolist() == ["why-a"] * OBJECTS + ["why-b"] * 40
    for number, name in enumerate(("why-a", "why-b")):
        results = xr.open_datatree(folder / name / "results.zarr", engine="zarr")
        here = objects["survey"].values == name
        assert objects["id"].values[here].tolist() == results["catalogue/id"].values.tolist()
        cell = objects["cell"].values[here]
        column, row = (
            np.minimum((objects[axis].values[here] * CELLS).astype(int), CELLS - 1) for axis in "xy"
        )
        assert cell.tolist() == (row * CELLS + column).tolist()
        count = np.bincount(cell, minlength=CELLS**2).reshape(CELLS, CELLS)
        np.testing.assert_array_equal(cells["count"].values[number], count)
        predicted = results["prediction/logit"].values.argmax(axis=1)
        for k in range(4):
            of_class = np.bincount(cell[predicted == k], minlength=CELLS**2)
            stored = cells["predicted_count"].values[number, ..., k]
            np.testing.assert_array_equal(stored.ravel(), of_class)
    every = np.concatenate([activations(folder / name) for name in ("why-a", "why-b")])
    total = cells["count"].sum("survey").values
    for row, column in np.ndindex(CELLS, CELLS):
        mean = cells["activation"].values[row, column]
        inside = objects["cell"].values == row * CELLS + column
        if total[row, column] > MINIMUM:
            np.testing.assert_allclose(mean, every[inside].mean(axis=0), rtol=1e-5, atol=1e-6)
        else:
            assert np.isnan(mean).all()
    assert (total > MINIMUM).any()


def test_the_store_says_what_it_holds(folder, both):
    atlas = opened(folder / "why-a")
    assert atlas.attrs["surveys"] == ["why-a", "why-b"]
    assert atlas.attrs["layer"] == "features.2"
    assert (atlas.attrs["n_neighbors"], atlas.attrs["min_dist"]) == (20, 0.01)
    assert set(atlas.attrs["libraries"]) == {"umap-learn", "pynndescent", "numba"}
    cells = atlas["cells"]
    assert cells["count"].dims == ("survey", "y", "x")
    assert cells["survey"].values.tolist() == ["why-a", "why-b"]
    np.testing.assert_allclose(cells["x"], (np.arange(CELLS) + 0.5) / CELLS)
    for group in ("objects", "cells"):
        for name, array in atlas[group].data_vars.items():
            assert array.attrs["long_name"], name
            assert array.dtype.kind not in "fiu" or array.attrs["units"], name
    # Survey A has no labels; the labels are those of survey B.
    assert cells["label_count"].values[0].sum() == 0
    assert cells["label_count"].values[1].sum() == 40
    share = cells["share"].values
    np.testing.assert_allclose(np.nansum(share, axis=0)[~np.isnan(share[0])], 1, rtol=1e-6)


def test_the_typical_object_is_the_nearest_and_its_patch_is_what_the_place_saw(folder, both):
    atlas = opened(folder / "why-a")
    objects, cells = atlas["objects"], atlas["cells"]
    every = np.concatenate([activations(folder / name) for name in ("why-a", "why-b")])
    survey = open_surveys(folder / "why-a", [], ())[0]
    network = Painter.of(survey, 1, "cpu").network
    boxes = input_rectangles(network, (3, 32, 32), ["features.2"])["features.2"]
    for row, column in np.argwhere(cells["example"].values != ""):
        mean = cells["activation"].values[row, column]
        inside = np.flatnonzero(objects["cell"].values == row * CELLS + column)
        lengths = np.linalg.norm(every[inside], axis=1) * np.linalg.norm(mean)
        cosine = every[inside] @ mean / lengths
        best = inside[cosine.argmax()]
        assert cells["example"].values[row, column] == objects["id"].values[best]
        assert cells["example_survey"].values[row, column] == objects["survey"].values[best]
        assert cells["example_cosine"].values[row, column] == pytest.approx(cosine.max(), rel=1e-5)
        name, at = ("why-a", best) if best < OBJECTS else ("why-b", best - OBJECTS)
        results = xr.open_datatree(folder / name / "results.zarr", engine="zarr")
        y, x = results[f"activation_atlas/{NAME}_position"].values[at]
        top, left, bottom, right = boxes[y, x]
        patch = cells["patch"].values[row, column]
        inner = patch[:, : bottom - top, : right - left]
        assert np.isfinite(inner).all()
        assert np.isfinite(patch).sum() == inner.size
        # The place sees nothing else: the patch alone gives its activation.
        image = torch.zeros(1, 3, 32, 32)
        image[0, :, top:bottom, left:right] = torch.from_numpy(inner.copy())
        answer = Likeness(network, "features.2", (int(y), int(x)), mean[None]).activation(image)
        np.testing.assert_allclose(answer[0], every[best], rtol=1e-4, atol=1e-5)


def test_icons_are_in_the_populated_cells_and_told_of(folder, both):
    product, told = both
    cells = opened(folder / "why-a")["cells"]
    populated = cells["count"].sum("survey").values > MINIMUM
    assert (np.isfinite(cells["icon"].values).all(axis=(2, 3, 4)) == populated).all()
    assert ((cells["icon_rank"].values >= 0) == populated).all()
    number = int(populated.sum())
    assert told[0] == (0, number)
    assert told[-1] == (number, number)
    assert product.notes == (
        f"features.2: {int((cells['icon_rank'] == 0).sum())} of {number} icons excite the "
        "direction of their own cell more than that of any other",
    )
    icon = cells["icon"]
    top, left, bottom, right = icon.attrs["box"]
    assert icon.shape[2:] == (3, bottom - top, right - left)
    assert icon.attrs["steps"] == 2
    low, high = (np.array(icon.attrs[end])[:, None, None] for end in ("valid_low", "valid_high"))
    assert (icon.values[populated] >= low).all()
    assert (icon.values[populated] <= high).all()


def test_an_icon_is_a_function_of_its_direction_and_cell(folder):
    painter = Painter.of(open_surveys(folder / "why-a", [], ())[0], 2, "cpu")
    directions = np.linalg.qr(np.random.default_rng(0).normal(size=(16, 16)))[0]
    together = painter.draw("features.2", directions, list(range(16)))
    alone = painter.draw("features.2", directions[[5, 9]], [5, 9])
    np.testing.assert_array_equal(alone.image, together.image[[5, 9]])
    elsewhere = painter.draw("features.2", directions[[5]], [6])
    assert (elsewhere.image != alone.image[:1]).any()


def test_two_surveys_that_are_one_lie_in_the_same_places(folder, both):
    """Copies change no place, and the order of the surveys neither."""
    a, b = folder / "why-a", folder / "why-b"
    first = opened(a)["objects"].load()
    build_atlas(b, [a, b], WITHOUT_ICONS)
    atlas = opened(b)
    assert atlas.attrs["surveys"] == ["why-b (1)", "why-a", "why-b (2)"]
    turned = atlas["objects"]
    rows = np.r_[OBJECTS : OBJECTS + 40, :OBJECTS, OBJECTS : OBJECTS + 40]
    for name in ("id", "x", "y", "cell"):
        np.testing.assert_array_equal(turned[name].values, first[name].values[rows])
    count = atlas["cells"]["count"].values
    np.testing.assert_array_equal(count[0], count[2])
    assert "icon" not in atlas["cells"]
    assert sorted(path.name for path in (b / "atlas").glob("*.png")) == [
        f"{NAME}-cells.png",
        f"{NAME}-surveys.png",
    ]


def test_the_pictures_are_drawn_and_on_the_report(folder, both):
    product, _ = both
    names = [path.name for path in product.figures]
    kinds = ("atlas-examples", "atlas-icons", "cells", "surveys")
    assert names == [f"{NAME}-{kind}.png" for kind in kinds]
    for path in product.figures:
        with Image.open(path) as picture:
            assert np.asarray(picture.convert("L")).std() > 10
    (shelf,) = network_shelves(folder / "why-a", "why-a")
    assert (shelf.title, len(shelf.pictures)) == ("Activation atlas", 4)


@pytest.fixture
def alone(folder, tmp_path):
    """A copy of a run without an atlas."""
    return shutil.copytree(folder / "why-a", tmp_path / "why-a", ignore=lambda *_: ["atlas"])


def test_an_activation_of_zeros_has_no_place(alone):
    path = alone / f"results.zarr/activation_atlas/{NAME}_activation"
    zarr.open_array(path, mode="r+")[7] = 0
    product = build_atlas(alone, [], WITHOUT_ICONS)
    assert product.notes == (
        "features.2: objects whose activation is all zeros, so that it has no direction and they "
        "have no place: 1",
    )
    atlas = opened(alone)
    assert atlas.attrs["fitted"] == OBJECTS - 1
    placed = atlas["objects"]["cell"].values >= 0
    assert np.flatnonzero(~placed).tolist() == [7]
    assert np.isnan(atlas["objects"]["x"].values[7])
    assert int(atlas["cells"]["count"].sum()) == OBJECTS - 1


@pytest.mark.slow
def test_more_objects_than_the_layout_is_fitted_to_are_placed_in_it(alone, monkeypatch):
    monkeypatch.setattr(layer_module, "MOST_FITTED", 50)
    build_atlas(alone, [], WITHOUT_ICONS)
    atlas = opened(alone)
    assert atlas.attrs["fitted"] == 50
    assert int(atlas["cells"]["count"].sum()) == OBJECTS
    first = atlas["objects"].load()
    build_atlas(alone, [], WITHOUT_ICONS)
    for axis in "xy":
        np.testing.assert_array_equal(opened(alone)["objects"][axis], first[axis])


def test_what_has_no_atlas_is_refused(folder, tmp_path):
    a = folder / "why-a"
    with pytest.raises(RefusedError, match="not a run folder"):
        build_atlas(tmp_path, [], SMALL)
    with pytest.raises(RefusedError, match=r"no layer 'features.0'; name one .*: features.1, feat"):
        build_atlas(a, [], AtlasSettings(layers=("features.0",)))
    with pytest.raises(RefusedError, match=r"no cell has more than 60 activations, .* of 60; set"):
        build_atlas(a, [], AtlasSettings(layers=("features.2",), cells=2, minimum=60, icons=False))
    with pytest.raises(RefusedError, match="cells is 0; choose 1 or more"):
        AtlasSettings(cells=0)
    copy = shutil.copytree(a, tmp_path / "why")
    text = (copy / "job.yaml").read_text()
    start, stop = text.index("methods:"), text.index("execution:")
    (copy / "job.yaml").write_text(f"{text[:start]}methods: [{{method: saliency}}]\n{text[stop:]}")
    with pytest.raises(RefusedError, match="no method activation_atlas; add"):
        build_atlas(a, [copy], SMALL)
    (copy / "job.yaml").write_text(text)
    manifest = json.loads((copy / "manifest.json").read_text())
    for change, message in (
        ({"digests": manifest["digests"] | {"network": "0"}}, "not the network of .*/why-a; only"),
        ({"classes": ["a", "b", "c", "d"]}, "not the classes of .*/why-a; give runs"),
        ({"results_digest": None}, "not finished; finish it: occulta resume"),
    ):
        (copy / "manifest.json").write_text(json.dumps(manifest | change))
        with pytest.raises(RefusedError, match=message):
            build_atlas(a, [copy], SMALL)


def test_the_command_makes_it(folder, tmp_path):
    copy = shutil.copytree(folder / "why-b", tmp_path / "why-b")
    chosen = ["--layer", "features.2", "--cells", "3", "--minimum", "2", "--steps", "1"]
    made = CliRunner().invoke(
        app, ["atlas", str(copy), "--with", str(folder / "why-a"), *chosen, "--json"]
    )
    assert made.exit_code == 0, made.output
    store, *figures = json.loads(made.stdout)["files"]
    assert store == str(copy / f"atlas/{NAME}.zarr")
    assert len(figures) == 4
    assert all(Path(figure).stat().st_size > 1000 for figure in figures)
