"""The kinds of jobs."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from attribution.explain import Request
from training.fit_settings import FitSettings
from training.shortcut import Shortcut
from training.surveys import SURVEYS

from .base import Spec
from .execution import ExecutionSpec, Replicas
from .inceptionism import AnyImagesSpec, InceptionismExecution, check_sections
from .maps import MapsSpec
from .methods import AnyMethodSpec
from .network import NetworkSpec
from .survey import PreprocessSpec, SurveySpec

_PLACES = (
    "execution.replicas",
    "execution.cpus_per_replica",
    "execution.gpus_per_replica",
    "execution.node_labels",
    "execution.unit_timeout",
)
"""Fields that say where and how long, not what."""

Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,62}$")]


class JobSpec(Spec):
    """What every job file has."""

    kind: str
    name: Name
    """Name of the job: lower-case letters, digits, dot, dash and underscore."""
    output: str
    """The run folder."""

    free: ClassVar[tuple[str, ...]] = ("name", "output")
    """Fields, by dotted path, that may change between a run and its resume."""

    def identity(self) -> dict[str, Any]:
        """Return the fields that results depend on, by dotted path."""
        flat = _flatten(json.loads(self.model_dump_json()))
        return {
            path: value
            for path, value in flat.items()
            if not any(path == free or path.startswith(f"{free}.") for free in self.free)
        }

    def digest(self) -> str:
        """Return the sha256 of `identity`."""
        return hashlib.sha256(json.dumps(self.identity(), sort_keys=True).encode()).hexdigest()


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
        *_PLACES,
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
    objects: Annotated[int, Field(ge=1)]
    """Number of galaxies."""
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    """Seed; with the same seed, an object is the same whatever their number."""
    shard_objects: Annotated[int, Field(ge=1)] = 256
    """Objects per unit of work."""
    shortcut: Shortcut | None = None
    """A stamp that is planted beside galaxies of one class: does an attribution method find it?"""
    replicas: Replicas = "auto"
    """Processes that simulate, one CPU core each."""

    free: ClassVar[tuple[str, ...]] = (*JobSpec.free, "replicas")

    @model_validator(mode="after")
    def _the_shortcut_fits(self) -> SimulationJob:
        if self.shortcut is not None:
            try:
                self.shortcut.check(SURVEYS[self.preset].size)
            except ValueError as error:
                raise ValueError(f"shortcut: {error}") from error
        return self


class TrainingJob(JobSpec):
    """Train a network on a labelled survey."""

    kind: Literal["training"]
    survey: SurveySpec
    """The labelled objects."""
    architecture: str = "occulta:small_cnn"
    """torchvision:NAME, timm:NAME or occulta:small_cnn, with random initial weights."""
    options: dict[str, Any] = Field(default={})
    """Keyword arguments of the architecture."""
    classes: Annotated[tuple[str, ...], Field(min_length=2)]
    """Labels in the order of the network's outputs; objects with another label are left out."""
    preprocess: PreprocessSpec = PreprocessSpec()
    """From survey pixels to network input."""
    validation: Annotated[float, Field(gt=0, lt=1)] = 0.15
    """Share of the objects, of every class, that decides when to stop."""
    test: Annotated[float, Field(ge=0, lt=1)] = 0.15
    """Share of the objects, of every class, that the network is judged by at the end."""
    fit: FitSettings = FitSettings()
    """The optimiser, the views of the images, and when to stop."""


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
        *_PLACES,
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
}


def _flatten(value: Any, path: str = "") -> dict[str, Any]:
    if isinstance(value, dict) and value:
        items = [(f"{path}.{key}" if path else key, entry) for key, entry in value.items()]
    elif isinstance(value, list) and value and isinstance(value[0], dict):
        items = [(f"{path}[{number}]", entry) for number, entry in enumerate(value)]
    else:
        return {path: value}
    return {name: leaf for key, entry in items for name, leaf in _flatten(entry, key).items()}
