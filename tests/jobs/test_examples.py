"""The pipelines of examples/ are jobs that would run."""

from pathlib import Path

import pytest

from jobs.specs.load import load_job
from jobs.specs.pipeline import PipelineJob

EXAMPLES = Path(__file__).parents[2] / "examples"
PIPELINES = [
    path for path in sorted(EXAMPLES.rglob("*.yaml")) if "kind: pipeline" in path.read_text()
]


@pytest.mark.parametrize("path", PIPELINES, ids=lambda path: str(path.relative_to(EXAMPLES)))
def test_an_example_is_a_pipeline_that_would_run(path):
    job = load_job(path)
    assert isinstance(job, PipelineJob)
    assert all(job.about.values())


def test_there_are_examples():
    assert len(PIPELINES) >= 3
