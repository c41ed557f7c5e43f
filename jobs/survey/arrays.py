"""What all formats of plain arrays check alike, before anything is allocated."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from jobs.errors import RefusedError

from .reader import MAX_PIXELS, Pixels, UnreadableError

Values = Literal["auto", "float", "integer"]

IMAGE_NAMES = ("image", "images", "cutout/image", "cutout", "cutouts", "data")
"""Names that the array of images is found by; an earlier one wins."""


def check_numbers(dtype: np.dtype[Any]) -> None:
    """Refuse what are no plain numbers: objects would be unpickled, which runs code."""
    if dtype.kind not in "fiu" or dtype.itemsize > 8:
        kind = "Python objects, which are never read" if dtype.hasobject else f"type {dtype}"
        raise UnreadableError("wrong_type", f"holds {kind}: save it as plain numbers")


def check_values(dtype: np.dtype[Any], values: Values) -> None:
    """Refuse whole numbers where fractions are expected, and the other way round."""
    if values != "auto" and (dtype.kind == "f") != (values == "float"):
        fact = f"holds {dtype} where the survey's values are {values}: is it of another processing?"
        raise UnreadableError("wrong_type", f"{fact} Convert it, or leave it out")


def check_size(shape: Sequence[int]) -> None:
    """Refuse the shape of one image that has no pixels, or too many."""
    if min(shape, default=0) <= 0:
        fact = f"is an image without pixels, of shape {tuple(shape)}: fetch it again"
        raise UnreadableError("no_image", fact)
    if math.prod(shape) > MAX_PIXELS:
        fact = f"declares {math.prod(shape)} pixels, the limit is {MAX_PIXELS}: cut out less sky"
        raise UnreadableError("too_large", fact)


def band_first(values: npt.NDArray[Any], bands_last: bool) -> Pixels:
    """Return (band, y, x) in float32 of an image in any plain type; (y, x) has one band."""
    if values.ndim == 2:
        values = values[np.newaxis]
    elif values.ndim == 3 and bands_last:
        values = values.transpose(2, 0, 1)
    elif values.ndim != 3:
        fact = f"its image has {values.ndim} axes {values.shape}: write (band, y, x) or (y, x)"
        raise UnreadableError("wrong_dimensions", fact)
    with np.errstate(over="ignore", invalid="ignore"):  # beyond float32 is infinite: seen later
        return np.array(values, dtype=np.float32, order="C")


def check_block(rows: int, shape: Sequence[int]) -> None:
    """Refuse blocks that are too large to be unpacked at once."""
    values = rows * math.prod(shape)
    if values > 4 * MAX_PIXELS:
        fact = f"keeps {values} values in a chunk, the limit is {4 * MAX_PIXELS}: write it anew"
        raise UnreadableError("too_large", f"{fact} with smaller chunks")


class refused:  # noqa: N801 - used like a function
    """Turn what is wrong with a whole survey file into a refusal."""

    def __init__(self, path: str) -> None:
        self._path = path

    def __enter__(self) -> None:
        """Do nothing."""

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        """Raise the refusal."""
        if isinstance(error, UnreadableError):
            raise RefusedError(f"survey.path: {error.failure(str(self._path)).reason}") from error
        if isinstance(error, OSError | RuntimeError | ValueError | KeyError | MemoryError):
            fact = " ".join(str(error).split()) or type(error).__name__
            raise RefusedError(
                f"survey.path: {self._path} can't be read: {fact}; fetch the file again"
            ) from error
