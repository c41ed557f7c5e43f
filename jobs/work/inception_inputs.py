"""What an inceptionism job is about: its survey's colours and objects, and a network that fits."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow.compute as pc
import torch
from torch import nn

from attribution.inceptionism import Colours, survey_colours
from attribution.memory import bytes_per_row

from ..errors import RefusedError
from ..specs.inceptionism import ClassImageSpec, DeepDreamSpec
from ..specs.jobs import InceptionismJob
from ..survey import Catalogue, Cutout, Preprocess, Survey, open_reader, open_survey
from .inceptionism import InceptionismWorkload
from .network import network_identity, open_network

_TRIED = 1000
"""How many leading objects may be unreadable."""
Shape = tuple[int, int, int]


@dataclass(frozen=True)
class InceptionismInputs:
    """What a plan needs to know beforehand."""

    workload: InceptionismWorkload
    digests: dict[str, str]
    """Identity of the network, and of the survey if there is one."""
    row_bytes: int
    """Memory for each row of a pass."""


def inspect_inceptionism(job: InceptionismJob, device: str) -> InceptionismInputs:
    """Look at the survey and the network, and check that every section makes sense.

    Raises
    ------
    RefusedError
        With the reason and the cure.
    """
    if job.survey is None:
        workload = InceptionismWorkload(job, *_without_survey(job), None, None, device)
        digests = {}
    else:
        survey = open_survey(job.survey, len(job.network.preprocess.mean) or None)
        workload = _with_survey(job, survey, device)
        digests = {"survey": survey.digest()}
    network = open_network(job.network, workload.image_shape[0], job.execution.precision)
    shapes = [workload.image_shape]
    for number, section in enumerate(job.images):
        try:
            if isinstance(section, ClassImageSpec):
                shapes.append(section.shape(workload.image_shape))
                _check_size(network, shapes[-1], len(job.network.classes))
            elif isinstance(section, DeepDreamSpec):
                section.settings(job.network.classes).check(network, workload.image_shape)
        except ValueError as error:
            raise RefusedError(f"images[{number}] ({section.method}): {error}") from error
    row_bytes = max(bytes_per_row(network, shape, gradients=True) for shape in shapes)
    identity = network_identity(job.network, network)
    return InceptionismInputs(workload, {"network": identity, **digests}, row_bytes)


def _without_survey(job: InceptionismJob) -> tuple[Shape, Colours]:
    preprocess = job.network.preprocess
    bands = max(len(preprocess.mean), len(preprocess.std))
    if preprocess.size == "native" or not bands:
        raise RefusedError(
            "network.preprocess: without a survey, size and mean alone tell the shape of the "
            "network's input; give a number for size and one mean per band, or add survey"
        )
    shape = Preprocess(preprocess, bands).output_shape((0, 0))
    return (bands, *shape), Colours.unknown(bands)


def _with_survey(job: InceptionismJob, survey: Survey, device: str) -> InceptionismWorkload:
    bands, *cutout = survey.image_shape
    preprocess = Preprocess(job.network.preprocess, bands)
    native = job.network.preprocess.size == "native"
    expected = (cutout[0], cutout[1]) if native else None
    reader = open_reader(survey.spec, bands, expected)
    images = []
    for row in range(min(len(survey.catalogue), _TRIED + job.survey_sample)):
        (answer,) = reader.read(survey.catalogue.slice(row, row + 1))
        if isinstance(answer, Cutout):
            images.append(preprocess.apply(answer.pixels))
        if len(images) == job.survey_sample:
            break
    try:
        colours = survey_colours(np.stack(images))
    except ValueError as error:
        raise RefusedError(f"survey: {error}; check network.preprocess") from error
    starts = _starts(job, survey.catalogue)
    return InceptionismWorkload(job, images[0].shape, colours, expected, starts, device)


def _starts(job: InceptionismJob, catalogue: Catalogue) -> Catalogue:
    """Find the objects that dreams begin with."""
    ids = catalogue.table["id"]
    rows: dict[str, int] = {}
    for number, section in enumerate(job.images):
        if not isinstance(section, DeepDreamSpec) or section.starts == "noise":
            continue
        for start in section.starts:
            rows[start] = pc.index(ids, start).as_py()
            if rows[start] < 0:
                raise RefusedError(
                    f"images[{number}].starts: {catalogue.source} has no object {start!r}; "
                    f"name some as {ids[0].as_py()!r}, or noise"
                )
    return catalogue.take(list(rows.values()))


def _check_size(network: nn.Module, shape: Shape, classes: int) -> None:
    """Refuse a size that the network does not take, or other outputs than the classes."""
    first = next(network.parameters(), torch.zeros(()))
    try:
        with torch.inference_mode():
            logits = network(torch.zeros((1, *shape)).to(first))
    except Exception as error:  # a user's own network may raise anything
        raise ValueError(
            f"the network does not accept images of {shape[1]} x {shape[2]} px "
            f"({' '.join(str(error).split())}); set size to network"
        ) from error
    if not isinstance(logits, torch.Tensor) or tuple(logits.shape) != (1, classes):
        raise ValueError(
            f"the network does not give one logit for each of {classes} classes; make "
            "network.classes agree with it"
        )
