"""The network's own answer: its logits, and the classes that the other methods explain."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from typing_extensions import override

from .arrays import ArraySpec, Layout
from .batch import Batch
from .method import Method, Targets
from .partials import Array, Rule, add


@dataclass(frozen=True)
class Prediction(Method):
    """Logits per class, and the class index of each target."""

    name: ClassVar[str] = "prediction"
    rules: ClassVar[Mapping[str, Rule]] = {"logit": add}

    @override
    def terms(self, batch: Batch, targets_NT: Targets, parts: range) -> dict[str, Array]:
        return {"logit": batch.logits_NK.cpu().numpy().astype(np.float64)}

    @override
    def finish(
        self, total: Mapping[str, Array], batch: Batch, targets_NT: Targets, layout: Layout
    ) -> dict[str, Array]:
        return {"logit": total["logit"].copy(), "target": targets_NT.copy()}

    @override
    def arrays(self, layout: Layout) -> tuple[ArraySpec, ...]:
        return (
            ArraySpec("logit", ("class",), (layout.classes,), "pre-softmax score", units="logit"),
            ArraySpec(
                "target",
                ("target",),
                (layout.targets,),
                "class index of each target, -1 where the object has none",
                dtype="int32",
            ),
        )

    @override
    def passes(self, layout: Layout) -> tuple[float, float]:
        return (1.0, 0.0)
