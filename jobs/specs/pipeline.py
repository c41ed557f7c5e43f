"""Jobs made of steps, such as simulate, train, explain: one file, one folder."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, JsonValue

from ..errors import RefusedError
from ..work.fit_files import FITS, WEIGHTS, fit_path
from .job import JobSpec, Name
from .training import TrainingJob

STEP = "step:"
"""Begins a path that is in the run folder of an earlier step."""
ABOUT = "about"
"""A step's field that is no field of its job: what happens, for people."""
_PATH = re.compile(r"step:(?P<name>[^/]*)(?P<rest>(/.*)?)")
_TOLD = ("architecture", "options", "classes", "preprocess")
"""What a network section takes over from the job that trains the network."""

MakeJob = Callable[[dict[str, Any], str], JobSpec]
"""Validates the data of a job; the second argument says where they are from."""


class PipelineJob(JobSpec):
    """Jobs that follow each other; each may use what earlier ones leave."""

    kind: Literal["pipeline"]
    steps: Annotated[dict[Name, dict[str, JsonValue]], Field(min_length=1)]
    """By name, in the order in which they run: the fields of a job each, but for name and output,
    and `about`, a line for people. A path that begins with ``step:NAME`` is in the run folder of
    an earlier step; network and start may be such a step as a whole."""
    compare: tuple[tuple[Name, Name], ...] = ()
    """Pairs of attribution steps on the same objects, before and after, that are compared."""
    maps: bool = True
    """Whether attribution steps are aggregated into maps."""
    report: bool = True
    """Whether a report of all steps is written."""

    # Each step compares its own fields; steps that were not begun may change.
    free: ClassVar[tuple[str, ...]] = (*JobSpec.free, "steps", "compare", "maps", "report")

    @property
    def about(self) -> Mapping[str, str]:
        """What each step does, for people; its kind where nothing is said."""
        return {name: str(step.get(ABOUT, step["kind"])) for name, step in self.steps.items()}


def resolve_steps(job: PipelineJob, where: str, make: MakeJob) -> PipelineJob:
    """Validate all steps; what they take from each other is written out, as is every default.

    Raises
    ------
    RefusedError
        If a step is wrong, or uses what is no earlier step.
    """
    made: dict[str, JobSpec] = {}
    steps: dict[str, dict[str, JsonValue]] = {}
    for name, fields in job.steps.items():
        place = f"{where}: steps.{name}"
        if fields.get("kind") == "pipeline":
            raise RefusedError(f"{place}: kind: a pipeline can't be a step; list its steps")
        data = {"name": name, **_resolved(fields, made, place)}
        about = data.pop(ABOUT, None)
        output = f"{job.output.rstrip('/')}/{name}"
        if data.setdefault("output", output) != output:
            raise RefusedError(f"{place}: output: is always {output}; leave it out")
        made[name] = make(data, place)
        told = {} if about is None else {ABOUT: about}
        steps[name] = {**told, **json.loads(made[name].model_dump_json())}
    for pair in job.compare:
        for name in pair:
            if name not in made or made[name].kind != "attribution":
                raise RefusedError(f"{where}: compare: {name} is no attribution step")
    return job.model_copy(update={"steps": steps})


def needs(job: PipelineJob, name: str) -> list[str]:
    """Name the earlier steps whose folders a step reads."""
    text, folder = json.dumps(job.steps[name]), job.output.rstrip("/")
    return [
        other
        for other in job.steps
        if other != name and re.search(f'"{re.escape(folder)}/{re.escape(other)}["/]', text)
    ]


def _resolved(fields: dict[str, Any], made: Mapping[str, JobSpec], place: str) -> dict[str, Any]:
    """Return a step's fields without references."""

    def follow(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: follow(entry) for key, entry in value.items()}
        if isinstance(value, list):
            return [follow(entry) for entry in value]
        if isinstance(value, str) and value.startswith(STEP):
            step, rest = _step(value, made, place)
            return step.output + rest
        return value

    return {
        key: _network(value, made, f"{place}: {key}")
        if key in ("network", "start") and isinstance(value, str) and value.startswith(STEP)
        else follow(value)
        for key, value in fields.items()
    }


def _step(path: str, made: Mapping[str, JobSpec], place: str) -> tuple[JobSpec, str]:
    """Return the step that a path is in, and the rest of the path."""
    found = _PATH.fullmatch(path)
    assert found is not None
    if found["name"] not in made:
        earlier = ", ".join(made) or "none"
        raise RefusedError(f"{place}: {path} is no earlier step; earlier ones are: {earlier}")
    return made[found["name"]], found["rest"]


def _network(path: str, made: Mapping[str, JobSpec], place: str) -> dict[str, Any]:
    """Return the section of a network that an earlier step will have trained."""
    step, rest = _step(path, made, place)
    if not isinstance(step, TrainingJob):
        raise RefusedError(f"{place}: {path} trains no network; it is a {step.kind} job")
    fits = list(step.fits())
    by_path = {fit_path(number, len(fits)).rstrip("/"): fit for number, fit in enumerate(fits)}
    inner = rest.strip("/")
    if inner not in by_path:
        name = path.partition("/")[0]
        known = f"{name}/{FITS}/0000" if len(fits) > 1 else name
        raise RefusedError(f"{place}: {path} is no network of that step; {known} is one")
    told = json.loads(by_path[inner].model_dump_json())
    folder = "/".join(part for part in (step.output, inner) if part)
    return {**{name: told[name] for name in _TOLD}, "weights": f"{folder}/{WEIGHTS}"}
