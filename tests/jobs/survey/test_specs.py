from __future__ import annotations

import pytest
from pydantic import ValidationError

from jobs.specs.survey import Columns, PreprocessSpec, SurveySpec


def test_every_field_says_what_it_is() -> None:
    for spec in (SurveySpec, PreprocessSpec, Columns):
        for name, field in spec.model_fields.items():
            assert field.description, f"{spec.__name__}.{name}"


def test_a_job_file_round_trips() -> None:
    spec = PreprocessSpec.model_validate({"size": [32, 48], "mean": [0.1, 0.2], "std": [1, 2]})
    assert spec.size == (32, 48)
    assert PreprocessSpec.model_validate_json(spec.model_dump_json()) == spec
    survey = SurveySpec.model_validate({"format": "fits", "path": "a/", "nan": 0.5, "hdu": "SCI"})
    assert SurveySpec.model_validate_json(survey.model_dump_json()) == survey
    assert hash(spec) == hash(PreprocessSpec.model_validate(spec.model_dump()))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": "hdf4"}, "'parquet', 'zarr' or 'simulated'"),
        ({"format": "images", "hdu": 1}, "hdu applies to format: fits, not images"),
        ({"array": "images"}, "array applies to format: hdf5, parquet and zarr, not fits"),
        ({"bands": "last"}, "bands applies to format: npy, hdf5 and zarr, not fits"),
        ({"format": "simulated", "catalogue": "x.csv"}, "brings its own catalogue"),
        ({"format": "simulated", "columns": {"path": "file"}}, "has no files"),
        ({"columns": {"idd": "x"}}, "Extra inputs are not permitted"),
        ({"nan": float("nan")}, "finite"),
        ({"nan": "fill"}, "refuse"),
        ({"path": ""}, "at least 1 character"),
    ],
)
def test_a_survey_that_makes_no_sense_is_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        SurveySpec.model_validate({"format": "fits", "path": "cutouts/", **change})


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"mean": [0.1], "std": [1, 1]}, "mean has 1 values and std 2; give one per band"),
        ({"std": [1.0, 0.0]}, "greater than 0"),
        ({"scale": 0}, "greater than 0"),
        ({"scale": float("inf")}, "finite"),
        ({"mean": [float("nan")]}, "finite"),
        ({"size": 0}, "greater than or equal to 1"),
        ({"size": [32]}, "size"),
        ({"size": "big"}, "native"),
        ({"stretch": "log"}, "'linear' or 'asinh'"),
    ],
)
def test_a_preprocess_that_makes_no_sense_is_refused(
    given: dict[str, object], message: str
) -> None:
    with pytest.raises(ValidationError, match=message):
        PreprocessSpec.model_validate(given)
