"""Networks by name: Occulta's own, torchvision's and timm's; random weights, never a download."""

from __future__ import annotations

import difflib
import importlib
import itertools
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn

from .family import FamilyCNN, Ingredients
from .zoobot import EncoderAndHead, dirichlet_head, linear_head

Options = Mapping[str, Any]


class SmallCNN(nn.Module):
    """A convolutional network that one core runs over a 64 px image in about a millisecond.

    Four blocks of convolution, batch norm, ReLU and max pooling, then a mean over the image and a
    head of two layers. Every step is a module of its own and none works in place, so that
    attribution methods can look at each.

    Parameters
    ----------
    classes
        Number of outputs.
    bands
        Channels of the input (N, bands, H, W); H and W are 32 or more.
    width
        Channels of the first block; the others have 2, 4 and 6 times as many.
    dropout
        Probability of a dropped feature before the head; inside the head it is the same. Above 0,
        Monte-Carlo dropout has something to sample.
    """

    def __init__(self, classes: int, bands: int, width: int = 16, dropout: float = 0.25) -> None:
        super().__init__()
        _require(width >= 1, f"width = {width}", "use 1 or more channels")
        _require(0.0 <= dropout < 1.0, f"dropout = {dropout}", "use a probability below 1")
        widths = (bands, width, 2 * width, 4 * width, 6 * width)
        self.features = nn.Sequential(
            *(_block(before, after) for before, after in itertools.pairwise(widths))
        )
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Sequential(
            nn.Dropout(dropout),
            nn.Linear(widths[-1], 64),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(64, classes),
        )

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """Return logits (N, classes)."""
        logits: Tensor = self.head(self.pool(self.features(x_NCHW)).flatten(1))
        return logits


def _block(before: int, after: int) -> nn.Sequential:
    return nn.Sequential(
        # The batch norm that follows has its own bias.
        nn.Conv2d(before, after, 3, padding=1, bias=False),
        nn.BatchNorm2d(after),
        nn.ReLU(),
        nn.MaxPool2d(2),
    )


def _of_family(**habits: Any) -> Callable[..., nn.Module]:
    """Return a constructor of the family's networks that have some habits."""

    def make(classes: int, bands: int, **options: Any) -> nn.Module:
        return FamilyCNN(classes, bands, Ingredients(**{**habits, **options}))

    return make


OWN: Mapping[str, Callable[..., nn.Module]] = {
    "small_cnn": SmallCNN,
    "cnn": _of_family(),
    "vgg_like": _of_family(style="vgg"),
    "resnet_like": _of_family(style="resnet", residual=True, depth=16),
}
"""Networks of the family ``occulta:``."""


def build(
    architecture: str, classes: int, bands: int = 3, options: Options | None = None
) -> nn.Module:
    """Build a network with random weights.

    Parameters
    ----------
    architecture
        ``occulta:small_cnn``; ``occulta:cnn`` with the fields of `Ingredients` as options, of which
        ``occulta:vgg_like`` and ``occulta:resnet_like`` have other defaults; ``torchvision:NAME``
        or ``timm:NAME``, NAME being a classifier; or ``zoobot:NAME`` with NAME a timm encoder that
        gets Zoobot's head.
    classes
        Number of outputs K; the head is made for it.
    bands
        Channels of the input; a first convolution for another number is replaced.
    options
        Further arguments of the network's constructor, such as ``{"dropout": 0.3}``.

    Returns
    -------
    nn.Module
        In training mode; maps (N, bands, H, W) to logits (N, K). Weights come from torch's global
        generator: seed it for a reproducible network.

    Raises
    ------
    ValueError
        For an unknown name, with the nearest known ones, or options that the network refuses.
    """
    _require(classes >= 1, f"classes = {classes}", "a network needs one class or more")
    _require(bands >= 1, f"bands = {bands}", "an image needs one band or more")
    family, separator, name = architecture.partition(":")
    builders = {
        "occulta": _build_own,
        "torchvision": _build_torchvision,
        "timm": _build_timm,
        "zoobot": _build_zoobot,
    }
    if not separator or family not in builders:
        raise ValueError(
            f"architecture {architecture!r}: no such family of networks; "
            f"write FAMILY:NAME with a family of {', '.join(builders)}"
        )
    try:
        return builders[family](name, classes, bands, dict(options or {}))
    except TypeError as error:
        raise ValueError(
            f"architecture {architecture!r}: options {dict(options or {})} are refused: {error}; "
            "use the arguments of the network's constructor"
        ) from error


def head_of(network: nn.Module) -> str | None:
    """Return the name of the last layer with weights: the one that makes the logits."""
    layers = [name for name, part in network.named_modules() if _has_outputs(part)]
    return layers[-1] if layers else None


def outputs_of(network: nn.Module) -> int | None:
    """Return how many logits the last layer makes, or None for a network without layers."""
    name = head_of(network)
    if name is None:
        return None
    return int(getattr(network.get_submodule(name), "weight").shape[0])  # noqa: B009


def _has_outputs(part: nn.Module) -> bool:
    return isinstance(part, nn.Linear | nn.Conv2d)


def _build_own(name: str, classes: int, bands: int, options: dict[str, Any]) -> nn.Module:
    if name not in OWN:
        raise _unknown("occulta", name, list(OWN))
    return OWN[name](classes, bands, **options)


def _build_torchvision(name: str, classes: int, bands: int, options: dict[str, Any]) -> nn.Module:
    # torchvision and timm take seconds and 200 MB to import: only their networks need them.
    models = importlib.import_module("torchvision.models")
    known = models.list_models(module=models)
    if name not in known:
        raise _unknown("torchvision", name, known)
    if name in ("googlenet", "inception_v3"):
        # Otherwise they return a tuple when training, and warn about their slow initialisation.
        options = {"aux_logits": False, "init_weights": False, **options}
    network: nn.Module = models.get_model(name, weights=None, num_classes=classes, **options)
    _adapt_first_convolution(network, bands)
    return network


def _build_timm(name: str, classes: int, bands: int, options: dict[str, Any]) -> nn.Module:
    timm = importlib.import_module("timm")
    if not timm.is_model(name):
        raise _unknown("timm", name, timm.list_models())
    network: nn.Module = timm.create_model(
        name, pretrained=False, num_classes=classes, in_chans=bands, **options
    )
    return network


def _build_zoobot(name: str, classes: int, bands: int, options: dict[str, Any]) -> nn.Module:
    heads = {"linear": linear_head, "dirichlet": dirichlet_head}
    head = options.pop("head", "linear")
    _require(head in heads, f"head = {head!r}", f"use {' or '.join(heads)}")
    known = ("dropout", "answers", "first") if head == "dirichlet" else ("dropout",)
    given = {key: options.pop(key) for key in known if key in options}
    # timm: without classes, the encoder ends in the features that are pooled over the image.
    encoder: Any = _build_timm(name, 0, bands, options)
    return EncoderAndHead(encoder, heads[head](int(encoder.num_features), classes, **given))


def _adapt_first_convolution(network: nn.Module, bands: int) -> None:
    """Replace the first convolution by one of the same kind that takes ``bands`` channels."""
    for name, part in network.named_modules():
        if isinstance(part, nn.Conv2d):
            if part.in_channels != bands:
                parent, _, attribute = name.rpartition(".")
                owner = network.get_submodule(parent)
                setattr(owner, attribute, _same_convolution(part, bands))
            return


def _same_convolution(like: nn.Conv2d, bands: int) -> nn.Conv2d:
    # torch types these as tuples of any length; Conv2d has two.
    geometry: dict[str, Any] = {
        "kernel_size": like.kernel_size,
        "stride": like.stride,
        "padding": like.padding,
        "dilation": like.dilation,
    }
    return nn.Conv2d(bands, like.out_channels, bias=like.bias is not None, **geometry)


def _unknown(family: str, name: str, known: list[str]) -> ValueError:
    close = difflib.get_close_matches(name, known, n=3, cutoff=0.5) or sorted(known)[:3]
    return ValueError(
        f"architecture '{family}:{name}': {family} has no such network; "
        f"did you mean {' or '.join(repr(f'{family}:{match}') for match in close)}?"
    )


def _require(holds: bool, fact: str, cure: str) -> None:
    if not holds:
        raise ValueError(f"network: {fact} is invalid; {cure}")
