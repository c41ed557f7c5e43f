"""The store of an inceptionism job: what its arrays are, and pictures in the survey's units."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from attribution.arrays import ArraySpec
from attribution.inceptionism import ClassImage, Colours, DeepDream
from attribution.partials import Array

from ..specs.inceptionism import Drawing
from ..specs.survey import PreprocessSpec

Shape = tuple[int, int, int]
_TEXTS = {
    "id": "identifier of the image",
    "section": "group of the store that holds the image",
    "class": "class that is drawn",
    "start": "object that a dream begins with",
}
_IMAGE_DIMS = ("channel", "y", "x")


def catalogue_arrays() -> dict[str, ArraySpec]:
    """Describe what tells the images apart."""
    texts = {
        name: ArraySpec(name, (), (), long_name, dtype="str") for name, long_name in _TEXTS.items()
    }
    number = ArraySpec("repetition", (), (), "repetition, counted from 0", dtype="int32")
    return {f"catalogue/{name}": spec for name, spec in (texts | {"repetition": number}).items()}


def catalogue_columns(drawings: Sequence[Drawing], groups: Sequence[str]) -> dict[str, Array]:
    """Name images; ``groups`` holds the group of the store by section."""
    columns = {
        "id": [f"{groups[d.section]}/{d.class_name or d.start}/{d.repetition}" for d in drawings],
        "section": [groups[d.section] for d in drawings],
        "class": [d.class_name for d in drawings],
        "start": [d.start for d in drawings],
    }
    arrays: dict[str, Array] = {
        f"catalogue/{name}": np.array(values, dtype=object) for name, values in columns.items()
    }
    arrays["catalogue/repetition"] = np.array([d.repetition for d in drawings], dtype=np.int32)
    return arrays


def class_image_arrays(
    settings: ClassImage, shape: Shape, colours: Colours
) -> tuple[ArraySpec, ...]:
    """Describe the arrays of a section of class images."""
    convention = "Simonyan et al. 2014, eq. 1: argmax_I S_c(I) - l2 |I|^2 - total_variation TV(I)"
    drawn = _attributes(settings, colours)
    ends = settings.block_ends
    return (
        *_images("class image", shape, convention, drawn),
        ArraySpec(
            "score",
            ("step_block",),
            (len(ends),),
            "logit of the class for the moved image, mean over a block of steps",
            "logit",
            attributes={"block_ends": ends},
        ),
        ArraySpec("logit", (), (), "logit of the class for the image", "logit"),
        ArraySpec("probability", (), (), "softmax probability of the class for the image"),
    )


def deep_dream_arrays(settings: DeepDream, shape: Shape, colours: Colours) -> tuple[ArraySpec, ...]:
    """Describe the arrays of a section of dreams."""
    convention = "Mordvintsev, Olah & Tyka 2015: ascent by octaves, step * range / 255 / mean |g|"
    dreamt = _attributes(settings, colours)
    units = "logit" if settings.layer is None else "1"
    return (
        *_images("dream", shape, convention, dreamt),
        ArraySpec("start", _IMAGE_DIMS, shape, "what the dream begins with"),
        ArraySpec("start_score", (), (), f"{settings.ascended} for the start", units),
        ArraySpec("score", (), (), f"{settings.ascended} for the dream", units),
    )


def survey_units(images: NDArray[np.floating], spec: PreprocessSpec) -> NDArray[np.float64]:
    """Undo stretch and normalisation of network inputs (..., C, H, W); overflow becomes inf."""
    bands = images.shape[-3]
    mean = np.reshape(spec.mean or (0.0,) * bands, (bands, 1, 1))
    std = np.reshape(spec.std or (1.0,) * bands, (bands, 1, 1))
    stretched = images.astype(np.float64) * std + mean
    with np.errstate(over="ignore"):
        flux: NDArray[np.float64] = np.sinh(stretched) if spec.stretch == "asinh" else stretched
    return flux * spec.scale


def _images(
    what: str, shape: Shape, convention: str, attributes: Mapping[str, Any]
) -> tuple[ArraySpec, ArraySpec]:
    long_name = f"{what} at the network's input"
    return (
        ArraySpec(
            "image", _IMAGE_DIMS, shape, long_name, convention=convention, attributes=attributes
        ),
        ArraySpec("survey_image", _IMAGE_DIMS, shape, f"{what} in the survey's own units"),
    )


def _attributes(settings: ClassImage | DeepDream, colours: Colours) -> dict[str, Any]:
    """Describe how images are made, and the survey's valid range where it is known."""
    made = {name: value for name, value in asdict(settings).items() if value is not None}
    if colours.bounded:
        made |= {"valid_low": colours.low.tolist(), "valid_high": colours.high.tolist()}
    return made
