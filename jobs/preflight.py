"""What a network must be like for a job to make sense, checked before any work."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa
import torch
from torch import nn

from attribution.layers import Shape, layer_shapes
from attribution.memory import bytes_per_row
from cluster.place import open_place

from .errors import RefusedError
from .specs.jobs import AttributionJob
from .survey import Catalogue, open_survey
from .work.attribution import AttributionWorkload
from .work.network import network_identity, open_network


@dataclass(frozen=True)
class NetworkFacts:
    """What a plan needs to know of a network."""

    sha256: str
    """Digest of its architecture and weights."""
    layers: Mapping[str, Shape]
    """Shapes of the outputs of the layers that methods name."""
    row_bytes: int
    """Memory for each row of a pass."""


def inspect_network(workload: AttributionWorkload) -> NetworkFacts:
    """Load the network as a replica will, and check that every method makes sense on it.

    Raises
    ------
    RefusedError
        With the reason and the cure.
    """
    job = workload.job
    network = open_network(job.network, workload.image_shape[0], job.execution.precision)
    _check_network(network, workload)
    layers: dict[str, Shape] = {}
    for number, request in enumerate(workload.requests[1:]):
        method = request.method
        try:
            layers |= layer_shapes(network, workload.image_shape, method.needs.layers)
            method.check(network, replace(workload, layers=layers).layout(request))
        except ValueError as error:
            raise RefusedError(f"methods[{number}] ({method.name}): {error}") from error
    _, backward = replace(workload, layers=layers).passes
    row_bytes = bytes_per_row(network, workload.image_shape, gradients=backward > 0)
    return NetworkFacts(network_identity(job.network, network), layers, row_bytes)


def open_job_network(job: AttributionJob) -> tuple[nn.Module, tuple[int, int, int]]:
    """Open a job's network, and tell the shape of its input.

    Raises
    ------
    RefusedError
        If the survey or the network can't be opened, or they don't fit each other.
    """
    survey = open_survey(job.survey, len(job.network.preprocess.mean) or None)
    workload = AttributionWorkload(job, open_place(job.output), survey.image_shape, "cpu")
    network = open_network(job.network, workload.image_shape[0], job.execution.precision)
    _check_network(network, workload)
    return network, workload.image_shape


def check_targets(workload: AttributionWorkload, catalogue: Catalogue) -> None:
    """Refuse to explain labels where no object has one that is a class.

    Raises
    ------
    RefusedError
        With the labels that there are.
    """
    classes = set(workload.job.network.classes)
    for number, section in enumerate(workload.job.methods):
        if "label" not in section.request().targets:
            continue
        labels = set(catalogue.table["label"].unique().to_pylist()) - {""}
        if not labels:
            raise RefusedError(
                f"methods[{number}].targets: label is asked for, the catalogue has none; name its "
                "column in survey.columns.label, or leave label out"
            )
        if not labels & classes:
            shown = ", ".join(sorted(labels)[:5])
            raise RefusedError(
                f"methods[{number}].targets: no label of the catalogue ({shown}) is one of "
                "network.classes; make them agree"
            )


def check_group_by(job: AttributionJob, catalogue: Catalogue) -> None:
    """Refuse maps by a column that the catalogue does not have.

    Raises
    ------
    RefusedError
        With the text columns that there are.
    """
    columns = [
        field.name
        for field in catalogue.table.schema
        if pa.types.is_string(field.type) and field.name not in ("id", "path")
    ]
    if job.maps.group_by not in ("predicted", *columns):
        raise RefusedError(
            f"maps.group_by: the catalogue has no text column {job.maps.group_by!r}; "
            f"use predicted or one of {', '.join(columns)}"
        )


def _check_network(network: nn.Module, workload: AttributionWorkload) -> None:
    """Refuse a network that does not take the image shape, give the classes or mean its answer."""
    dtype = next(network.parameters(), torch.zeros(())).dtype
    shape = workload.image_shape
    black = torch.zeros((1, *shape), dtype=dtype)
    # What a network draws itself must not move global state.
    with torch.random.fork_rng(devices=[]):
        logits = _answer(network, black)
    if not isinstance(logits, torch.Tensor):
        raise RefusedError(
            f"network: it returned a {type(logits).__name__}, expected one tensor of logits; "
            "wrap it in a module that returns the logits alone"
        )
    classes = len(workload.job.network.classes)
    if tuple(logits.shape) != (1, classes):
        raise RefusedError(
            f"network: its output has shape {tuple(logits.shape)} for one image, expected "
            f"(1, {classes}); make network.classes agree with the network"
        )
    noise = torch.randn(black.shape, generator=torch.Generator().manual_seed(0), dtype=dtype)
    with torch.random.fork_rng(devices=[]):
        first, second = (_answer(network, noise) for _ in range(2))
    if not any(found.isfinite().all() for found in (logits, first, second)):
        raise RefusedError(
            "network: its logits are not finite, neither for a black image nor for noise; look for "
            "a division by zero or a negative running_var in its batch norms, or take an earlier "
            "checkpoint"
        )
    if not torch.allclose(first, second, rtol=1e-3, atol=1e-5, equal_nan=True):
        change = float((first - second).abs().max())
        raise RefusedError(
            f"network: it answers the same image differently each time, by {change:.2g}, so no "
            "result could be repeated; dropout that stays on when predicting must be an "
            "nn.Dropout, which mc_dropout samples"
        )


def _answer(network: nn.Module, images_NCHW: torch.Tensor) -> Any:
    try:
        with torch.inference_mode():
            return network(images_NCHW)
    except Exception as error:  # a user's own network may raise anything
        reason = " ".join(str(error).split())
        raise RefusedError(
            f"network: it does not accept images of shape {tuple(images_NCHW.shape[1:])}: "
            f"{type(error).__name__}: {reason}; "
            "set network.preprocess.size to the size it was trained at"
        ) from error
