"""A process that trains is killed by the system, in the middle of an epoch and of a write."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from torch import multiprocessing

from training.checkpoints import network_digest
from training.files import Folder
from training.fit import FitSettings, fit
from training.networks import build

SETTINGS = FitSettings(epochs=2, batch_size=16, seed=5, checkpoint_steps=2)


@dataclass
class Stuck:
    """A folder in which one write of a checkpoint never ends."""

    path: Path
    number: int
    writes: int = 0

    def read(self, name):
        return Folder(self.path).read(name)

    def write(self, name, content):
        self.writes += name == "checkpoint.pt"
        if self.writes == self.number:
            (self.path / f".{name}.half.tmp").write_bytes(content[: len(content) // 2])
            (self.path / "stuck").touch()
            time.sleep(3600)
        Folder(self.path).write(name, content)


def new_network(seed=0):
    torch.manual_seed(seed)
    return build("occulta:small_cnn", 2, 1, {"width": 4})


def train(parts, store):
    torch.set_num_threads(1)
    fit(new_network(), *parts, SETTINGS, store)


@pytest.mark.slow
@pytest.mark.parametrize("number", [3, 7])
def test_a_killed_fit_goes_on_to_the_same_bits(easy_examples, tmp_path, number):
    """In the first epoch and in the second, after steps whose checkpoint was never whole."""
    torch.set_num_threads(1)
    parts = easy_examples(100, seed=1), easy_examples(40, seed=2)
    whole = new_network()
    result = fit(whole, *parts, SETTINGS, tmp_path / "whole")
    folder = tmp_path / "killed"
    folder.mkdir()
    process = multiprocessing.get_context("spawn").Process(
        target=train, args=(parts, Stuck(folder, number))
    )
    process.start()
    try:
        end = time.monotonic() + 120
        while not (folder / "stuck").exists():
            assert process.is_alive(), "the fit ended"
            assert time.monotonic() < end, "the fit never came so far"
            time.sleep(0.02)
    finally:
        process.kill()
        process.join(60)
    content = torch.load(folder / "checkpoint.pt", weights_only=True)
    assert content["progress"]["step"] > 0  # in the middle of an epoch
    network = new_network(seed=9)
    rest = fit(network, *parts, SETTINGS, folder)
    assert network_digest(network) == network_digest(whole)
    assert [replace(record, seconds=0.0) for record in rest.history] == [
        replace(record, seconds=0.0) for record in result.history
    ]
