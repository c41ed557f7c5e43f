"""Deconvnet and guided backpropagation: the way back from a score, with ReLUs that rectify it.

Shape suffixes: N objects, T targets, R rows of one pass, C channels, H height, W width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from typing_extensions import override

from .arrays import ArraySpec, Layout
from .batch import Batch
from .layers import captured
from .method import Method, Targets
from .partials import Array, add
from .partials import Rule as MergeRule
from .relu_rules import Rule, check_relus, relu_rule


@dataclass(frozen=True)
class _RectifiedGradient(Method):
    """What both methods share: one pass over the images under the rule, one way back per target."""

    rules: ClassVar[Mapping[str, MergeRule]] = {"gradient": add}
    relu: ClassVar[Rule]
    long_name: ClassVar[str]
    convention: ClassVar[str]

    @override
    def terms(self, batch: Batch, targets_NT: Targets, parts: range) -> dict[str, Array]:
        with relu_rule(self.relu):
            columns = batch.row_gradients(batch.images, np.maximum(targets_NT, 0))
        found = [column.cpu().numpy().astype(np.float64) for column in columns]
        return {"gradient": np.stack(found, axis=1)}

    @override
    def finish(
        self, total: Mapping[str, Array], batch: Batch, targets_NT: Targets, layout: Layout
    ) -> dict[str, Array]:
        return {"attribution": layout.reduce(total["gradient"]).copy()}

    @override
    def arrays(self, layout: Layout) -> tuple[ArraySpec, ...]:
        return (
            ArraySpec(
                "attribution",
                layout.map_dims,
                layout.map_shape,
                self.long_name,
                units="logit per input unit",
                convention=self.convention,
                is_map=True,
                attributes={"channels": layout.channels},
            ),
        )

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
    relu: ClassVar[Rule] = "deconvnet"
    long_name: ClassVar[str] = "deconvnet projection"
    convention: ClassVar[str] = "Zeiler & Fergus 2014; relu(g) at every ReLU, max-pool switches"


@dataclass(frozen=True)
class GuidedBackprop(_RectifiedGradient):
    """Guided backpropagation: the gradient, rectified at every ReLU that was active.

    Springenberg et al. 2015, "Striving for Simplicity: The All Convolutional Net", section 3.4.
    """

    name: ClassVar[str] = "guided_backprop"
    relu: ClassVar[Rule] = "guided"
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

    Zeiler & Fergus 2014, figure 2: the signal that goes back is the activation itself.

    Parameters
    ----------
    network : in evaluation mode
    images_RCHW : network inputs
    layer : name of a convolutional layer
    channels : channel of the layer, per row
    positions : (y, x) in the layer's map, per row

    Returns
    -------
    (R, C, H, W)
    """
    rows = images_RCHW.detach().requires_grad_()
    with relu_rule("deconvnet"), captured(network, [layer]) as outputs:
        network(rows.clone())
    activation = outputs[layer]
    index = (
        torch.arange(len(rows)),
        torch.as_tensor(channels),
        *torch.as_tensor(positions).unbind(dim=1),
    )
    signal = torch.zeros_like(activation)
    signal[index] = activation.detach()[index]
    (projection,) = torch.autograd.grad(activation, rows, signal)
    return projection
