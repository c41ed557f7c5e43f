"""Method sections of a job file, made from the methods themselves.

Each registered method is a frozen dataclass; its fields are the fields of its section, so a method
is described in one place.
"""

from __future__ import annotations

from dataclasses import MISSING, fields
from functools import reduce
from operator import or_
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self, get_type_hints

from pydantic import Field, create_model, model_validator

from attribution.arrays import Channels
from attribution.explain import Request
from attribution.registry import METHODS

from .base import Spec


class MethodSpec(Spec):
    """What all method sections share."""

    kind: ClassVar[type[Any]]
    method: str
    """Name of the method."""

    @model_validator(mode="after")
    def _makes_sense(self) -> Self:
        self.request()
        return self

    def request(self) -> Request:
        """Build the method with its targets.

        Raises
        ------
        ValueError
            If the parameters make no sense together.
        """
        parameters = {field.name: getattr(self, field.name) for field in fields(self.kind)}
        return Request(self.kind(**parameters))


class TargetedMethodSpec(MethodSpec):
    """A method that explains chosen classes by a map per class."""

    targets: Annotated[tuple[str | int, ...], Field(min_length=1)] = ("predicted",)
    """What to explain: predicted, label, all, class names or class indices."""
    channels: Channels = "sum"
    """Whether maps are summed over the input's channels, or keep them."""

    def request(self) -> Request:
        """Build the method with its targets."""
        return Request(super().request().method, self.targets, self.channels)


def _section(kind: type[Any]) -> type[MethodSpec]:
    hints = get_type_hints(kind, include_extras=True) | dict(kind.job_types)
    parameters: dict[str, Any] = {
        field.name: (hints[field.name], ... if field.default is MISSING else field.default)
        for field in fields(kind)
    }
    section = create_model(
        kind.__name__ + "Section",
        __base__=TargetedMethodSpec if kind.targeted else MethodSpec,
        __doc__=kind.__doc__,
        **{"method": (Literal[kind.name], ...), **parameters},
    )
    section.kind = kind
    return section


SECTIONS: dict[str, type[MethodSpec]] = {name: _section(kind) for name, kind in METHODS.items()}

if TYPE_CHECKING:
    AnyMethodSpec = MethodSpec
else:
    AnyMethodSpec = Annotated[reduce(or_, SECTIONS.values()), Field(discriminator="method")]
