from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import pytest

from training.augmentation import Augmentation
from training.fit_settings import FitSettings
from training.fit_state import EpochRecord
from training.transfer import Transfer

REFERENCE = Path(__file__).parents[2] / "docs" / "reference" / "training.md"


@pytest.mark.parametrize("described", [FitSettings, Augmentation, EpochRecord, Transfer])
def test_the_reference_has_a_row_for_every_field(described):
    rows = [line for line in REFERENCE.read_text().splitlines() if line.startswith("|")]
    named = " ".join(row.split("|")[1] for row in rows)
    missing = [part.name for part in fields(described) if f"`{part.name}`" not in named]
    assert missing == (["epoch"] if described is EpochRecord else [])
