"""A user's own survey from FITS files to maps and report, through the installed command."""

import csv
import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import healpy
import numpy as np
import pandas as pd
import pytest
import torch
import torchvision
import xarray as xr
import yaml
from astropy.io import fits
from PIL import Image
from safetensors.torch import load_file, save_file

from attribution import GradientXInput, IntegratedGradients, Occlusion, explain, round_mantissa
from training.networks import build
from training.simulation import SURVEYS, simulate

OBJECTS, SIZE = 12, 224
NAN, CUT, MISSING, REPEATED = 2, 4, 6, 9
GOOD = [row for row in range(OBJECTS) if row not in (NAN, CUT, MISSING, REPEATED)]
CLASSES = ("smooth", "featured", "artifact")
MEAN, STD, SCALE = (0.1, 0.2, 0.3), (1.5, 2.0, 2.5), 0.05
NSIDE = 4
EDITS = {
    "name": "gz-desi-why",
    "survey.path": ".",
    "survey.catalogue": "galaxies.parquet",
    "survey.columns": {"label": "summary"},
    "network.classes": list(CLASSES),
    "network.preprocess": {
        "stretch": "asinh",
        "scale": SCALE,
        "mean": list(MEAN),
        "std": list(STD),
    },
    "methods": [
        {"method": "occlusion", "window": 112, "stride": 112},
        {"method": "gradient_x_input"},
        {"method": "integrated_gradients", "steps": 3, "rule": "midpoint"},
    ],
    "execution.micro_batch": 4,
    "execution.shard_objects": 8,
    "maps": {"nside": NSIDE, "min_count": 1},
}


@dataclass
class Survey:
    """What the user has, and what its readable pixels are."""

    folder: Path
    images: np.ndarray
    table: pd.DataFrame


def occulta(*arguments, cwd):
    command = [Path(sys.executable).with_name("occulta"), *arguments]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=300)


def write_job(folder, edits):
    """Edit what `occulta init` prints, as a user does."""
    job = yaml.safe_load(occulta("init", "attribution", cwd=folder).stdout)
    for path, value in edits.items():
        *parents, last = path.split(".")
        section = job
        for parent in parents:
            section = section[parent]
        assert last in section, path
        section[last] = value
    (folder / "job.yaml").write_text(yaml.safe_dump(job))


def set_traps(folder):
    """Put what would break Occulta, were it imported, into the folder that the user stands in."""
    for name in ("training", "attribution", "cluster"):
        (folder / name).mkdir()
        (folder / name / "__init__.py").write_text("raise RuntimeError('the trap sprang')\n")
    (folder / "jobs.py").write_text("raise RuntimeError('the trap sprang')\n")


@pytest.fixture(scope="module")
def survey(tmp_path_factory):
    """Legacy-like FITS, Galaxy Zoo's columns, and one of each common damage."""
    folder = tmp_path_factory.mktemp("user")
    set_traps(folder)
    simulated = simulate(SURVEYS["A"], 5, range(OBJECTS))
    images = simulated.images.repeat(4, axis=2).repeat(4, axis=3)[:, :, 16:240, 16:240]
    ids = [f"{10_995_474_270_000_000 + row}_{row:04d}" for row in range(OBJECTS)]
    (folder / "cutouts").mkdir()
    files = [folder / "cutouts" / f"{id_}.fits" for id_ in ids]
    for row, file in enumerate(files):
        image = images[row].astype(">f4")
        if row == NAN:
            image[1, 3:5, 3:5] = np.nan
        fits.PrimaryHDU(image).writeto(file)
    files[CUT].write_bytes(files[CUT].read_bytes()[:100_000])
    files[MISSING].unlink()
    votes = np.random.default_rng(0).dirichlet((3, 2, 1), OBJECTS).astype(np.float32)
    table = pd.DataFrame(
        {
            "dr8_id": [ids[0] if row == REPEATED else id_ for row, id_ in enumerate(ids)],
            "file_loc": [str(file.relative_to(folder)) for file in files],
            "ra": simulated.columns["ra"],
            "dec": simulated.columns["dec"],
            "smooth-or-featured_smooth_fraction": votes[:, 0],
            "smooth-or-featured_featured-or-disk_fraction": votes[:, 1],
            "smooth-or-featured_artifact_fraction": votes[:, 2],
            "summary": [CLASSES[row % 2] for row in range(OBJECTS)],
            "brickid": np.arange(OBJECTS, dtype=np.int32),
        }
    )
    table.to_parquet(folder / "galaxies.parquet")
    torch.manual_seed(0)
    network = torchvision.models.resnet18(weights=None)
    network.fc = torch.nn.Linear(512, len(CLASSES))
    save_file(network.state_dict(), folder / "model.safetensors")
    return Survey(folder, images, table)


@pytest.fixture(scope="module")
def run(survey):
    write_job(survey.folder, EDITS)
    done = occulta("run", "job.yaml", cwd=survey.folder)
    assert done.returncode == 3, done.stderr
    folder = survey.folder / "runs/my-survey"
    assert done.stdout == f"{folder}\n"
    assert done.stderr.count(f"4 objects are quarantined; see {folder}/quarantine.csv\n") == 1
    assert "Traceback" not in done.stderr
    return folder


@pytest.fixture(scope="module")
def results(run):
    return xr.open_datatree(run / "results.zarr", engine="zarr")


@pytest.fixture(scope="module")
def network_input(survey):
    """Return what the network must have seen, by numpy alone."""
    mean, std = (np.array(v, np.float32).reshape(3, 1, 1) for v in (MEAN, STD))
    return (np.arcsinh(survey.images / np.float32(SCALE)) - mean) / std


@pytest.fixture(scope="module")
def network(survey):
    network = torchvision.models.resnet18(weights=None, num_classes=len(CLASSES)).eval()
    network.load_state_dict(load_file(survey.folder / "model.safetensors"))
    return network


@pytest.mark.parametrize(
    ("method", "array"),
    [
        (IntegratedGradients(3, "midpoint"), "attribution"),
        (GradientXInput(), "attribution"),
        (Occlusion(112, 112), "grid"),
    ],
)
def test_maps_equal_explain_on_the_undamaged_pixels(
    method, array, survey, results, network_input, network
):
    ids = list(survey.table["dr8_id"])
    ids[REPEATED] = "another"
    expected = explain(network, network_input, method, ids=ids, micro_batch=4)[array]
    if array == "attribution":
        expected = round_mantissa(expected)
    stored = results[f"{method.name}/{array}"].values
    assert np.ptp(expected[GOOD]) > 0
    np.testing.assert_array_equal(stored[GOOD], expected[GOOD])
    assert np.isnan(np.delete(stored, GOOD, axis=0)).all()


def test_pixels_are_those_that_astropy_reads(survey):
    file = survey.folder / survey.table["file_loc"][GOOD[0]]
    with fits.open(file) as hdus:
        assert hdus[0].data.dtype.str == ">f4"
        np.testing.assert_array_equal(hdus[0].data, survey.images[GOOD[0]])


def test_logits_equal_torch(results, network_input, network):
    with torch.inference_mode():
        logit = network(torch.from_numpy(network_input[GOOD])).numpy()
    np.testing.assert_allclose(results["prediction/logit"].values[GOOD], logit, rtol=1e-5)


def test_bad_objects_are_quarantined_by_name(run, survey, results):
    with (run / "quarantine.csv").open(newline="") as file:
        rows = {row["id"]: row for row in csv.DictReader(file)}
    ids = survey.table["dr8_id"]
    assert {id_: (row["code"], row["unit"]) for id_, row in rows.items()} == {
        ids[NAN]: ("non_finite_pixels", "0000000000-0000000008"),
        ids[CUT]: ("truncated_file", "0000000000-0000000008"),
        ids[MISSING]: ("missing_file", "0000000000-0000000008"),
        ids[REPEATED]: ("duplicate_id", "plan"),
    }
    assert ": 4 of 150528 pixels are NaN" in rows[ids[NAN]]["reason"]
    assert "row 9: id" in rows[ids[0]]["reason"]
    status = np.full(OBJECTS, 2)
    status[GOOD] = 1
    assert results["status"].values.tolist() == status.tolist()


def test_the_catalogue_comes_along(survey, results):
    catalogue = results["catalogue"]
    assert catalogue["id"].values.tolist() == survey.table["dr8_id"].tolist()
    assert catalogue["label"].values.tolist() == survey.table["summary"].tolist()
    carried = [name for name in survey.table if "fraction" in name or name in ("ra", "brickid")]
    assert len(carried) == 5
    for name in carried:
        np.testing.assert_array_equal(catalogue[name].values, survey.table[name])
        assert catalogue[name].dtype == survey.table[name].dtype


def test_status_is_json_and_nothing_else(run, survey):
    done = occulta("status", "runs/my-survey", "--json", cwd=survey.folder)
    assert (done.returncode, done.stderr) == (0, "")
    status = json.loads(done.stdout)
    assert status["state"] == "complete"
    assert status["units"] == {"total": 2, "committed": 2, "quarantined": 0, "pending": 0}
    assert status["objects"] == {"total": 12, "complete": 8, "quarantined": 4}


def test_resuming_a_complete_run_changes_nothing(run, survey):
    before = {path: path.stat().st_mtime_ns for path in (run / "results.zarr").rglob("*")}
    done = occulta("resume", "runs/my-survey", "--json", cwd=survey.folder)
    assert done.returncode == 3, done.stderr
    assert json.loads(done.stdout)["objects"]["quarantined"] == 4
    assert {path: path.stat().st_mtime_ns for path in (run / "results.zarr").rglob("*")} == before


@pytest.mark.slow
def test_a_changed_survey_is_refused(run, survey):
    file = survey.folder / survey.table["file_loc"][GOOD[-1]]
    content = file.read_bytes()
    info = file.stat()
    file.write_bytes(content[:-2880])
    try:
        done = occulta("resume", "runs/my-survey", cwd=survey.folder)
    finally:
        file.write_bytes(content)
        os.utime(file, ns=(info.st_atime_ns, info.st_mtime_ns))
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = done.stderr.split("\n")[-2:-1]
    assert line.startswith(f"occulta: {run}: survey changed since this run began; ")


@pytest.fixture(scope="module")
def map_files(run, survey):
    done = occulta("maps", "runs/my-survey", "--json", cwd=survey.folder)
    assert (done.returncode, done.stderr) == (0, "")
    return [Path(file) for file in json.loads(done.stdout)["files"]]


def test_maps_count_as_numpy_does_and_healpy_reads_them(run, survey, map_files):
    assert all(file.exists() for file in map_files)
    good = survey.table.iloc[GOOD]
    cell = healpy.ang2pix(NSIDE, *good_places(survey), nest=True, lonlat=True)
    expected = np.bincount(cell, minlength=12 * NSIDE**2)
    maps = xr.open_datatree(run / "maps/maps.zarr", engine="zarr")
    count = np.zeros_like(expected)
    count[maps["healpix/cell_ids"].values] = maps["healpix/count"].values
    assert count.tolist() == expected.tolist()
    (sky,) = [file for file in map_files if file.suffix == ".fits"]
    read = healpy.read_map(sky, nest=True, field=0)
    assert np.where(np.isfinite(read) & (read > 0), read, 0).tolist() == expected.tolist()
    stacks = maps["mean_attribution/integrated_gradients"]
    stored = xr.open_datatree(run / "results.zarr", engine="zarr")["integrated_gradients"]
    maps_of = stored["attribution"].values[GOOD, 0].astype(np.float64)
    for name in ("smooth", "featured"):
        mean = maps_of[(good["summary"] == name).to_numpy()].mean(axis=0)
        np.testing.assert_allclose(stacks["mean"].sel(group=name), mean, rtol=1e-9, atol=1e-15)


def test_the_report_names_run_and_objects(run, survey):
    done = occulta("report", "runs/my-survey", cwd=survey.folder)
    assert (done.returncode, done.stderr) == (0, "")
    page = Path(done.stdout.removesuffix("\n"))
    assert page == run / "report/index.html"
    html = page.read_text()
    assert "gz-desi-why" in html
    assert survey.table["dr8_id"][GOOD[1]] in html
    assert f"<td>{survey.table['dr8_id'][CUT]}</td>" in html  # the quarantined, with their reasons
    assert "has 100000 bytes where its header needs 604992" in html


def test_the_notebook_of_the_how_to_runs(run, survey, map_files, tmp_path):
    text = (Path(__file__).parents[2] / "docs/how-to/explain-your-survey.md").read_text()
    blocks = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert len(blocks) == 4
    checks = "assert hidden.shape == (1, 224, 224)\nassert int(good.sum()) == 8\n"
    (tmp_path / "notebook.py").write_text("\n".join(blocks) + checks)
    command = [sys.executable, tmp_path / "notebook.py"]
    done = subprocess.run(command, cwd=survey.folder, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")
    assert "smooth" in done.stdout
    assert "{'y': 224, 'x': 224} logit" in done.stdout
    cells = len(set(healpy.ang2pix(NSIDE, *good_places(survey), nest=True, lonlat=True)))
    assert done.stdout.endswith(f"8 objects in {cells} cells\n")


def good_places(survey):
    good = survey.table.iloc[GOOD]
    return good["ra"], good["dec"]


@pytest.mark.slow
def test_png_and_jpeg_with_a_csv_catalogue(tmp_path):
    set_traps(tmp_path)
    simulated = simulate(SURVEYS["A"], 6, range(20))
    pixels = np.clip(np.arcsinh(simulated.images / 0.05) * 50, 0, 255).astype(np.uint8)
    (tmp_path / "images").mkdir()
    rows = []
    for row, image in enumerate(pixels[:, ::-1].transpose(0, 2, 3, 1)):
        name = f"J{row:04d}.{'jpg' if row % 2 else 'png'}"
        Image.fromarray(image).resize((256, 256)).save(tmp_path / "images" / name)
        rows.append((f"000{row}", name, simulated.columns["ra"][row], 0.0, "smooth"))
    pd.DataFrame(rows, columns=["id_str", "file_loc", "ra", "dec", "label"]).to_csv(
        tmp_path / "catalogue.csv", index=False
    )
    torch.manual_seed(0)
    network = build("occulta:small_cnn", 2, 3).eval()
    save_file(network.state_dict(), tmp_path / "model.safetensors")
    survey = {"format": "images", "path": "images", "catalogue": "catalogue.csv"}
    edits = {"survey": survey, "network.architecture": "occulta:small_cnn"}
    edits["methods"] = [EDITS["methods"][2]]
    write_job(tmp_path, edits)
    done = occulta("run", "job.yaml", "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["objects"] == {"total": 20, "complete": 20, "quarantined": 0}
    results = xr.open_datatree(tmp_path / "runs/my-survey/results.zarr", engine="zarr")
    assert results["catalogue/id"].values[0] == "0000"
    images = [np.asarray(Image.open(tmp_path / "images" / row[1])) for row in rows]
    inputs = np.stack(images).transpose(0, 3, 1, 2).astype(np.float32) / np.float32(255)
    ids = [row[0] for row in rows]
    maps = explain(network, inputs, IntegratedGradients(3, "midpoint"), ids=ids, micro_batch=32)
    np.testing.assert_array_equal(
        results["integrated_gradients/attribution"].values, round_mantissa(maps["attribution"])
    )
