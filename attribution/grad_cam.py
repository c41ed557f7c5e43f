"""Grad-CAM: which places of a convolutional layer speak for a class.

Shape suffixes: N objects, T targets, K channels of the layer, C channels, H height, W width;
y and x are places of the layer.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import nn
from typing_extensions import override

from .arrays import ArraySpec, Layout
from .batch import Batch, Needs
from .method import Method, Targets
from .partials import Array, Rule, add


@dataclass(frozen=True)
class GradCAM(Method):
    """Grad-CAM: a layer's channels, weighted by their mean gradient and summed.

    Selvaraju et al. 2017, "Grad-CAM: Visual Explanations from Deep Networks via Gradient-based
    Localization", equations 1 and 2. Values are raw: a map that is scaled image by image can't be
    averaged over a survey. The map is enlarged to the image bilinearly.
    """

    layer: str
    """Name of a convolutional layer, usually the last one; `occulta layers` lists them."""
    relu: bool = True
    """Whether only evidence for the class is kept, as in the paper, or evidence against it too."""

    name: ClassVar[str] = "grad_cam"
    rules: ClassVar[Mapping[str, Rule]] = {"map": add}

    @property
    @override
    def needs(self) -> Needs:
        return Needs(gradients=True, layers=(self.layer,))

    @override
    def check(self, network: nn.Module, layout: Layout) -> None:
        shape = layout.layers[self.layer]
        if len(shape) != 3:
            raise ValueError(
                f"layer {self.layer!r} puts out shape {shape}, which has no places; name a "
                "convolutional layer"
            )

    @override
    def terms(self, batch: Batch, targets_NT: Targets, parts: range) -> dict[str, Array]:
        activation_NKyx = batch.activation(self.layer).double()
        columns = []
        for classes_N in np.maximum(targets_NT, 0).T:
            gradient_NKyx = batch.gradient_at_images(classes_N, self.layer).double()
            weight_NK = gradient_NKyx.mean(dim=(2, 3))
            map_Nyx = torch.einsum("nk,nkyx->nyx", weight_NK, activation_NKyx)
            columns.append((map_Nyx.clamp(min=0) if self.relu else map_Nyx).cpu().numpy())
        return {"map": np.stack(columns, axis=1)}

    @override
    def finish(
        self, total: Mapping[str, Array], batch: Batch, targets_NT: Targets, layout: Layout
    ) -> dict[str, Array]:
        channels, height, width = layout.image_shape
        enlarged_NTHW = nn.functional.interpolate(
            torch.from_numpy(total["map"]), (height, width), mode="bilinear", align_corners=False
        ).numpy()
        if layout.channels == "keep":
            # The map has no channels: each gets an equal share, and they sum to the map.
            shared = enlarged_NTHW[:, :, None] / channels
            return {"attribution": np.repeat(shared, channels, axis=2)}
        return {"attribution": enlarged_NTHW}

    @override
    def arrays(self, layout: Layout) -> tuple[ArraySpec, ...]:
        weighted = "sum_k mean(dS/dA_k) A_k"
        return (
            ArraySpec(
                "attribution",
                layout.map_dims,
                layout.map_shape,
                f"Grad-CAM of {self.layer}",
                units="logit",
                convention=f"Selvaraju 2017; {f'relu({weighted})' if self.relu else weighted}, raw "
                "values, enlarged bilinearly (align_corners false)",
                is_map=True,
                attributes={"channels": layout.channels, "layer": self.layer, "relu": self.relu},
            ),
        )

    @override
    def passes(self, layout: Layout) -> tuple[float, float]:
        return (0.0, float(layout.targets))
