"""Which network is explained, and what its input looks like."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from .base import Spec
from .survey import PreprocessSpec


class NetworkSpec(Spec):
    """A trained network."""

    architecture: str
    """torchvision:NAME, timm:NAME, occulta:small_cnn; zoobot:NAME, a timm encoder with Zoobot's
    head (linear, or of a tree of questions by options {head: dirichlet}); or file:PATH.py:FUNCTION
    for your own (called as FUNCTION(classes=, bands=, **options); needs trust: code)."""
    weights: str
    """Path of the trained weights: .safetensors, or .pt, .pth, .ckpt that hold tensors only."""
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")] | None = None
    """Hash that the weights file must have; leave it out to accept the file as it is."""
    classes: Annotated[tuple[str, ...], Field(min_length=1)]
    """Names of the classes in the order of the network's outputs."""
    options: dict[str, Any] = Field(default={})
    """Keyword arguments of the architecture, such as a dropout rate."""
    preprocess: PreprocessSpec = PreprocessSpec()
    """From survey pixels to network input; the same as in training."""
    trust: Literal["code"] | None = None
    """Set to code to run a network that comes as Python source."""
