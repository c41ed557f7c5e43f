"""How many labels it saves to choose by the network's uncertainty what to label next.

Run it with ``python -m benchmarks.active_learning``; it writes
``benchmarks/results/active_learning.txt``. A network of survey A is taught survey B in rounds: it
is tuned on the labels that there are, Monte-Carlo dropout is taken of the unlabelled galaxies, and
as many labels are bought again: at random, or of the highest mutual information or entropy, as
``occulta select`` lists them. Held-out galaxies of B judge each round.
"""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from attribution import MCDropout, explain
from training.examples import Examples
from training.fit import FitSettings, fit, predict_logits
from training.networks import build
from training.simulation import CLASSES
from training.transfer import Transfer, transfer

from .transfer import observe

RESULTS = Path(__file__).parent / "results" / "active_learning.txt"
SOURCE, POOL, VALIDATION, TEST = 2400, 2400, 60, 1000
LABELS = (40, 80, 160, 320, 640)
SEEDS = 5
SETTINGS = FitSettings(epochs=30, patience=30, batch_size=16, learning_rate=1e-3, gap_objects=1)

Floats = NDArray[np.float64]
Score = Callable[[nn.Module, Examples, int], Floats]


def uncertainty(name: str) -> Score:
    """Return what scores unlabelled galaxies by a number of Monte-Carlo dropout."""

    def score(network: nn.Module, pool: Examples, seed: int) -> Floats:
        found = explain(network, pool.images, MCDropout(samples=50), seed=seed)
        return np.asarray(found[name], dtype=np.float64)

    return score


def at_random(_: nn.Module, pool: Examples, seed: int) -> Floats:
    """Score galaxies by chance."""
    return np.random.default_rng(seed).random(len(pool))


def drawn(score: Score) -> Score:
    """Draw galaxies with a probability that goes with their score, without putting them back.

    Many of the highest scores are of galaxies that are alike, which a draw avoids (Kirsch et al.
    2023: power acquisition). Gumbel noise on the logarithms makes it one ranking.
    """

    def noisy(network: nn.Module, pool: Examples, seed: int) -> Floats:
        noise = np.random.default_rng(seed).gumbel(size=len(pool))
        return np.asarray(np.log(np.maximum(score(network, pool, seed), 1e-12)) + noise)

    return noisy


WAYS: dict[str, Score] = {
    "random": at_random,
    "mutual_information": uncertainty("mutual_information"),
    "the same, drawn": drawn(uncertainty("mutual_information")),
    "predictive_entropy": uncertainty("predictive_entropy"),
}


def learning_curve(
    source: nn.Module, pool: Examples, validation: Examples, test: Examples, way: Score, seed: int
) -> list[float]:
    """Return the accuracy on the test set after each round."""
    rows = np.random.default_rng(seed).permutation(len(pool))[: LABELS[0]]
    curve, network = [], source
    for number, labels in enumerate(LABELS):
        if number:
            scores = way(network, pool, seed)
            scores[rows] = -np.inf
            more = np.argsort(-scores, kind="stable")[: labels - len(rows)]
            rows = np.concatenate([rows, more])
        network = copy.deepcopy(source)
        some = Examples(pool.images[rows], pool.labels[rows])
        settings = FitSettings(**{**vars(SETTINGS), "seed": seed})
        with tempfile.TemporaryDirectory() as folder:
            transfer(network, some, validation, settings, Transfer("all"), Path(folder))
        predicted = predict_logits(network, test).argmax(axis=1)
        curve.append(float(np.mean(predicted == np.asarray(test.labels))))
    return curve


def labels_for(accuracy: float, curve: Floats) -> float:
    """Interpolate how many labels an accuracy needs, in the logarithm; NaN where none suffices."""
    above = np.flatnonzero(curve >= accuracy)
    if not len(above):
        return float("nan")
    first = int(above[0])
    if first == 0:
        return float(LABELS[0])
    low, high = np.log(LABELS[first - 1]), np.log(LABELS[first])
    share = (accuracy - curve[first - 1]) / (curve[first] - curve[first - 1])
    return float(np.exp(low + share * (high - low)))


def main() -> None:
    """Measure, print and write the table."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    source = build("occulta:small_cnn", len(CLASSES))
    with tempfile.TemporaryDirectory() as folder:
        parts = observe("A", 0, SOURCE), observe("A", SOURCE, SOURCE + 300)
        fit(source, *parts, FitSettings(epochs=8), Path(folder))
    stops = np.cumsum([POOL, VALIDATION, TEST])
    pool, validation, test = (
        observe("B", int(stop - size), int(stop))
        for stop, size in zip(stops, (POOL, VALIDATION, TEST), strict=True)
    )
    before = predict_logits(source, test).argmax(axis=1)
    zero = float(np.mean(before == np.asarray(test.labels)))
    found = {
        name: np.array(
            [learning_curve(source, pool, validation, test, way, seed) for seed in range(SEEDS)]
        )
        for name, way in WAYS.items()
    }
    lines = [
        f"occulta:small_cnn of {SOURCE} galaxies of survey A, tuned on labels of survey B out of "
        f"{POOL} galaxies;",
        f"accuracy on {TEST} others of B, mean and standard error of {SEEDS} seeds; before tuning "
        f"{zero:.3f}",
        f"{'labels':20}" + "".join(f"{labels:>16}" for labels in LABELS),
    ]
    for name, curves in found.items():
        means, errors = curves.mean(axis=0), curves.std(axis=0, ddof=1) / np.sqrt(SEEDS)
        cells = [f"{mean:.3f} +- {error:.3f}" for mean, error in zip(means, errors, strict=True)]
        lines.append(f"{name:20}" + "".join(f"{cell:>16}" for cell in cells))
    chance = found["random"].mean(axis=0)
    for name in list(WAYS)[1:]:
        for labels, accuracy in zip(LABELS[1:], found[name].mean(axis=0)[1:], strict=True):
            needed = labels_for(accuracy, chance)
            told = f"{needed:.0f}" if np.isfinite(needed) else f"more than {LABELS[-1]}"
            lines.append(
                f"{labels} labels by {name} reach {accuracy:.3f}; at random that takes {told}"
            )
        better = found[name] - found["random"]
        paired = better.mean(axis=0), better.std(axis=0, ddof=1) / np.sqrt(SEEDS)
        cells = [f"{d:+.3f} +- {e:.3f}" for d, e in zip(*paired, strict=True)]
        lines.append(f"{name} less random, paired by seed: {', '.join(cells[1:])}")
    text = "\n".join(lines) + "\n"
    RESULTS.write_text(text)
    print(text, end="")


if __name__ == "__main__":
    main()
