from __future__ import annotations

import threading
from contextlib import closing
from dataclasses import dataclass, field

import numpy as np
import pytest
import torch

from training.examples import read_ahead

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
