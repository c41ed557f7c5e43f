"""A family of networks in which every ingredient is a switch: depth, shortcuts, norms and more."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

from torch import Tensor, nn

from .initialisation import Scheme, initialise

Style = Literal["vgg", "resnet"]
Normalisation = Literal["batch", "none"]
DropoutPlace = Literal["head", "blocks", "both"]
Activation = Literal["relu", "leaky_relu", "elu", "gelu", "silu", "tanh", "sigmoid"]

_ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "relu": nn.ReLU,
    "leaky_relu": lambda: nn.LeakyReLU(0.1),
    "elu": nn.ELU,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "tanh": nn.Tanh,
    "sigmoid": nn.Sigmoid,
}


@dataclass(frozen=True)
class Ingredients:
    """What a network of the family is made of."""

    style: Style = "vgg"
    """vgg halves the image by max pooling after each stage (Simonyan & Zisserman 2015); resnet by
    the stride of a stage's first convolution (He et al. 2016)."""
    depth: int = 8
    """Convolutions of 3 x 3, spread over the stages; those of shortcuts don't count."""
    stages: int = 4
    """Parts of one image size each; each halves it and doubles the channels."""
    width: int = 16
    """Channels of the first stage; no stage has more than 8 times as many."""
    residual: bool = False
    """Whether each two convolutions have a shortcut round them: the identity, or a convolution of
    1 x 1 where the number of channels changes."""
    normalisation: Normalisation = "batch"
    """Batch norm after each convolution (Ioffe & Szegedy 2015), or none, and biases instead."""
    dropout: float = 0.25
    """Probability that a feature, or in blocks a channel, is dropped (Srivastava et al. 2014)."""
    dropout_place: DropoutPlace = "head"
    """Before the last layer, at the end of each block, or both."""
    activation: Activation = "relu"
    """After each convolution; leaky_relu lets a tenth of what is negative through."""
    initialisation: Scheme = "he"
    """First weights: see `training.initialisation.initialise`."""

    def __post_init__(self) -> None:
        for name in ("depth", "stages", "width"):
            self._require(getattr(self, name) >= 1, name, "must be 1 or more")
        self._require(0.0 <= self.dropout < 1.0, "dropout", "must be in [0, 1)")
        for name, known in _CHOICES.items():
            self._require(getattr(self, name) in known, name, f"must be one of {', '.join(known)}")
        needed = self.stages * self._least
        problem = f"is too few for {self.stages} stages; use {needed} or more, or fewer stages"
        self._require(self.depth >= needed, "depth", problem)

    @property
    def _least(self) -> int:
        """Convolutions that a stage needs."""
        return 2 if self.residual else 1

    @property
    def stage_depths(self) -> tuple[int, ...]:
        """Convolutions of each stage; what is over goes to the last ones."""
        each, over = divmod(self.depth, self.stages)
        return tuple(each + (stage >= self.stages - over) for stage in range(self.stages))

    @property
    def stage_widths(self) -> tuple[int, ...]:
        """Channels of each stage."""
        return tuple(self.width * min(2**stage, 8) for stage in range(self.stages))

    def _require(self, holds: bool, name: str, problem: str) -> None:
        if not holds:
            raise ValueError(f"network: {name} = {getattr(self, name)!r} {problem}")


_CHOICES: dict[str, tuple[str, ...]] = {
    "style": get_args(Style),
    "normalisation": get_args(Normalisation),
    "dropout_place": get_args(DropoutPlace),
    "activation": get_args(Activation),
    "initialisation": get_args(Scheme),
}


class FamilyCNN(nn.Module):
    """A convolutional network made of chosen ingredients.

    Stages of blocks, a mean over the image, dropout and a linear layer. Every step is a module of
    its own and none works in place, so that attribution methods can look at each.

    Parameters
    ----------
    classes
        Number of outputs.
    bands
        Channels of the input (N, bands, H, W); H and W are 2^stages or more.
    ingredients
        What it is made of; by default all defaults.

    Raises
    ------
    ValueError
        If the ingredients don't go together.
    """

    def __init__(self, classes: int, bands: int, ingredients: Ingredients | None = None) -> None:
        super().__init__()
        chosen = ingredients or Ingredients()
        self.stages = nn.Sequential()
        before = bands
        for stage, (depth, width) in enumerate(
            zip(chosen.stage_depths, chosen.stage_widths, strict=True)
        ):
            self.stages.append(_stage(before, width, depth, stage, chosen))
            before = width
        self.pool = nn.AdaptiveAvgPool2d(1)
        in_head = chosen.dropout_place in ("head", "both")
        self.dropout = nn.Dropout(chosen.dropout if in_head else 0.0)
        self.head = nn.Linear(before, classes)
        initialise(self, chosen.initialisation)

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """Return logits (N, classes)."""
        logits: Tensor = self.head(self.dropout(self.pool(self.stages(x_NCHW)).flatten(1)))
        return logits


class Block(nn.Module):
    """One or two convolutions, with a shortcut round them or without.

    Parameters
    ----------
    body
        Convolutions with all that follows them but the last activation.
    shortcut
        What is added to them; None for nothing.
    end
        Activation and dropout.
    """

    def __init__(self, body: nn.Sequential, shortcut: nn.Module | None, end: nn.Sequential) -> None:
        super().__init__()
        self.body = body
        self.shortcut = shortcut
        self.end = end

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """Return (N, channels, H, W), or half of H and W."""
        y_NCHW = self.body(x_NCHW)
        if self.shortcut is not None:
            y_NCHW = y_NCHW + self.shortcut(x_NCHW)
        found: Tensor = self.end(y_NCHW)
        return found


def _stage(before: int, width: int, depth: int, stage: int, chosen: Ingredients) -> nn.Sequential:
    """Make a stage: blocks of two convolutions, the first one alone if their number is odd."""
    found = nn.Sequential()
    sizes = [1] * (depth % 2) + [2] * (depth // 2)
    for number, size in enumerate(sizes):
        halves = chosen.style == "resnet" and stage > 0 and number == 0
        found.append(_block(before, width, size, 2 if halves else 1, chosen))
        before = width
    if chosen.style == "vgg":
        found.append(nn.MaxPool2d(2))
    return found


def _block(before: int, width: int, size: int, stride: int, chosen: Ingredients) -> Block:
    body = nn.Sequential()
    for number in range(size):
        if number:
            body.append(_ACTIVATIONS[chosen.activation]())
        body.extend(_convolution(before, width, 3, 1 if number else stride, chosen))
        before = width if number == 0 else before
    shortcut: nn.Module | None = None
    first = body[0]
    assert isinstance(first, nn.Conv2d)
    if chosen.residual and size == 2:
        same = first.in_channels == width and stride == 1
        shortcut = (
            nn.Identity()
            if same
            else nn.Sequential(*_convolution(first.in_channels, width, 1, stride, chosen))
        )
    end = nn.Sequential(_ACTIVATIONS[chosen.activation]())
    if chosen.dropout_place in ("blocks", "both"):
        end.append(nn.Dropout2d(chosen.dropout))
    return Block(body, shortcut, end)


def _convolution(
    before: int, width: int, kernel: int, stride: int, chosen: Ingredients
) -> list[nn.Module]:
    normed = chosen.normalisation == "batch"
    # The batch norm that follows has its own bias.
    convolution = nn.Conv2d(before, width, kernel, stride, padding=kernel // 2, bias=not normed)
    return [convolution, nn.BatchNorm2d(width)] if normed else [convolution]
