"""NumPy's own files: bytes to (band, y, x), and never a pickle."""

from __future__ import annotations

import io
import math
import tokenize
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.lib import format as npy_format

from .arrays import Values, band_first, check_numbers, check_size, check_values
from .reader import Pixels, UnreadableError

_READ_HEADER = {
    (1, 0): npy_format.read_array_header_1_0,
    (2, 0): npy_format.read_array_header_2_0,
}


@dataclass(frozen=True)
class NpyDecoder:
    """Decode one ``.npy`` file of plain numbers."""

    bands_last: bool = False
    values: Values = "auto"

    def __call__(self, content: bytes) -> Pixels:
        """Return the image as (band, y, x)."""
        if not content.startswith(b"\x93NUMPY"):
            fact = "is no npy file, whatever its name: convert it, or correct survey.format"
            raise UnreadableError("wrong_format", fact)
        file = io.BytesIO(content)
        shape, fortran, dtype = _header(file)
        check_numbers(dtype)
        check_values(dtype, self.values)
        check_size(shape)
        start, needed = file.tell(), math.prod(shape) * dtype.itemsize
        if len(content) - start < needed:
            fact = f"has {len(content)} bytes where its header needs {start + needed}"
            raise UnreadableError("truncated_file", f"{fact}: fetch it again")
        values = np.frombuffer(content, dtype, math.prod(shape), start)
        return band_first(values.reshape(shape, order="F" if fortran else "C"), self.bands_last)


def _header(file: io.BytesIO) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    try:
        read = _READ_HEADER.get(npy_format.read_magic(file))
        if read is None:
            raise UnreadableError("wrong_format", "is of another npy version: save it again")
        shape, fortran, dtype = read(file)
    except (ValueError, SyntaxError, TypeError, tokenize.TokenError) as error:
        early = str(error).startswith("EOF: reading")
        code = "truncated_file" if early else "corrupt_file"
        fact = "ends within its header" if early else "its header is damaged"
        raise UnreadableError(code, f"{fact}: fetch the file again") from error
    return shape, fortran, dtype
