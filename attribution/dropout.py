"""Monte-Carlo dropout: how sure the network is, and whether more data would help.

Gal & Ghahramani 2016, "Dropout as a Bayesian Approximation"; mutual information as in Houlsby et
al. 2011 (BALD).

Shape suffixes: N objects, P parts (dropout samples), K classes.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from typing_extensions import override

from .arrays import ArraySpec, Layout
from .batch import Batch
from .method import Method, Targets
from .partials import Array, Rule, add
from .randomness import key, random_words

_ELEMENTWISE = (nn.Dropout,)
_CHANNELWISE = (nn.Dropout1d, nn.Dropout2d, nn.Dropout3d)


@dataclass(frozen=True)
class MCDropout(Method):
    """Predictive statistics over random sub-networks; batch normalisation stays in evaluation mode.

    Entropies are in nats. Standard deviations are those of the samples (divided by their number).
    """

    samples: int = 100
    """Number of sub-networks, 2 or more."""
    masks: Literal["per_object", "consistent"] = "per_object"
    """per_object draws new masks for each object; consistent uses the same sub-network for every
    object, so that objects can be compared within a sample."""

    name: ClassVar[str] = "mc_dropout"
    rules: ClassVar[Mapping[str, Rule]] = {"p": add, "p_squared": add, "entropy": add}
    targeted: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if self.samples < 2:
            raise ValueError(f"samples is {self.samples}; a spread needs 2 samples or more")
        if self.masks not in ("per_object", "consistent"):
            raise ValueError(f"masks is {self.masks!r}; choose per_object or consistent")

    @override
    def parts(self, image_shape: tuple[int, int, int]) -> int:
        return self.samples

    @override
    def terms(self, batch: Batch, targets_NT: Targets, parts: range) -> dict[str, Array]:
        classes = batch.logits_NK.shape[1]
        p_NK, p_squared_NK = np.zeros((2, len(batch), classes))
        entropy_N = np.zeros(len(batch))
        for n in batch.indices:
            with hashed_dropout(batch.network, self._keys(batch, n, parts)):
                logits_PK = batch.forward(batch.images[n].expand(len(parts), -1, -1, -1))
            p_PK = torch.softmax(logits_PK.double(), dim=1).cpu().numpy()
            p_NK[n], p_squared_NK[n] = p_PK.sum(axis=0), np.square(p_PK).sum(axis=0)
            entropy_N[n] = entropy(p_PK).sum()
        return {"p": p_NK, "p_squared": p_squared_NK, "entropy": entropy_N}

    @override
    def finish(
        self, total: Mapping[str, Array], batch: Batch, targets_NT: Targets, layout: Layout
    ) -> dict[str, Array]:
        mean_NK = total["p"] / self.samples
        variance_NK = total["p_squared"] / self.samples - np.square(mean_NK)
        predictive_N = entropy(mean_NK)
        expected_N = total["entropy"] / self.samples
        return {
            "probability_mean": mean_NK,
            "probability_std": np.sqrt(np.maximum(variance_NK, 0)),
            "predictive_entropy": predictive_N,
            "expected_entropy": expected_N,
            # Jensen's inequality makes it non-negative but for the last bits.
            "mutual_information": np.maximum(predictive_N - expected_N, 0),
        }

    @override
    def arrays(self, layout: Layout) -> tuple[ArraySpec, ...]:
        parameters = {"samples": self.samples, "masks": self.masks}
        described = {
            "probability_mean": ("mean probability over sub-networks", "E p"),
            "probability_std": ("standard deviation over sub-networks", "sqrt(E p^2 - (E p)^2)"),
            "predictive_entropy": ("entropy of the mean prediction", "H[E p]"),
            "expected_entropy": ("mean entropy of the predictions", "E H[p]"),
            "mutual_information": ("mutual information, epistemic", "H[E p] - E H[p] (BALD)"),
        }
        return tuple(
            ArraySpec(
                name,
                ("class",) if name.startswith("probability") else (),
                (layout.classes,) if name.startswith("probability") else (),
                long_name,
                units="1" if name.startswith("probability") else "nat",
                convention=f"Gal & Ghahramani 2016; {convention}",
                attributes=parameters,
            )
            for name, (long_name, convention) in described.items()
        )

    @override
    def passes(self, layout: Layout) -> tuple[float, float]:
        return (float(self.samples), 0.0)

    @override
    def check(self, network: nn.Module, layout: Layout) -> None:
        active = active_dropouts(network)
        if not active:
            raise ValueError(
                "the network has no dropout layer with p > 0, so all samples would be equal and "
                "the uncertainty zero; use a network with dropout or leave mc_dropout out"
            )
        for module in active:
            if not isinstance(module, _ELEMENTWISE + _CHANNELWISE):
                raise ValueError(
                    f"{type(module).__name__} is not supported by mc_dropout; "
                    "use Dropout or Dropout2d layers"
                )

    def _keys(self, batch: Batch, n: int, parts: range) -> list[int]:
        if self.masks == "consistent":
            return [key(batch.seed, self.name, sample) for sample in parts]
        return [batch.key(n, self.name, sample) for sample in parts]


def entropy(p: NDArray[np.float64]) -> NDArray[np.float64]:
    """Shannon entropy in nats over the last axis, with 0 log 0 = 0."""
    # + 0.0 turns the -0.0 of a certain prediction into 0.0
    result: NDArray[np.float64] = -(p * np.log(np.where(p > 0, p, 1))).sum(axis=-1) + 0.0
    return result


def active_dropouts(network: nn.Module) -> list[nn.Module]:
    """List the dropout layers that would drop anything, in the network's order."""
    kinds = (*_ELEMENTWISE, *_CHANNELWISE, nn.AlphaDropout, nn.FeatureAlphaDropout)
    return [module for module in network.modules() if isinstance(module, kinds) and module.p > 0]


@contextmanager
def hashed_dropout(network: nn.Module, keys: Sequence[int]) -> Iterator[None]:
    """Switch dropout on, alone, with masks that are a pure function of the rows' keys.

    Row r of every pass inside the context uses the masks of ``keys[r]``. A layer that is used
    several times in one pass draws a new mask each time.
    """
    handles = []
    for layer, module in enumerate(active_dropouts(network)):
        calls = iter(range(1 << 30))
        hook = partial(_drop, keys=keys, layer=layer, calls=calls)
        handles.append(module.register_forward_hook(hook))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _drop(
    module: nn.Module,
    _inputs: Any,
    output: Tensor,
    *,
    keys: Sequence[int],
    layer: int,
    calls: Iterator[int],
) -> Tensor:
    shape = output.shape
    if isinstance(module, _CHANNELWISE):
        shape = torch.Size((*shape[:2], *[1] * (len(shape) - 2)))
    p = float(module.p)  # type: ignore[arg-type]
    call = next(calls)
    words = random_words([key(k, layer, call) for k in keys], math.prod(shape[1:]), output.device)
    kept = (words >= round(p * 2**32)).reshape(shape)
    return torch.where(kept, output / (1 - p) if p < 1 else output, torch.zeros_like(output))
