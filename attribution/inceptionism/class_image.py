"""The image that a network thinks most like a class.

Shape suffixes: R rows (images), C channels, H height, W width, K classes, B blocks of steps.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ..batch import Passes
from .colours import Colours, Floats
from .parametrisation import Fourier, Pixels, Shape
from .regularisers import squared_norm, total_variation
from .transforms import Views, look

Drawn = Literal["fourier", "pixel"]
Optimiser = Literal["adam", "ascent"]
_PARAMETRISATIONS: dict[Drawn, type[Fourier | Pixels]] = {"fourier": Fourier, "pixel": Pixels}
_MOST_BLOCKS = 64


@dataclass(frozen=True, eq=False)
class ClassImages:
    """Images and how they came about."""

    image: NDArray[np.floating]
    """In the network's input space, (R, C, H, W)."""
    score: Floats
    """Logit of the class for the transformed image, the mean over each block of
    steps, (R, B)."""
    logit: Floats
    """Logit of the class for the image itself, (R,)."""
    probability: Floats
    """Its softmax probability, (R,)."""


@dataclass(frozen=True)
class ClassImage:
    """Ascend S_c(I) - l2 |I|^2 - total_variation TV(I), with S_c the logit of class c.

    Simonyan, Vedaldi & Zisserman 2014, eq. 1; robust to random views and in decorrelated
    parameters by default as Olah, Mordvintsev & Schubert 2017 do.
    """

    parametrisation: Drawn = "fourier"
    """fourier changes a decorrelated spectrum; pixel changes the pixels."""
    steps: int = 512
    """Steps of gradient ascent."""
    optimiser: Optimiser = "adam"
    """adam (Kingma & Ba 2015), or ascent: plain gradient ascent."""
    rate: float = 0.05
    """Learning rate."""
    noise: float = 0.01
    """Standard deviation of the image to start from, relative to the survey's own."""
    bounded: bool = True
    """Whether values are bent into the survey's valid range."""
    l2: float = 0.0
    """Weight of the sum of squared pixels (lambda of Simonyan 2014)."""
    total_variation: float = 0.0
    """Weight of the sum of absolute differences of neighbouring pixels."""
    blur_every: int = 0
    """Steps between blurs (Yosinski 2015); 0 for none."""
    blur_sigma: float = 0.5
    """Standard deviation of the blur in pixels."""
    pad: int = 12
    """Margin in pixels that is drawn as well and cut off at the end, so that moving the image
    shows no empty edge."""
    jitter: int = 8
    """Largest random shift in pixels, each way."""
    scale: float = 0.1
    """Largest random zoom: the factor is uniform in 1 +- scale."""
    rotate: float = 10.0
    """Largest random turn in degrees, each way."""

    def __post_init__(self) -> None:
        for name, choices in (
            ("parametrisation", get_args(Drawn)),
            ("optimiser", get_args(Optimiser)),
        ):
            if getattr(self, name) not in choices:
                raise ValueError(
                    f"{name} is {getattr(self, name)!r}; choose {' or '.join(choices)}"
                )
        self._check_ranges()

    def _check_ranges(self) -> None:
        if self.steps < 1:
            raise ValueError(f"steps is {self.steps}; take 1 or more")
        for name in ("rate", "blur_sigma"):
            if not 0 < getattr(self, name) < np.inf:
                raise ValueError(f"{name} is {getattr(self, name)}; choose a number above 0")
        none_below_0 = (
            *("noise", "l2", "total_variation", "blur_every"),
            *("pad", "jitter", "scale", "rotate"),
        )
        for name in none_below_0:
            if not 0 <= getattr(self, name) < np.inf:
                raise ValueError(f"{name} is {getattr(self, name)}; choose 0 or more")
        if self.scale >= 1:
            raise ValueError(f"scale is {self.scale}; zoom by less than 1, such as 0.1")

    @property
    def needs_colours(self) -> str:
        """The parameter that makes no sense without a survey's colours; empty if none does."""
        if self.parametrisation == "fourier":
            return "parametrisation: fourier"
        return "bounded: true" if self.bounded else ""

    @property
    def block_ends(self) -> list[int]:
        """Steps at which the blocks of `ClassImages.score` end."""
        blocks = min(self.steps, _MOST_BLOCKS)
        return [(b + 1) * self.steps // blocks for b in range(blocks)]

    @property
    def passes(self) -> tuple[int, int]:
        """Forward and backward passes per image."""
        return self.steps + 1, self.steps

    def draw(
        self,
        network: nn.Module,
        classes: Sequence[int],
        keys: Sequence[int],
        shape: Shape,
        colours: Colours,
        *,
        dtype: torch.dtype = torch.float32,
        device: str | torch.device = "cpu",
        passes: Passes | None = None,
    ) -> ClassImages:
        """Draw one image for each class and key; rows don't influence each other.

        Parameters
        ----------
        network : maps (R, C, H, W) to logits (R, K); in eval mode
        classes : class index per row
        keys : what each row's random numbers are a function of
        shape : channels, height and width of the images
        colours : of the survey
        passes : where rows through the network are counted

        Raises
        ------
        ValueError
            If the parameters need a survey's valid range and `colours` has none.
        """
        if self.bounded and not colours.bounded:
            raise ValueError(
                "bounded needs the survey's valid range, and no survey is given: set bounded false"
            )
        passes = passes or Passes()
        margin = (shape[0], shape[1] + 2 * self.pad, shape[2] + 2 * self.pad)
        written = _PARAMETRISATIONS[self.parametrisation](margin, colours)
        like = torch.empty((), dtype=dtype, device=device)
        parameters = written.start(keys, self.noise, like).requires_grad_()
        scores = self._ascend(network, classes, keys, written, parameters, passes)
        with torch.inference_mode():
            canvas = self._canvas(written, parameters)
            image = canvas[:, :, self.pad :, self.pad :][:, :, : shape[1], : shape[2]].contiguous()
            logits_RK = network(image.clone()).double()
        passes.forward += len(image)
        index = torch.as_tensor(classes, device=logits_RK.device)[:, None]
        blocks = np.split(scores, self.block_ends[:-1], axis=1)
        return ClassImages(
            image.cpu().numpy(),
            np.stack([block.mean(axis=1) for block in blocks], axis=1),
            logits_RK.gather(1, index)[:, 0].cpu().numpy(),
            logits_RK.softmax(dim=1).gather(1, index)[:, 0].cpu().numpy(),
        )

    @torch.enable_grad()
    def _ascend(
        self,
        network: nn.Module,
        classes: Sequence[int],
        keys: Sequence[int],
        written: Fourier | Pixels,
        parameters: Tensor,
        passes: Passes,
    ) -> Floats:
        """Change the parameters in place; return the logit at each step, (R, steps)."""
        kind = {"adam": torch.optim.Adam, "ascent": torch.optim.SGD}[self.optimiser]
        optimiser = kind([parameters], lr=self.rate, maximize=True, foreach=False)
        index = torch.as_tensor(classes, device=parameters.device)[:, None]
        seen = (written.shape[1] - 2 * self.pad, written.shape[2] - 2 * self.pad)
        scores = []
        views = Views(self.jitter, self.scale, self.rotate).draw(keys, self.steps)
        for step, view in enumerate(views):
            if self.blur_every and step and step % self.blur_every == 0:
                parameters.data = written.blurred(parameters.data, self.blur_sigma)
            canvas = self._canvas(written, parameters)
            logits_RK = network(look(canvas, view, seen, written.colours.mean))
            score_R = logits_RK.gather(1, index)[:, 0]
            objective_R = score_R - self._penalty(canvas)
            (parameters.grad,) = torch.autograd.grad(objective_R.sum(), parameters)
            optimiser.step()
            scores.append(score_R.detach().double())
            passes.forward += len(keys)
            passes.backward += len(keys)
        return torch.stack(scores, dim=1).cpu().numpy()

    def _canvas(self, written: Fourier | Pixels, parameters: Tensor) -> Tensor:
        images = written.images(parameters)
        return written.colours.bend(images) if self.bounded else images

    def _penalty(self, canvas_RCHW: Tensor) -> Tensor:
        penalty_R = torch.zeros(len(canvas_RCHW)).to(canvas_RCHW)
        if self.l2:
            penalty_R = penalty_R + self.l2 * squared_norm(canvas_RCHW)
        if self.total_variation:
            penalty_R = penalty_R + self.total_variation * total_variation(canvas_RCHW)
        return penalty_R
