"""Templates of job files: valid, whole, and showing the real defaults."""

import dataclasses
import re
from pathlib import Path

import pytest
from pydantic import BaseModel, TypeAdapter

from attribution.registry import METHODS
from jobs.errors import RefusedError
from jobs.specs.jobs import KINDS
from jobs.specs.load import load_job, make_job, parse_yaml
from jobs.specs.methods import SECTIONS
from jobs.specs.template import job_template


def fields_of(kind):
    """Fields of a pydantic model or a dataclass: name -> (type, default); None is no default."""
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        return {
            name: (field.annotation, None if field.is_required() else field.get_default())
            for name, field in kind.model_fields.items()
        }
    return {
        field.name: (
            field.default_factory
            if field.default_factory is not dataclasses.MISSING
            else type(field.default),
            field.default_factory()
            if field.default_factory is not dataclasses.MISSING
            else field.default,
        )
        for field in dataclasses.fields(kind)
    }


def is_section(kind):
    return isinstance(kind, type) and (
        issubclass(kind, BaseModel) or dataclasses.is_dataclass(kind)
    )


def plain(value):
    return TypeAdapter(object).dump_python(value, mode="json")


def differences(kind, data, path=""):
    """What a section lacks, and where its values aren't the defaults."""
    found = []
    for name, (inner, default) in fields_of(kind).items():
        place = f"{path}{name}"
        if name not in data:
            found.append(f"{place} is absent")
        elif is_section(inner):
            found += differences(inner, data[name], f"{place}.")
        elif default is not None and data[name] != plain(default):
            found.append(f"{place}: {data[name]!r} is not {plain(default)!r}")
    return found


def data_of(kind):
    return parse_yaml(job_template(kind), kind)


@pytest.mark.parametrize("kind", KINDS)
def test_a_template_is_a_valid_job_that_shows_every_default(kind, tmp_path):
    (tmp_path / "job.yaml").write_text(job_template(kind))
    assert load_job(tmp_path / "job.yaml").kind == kind
    assert differences(KINDS[kind], data_of(kind)) == []


def test_the_comparison_sees_absent_fields_and_other_values_at_every_depth():
    data = data_of("training")
    data["fit"]["augmentation"]["zoom"] = 1.4
    del data["fit"]["seed"], data["survey"]["columns"]["ra"]
    assert differences(KINDS["training"], data) == [
        "survey.columns.ra is absent",
        "fit.augmentation.zoom: 1.4 is not 1.3",
        "fit.seed is absent",
    ]


def sections(text):
    """The methods of the template, commented or not, by name."""
    data = parse_yaml(re.sub(r"(?m)^#( +(?:- )?\w+:)", r"\1", text), "template")
    return data, {section["method"]: section for section in data["methods"]}


@pytest.mark.parametrize("name", METHODS)
def test_the_attribution_template_shows_every_method(name, tmp_path):
    data, shown = sections(job_template("attribution"))
    assert differences(SECTIONS[name], shown[name]) == []
    # Measures of quality judge the maps of others.
    methods = [shown[name], *({"method": "saliency"} for _ in range(name != "saliency"))]
    make_job({**data, "methods": methods}, "template", tmp_path)


def test_an_unknown_kind_is_refused_with_the_known_ones():
    with pytest.raises(RefusedError, match=r"'train' is unknown; use one of .*training"):
        job_template("train")


def test_the_reference_has_a_row_for_every_method():
    page = (Path(__file__).parents[2] / "docs/reference/methods.md").read_text()
    rows = re.findall(r"(?m)^\| `(\w+)` \|", page)
    assert sorted(rows) == sorted(METHODS)
