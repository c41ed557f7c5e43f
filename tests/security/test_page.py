"""SECURITY.md names only what there is."""

from __future__ import annotations

import re
from pathlib import Path

from jobs.specs.jobs import SimulationJob
from jobs.specs.plain_yaml import _MAX_DEPTH
from jobs.survey.files import MAX_FILE_BYTES
from jobs.survey.memory import READ_BYTES
from jobs.survey.reader import MAX_PIXELS

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "SECURITY.md").read_text(encoding="utf-8")


def test_every_test_that_is_named_exists() -> None:
    named = re.findall(r"`((?:tests/[\w/]+/)?test_\w+\.py)`?", PAGE)
    assert len(named) >= 6
    for name in named:
        assert list(ROOT.glob(name if "/" in name else f"tests/**/{name}")), name


def test_the_limits_are_those_of_the_code() -> None:
    assert MAX_PIXELS == 2**26
    assert "2^26 pixels" in PAGE
    assert f"{MAX_FILE_BYTES >> 30} GiB a" in PAGE
    assert f"grow by {READ_BYTES >> 30} GiB" in PAGE
    assert f"{_MAX_DEPTH} levels" in PAGE
    (pattern,) = [
        part.pattern
        for part in SimulationJob.model_fields["name"].metadata
        if getattr(part, "pattern", None)
    ]
    assert f"`{pattern}`" in PAGE
