"""Sections of an inceptionism job, made from the settings of the images that it draws."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import reduce
from operator import or_
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, get_type_hints

from pydantic import Field, create_model, model_validator
from typing_extensions import override

from attribution.inceptionism import ClassImage, DeepDream

from .base import Spec
from .execution import ExecutionSpec
from .survey import Pixels

_RESERVED = ("catalogue", "status")


@dataclass(frozen=True)
class Drawing:
    """One image of a job: a row of its store."""

    section: int
    """Position of its section in the job file."""
    class_name: str
    """Class that is drawn or ascended; empty where a layer is."""
    start: str
    """Identifier of the object that a dream begins with, or ``noise``; empty for a class image."""
    repetition: int
    """Counted from 0; repetitions differ in their random numbers."""


class ImagesSpec(Spec):
    """What all sections share."""

    kind: ClassVar[type[Any]]
    method: str
    """class_image or deep_dream."""
    name: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,62}$")] | None = None
    """Group in the store; the method's name without it."""
    repetitions: Annotated[int, Field(ge=1)] = 1
    """Images of each kind, which differ in their random numbers."""

    @model_validator(mode="after")
    def _makes_sense(self) -> ImagesSpec:
        # Whether the classes exist is checked where they are known.
        self.settings(self.classes_named)
        return self

    @property
    def group(self) -> str:
        """Group in the store."""
        return self.name or self.method

    @property
    def classes_named(self) -> Sequence[str]:
        """Names of classes that the section mentions."""
        return ()

    @property
    def needs_survey(self) -> str:
        """What in this section makes no sense without a survey; empty if nothing does."""
        return ""

    def drawings(self, section: int, classes: Sequence[str]) -> list[Drawing]:
        """List the images of this section, in the order of their rows."""
        raise NotImplementedError

    def settings(self, classes: Sequence[str]) -> ClassImage | DeepDream:
        """Return how the images are made, classes by their index.

        Raises
        ------
        ValueError
            If the parameters make no sense together.
        """
        parameters = {field.name: getattr(self, field.name) for field in fields(self.kind)}
        if self.kind is DeepDream and parameters["target"] is not None:
            parameters["target"] = classes.index(parameters["target"])
        made: ClassImage | DeepDream = self.kind(**parameters)
        return made


class ClassImageSpec(ImagesSpec):
    """Images of classes."""

    classes: Literal["all"] | Annotated[tuple[str, ...], Field(min_length=1)] = "all"
    """Names of the classes to draw, or all."""
    size: Literal["network"] | Pixels | tuple[Pixels, Pixels] = "network"
    """Pixels of the image: one number for a square, [height, width], or network: what its input
    has in this survey. Only networks that end in a mean over the image take any size."""

    @property
    @override
    def classes_named(self) -> Sequence[str]:
        return () if self.classes == "all" else self.classes

    @property
    @override
    def needs_survey(self) -> str:
        return self.settings(()).needs_colours

    @override
    def settings(self, classes: Sequence[str]) -> ClassImage:
        made = super().settings(classes)
        assert isinstance(made, ClassImage)
        return made

    def shape(self, image_shape: tuple[int, int, int]) -> tuple[int, int, int]:
        """Return channels, height and width of the images."""
        if self.size == "network":
            return image_shape
        height, width = (self.size, self.size) if isinstance(self.size, int) else self.size
        return (image_shape[0], height, width)

    @override
    def drawings(self, section: int, classes: Sequence[str]) -> list[Drawing]:
        return [
            Drawing(section, name, "", repetition)
            for name in self.classes_named or classes
            for repetition in range(self.repetitions)
        ]


class DeepDreamSpec(ImagesSpec):
    """Dreams on objects or noise."""

    target: str | None = None
    """Name of the class whose logit grows, instead of a layer."""
    starts: Literal["noise"] | Annotated[tuple[str, ...], Field(min_length=1)] = "noise"
    """Identifiers of the objects to begin with, or noise of the survey's colours."""

    @property
    @override
    def classes_named(self) -> Sequence[str]:
        return () if self.target is None else (self.target,)

    @property
    @override
    def needs_survey(self) -> str:
        return "a dream"

    @override
    def settings(self, classes: Sequence[str]) -> DeepDream:
        made = super().settings(classes)
        assert isinstance(made, DeepDream)
        return made

    @override
    def drawings(self, section: int, classes: Sequence[str]) -> list[Drawing]:
        name = next(iter(self.classes_named), "")
        return [
            Drawing(section, name, start, repetition)
            for start in (["noise"] if self.starts == "noise" else self.starts)
            for repetition in range(self.repetitions)
        ]


class InceptionismExecution(ExecutionSpec):
    """Replicas and reproducibility; an object is an image that is drawn."""

    micro_batch: Annotated[int, Field(ge=1, le=4096)] = 4
    """Images that are drawn together; results depend on it in the last bit."""


def check_sections(
    sections: Sequence[ImagesSpec], classes: Sequence[str], *, has_survey: bool
) -> None:
    """Refuse sections that collide, or name what is not there.

    Raises
    ------
    ValueError
        With the section's place in the job file, and the cure.
    """
    if not sections:
        raise ValueError("images is empty; add a section with method class_image or deep_dream")
    groups = [section.group for section in sections]
    for number, section in enumerate(sections):
        place = f"images[{number}]"
        if groups.count(section.group) > 1 or section.group in _RESERVED:
            raise ValueError(
                f"{place}: the group {section.group!r} of the store is taken; "
                "give the section a name of its own"
            )
        for name in section.classes_named:
            if name not in classes:
                close = difflib.get_close_matches(name, classes, n=1)
                hint = f"did you mean {close[0]!r}?" if close else f"use {', '.join(classes)}"
                raise ValueError(f"{place}: {name!r} is none of network.classes; {hint}")
        if section.needs_survey and not has_survey:
            raise ValueError(
                f"{place}: {section.needs_survey} needs the colours of a survey; add survey, or "
                "draw class images with parametrisation: pixel and bounded: false"
            )


def _section(name: str, kind: type[Any], base: type[ImagesSpec]) -> type[ImagesSpec]:
    hints = get_type_hints(kind)
    parameters: dict[str, Any] = {
        field.name: (hints[field.name], field.default)
        for field in fields(kind)
        if field.name not in base.model_fields
    }
    section = create_model(
        kind.__name__ + "Section",
        __base__=base,
        __doc__=kind.__doc__,
        **{"method": (Literal[name], ...), **parameters},
    )
    section.kind = kind
    return section


_KINDS: dict[str, tuple[type[Any], type[ImagesSpec]]] = {
    "class_image": (ClassImage, ClassImageSpec),
    "deep_dream": (DeepDream, DeepDreamSpec),
}
IMAGES = {name: _section(name, kind, base) for name, (kind, base) in _KINDS.items()}
"""Sections by their method."""

if TYPE_CHECKING:
    AnyImagesSpec = ImagesSpec
else:
    AnyImagesSpec = Annotated[reduce(or_, IMAGES.values()), Field(discriminator="method")]
