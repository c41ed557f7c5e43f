from __future__ import annotations

import os
import pickle
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import distributed as dist
from torch import multiprocessing, nn

from training.augmentation import Augmentation
from training.examples import Examples
from training.fit import FitSettings, fit
from training.networks import build
from training.processes import Processes

SETTINGS = FitSettings(
    epochs=2, batch_size=16, seed=5, schedule="constant", optimizer="sgd", learning_rate=0.05,
    class_weights="balanced", label_smoothing=0.1, max_gradient_norm=1.0,
    augmentation=Augmentation(blur=(0.0, 2.0), brightness=0.1),
)  # fmt: skip


class StopHereError(Exception):
    pass


def plain_network():
    """Build a network in which objects don't see each other, and nothing is drawn."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, stride=2), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 15 * 15, 2)
    )


def normed_network():
    torch.manual_seed(0)
    return build("occulta:small_cnn", 2, 1, {"width": 4})


def train(rank, count, folder, make, parts, settings, stop):
    """Make one of the processes of a fit, and leave what it came to."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"file://{folder}/meeting", rank=rank, world_size=count)
    network = make()
    if rank:
        for part in network.parameters():
            nn.init.zeros_(part)  # the first process's weights are the ones that count

    def on_epoch(record):
        if record.epoch == stop:
            raise StopHereError

    try:
        result = fit(network, *parts, settings, folder / "fit", on_epoch)
        history = [replace(record, seconds=0.0) for record in result.history]
        state = {name: part.numpy() for name, part in network.state_dict().items()}
        (folder / f"{rank}.pickle").write_bytes(pickle.dumps((history, state)))
    except StopHereError:
        pass
    finally:
        dist.destroy_process_group()
    # Threads of Gloo still drop tensors: met by a Python that ends, they abort the process.
    os._exit(0)


def train_together(folder, make, parts, settings, stop=None, count=2):
    folder.mkdir(exist_ok=True)
    (folder / "meeting").unlink(missing_ok=True)
    multiprocessing.spawn(train, (count, folder, make, parts, settings, stop), nprocs=count)
    if stop is None:
        return [pickle.loads((folder / f"{n}.pickle").read_bytes()) for n in range(count)]
    return None


def assert_same(first, second):
    assert first[0] == second[0]
    for name, part in first[1].items():
        np.testing.assert_array_equal(part, second[1][name], err_msg=name)


@pytest.fixture
def parts(easy_examples):
    return easy_examples(70, seed=1), easy_examples(31, seed=2)


@pytest.mark.parametrize("objects", [0, 1, 7, 16])
def test_shares_are_the_batch_cut_in_order(objects):
    shares = [Processes(rank, 3).share(objects) for rank in range(3)]
    assert [row for part in shares for row in range(objects)[part]] == list(range(objects))
    sizes = [len(range(objects)[part]) for part in shares]
    assert max(sizes) - min(sizes) <= 1


def test_one_process_is_a_group_of_its_own():
    assert Processes.of_group() == Processes(0, 1)
    assert Processes().sum([1.0, 2.0], torch.device("cpu")) == [1.0, 2.0]


@pytest.mark.slow
def test_two_processes_end_like_one(parts, tmp_path):
    """The same weights in both, and but for rounding those of a single process."""
    first, second = train_together(tmp_path / "two", plain_network, parts, SETTINGS)
    assert_same(first, second)
    alone = plain_network()
    result = fit(alone, *parts, SETTINGS, tmp_path / "one")
    for name, part in alone.state_dict().items():
        np.testing.assert_allclose(first[1][name], part.numpy(), atol=2e-5, err_msg=name)
    for ours, theirs in zip(first[0], result.history, strict=True):
        assert ours.train_loss == pytest.approx(theirs.train_loss, rel=1e-4)
        assert ours.validation_loss == pytest.approx(theirs.validation_loss, rel=1e-4)
        assert ours.still_train_loss == pytest.approx(theirs.still_train_loss, rel=1e-4)
        assert ours.validation_accuracy == pytest.approx(theirs.validation_accuracy)
        assert ours.gradient_norm == pytest.approx(theirs.gradient_norm, rel=1e-3)


@pytest.mark.slow
def test_two_processes_that_were_stopped_end_with_the_same_bits(parts, tmp_path):
    """With batch norm and dropout; the statistics are those of the first process."""
    settings = FitSettings(epochs=2, batch_size=16, seed=5)
    whole = train_together(tmp_path / "whole", normed_network, parts, settings)
    assert_same(*whole)
    train_together(tmp_path / "stopped", normed_network, parts, settings, stop=1)
    rest = train_together(tmp_path / "stopped", normed_network, parts, settings)
    assert_same(whole[0], rest[0])
    assert_same(whole[0], rest[1])
    with pytest.raises(ValueError, match="number of processes changed"):
        fit(normed_network(), *parts, settings, tmp_path / "stopped" / "fit")


def test_a_batch_too_small_for_the_processes_is_refused(parts, tmp_path, monkeypatch):
    monkeypatch.setattr(Processes, "of_group", classmethod(lambda cls: cls(0, 3)))
    monkeypatch.setattr(Processes, "from_first", lambda self, value: value)
    monkeypatch.setattr(Processes, "wrap", lambda self, network, device: network)
    few = Examples(parts[0].images[:4], parts[0].labels[:4])
    settings = replace(SETTINGS, batch_size=2)
    with pytest.raises(ValueError, match="batches of 2 images have none for some of 3 processes"):
        fit(plain_network(), few, parts[1], settings, tmp_path)
