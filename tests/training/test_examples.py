from __future__ import annotations

import threading
from contextlib import closing
from dataclasses import dataclass, field

import numpy as np
import pytest
import torch

from training.examples import Examples, SelectedExamples, read_ahead

BATCHES = [np.array([n, n + 1]) for n in range(0, 20, 2)]
LONG = 60.0
"""Seconds after which a test that waits has failed."""


@dataclass
class Watched:
    """A source that tells which batches were read, and how far ahead of their use."""

    used: int = 0
    taken: list[int] = field(default_factory=list)
    lead: list[int] = field(default_factory=list)
    read: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))

    def take(self, rows):
        self.lead.append(len(self.taken) - self.used)
        self.taken.append(int(rows[0]))
        self.read.release()
        return torch.from_numpy(rows.astype(np.float32)), torch.from_numpy(rows)


@pytest.mark.parametrize("number", [0, 3, 700])
def test_selected_examples_are_like_copies_of_them(number):
    random = np.random.default_rng(0)
    images = random.random((800, 2, 3, 3), dtype=np.float32)
    labels = random.integers(0, 4, 800)
    rows = random.permutation(800)[:number]
    chosen = SelectedExamples(images, rows, labels[rows])
    copies = Examples(images[rows], labels[rows])
    assert len(chosen) == len(copies) == number
    assert chosen.digest() == copies.digest()
    some = np.arange(number)[::2]
    for one, other in zip(chosen.take(some), copies.take(some), strict=True):
        assert torch.equal(one, other)
    np.testing.assert_array_equal(chosen.targets(), copies.targets())
    with pytest.raises(ValueError, match=f"training set has {number} images, it needs 800"):
        chosen.check("training", 800)


def test_a_sample_is_some_of_them_with_their_labels():
    images = np.arange(50, dtype=np.float32).reshape(50, 1, 1, 1)
    rows = np.arange(49, 9, -1)
    chosen = SelectedExamples(images, rows, rows * 2)
    some = chosen.sample(15, seed=1)
    found, labels = some.take(np.arange(15))
    assert (found.ravel() * 2 == labels).all()
    assert len(set(labels.tolist())) == 15
    assert some.rows.tolist() != chosen.sample(15, seed=2).rows.tolist()
    assert chosen.sample(40, seed=1) is chosen


def test_selected_images_of_another_type_are_refused():
    with pytest.raises(ValueError, match="give float32"):
        SelectedExamples(np.zeros((3, 1, 4, 4)), np.arange(2), np.arange(2)).check("training", 1)


def reading():
    return [thread for thread in threading.enumerate() if thread.name == "read-ahead"]


def test_batches_come_whole_and_in_order():
    with closing(read_ahead(Watched(), BATCHES)) as ahead:
        assert [labels.tolist() for _, labels in ahead] == [rows.tolist() for rows in BATCHES]
    assert not reading()


def test_later_batches_are_read_while_one_is_used_but_not_too_many():
    source = Watched()
    with closing(read_ahead(source, BATCHES, depth=2)) as ahead:
        next(ahead)
        # The first is in use: two more wait, and the next one is in the reader's hands.
        for _ in range(4):
            assert source.read.acquire(timeout=LONG)
        for source.used, _ in enumerate(ahead, 1):
            pass
    assert source.taken == [rows[0] for rows in BATCHES]
    # Beside those: the one that the consumer has got but not yet counted.
    assert 3 <= max(source.lead) <= 4


def test_a_reader_that_nobody_needs_any_more_ends():
    source = Watched()
    with closing(read_ahead(source, BATCHES)) as ahead:
        next(ahead)
    assert not reading()
    assert len(source.taken) < len(BATCHES)


def test_no_batches():
    assert list(read_ahead(Watched(), [])) == []


def test_what_the_reader_raises_comes_at_its_batch():
    class Broken(Watched):
        def take(self, rows):
            if rows[0] == 4:
                raise OSError("gone")
            return super().take(rows)

    got = []
    with (
        pytest.raises(OSError, match="gone"),
        closing(read_ahead(Broken(), BATCHES)) as ahead,
    ):
        got.extend(labels[0].item() for _, labels in ahead)
    assert not reading()
