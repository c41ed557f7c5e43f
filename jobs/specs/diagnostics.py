"""Jobs that show what makes networks learn, or not: grids of networks, each a study."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import Field, JsonValue, model_validator

from .base import Spec
from .job import Name
from .training import FitsJob, Grid, TrainingJob, check_grid, combinations, fit_with

STUDY = "study"
"""The entry of a setting that names its study."""


class Trace(Spec):
    """A few steps of plain gradient descent on one batch, in place of a fit."""

    objects: Annotated[int, Field(ge=2)] = 64
    """Of the batch, the first of the training set."""
    steps: Annotated[int, Field(ge=0)] = 20
    """Steps of gradient descent."""
    learning_rate: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 0.01
    """Of each step."""
    records: tuple[Annotated[int, Field(ge=0)], ...] = (0, 1, 5, 20)
    """Steps before which each layer is recorded; that of the number of steps is after the last."""

    @model_validator(mode="after")
    def _records_grow(self) -> Trace:
        if list(self.records) != sorted(set(self.records)) or not self.records:
            raise ValueError("records: name at least one step, in growing order")
        if self.records[-1] > self.steps:
            raise ValueError(
                f"records: step {self.records[-1]} is after the last one, {self.steps}"
            )
        return self


class Study(Spec):
    """Networks that differ in what varies."""

    fix: dict[str, JsonValue] = Field(default={})
    """Values of fields, by dotted path, that all networks of the study have."""
    vary: Grid
    """Values of fields, by dotted path; there is a network for each combination."""
    trace: Trace | None = None
    """Record signals and gradients in each layer over a few steps, in place of a fit."""


class DiagnosticsJob(FitsJob):
    """Show what makes networks learn: how gradients fare, depth, shortcuts, regularisation."""

    kind: Literal["diagnostics"]
    architecture: str = "occulta:cnn"
    """Of all studies; occulta:cnn has every ingredient as an option."""
    studies: Annotated[dict[Name, Study], Field(min_length=1)]
    """Grids of networks, by name."""

    @property
    def settings(self) -> list[dict[str, JsonValue]]:
        """What each network sets, by dotted path, and its study."""
        return [
            {STUDY: name, **setting}
            for name, study in self.studies.items()
            for setting in combinations(study.vary)
        ]

    @property
    def traces(self) -> list[Trace | None]:
        """How networks are traced, in the order of `settings`; None for those that are fitted."""
        return [self.studies[str(setting[STUDY])].trace for setting in self.settings]

    def fits(self) -> Iterator[TrainingJob]:
        """Return the job of each network, in the order of `settings`.

        Raises
        ------
        ValueError
            If a field can't be varied, or not to a value.
        """
        data: dict[str, Any] = {**json.loads(self.model_dump_json()), "kind": "training"}
        del data["studies"]
        for setting in self.settings:
            name = str(setting.pop(STUDY))
            study = self.studies[name]
            yield fit_with(data, {**study.fix, **setting}, f"studies.{name}")

    @model_validator(mode="after")
    def _studies_make_sense(self) -> DiagnosticsJob:
        for name, study in self.studies.items():
            check_grid(study.vary, f"studies.{name}.vary")
            check_grid({path: (value,) for path, value in study.fix.items()}, f"studies.{name}.fix")
        for _ in self.fits():
            pass
        return self
