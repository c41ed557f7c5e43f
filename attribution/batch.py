"""The objects that go through the network together, and the passes their methods share.

Shape suffixes: N objects (one micro-batch), K classes, C channels, H height, W width,
R rows of one pass.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from .layers import captured
from .randomness import key


@dataclass(frozen=True)
class Needs:
    """What methods need of the pass over the images; one pass serves them all."""

    gradients: bool = False
    """Whether it is differentiated."""
    layers: tuple[str, ...] = ()
    """Layers whose outputs are kept."""

    def __or__(self, other: Needs) -> Needs:
        layers = dict.fromkeys((*self.layers, *other.layers))
        return Needs(self.gradients or other.gradients, tuple(layers))


_IMAGES = ""
"""The images among the tensors that can be differentiated by; layers have other names."""
Result = TypeVar("Result")


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
    needs : what the methods of the job need of the pass over the images
    """

    def __init__(
        self,
        network: nn.Module,
        images_NCHW: Tensor,
        present_N: NDArray[np.bool_],
        ids: Sequence[str],
        *,
        seed: int = 0,
        needs: Needs = Needs(),
    ) -> None:
        self.network = network
        self.images = images_NCHW
        self.present = present_N
        self.ids = ids
        self.seed = seed
        self.needs = needs
        self.passes = Passes()
        self._gradients: dict[bytes, dict[str, Tensor]] = {}
        self._results: dict[Hashable, Any] = {}

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

    @torch.enable_grad()
    def row_gradients(self, rows_NCHW: Tensor, classes_NT: NDArray[np.int64]) -> list[Tensor]:
        """Differentiate, for each target, one logit per row with respect to that row.

        Returns
        -------
        (N, C, H, W) per target; one forward for all, one backward per target
        """
        rows = rows_NCHW.detach().requires_grad_()
        logits_NK = self._logits(rows)
        self.passes.forward += len(rows)
        gradients: list[Tensor] = []
        for t, classes_N in enumerate(classes_NT.T):
            index = torch.as_tensor(classes_N, device=logits_NK.device)[:, None]
            score = logits_NK.gather(1, index).sum()
            last = t == classes_NT.shape[1] - 1
            gradients += torch.autograd.grad(score, rows, retain_graph=not last)
            self.passes.backward += len(rows)
        return gradients

    @cached_property
    def _graph(self) -> tuple[Tensor, dict[str, Tensor]]:
        """Logits of the images, and the images and layers that can be differentiated by."""
        images = self.images.detach()
        if self.needs.gradients:
            images.requires_grad_()
        self.passes.forward += len(images)
        grad_mode = torch.set_grad_enabled(self.needs.gradients)
        with grad_mode, captured(self.network, self.needs.layers) as outputs:
            logits_NK = self._logits(images)
        return logits_NK, {_IMAGES: images, **outputs}

    def _logits(self, rows_RCHW: Tensor) -> Tensor:
        # A network may overwrite its input (`x -= mean`): it gets its own copy.
        logits_RK: Tensor = self.network(rows_RCHW.clone())
        return logits_RK

    @property
    def logits_NK(self) -> Tensor:
        """Pre-softmax scores of the images, computed once."""
        return self._graph[0].detach()

    def activation(self, layer: str) -> Tensor:
        """Return what a layer that `needs` names puts out for the images, (N, ...)."""
        return self._graph[1][layer].detach()

    @torch.enable_grad()
    def gradient_at_images(self, classes_N: NDArray[np.int64], layer: str = "") -> Tensor:
        """Differentiate one logit per object at the images, each distinct request once.

        Parameters
        ----------
        classes_N : class index per object
        layer : differentiate by the output of this layer that `needs` names instead

        Returns
        -------
        (N, C, H, W), or the shape of the layer's output
        """
        request = classes_N.tobytes()
        if request not in self._gradients:
            logits_NK, leaves = self._graph
            index = torch.as_tensor(classes_N, device=logits_NK.device)[:, None]
            score = logits_NK.gather(1, index).sum()
            found = torch.autograd.grad(score, list(leaves.values()), retain_graph=True)
            self._gradients[request] = dict(zip(leaves, found, strict=True))
            self.passes.backward += len(logits_NK)
        return self._gradients[request][layer or _IMAGES]

    def once(self, request: Hashable, compute: Callable[[], Result]) -> Result:
        """Compute something that several methods need for this batch, and keep it."""
        if request not in self._results:
            self._results[request] = compute()
        result: Result = self._results[request]
        return result


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
