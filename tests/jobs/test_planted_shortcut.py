"""The planted shortcut, as users run it: job files, the truth in the store, and what is found."""

import dataclasses
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
import zarr

from cluster.pool import SerialPool
from jobs.errors import RefusedError
from jobs.plan import plan_job
from jobs.run.execute import execute
from jobs.specs.load import dump_job, load_job, make_job, parse_yaml
from jobs.specs.template import job_template
from jobs.specs.training import TrainingJob
from training.galsim_telescope import GalSimTelescope
from training.shortcut import Shortcut
from training.simulation import SURVEYS, simulate

SIMULATION = """
kind: simulation
name: survey
preset: A
objects: 12
seed: 3
shard_objects: 8
shortcut: {label: barred, share: 0.5, size: 4}
output: survey
"""


def load(tmp_path, text):
    (tmp_path / "job.yaml").write_text(text)
    return load_job(tmp_path / "job.yaml")


def run(job):
    return execute(plan_job(job), SerialPool)


def test_the_section_takes_its_defaults_and_comes_back_whole(tmp_path):
    job = load(tmp_path, SIMULATION)
    assert job.shortcut == Shortcut("barred", share=0.5, size=4, sigma=10.0)
    assert make_job(parse_yaml(dump_job(job), "x"), "x", tmp_path) == job
    without = load(tmp_path, re.sub("shortcut.*\n", "", SIMULATION))
    assert without.shortcut is None
    assert without.digest() != job.digest()


def test_the_template_shows_every_setting_with_its_default(tmp_path):
    text = re.sub(r"(shortcut|galsim): null +#.*", r"\1:", job_template("simulation"))
    job = load(tmp_path, re.sub(r"(?m)^#(  \w+:)", r"\1", text))
    assert job.shortcut == Shortcut("barred")
    assert job.galsim == GalSimTelescope()
    shown = parse_yaml((tmp_path / "job.yaml").read_text(), "x")
    for section, kind in (("shortcut", Shortcut), ("galsim", GalSimTelescope)):
        assert list(shown[section]) == [field.name for field in dataclasses.fields(kind)]


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ("{label: bared}", r"shortcut: label 'bared' is no class of galaxies; use one of smooth"),
        ("{label: barred, share: 1.2}", r"shortcut: share 1\.2 is no probability; use 0 to 1"),
        ("{label: barred, share: -1}", r"shortcut: share -1"),
        ("{label: barred, size: 80}", r"shortcut: size 80 does not fit .* use 16 pixels or less"),
        ("{label: barred, size: 17}", r"shortcut: size 17 does not fit .* image of 64 pixels"),
        ("{label: barred, size: 2.5}", r"shortcut\.size: .*integer"),
        ("{share: 0.5}", r"shortcut\.label: is missing"),
        ("{label: barred, sgima: 3}", r"shortcut\.sgima: unknown field"),
        ("{label: barred, sigma: .nan}", r"shortcut: sigma nan makes no bright stamp"),
    ],
)
def test_mistakes_are_told_in_one_line(tmp_path, section, message):
    with pytest.raises(RefusedError, match=message) as caught:
        load(tmp_path, re.sub("shortcut: .*", f"shortcut: {section}", SIMULATION))
    assert str(caught.value).startswith("job.yaml: ")
    assert "\n" not in str(caught.value)


def test_the_store_holds_the_truth_about_the_stamp(tmp_path):
    results = xr.open_datatree(run(load(tmp_path, SIMULATION)) / "results.zarr", engine="zarr")
    expected = simulate(SURVEYS["A"], 3, range(12), Shortcut("barred", share=0.5, size=4))
    assert 0 < expected.columns["has_shortcut"].sum() < 12
    mask, stamped = results["truth/shortcut"], results["catalogue/has_shortcut"]
    assert mask.dims == ("object", "y", "x")
    assert mask.dtype == stamped.dtype == bool
    np.testing.assert_array_equal(mask, expected.shortcut_mask)
    np.testing.assert_array_equal(stamped, expected.columns["has_shortcut"])
    np.testing.assert_array_equal(results["cutout/image"], expected.images)


def test_a_job_without_the_section_has_no_such_truth(tmp_path):
    job = load(tmp_path, re.sub("shortcut.*\n", "", SIMULATION))
    names = plan_job(job).template.keys()
    assert not [name for name in names if "shortcut" in name]
    assert {"truth/bar", "truth/arms", "cutout/image"} < names


EXAMPLE = Path(__file__).parents[2] / "examples/planted_shortcut"
HOW_TO = Path(__file__).parents[2] / "docs/how-to/planted-shortcut.md"
ORDER = ("survey-train", "survey-clean", "survey-stamped", "network", "why-clean", "why-stamped")


def test_the_readme_runs_every_job_file_in_order():
    commands = re.findall(r"(?m)^occulta run (\S+)\.yaml", (EXAMPLE / "README.md").read_text())
    assert commands == list(ORDER)
    assert sorted(ORDER) == sorted(path.stem for path in EXAMPLE.glob("*.yaml"))


def test_the_test_surveys_differ_by_the_stamp_alone():
    clean, stamped = (load_job(EXAMPLE / f"survey-{name}.yaml") for name in ("clean", "stamped"))
    assert stamped.shortcut == Shortcut("all", share=1.0)
    assert clean.shortcut is None
    own = ("name", "output", "shortcut")
    assert clean.model_dump(exclude=own) == stamped.model_dump(exclude=own)
    # The stamp itself is the one that the network learns.
    learnt = load_job(EXAMPLE / "survey-train.yaml")
    assert dataclasses.replace(learnt.shortcut, label="all", share=1.0) == stamped.shortcut
    assert learnt.seed != clean.seed


def test_both_explanations_ask_the_same():
    clean, stamped = (load_job(EXAMPLE / f"why-{name}.yaml") for name in ("clean", "stamped"))
    own = ("name", "output", "survey")
    assert clean.model_dump(exclude=own) == stamped.model_dump(exclude=own)
    training = load_job(EXAMPLE / "network.yaml")
    assert clean.network.preprocess == training.preprocess
    assert clean.network.classes == training.classes
    assert clean.network.architecture == training.architecture


def run_how_to(folder, monkeypatch):
    """Run the page's code where the runs are, and return its names and what it prints."""
    said = []
    names = {"print": lambda text: said.append(text)}
    monkeypatch.chdir(folder)
    for block in re.findall(r"(?ms)^```python\n(.*?)^```$", HOW_TO.read_text()):
        exec(block, names)
    return names, said


def put(root, path, dimensions, values, **attributes):
    values = np.asarray(values)
    kind = str if values.dtype.kind == "U" else values.dtype
    array = root.create_array(path, shape=values.shape, dtype=kind, dimension_names=dimensions)
    array[:] = values
    array.attrs.update(attributes)


def put_map(root, path, values, dimensions=("y", "x"), **attributes):
    put(root, path, ("object", "target", *dimensions), values[:, None], **attributes)
    put(root, f"{path.split('/')[0]}/target", ("target",), ["barred"])


def write_runs(folder):
    """Three galaxies of 8 px, the second barred; a stamp covers a quarter of each image."""
    # The survey has them in the opposite order of the runs.
    mask = np.zeros((3, 8, 8), dtype=bool)
    mask[2, 4:, 4:] = mask[1, :4, 4:] = mask[0, :4, :4] = True
    survey = zarr.open_group(folder / "runs/survey-stamped/results.zarr", mode="w")
    put(survey, "truth/shortcut", ("object", "y", "x"), mask)
    zarr.consolidate_metadata(survey.store)
    even = np.ones((3, 2, 2))
    # In the stamp: 3 of 4 positive units of the first, 1 of 4 of the third.
    caught = np.array([[[1.0, 0], [-9, 3]], [[0, 5], [0, 0]], [[1, 3], [-2, 0]]])
    for name, barred, grid in (
        ("clean", [[0.2], [0.9], [0.1]], even),
        ("stamped", [[0.6], [0.9], [0.8]], caught),
    ):
        root = zarr.open_group(folder / f"runs/why-{name}/results.zarr", mode="w")
        put(root, "catalogue/label", ("object",), ["smooth", "barred", "smooth"])
        put(root, "catalogue/row", ("object",), [2, 1, 0])
        put(root, "prediction/class", ("class",), ["barred", "smooth"])
        p = np.hstack([barred, 1 - np.array(barred)])
        put(root, "prediction/logit", ("object", "class"), np.log(p) + 3)
        pixels = grid.repeat(4, axis=1).repeat(4, axis=2)
        put_map(root, "integrated_gradients/attribution", pixels)
        put_map(root, "gradient_x_input/attribution", pixels.clip(0) + 1)
        facts = {"window": [4, 4], "stride": [4, 4], "image_shape": [8, 8]}
        put_map(root, "occlusion/grid", grid, ("window_y", "window_x"), **facts)
        zarr.consolidate_metadata(root.store)


def test_the_how_to_measures_what_it_says(tmp_path, monkeypatch):
    write_runs(tmp_path)
    _, said = run_how_to(tmp_path, monkeypatch)
    assert said == [
        "clean    accuracy 1.00, P(barred) of the others 0.15",
        "stamped  accuracy 0.33, P(barred) of the others 0.70",
        "area                 25.0%",
        "integrated_gradients 25.0% without, 50.0% with the stamp",
        "gradient_x_input     25.0% without, 37.5% with the stamp",
        "occlusion            25.0% without, 50.0% with the stamp",
    ]


@pytest.mark.slow
def test_attribution_catches_the_shortcut(tmp_path, monkeypatch):
    shutil.copytree(EXAMPLE, tmp_path, dirs_exist_ok=True, ignore=shutil.ignore_patterns("runs"))
    small = {
        "survey-train": ["objects=1000"],
        "survey-clean": ["objects=80"],
        "survey-stamped": ["objects=80"],
        "network": ["fit.epochs=6"],
    }
    for name in ORDER:
        job = load_job(tmp_path / f"{name}.yaml", small.get(name, []))
        if isinstance(job, TrainingJob):
            execute(plan_job(job), SerialPool)
        else:
            run(job)
    names, _ = run_how_to(tmp_path, monkeypatch)
    others, barred = names["others"], names["classes"] == "barred"
    without, with_it = (
        names["probabilities"](names[run])[others, barred].mean() for run in ("clean", "stamped")
    )
    assert with_it - without > 0.2
    area = names["mask"][others].mean()
    assert area == 9 / 64**2
    assert names["evidence_inside"](names["stamped"], "integrated_gradients") > 10 * area
    # The same pixels draw little where no stamp lies in them.
    assert names["evidence_inside"](names["clean"], "integrated_gradients") < 3 * area
