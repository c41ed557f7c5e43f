from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest


@pytest.fixture(scope="session")
def read_pixels() -> Callable[[Path, Sequence[int]], list[np.ndarray | None]]:
    """Give every object a Gaussian blob; object 3k + 1 can't be read."""
    y, x = np.mgrid[:12, :12] - 5.5
    blob = np.exp(-(x**2 + y**2) / 8)

    def read(run: Path, indices: Sequence[int]) -> list[np.ndarray | None]:
        return [
            None if index % 3 == 1 else np.stack([blob, 0.8 * blob, 0.5 * blob]).astype("f4")
            for index in indices
        ]

    return read
