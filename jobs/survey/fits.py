"""FITS cutouts: bytes to (band, y, x), checked more strictly than astropy does by itself."""

from __future__ import annotations

import io
import math
import warnings
import zlib
from dataclasses import dataclass
from typing import Any

import numpy as np
from astropy.io import fits

from .arrays import Values, check_values
from .files import MAX_FILE_BYTES
from .fits_layout import Part, fits_parts
from .reader import MAX_PIXELS, Pixels, UnreadableError


@dataclass(frozen=True)
class FitsDecoder:
    """Decode one FITS file, gzipped or not, plain or tile-compressed, of any BITPIX.

    BSCALE, BZERO and BLANK are applied. What astropy only warns of is a failure here: a file
    that ends early, or a CHECKSUM or DATASUM that disagrees.
    """

    hdu: int | str | None = None
    """Extension by number or name; the first one with an image if None."""
    values: Values = "auto"

    def __call__(self, content: bytes) -> Pixels:
        """Return the image as (band, y, x); a plain (y, x) has one band."""
        content = _gunzipped(content)
        if not content.startswith(b"SIMPLE"):
            fact = "is no FITS file, whatever its name: convert it, or correct survey.format"
            raise UnreadableError("wrong_format", fact)
        parts = fits_parts(content)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what matters of them is checked below
            with fits.open(io.BytesIO(content), memmap=False) as hdus:
                number = self._number(hdus, len(parts))
                _check_declared(hdus[number], parts[number], len(content))
                _check_sums(hdus, number, content)
                data = hdus[number].data
                check_values(data.dtype, self.values)
            return _band_first(data)

    def _number(self, hdus: fits.HDUList, count: int) -> int:
        if self.hdu is None:
            for number in range(count):
                if _is_image(hdus[number]):
                    return number
            raise UnreadableError("no_image", "no extension holds an image: fetch it again")
        try:
            number = int(hdus.index_of(self.hdu))
        except KeyError:
            number = count
        if number >= count:
            fact = f"has no extension {self.hdu!r}: correct survey.hdu"
            raise UnreadableError("missing_hdu", fact)
        if not _is_image(hdus[number]):
            fact = f"extension {self.hdu!r} holds no image: correct survey.hdu"
            raise UnreadableError("no_image", fact)
        return number


def _is_image(hdu: Any) -> bool:
    return bool(hdu.is_image and hdu.shape and min(hdu.shape) > 0)


def _gunzipped(content: bytes) -> bytes:
    """Unpack a gzipped file, but never more than a file may have."""
    if not content.startswith(b"\x1f\x8b"):
        return content
    unpacker = zlib.decompressobj(wbits=31)
    plain = unpacker.decompress(content, MAX_FILE_BYTES)
    if unpacker.unconsumed_tail:
        fact = f"unpacks to more than {MAX_FILE_BYTES} bytes: cut out less sky"
        raise UnreadableError("too_large", fact)
    if not unpacker.eof:
        raise UnreadableError("truncated_file", "the gzip stream ends early: fetch it again")
    return plain


def _check_declared(hdu: Any, part: Part, available: int) -> None:
    """Compare what the header declares with the limit and with what there is, before decoding."""
    declared = math.prod(hdu.shape)
    if declared > MAX_PIXELS:
        fact = f"declares {declared} pixels, the limit is {MAX_PIXELS}: cut out less sky"
        raise UnreadableError("too_large", fact)
    # Some writers leave out the padding of the last block; no pixel is missing then.
    needed = part.data_start + part.data_size
    if needed > available:
        fact = f"has {available} bytes where its header needs {needed}: fetch it again"
        raise UnreadableError("truncated_file", fact)


def _check_sums(hdus: fits.HDUList, number: int, content: bytes) -> None:
    if not isinstance(hdus[number], fits.CompImageHDU):
        _check_sum(hdus[number])
        return
    # The sums are those of the table that holds the tiles, which astropy shows on request only.
    with fits.open(io.BytesIO(content), memmap=False, disable_image_compression=True) as tables:
        _check_sum(tables[number])


def _check_sum(hdu: Any) -> None:
    # Before the data are read: the sums are those of the bytes as stored.
    if hdu.verify_datasum() == 0 or hdu.verify_checksum() == 0:
        fact = "its checksum disagrees with its bytes: fetch it again"
        raise UnreadableError("checksum_mismatch", fact)


def _band_first(data: Any) -> Pixels:
    while data.ndim > 3 and data.shape[0] == 1:  # degenerate axes, such as Stokes
        data = data[0]
    if data.ndim == 2:
        data = data[np.newaxis]
    if data.ndim != 3:
        fact = f"its image has {data.ndim} axes {data.shape}: write (band, y, x) or (y, x)"
        raise UnreadableError("wrong_dimensions", fact)
    with np.errstate(over="ignore", invalid="ignore"):  # beyond float32 is infinite: seen later
        return np.array(data, dtype=np.float32, order="C")
