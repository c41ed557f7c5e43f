"""The objects that go through the network together, and the passes their methods share.

Shape suffixes: N objects (one micro-batch), K classes, C channels, H height, W width,
R rows of one pass.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from .randomness import key


@dataclass
class Passes:
    """Rows that went through the network, counted."""

    forward: int = 0
    backward: int = 0


class Batch:
    """One micro-batch of objects, padded to a fixed number of rows.

    The composition of every pass follows from the batch alone, so its results do not depend on
    which other objects are computed where. Passes that several methods need are run once and kept.

    Parameters
    ----------
    network : maps (R, C, H, W) to logits (R, K); in eval mode, on the images' device
    images_NCHW : network inputs; absent rows hold zeros
    present_N : False for padding and for objects that can't be explained
    ids : the objects' identifiers, which random numbers are keyed by
    seed : the job's seed
    with_gradients : whether any method of the job needs the gradient at the images
    """

    def __init__(
        self,
        network: nn.Module,
        images_NCHW: Tensor,
        present_N: NDArray[np.bool_],
        ids: Sequence[str],
        *,
        seed: int = 0,
        with_gradients: bool = False,
    ) -> None:
        self.network = network
        self.images = images_NCHW
        self.present = present_N
        self.ids = ids
        self.seed = seed
        self.with_gradients = with_gradients
        self.passes = Passes()
        self._gradients: dict[bytes, Tensor] = {}

    def __len__(self) -> int:
        return len(self.present)

    @property
    def block_length(self) -> int:
        """Parts that go through the network in one pass: the micro-batch."""
        return len(self)

    @property
    def indices(self) -> list[int]:
        """Rows that hold an object."""
        return [int(n) for n in np.flatnonzero(self.present)]

    def key(self, n: int, *parts: int | str) -> int:
        """Key random numbers of object ``n`` for a purpose."""
        return key(self.seed, self.ids[n], *parts)

    def forward(self, rows_RCHW: Tensor) -> Tensor:
        """Run the network without gradients: (R, C, H, W) to (R, K)."""
        self.passes.forward += len(rows_RCHW)
        with torch.inference_mode():
            return torch.as_tensor(self._logits(rows_RCHW))

    @torch.enable_grad()
    def gradients(self, rows_RCHW: Tensor, classes: Sequence[int]) -> dict[int, Tensor]:
        """Differentiate the logits of some classes with respect to each row.

        Returns
        -------
        class index -> (R, C, H, W); one forward, one backward per distinct class
        """
        rows = rows_RCHW.detach().requires_grad_()
        logits_RK = self._logits(rows)
        self.passes.forward += len(rows)
        wanted = sorted(set(classes))
        gradients = {}
        for c in wanted:
            (gradients[c],) = torch.autograd.grad(
                logits_RK[:, c].sum(), rows, retain_graph=c != wanted[-1]
            )
            self.passes.backward += len(rows)
        return gradients

    @cached_property
    def _graph(self) -> tuple[Tensor, Tensor]:
        """Images and their logits, with the graph between them if gradients are wanted."""
        if not self.with_gradients:
            return self.images, self.forward(self.images)
        images = self.images.detach().requires_grad_()
        self.passes.forward += len(images)
        with torch.enable_grad():
            return images, self._logits(images)

    def _logits(self, rows_RCHW: Tensor) -> Tensor:
        # A network may overwrite its input (`x -= mean`): it gets its own copy.
        logits_RK: Tensor = self.network(rows_RCHW.clone())
        return logits_RK

    @property
    def logits_NK(self) -> Tensor:
        """Pre-softmax scores of the images, computed once."""
        return self._graph[1].detach()

    @torch.enable_grad()
    def gradient_at_images(self, classes_N: NDArray[np.int64]) -> Tensor:
        """Differentiate one logit per object at the images, each distinct request once.

        Returns
        -------
        (N, C, H, W)
        """
        request = classes_N.tobytes()
        if request not in self._gradients:
            images, logits_NK = self._graph
            index = torch.as_tensor(classes_N, device=logits_NK.device)[:, None]
            score = logits_NK.gather(1, index).sum()
            (self._gradients[request],) = torch.autograd.grad(score, images, retain_graph=True)
            self.passes.backward += len(images)
        return self._gradients[request]


@contextmanager
def reproducible() -> Iterator[None]:
    """Compute with one thread and deterministic kernels, so that bits don't depend on the host.

    Results of convolutions depend on how the work is split over threads. One replica per core is
    also faster than one process with many threads.
    """
    threads = torch.get_num_threads()
    cudnn = torch.backends.cudnn
    before = (cudnn.deterministic, cudnn.benchmark, cudnn.allow_tf32)
    matmul_tf32 = torch.backends.cuda.matmul.allow_tf32
    torch.set_num_threads(1)
    cudnn.deterministic, cudnn.benchmark, cudnn.allow_tf32 = True, False, False
    torch.backends.cuda.matmul.allow_tf32 = False
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        cudnn.deterministic, cudnn.benchmark, cudnn.allow_tf32 = before
        torch.backends.cuda.matmul.allow_tf32 = matmul_tf32
