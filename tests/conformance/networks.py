"""The networks that every method is tried on, with random weights that make sense of an image.

Fresh batch norm lets scores fade or explode, and ConvNeXt's fresh blocks do next to nothing: here
norms have statistics of some images, and blocks have their say.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from attribution.batch import reproducible
from training.networks import build

CLASSES = 4
SIZE = 64


@dataclass(frozen=True)
class Example:
    """A network, and what is known about it."""

    architecture: str
    first: str
    """Its first convolution."""
    last: str
    """A layer with places, near the scores."""
    rectifier: str = "relu"
    """Its nonlinearity."""
    dropout: bool = False
    """Whether there is active dropout."""
    options: tuple[tuple[str, Any], ...] = ()
    """Further arguments of the architecture."""

    def __str__(self) -> str:
        return "-".join([self.architecture, *(str(value) for _, value in self.options)])

    @property
    def is_rectified(self) -> bool:
        """Whether deconvnet and guided backpropagation are defined."""
        return self.rectifier.startswith("relu")

    def make(self) -> nn.Module:
        """Build it, the same each time, in evaluation mode."""
        with torch.random.fork_rng(), reproducible():
            torch.manual_seed(0)
            network = build(self.architecture, CLASSES, options=dict(self.options))
            _scale_blocks(network)
            _measure_norms(network)
        return network.eval().requires_grad_(False)


TORCHVISION = (
    Example("torchvision:resnet18", "conv1", "layer4"),
    Example("torchvision:resnet50", "conv1", "layer4"),
    Example("torchvision:vgg16", "features.0", "features.28", dropout=True),
    Example("torchvision:efficientnet_b0", "features.0.0", "features.8", "silu", dropout=True),
    Example("torchvision:convnext_tiny", "features.0.0", "features.7", "gelu"),
    Example("torchvision:densenet121", "features.conv0", "features.norm5"),
    Example("torchvision:mobilenet_v2", "features.0.0", "features.18", "relu6", dropout=True),
)
TIMM = (
    Example("timm:resnet18", "conv1", "layer4"),
    Example("timm:resnet50", "conv1", "layer4"),
    Example("timm:vgg16", "features.0", "features.28"),
    Example("timm:efficientnet_b0", "conv_stem", "bn2", "silu"),
    Example("timm:convnext_tiny", "stem.0", "stages.3", "gelu"),
    Example("timm:densenet121", "features.conv0", "features.norm5"),
    Example("timm:mobilenetv2_100", "conv_stem", "bn2", "relu6"),
)
ZOOBOT = (Example("zoobot:convnext_atto", "encoder.stem.0", "encoder.stages.3", "gelu", True),)

_PLAIN = (("style", "vgg"), ("dropout_place", "both"))
_RESIDUAL = (("style", "resnet"), ("residual", True), ("dropout", 0.0))
FAMILY = (
    Example("occulta:cnn", "stages.0.0.body.0", "stages.3", dropout=True, options=_PLAIN),
    Example("occulta:cnn", "stages.0.0.body.0", "stages.3", options=_RESIDUAL),
)


def some_images(count: int, seed: int = 1) -> Tensor:
    """Draw smooth blobs with noise, as a galaxy is, (count, 3, SIZE, SIZE)."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.randn(count, 3, 8, 8, generator=generator)
    smooth = nn.functional.interpolate(coarse, SIZE, mode="bicubic", align_corners=False)
    return smooth + 0.3 * torch.randn(smooth.shape, generator=generator)


def _scale_blocks(network: nn.Module) -> None:
    for name, values in network.named_parameters():
        # torchvision's layer_scale and timm's gamma begin at 1e-6.
        if name.endswith(("layer_scale", ".gamma")):
            nn.init.uniform_(values, 0.2, 0.6)


@torch.no_grad()
def _measure_norms(network: nn.Module) -> None:
    norms: list[Any] = [m for m in network.modules() if isinstance(m, nn.BatchNorm2d)]
    momentum = [norm.momentum for norm in norms]
    network.eval()
    for norm in norms:
        norm.train()
        norm.momentum = 1.0
    network(some_images(16, seed=0))
    for norm, before in zip(norms, momentum, strict=True):
        norm.momentum = before
