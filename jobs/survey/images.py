"""PNG and JPEG cutouts: bytes to (band, y, x) with values from 0 to 1."""

from __future__ import annotations

import io
import struct
import warnings
import zlib
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageOps

from .reader import MAX_PIXELS, Pixels, UnreadableError

_PNG = b"\x89PNG\r\n\x1a\n"
_JPEG = b"\xff\xd8\xff"
_GREY = {"1", "L", "LA", "La"}


@dataclass(frozen=True)
class ImageDecoder:
    """Decode one PNG or JPEG file, which one told by its content.

    Values are divided by 255, or by 65535 where a grey image has 16 bits. Palettes and CMYK become
    RGB, transparency is dropped, and a camera's rotation mark (EXIF) is applied. A grey image has
    one band, or three equal ones where three are expected.
    """

    bands: int | None = None

    def __call__(self, content: bytes) -> Pixels:
        """Return the image as (band, y, x)."""
        _check_content(content)
        try:
            with _opened(content) as image:
                image.load()
                pixels = _scaled(ImageOps.exif_transpose(image))
        except (OSError, EOFError) as error:
            # Pillow's own flag for this is the text of its message.
            if "truncated" in str(error).lower():
                raise UnreadableError("truncated_file", "ends early: fetch it again") from error
            raise
        if pixels.ndim == 2:
            return np.repeat(pixels[np.newaxis], 3 if self.bands == 3 else 1, axis=0)
        return np.ascontiguousarray(pixels.transpose(2, 0, 1))


def _opened(content: bytes) -> Image.Image:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            image = Image.open(io.BytesIO(content), formats=("PNG", "JPEG"))
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        fact = f"declares more than the limit of {MAX_PIXELS} pixels: cut out less sky"
        raise UnreadableError("too_large", fact) from error
    width, height = image.size
    if width * height > MAX_PIXELS:
        fact = f"declares {width} x {height} pixels, the limit is {MAX_PIXELS}: cut out less sky"
        raise UnreadableError("too_large", fact)
    if getattr(image, "n_frames", 1) > 1:
        raise UnreadableError("animated_image", "holds several frames: save the one that is meant")
    return image


def _scaled(image: Image.Image) -> Pixels:
    """Return (y, x) for a grey image, (y, x, band) for a coloured one."""
    if image.mode.startswith("I;16"):
        return np.asarray(image).astype(np.float32) / np.float32(65535)
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")
    converted = image if image.mode in ("L", "RGB") else image.convert(_target(image.mode))
    return np.asarray(converted).astype(np.float32) / np.float32(255)


def _target(mode: str) -> str:
    return "L" if mode in _GREY else "RGB"


def _check_content(content: bytes) -> None:
    if content.startswith(_PNG):
        _check_png(content)
    elif not content.startswith(_JPEG):
        fact = "is neither PNG nor JPEG, whatever its name: convert it, or correct survey.format"
        raise UnreadableError("wrong_format", fact)


def _check_png(content: bytes) -> None:
    """Compare the checksum of every chunk, which Pillow does for a few only."""
    offset = len(_PNG)
    while content[offset + 4 : offset + 8] != b"IEND":
        header = content[offset : offset + 8]
        end = offset + 12 + (struct.unpack(">I", header[:4])[0] if len(header) == 8 else 0)
        if len(header) < 8 or end > len(content):
            raise UnreadableError("truncated_file", "ends early: fetch it again")
        stored = struct.unpack(">I", content[end - 4 : end])[0]
        if zlib.crc32(memoryview(content)[offset + 4 : end - 4]) != stored:
            name = header[4:].decode("latin-1")
            fact = f"the checksum of its chunk {name} disagrees with its bytes: fetch it again"
            raise UnreadableError("checksum_mismatch", fact)
        if header[4:] == b"IHDR":
            _check_png_header(content[offset + 8 : end - 4])
        offset = end


def _check_png_header(header: bytes) -> None:
    width, height, depth, colour = struct.unpack(">IIBB", header[:10])
    if width * height == 0:
        raise UnreadableError("no_image", "is an image without pixels: fetch it again")
    if depth == 16 and colour != 0:
        fact = "has 16 bits a channel in colour, of which half would be lost: save it as FITS"
        raise UnreadableError("unsupported_depth", fact)
