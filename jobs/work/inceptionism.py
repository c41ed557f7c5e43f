"""The work of an inceptionism job: images that a network draws, each a row of the store."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import torch

from attribution.arrays import ArraySpec
from attribution.batch import Passes, reproducible
from attribution.explain import TORCH_DTYPES
from attribution.inceptionism import Colours
from attribution.partials import Array
from attribution.randomness import key
from cluster.unit import ObjectFailure, UnitKey, WorkUnit
from cluster.workload import UnitResult

from ..specs.inceptionism import ClassImageSpec, DeepDreamSpec, Drawing
from ..specs.jobs import InceptionismJob
from ..survey import Catalogue, Cutout, Preprocess, ReadFailure, open_reader
from .inception_arrays import (
    catalogue_arrays,
    catalogue_columns,
    class_image_arrays,
    deep_dream_arrays,
    survey_units,
)
from .network import open_network


@dataclass(frozen=True)
class InceptionismWorkload:
    """A resolved inceptionism job, and what its survey is like."""

    job: InceptionismJob
    image_shape: tuple[int, int, int]
    """Channels, height and width of the network's input."""
    colours: Colours
    """Of the survey, or unknown."""
    cutout_shape: tuple[int, int] | None
    """Height and width that every cutout must have; None for any."""
    starts: Catalogue | None
    """The objects that dreams begin with."""
    device: str
    """``cpu`` or ``cuda``."""

    @cached_property
    def drawings(self) -> tuple[Drawing, ...]:
        """The images, in the order of their rows."""
        return tuple(
            drawing
            for number, section in enumerate(self.job.images)
            for drawing in section.drawings(number, self.job.network.classes)
        )

    @cached_property
    def template(self) -> Mapping[str, ArraySpec]:
        """What each image is, and the arrays of each section; rows of others hold NaN there."""
        arrays = catalogue_arrays()
        classes = self.job.network.classes
        for section in self.job.images:
            if isinstance(section, ClassImageSpec):
                shape = section.shape(self.image_shape)
                specs = class_image_arrays(section.settings(classes), shape, self.colours)
            else:
                assert isinstance(section, DeepDreamSpec)
                specs = deep_dream_arrays(section.settings(classes), self.image_shape, self.colours)
            arrays |= {f"{section.group}/{spec.name}": spec for spec in specs}
        return arrays

    @cached_property
    def passes(self) -> tuple[float, float]:
        """Rows that go forward and backward through the network, the mean over the images."""
        settings = [section.settings(self.job.network.classes) for section in self.job.images]
        each = [settings[drawing.section].passes for drawing in self.drawings]
        forward, backward = np.mean(each, axis=0)
        return float(forward), float(backward)

    @property
    def separable(self) -> bool:
        """Images of a micro-batch are drawn together, so none can be left out."""
        return False

    def open(self) -> OpenInceptionism:
        """Load the network."""
        return OpenInceptionism(self)


class OpenInceptionism:
    """An inceptionism job in a replica."""

    def __init__(self, workload: InceptionismWorkload) -> None:
        job = workload.job
        self._workload = workload
        self._job = job
        precision = job.execution.precision
        self._dtype = TORCH_DTYPES[precision]
        self._network = open_network(
            job.network, workload.image_shape[0], precision, workload.device
        )

    def compute(self, unit: WorkUnit) -> UnitResult:
        """Draw the images of a unit."""
        key = unit.key
        drawings = self._workload.drawings[key.start : key.stop]
        images = _Unit(key, drawings, self._read(drawings), _blank(self._workload, drawings))
        step = self._job.execution.micro_batch
        with reproducible():
            # What is drawn together follows from the job alone: a unit is whole micro-batches.
            for first in range(0, len(drawings), step):
                rows = range(first, min(first + step, len(drawings)))
                for number in dict.fromkeys(drawings[row].section for row in rows):
                    self._draw(images, number, [r for r in rows if drawings[r].section == number])
        return images.result()

    def partial(self, unit: WorkUnit, share: int) -> UnitResult | None:
        """Draw everything in the first share: an image has no parts."""
        return self.compute(unit) if share == 0 else None

    def probe(self, unit: WorkUnit, rows: range) -> None:
        """Draw nothing: a unit can't be computed without some of its images."""
        raise NotImplementedError

    def finish(self, unit: WorkUnit, partials: Sequence[UnitResult | None]) -> UnitResult:
        """Return the first share."""
        assert partials[0] is not None
        return partials[0]

    def _draw(self, unit: _Unit, number: int, rows: list[int]) -> None:
        """Draw images of one section together."""
        section = self._job.images[number]
        drawings = [unit.drawings[row] for row in rows]
        if isinstance(section, ClassImageSpec):
            drawn = self._class_images(section, drawings, unit.passes)
        else:
            assert isinstance(section, DeepDreamSpec)
            starts = np.stack([self._start(section, drawing, unit) for drawing in drawings])
            drawn = self._dreams(section, drawings, starts, unit.passes)
        drawn["survey_image"] = survey_units(drawn["image"], self._job.network.preprocess)
        for name, values in drawn.items():
            unit.arrays[f"{section.group}/{name}"][rows] = values
        for position, row in enumerate(rows):
            # Values of a survey that overflow are the stretch's doing, not the network's.
            results = [values[position] for name, values in drawn.items() if name != "survey_image"]
            unit.judge(row, section.group, all(np.isfinite(value).all() for value in results))

    def _class_images(
        self, section: ClassImageSpec, drawings: Sequence[Drawing], passes: Passes
    ) -> dict[str, Array]:
        classes = self._job.network.classes
        drawn = section.settings(classes).draw(
            self._network,
            [classes.index(drawing.class_name) for drawing in drawings],
            [self._key("class_image", d.class_name, d.repetition) for d in drawings],
            section.shape(self._workload.image_shape),
            self._workload.colours,
            dtype=self._dtype,
            device=self._workload.device,
            passes=passes,
        )
        return dict(vars(drawn))

    def _dreams(
        self,
        section: DeepDreamSpec,
        drawings: Sequence[Drawing],
        starts: Array,
        passes: Passes,
    ) -> dict[str, Array]:
        dreams = section.settings(self._job.network.classes).dream(
            self._network,
            torch.from_numpy(starts).to(self._workload.device, self._dtype),
            [self._key("deep_dream", d.start, d.repetition) for d in drawings],
            self._workload.colours,
            passes=passes,
        )
        return {"start": starts, **vars(dreams)}

    def _start(self, section: DeepDreamSpec, drawing: Drawing, unit: _Unit) -> Array:
        """Return the image that a dream begins with; black where it can't be read."""
        job, shape = self._job, self._workload.image_shape
        if section.starts == "noise":
            key = self._key("noise", drawing.start, drawing.repetition)
            settings = section.settings(job.network.classes)
            return settings.noise([key], shape, self._workload.colours)[0].numpy()
        answer = unit.answers[drawing.start]
        if isinstance(answer, ReadFailure):
            return np.zeros(shape)
        return Preprocess(job.network.preprocess, shape[0]).apply(answer.pixels)

    def _read(self, drawings: Sequence[Drawing]) -> dict[str, Cutout | ReadFailure]:
        """Read the objects that dreams begin with, each once."""
        starts, survey = self._workload.starts, self._job.survey
        if starts is None or survey is None:
            return {}
        wanted = {drawing.start for drawing in drawings}
        rows = starts.take([row for row, id_ in enumerate(starts.ids) if id_ in wanted])
        reader = open_reader(survey, self._workload.image_shape[0], self._workload.cutout_shape)
        return dict(zip(rows.ids, reader.read(rows), strict=True))

    def _key(self, purpose: str, name: str, repetition: int) -> int:
        return key(self._job.execution.seed, purpose, name, repetition)


@dataclass
class _Unit:
    """The images of a unit while they are drawn."""

    key: UnitKey
    drawings: Sequence[Drawing]
    answers: Mapping[str, Cutout | ReadFailure]
    """What the survey's reader said of the objects that dreams begin with."""
    arrays: dict[str, Array]
    failures: list[ObjectFailure] = field(default_factory=list)
    passes: Passes = field(default_factory=Passes)

    def judge(self, row: int, group: str, finite: bool) -> None:
        """Blank an image that has no start, or is not finite, and say why."""
        id_ = str(self.arrays["catalogue/id"][row])
        answer = self.answers.get(self.drawings[row].start)
        if isinstance(answer, ReadFailure):
            self.failures.append(answer.of(self.key.start + row, id_))
        elif not finite:
            reason = (
                f"the network's output for {id_!r} is NaN or infinite; check the weights and "
                "network.preprocess, or lower rate or step"
            )
            failure = ObjectFailure(self.key.start + row, id_, "non_finite_output", reason)
            self.failures.append(failure)
        else:
            return
        for path, array in self.arrays.items():
            if path.startswith(f"{group}/"):
                array[row] = np.nan

    def result(self) -> UnitResult:
        """Return what the unit leaves behind."""
        hashes = [
            answer.sha256 if isinstance(answer, Cutout) else answer.code
            for _, answer in sorted(self.answers.items())
        ]
        return UnitResult(
            self.arrays,
            tuple(sorted(self.failures, key=lambda failure: failure.index)),
            hashlib.sha256("\n".join(hashes).encode()).hexdigest(),
            self.passes.forward,
            self.passes.backward,
        )


def _blank(workload: InceptionismWorkload, drawings: Sequence[Drawing]) -> dict[str, Array]:
    """Name the images of a unit; all else is NaN until it is drawn."""
    arrays = catalogue_columns(drawings, [section.group for section in workload.job.images])
    for path, spec in workload.template.items():
        if path not in arrays:
            arrays[path] = np.full((len(drawings), *spec.shape), np.nan)
    return arrays
