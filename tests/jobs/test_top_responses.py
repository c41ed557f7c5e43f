"""The strongest responses of a real run, against brute force over all its objects."""

import os
import shutil

import numpy as np
import pytest
import torch
import xarray as xr
import zarr
from astropy.io import fits
from PIL import Image

from attribution import explain
from attribution.deconvnet import project
from attribution.features import FeatureMaps
from attribution.receptive_field import input_rectangles
from cluster.pool import SerialPool
from jobs.errors import RefusedError
from jobs.plan import plan_job
from jobs.run.execute import execute
from jobs.specs.load import load_job
from jobs.toplists import build
from jobs.toplists.build import build_top
from training.checkpoints import save_weights
from training.networks import build as build_network

OBJECTS, LOST, K = 21, 4, 9
LAYERS = ["features.0.2", "features.2"]
JOB = """
kind: attribution
name: why
survey: {format: fits, path: cutouts, catalogue: galaxies.csv}
network:
  architecture: occulta:small_cnn
  weights: weights.safetensors
  classes: [smooth, spiral, barred, edge_on]
  preprocess: {stretch: asinh, scale: 0.5, mean: [0.1, 0.1, 0.2]}
methods:
  - {method: top_responses, layers: [features.0.2, features.2]}
execution: {micro_batch: 4, shard_objects: 8}
output: run
"""


def draw_galaxies(folder):
    """Blobs of several sizes; two objects are the same, so that responses tie."""
    (folder / "cutouts").mkdir()
    random = np.random.default_rng(5)
    y, x = np.mgrid[:40, :36]
    for number in range(OBJECTS):
        centre, width = random.uniform(8, 28, 2), random.uniform(1, 6)
        blob = np.exp(-((y - centre[0]) ** 2 + (x - centre[1]) ** 2) / (2 * width**2))
        image = blob * random.uniform(0.5, 3, (3, 1, 1)) + random.normal(0, 0.05, (3, 40, 36))
        fits.writeto(folder / f"cutouts/g{number}.fits", image.astype(">f4"))
    shutil.copy(folder / "cutouts/g2.fits", folder / "cutouts/g11.fits")
    (folder / f"cutouts/g{LOST}.fits").unlink()
    rows = "".join(f"g{number},1,2,smooth\n" for number in range(OBJECTS))
    (folder / "galaxies.csv").write_text("id,ra,dec,label\n" + rows)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("top")
    draw_galaxies(folder)
    torch.manual_seed(2)
    network = build_network("occulta:small_cnn", 4, 3)
    with torch.no_grad():
        network.features[0][1].bias[3] = -100  # a filter that no object makes respond
    save_weights(network, folder / "weights.safetensors")
    (folder / "job.yaml").write_text(JOB)
    execute(plan_job(load_job(folder / "job.yaml", [])), SerialPool)
    build_top(folder / "run")
    return folder


@pytest.fixture(scope="module")
def network(folder):
    import safetensors.torch

    network = build_network("occulta:small_cnn", 4, 3).eval()
    network.load_state_dict(safetensors.torch.load_file(folder / "weights.safetensors"))
    return network.requires_grad_(False)


@pytest.fixture(scope="module")
def images(folder):
    """What the network sees, (N, C, H, W); zeros for the object that is lost."""
    seen = np.zeros((OBJECTS, 3, 40, 36), dtype=np.float32)
    for number in set(range(OBJECTS)) - {LOST}:
        pixels = fits.getdata(folder / f"cutouts/g{number}.fits").astype(np.float32)
        mean = np.float32([0.1, 0.1, 0.2])[:, None, None]
        seen[number] = np.arcsinh(pixels / np.float32(0.5)) - mean
    return seen


@pytest.mark.parametrize("layer", LAYERS)
def test_lists_are_those_of_brute_force_over_all_objects(folder, network, images, layer):
    top = xr.open_datatree(folder / "run/top/top.zarr", engine="zarr")[layer.replace(".", "_")]
    name = layer.replace(".", "_")
    maps = explain(network, images, FeatureMaps((layer,)), micro_batch=4)[name]
    strongest = maps.max(axis=(2, 3))
    assert top.attrs["layer"] == layer
    assert top["object"].shape == (maps.shape[1], K)
    objects = [n for n in range(OBJECTS) if n != LOST]
    for number in range(maps.shape[1]):
        expected = sorted(objects, key=lambda n: (-strongest[n, number], n))[:K]
        assert top["object"][number].values.tolist() == expected
        assert top["id"][number].values.tolist() == [f"g{n}" for n in expected]
        np.testing.assert_array_equal(top["value"][number], strongest[expected, number])
        for rank, n in enumerate(expected):
            flat = int(maps[n, number].argmax())
            assert tuple(top["position"].values[number, rank]) == divmod(flat, maps.shape[3])
    expected_silent = strongest[objects].max(axis=0) <= 0
    assert top["silent"].values.tolist() == expected_silent.tolist()
    assert (layer == LAYERS[0]) == expected_silent.any()


def test_equal_responses_are_in_the_order_of_the_catalogue(folder):
    top = xr.open_datatree(folder / "run/top/top.zarr", engine="zarr")["features_2"]
    for objects in top["object"].values.tolist():
        if 2 in objects[:-1]:
            assert objects[objects.index(2) + 1] == 11
    assert top["object"].isin([2]).any()


@pytest.mark.parametrize("layer", LAYERS)
def test_pixels_are_crops_and_projections_of_single_activations(folder, network, images, layer):
    top = xr.open_datatree(folder / "run/top/top.zarr", engine="zarr")[layer.replace(".", "_")]
    boxes = input_rectangles(network, (3, 40, 36), [layer])[layer]
    for number in range(0, top.sizes["filter"], 7):
        for rank in (0, K - 1):
            row = int(top["object"].values[number, rank])
            y, x = (int(place) for place in top["position"].values[number, rank])
            y0, x0, y1, x1 = (int(edge) for edge in boxes[y, x])
            assert top["box"].values[number, rank].tolist() == [y0, x0, y1, x1]
            crop = top["crop"].values[number, rank]
            np.testing.assert_array_equal(
                crop[:, : y1 - y0, : x1 - x0], images[row, :, y0:y1, x0:x1]
            )
            assert np.isnan(crop[:, y1 - y0 :]).all()
            assert np.isnan(crop[:, :, x1 - x0 :]).all()
            whole = project(
                network, torch.from_numpy(images[row : row + 1]), layer, [number], [(y, x)]
            )
            # The activation does not see beyond its box: nothing of its projection is cut off.
            whole = whole[0].detach().numpy()
            inside = whole[:, y0:y1, x0:x1]
            assert np.count_nonzero(inside) == np.count_nonzero(whole) > 0
            projection = top["projection"].values[number, rank][:, : y1 - y0, : x1 - x0]
            np.testing.assert_allclose(projection, inside, rtol=1e-3, atol=1e-6)


def test_pictures_show_every_filter(folder):
    names = sorted(path.name for path in (folder / "run/top").glob("*.png"))
    assert names == [
        "features_0_2-0000.png",
        "features_2-0000.png",
        "features_2-0024.png",
        "features_2-0048.png",
    ]
    for name in names:
        with Image.open(folder / "run/top" / name) as picture:
            assert np.asarray(picture.convert("L")).std() > 10


def test_the_same_run_gives_the_same_bits_however_many_filters_are_in_memory(
    folder, tmp_path, monkeypatch
):
    run = shutil.copytree(folder / "run", tmp_path / "run")
    shutil.copytree(folder / "cutouts", tmp_path / "cutouts")
    monkeypatch.setattr(build, "TOGETHER", 5)
    told = []
    product = build_top(run, on_progress=lambda *counts: told.append(counts))
    assert told[-1] == (16 + 64, 16 + 64)
    assert product.zarr == run / "top/top.zarr"
    assert all(figure.exists() for figure in product.figures)
    again, before = (zarr.open_group(f / "top/top.zarr", mode="r") for f in (run, folder / "run"))
    for path, array in before.members(max_depth=None):
        if isinstance(array, zarr.Array):
            np.testing.assert_array_equal(again[path][...], array[...])


def test_an_image_that_changed_or_went_is_named(folder, tmp_path):
    run = shutil.copytree(folder / "run", tmp_path / "run")
    text = (run / "job.yaml").read_text()
    (run / "job.yaml").write_text(text.replace(str(folder / "cutouts"), str(tmp_path / "cutouts")))
    shutil.copytree(folder / "cutouts", tmp_path / "cutouts")
    image = tmp_path / "cutouts/g6.fits"
    stat = image.stat()
    fits.writeto(image, fits.getdata(image) * 1.5, overwrite=True)
    with pytest.raises(RefusedError, match=r"object 'g6' .* changed since the run was planned"):
        build_top(run)
    os.utime(image, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    with pytest.raises(RefusedError, match=r"object 'g6': filter .* so its image changed"):
        build_top(run)
    image.unlink()
    with pytest.raises(RefusedError, match=r"object 'g6' can't be read any more: .*restore it"):
        build_top(run)
    # What was there before is still whole.
    assert (run / "top/top.zarr/zarr.json").exists()
    assert sorted(path.name for path in run.iterdir() if path.name.startswith(".top")) == []


def test_without_relus_there_are_crops_and_the_reason(folder, tmp_path, monkeypatch):
    def refuse(*_):
        raise ValueError("this one uses gelu")

    run = shutil.copytree(folder / "run", tmp_path / "run")
    monkeypatch.setattr(build, "check_relus", refuse)
    product = build_top(run)
    assert product.note == "this one uses gelu"
    top = xr.open_datatree(product.zarr, engine="zarr")
    assert top.attrs["note"] == product.note
    assert "projection" not in top["features_2"]
    before = xr.open_datatree(folder / "run/top/top.zarr", engine="zarr")
    np.testing.assert_array_equal(top["features_2"]["crop"], before["features_2"]["crop"])


def test_what_has_no_lists_is_refused(folder, tmp_path):
    with pytest.raises(RefusedError, match="not a run folder"):
        build_top(tmp_path)
    run = shutil.copytree(folder / "run", tmp_path / "run")
    for layer in ("features_0_2", "features_2"):
        zarr.open_array(run / f"results.zarr/top_responses/{layer}_value", mode="r+")[...] = np.nan
    with pytest.raises(RefusedError, match="no object has results"):
        build_top(run)
    text = (run / "job.yaml").read_text()
    start = text.index("methods:")
    stop = text.index("execution:")
    (run / "job.yaml").write_text(f"{text[:start]}methods: [{{method: saliency}}]\n{text[stop:]}")
    with pytest.raises(RefusedError, match="no method top_responses; add"):
        build_top(run)
