"""Occlusion sensitivity: what the score loses when a window of the image is hidden.

Zeiler & Fergus 2014, "Visualizing and Understanding Convolutional Networks", section 4.2.

Shape suffixes: N objects, T targets, K classes, P parts (window positions), C channels, H height,
W width, F filters (a layer's channels), y and x window positions.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from typing_extensions import override

from .arrays import ArraySpec, Layout
from .batch import Batch, Needs
from .fills import Constant, FromImage, canvas, check_channels, check_fill, fill_attributes
from .layers import captured, check_layers, safe_name
from .method import Method, Targets
from .partials import Array, Rule, append
from .windows import Pair, Windows

Pooling = Literal["max", "mean"]
_WORDS = (*get_args(FromImage), "patch_mean")


@dataclass(frozen=True)
class Occlusion(Method):
    """Occlusion sensitivity on a coarse grid of window positions.

    The first window sits at 0, the following ones every ``stride`` pixels, and the last is cut off
    at the image's edge. The same passes give all targets, the class that is the most probable one
    while each window is hidden, and the responses of layers.
    """

    window: Pair
    """Height and width of the hidden window in input pixels, or one number for both."""
    stride: Pair
    """Step between windows in input pixels, at most the window, or one number for both."""
    fill: Constant | FromImage | Literal["patch_mean"] = 0.0
    """What hides the window: a value in the network's input space (0 is the training mean after
    normalisation), or one per channel; image_mean or patch_mean (of the window itself), per
    channel; blur; sky_noise, one draw per object."""
    output: Literal["logit", "probability"] = "logit"
    """Score that is compared: the pre-softmax logit or the probability."""
    blur_sigma: float = 8.0
    """Standard deviation of the blur's Gaussian in input pixels."""
    layers: tuple[str, ...] = ()
    """Layers, such as layer2.0.conv1, whose responses are kept for each hidden window."""
    response: Pooling = "max"
    """A layer's response: maximum or mean over positions, filter by filter."""

    name: ClassVar[str] = "occlusion"
    rules: ClassVar[Mapping[str, Rule]] = {"score": append, "winner": append, "response": append}

    def __post_init__(self) -> None:
        Windows(self.window, self.stride)  # refuses what leaves pixels out
        if self.output not in ("logit", "probability"):
            raise ValueError(f"output is {self.output!r}; choose logit or probability")
        check_fill("fill", self.fill, _WORDS, self.blur_sigma)
        if self.response not in get_args(Pooling):
            raise ValueError(f"response is {self.response!r}; choose max or mean")
        if self.layers:
            check_layers(self.layers)

    @property
    @override
    def needs(self) -> Needs:
        return Needs(layers=self.layers)

    @property
    def _windows(self) -> Windows:
        return Windows(self.window, self.stride)

    def grid_shape(self, height: int, width: int) -> tuple[int, int]:
        """Count the window positions per axis."""
        return self._windows.grid_shape(height, width)

    @override
    def parts(self, image_shape: tuple[int, int, int]) -> int:
        rows, columns = self.grid_shape(*image_shape[1:])
        return rows * columns

    @override
    def terms(self, batch: Batch, targets_NT: Targets, parts: range) -> dict[str, Array]:
        *_, height, width = batch.images.shape
        hidden_P1HW = self._windows.hidden(height, width, parts).to(batch.images.device)
        score_NTP = np.zeros((*targets_NT.shape, len(parts)))
        winner_NP = np.zeros((len(batch), len(parts)), dtype=np.int32)
        filters = sum(batch.activation(layer).shape[1] for layer in self.layers)
        response_NFP = np.zeros((len(batch), filters, len(parts)))
        for n in batch.indices:
            rows_PCHW = torch.where(hidden_P1HW, self._fill(batch, n, hidden_P1HW), batch.images[n])
            with captured(batch.network, self.layers) as outputs:
                logits_PK = batch.forward(rows_PCHW)
            score_NTP[n] = self._score(logits_PK)[:, targets_NT[n]].T
            winner_NP[n] = logits_PK.cpu().numpy().argmax(axis=1)
            if self.layers:
                response_PF = torch.cat([self._pooled(outputs[name]) for name in self.layers], 1)
                response_NFP[n] = response_PF.T.cpu().numpy()
        return {"score": score_NTP, "winner": winner_NP, "response": response_NFP}

    @override
    def finish(
        self, total: Mapping[str, Array], batch: Batch, targets_NT: Targets, layout: Layout
    ) -> dict[str, Array]:
        base_NT = np.take_along_axis(
            self._score(batch.logits_NK), np.maximum(targets_NT, 0), axis=1
        )
        winner_NP = np.where(batch.present[:, None], total["winner"], -1)
        arrays = {"grid": base_NT[:, :, None] - total["score"], "most_probable_class": winner_NP}
        start = 0
        for layer in self.layers:
            filters = layout.layers[layer][0]
            # A copy: the merged terms must stay as they are.
            response_NFP = total["response"][:, start : start + filters].copy()
            arrays[_response(layer)] = response_NFP
            start += filters
        grid_shape = self.grid_shape(*layout.image_shape[1:])
        return {
            name: array.reshape(*array.shape[:-1], *grid_shape) for name, array in arrays.items()
        }

    @override
    def arrays(self, layout: Layout) -> tuple[ArraySpec, ...]:
        parameters = self._parameters(layout)
        windows = self.grid_shape(*layout.image_shape[1:])
        grid = ArraySpec(
            "grid",
            ("target", "window_y", "window_x"),
            (layout.targets, *windows),
            "score lost when the window is hidden",
            units="logit" if self.output == "logit" else "1",
            convention="Zeiler & Fergus 2014; f(x) - f(x occluded), positive is evidence for "
            "the target; the last window is truncated at the edge",
            attributes={**parameters, "output": self.output},
        )
        winner = ArraySpec(
            "most_probable_class",
            ("window_y", "window_x"),
            windows,
            "most probable class when the window is hidden",
            convention="Zeiler & Fergus 2014; argmax_k f_k(x occluded), ties go to the first class",
            dtype="int32",
            attributes=parameters,
        )
        return (grid, winner, *(self._described(layer, layout) for layer in self.layers))

    @override
    def passes(self, layout: Layout) -> tuple[float, float]:
        return (float(self.parts(layout.image_shape)), 0.0)

    @override
    def check(self, network: nn.Module, layout: Layout) -> None:
        channels, height, width = layout.image_shape
        tall, wide = self._windows.window
        if tall > height or wide > width:
            raise ValueError(
                f"window {tall}x{wide} is larger than the image, {height}x{width}; make it smaller"
            )
        check_channels("fill", self.fill, channels)
        for layer in self.layers:
            shape = layout.layers[layer]
            if len(shape) not in (1, 3):
                raise ValueError(
                    f"layer {layer!r} puts out {'x'.join(map(str, shape))} per image, not one "
                    "value or one map per filter; name another"
                )

    @override
    def pixel_map(self, arrays: Mapping[str, Array], layout: Layout) -> Array | None:
        return self._windows.expand(arrays["grid"], layout.image_shape[1:])

    @staticmethod
    def expand(
        grid: NDArray[np.floating],
        image_shape: tuple[int, int],
        window: Pair,
        stride: Pair,
    ) -> NDArray[np.float64]:
        """Expand grids to pixels: each pixel gets the mean of the windows that cover it.

        The pixel map is an exact linear function of the grid, which is why the grid is stored.

        Parameters
        ----------
        grid : (..., window_y, window_x)
        image_shape : height and width in pixels
        window, stride : as of the occlusion that made the grid

        Returns
        -------
        float64 (..., height, width)

        Raises
        ------
        ValueError
            If the grid's last two sizes don't belong to these windows.
        """
        return Windows(window, stride).expand(grid, image_shape)

    def _fill(self, batch: Batch, n: int, hidden_P1HW: Tensor) -> Tensor:
        """Return what hides the windows of object ``n``; it broadcasts to (P, C, H, W)."""
        fill = self.fill
        if fill == "patch_mean":
            hidden_PS = hidden_P1HW.flatten(1).double()
            sum_PC = hidden_PS @ batch.images[n].flatten(1).double().T
            mean_PC = sum_PC / hidden_PS.sum(dim=1, keepdim=True)
            return mean_PC.to(batch.images.dtype)[:, :, None, None]
        # The same for all blocks of windows.
        return batch.once(
            (Occlusion, fill, self.blur_sigma, n),
            lambda: canvas(batch, n, fill, blur_sigma=self.blur_sigma),
        )

    def _pooled(self, output_PF: Tensor) -> Tensor:
        """Pool a layer's output (P, F) or (P, F, y, x) over positions: (P, F), float64."""
        position = output_PF.reshape(*output_PF.shape[:2], -1).double()
        return position.amax(dim=2) if self.response == "max" else position.mean(dim=2)

    def _parameters(self, layout: Layout) -> dict[str, Any]:
        """Describe what all arrays depend on; `expand` needs the first three."""
        return {
            "window": list(self._windows.window),
            "stride": list(self._windows.stride),
            "image_shape": list(layout.image_shape[1:]),
            **fill_attributes("fill", self.fill, self.blur_sigma),
        }

    def _described(self, layer: str, layout: Layout) -> ArraySpec:
        pooling = "maximum" if self.response == "max" else "mean"
        return ArraySpec(
            _response(layer),
            (f"{safe_name(layer)}_channel", "window_y", "window_x"),
            (layout.layers[layer][0], *self.grid_shape(*layout.image_shape[1:])),
            f"response of layer {layer} when the window is hidden",
            convention=f"Zeiler & Fergus 2014; {pooling} of the layer's output over positions",
            attributes={**self._parameters(layout), "layer": layer, "response": self.response},
        )

    def _score(self, logits: Tensor) -> NDArray[np.float64]:
        logits = logits.double()
        score = torch.softmax(logits, dim=-1) if self.output == "probability" else logits
        return np.asarray(score.cpu().numpy())


def _response(layer: str) -> str:
    return f"response_{safe_name(layer)}"
