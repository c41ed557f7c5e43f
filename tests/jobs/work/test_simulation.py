"""Simulation jobs, from job file to store."""

import sys

import numpy as np
import pytest
import xarray as xr

from cluster.pool import SerialPool
from jobs.errors import RefusedError
from jobs.plan import plan_job
from jobs.run.execute import execute
from jobs.specs.load import load_job
from training.galsim_telescope import GalSimTelescope
from training.simulation import SURVEYS, simulate

JOB = """
kind: simulation
name: sky
preset: A
model: {size: 32, redshifts: [0.1, 0.2]}
galsim: {gain: 300.0}
objects: 5
seed: 4
shard_objects: 2
output: run
"""


@pytest.fixture
def job(tmp_path):
    (tmp_path / "job.yaml").write_text(JOB)
    return load_job(tmp_path / "job.yaml")


def test_a_run_holds_what_the_library_simulates(job):
    run = execute(plan_job(job), SerialPool)
    tree = xr.open_datatree(run / "results.zarr", engine="zarr")
    block = simulate(job.survey_model, 4, range(5), telescope=GalSimTelescope(gain=300.0))
    np.testing.assert_array_equal(tree["cutout/image"].values, block.images)
    redshift = tree["catalogue/redshift"].values
    np.testing.assert_array_equal(redshift, block.columns["redshift"])
    assert ((redshift >= 0.1) & (redshift < 0.2)).all()
    assert job.survey_model.reference_redshift == SURVEYS["A"].reference_redshift


def test_without_galsim_nothing_begins(job, monkeypatch):
    monkeypatch.setitem(sys.modules, "galsim", None)
    with pytest.raises(RefusedError, match=r'pip install "occulta\[galsim\]"'):
        plan_job(job)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("model={redshifts: [0.2, 0.1]}", "redshifts = .* must be a range"),
        ("model={redshift: 0.2}", "model.redshift: unknown field; did you mean 'redshifts'"),
        ("galsim={gain: 0}", "gain = 0.0 must be positive"),
    ],
)
def test_what_makes_no_sense_is_one_line(job, tmp_path, change, message):
    with pytest.raises(RefusedError, match=message) as error:
        load_job(tmp_path / "job.yaml", [change])
    assert "\n" not in str(error.value)
