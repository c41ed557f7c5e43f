"""Images that a place of a layer answers with an activation of a given direction.

Shape suffixes: R rows (images), F filters (a layer's channels), K directions.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn
from typing_extensions import override

from .class_image import ClassImage
from .colours import Floats
from .deep_dream import output_of

POWER = 4
"""Power of the cosine in the objective (Carter et al. 2019)."""
LEAST_COSINE = 0.1
"""What a smaller cosine counts as: an image that goes the wrong way can still turn round."""
RIDGE = 0.01
"""Added to the second moments, relative to their mean: some filters are copies, or never fire."""
_JITTER = 10
"""Share of what a place sees, 1/10, that its icon is moved by at most: as published, 8 of 80 px."""


def whitened(means_KF: Floats, moment_FF: Floats) -> Floats:
    """Turn mean activations into the directions that tell them from the others.

    The direction of a mean v is M^-1 v, with M the second moment of all activations about 0, as in
    the code of Carter et al. 2019: what all activations have in common says nothing of one of them.

    Parameters
    ----------
    means_KF : one mean activation per line
    moment_FF : mean of the outer products of all activations with themselves

    Returns
    -------
    unit vectors (K, F); zeros for a mean of zeros
    """
    ridge = RIDGE * np.trace(moment_FF) / len(moment_FF)
    directions_KF = np.linalg.solve(moment_FF + ridge * np.eye(len(moment_FF)), means_KF.T).T
    length_K1 = np.linalg.norm(directions_KF, axis=1, keepdims=True)
    return np.asarray(directions_KF / np.where(length_K1 > 0, length_K1, 1.0))


class Likeness(nn.Module):
    """A network that scores images by how a place of a layer answers them.

    Output k is (a . d_k) max(0.1, cos(a, d_k))^4 for the activation a and the unit vector d_k: how
    strong the answer is in that direction, and how pure (Carter et al. 2019). So the class image of
    output k is the icon of direction k.

    Parameters
    ----------
    network : maps (R, C, H, W) to logits; in eval mode
    layer : name of a layer with rows and columns
    place : row and column in its output
    directions_KF : unit vectors
    """

    directions: Tensor

    def __init__(
        self, network: nn.Module, layer: str, place: tuple[int, int], directions_KF: Floats
    ) -> None:
        super().__init__()
        self.network, self.layer, self.place = network, layer, place
        self.register_buffer("directions", torch.as_tensor(directions_KF))

    def activation(self, images_RCHW: Tensor) -> Tensor:
        """Return what the place puts out, (R, F)."""
        y, x = self.place
        # A network may overwrite its input (`x -= mean`): it gets its own copy.
        return output_of(self.network, self.layer, images_RCHW.clone())[:, :, y, x]

    @override
    def forward(self, images_RCHW: Tensor) -> Tensor:
        """Return the scores, (R, K)."""
        activation_RF = self.activation(images_RCHW)
        strength_RK = activation_RF @ self.directions.to(activation_RF).T
        length_R1 = activation_RF.norm(dim=1, keepdim=True).clamp(min=1e-12)
        purity_RK: Tensor = (strength_RK / length_R1).clamp(min=LEAST_COSINE) ** POWER
        return strength_RK * purity_RK


def icon_settings(steps: int, seen: tuple[int, int]) -> ClassImage:
    """Return how icons are drawn: as class images are, but moved less if a place sees little.

    Parameters
    ----------
    steps : steps of gradient ascent
    seen : height and width of what the place sees, in pixels
    """
    usual = ClassImage()
    return ClassImage(steps=steps, jitter=min(usual.jitter, min(seen) // _JITTER))
