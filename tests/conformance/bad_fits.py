"""Bad FITS files: what they hold, the code they get and a fact that the reason tells."""

from __future__ import annotations

import gzip
import io
from collections.abc import Callable
from typing import Any

import numpy as np
from astropy.io import fits
from astropy.table import Table

SHAPE = (3, 20, 20)
IMAGE = np.random.default_rng(0).normal(size=SHAPE).astype(np.float32)
TILES = np.arange(4096, dtype=np.int32).reshape(64, 64)


def encoded(*hdus: Any, **more: Any) -> bytes:
    buffer = io.BytesIO()
    fits.HDUList(list(hdus)).writeto(buffer, **more)
    return buffer.getvalue()


def plain(data: np.ndarray, **more: Any) -> bytes:
    return encoded(fits.PrimaryHDU(data), **more)


def patched(content: bytes, old: bytes, new: bytes) -> bytes:
    assert len(old) == len(new)
    assert content.count(old) == 1
    return content.replace(old, new)


def with_value(value: float, where: object = (1, 2, 3)) -> np.ndarray:
    image = IMAGE.copy()
    image[where] = value
    return image


def card(name: str, value: int) -> bytes:
    return f"{name:<8}= {value:>20}".encode()


def flipped(content: bytes, offset: int) -> bytes:
    return content[:offset] + bytes([content[offset] ^ 4]) + content[offset + 1 :]


def compressed_and_damaged() -> bytes:
    content = encoded(fits.PrimaryHDU(), fits.CompImageHDU(TILES))
    # Nothing but rubbish where the compressed tiles are.
    heap = content.index(b"END" + b" " * 77, 2880) // 2880 * 2880 + 2880
    return content[: heap + 512] + b"\xff" * 1500 + content[heap + 2012 :]


def compressed_with_bad_sum() -> bytes:
    content = encoded(fits.PrimaryHDU(), fits.CompImageHDU(TILES), checksum=True)
    return flipped(content, content.index(b"END" + b" " * 77, 2880) // 2880 * 2880 + 2880 + 1200)


GOOD = plain(IMAGE)
BAD: dict[str, tuple[Callable[[], bytes], str, str]] = {
    "empty": (lambda: b"", "empty_file", "is empty"),
    "text": (lambda: b"<html>404 Not Found</html>\n", "wrong_format", "is no FITS file"),
    "cut in its data": (lambda: GOOD[:5000], "truncated_file", "has 5000 bytes where"),
    "cut in its header": (lambda: GOOD[:400], "truncated_file", "within its header"),
    "no END": (
        lambda: patched(GOOD, b"END" + b" " * 77, b"ENDE" + b" " * 76),
        "truncated_file",
        "within its header",
    ),
    "NAXIS 0": (lambda: encoded(fits.PrimaryHDU()), "no_image", "no extension holds an image"),
    "no pixels": (
        lambda: patched(GOOD, card("NAXIS1", 20), card("NAXIS1", 0)),
        "no_image",
        "no extension holds an image",
    ),
    "memory bomb": (
        lambda: patched(GOOD, card("NAXIS1", 20), card("NAXIS1", 2000000)),
        "too_large",
        "declares 120000000 pixels, the limit is 67108864",
    ),
    "more declared than there is": (
        lambda: patched(GOOD, card("NAXIS1", 20), card("NAXIS1", 2000)),
        "truncated_file",
        "where its header needs",
    ),
    "bad BITPIX": (
        lambda: patched(GOOD, card("BITPIX", -32), card("BITPIX", -31)),
        "corrupt_file",
        "its header's BITPIX is -31",
    ),
    "negative NAXIS1": (  # astropy alone never comes back from this
        lambda: patched(GOOD, card("NAXIS1", 20), card("NAXIS1", -20)),
        "corrupt_file",
        "its header's NAXIS1 is -20",
    ),
    "ten million axes": (
        lambda: patched(GOOD, card("NAXIS", 3), card("NAXIS", 10_000_000)),
        "corrupt_file",
        "its header's NAXIS is 10000000",
    ),
    "a billion table columns": (  # astropy alone looks for each
        lambda: patched(
            encoded(fits.PrimaryHDU(), fits.CompImageHDU(TILES)),
            card("TFIELDS", 1),
            card("TFIELDS", 1_000_000_000),
        ),
        "corrupt_file",
        "its header's TFIELDS is 1000000000",
    ),
    "NAXIS1 in words": (
        lambda: patched(GOOD, card("NAXIS1", 20), b"NAXIS1  = 'twenty'            "),
        "corrupt_file",
        "its header's NAXIS1 is no whole number",
    ),
    "an axis less": (
        lambda: patched(GOOD, card("NAXIS3", 3), card("NAXIS4", 3)),
        "corrupt_file",
        "lacks BITPIX or an axis",
    ),
    "one axis": (lambda: plain(IMAGE.ravel()), "wrong_dimensions", "has 1 axes"),
    "four axes": (lambda: plain(np.stack([IMAGE, IMAGE])), "wrong_dimensions", "has 4 axes"),
    "a table": (
        lambda: encoded(fits.PrimaryHDU(), fits.table_to_hdu(Table({"a": [1]}))),
        "no_image",
        "no extension holds an image",
    ),
    "all NaN": (lambda: plain(np.full_like(IMAGE, np.nan)), "no_finite_pixels", "every pixel"),
    "some NaN": (
        lambda: plain(with_value(np.nan, (0, slice(5), 7))),
        "non_finite_pixels",
        "5 of 1200 pixels are NaN or infinite: set survey.nan to a value",
    ),
    "Inf": (lambda: plain(with_value(np.inf)), "non_finite_pixels", "1 of 1200"),
    "beyond float32": (
        lambda: plain(with_value(1.0).astype(np.float64) * np.where(IMAGE > 2, 1e300, 1)),
        "non_finite_pixels",
        "of 1200 pixels",
    ),
    "BLANK": (
        lambda: encoded(fits.PrimaryHDU(np.full(SHAPE, 7, np.int16), fits.Header({"BLANK": 7}))),
        "no_finite_pixels",
        "every pixel",
    ),
    "bad DATASUM": (
        lambda: flipped(plain(IMAGE, checksum=True), 4000),
        "checksum_mismatch",
        "its checksum disagrees",
    ),
    "bad CHECKSUM": (
        lambda: patched(
            plain(IMAGE, checksum=True),
            card("NAXIS2", 20)[:-2] + b"20",
            card("NAXIS2", 20)[:-2] + b"19",
        ),
        "checksum_mismatch",
        "its checksum disagrees",
    ),
    "bad tile checksum": (compressed_with_bad_sum, "checksum_mismatch", "checksum disagrees"),
    "damaged tiles": (compressed_and_damaged, "corrupt_file", "fetch the file again"),
    "gzip cut": (lambda: gzip.compress(GOOD)[:-2000], "truncated_file", "gzip stream ends early"),
    "gzip flipped": (
        lambda: flipped(gzip.compress(GOOD), 3000),
        "corrupt_file",
        "fetch the file again",
    ),
    "too few bands": (lambda: plain(IMAGE[:2]), "wrong_bands", "has 2 bands where 3 are expected"),
    "no band axis": (lambda: plain(IMAGE[0]), "wrong_bands", "has 1 bands where 3"),
    "band last": (
        lambda: plain(np.ascontiguousarray(IMAGE.transpose(1, 2, 0))),
        "wrong_bands",
        "it looks like (y, x, band)",
    ),
    "other shape": (
        lambda: plain(IMAGE[:, :, :19]),
        "wrong_shape",
        "is 20 x 19 px where 20 x 20 px are expected: set preprocess.size",
    ),
    "1x1": (lambda: plain(IMAGE[:, :1, :1]), "wrong_shape", "is 1 x 1 px"),
}
