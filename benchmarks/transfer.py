"""How much faster the last layer is trained on features that are computed once.

Run it with ``python -m benchmarks.transfer``; it writes ``benchmarks/results/transfer.txt``. The
same network is trained on the same simulated galaxies for the same epochs: its last layer on
features, its last layer with the rest frozen but computed in every step, and all of it.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from training.augmentation import NO_AUGMENTATION
from training.examples import Examples
from training.fit import FitSettings, fit
from training.networks import build
from training.simulation import CLASSES, PREPROCESS, SURVEYS, simulate
from training.transfer import Transfer, freedom_of, transfer

RESULTS = Path(__file__).parent / "results" / "transfer.txt"


def observe(first: int, last: int) -> Examples:
    block = simulate(SURVEYS["B"], 1, range(first, last))
    mean, std = (np.array(PREPROCESS[k], np.float32)[:, None, None] for k in ("mean", "std"))
    images = (np.arcsinh(block.images / np.float32(PREPROCESS["scale"])) - mean) / std
    labels = np.array([CLASSES.index(str(label)) for label in block.columns["label"]])
    return Examples(images, labels)


def main(architecture: str = "occulta:small_cnn", objects: int = 500, epochs: int = 20) -> None:
    torch.set_num_threads(1)
    train, validation = observe(0, objects), observe(objects, objects + 100)
    settings = FitSettings(epochs=epochs, patience=epochs, augmentation=NO_AUGMENTATION)
    lines = [
        f"{architecture}, {objects} galaxies of 64 px, {epochs} epochs, one thread of a CPU",
        f"{'':32}{'seconds':>10}{'validation accuracy':>22}",
    ]
    took = {}
    for name in ("frozen, features computed once", "frozen, computed in every step", "all"):
        torch.manual_seed(0)
        network = build(architecture, len(CLASSES))
        began = time.perf_counter()
        with tempfile.TemporaryDirectory() as folder:
            if name == "frozen, computed in every step":
                freedom = freedom_of(network, Transfer("frozen"))
                history = fit(
                    network, train, validation, settings, Path(folder), None, freedom
                ).history
            else:
                choice = Transfer("frozen" if name.startswith("frozen") else "all")
                done = transfer(network, train, validation, settings, choice, Path(folder))
                history = done.history
        took[name] = time.perf_counter() - began
        share = history[-1].validation_accuracy
        lines.append(f"{name:32}{took[name]:10.1f}{share:22.2f}")
    once, every, whole = took.values()
    lines.append(
        f"features once: {every / once:.0f} times as fast, {whole / once:.0f} times as all"
    )
    text = "\n".join(lines) + "\n"
    RESULTS.write_text(text)
    print(text, end="")


if __name__ == "__main__":
    main(*sys.argv[1:2])
