"""The planted shortcut, as users run it: job files, the truth in the store, and what is found."""

import dataclasses
import re

import numpy as np
import pytest
import xarray as xr

from cluster.pool import SerialPool
from jobs.errors import RefusedError
from jobs.plan import plan_job
from jobs.run.execute import execute
from jobs.specs.load import dump_job, load_job, make_job, parse_yaml
from jobs.specs.template import job_template
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
    text = re.sub(r"shortcut: null +#.*", "shortcut:", job_template("simulation"))
    job = load(tmp_path, re.sub(r"(?m)^#(  \w+:)", r"\1", text))
    assert job.shortcut == Shortcut("barred")
    shown = parse_yaml((tmp_path / "job.yaml").read_text(), "x")["shortcut"]
    assert list(shown) == [field.name for field in dataclasses.fields(Shortcut)]


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
