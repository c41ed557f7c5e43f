"""How much faster the last layer is trained on features that are computed once.

Run it with ``python -m benchmarks.transfer``; it writes ``benchmarks/results/transfer.txt``. A
network of survey A is trained on the same galaxies of survey B, for the same epochs: its last layer
on features, its last layer with the rest frozen but computed in every step, and all of it.
"""

from __future__ import annotations

import copy
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from training.augmentation import NO_AUGMENTATION
from training.examples import Examples
from training.fit import FitSettings, fit
from training.networks import build
from training.simulation import CLASSES, PREPROCESS, SURVEYS, SurveyModel, simulate
from training.transfer import Transfer, freedom_of, transfer

RESULTS = Path(__file__).parent / "results" / "transfer.txt"
SOURCE, TARGET, HELD_OUT, EPOCHS = 1500, 400, 400, 20


def observe(model: SurveyModel, first: int, last: int) -> Examples:
    """Simulate galaxies as a network sees them."""
    block = simulate(model, 1, range(first, last))
    mean, std = (np.array(PREPROCESS[k], np.float32)[:, None, None] for k in ("mean", "std"))
    images = (np.arcsinh(block.images / np.float32(PREPROCESS["scale"])) - mean) / std
    labels = np.array([CLASSES.index(str(label)) for label in block.columns["label"]])
    return Examples(images, labels)


def main() -> None:
    """Measure, print and write the table."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    trained = build("occulta:small_cnn", len(CLASSES))
    with tempfile.TemporaryDirectory() as folder:
        parts = observe(SURVEYS["A"], 0, SOURCE), observe(SURVEYS["A"], SOURCE, SOURCE + 200)
        fit(trained, *parts, FitSettings(epochs=5), Path(folder))
    train, validation = (
        observe(SURVEYS["B"], 0, TARGET),
        observe(SURVEYS["B"], TARGET, TARGET + HELD_OUT),
    )
    settings = FitSettings(
        epochs=EPOCHS, patience=EPOCHS, gap_objects=1, augmentation=NO_AUGMENTATION
    )
    lines = [
        f"occulta:small_cnn of {SOURCE} galaxies of survey A, 64 px; {TARGET} of survey B, "
        f"{EPOCHS} epochs, one thread of a CPU",
        f"{'':32}{'seconds':>10}{'best validation accuracy':>28}",
    ]
    took = {}
    for name in ("frozen, features computed once", "frozen, computed in every step", "all"):
        network = copy.deepcopy(trained)
        began = time.perf_counter()
        with tempfile.TemporaryDirectory() as folder:
            place = Path(folder)
            if name == "frozen, computed in every step":
                freedom = freedom_of(network, Transfer("frozen"))
                whole = fit(network, train, validation, settings, place, None, freedom)
                history = whole.history
            else:
                choice = Transfer("frozen" if name.startswith("frozen") else "all")
                done = transfer(network, train, validation, settings, choice, place)
                history = done.fit.history
        took[name] = time.perf_counter() - began
        best = max(record.validation_accuracy for record in history)
        lines.append(f"{name:32}{took[name]:10.1f}{best:28.2f}")
    once, every, everything = took.values()
    lines.append(
        f"features once: {every / once:.1f} times as fast as computing them in every step, "
        f"{everything / once:.1f} times as fast as training all"
    )
    text = "\n".join(lines) + "\n"
    RESULTS.write_text(text)
    print(text, end="")


if __name__ == "__main__":
    main()
