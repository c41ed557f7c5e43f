"""Which objects a network learns from, stops by, and is judged by."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, model_validator

from .base import Spec


class SplitSpec(Spec):
    """A split of the labelled objects, class by class, by their ids; the same for all fits."""

    validation: Annotated[float, Field(gt=0, lt=1)] = 0.15
    """Share of the objects that decides when to stop."""
    test: Annotated[float, Field(ge=0, lt=1)] = 0.15
    """Share of the objects that the network is judged by at the end."""
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    """Another one gives another split."""
    separation: Annotated[float, Field(ge=0, lt=36000)] = 0.0
    """Arcseconds: objects closer than that, such as two images of a galaxy, and theirs, and so on,
    go to the same part. 0 for no such care."""
    folds: Annotated[int, Field(ge=3, le=1000)] | None = None
    """Cross-validation: one of so many parts is for the test, the next for validation, in place of
    the shares above. Vary split.fold."""
    fold: Annotated[int, Field(ge=0)] = 0
    """Which of the folds is for the test, counted from 0."""

    @property
    def shares(self) -> tuple[float, float, float]:
        """Shares of training, validation and test."""
        if self.folds is not None:
            return 1 - 2 / self.folds, 1 / self.folds, 1 / self.folds
        return 1 - self.validation - self.test, self.validation, self.test

    @model_validator(mode="after")
    def _something_is_left(self) -> SplitSpec:
        if self.shares[0] <= 0:
            raise ValueError(
                f"validation {self.validation:g} and test {self.test:g} leave nothing to train on; "
                "lower one"
            )
        if self.fold >= (self.folds or 1):
            raise ValueError(f"fold {self.fold} of {self.folds or 1}; count them from 0")
        return self
