"""The work of a diagnostics job: fits, and traces of what happens in each layer."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import nn

from attribution.arrays import ArraySpec
from cluster.workload import UnitResult
from training.gradient_flow import Flow, trace

from ..specs.diagnostics import DiagnosticsJob, Trace
from ..specs.training import TrainingJob
from .training import OpenTraining, TrainingWorkload, build_network, threads

_LAYERS = {
    "signal": "root mean square of the layer's output",
    "gradient": "root mean square of the gradient with respect to that output, per object",
    "weight_gradient": "norm of the gradient with respect to the layer's weights",
    "weight": "norm of the layer's weights",
    "dead": "share of channels that are positive nowhere",
}


@dataclass(frozen=True)
class DiagnosticsWorkload(TrainingWorkload):
    """A diagnostics job; an object of its run is a network."""

    job: DiagnosticsJob

    @property
    def epochs(self) -> list[int]:
        """The most epochs that each fit makes; a trace makes none."""
        traces = self.job.traces
        return [0 if how else n for n, how in zip(super().epochs, traces, strict=True)]

    @cached_property
    def template(self) -> Mapping[str, ArraySpec]:
        """What fits come to, and what traces record."""
        found = dict(super().template)
        traced = [(fit, how) for fit, how in zip(self.fits, self.job.traces, strict=True) if how]
        if not traced:
            return found
        records = max(len(how.records) for _, how in traced)
        steps = max(how.steps for _, how in traced) + 1
        layers = max(_layers(fit) for fit, _ in traced)
        specs = [
            ArraySpec("layers", (), (), "names of the layers, as JSON", dtype="str"),
            ArraySpec(
                "step", ("record",), (records,), "steps done before the record", dtype="int64"
            ),
            ArraySpec("loss", ("step_done",), (steps,), "cross entropy after so many steps"),
            ArraySpec("accuracy", ("step_done",), (steps,), "of the same batch"),
            *(
                ArraySpec(name, ("record", "layer"), (records, layers), text)
                for name, text in _LAYERS.items()
            ),
        ]
        return found | {f"trace/{spec.name}": spec for spec in specs}

    def open(self) -> OpenDiagnostics:
        """Open the survey; its objects are read when the first network needs them."""
        return OpenDiagnostics(self)


class OpenDiagnostics(OpenTraining):
    """A diagnostics job in a replica."""

    def __init__(self, workload: DiagnosticsWorkload) -> None:
        super().__init__(workload)
        self._traces = workload.job.traces

    def fit(self, number: int) -> UnitResult:
        """Make a fit, or trace a network."""
        how = self._traces[number]
        return super().fit(number) if how is None else self._trace(number, how)

    def _trace(self, number: int, how: Trace) -> UnitResult:
        job = self._work.fits[number]
        labelled = self._read(job, "")
        batch = labelled.parts(job).train
        images, labels = batch.take(np.arange(min(how.objects, len(batch))))
        device = self._work.device
        with threads(job.execution.threads), torch.random.fork_rng():
            torch.manual_seed(job.fit.seed)  # of dropout
            network = build_network(job, images.shape[1], device).train()
            found = trace(
                network,
                images.to(device),
                labels.to(device),
                how.steps,
                how.learning_rate,
                how.records,
            )
        values: dict[str, Any] = {
            "layers": json.dumps(found.flow.layers),
            "step": self._padded("step", np.array(found.steps)),
            "loss": self._padded("loss", found.losses),
            "accuracy": self._padded("accuracy", found.accuracies),
            "epochs": 0,
            "trained": sum(part.numel() for part in network.parameters()),
        }
        for part in fields(Flow)[1:]:
            values[part.name] = self._padded(part.name, getattr(found.flow, part.name))
        rows = (how.steps + 1 + len(how.records)) * len(images)
        return UnitResult(
            self._arrays(number, values, ()),
            forward=rows,
            backward=rows - len(images),
            left_out=tuple(labelled.failures),
        )

    def _padded(self, name: str, values: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """Enlarge values to the shape of their array."""
        spec = self._work.template[f"trace/{name}"]
        fill = -1 if np.dtype(spec.dtype).kind == "i" else np.nan
        padded = np.full(spec.shape, fill, dtype=spec.dtype)
        padded[tuple(slice(length) for length in values.shape)] = values
        return padded


def _layers(fit: TrainingJob) -> int:
    """Count the layers that a trace records, which the number of bands does not change."""
    network = build_network(fit, 1)
    return sum(isinstance(part, nn.Conv2d | nn.Linear) for part in network.modules())
