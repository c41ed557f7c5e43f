"""Train a network on a labelled survey, in this process; killed and run again, it continues."""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from cluster.clock import timestamp
from cluster.durable import write_file
from cluster.errors import OccultaError
from cluster.events import EpochEnded, RunFinished, RunStarted, Subscriber, Totals, announce
from cluster.place import open_place
from cluster.provenance import code_digest, versions
from cluster.unit import ObjectFailure
from training.checkpoints import NetworkCard, save_card, save_weights
from training.fit import EpochRecord, Examples, FitResult, fit, predict_logits
from training.fit_state import CHECKPOINT, HISTORY_LINES
from training.metrics import accuracy, confusion_matrix, per_class_recall
from training.networks import build
from training.splits import split

from ..errors import RefusedError
from ..specs.jobs import TrainingJob
from ..specs.load import dump_job
from ..survey import Catalogue, Cutout, Preprocess, Survey, open_reader, open_survey
from .driver import driving
from .folder import check_same, write_manifest
from .history import HISTORY, epochs_done
from .quarantine import BY_PLAN, quarantine_csv
from .status import BEGINNING, MANIFEST, QUARANTINE, check_vacant, read_manifest

_OURS = {*BEGINNING, QUARANTINE, CHECKPOINT, HISTORY, HISTORY_LINES}
WEIGHTS, CARD = "weights.safetensors", "card.json"

_BLOCK = 512
"""Objects whose cutouts are held beside the network's inputs while they are read."""


class TrainingFailedError(OccultaError):
    """The fit itself failed, as with a loss that is not finite."""

    exit_code = 5


def train(job: TrainingJob, subscribers: Sequence[Subscriber] = ()) -> Path:
    """Train to the end, or the rest of it, and return the run folder.

    The folder holds ``weights.safetensors``, ``card.json``, ``history.csv``, ``quarantine.csv``
    and the checkpoint. A complete run is left exactly as it is.

    Raises
    ------
    RefusedError
        If classes, architecture or shares make no sense, the survey has too few labelled objects,
        or the folder holds another run, or this one with something changed.
    RunBusyError
        If another driver works on it.
    TrainingFailedError
        If the loss is not finite.
    """
    run = _local(job)
    survey = open_survey(job.survey, len(job.preprocess.mean) or None)
    digests = {"spec": job.digest(), "survey": survey.digest(), "code": code_digest()}
    check_vacant(run, _OURS)
    if (run / MANIFEST).exists() and check_same(run, job, digests).get("results_digest"):
        return run
    rows = _labelled_rows(job, survey.catalogue)
    network = _build(job, survey.image_shape[0])
    with driving(run, subscribers) as everyone:
        objects = _read(job, survey, rows)
        parts = _parts(job, objects)
        if not (run / MANIFEST).exists():
            _create(run, job, digests, objects)
        _work(run, job, network, objects, parts, everyone)
    return run


def plan_training(job: TrainingJob) -> dict[str, Any]:
    """Validate all that can be known before training, and return what it will do.

    Raises
    ------
    RefusedError
        As of `train`.
    """
    check_vacant(_local(job), _OURS)
    survey = open_survey(job.survey, len(job.preprocess.mean) or None)
    rows = _labelled_rows(job, survey.catalogue)
    network = _build(job, survey.image_shape[0])
    labels = Counter(survey.catalogue.take(rows).labels)
    return {
        "run": job.output,
        "objects": len(rows),
        "missing_files": survey.snapshot().missing_files,
        "classes": {name: labels[name] for name in job.classes},
        "parameters": sum(parameter.numel() for parameter in network.parameters()),
        "epochs": job.fit.epochs,
    }


def _local(job: TrainingJob) -> Path:
    run = open_place(job.output)
    if isinstance(run, Path):
        return run
    raise RefusedError(
        f"output: {run}: a training job writes to a folder of this machine; give one, and copy the "
        "weights when it is done"
    )


@dataclass(frozen=True)
class _Objects:
    """The labelled objects of a survey, as the network sees them."""

    ids: list[str]
    images: NDArray[np.float32]
    labels: NDArray[np.int64]
    failures: list[ObjectFailure]
    """Those that are left out."""

    @property
    def total(self) -> int:
        return len(self.ids) + len(self.failures)

    def examples(self, rows: NDArray[np.int64]) -> Examples:
        return Examples(self.images[rows], self.labels[rows])


@dataclass(frozen=True)
class _Parts:
    train: Examples
    validation: Examples
    test: Examples


def _labelled_rows(job: TrainingJob, catalogue: Catalogue) -> list[int]:
    """Return the rows labelled with one of the classes, each of which some object must have."""
    labels = catalogue.labels
    known = set(labels) - {""}
    for name in job.classes:
        if name not in known:
            close = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {close[0]!r}?" if close else f"there are {_some(known)}"
            raise RefusedError(f"classes: no object of {catalogue.source} is a {name!r}; {hint}")
    wanted = set(job.classes)
    return [row for row, label in enumerate(labels) if label in wanted]


def _some(labels: set[str], shown: int = 8) -> str:
    names = sorted(labels)
    return ", ".join(names[:shown] + ["..."] * (len(names) > shown)) or "no labels at all"


def _build(job: TrainingJob, bands: int) -> torch.nn.Module:
    try:
        with torch.random.fork_rng():
            torch.manual_seed(job.fit.seed)
            return build(job.architecture, len(job.classes), bands, job.options)
    except ValueError as error:
        raise RefusedError(str(error)) from error


def _read(job: TrainingJob, survey: Survey, rows: list[int]) -> _Objects:
    """Read objects; those that can't be used are left out, each with its reason."""
    bands, *shape = survey.image_shape
    resized = job.preprocess.size != "native"
    reader = open_reader(job.survey, bands, None if resized else (shape[0], shape[1]))
    preprocess = Preprocess(job.preprocess, bands)
    refused = {failure.index: failure for failure in survey.catalogue.failures()}
    failures = [refused[row] for row in rows if row in refused]
    good = [row for row in rows if row not in refused]
    images = np.empty((len(good), bands, *preprocess.output_shape((shape[0], shape[1]))), "f4")
    position = {name: index for index, name in enumerate(job.classes)}
    ids: list[str] = []
    labels: list[int] = []
    for start in range(0, len(good), _BLOCK):
        numbers = good[start : start + _BLOCK]
        block = survey.catalogue.take(numbers)
        answers = zip(numbers, block.ids, block.labels, reader.read(block), strict=True)
        for row, name, label, answer in answers:
            if isinstance(answer, Cutout):
                images[len(ids)] = preprocess.apply(answer.pixels)
                ids.append(name)
                labels.append(position[label])
            else:
                failures.append(answer.of(row, name))
    failures.sort(key=lambda failure: failure.index)
    return _Objects(ids, images[: len(ids)], np.array(labels, dtype=np.int64), failures)


def _parts(job: TrainingJob, objects: _Objects) -> _Parts:
    """Split the objects, and check before anything is written that a network can learn from it."""
    shares = (1 - job.validation - job.test, job.validation, job.test)
    if shares[0] <= 0:
        raise RefusedError(
            f"validation, test: {job.validation:g} and {job.test:g} leave nothing to train on; "
            "lower one"
        )
    rows = split(objects.ids, objects.labels.tolist(), job.fit.seed, shares)
    parts = _Parts(*(objects.examples(part) for part in (rows.train, rows.validation, rows.test)))
    try:
        parts.train.check("training", job.fit.batch_size)
        parts.validation.check("validation", 1)
    except ValueError as error:
        raise RefusedError(f"{error} ({len(objects.failures)} objects were left out)") from error
    return parts


def _create(run: Path, job: TrainingJob, digests: dict[str, str], objects: _Objects) -> None:
    """Write everything that is known before the work: the manifest comes last and makes it a run.

    An epoch is a unit of work.
    """
    write_file(run / "job.yaml", dump_job(job).encode())
    left_out = ((BY_PLAN, failure) for failure in objects.failures)
    write_file(run / QUARANTINE, quarantine_csv(left_out))
    manifest = {
        "kind": job.kind,
        "name": job.name,
        "created": timestamp(),
        "objects": objects.total,
        "units": job.fit.epochs,
        "quarantined_by_plan": len(objects.failures),
        "device": "cpu",
        "digests": digests,
        "versions": versions(),
        "classes": list(job.classes),
        "image_shape": list(objects.images.shape[1:]),
        "seed": job.fit.seed,
    }
    write_manifest(run, manifest)


def _work(
    run: Path,
    job: TrainingJob,
    network: torch.nn.Module,
    objects: _Objects,
    parts: _Parts,
    subscribers: Sequence[Subscriber],
) -> None:
    done = epochs_done(run)
    epochs, refused = Totals(units=done), len(objects.failures)
    announce(
        RunStarted(str(run), job.kind, job.fit.epochs, objects.total, 1, epochs, refused),
        subscribers,
    )

    def tell(record: EpochRecord) -> None:
        losses = (record.train_loss, record.validation_loss)
        accuracies = (record.train_accuracy, record.validation_accuracy)
        announce(EpochEnded(record.epoch, *losses, *accuracies), subscribers)

    try:
        result = fit(network, parts.train, parts.validation, job.fit, run, tell)
    except FloatingPointError as error:
        raise TrainingFailedError(f"{run}: {error}; then give another --out") from error
    except ValueError as error:
        raise RefusedError(f"{run}: {error}") from error
    metrics = _metrics(network, parts.test, result)
    sha256 = save_weights(network, run / WEIGHTS)
    manifest = read_manifest(run)
    save_card(_card(job, objects, sha256, metrics, manifest["digests"]["survey"]), run / CARD)
    end = {
        "units": len(result.history),
        "metrics": metrics,
        "results_digest": sha256,
        "finished": timestamp(),
    }
    write_manifest(run, {**manifest, **end})
    seconds = sum(record.seconds for record in result.history)
    announce(RunFinished(objects.total, len(objects.failures), seconds), subscribers)


def _card(
    job: TrainingJob, objects: _Objects, sha256: str, metrics: dict[str, Any], survey: str
) -> NetworkCard:
    return NetworkCard(
        job.architecture,
        job.classes,
        tuple(str(band) for band in range(objects.images.shape[1])),
        job.preprocess.model_dump(mode="json"),
        sha256,
        metrics,
        survey,
        job.options,
    )


def _metrics(network: torch.nn.Module, test: Examples, result: FitResult) -> dict[str, Any]:
    best = result.history[result.best_epoch - 1]
    metrics: dict[str, Any] = {
        "best_epoch": result.best_epoch,
        "validation_accuracy": best.validation_accuracy,
    }
    if len(test):
        labels = np.asarray(test.labels)
        logits = predict_logits(network, test.images)
        predicted = logits.argmax(axis=1)
        recall = per_class_recall(confusion_matrix(labels, predicted, logits.shape[1]))
        metrics["test_accuracy"] = accuracy(labels, predicted)
        # JSON has no NaN: None for a class without test objects.
        metrics["test_recall"] = [None if np.isnan(value) else float(value) for value in recall]
    return metrics
