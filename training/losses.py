"""What a fit minimises: losses for classes, votes and numbers, each object's apart.

Shapes: N objects, K outputs of the network, one for each class, answer or number.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from .fit_settings import FitSettings

Targets = npt.NDArray[Any]


class Objective(ABC):
    """A loss, and a score that people understand; both add up over objects.

    A step's loss is the sum of its objects' losses over their number. So it is also the sum over
    the shares of several processes, whatever the weights of the classes in each share.
    """

    @abstractmethod
    def losses(self, outputs_NK: Tensor, targets: Tensor, training: bool = False) -> Tensor:
        """Return the loss of each object, float (N,).

        Parameters
        ----------
        outputs_NK
            What the network puts out, float32.
        targets
            What it should, as the examples have it.
        training
            Whether the loss is minimised: only then are labels smoothed.
        """

    @abstractmethod
    def score(self, outputs_NK: Tensor, targets: Tensor) -> tuple[float, float]:
        """Return numerator and denominator of the score; each adds up over batches."""

    def card(self) -> dict[str, Any]:
        """Return what one must know of the loss to use the network's outputs."""
        return {"loss": self.name}

    @property
    @abstractmethod
    def name(self) -> str:
        """As in the settings."""


class CrossEntropy(Objective):
    """Negative log probability of the class, -w_y log softmax(z)_y; the score is the accuracy.

    With label smoothing e it is (1 - e) times that and e times the mean of -w_k log softmax(z)_k
    over the classes (Szegedy et al. 2016, section 7), as torch has it.

    Parameters
    ----------
    least
        Outputs that the network needs: the highest class index and one.
    weights
        Of the first classes, or None; others have weight 1.
    smoothing
        Probability taken from the label.
    """

    name = "cross_entropy"

    def __init__(
        self, least: int, weights: npt.NDArray[np.float64] | None = None, smoothing: float = 0.0
    ) -> None:
        self.least = least
        self.weights = weights
        self.smoothing = smoothing

    def losses(self, outputs_NK: Tensor, targets: Tensor, training: bool = False) -> Tensor:
        """Return the losses (N,) of class indices (N,)."""
        outputs = outputs_NK.shape[1]
        if outputs < self.least:
            raise ValueError(
                f"cross entropy: class {self.least - 1} and a network of {outputs} outputs; "
                "classes count from 0, build the network for all of them"
            )
        smoothing = self.smoothing if training else 0.0
        weight = None
        if self.weights is not None:
            if len(self.weights) > outputs:
                raise ValueError(
                    f"class_weights: {len(self.weights)} weights and a network of {outputs} "
                    "outputs; give one for each class"
                )
            weight = outputs_NK.new_ones(outputs)
            weight[: len(self.weights)] = torch.from_numpy(self.weights)
        return functional.cross_entropy(
            outputs_NK, targets.long(), weight, reduction="none", label_smoothing=smoothing
        )

    def score(self, outputs_NK: Tensor, targets: Tensor) -> tuple[float, float]:
        """Count hits and objects."""
        return float((outputs_NK.argmax(1) == targets).sum()), float(len(targets))


class _Votes(Objective):
    """For votes (N, K), in which groups of neighbouring columns answer one question each.

    The score is the share of hits: answers with most votes that also have the highest output,
    among all questions that an object has votes for.

    Parameters
    ----------
    questions
        How many answers each question has.
    """

    def __init__(self, questions: tuple[int, ...]) -> None:
        self.questions = questions

    def losses(self, outputs_NK: Tensor, targets: Tensor, training: bool = False) -> Tensor:
        """Return the losses (N,) of votes (N, K), summed over questions."""
        parts = zip(*self._groups(outputs_NK, targets), strict=True)
        return torch.stack([self._question(z, votes) for z, votes in parts]).sum(0)

    @abstractmethod
    def _question(self, z_NA: Tensor, votes_NA: Tensor) -> Tensor:
        """Return the losses (N,) of one question with A answers."""

    def score(self, outputs_NK: Tensor, targets: Tensor) -> tuple[float, float]:
        """Count hits and pairs of object and question with votes."""
        hits = pairs = 0.0
        for z_NA, votes_NA in zip(*self._groups(outputs_NK, targets), strict=True):
            asked = votes_NA.sum(1) > 0
            hits += float(((z_NA.argmax(1) == votes_NA.argmax(1)) & asked).sum())
            pairs += float(asked.sum())
        return hits, pairs

    def card(self) -> dict[str, Any]:
        """Return the loss and the questions."""
        return {**super().card(), "questions": list(self.questions)}

    def _groups(
        self, outputs_NK: Tensor, targets: Tensor
    ) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        _check_outputs(self.name, outputs_NK, targets)
        sizes = list(self.questions)
        return torch.split(outputs_NK, sizes, 1), torch.split(targets.to(outputs_NK), sizes, 1)


class Multinomial(_Votes):
    """Negative log likelihood of votes k, -sum k_a log softmax(z)_a, without its constant.

    Walmsley et al. (2022), section 4: an object with many votes counts for more, and one that was
    never asked a question doesn't count there. Fractions instead of votes let each object count
    alike; the loss is then the cross entropy with soft labels.
    """

    name = "multinomial"

    def _question(self, z_NA: Tensor, votes_NA: Tensor) -> Tensor:
        return -(votes_NA * functional.log_softmax(z_NA, 1)).sum(1)


class DirichletMultinomial(_Votes):
    """Negative log likelihood of votes whose probabilities are drawn from a Dirichlet distribution.

    The network's outputs are log concentrations log a, as `training.zoobot.dirichlet_head` gives
    them. With n votes and A = sum a (Walmsley et al. 2022, equation 2) the likelihood is
    n! G(A) / G(n + A) times the product over answers of G(k + a) / (k! G(a)), G being the gamma
    function.
    """

    name = "dirichlet_multinomial"

    def _question(self, z_NA: Tensor, votes_NA: Tensor) -> Tensor:
        a_NA = z_NA.exp()
        n_N, A_N = votes_NA.sum(1), a_NA.sum(1)
        whole = torch.lgamma(n_N + 1) + torch.lgamma(A_N) - torch.lgamma(n_N + A_N)
        answers = torch.lgamma(votes_NA + a_NA) - torch.lgamma(votes_NA + 1) - torch.lgamma(a_NA)
        return -(whole + answers.sum(1))


class MeanSquaredError(Objective):
    """Mean over K numbers of the squared error, each in units of its spread in the training set.

    The outputs of the network times ``std`` plus ``mean`` are the numbers. The score is the share
    of the variance about ``mean`` that is explained, averaged over the numbers by their variance
    in these units: R2 where the mean is that of the objects themselves.

    Parameters
    ----------
    mean, std
        Of the numbers (K,) in the training set.
    """

    name = "mean_squared_error"

    def __init__(self, mean: npt.NDArray[np.float64], std: npt.NDArray[np.float64]) -> None:
        self.mean = mean
        self.std = std

    def losses(self, outputs_NK: Tensor, targets: Tensor, training: bool = False) -> Tensor:
        """Return the losses (N,) of numbers (N, K)."""
        return (outputs_NK - self._standard(outputs_NK, targets)).square().mean(1)

    def score(self, outputs_NK: Tensor, targets: Tensor) -> tuple[float, float]:
        """Return the explained and the whole sum of squares."""
        wanted = self._standard(outputs_NK, targets)
        whole = float(wanted.square().sum())
        return whole - float((outputs_NK - wanted).square().sum()), whole

    def card(self) -> dict[str, Any]:
        """Return the loss, and how outputs become numbers."""
        return {**super().card(), "mean": self.mean.tolist(), "std": self.std.tolist()}

    def _standard(self, outputs_NK: Tensor, targets: Tensor) -> Tensor:
        _check_outputs(self.name, outputs_NK, targets)
        mean, std = (torch.from_numpy(part).to(targets.device) for part in (self.mean, self.std))
        return ((targets - mean) / std).to(outputs_NK)


def objective_of(settings: FitSettings, train: Targets, validation: Targets) -> Objective:
    """Make the loss that the settings name, for the targets of a fit.

    Parameters
    ----------
    settings
        Its name, weights and questions.
    train, validation
        Class indices (N,), or votes or numbers (N, K).

    Raises
    ------
    ValueError
        If the targets are of another kind than the loss takes.
    """
    for part, targets in (("training", train), ("validation", validation)):
        _check_targets(settings.loss, part, targets)
    if settings.loss == "cross_entropy":
        least = int(max(train.max(), validation.max())) + 1
        weights = _class_weights(settings, train, least)
        return CrossEntropy(least, weights, settings.label_smoothing)
    if settings.loss == "mean_squared_error":
        numbers = train.astype(np.float64)
        std = numbers.std(axis=0)
        if not std.all():
            raise ValueError(
                f"training targets: number {int(np.argmin(std))} is the same for all objects; "
                "leave it out"
            )
        return MeanSquaredError(numbers.mean(axis=0), std)
    questions = settings.questions or (train.shape[1],)
    if sum(questions) != train.shape[1]:
        raise ValueError(
            f"questions: {questions} have {sum(questions)} answers, the votes have "
            f"{train.shape[1]} columns; name the answers of every question"
        )
    kinds = {"multinomial": Multinomial, "dirichlet_multinomial": DirichletMultinomial}
    return kinds[settings.loss](questions)


def balanced_weights(labels: Targets, classes: int) -> npt.NDArray[np.float64]:
    """Return weights (classes,) with which every class counts alike: N / (present n_k).

    Their mean over the objects is 1; a class without objects has weight 1.
    """
    counts = np.bincount(labels, minlength=classes).astype(np.float64)
    weights = np.ones(classes)
    present = counts > 0
    weights[present] = counts.sum() / (present.sum() * counts[present])
    return weights


def _class_weights(
    settings: FitSettings, labels: Targets, least: int
) -> npt.NDArray[np.float64] | None:
    if settings.class_weights == "none":
        return None
    if settings.class_weights == "balanced":
        return balanced_weights(labels, least)
    if len(settings.class_weights) < least:
        raise ValueError(
            f"class_weights: {len(settings.class_weights)} weights for {least} classes; "
            "give one for each class"
        )
    return np.asarray(settings.class_weights, dtype=np.float64)


def _check_targets(loss: str, part: str, targets: Targets) -> None:
    classes = loss == "cross_entropy"
    wanted = "one integer for each object (N,)" if classes else "numbers (N, K)"
    kinds, dimensions = ("iu", 1) if classes else ("iuf", 2)
    if targets.ndim != dimensions or targets.dtype.kind not in kinds:
        raise ValueError(
            f"{part} labels are {targets.dtype} {targets.shape}; loss {loss} takes {wanted}"
        )
    if not np.isfinite(targets).all():
        raise ValueError(f"{part} labels are not all finite; leave out objects without a value")
    if loss != "mean_squared_error" and len(targets) and targets.min() < 0:
        raise ValueError(
            f"{part} labels go down to {targets.min()}; loss {loss} takes none below 0"
        )


def _check_outputs(loss: str, outputs_NK: Tensor, targets: Tensor) -> None:
    if outputs_NK.shape[1] != targets.shape[1]:
        raise ValueError(
            f"{loss}: the network has {outputs_NK.shape[1]} outputs, the targets "
            f"{targets.shape[1]} columns; build the network for {targets.shape[1]} classes"
        )
