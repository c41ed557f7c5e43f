"""The work of a training job: fits, each a unit, that go on from their checkpoints."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch

from attribution.arrays import ArraySpec
from attribution.partials import Array
from cluster.errors import OccultaError
from cluster.place import Place
from cluster.placement import Placement
from cluster.unit import ObjectFailure, WorkUnit
from cluster.workload import UnitResult
from training.checkpoints import NetworkCard, card_bytes, weights_bytes
from training.fit import EpochRecord, Examples, FitResult, fit, predict_logits
from training.metrics import confusion_matrix, per_class_recall
from training.networks import build

from ..errors import RefusedError
from ..specs.training import TrainingJob
from ..survey import open_survey
from .fit_files import CARD, WEIGHTS, FitFiles, fit_path
from .labelled import Labelled, Parts, read_labelled

_COLUMNS = {
    "train_loss": "mean loss over the epoch's steps, with augmentation and dropout",
    "validation_loss": "mean loss of the validation set, without them",
    "train_accuracy": "accuracy on the views seen in the epoch",
    "validation_accuracy": "accuracy on the validation set",
    "still_train_loss": "mean loss of training objects without augmentation and dropout",
    "gap": "validation loss less that of training objects: grows with overfitting",
    "gradient_norm": "mean over the steps of the gradient's norm",
    "learning_rate": "learning rate at the last step",
}


class TrainingFailedError(OccultaError):
    """A fit failed by itself, as with a loss that is not finite."""

    exit_code = 5


@dataclass(frozen=True)
class TrainingWorkload:
    """A training job; an object of its run is a fit."""

    job: TrainingJob
    run: Place
    survey_digest: str
    device: str
    placement: Placement

    @cached_property
    def fits(self) -> tuple[TrainingJob, ...]:
        """The job of each fit."""
        return tuple(self.job.fits())

    @cached_property
    def template(self) -> Mapping[str, ArraySpec]:
        """What the fits came to, their curves, and what they were asked for."""
        epochs = max(job.fit.epochs for job in self.fits)
        classes = len(self.job.classes)
        found = [
            ArraySpec("best_epoch", (), (), "epoch of the lowest validation loss", dtype="int64"),
            ArraySpec("epochs", (), (), "epochs that were made", dtype="int64"),
            ArraySpec("validation_accuracy", (), (), "accuracy on the validation set"),
            ArraySpec("test_accuracy", (), (), "accuracy on the test set"),
            ArraySpec("test_recall", ("class",), (classes,), "share of a class that is recognised"),
            ArraySpec(
                "confusion",
                ("label", "predicted"),
                (classes, classes),
                "test objects by label and predicted class",
                dtype="int64",
            ),
            ArraySpec("sha256", (), (), "hash of the weights file", dtype="str"),
            ArraySpec("setting", (), (), "what the fit sets, as JSON", dtype="str"),
        ]
        curves = {
            f"history/{name}": ArraySpec(name, ("epoch",), (epochs,), text)
            for name, text in _COLUMNS.items()
        }
        return {f"fit/{spec.name}": spec for spec in found} | curves

    @property
    def separable(self) -> bool:
        """A unit is a single fit."""
        return False

    def open(self) -> OpenTraining:
        """Open the survey; its objects are read when the first fit needs them."""
        return OpenTraining(self)


class OpenTraining:
    """A training job in a replica."""

    def __init__(self, workload: TrainingWorkload) -> None:
        self._work = workload
        self._survey = open_survey(workload.job.survey, len(workload.job.preprocess.mean) or None)
        self._labelled: tuple[str, Labelled] | None = None

    def compute(self, unit: WorkUnit) -> UnitResult:
        """Make a fit, or the rest of it, alone or as the leader of a group."""
        number, placement = unit.key.start, self._work.placement
        if placement.processes == 1:
            return self.fit(number)
        # Slow to import, and seldom needed.
        from cluster.fit_group import run_group  # noqa: PLC0415

        work = self._work
        return run_group(
            lambda: work.open().fit(number), placement.processes, placement.cpus, placement.gpus
        )

    def fit(self, number: int) -> UnitResult:
        """Make a fit in this process and those of its group."""
        work = self._work
        job = work.fits[number]
        labelled = self._read(job)
        with _threads(job.execution.threads):
            network = build_network(job, self._survey.image_shape[0]).to(work.device)
            try:
                parts = labelled.parts(job)
                files = FitFiles(work.run, fit_path(number, len(work.fits)))
                result = fit(network, parts.train, parts.validation, job.fit, files)
            except FloatingPointError as error:
                return self._diverged(number, str(error))
            except ValueError as error:
                raise RefusedError(f"{work.run}: {error}") from error
            return self._result(number, network, parts, labelled, result)

    def partial(self, unit: WorkUnit, share: int) -> UnitResult | None:
        """Make the fit in the first share: a fit has no parts."""
        return self.compute(unit) if share == 0 else None

    def finish(self, unit: WorkUnit, partials: Sequence[UnitResult | None]) -> UnitResult:
        """Return the first share."""
        assert partials[0] is not None
        return partials[0]

    def probe(self, unit: WorkUnit, rows: range) -> None:
        """Make nothing: a unit is a single fit."""
        raise NotImplementedError

    def _read(self, job: TrainingJob) -> Labelled:
        """Read the survey as a fit sees it; fits that see it alike share it."""
        key = job.preprocess.model_dump_json()
        if self._labelled is None or self._labelled[0] != key:
            self._labelled = None  # first let go of the other one
            self._labelled = (key, read_labelled(job, self._survey))
        return self._labelled[1]

    def _result(
        self,
        number: int,
        network: torch.nn.Module,
        parts: Parts,
        labelled: Labelled,
        result: FitResult,
    ) -> UnitResult:
        work, job = self._work, self._work.fits[number]
        best = result.history[result.best_epoch - 1]
        confusion = _confusion(network, parts.test, len(job.classes))
        recall = per_class_recall(confusion)
        # JSON has no NaN: None for a class without test objects.
        metrics: dict[str, Any] = {
            "best_epoch": result.best_epoch,
            "validation_accuracy": best.validation_accuracy,
        }
        test_accuracy = (
            float(np.trace(confusion) / confusion.sum()) if len(parts.test) else math.nan
        )
        if len(parts.test):
            metrics["test_accuracy"] = test_accuracy
            metrics["test_recall"] = [None if np.isnan(value) else float(value) for value in recall]
        weights, sha256 = weights_bytes(network)
        card = NetworkCard(
            job.architecture,
            job.classes,
            tuple(str(band) for band in range(self._survey.image_shape[0])),
            job.preprocess.model_dump(mode="json"),
            sha256,
            metrics,
            work.survey_digest,
            job.options,
            result.loss,
        )
        folder = fit_path(number, len(work.fits))
        values = {
            "best_epoch": result.best_epoch,
            "epochs": len(result.history),
            "validation_accuracy": best.validation_accuracy,
            "test_accuracy": test_accuracy,
            "test_recall": recall,
            "confusion": confusion,
            "sha256": sha256,
        }
        seen = len(result.history) * len(parts.train)
        return UnitResult(
            self._arrays(number, values, result.history),
            forward=seen + len(result.history) * len(parts.validation) + len(parts.test),
            backward=seen,
            files={f"{folder}{WEIGHTS}": weights, f"{folder}{CARD}": card_bytes(card)},
            left_out=tuple(labelled.failures),
        )

    def _diverged(self, number: int, reason: str) -> UnitResult:
        """Leave a fit of several without results; a single one fails the run."""
        work = self._work
        if len(work.fits) == 1:
            raise TrainingFailedError(f"{work.run}: {reason}; then give another --out")
        setting = json.dumps(work.job.settings[number])
        failure = ObjectFailure(number, setting, "training_diverged", reason)
        return UnitResult(self._arrays(number, {}, ()), (failure,))

    def _arrays(
        self, number: int, values: Mapping[str, Any], history: Sequence[EpochRecord]
    ) -> dict[str, Array]:
        setting = json.dumps(self._work.job.settings[number])
        arrays: dict[str, Array] = {}
        for path, spec in self._work.template.items():
            group, _, name = path.partition("/")
            if group == "history":
                row = np.full(spec.shape, np.nan)
                row[: len(history)] = [asdict(record)[name] for record in history]
            elif name == "setting":
                row = np.array(setting, dtype=object)
            else:
                row = np.asarray(values.get(name, _absent(spec)))
            arrays[path] = row[np.newaxis]
        return arrays


def build_network(job: TrainingJob, bands: int) -> torch.nn.Module:
    """Build the network that a fit begins with.

    Raises
    ------
    RefusedError
        If the architecture or its options are refused.
    """
    try:
        with torch.random.fork_rng():
            torch.manual_seed(job.fit.seed)
            return build(job.architecture, len(job.classes), bands, job.options)
    except ValueError as error:
        raise RefusedError(str(error)) from error


def _confusion(network: torch.nn.Module, test: Examples, classes: int) -> Array:
    if not len(test):
        return np.zeros((classes, classes), dtype=np.int64)
    predicted = predict_logits(network, test.images).argmax(axis=1)
    return confusion_matrix(np.asarray(test.labels), predicted, classes)


def _absent(spec: ArraySpec) -> Array:
    """Return what stands for a value that there is none of."""
    if spec.dtype == "str":
        return np.array("", dtype=object)
    return np.full(spec.shape, -1 if np.dtype(spec.dtype).kind == "i" else np.nan)


@contextmanager
def _threads(count: int) -> Iterator[None]:
    """Let torch compute with so many threads: the last bits of a fit depend on it."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
