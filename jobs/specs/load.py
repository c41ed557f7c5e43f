"""From a job file to a job spec, or to one line that says what is wrong and where."""

from __future__ import annotations

import difflib
import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from ..errors import RefusedError
from .inceptionism import IMAGES
from .job import JobSpec
from .jobs import KINDS, AttributionJob, InceptionismJob
from .methods import SECTIONS
from .network import NetworkSpec
from .pipeline import ABOUT, PipelineJob, resolve_steps
from .plain_yaml import parse_yaml, write_yaml
from .secrets import refuse_secrets
from .survey import SurveySpec
from .trained import trained_network
from .training import FitsJob, TrainingJob

_MAX_BYTES = 1 << 20
_UNKNOWN = "unknown field"
_EXPECTED = re.compile(r"[Ii]nput should be (?P<what>.*?)(?P<end>(, found .*)?)")


def load_job(path: Path, changes: Sequence[str] = (), output: str | None = None) -> JobSpec:
    """Read a job file; its paths are relative to the folder that it is in.

    Parameters
    ----------
    path : a YAML file
    changes : ``a.b=value`` settings that replace what the file says
    output : the run folder, in place of the file's

    Raises
    ------
    RefusedError
        If the file can't be read, is no YAML, or has an unknown field, a missing field or a wrong
        type.
    """
    where = path.name
    data = parse_yaml(_read(path), where)
    for change in changes:
        _set(data, change)
    if output is not None and isinstance(data, dict):
        data = {**data, "output": output}
    return make_job(data, where, path.parent.absolute())


def make_job(data: Any, where: str, folder: Path) -> JobSpec:
    """Validate job data; relative paths in it are relative to ``folder``."""
    if not isinstance(data, dict):
        raise RefusedError(f"{where}: expected fields such as 'kind: attribution', found {data!r}")
    refuse_secrets(data, where)
    kind = data.get("kind")
    if kind not in KINDS:
        raise RefusedError(f"{where}: kind: {kind!r} is unknown; use one of {', '.join(KINDS)}")
    for field in ("network", "start"):
        named = data.get(field)
        if isinstance(named, str) and field in KINDS[kind].model_fields:
            place = (folder / Path(named).expanduser()).resolve()
            data = {**data, field: trained_network(place, field)}
    if isinstance(data.get("start"), dict):
        # What the network is, and how it sees pixels, need not be said twice.
        told = ("architecture", "options", "preprocess")
        data = {**{name: data["start"][name] for name in told if name in data["start"]}, **data}
    if data.get("target_columns") and "target_columns" in KINDS[kind].model_fields:
        data = {"classes": data["target_columns"], **data}
    try:
        job = KINDS[kind].model_validate_json(json.dumps(data, default=str), strict=True)
    except ValidationError as error:
        raise RefusedError("; ".join(_problems(error, data, where, KINDS[kind]))) from error
    except ValueError as error:
        raise RefusedError(f"{where}: {error}") from error
    job = _absolute(job, folder)
    if isinstance(job, PipelineJob):
        return resolve_steps(job, where, lambda fields, step: make_job(fields, step, folder))
    return job


def step_jobs(job: PipelineJob) -> dict[str, JobSpec]:
    """Return the jobs of a pipeline that `make_job` has made, by name and in their order."""
    return {
        name: make_job({key: value for key, value in step.items() if key != ABOUT}, name, Path("/"))
        for name, step in job.steps.items()
    }


def dump_job(job: JobSpec) -> str:
    """Write a spec as YAML, with every default written out."""
    return write_yaml(json.loads(job.model_dump_json()))


def _read(path: Path) -> str:
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise RefusedError(f"{path}: larger than 1 MiB; is it a job file?")
        return path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise RefusedError(
            f"{path}: no such job file; `occulta init attribution` prints one to start from"
        ) from error
    except (OSError, UnicodeDecodeError) as error:
        raise RefusedError(f"{path}: can't be read as text: {error}") from error


def _set(data: Any, change: str) -> None:
    path, equals, text = change.partition("=")
    if not equals or not path:
        raise RefusedError(f"--set {change}: expected key=value, such as execution.seed=7")
    *parents, last = path.split(".")
    for key in parents:
        data = _step(data, key, change)
    value = parse_yaml(text, f"--set {path}")
    if isinstance(data, list):
        data[_position(data, last, change)] = value
    else:
        data[last] = value


def _step(data: Any, key: str, change: str) -> Any:
    if isinstance(data, list):
        return data[_position(data, key, change)]
    inner = data.setdefault(key, {})
    if not isinstance(inner, dict | list):
        raise RefusedError(f"--set {change}: {key} is {inner!r} in the file, so it has no fields")
    return inner


def _position(data: list[Any], key: str, change: str) -> int:
    if not key.isdigit() or int(key) >= len(data):
        raise RefusedError(
            f"--set {change}: {key!r} is no position in a list of {len(data)}; count from 0"
        )
    return int(key)


def _absolute(job: JobSpec, folder: Path) -> JobSpec:
    def resolve(text: str) -> str:
        return str((folder / Path(text).expanduser()).resolve()) if "://" not in text else text

    updates: dict[str, Any] = {"output": resolve(job.output)}

    def survey_of(survey: SurveySpec) -> SurveySpec:
        places = {"path": resolve(survey.path)}
        if survey.catalogue is not None:
            places["catalogue"] = resolve(survey.catalogue)
        return survey.model_copy(update=places)

    def network_of(network: NetworkSpec) -> NetworkSpec:
        changed = {"weights": resolve(network.weights)}
        scheme, _, source = network.architecture.partition(":")
        if scheme == "file":
            changed["architecture"] = f"file:{resolve(source)}"
        return network.model_copy(update=changed)

    survey = job.survey if isinstance(job, AttributionJob | FitsJob | InceptionismJob) else None
    if survey is not None:
        updates["survey"] = survey_of(survey)
    if isinstance(job, AttributionJob | InceptionismJob):
        updates["network"] = network_of(job.network)
    if isinstance(job, FitsJob):
        updates["also_test"] = {name: survey_of(other) for name, other in job.also_test.items()}
        updates["only"] = tuple(resolve(path) for path in job.only)
        updates["also_train"] = tuple(resolve(path) for path in job.also_train)
    if isinstance(job, TrainingJob):
        updates["start"] = network_of(job.start) if job.start else None
        if job.pretrained is not None:
            places = {"weights": resolve(job.pretrained.weights)}
            updates["pretrained"] = job.pretrained.model_copy(update=places)
    return job.model_copy(update=updates)


def _problems(
    error: ValidationError, data: Any, where: str, model: type[BaseModel]
) -> Iterable[str]:
    """One clause per place; the alternatives of a union that all failed are joined by 'or'."""
    found: dict[str, list[str]] = {}
    for detail in error.errors():
        # Entries that are wrong are not counted, which makes no list too short.
        if detail["type"] == "too_short" and len(detail["input"]) >= detail["ctx"]["min_length"]:
            continue
        place = _place(detail, data)
        message = _message(detail, data, model)
        if message not in found.setdefault(place, []):
            found[place].append(message)
    # A misspelt field first: it is often why another one is missing.
    for place, messages in sorted(found.items(), key=lambda item: _UNKNOWN not in item[1][0]):
        yield f"{where}: {place + ': ' if place else ''}{_alternatives(messages)}"


def _alternatives(messages: Sequence[str]) -> str:
    """Join messages by 'or'; how they all begin and end is said once."""
    kinds = [_EXPECTED.fullmatch(message) for message in messages]
    ends = {kind and kind["end"] for kind in kinds}
    if len(messages) == 1 or len(ends) > 1 or None in ends:
        return ", or ".join(messages)
    *first, last = (kind["what"] for kind in kinds if kind)
    return f"input should be {', '.join(first)} or {last}{ends.pop()}"


def _place(detail: ErrorDetails, data: Any) -> str:
    """Write a location as a user would, without the names of union branches."""
    place = ""
    loc = detail["loc"]
    for number, part in enumerate(loc):
        absent = detail["type"] == "missing" and number == len(loc) - 1
        if isinstance(part, int) and isinstance(data, list) and part < len(data):
            place, data = f"{place}[{part}]", data[part]
        elif isinstance(part, str) and isinstance(data, dict) and (part in data or absent):
            place, data = f"{place}.{part}" if place else part, data.get(part)
    return place


def _message(detail: ErrorDetails, data: Any, model: type[BaseModel]) -> str:
    kind, last = detail["type"], str(detail["loc"][-1]) if detail["loc"] else ""
    sections = _sections(model)
    if kind in ("extra_forbidden", "unexpected_keyword_argument"):
        close = difflib.get_close_matches(last, _known_fields(model), n=1)
        if close == [last]:
            return f"{_UNKNOWN} of {detail['loc'][-2]}; remove it, or is the method another one?"
        return _UNKNOWN + (f"; did you mean {close[0]!r}?" if close else "")
    if kind == "missing":
        return "is missing; add it"
    if kind == "union_tag_invalid":
        tag = str(detail["ctx"]["tag"])
        close = difflib.get_close_matches(tag, sections, n=1)
        hint = f"did you mean {close[0]!r}?" if close else f"use one of {', '.join(sections)}"
        return f"method {tag!r} is unknown; {hint}"
    if kind == "union_tag_not_found":
        return f"has no 'method' field; use one of {', '.join(sections)}"
    text = detail["msg"].removeprefix("Value error, ")
    text = text.replace("a valid array", "a list").replace("a valid dictionary", "a mapping")
    given = detail["input"]
    if kind == "value_error" or isinstance(given, dict | list):
        return text
    shown = "nothing" if given is None else given
    if isinstance(given, float) and not math.isfinite(given):
        shown = "no finite number"
    return f"{text[0].lower()}{text[1:]}, found {shown!r}"


def _sections(model: type[BaseModel]) -> Mapping[str, type[BaseModel]]:
    """Return the sections that the jobs of a kind list, by their method."""
    return IMAGES if model is InceptionismJob else SECTIONS


def _known_fields(model: type[BaseModel]) -> list[str]:
    """Every field name below a model: enough to guess what a misspelt one was meant to be."""
    names: list[str] = []
    waiting: list[Any] = [model, *_sections(model).values()]
    while waiting:
        current = waiting.pop()
        fields = getattr(current, "model_fields", None) or getattr(
            current, "__dataclass_fields__", {}
        )
        names.extend(fields)
        kinds = [
            getattr(field, "annotation", getattr(field, "type", None)) for field in fields.values()
        ]
        waiting.extend(kind for kind in kinds if isinstance(kind, type))
    return names
