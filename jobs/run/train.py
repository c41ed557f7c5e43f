"""Train a network on a labelled survey, in this process; killed and run again, it continues."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from cluster.durable import write_file
from cluster.errors import OccultaError
from cluster.ledger import Lease
from cluster.provenance import code_digest, versions
from training.checkpoints import NetworkCard, save_card, save_weights
from training.fit import EpochRecord, Examples, FitResult, fit, predict_logits
from training.metrics import accuracy, confusion_matrix, per_class_recall
from training.networks import build
from training.splits import split

from ..errors import RefusedError
from ..specs.jobs import TrainingJob
from ..specs.load import dump_job
from ..survey import Cutout, Preprocess, Survey, open_survey
from .events import EpochEnded, EventLog, RunFinished, RunStarted, Subscriber, announce
from .status import MANIFEST, read_manifest

WEIGHTS, CARD = "weights.safetensors", "card.json"


class TrainingFailedError(OccultaError):
    """The fit itself failed, as with a loss that is not finite."""

    exit_code = 5


def train(job: TrainingJob, subscribers: Sequence[Subscriber] = ()) -> Path:
    """Train to the end, or the rest of it, and return the run folder.

    The folder holds ``weights.safetensors``, ``card.json``, ``history.csv`` and the checkpoint.

    Raises
    ------
    RefusedError
        If the survey has too few labelled objects, or the folder holds another training run.
    TrainingFailedError
        If the loss is not finite.
    """
    run = Path(job.output)
    survey = open_survey(job.survey, len(job.preprocess.mean) or None)
    digests = {"spec": json.dumps(job.identity(), sort_keys=True), "survey": survey.digest()}
    if (run / MANIFEST).exists():
        _check_same(run, digests)
        if read_manifest(run).get("results_digest"):
            return run
    lease = Lease(run / "ledger")
    lease.acquire()
    try:
        return _train(job, run, survey, digests, (EventLog(run / "events.jsonl"), *subscribers))
    finally:
        lease.release()


def _train(
    job: TrainingJob,
    run: Path,
    survey: Survey,
    digests: dict[str, str],
    subscribers: Sequence[Subscriber],
) -> Path:
    ids, images, labels = _examples(job, survey)
    parts = split(
        ids,
        labels.tolist(),
        job.fit.seed,
        (1 - job.validation - job.test, job.validation, job.test),
    )
    manifest = {
        "kind": job.kind,
        "name": job.name,
        "objects": len(ids),
        "units": 1,
        "quarantined_by_plan": 0,
        "digests": {**digests, "code": code_digest()},
        "versions": versions(),
    }
    write_file(run / "job.yaml", dump_job(job).encode())
    write_file(run / MANIFEST, _json(manifest))
    announce(RunStarted(str(run), job.kind, job.fit.epochs, 0, job.fit.epochs, 1), subscribers)
    with torch.random.fork_rng():
        torch.manual_seed(job.fit.seed)
        network = build(job.architecture, len(job.classes), images.shape[1], job.options)

    def tell(record: EpochRecord) -> None:
        losses = (record.train_loss, record.validation_loss)
        accuracies = (record.train_accuracy, record.validation_accuracy)
        announce(EpochEnded(record.epoch, *losses, *accuracies), subscribers)

    examples = [Examples(images[rows], labels[rows]) for rows in (parts.train, parts.validation)]
    try:
        result = fit(network, examples[0], examples[1], job.fit, run, tell)
    except FloatingPointError as error:
        raise TrainingFailedError(f"{run}: {error}") from error
    except ValueError as error:
        raise RefusedError(f"{run}: {error}") from error
    metrics = _metrics(network, images[parts.test], labels[parts.test], result)
    sha256 = save_weights(network, run / WEIGHTS)
    bands = tuple(str(band) for band in range(images.shape[1]))
    preprocess = job.preprocess.model_dump(mode="json")
    card = NetworkCard(
        job.architecture,
        job.classes,
        bands,
        preprocess,
        sha256,
        metrics,
        digests["survey"],
        job.options,
    )
    save_card(card, run / CARD)
    write_file(run / MANIFEST, _json({**manifest, "results_digest": sha256, "metrics": metrics}))
    announce(RunFinished(len(ids), 0, sum(r.seconds for r in result.history)), subscribers)
    return run


def _examples(
    job: TrainingJob, survey: Survey
) -> tuple[list[str], NDArray[np.float32], NDArray[np.int64]]:
    """Read all labelled objects; those that can't be read are left out."""
    position = {name: index for index, name in enumerate(job.classes)}
    known = [row for row, label in enumerate(survey.catalogue.labels) if label in position]
    bad = {failure.index for failure in survey.catalogue.failures()}
    rows = survey.catalogue.take([row for row in known if row not in bad])
    if len(rows) == 0:
        raise RefusedError(
            f"classes: no object of {survey.catalogue.source} is labelled {', '.join(job.classes)}"
        )
    preprocess = Preprocess(job.preprocess, survey.image_shape[0])
    ids, images, labels = [], [], []
    for name, label, answer in zip(rows.ids, rows.labels, survey.read(rows), strict=True):
        if isinstance(answer, Cutout):
            ids.append(name)
            images.append(preprocess.apply(answer.pixels))
            labels.append(position[label])
    if len({image.shape for image in images}) != 1:
        raise RefusedError("preprocess.size: cutouts differ in size; set it to resize them")
    return ids, np.stack(images), np.array(labels, dtype=np.int64)


def _metrics(
    network: torch.nn.Module,
    images: NDArray[np.float32],
    labels: NDArray[np.int64],
    result: FitResult,
) -> dict[str, Any]:
    best = result.history[result.best_epoch - 1]
    metrics: dict[str, Any] = {
        "best_epoch": result.best_epoch,
        "validation_accuracy": best.validation_accuracy,
    }
    if len(images):
        logits = np.asarray(predict_logits(network, images))
        predicted = logits.argmax(axis=1)
        recall = per_class_recall(confusion_matrix(labels, predicted, logits.shape[1]))
        metrics["test_accuracy"] = float(accuracy(labels, predicted))
        metrics["test_recall"] = [float(value) for value in recall]
    return metrics


def _check_same(run: Path, digests: dict[str, str]) -> None:
    before = read_manifest(run)["digests"]
    changed = [part for part, digest in digests.items() if before.get(part) != digest]
    if changed:
        raise RefusedError(
            f"{run}: {', '.join(changed)} changed since this training began; "
            "undo the change to resume, or give another --out"
        )


def _json(data: dict[str, Any]) -> bytes:
    return (json.dumps(data, indent=2) + "\n").encode()
