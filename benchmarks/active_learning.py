"""How many labels it saves to choose by the network's uncertainty what to label next.

Run it with ``python -m benchmarks.active_learning``; it writes
``benchmarks/results/active_learning.txt``. A network of survey A is taught survey B in rounds: it
is tuned on the labels that there are, Monte-Carlo dropout is taken of the unlabelled galaxies, and
as many labels are bought again: at random, or of the highest mutual information or entropy, as
``occulta select`` lists them. The galaxies to choose from have all classes in equal numbers, or two
of them are rare. Other galaxies of B, as many of each class, judge each round.
"""

from __future__ import annotations

import copy
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import cache
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from attribution import MCDropout, explain
from training.examples import Examples
from training.fit import FitSettings, fit, predict_logits
from training.metrics import accuracy
from training.networks import build
from training.simulation import CLASSES, SURVEYS
from training.transfer import Transfer, transfer

from .transfer import observe

RESULTS = Path(__file__).parent / "results" / "active_learning.txt"
SOURCE, POOL, VALIDATION, TEST = 2400, 2400, 60, 1000
LABELS = (40, 80, 160, 320)
POOLS = {"equal": (0.25, 0.25, 0.25, 0.25), "rare": (0.7, 0.24, 0.03, 0.03)}
"""Shares of smooth, spiral, barred and edge-on galaxies among those to choose from."""
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


@cache
def network_of_a() -> nn.Module:
    """Train the network that knows survey A; once in each process."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    network = build("occulta:small_cnn", len(CLASSES))
    parts = observe(SURVEYS["A"], 0, SOURCE), observe(SURVEYS["A"], SOURCE, SOURCE + 300)
    with tempfile.TemporaryDirectory() as folder:
        fit(network, *parts, FitSettings(epochs=8), Path(folder))
    return network


@cache
def survey_b(pool: str) -> tuple[Examples, Examples, Examples]:
    """Simulate what labels are chosen from, what decides when to stop, and what judges."""
    model = replace(SURVEYS["B"], class_mix=POOLS[pool])
    last = POOL + VALIDATION
    judges = observe(SURVEYS["B"], last, last + TEST)
    return observe(model, 0, POOL), observe(model, POOL, last), judges


def learning_curve(pool_name: str, way: str, seed: int) -> list[float]:
    """Return the accuracy on the galaxies that judge after each round."""
    source = network_of_a()
    pool, validation, judges = survey_b(pool_name)
    rows = np.random.default_rng(seed).permutation(len(pool))[: LABELS[0]]
    curve, network = [], source
    for number, labels in enumerate(LABELS):
        if number:
            scores = WAYS[way](network, pool, seed)
            scores[rows] = -np.inf
            more = np.argsort(-scores, kind="stable")[: labels - len(rows)]
            rows = np.concatenate([rows, more])
        network = copy.deepcopy(source)
        some = Examples(pool.images[rows], pool.labels[rows])
        with tempfile.TemporaryDirectory() as folder:
            settings = replace(SETTINGS, seed=seed)
            transfer(network, some, validation, settings, Transfer("all"), Path(folder))
        curve.append(accuracy(judges.targets(), predict_logits(network, judges).argmax(axis=1)))
    return curve


def labels_for(wanted: float, curve: Floats) -> float:
    """Interpolate how many labels an accuracy needs, in the logarithm; NaN where none suffices."""
    above = np.flatnonzero(curve >= wanted)
    if not len(above):
        return float("nan")
    first = int(above[0])
    if first == 0:
        return float(LABELS[0])
    low, high = np.log(LABELS[first - 1]), np.log(LABELS[first])
    share = (wanted - curve[first - 1]) / (curve[first] - curve[first - 1])
    return float(np.exp(low + share * (high - low)))


def table(pool: str, found: Mapping[str, Floats]) -> Iterator[str]:
    """Write the curves of one pool, and what they say of the labels that were saved."""
    shares = ", ".join(f"{c} {s:.0%}" for c, s in zip(CLASSES, POOLS[pool], strict=True))
    yield f"to choose from: {shares}"
    yield f"{'labels':20}" + "".join(f"{labels:>16}" for labels in LABELS)
    for way, curves in found.items():
        yield f"{way:20}" + "".join(f"{cell:>16}" for cell in _cells(curves, ".3f"))
    for way in list(WAYS)[1:]:
        cells = _cells(found[way] - found["random"], "+.3f")
        yield f"{way} less random, paired by seed: {', '.join(cells[1:])}"
        chance = found["random"].mean(axis=0)
        for labels, reached in zip(LABELS[1:], found[way].mean(axis=0)[1:], strict=True):
            needed = labels_for(reached, chance)
            told = f"{needed:.0f}" if np.isfinite(needed) else f"more than {LABELS[-1]}"
            yield f"  {labels} labels reach {reached:.3f}; at random that takes {told}"


def _cells(curves: Floats, form: str) -> list[str]:
    means, errors = curves.mean(axis=0), curves.std(axis=0, ddof=1) / np.sqrt(len(curves))
    return [f"{mean:{form}} +- {error:.3f}" for mean, error in zip(means, errors, strict=True)]


def main() -> None:
    """Measure, print and write the tables."""
    judges = survey_b("equal")[2]
    before = predict_logits(network_of_a(), judges).argmax(axis=1)
    lines = [
        f"occulta:small_cnn of {SOURCE} galaxies of survey A, tuned on labels of survey B out of "
        f"{POOL} galaxies;",
        f"accuracy on {TEST} others of B, mean and standard error of {SEEDS} seeds; before tuning "
        f"{accuracy(judges.targets(), before):.3f}",
    ]
    # Each process has one thread, and a network of survey A of its own, the same one.
    with ProcessPoolExecutor(mp_context=get_context("spawn")) as processes:
        curves = {
            (pool, way, seed): processes.submit(learning_curve, pool, way, seed)
            for pool in POOLS
            for way in WAYS
            for seed in range(SEEDS)
        }
        for asked, curve in curves.items():
            print(*asked, *(f"{value:.3f}" for value in curve.result()), file=sys.stderr)
    for pool in POOLS:
        found = {
            way: np.array([curves[pool, way, seed].result() for seed in range(SEEDS)])
            for way in WAYS
        }
        lines += ["", *table(pool, found)]
    text = "\n".join(lines) + "\n"
    RESULTS.write_text(text)
    print(text, end="")


if __name__ == "__main__":
    main()
