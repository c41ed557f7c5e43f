"""Jobs that train networks: one, or a grid of them."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, JsonValue, ValidationError, model_validator

from training.fit_settings import FitSettings
from training.transfer import Transfer

from .base import Spec
from .execution import PLACES, Replicas
from .job import JobSpec, Name
from .network import NetworkSpec
from .split import SplitSpec
from .survey import PreprocessSpec, SurveySpec

_VARIED = ("architecture", "options", "preprocess", "fit", "split", "transfer", "training_objects")
"""Fields that fits of one job may differ in."""
_MOST_FITS = 10_000

Grid = dict[str, Annotated[tuple[JsonValue, ...], Field(min_length=1)]]
"""Values of fields, by dotted path."""


class TrainingExecution(Spec):
    """Where fits are made, and what their bits depend on."""

    replicas: Replicas = "auto"
    """Fits that are made at the same time; auto is as many as there is room for. Never changes
    results."""
    cpus_per_replica: Annotated[float, Field(gt=0)] = 1
    """CPU cores that are reserved for each; at least as many as threads."""
    gpus_per_replica: Literal["auto"] | Annotated[float, Field(ge=0)] = "auto"
    """GPUs for each, also a fraction; auto is one where there are GPUs. Whether it is zero is part
    of the results' identity."""
    node_labels: dict[str, str] = Field(default={})
    """Labels, with their values, of the cluster's nodes that fits may be made on."""
    unit_timeout: Literal["auto"] | Annotated[float, Field(gt=0)] = "auto"
    """Seconds after which a fit counts as hung and begins again from its checkpoint; auto is
    never."""
    threads: Annotated[int, Field(ge=1, le=1024)] = 1
    """Threads of each process of a fit on the CPU. Results depend on it in the last bit."""
    processes: Annotated[int, Field(ge=1, le=1024)] = 1
    """Processes that share each batch of a fit, on any node, with cpus_per_replica and
    gpus_per_replica each. Results depend on it: batch norm sees each share by itself."""


class FitsJob(JobSpec):
    """What jobs that train networks have in common."""

    survey: SurveySpec
    """The labelled objects."""
    architecture: str = "occulta:small_cnn"
    """torchvision:NAME, timm:NAME, occulta:small_cnn or occulta:cnn, with random first weights."""
    options: dict[str, Any] = Field(default={})
    """Keyword arguments of the architecture."""
    classes: Annotated[tuple[str, ...], Field(min_length=1)]
    """Labels in the order of the network's outputs; objects with another label are left out. With
    target columns these are their names."""
    target_columns: tuple[str, ...] = ()
    """Columns of the catalogue that the outputs shall predict, in place of a label: votes for each
    answer, for a loss of votes, or numbers, for mean_squared_error. Objects without are left out.
    """
    only: tuple[str, ...] = ()
    """CSV files with a column id, as `occulta select` writes them: of the survey's objects, only
    those in one of them are used. By default all that have labels."""
    also_train: tuple[str, ...] = ()
    """CSV files likewise, of objects that are for training alone. Those that were chosen for being
    uncertain belong here: a test set of them would judge another survey."""
    preprocess: PreprocessSpec = PreprocessSpec()
    """From survey pixels to network input."""
    split: SplitSpec = SplitSpec()
    """Which objects the network learns from, stops by, and is judged by."""
    training_objects: Annotated[int, Field(ge=1)] | None = None
    """How many of the training objects to learn from; fewer are always among more. By default
    all."""
    also_test: dict[Name, SurveySpec] = Field(default={})
    """Further surveys, by name, whose objects with labels of the classes judge the network, too:
    has it forgotten them?"""
    fit: FitSettings = FitSettings()
    """The optimiser, the views of the images, and when to stop."""
    execution: TrainingExecution = TrainingExecution()
    """Where fits are made."""

    free: ClassVar[tuple[str, ...]] = (*JobSpec.free, *PLACES)

    @property
    def are_votes(self) -> bool:
        """Whether targets are votes."""
        return "multinomial" in self.fit.loss

    @model_validator(mode="after")
    def _the_targets_fit(self) -> Self:
        if self.fit.loss == "cross_entropy":
            if self.target_columns:
                raise ValueError(
                    "target_columns: fit.loss is cross_entropy, which learns labels; name "
                    "multinomial or dirichlet_multinomial for votes, mean_squared_error for numbers"
                )
            if len(self.classes) < 2:
                raise ValueError("classes: name 2 or more; a network of one class learns nothing")
        elif not self.target_columns:
            raise ValueError(f"target_columns: fit.loss is {self.fit.loss}; name what it predicts")
        elif self.classes != self.target_columns:
            raise ValueError("classes: leave them out; outputs are called as their target_columns")
        return self

    @property
    def settings(self) -> list[dict[str, JsonValue]]:
        """What each fit sets, by dotted path."""
        raise NotImplementedError

    def fits(self) -> Iterator[TrainingJob]:
        """Return the job of each fit, in the order of `settings`.

        Raises
        ------
        ValueError
            If a field can't be varied, or not to a value.
        """
        raise NotImplementedError


class PretrainedSpec(Spec):
    """Weights to begin with, but for the last layer."""

    weights: str
    """Path of the weights of the same architecture: .safetensors, or .pt, .pth, .ckpt that hold
    tensors only; with a last layer for other classes, or without one."""
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")] | None = None
    """Hash that the file must have; leave it out to accept the file as it is."""


class TrainingJob(FitsJob):
    """Train a network on a labelled survey, or many that differ in what `vary` names."""

    kind: Literal["training"]
    start: NetworkSpec | None = None
    """A trained network to begin with, which then also says architecture, options and preprocess;
    for other classes it gets a new last layer."""
    pretrained: PretrainedSpec | None = None
    """In place of start: weights from elsewhere, such as Zoobot's encoders or those of ImageNet."""
    transfer: Transfer = Transfer()
    """With a network or weights to begin with: what of it is trained again."""

    @property
    def begins_trained(self) -> bool:
        """Whether fits begin with weights that know something."""
        return self.start is not None or self.pretrained is not None

    vary: Grid = Field(default={})
    """Values of fields, by dotted path such as fit.seed or options.dropout; there is a fit for each
    of their combinations, the last field changing fastest."""

    @property
    def settings(self) -> list[dict[str, JsonValue]]:
        """What each fit sets, by dotted path; one fit that sets nothing, if nothing varies."""
        return combinations(self.vary)

    def fits(self) -> Iterator[TrainingJob]:
        """Return the job of each fit, in the order of `settings`.

        Raises
        ------
        ValueError
            If a field can't be varied, or not to a value.
        """
        data = json.loads(self.model_dump_json())
        for setting in self.settings:
            yield fit_with(data, setting)

    @model_validator(mode="after")
    def _the_start_fits(self) -> TrainingJob:
        if not self.begins_trained and self.transfer != Transfer():
            raise ValueError("transfer: needs a network to begin with; name it in start")
        if self.start is not None and self.pretrained is not None:
            raise ValueError("pretrained: start has weights already; leave one of them out")
        if self.start is not None and self.start.architecture != self.architecture:
            raise ValueError(
                f"architecture: {self.architecture} is not that of start, "
                f"{self.start.architecture}; leave it out"
            )
        return self

    @model_validator(mode="after")
    def _fits_make_sense(self) -> TrainingJob:
        check_grid(self.vary)
        if self.vary:
            for _ in self.fits():
                pass
        return self


def combinations(vary: Grid) -> list[dict[str, JsonValue]]:
    """Return all combinations of values, the last field changing fastest."""
    return [dict(zip(vary, values, strict=True)) for values in itertools.product(*vary.values())]


def check_grid(vary: Grid, where: str = "vary") -> None:
    """Refuse a grid of fits that is too large, or of fields that can't vary.

    Raises
    ------
    ValueError
        With the field.
    """
    count = math.prod(len(values) for values in vary.values())
    if count > _MOST_FITS:
        raise ValueError(f"{where}: makes {count:,} fits; a job has {_MOST_FITS:,} at most")
    for path, values in vary.items():
        if path.partition(".")[0] not in _VARIED:
            raise ValueError(f"{where}: {path} can't vary; {', '.join(_VARIED)} can")
        for number, value in enumerate(values):
            if value in values[:number]:
                raise ValueError(f"{where}: {path} names {value!r} twice")


def fit_with(
    data: Mapping[str, Any], setting: Mapping[str, JsonValue], where: str = "vary"
) -> TrainingJob:
    """Return a job of one fit.

    Raises
    ------
    ValueError
        If there is no such field, or it can't have such a value.
    """
    changed = json.loads(json.dumps({**data, "vary": {}}))
    for path, value in setting.items():
        *parents, last = path.split(".")
        inner = changed
        for key in parents:
            inner = inner.get(key) if isinstance(inner, dict) else None
        known = isinstance(inner, dict) and (last in inner or parents[:1] == ["options"])
        if not known:
            raise ValueError(f"{where}: {path} is no field of the job")
        inner[last] = value
    try:
        return TrainingJob.model_validate_json(json.dumps(changed), strict=True)
    except ValidationError as error:
        text = error.errors()[0]["msg"].removeprefix("Value error, ")
        shown = ", ".join(f"{path}: {value}" for path, value in setting.items())
        raise ValueError(f"{where}: {shown}: {text}") from error
