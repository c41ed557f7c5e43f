"""The work of a training job: fits, each a unit, that go on from their checkpoints."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from attribution.arrays import ArraySpec
from attribution.partials import Array
from cluster.errors import OccultaError
from cluster.place import Place
from cluster.placement import Placement
from cluster.unit import ObjectFailure, WorkUnit
from cluster.workload import UnitResult
from training.blocks import replace_head
from training.calibration import fit_temperature
from training.checkpoints import NetworkCard, card_bytes, load_pretrained, weights_bytes
from training.domain_gap import FEWEST, domain_auc
from training.examples import SelectedExamples, Source
from training.fit import EpochRecord, predict_logits
from training.judgement import judge_classes, judge_numbers, judge_votes
from training.metrics import per_class_recall
from training.networks import build
from training.transfer import Transfer, Transferred, features_of, transfer

from ..errors import RefusedError
from ..specs.training import FitsJob, TrainingJob
from ..survey import open_survey
from .fit_files import CARD, WEIGHTS, FitFiles, fit_path
from .labelled import Labelled, Parts, read_labelled
from .network import open_network
from .targets import learnable_rows, target_rows

_COLUMNS = {
    "train_loss": "mean loss over the epoch's steps, with augmentation and dropout",
    "validation_loss": "mean loss of the validation set, without them",
    "train_accuracy": "accuracy on the views seen in the epoch",
    "validation_accuracy": "accuracy on the validation set; of numbers R2",
    "still_train_loss": "mean loss of training objects without augmentation and dropout",
    "gap": "validation loss less that of training objects: grows with overfitting",
    "gradient_norm": "mean over the steps of the gradient's norm",
    "learning_rate": "learning rate at the last step",
}


_OVERALL = {
    "accuracy": "share of objects whose predicted class is their label",
    "balanced_accuracy": "mean recall of the classes",
    "negative_log_likelihood": "mean of -log p of the label",
    "brier_score": "mean squared difference of probabilities and label",
    "expected_calibration_error": "mean difference of confidence and accuracy",
}
_BY_CLASS = {
    "roc_auc": "area under the ROC curve of each class against the others",
    "average_precision": "area under the precision-recall curve of each class",
}
_BY_OUTPUT = {
    "root_mean_squared_error": "root mean squared error of the number, or of the share of votes",
    "r_squared": "share of the variance that is explained",
}
"""Numbers that judge a fit, as `training.judgement` names them."""
_OF_DOMAINS = {
    "domain_auc": "how well a linear classifier tells features of the test set from those of it: "
    "area under the ROC curve, 0.5 if there is no gap"
}
"""What is asked of further surveys only."""
_TOLD_APART = 5000
"""Objects of a survey, at most, whose features are told from another's."""
_ENDS = {"": "", "_low": ": 2.5 % of resamples are below", "_high": ": 2.5 % are above"}
"""What follows the name of a number, and of the ends of its interval."""


class TrainingFailedError(OccultaError):
    """A fit failed by itself, as with a loss that is not finite."""

    exit_code = 5


@dataclass(frozen=True)
class TrainingWorkload:
    """A training job; an object of its run is a fit."""

    job: FitsJob
    run: Place
    survey_digest: str
    device: str
    placement: Placement

    @cached_property
    def fits(self) -> tuple[TrainingJob, ...]:
        """The job of each fit."""
        return tuple(self.job.fits())

    @property
    def epochs(self) -> list[int]:
        """The most epochs that each fit makes."""
        return [fit.fit.epochs for fit in self.fits]

    @cached_property
    def template(self) -> Mapping[str, ArraySpec]:
        """What the fits came to, their curves, and what they were asked for."""
        epochs = max(job.fit.epochs for job in self.fits)
        found = [
            ArraySpec("best_epoch", (), (), "epoch of the best weights", dtype="int64"),
            ArraySpec("epochs", (), (), "epochs that were made", dtype="int64"),
            ArraySpec("validation_accuracy", (), (), "accuracy on the validation set"),
            ArraySpec("temperature", (), (), "what logits are divided by to be calibrated"),
            ArraySpec("trained", (), (), "parameters that could change", dtype="int64"),
            ArraySpec("sha256", (), (), "hash of the weights file", dtype="str"),
            ArraySpec("setting", (), (), "what the fit sets, as JSON", dtype="str"),
        ]
        for test in ("test", *self.job.also_test):
            found += _measure_specs(self.job, test)
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
        job = workload.job
        self._work = workload
        bands = len(job.preprocess.mean) or None
        self._surveys = {
            name: (spec, open_survey(spec, bands))
            for name, spec in {"": job.survey, **job.also_test}.items()
        }
        self._read_as = ""
        self._labelled: dict[str, Labelled] = {}

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
        labelled = self._read(job, "")
        with threads(job.execution.threads):
            network = build_network(job, labelled.images.shape[1], work.device)
            try:
                parts = labelled.parts(job)
                files = FitFiles(work.run, fit_path(number, len(work.fits)))
                result = _train(job, network, parts, files)
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

    def _read(self, job: TrainingJob, name: str) -> Labelled:
        """Read a survey as a fit sees it; fits that see it alike share it."""
        key = job.preprocess.model_dump_json()
        if key != self._read_as:
            self._read_as, self._labelled = key, {}
        if name not in self._labelled:
            spec, survey = self._surveys[name]
            rows_of = target_rows if name else learnable_rows
            rows = rows_of(job, survey.catalogue)
            self._labelled[name] = read_labelled(job, spec, survey, rows)
        return self._labelled[name]

    def _result(
        self,
        number: int,
        network: nn.Module,
        parts: Parts,
        labelled: Labelled,
        result: Transferred,
    ) -> UnitResult:
        work, job = self._work, self._work.fits[number]
        history, best_epoch = result.fit.history, result.fit.best_epoch
        temperature = 1.0
        if not job.target_columns:
            temperature = fit_temperature(
                parts.validation.targets(),
                predict_logits(network, parts.validation),
            )
        tests = {"test": parts.test}
        tests |= {name: self._read(job, name).some() for name in job.also_test}
        judged = {
            name: _judge(job, network, test, temperature, result.fit.loss)
            for name, test in tests.items()
            if len(test)
        }
        gaps = _domain_gaps(network, tests, job.split.seed)
        judged = {name: numbers | gaps.get(name, {}) for name, numbers in judged.items()}
        weights, sha256 = weights_bytes(network)
        values = {
            "best_epoch": best_epoch,
            "epochs": len(history),
            "validation_accuracy": history[best_epoch - 1].validation_accuracy,
            "temperature": temperature,
            "trained": result.trained,
        }
        card = NetworkCard(
            job.architecture,
            job.classes,
            tuple(str(band) for band in range(labelled.images.shape[1])),
            job.preprocess.model_dump(mode="json"),
            sha256,
            {**values, **judged},
            work.survey_digest,
            job.options,
            result.fit.loss,
        )
        folder = fit_path(number, len(work.fits))
        seen = len(history) * len(parts.train)
        others = len(history) * len(parts.validation) + sum(map(len, tests.values()))
        return UnitResult(
            self._arrays(number, {**values, "sha256": sha256, **_measures(judged)}, history),
            forward=seen + others,
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


def build_network(job: TrainingJob, bands: int, device: str = "cpu") -> nn.Module:
    """Build the network that a fit begins with, with random or with another one's weights.

    Raises
    ------
    RefusedError
        If the architecture or its options are refused, or the weights don't fit.
    """
    start = job.start if job.transfer.strategy != "scratch" else None
    try:
        with torch.random.fork_rng():
            torch.manual_seed(job.fit.seed)
            if start is None:
                network = build(job.architecture, len(job.classes), bands, job.options)
                if job.pretrained is not None and job.transfer.strategy != "scratch":
                    load_pretrained(network, Path(job.pretrained.weights), job.pretrained.sha256)
            else:
                network = open_network(start, bands).requires_grad_(True)
                if start.classes != job.classes:
                    replace_head(network, len(job.classes))
    except ValueError as error:
        raise RefusedError(str(error)) from error
    return network.to(device)


def _train(job: TrainingJob, network: nn.Module, parts: Parts, files: FitFiles) -> Transferred:
    choice = job.transfer if job.begins_trained else Transfer("scratch")
    return transfer(network, parts.train, parts.validation, job.fit, choice, files)


def _judge(
    job: TrainingJob,
    network: nn.Module,
    test: Source,
    temperature: float,
    loss: Mapping[str, Any],
) -> dict[str, Any]:
    """Judge a network by all numbers that its kind of targets has."""
    outputs, wanted = predict_logits(network, test), test.targets()
    if job.are_votes:
        return judge_votes(wanted, outputs, job.classes, job.fit.questions, job.split.seed)
    if job.target_columns:
        numbers = outputs * np.array(loss["std"]) + np.array(loss["mean"])
        return judge_numbers(wanted, numbers, job.classes, job.split.seed)
    return judge_classes(wanted, outputs, job.classes, temperature, job.split.seed)


def _domain_gaps(
    network: nn.Module, tests: Mapping[str, SelectedExamples], seed: int
) -> dict[str, dict[str, Any]]:
    """Say how far some objects of further surveys are from those of the test set.

    Nothing is said of a network whose head is not linear.
    """
    found: dict[str, dict[str, Any]] = {}
    if len(tests) == 1 or min(map(len, tests.values())) < FEWEST:
        return found
    try:
        features = {
            name: np.asarray(features_of(network, test.sample(_TOLD_APART, seed)).images)[
                :, :, 0, 0
            ]
            for name, test in tests.items()
        }
    except ValueError:
        return found
    ours = features.pop("test")
    return {
        name: {"domain_auc": asdict(domain_auc(ours, theirs, seed))}
        for name, theirs in features.items()
    }


def _measure_specs(job: FitsJob, test: str) -> list[ArraySpec]:
    """Describe the numbers that judge a fit by one test set."""
    where = "the test set" if test == "test" else f"survey {test}"
    classes = len(job.classes)
    overall = {} if job.target_columns else _OVERALL
    overall = overall if test == "test" else overall | _OF_DOMAINS
    by_class = _BY_OUTPUT if job.target_columns else _BY_CLASS
    found = []
    for end, extent in _ENDS.items():
        found += [
            ArraySpec(f"{test}_{name}{end}", (), (), f"{text}, {where}{extent}")
            for name, text in overall.items()
        ]
        found += [
            ArraySpec(f"{test}_{name}{end}", ("class",), (classes,), f"{text}, {where}{extent}")
            for name, text in by_class.items()
        ]
    if not job.target_columns:
        recall = f"share that is recognised, {where}"
        counted = f"objects by label and predicted class, {where}"
        found += [
            ArraySpec(f"{test}_recall", ("class",), (classes,), recall),
            ArraySpec(
                f"{test}_confusion",
                ("label", "predicted"),
                (classes, classes),
                counted,
                dtype="int64",
            ),
        ]
    return found


def _measures(judged: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Return what `_judge` found, by the names of arrays."""
    found: dict[str, Any] = {}
    for test, numbers in judged.items():
        for end, part in (("", "value"), ("_low", "low"), ("_high", "high")):
            for name in (_OVERALL | _OF_DOMAINS).keys() & numbers.keys():
                found[f"{test}_{name}{end}"] = _number(numbers[name][part])
            for name in (_BY_CLASS | _BY_OUTPUT).keys() & numbers.keys():
                row = [_number(entry[part]) for entry in numbers[name].values()]
                found[f"{test}_{name}{end}"] = row
        if "confusion" in numbers:
            confusion = np.array(numbers["confusion"])
            found[f"{test}_confusion"] = confusion
            found[f"{test}_recall"] = per_class_recall(confusion)
    return found


def _number(value: float | None) -> float:
    return math.nan if value is None else value


def _absent(spec: ArraySpec) -> Array:
    """Return what stands for a value that there is none of."""
    if spec.dtype == "str":
        return np.array("", dtype=object)
    return np.full(spec.shape, -1 if np.dtype(spec.dtype).kind == "i" else np.nan)


@contextmanager
def threads(count: int) -> Iterator[None]:
    """Let torch compute with so many threads: the last bits of a fit depend on it."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
