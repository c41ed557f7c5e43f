"""How signals and gradients fare on their way through a network: recorded layer by layer.

Shapes: N images, L layers, R records.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional

Numbers = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Flow:
    """What a batch does in each convolution and linear layer; arrays are (L,), or (R, L)."""

    layers: tuple[str, ...]
    """Names, in the order of the forward pass."""
    signal: Numbers
    """Root mean square of the layer's output."""
    gradient: Numbers
    """Root mean square of the loss's gradient with respect to that output, times N: what one
    object's loss has to say."""
    weight_gradient: Numbers
    """Euclidean norm of the loss's gradient with respect to the weights."""
    weight: Numbers
    """Euclidean norm of the weights."""
    dead: Numbers
    """Share of channels whose output is not positive anywhere, for any object: behind a ReLU they
    say nothing."""


@dataclass(frozen=True)
class Trace:
    """How flow and loss change while a network learns."""

    steps: tuple[int, ...]
    """Steps that were done at each record (R,)."""
    flow: Flow
    """Arrays are (R, L)."""
    losses: Numbers
    """Cross entropy of the batch before each step, and after the last one."""
    accuracies: Numbers
    """Of the same batches."""


def record_flow(network: nn.Module, images_NCHW: Tensor, labels_N: Tensor) -> Flow:
    """Record what a batch and the gradient of its cross entropy do in each layer.

    The network is left as it was, in its own mode; gradients of its parameters are cleared.

    Raises
    ------
    ValueError
        If the network has no convolution or linear layer.
    """
    with _watching(network) as seen:
        loss = functional.cross_entropy(network(images_NCHW), labels_N)
        loss.backward()  # type: ignore[no-untyped-call]
    if not seen:
        raise ValueError("flow: the network has no convolution or linear layer")
    rows = [_measure(part, output, len(images_NCHW)) for _, part, output in seen]
    network.zero_grad(set_to_none=True)
    columns = np.array(rows, dtype=np.float64).T
    return Flow(tuple(name for name, _, _ in seen), *columns)


def trace(
    network: nn.Module,
    images_NCHW: Tensor,
    labels_N: Tensor,
    steps: int,
    learning_rate: float,
    records: Sequence[int],
) -> Trace:
    """Train a network on one batch by plain gradient descent, and record the flow now and then.

    Plain, so that what is seen is the network's doing and no optimiser's.

    Parameters
    ----------
    network
        In training mode; it is trained in place.
    steps
        How many.
    learning_rate
        Of each.
    records
        Before which steps to record, in growing order; ``steps`` is after the last one.
    """
    optimizer = torch.optim.SGD(network.parameters(), lr=learning_rate)
    flows, losses, accuracies = [], [], []
    for step in range(steps + 1):
        if step in records:
            flows.append(record_flow(network, images_NCHW, labels_N))
        logits = network(images_NCHW)
        loss = functional.cross_entropy(logits, labels_N)
        losses.append(float(loss.detach()))
        accuracies.append(float((logits.argmax(1) == labels_N).double().mean()))
        if step < steps:
            optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
    return Trace(
        tuple(record for record in records if record <= steps),
        _stacked(flows),
        np.array(losses),
        np.array(accuracies),
    )


def linear_product(factors: Sequence[float], depth: int) -> tuple[Numbers, Numbers]:
    """Return output and gradient of a linear network whose layers are all diag(w0, w1, ...).

    With the input (1, 1, ...), L layers put out w_k^L. The derivative of that with respect to the
    entry of one of the layers is w_k^(L-1): it vanishes with depth for |w_k| < 1 and explodes for
    |w_k| > 1, whichever layer it is.

    Parameters
    ----------
    factors
        The diagonal (K,).
    depth
        The largest number of layers.

    Returns
    -------
    outputs, gradients
        For 1 to ``depth`` layers (depth, K).
    """
    w_K = np.asarray(factors, dtype=np.float64)
    layers = np.arange(1, depth + 1)[:, None]
    return w_K**layers, w_K ** (layers - 1)


@contextmanager
def _watching(network: nn.Module) -> Iterator[list[tuple[str, nn.Module, Tensor]]]:
    """Collect the outputs of layers, which then keep their gradients, in forward order."""
    seen: list[tuple[str, nn.Module, Tensor]] = []

    def hook(name: str) -> Any:
        def keep(part: nn.Module, _: Any, output: Tensor) -> None:
            output.retain_grad()
            seen.append((name, part, output))

        return keep

    handles = [
        part.register_forward_hook(hook(name))
        for name, part in network.named_modules()
        if isinstance(part, nn.Conv2d | nn.Linear)
    ]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def _measure(part: nn.Module, output: Tensor, count: int) -> tuple[float, ...]:
    weight = part.weight
    assert isinstance(weight, Tensor)
    assert output.grad is not None
    assert weight.grad is not None
    channels = output.detach().flatten(2).amax(dim=2) if output.ndim > 2 else output.detach()
    return (
        _root_mean_square(output.detach()),
        _root_mean_square(output.grad) * count,
        float(weight.grad.double().norm()),
        float(weight.detach().double().norm()),
        float((channels.amax(dim=0) <= 0.0).double().mean()),
    )


def _root_mean_square(values: Tensor) -> float:
    return float(values.double().square().mean().sqrt())


def _stacked(flows: Sequence[Flow]) -> Flow:
    names = [part.name for part in fields(Flow)][1:]
    return Flow(flows[0].layers, *(np.stack([getattr(f, name) for f in flows]) for name in names))
