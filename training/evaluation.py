"""What a network says of images, without augmentation and dropout."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from .examples import Rows, Source, read_ahead
from .losses import Objective
from .processes import Processes

_BATCH = 128
_ALONE = Processes()


def predict_logits(
    network: nn.Module, source: Source, batch_size: int = _BATCH
) -> npt.NDArray[np.float32]:
    """Return the logits (N, K), float32, of all objects, in evaluation mode.

    The network's mode is put back afterwards.
    """
    device = device_of(network)
    batches = _spans(np.arange(len(source)), batch_size)
    with evaluating(network), closing(read_ahead(source, batches)) as ahead:
        parts = [network(images.to(device)).float().cpu() for images, _ in ahead]
    logits: npt.NDArray[np.float32] = torch.cat(parts).numpy()
    return logits


def evaluate(
    network: nn.Module,
    source: Source,
    rows: Rows,
    objective: Objective,
    processes: Processes = _ALONE,
) -> tuple[float, float]:
    """Return mean loss and score of some objects, in float32, over all processes.

    The network's mode is put back afterwards.
    """
    device = device_of(network)
    loss = hits = tries = 0.0
    batches = _spans(rows[processes.share(len(rows))], _BATCH)
    with evaluating(network), closing(read_ahead(source, batches)) as ahead:
        for images, targets in ahead:
            outputs, wanted = network(images.to(device)).float(), targets.to(device)
            loss += float(objective.losses(outputs, wanted).double().sum())
            hit, tried = objective.score(outputs, wanted)
            hits, tries = hits + hit, tries + tried
    loss, hits, tries = processes.sum([loss, hits, tries], device)
    return loss / len(rows), ratio(hits, tries)


def ratio(numerator: float, denominator: float) -> float:
    """Divide the sums of a score; 0 if there was nothing to score."""
    return numerator / denominator if denominator else 0.0


def device_of(network: nn.Module) -> torch.device:
    """Return the device of a network's weights."""
    return next(network.parameters()).device


@contextmanager
def evaluating(network: nn.Module) -> Iterator[None]:
    """Put a network into evaluation mode without gradients, and each module's mode back."""
    modes = {part: part.training for part in network.modules()}
    network.eval()
    try:
        with torch.inference_mode():
            yield
    finally:
        # Each module's own: parts that rest while others train are in evaluation mode.
        for part, training in modes.items():
            part.training = training


def _spans(rows: Rows, length: int) -> list[Rows]:
    return [rows[first : first + length] for first in range(0, len(rows), length)]
