"""How a network is trained: the settings of a fit, and the learning rate of each step."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal, get_args

from .augmentation import Augmentation

LossName = Literal["cross_entropy", "multinomial", "dirichlet_multinomial", "mean_squared_error"]
ClassWeights = Literal["none", "balanced"] | tuple[float, ...]
OptimizerName = Literal["adamw", "sgd"]
ScheduleName = Literal["one_cycle", "cosine", "constant", "step"]
PrecisionName = Literal["float32", "bfloat16", "float16"]
Monitor = Literal["validation_loss", "validation_accuracy"]

_FIRST_RATE = 0.04
"""Share of the highest rate with which warming up begins: 1/25, as in torch's OneCycleLR."""


@dataclass(frozen=True)
class FitSettings:
    """How a network is trained."""

    epochs: int = 8
    """Most passes over the training set."""
    batch_size: int = 32
    """Most images in a step, over all processes; batches are made nearly equal."""
    loss: LossName = "cross_entropy"
    """What is minimised: cross_entropy takes class indices; multinomial and dirichlet_multinomial
    take votes for each answer; mean_squared_error takes numbers."""
    class_weights: ClassWeights = "none"
    """Weights of the classes in the cross entropy: balanced makes each class count alike."""
    label_smoothing: float = 0.0
    """Probability taken from the label and spread over all classes (Szegedy et al. 2016)."""
    questions: tuple[int, ...] = ()
    """How many answers each question has, in the order of the columns of the votes; by default all
    columns answer one question."""
    optimizer: OptimizerName = "adamw"
    """adamw (Loshchilov & Hutter 2019) or sgd with momentum."""
    learning_rate: float = 3e-3
    """Highest rate of the optimiser."""
    momentum: float = 0.9
    """Of sgd."""
    weight_decay: float = 1e-2
    """Decay of weights; biases and the scales of norm layers don't decay."""
    schedule: ScheduleName = "one_cycle"
    """How the rate changes: one_cycle warms up, then falls as a cosine (Smith 2018), cosine falls
    at once; step falls to a tenth after half and again after three quarters of the steps."""
    warm_up: float | None = None
    """Share of the steps in which the rate rises; by default 0.3 for one_cycle, 0 for others."""
    max_gradient_norm: float | None = None
    """Longer gradients are cut to this norm; by default none are."""
    precision: PrecisionName = "float32"
    """Of the forward pass, where torch deems it safe; float16 needs a GPU."""
    patience: int = 5
    """Epochs without a better monitored value after which training stops."""
    monitor: Monitor = "validation_loss"
    """What decides which epoch is best, and when to stop."""
    gap_objects: int = 512
    """Training objects, at most, that are evaluated like the validation set after each epoch."""
    checkpoint_steps: int = 0
    """Steps between checkpoints within an epoch; 0 writes one at each epoch's end alone."""
    tensorboard: bool = False
    """Also write the history as events that TensorBoard reads; needs the extra tensorboard."""
    augmentation: Augmentation = field(default_factory=Augmentation)
    """Which views of the training images are seen."""
    seed: int = 0
    """Decides order, views and dropout; not the first weights, which are the network's."""

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "patience", "gap_objects"):
            self._require(getattr(self, name) >= 1, name, "must be 1 or more")
        for name in ("seed", "checkpoint_steps", "weight_decay"):
            self._require(getattr(self, name) >= 0, name, "must not be negative")
        for name in ("label_smoothing", "momentum"):
            self._require(0.0 <= getattr(self, name) < 1.0, name, "must be in [0, 1)")
        self._require(self.learning_rate > 0.0, "learning_rate", "must be positive")
        for name, known in _CHOICES.items():
            self._require(getattr(self, name) in known, name, f"must be {_either(known)}")
        rises = self.warm_up is None or 0.0 <= self.warm_up < 1.0
        self._require(rises, "warm_up", "must be in [0, 1)")
        cut = self.max_gradient_norm is None or self.max_gradient_norm > 0.0
        self._require(cut, "max_gradient_norm", "must be positive")
        self._check_loss()

    def _check_loss(self) -> None:
        weights = self.class_weights
        positive = weights in ("none", "balanced") or (
            not isinstance(weights, str) and len(weights) > 0 and min(weights) > 0.0
        )
        self._require(positive, "class_weights", "must be none, balanced or positive numbers")
        classes = self.loss == "cross_entropy"
        self._require(classes or weights == "none", "class_weights", "needs loss: cross_entropy")
        smooth = classes or self.label_smoothing == 0.0
        self._require(smooth, "label_smoothing", "needs loss: cross_entropy")
        votes = "multinomial" in self.loss or not self.questions
        self._require(votes, "questions", "needs loss: multinomial or dirichlet_multinomial")
        answers = all(count >= 2 for count in self.questions)
        self._require(answers, "questions", "must have 2 answers or more each")

    def _require(self, holds: bool, name: str, problem: str) -> None:
        if not holds:
            raise ValueError(f"fit settings: {name} = {getattr(self, name)!r} {problem}")


_CHOICES: dict[str, tuple[str, ...]] = {
    "loss": get_args(LossName),
    "optimizer": get_args(OptimizerName),
    "schedule": get_args(ScheduleName),
    "precision": get_args(PrecisionName),
    "monitor": get_args(Monitor),
}


def _either(names: tuple[str, ...]) -> str:
    return f"{', '.join(names[:-1])} or {names[-1]}"


def learning_rate_at(settings: FitSettings, step: int, steps: int) -> float:
    """Return the learning rate of a step, counted from 0, out of ``steps``.

    It warms up as half a cosine from 1/25 of the peak. A pure function, so that there is no
    scheduler state to lose.
    """
    peak = settings.learning_rate
    usual = 0.3 if settings.schedule == "one_cycle" else 0.0
    warm = steps * (usual if settings.warm_up is None else settings.warm_up)
    if step < warm:
        rise = 0.5 * (1.0 - math.cos(math.pi * step / warm))
        return peak * (_FIRST_RATE + (1.0 - _FIRST_RATE) * rise)
    if settings.schedule == "constant":
        return peak
    if settings.schedule == "step":
        # He et al. (2016) divide by 10 after 32k and 48k of 64k steps.
        return peak * 0.1 ** int((step >= 0.5 * steps) + (step >= 0.75 * steps))
    return peak * 0.5 * (1.0 + math.cos(math.pi * (step - warm) / max(steps - warm, 1.0)))
