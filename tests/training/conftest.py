from __future__ import annotations

import numpy as np
import pytest
import torch

from training.fit import Examples


@pytest.fixture(autouse=True)
def two_threads():
    """Bit-for-bit comparisons need the same number of threads on every machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(min(2, before))
    yield
    torch.set_num_threads(before)


@pytest.fixture
def easy_examples():
    """Make images (n, 1, 32, 32) whose class says where their bright stripe lies."""

    def make(count: int, seed: int) -> Examples:
        random = np.random.default_rng(seed)
        images = random.normal(0.0, 0.5, (count, 1, 32, 32)).astype(np.float32)
        labels = random.integers(0, 2, count)
        images[labels == 0, :, 14:18, :] += 2.0
        images[labels == 1, :, 12:20, 12:20] += 2.0
        return Examples(images, labels)

    return make
