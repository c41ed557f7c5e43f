"""The kinds of jobs."""

from __future__ import annotations

import difflib
from dataclasses import fields, replace
from functools import cached_property
from typing import Annotated, ClassVar, Literal

from pydantic import Field, JsonValue, TypeAdapter, ValidationError, model_validator

from attribution.explain import Request
from training.galsim_telescope import GalSimTelescope
from training.shortcut import Shortcut
from training.surveys import SURVEYS, SurveyModel

from .diagnostics import DiagnosticsJob
from .execution import PLACES, ExecutionSpec, Replicas
from .inceptionism import AnyImagesSpec, InceptionismExecution, check_sections
from .job import JobSpec
from .maps import MapsSpec
from .methods import AnyMethodSpec
from .network import NetworkSpec
from .pipeline import PipelineJob
from .survey import SurveySpec
from .training import TrainingJob

_SURVEY_MODEL = TypeAdapter(SurveyModel)


class AttributionJob(JobSpec):
    """Explain a network's answers over a survey."""

    kind: Literal["attribution"]
    survey: SurveySpec
    """The objects and their pixels."""
    network: NetworkSpec
    """The network that is explained."""
    methods: Annotated[tuple[AnyMethodSpec, ...], Field(min_length=1)]
    """What to compute; predictions always come with it."""
    execution: ExecutionSpec = ExecutionSpec()
    """Replicas, precision and seed."""
    maps: MapsSpec = MapsSpec()
    """What `occulta maps` makes of the results."""

    free: ClassVar[tuple[str, ...]] = (
        *JobSpec.free,
        "maps",
        *PLACES,
    )

    def requests(self) -> tuple[Request, ...]:
        """Return the methods, each with those that it names in their places.

        Raises
        ------
        ValueError
            If a method names one that is not there.
        """
        requests = [section.request() for section in self.methods]
        methods = {request.method.name: request.method for request in requests}
        return tuple(replace(request, method=request.method.bound(methods)) for request in requests)

    @model_validator(mode="after")
    def _methods_name_each_other(self) -> AttributionJob:
        self.requests()
        return self

    @model_validator(mode="after")
    def _methods_are_distinct(self) -> AttributionJob:
        names = [section.method for section in self.methods]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(
                    f"methods names {name} twice; a run holds each method once, "
                    "so put the second into a job of its own"
                )
        return self


class SimulationJob(JobSpec):
    """Simulate a survey of galaxies with known truth."""

    kind: Literal["simulation"]
    preset: Literal["A", "B"]
    """A: pixels and seeing like SDSS; B: finer, sharper and deeper, like DES."""
    model: dict[str, JsonValue] = Field(default={})
    """What differs from the preset: fields of a survey's model, such as seeing, noise, pixel_scale,
    class_mix, magnitudes, redshifts, radius, star_density, size, footprint; name begins the ids."""
    objects: Annotated[int, Field(ge=1)]
    """Number of galaxies."""
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    """Seed; with the same seed, an object is the same whatever their number."""
    shard_objects: Annotated[int, Field(ge=1)] = 256
    """Objects per unit of work."""
    shortcut: Shortcut | None = None
    """A stamp that is planted beside galaxies of one class: does an attribution method find it?"""
    galsim: GalSimTelescope | None = None
    """What GalSim makes the images with, for more realism at some ten times the time."""
    replicas: Replicas = "auto"
    """Processes that simulate, one CPU core each."""

    free: ClassVar[tuple[str, ...]] = (*JobSpec.free, "replicas")

    @cached_property
    def survey_model(self) -> SurveyModel:
        """The survey that is simulated.

        Raises
        ------
        ValueError
            If a field is unknown or makes no sense.
        """
        preset = SURVEYS[self.preset]
        return _SURVEY_MODEL.validate_python(
            {**{part.name: getattr(preset, part.name) for part in fields(preset)}, **self.model}
        )

    @model_validator(mode="after")
    def _the_model_makes_sense(self) -> SimulationJob:
        known = [part.name for part in fields(SurveyModel)]
        for name in self.model:
            if name not in known:
                close = difflib.get_close_matches(name, known, n=1)
                hint = f"did you mean {close[0]!r}?" if close else f"use some of {', '.join(known)}"
                raise ValueError(f"model.{name}: unknown field; {hint}")
        try:
            _ = self.survey_model
        except ValidationError as error:
            detail = error.errors()[0]
            place = ".".join(["model", *map(str, detail["loc"])])
            text = detail["msg"].removeprefix("Value error, ")
            raise ValueError(f"{place}: {text}") from error
        return self

    @model_validator(mode="after")
    def _the_shortcut_fits(self) -> SimulationJob:
        if self.shortcut is not None:
            try:
                self.shortcut.check(self.survey_model.size)
            except ValueError as error:
                raise ValueError(f"shortcut: {error}") from error
        return self


class InceptionismJob(JobSpec):
    """Draw what a network sees: images of its classes, and dreams."""

    kind: Literal["inceptionism"]
    survey: SurveySpec | None = None
    """Where colours, valid range and start objects come from; class images with parametrisation
    pixel and bounded false need none."""
    survey_sample: Annotated[int, Field(ge=1)] = 128
    """Objects, the first readable ones, that colours and valid range are estimated from."""
    network: NetworkSpec
    """The network that draws."""
    images: tuple[AnyImagesSpec, ...]
    """What to draw: sections with method class_image or deep_dream."""
    execution: InceptionismExecution = InceptionismExecution()
    """Replicas, precision and seed."""

    free: ClassVar[tuple[str, ...]] = (
        *JobSpec.free,
        *PLACES,
    )

    @model_validator(mode="after")
    def _sections_make_sense(self) -> InceptionismJob:
        check_sections(self.images, self.network.classes, has_survey=self.survey is not None)
        return self


KINDS: dict[str, type[JobSpec]] = {
    "attribution": AttributionJob,
    "simulation": SimulationJob,
    "training": TrainingJob,
    "inceptionism": InceptionismJob,
    "diagnostics": DiagnosticsJob,
    "pipeline": PipelineJob,
}
