"""What networks learn from: images with targets, in memory or read when they are needed."""

from __future__ import annotations

import hashlib
import queue
import threading
from collections.abc import Generator, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

Rows = npt.NDArray[np.int64]
Batch = tuple[Tensor, Tensor]

_BLOCK = 512
"""Objects whose images are copied at a time to be hashed."""


class Source(Protocol):
    """Images and targets by row; `Examples` holds them, others may read them at `take`."""

    def __len__(self) -> int:
        """Return the number of objects."""

    def take(self, rows: Rows) -> Batch:
        """Return images (n, C, H, W), float32, and targets of some objects, on any device.

        A fit calls it in a thread of its own, one call at a time; the answer depends on the rows
        alone.
        """

    def targets(self) -> npt.NDArray[Any]:
        """Return all targets: class indices (N,), or votes or numbers (N, K)."""

    def digest(self) -> str:
        """Return a sha256 that another content would change."""

    def check(self, part: str, least: int) -> None:
        """Raise ValueError unless there are ``least`` images that a network can learn from."""


@dataclass(frozen=True)
class Examples:
    """Labelled images in memory."""

    images: npt.NDArray[np.float32] | Tensor
    """float32 (N, C, H, W), as the network shall see them."""
    labels: npt.NDArray[Any] | Tensor
    """Class indices (N,), or votes or numbers (N, K)."""

    def __len__(self) -> int:
        return len(self.images)

    def take(self, rows: Rows) -> Batch:
        """Return some images and labels, on the device where they are."""
        return rows_of(self.images, rows), rows_of(self.labels, rows)

    def targets(self) -> npt.NDArray[Any]:
        """Return all labels."""
        labels = self.labels
        return labels.cpu().numpy() if isinstance(labels, Tensor) else labels

    def check(self, part: str, least: int) -> None:
        """Raise ValueError unless there are images, each with a label."""
        images, labels = self.images, self.labels
        if images.ndim != 4 or images.dtype not in (torch.float32, np.float32):
            raise ValueError(
                f"{part} images are {images.dtype} {tuple(images.shape)}; give float32 (N, C, H, W)"
            )
        if len(labels) != len(images):
            raise ValueError(
                f"{part} set has {len(images)} images and {len(labels)} labels; give one for each"
            )
        _check_number(part, len(images), least)

    def digest(self) -> str:
        """Return a sha256 over images and labels."""
        digest = hashlib.sha256()
        for array in (self.images, self.labels):
            plain = array.cpu().numpy() if isinstance(array, Tensor) else array
            _add(digest, plain.dtype, plain.shape, [plain])
        return digest.hexdigest()


@dataclass(frozen=True)
class SelectedExamples:
    """Some of many labelled images, which stay where they are: in memory or in a mapped file."""

    images: npt.NDArray[np.float32]
    """All of them, float32 (M, C, H, W)."""
    rows: Rows
    """Which are meant (N,)."""
    labels: npt.NDArray[Any]
    """Of these: class indices (N,), or votes or numbers (N, K)."""

    def __len__(self) -> int:
        return len(self.rows)

    def take(self, rows: Rows) -> Batch:
        """Return some images and labels."""
        return rows_of(self.images, self.rows[rows]), rows_of(self.labels, rows)

    def targets(self) -> npt.NDArray[Any]:
        """Return all labels."""
        return self.labels

    def sample(self, most: int, seed: int) -> SelectedExamples:
        """Return so many of them by chance, or all if they are no more."""
        if len(self) <= most:
            return self
        some = np.sort(np.random.default_rng(seed).permutation(len(self))[:most])
        return SelectedExamples(self.images, self.rows[some], self.labels[some])

    def check(self, part: str, least: int) -> None:
        """Raise ValueError unless there are so many images, each with a label."""
        Examples(self.images[:0], self.labels[:0]).check(part, 0)
        _check_number(part, len(self), least)

    def digest(self) -> str:
        """Return the sha256 that `Examples` with copies would have."""
        digest = hashlib.sha256()
        shape = (len(self.rows), *self.images.shape[1:])
        spans = np.split(self.rows, range(_BLOCK, len(self.rows), _BLOCK))
        _add(digest, self.images.dtype, shape, (self.images[span] for span in spans))
        _add(digest, self.labels.dtype, self.labels.shape, [self.labels])
        return digest.hexdigest()


def _add(
    digest: hashlib._Hash,
    dtype: np.dtype[Any],
    shape: tuple[int, ...],
    blocks: Iterable[npt.NDArray[Any]],
) -> None:
    """Add an array that comes in blocks of rows to a digest."""
    digest.update(f"{dtype.str}{shape}".encode())
    for block in blocks:
        digest.update(np.ascontiguousarray(block).data)


def _check_number(part: str, number: int, least: int) -> None:
    if number < least:
        raise ValueError(
            f"{part} set has {number} images, it needs {least} or more; "
            "add objects or lower batch_size"
        )


def rows_of(array: npt.NDArray[Any] | Tensor, rows: Rows) -> Tensor:
    """Copy rows into a tensor of their own; arrays may be read-only, as Ray hands them out."""
    if isinstance(array, Tensor):
        return array[torch.from_numpy(rows).to(array.device)]
    return torch.from_numpy(np.ascontiguousarray(array[rows]))


def read_ahead(source: Source, batches: Sequence[Rows], depth: int = 2) -> Generator[Batch]:
    """Return the batches of a source, read in a thread while earlier ones are used.

    Close the generator, as `contextlib.closing` does, to end the thread before the last batch.

    Parameters
    ----------
    source
        Where they are read.
    batches
        The rows of each.
    depth
        Batches that may wait, beside the one that is being read.

    Raises
    ------
    Exception
        What `Source.take` raised, at the batch where it did.
    """
    waiting: queue.Queue[Batch | BaseException] = queue.Queue(depth)
    over = threading.Event()

    def read() -> None:
        for rows in batches:
            if over.is_set():
                return
            try:
                waiting.put(source.take(rows))
            except BaseException as error:
                waiting.put(error)
                return

    thread = threading.Thread(target=read, name="read-ahead", daemon=True)
    thread.start()
    try:
        for _ in batches:
            answer = waiting.get()
            if isinstance(answer, BaseException):
                raise answer
            yield answer
    finally:
        over.set()
        while thread.is_alive():
            # A reader that waits for room would wait for ever.
            try:
                waiting.get(timeout=0.01)
            except queue.Empty:
                continue
