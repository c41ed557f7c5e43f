"""The transfer example, smaller: how robust is a network to a new survey, and what do labels do?"""

import json
from pathlib import Path

import pytest
import xarray as xr

from jobs.pipeline import run_pipeline
from jobs.specs.load import load_job

EXAMPLE = Path(__file__).parents[2] / "examples/transfer/pipeline.yaml"
SMALLER = (
    "steps.galaxies-a.objects=1600",
    "steps.galaxies-b.objects=800",
    "steps.source.fit.epochs=6",
    "steps.study.vary={transfer.strategy: [all, scratch], training_objects: [80, 320]}",
)


@pytest.mark.slow
def test_few_labels_repair_what_a_new_survey_breaks_and_the_old_one_is_forgotten(tmp_path):
    run = run_pipeline(load_job(EXAMPLE, SMALLER, str(tmp_path / "run")))
    source, study = (
        xr.open_datatree(run / step / "results.zarr", engine="zarr")["fit"]
        for step in ("source", "study")
    )
    on_a, on_b = float(source["test_accuracy"][0]), float(source["b_accuracy"][0])
    settings = [json.loads(text) for text in study["setting"].values]
    target = {
        tuple(s.values()): float(a)
        for s, a in zip(settings, study["test_accuracy"].values, strict=True)
    }
    kept = {
        tuple(s.values()): float(a)
        for s, a in zip(settings, study["source_accuracy"].values, strict=True)
    }
    assert on_a > 0.75
    assert on_b < on_a - 0.05
    assert target["all", 80] > on_b + 0.03
    assert target["all", 80] > target["scratch", 80] + 0.05
    # Labels help a new network more.
    assert target["scratch", 320] > target["scratch", 80] + 0.05
    assert kept["all", 320] < on_a - 0.1
    assert (run / "report/index.html").exists()
