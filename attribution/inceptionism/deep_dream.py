"""DeepDream: an image, changed so that a layer sees more of what it sees in it already.

Shape suffixes: R rows (images), C channels, H height, W width, h w of an octave.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ..batch import Passes
from ..layers import find_layer
from ..randomness import random_words
from .colours import Colours, Floats
from .parametrisation import Fourier, Shape

_LEVELS = 255
"""Grey levels of the valid range that the published step is counted in."""


@dataclass(frozen=True, eq=False)
class Dreams:
    """Dreams and how strongly they excite."""

    image: NDArray[np.floating]
    """In the network's input space, within the survey's valid range, (R, C, H, W)."""
    start_score: Floats
    """L2 norm of the layer's output for the start image; or the class's logit; (R,)."""
    score: Floats
    """The same for the dream, (R,)."""


@dataclass(frozen=True)
class DeepDream:
    """Ascend the L2 norm of a layer's output over several octaves of the image.

    Mordvintsev, Olah & Tyka 2015, "Inceptionism: going deeper into neural networks".
    """

    layer: str | None = None
    """Layer whose output grows, such as layer3; `occulta layers` lists them."""
    channel: int | None = None
    """One channel of the layer; all of them without it."""
    target: int | None = None
    """Class whose logit grows, instead of a layer."""
    step: float = 1.5
    """Mean change of a pixel at each iteration, in 1/255 of the survey's valid range."""
    iterations: int = 10
    """Iterations in each octave."""
    octaves: int = 4
    """Sizes that the image is worked on at, the smallest first."""
    octave_scale: float = 1.4
    """Ratio of the sizes of successive octaves."""
    jitter: int = 32
    """Largest random shift in pixels, each way; what leaves at one edge enters at the other."""

    def __post_init__(self) -> None:
        if (self.layer is None) == (self.target is None):
            raise ValueError(
                "a dream ascends a layer or a target class: name one of layer and target"
            )
        if self.channel is not None and self.layer is None:
            raise ValueError(f"channel {self.channel} is of no layer; name the layer")
        for name, least in (("iterations", 1), ("octaves", 1), ("jitter", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} is {getattr(self, name)}; choose {least} or more")
        if not 0 < self.step < np.inf:
            raise ValueError(f"step is {self.step}; choose a number above 0")
        if not 1 < self.octave_scale < np.inf:
            raise ValueError(f"octave_scale is {self.octave_scale}; choose a number above 1")

    @property
    def passes(self) -> tuple[int, int]:
        """Forward and backward passes per image."""
        steps = self.octaves * self.iterations
        return steps + 2, steps

    @property
    def ascended(self) -> str:
        """What grows, in words."""
        if self.layer is None:
            return "logit of the class"
        part = "" if self.channel is None else f", channel {self.channel}"
        return f"L2 norm of the output of layer {self.layer}{part}"

    def octave_sizes(self, height: int, width: int) -> list[tuple[int, int]]:
        """Return the sizes that an image is worked on at, the smallest first."""
        factors = [self.octave_scale**octave for octave in reversed(range(self.octaves))]
        return [(max(1, round(height / f)), max(1, round(width / f))) for f in factors]

    def check(self, network: nn.Module, shape: Shape) -> None:
        """Refuse a layer, channel or size that the network does not have or take.

        Raises
        ------
        ValueError
            With the reason and the cure.
        """
        first = next(network.parameters(), torch.zeros(()))
        whole = replace(self, channel=None)
        for height, width in self.octave_sizes(*shape[1:]):
            row = torch.zeros((1, shape[0], height, width)).to(first)
            try:
                with torch.inference_mode():
                    output = whole._output(network, row)
            except ValueError:
                raise
            except Exception as error:  # a user's own network may raise anything
                raise ValueError(
                    f"the network does not accept the octave of {height} x {width} px "
                    f"({' '.join(str(error).split())}); set octaves to 1, or fewer"
                ) from error
            if self.channel is not None and not 0 <= self.channel < output.shape[1]:
                raise ValueError(
                    f"channel is {self.channel}, layer {self.layer!r} has channels 0 to "
                    f"{output.shape[1] - 1}"
                )

    def noise(self, keys: Sequence[int], shape: Shape, colours: Colours) -> Tensor:
        """Draw images to start from that have a survey's colours, float64 (R, C, H, W)."""
        natural = Fourier(shape, colours)
        like = torch.empty((), dtype=torch.float64)
        return colours.clip(natural.images(natural.start(keys, 1.0, like)))

    def dream(
        self,
        network: nn.Module,
        starts_RCHW: Tensor,
        keys: Sequence[int],
        colours: Colours,
        *,
        passes: Passes | None = None,
    ) -> Dreams:
        """Dream on each image; rows don't influence each other.

        Parameters
        ----------
        network : maps (R, C, H, W) to logits; in eval mode, on the images' device
        starts_RCHW : network inputs
        keys : what each row's random numbers are a function of
        colours : of the survey, with a valid range
        passes : where rows through the network are counted
        """
        passes = passes or Passes()
        level = float((colours.high - colours.low).mean()) / _LEVELS
        sizes = self.octave_sizes(*starts_RCHW.shape[2:])
        words = random_words(keys, 2 * self.octaves * self.iterations, torch.device("cpu"))
        shifts = words % (2 * self.jitter + 1) - self.jitter
        shifts = shifts.reshape(len(keys), self.octaves, self.iterations, 2).transpose(0, 1)
        image = _resized(starts_RCHW, sizes[0])
        for octave, (size, shifts_RI2) in enumerate(zip(sizes, shifts, strict=True)):
            base = _resized(starts_RCHW, size)
            if octave:
                smaller = _resized(starts_RCHW, sizes[octave - 1])
                image = base + _resized(image - smaller, size)
            for iteration in range(self.iterations):
                shift_R2 = shifts_RI2[:, iteration]
                moved = self._step(network, _rolled(image, shift_R2), level, passes)
                image = colours.clip(_rolled(moved, -shift_R2))
        start_score_R, score_R = (
            self._score(network, rows, passes) for rows in (starts_RCHW, image)
        )
        return Dreams(image.cpu().numpy(), start_score_R, score_R)

    @torch.enable_grad()
    def _step(self, network: nn.Module, image: Tensor, level: float, passes: Passes) -> Tensor:
        image = image.detach().requires_grad_()
        output = self._output(network, image)
        # Half the squared norm rises in the same direction as the norm, and has a gradient at 0.
        rising = output.sum() if self.layer is None else output.square().sum() / 2
        (gradient,) = torch.autograd.grad(rising, image)
        passes.forward += len(image)
        passes.backward += len(image)
        mean = gradient.double().abs().mean(dim=(1, 2, 3), keepdim=True)
        direction = torch.where(mean > 0, gradient / mean.clamp(min=1e-300), 0)
        return (image + self.step * level * direction).detach().to(image.dtype)

    def _score(self, network: nn.Module, images: Tensor, passes: Passes) -> Floats:
        with torch.inference_mode():
            output = self._output(network, images).double()
        passes.forward += len(images)
        if self.layer is None:
            return output.cpu().numpy()
        return output.square().flatten(1).sum(dim=1).sqrt().cpu().numpy()

    def _output(self, network: nn.Module, images: Tensor) -> Tensor:
        """Return the logit of the class, (R,), or what the layer puts out."""
        # A network may overwrite its input (`x -= mean`): it gets its own copy.
        if self.layer is None:
            logits: Tensor = network(images.clone())
            return logits[:, self.target]
        output = output_of(network, self.layer, images.clone())
        return output if self.channel is None else output[:, self.channel]


class _ReachedError(Exception):
    """Ends a pass at the layer that is asked for: the rest may not fit, and costs time."""


def output_of(network: nn.Module, layer: str, images: Tensor) -> Tensor:
    """Run a network up to a layer.

    Raises
    ------
    ValueError
        If the layer does not run, or puts out no single tensor.
    """
    found: list[Any] = []

    def stop(_layer: nn.Module, _inputs: Any, output: Any) -> None:
        found.append(output)
        raise _ReachedError

    handle = find_layer(network, layer).register_forward_hook(stop)
    try:
        network(images)
    except _ReachedError:
        pass
    finally:
        handle.remove()
    if not found or not isinstance(found[0], Tensor):
        fact = f"puts out a {type(found[0]).__name__}, not one tensor" if found else "does not run"
        raise ValueError(f"layer {layer!r} {fact}; name another")
    return found[0]


def _rolled(images_RCHW: Tensor, shift_R2: Tensor) -> Tensor:
    """Move each image, periodically, by its own rows and columns."""
    moved = [
        image.roll((int(y), int(x)), dims=(1, 2))
        for image, (y, x) in zip(images_RCHW, shift_R2, strict=True)
    ]
    return torch.stack(moved)


def _resized(images_RCHW: Tensor, size: tuple[int, int]) -> Tensor:
    if tuple(images_RCHW.shape[2:]) == size:
        return images_RCHW
    return nn.functional.interpolate(
        images_RCHW, size=size, mode="bilinear", align_corners=False, antialias=True
    )
