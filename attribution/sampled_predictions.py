"""What many predictions of one object say together: their mean, spread and entropies.

Shape suffixes: N objects, P parts (samples), K classes, V numbers of votes.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from typing_extensions import override

from .arrays import ArraySpec, Layout
from .batch import Batch
from .method import Method, Targets
from .partials import Array, Rule, add

Outputs = Literal["classification", "vote_fractions", "regression"]
Answers = Literal["exclusive", "independent"]
_SYMBOLS: Mapping[Outputs, tuple[str, str, str]] = {
    "classification": ("probability", "p", "1"),
    "vote_fractions": ("vote_fraction", "rho", "1"),
    "regression": ("output", "y", "output"),
}
"""What is sampled, by kind of outputs: its name, symbol and units."""
_MOST_VOLUNTEERS = 1000
"""Beyond, the binomial coefficients leave the range of float64."""


@dataclass(frozen=True, kw_only=True)
class SampledPredictions(Method):
    """Statistics over samples of a prediction; entropies are in nats.

    Standard deviations are those of the samples (divided by their number).
    """

    outputs: Outputs = "classification"
    """What the network puts out: scores of classes; scores of the answers that volunteers give; or
    quantities, used as they come."""
    volunteers: int = 40
    """Votes per object, for vote_fractions (Walmsley 2020): the entropies are those of the number
    of votes, a mixture of binomials."""
    answers: Answers = "exclusive"
    """For vote_fractions: exclusive answers share the votes (softmax), independent ones are
    questions of their own (sigmoid)."""

    rules: ClassVar[Mapping[str, Rule]] = {
        "value": add,
        "squared": add,
        "entropy": add,
        "votes": add,
    }
    targeted: ClassVar[bool] = False
    source: ClassVar[str]
    """Author and year of the way of sampling."""
    over: ClassVar[str]
    """What the samples are."""

    def __post_init__(self) -> None:
        for name, choices in (("outputs", get_args(Outputs)), ("answers", get_args(Answers))):
            if getattr(self, name) not in choices:
                raise ValueError(
                    f"{name} is {getattr(self, name)!r}; choose one of {', '.join(choices)}"
                )
        if not 1 <= self.volunteers <= _MOST_VOLUNTEERS:
            raise ValueError(
                f"volunteers is {self.volunteers}; a vote takes 1 to {_MOST_VOLUNTEERS}"
            )

    @property
    @abstractmethod
    def parameters(self) -> dict[str, Any]:
        """How the samples were drawn, for the arrays' attributes."""

    @abstractmethod
    def sample(self, batch: Batch, n: int, parts: range) -> Tensor:
        """Predict some samples of object ``n``: logits (P, K)."""

    @override
    def terms(self, batch: Batch, targets_NT: Targets, parts: range) -> dict[str, Array]:
        logits_NK = batch.logits_NK.double()
        nothing = self._sums(np.zeros((0, logits_NK.shape[1])))
        terms = {name: np.zeros((len(batch), *term.shape)) for name, term in nothing.items()}
        for n in batch.indices:
            values_PK = self._values(self.sample(batch, n, parts).double(), logits_NK[n])
            for name, term in self._sums(values_PK.cpu().numpy()).items():
                terms[name][n] = term
        return terms

    @override
    def finish(
        self, total: Mapping[str, Array], batch: Batch, targets_NT: Targets, layout: Layout
    ) -> dict[str, Array]:
        samples = self.parts(layout.image_shape)
        mean_NK = total["value"] / samples
        variance_NK = np.maximum(total["squared"] / samples - np.square(mean_NK), 0)
        value = _SYMBOLS[self.outputs][0]
        spread = {f"{value}_mean": mean_NK, f"{value}_std": np.sqrt(variance_NK)}
        if self.outputs == "regression":
            spread["output_mean"] = mean_NK + batch.logits_NK.double().cpu().numpy()
            return {**spread, "output_mean_variance": variance_NK / (samples - 1)}
        mixture = mean_NK if self.outputs == "classification" else total["votes"] / samples
        predictive, expected = entropy(mixture), total["entropy"] / samples
        found = {
            **spread,
            "predictive_entropy": predictive,
            "expected_entropy": expected,
            # Jensen's inequality makes it non-negative but for the last bits.
            "mutual_information": np.maximum(predictive - expected, 0),
        }
        if self.outputs == "classification":
            found["variation_ratio"] = 1 - total["votes"].max(axis=1) / samples
        return found

    @override
    def arrays(self, layout: Layout) -> tuple[ArraySpec, ...]:
        parameters = {**self.parameters, "outputs": self.outputs}
        if self.outputs == "vote_fractions":
            parameters |= {"volunteers": self.volunteers, "answers": self.answers}
        return tuple(
            ArraySpec(
                name,
                ("class",) if has_classes else (),
                (layout.classes,) if has_classes else (),
                long_name,
                units=units,
                convention=f"{self.source}; {formula}",
                attributes=parameters,
            )
            for name, (has_classes, units, long_name, formula) in self._described().items()
        )

    @override
    def passes(self, layout: Layout) -> tuple[float, float]:
        return (float(self.parts(layout.image_shape)), 0.0)

    @override
    def check(self, network: nn.Module, layout: Layout) -> None:
        softmax = self.outputs == "classification" or (
            self.outputs == "vote_fractions" and self.answers == "exclusive"
        )
        if softmax and layout.classes == 1:
            raise ValueError(
                "the network has one output, whose softmax is always 1; use outputs: "
                "vote_fractions with answers: independent, or outputs: regression"
            )

    def _values(self, logits_PK: Tensor, base_K: Tensor) -> Tensor:
        if self.outputs == "regression":
            # Differences from the plain output: their squares keep small spreads of large outputs.
            return logits_PK - base_K
        if self.outputs == "vote_fractions" and self.answers == "independent":
            return torch.sigmoid(logits_PK)
        return torch.softmax(logits_PK, dim=1)

    def _sums(self, values_PK: NDArray[np.float64]) -> dict[str, Array]:
        """Sum over the samples of one object; the last two are empty for quantities."""
        sums = {"value": values_PK.sum(axis=0), "squared": np.square(values_PK).sum(axis=0)}
        if self.outputs == "regression":
            return {**sums, "entropy": np.zeros(0), "votes": np.zeros(0)}
        if self.outputs == "vote_fractions":
            votes_PKV = binomial(values_PK, self.volunteers)
            return {**sums, "entropy": entropy(votes_PKV).sum(axis=0), "votes": votes_PKV.sum(0)}
        votes_K = np.bincount(values_PK.argmax(axis=1), minlength=values_PK.shape[1])
        return {**sums, "entropy": entropy(values_PK).sum(axis=0), "votes": votes_K}

    def _described(self) -> dict[str, tuple[bool, str, str, str]]:
        """By array: whether it has a value per class, units, long name and formula."""
        value, symbol, units = _SYMBOLS[self.outputs]
        plain = value.replace("_", " ")
        mean, std = f"mean {plain} over {self.over}", f"standard deviation of the {plain}"
        described = {
            f"{value}_mean": (True, units, mean, f"E {symbol}"),
            f"{value}_std": (True, units, std, f"sqrt(E {symbol}^2 - (E {symbol})^2)"),
        }
        if self.outputs == "regression":
            formula = "E (y - E y)^2 / (samples - 1)"
            return described | {
                "output_mean_variance": (True, f"{units}^2", "variance of the mean", formula)
            }
        votes = self.outputs == "vote_fractions"
        p = "p = Binomial(volunteers, rho), Walmsley 2020" if votes else "p = softmax(logits)"
        information = f"mutual information of the prediction and the {self.over}"
        described |= {
            "predictive_entropy": (votes, "nat", "entropy of the mean prediction", f"H[E p], {p}"),
            "expected_entropy": (votes, "nat", "mean entropy of predictions", f"E H[p], {p}"),
            "mutual_information": (votes, "nat", information, f"H[E p] - E H[p] (BALD), {p}"),
        }
        if not votes:
            ratio = f"share of {self.over} outside the class that most of them choose"
            formula = "1 - max_k votes_k / samples (Freeman 1965), ties go to the first class"
            described["variation_ratio"] = (False, "1", ratio, formula)
        return described


def entropy(p: NDArray[np.float64]) -> NDArray[np.float64]:
    """Shannon entropy in nats over the last axis, with 0 log 0 = 0."""
    # + 0.0 turns the -0.0 of a certain prediction into 0.0
    result: NDArray[np.float64] = -(p * np.log(np.where(p > 0, p, 1))).sum(axis=-1) + 0.0
    return result


def binomial(p: NDArray[np.float64], trials: int) -> NDArray[np.float64]:
    """Probability of each number of successes, 0 to ``trials``, along a new last axis."""
    k = np.arange(trials + 1)
    ways = np.array([math.comb(trials, int(successes)) for successes in k], dtype=np.float64)
    # numpy has 0^0 = 1, which the certain cases need
    result: NDArray[np.float64] = ways * p[..., None] ** k * (1 - p[..., None]) ** (trials - k)
    return result
