"""Deconvnet and guided backpropagation: the way back from a score, with ReLUs that rectify it.

Shape suffixes: N objects, T targets, R rows of one pass, C channels, H height, W width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from typing_extensions import override

from .arrays import Layout
from .batch import Batch
from .gradients import GradientMap
from .layers import captured
from .relu_rules import ReluRule, check_relus, relu_rule


@dataclass(frozen=True)
class _RectifiedGradient(GradientMap):
    """What both methods share: one pass over the images under the rule, one way back per target."""

    relu: ClassVar[ReluRule]

    @override
    def _gradients(self, batch: Batch, classes_NT: NDArray[np.int64]) -> list[Tensor]:
        with relu_rule(self.relu):
            return batch.row_gradients(batch.images, classes_NT)

    @override
    def _attribution(
        self, gradient_NTCHW: NDArray[np.float64], image_N1CHW: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        return gradient_NTCHW.copy()

    @override
    def passes(self, layout: Layout) -> tuple[float, float]:
        return (1.0, float(layout.targets))

    @override
    def check(self, network: nn.Module, layout: Layout) -> None:
        check_relus(network, layout.image_shape, self.name)


@dataclass(frozen=True)
class Deconvnet(_RectifiedGradient):
    """Deconvnet: from the pre-softmax score back to the pixels; ReLUs pass what is positive.

    Zeiler & Fergus 2014, "Visualizing and Understanding Convolutional Networks", section 2.1:
    convolutions are transposed, max pooling is undone by its switches, and each ReLU rectifies
    the signal that comes back, whatever its own input was.
    """

    name: ClassVar[str] = "deconvnet"
    relu: ClassVar[ReluRule] = "deconvnet"
    long_name: ClassVar[str] = "deconvnet projection"
    convention: ClassVar[str] = "Zeiler & Fergus 2014; relu(g) at every ReLU, max-pool switches"


@dataclass(frozen=True)
class GuidedBackprop(_RectifiedGradient):
    """Guided backpropagation: the gradient, rectified at every ReLU that was active.

    Springenberg et al. 2015, "Striving for Simplicity: The All Convolutional Net", section 3.4.
    """

    name: ClassVar[str] = "guided_backprop"
    relu: ClassVar[ReluRule] = "guided"
    long_name: ClassVar[str] = "guided backpropagation"
    convention: ClassVar[str] = "Springenberg 2015; relu(g) [x > 0] at every ReLU"


@torch.enable_grad()
def project(
    network: nn.Module,
    images_RCHW: Tensor,
    layer: str,
    channels: Sequence[int],
    positions: Sequence[tuple[int, int]],
) -> Tensor:
    """Project one activation per row back to the pixels, all others of its layer set to zero.

    Zeiler & Fergus 2014, figure 2: the signal that goes back is the activation itself. Their maps
    are rectified: name the ReLU after a convolution, not the convolution.

    Parameters
    ----------
    network : in evaluation mode
    images_RCHW : network inputs
    layer : name of a layer that puts out (channel, y, x)
    channels : channel of the layer, per row
    positions : (y, x) in the layer's map, per row

    Returns
    -------
    (R, C, H, W)

    Raises
    ------
    ValueError
        If the layer has no such channels or positions, or the network's nonlinearities no such
        rule.
    """
    check_relus(network, tuple(images_RCHW.shape[1:]), "the deconvnet projection")
    rows = images_RCHW.detach().requires_grad_()
    with relu_rule("deconvnet"), captured(network, [layer]) as outputs:
        network(rows.clone())
    activation = outputs[layer]
    places = [(c, *position) for c, position in zip(channels, positions, strict=True)]
    _check_places(layer, tuple(activation.shape), places)
    index = (torch.arange(len(rows)), *torch.as_tensor(places).unbind(dim=1))
    signal = torch.zeros_like(activation)
    signal[index] = activation.detach()[index]
    (projection,) = torch.autograd.grad(activation, rows, signal)
    return projection


def _check_places(layer: str, shape: tuple[int, ...], places: Sequence[tuple[int, ...]]) -> None:
    rows, *sizes = shape
    if len(sizes) != 3:
        raise ValueError(
            f"layer {layer!r} puts out shape {tuple(sizes)}, which has no positions; name a "
            "convolutional layer"
        )
    if len(places) != rows:
        raise ValueError(f"{len(places)} channels and positions for {rows} images; name one each")
    for place in places:
        if not all(0 <= number < size for number, size in zip(place, sizes, strict=True)):
            raise ValueError(
                f"layer {layer!r} puts out (channel, y, x) of shape {tuple(sizes)}; {place} is "
                "outside it"
            )
