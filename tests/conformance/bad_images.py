"""Bad images and paths: how to damage a file, the code it gets and a fact that the reason tells."""

from __future__ import annotations

import io
import os
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

RGB = np.random.default_rng(0).integers(0, 256, (20, 20, 3), dtype=np.uint8)


def encoded(values: np.ndarray, kind: str = "PNG", **more: object) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(values).save(buffer, kind, **more)
    return buffer.getvalue()


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png(width: int, height: int, depth: int, colour: int, rows: bytes) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    parts = [chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def animated() -> bytes:
    buffer = io.BytesIO()
    frames = [Image.fromarray(RGB), Image.fromarray(255 - RGB)]
    frames[0].save(buffer, "PNG", save_all=True, append_images=frames[1:])
    return buffer.getvalue()


def flipped(content: bytes, offset: int) -> bytes:
    return content[:offset] + bytes([content[offset] ^ 1]) + content[offset + 1 :]


CONTENT: dict[str, tuple[Callable[[], bytes], str, str]] = {
    "empty": (lambda: b"", "empty_file", "is empty"),
    "text": (lambda: b"<html>404 Not Found</html>\n", "wrong_format", "neither PNG nor JPEG"),
    "GIF": (lambda: encoded(RGB[..., 0], "GIF"), "wrong_format", "neither PNG nor JPEG"),
    "cut PNG": (lambda: encoded(RGB)[:600], "truncated_file", "ends early"),
    "cut PNG header": (lambda: encoded(RGB)[:20], "truncated_file", "ends early"),
    "PNG without its end": (lambda: encoded(RGB)[:-12], "truncated_file", "ends early"),
    "cut JPEG": (lambda: encoded(RGB, "JPEG")[:-100], "truncated_file", "ends early"),
    "cut JPEG header": (lambda: encoded(RGB, "JPEG")[:300], "truncated_file", "ends early"),
    "JPEG of three bytes": (lambda: b"\xff\xd8\xff", "corrupt_file", "damaged"),
    "flipped PNG": (lambda: flipped(encoded(RGB), 600), "checksum_mismatch", "its chunk IDAT"),
    "flipped PNG header": (lambda: flipped(encoded(RGB), 19), "checksum_mismatch", "chunk IHDR"),
    "PNG data that do not unpack": (
        lambda: encoded(RGB)[:33] + chunk(b"IDAT", b"rubbish") + chunk(b"IEND", b""),
        "corrupt_file",
        "damaged",
    ),
    "PNG without data": (
        lambda: encoded(RGB)[:33] + chunk(b"IEND", b""),
        "corrupt_file",
        "damaged",
    ),
    "no pixels": (lambda: png(0, 20, 8, 0, b"\0"), "no_image", "without pixels"),
    "bomb of 68 Mpx": (lambda: png(8200, 8200, 8, 0, b"\0"), "too_large", "8200 x 8200 pixels"),
    "bomb of 100 Mpx": (lambda: png(10000, 10000, 8, 0, b"\0"), "too_large", "limit of 67108864"),
    "bomb of 10 Gpx": (lambda: png(100000, 100000, 8, 0, b"\0"), "too_large", "limit of 67108864"),
    "animated": (animated, "animated_image", "holds several frames"),
    "16-bit colour": (
        lambda: png(20, 20, 16, 2, b"\0" * 121 * 20),
        "unsupported_depth",
        "16 bits a channel",
    ),
    "other shape": (lambda: encoded(RGB[:19]), "wrong_shape", "is 19 x 20 px where 20 x 20 px"),
    "1x1": (lambda: encoded(RGB[:1, :1]), "wrong_shape", "is 1 x 1 px"),
}


def replace_by_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def replace_by_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def replace_by_link(path: Path, target: str) -> None:
    path.unlink()
    path.symlink_to(target)


PATHS: dict[str, tuple[Callable[[Path], None], str, str]] = {
    "missing": (Path.unlink, "missing_file", "there is no such file"),
    "dangling link": (lambda p: replace_by_link(p, "gone"), "missing_file", "no such file"),
    "link to itself": (lambda p: replace_by_link(p, p.name), "missing_file", "no such file"),
    "folder": (replace_by_folder, "not_a_file", "is no regular file"),
    "pipe": (replace_by_pipe, "not_a_file", "is no regular file"),
    "device": (lambda p: replace_by_link(p, "/dev/zero"), "not_a_file", "is no regular file"),
    "sparse and huge": (lambda p: os.truncate(p, 2**31), "too_large", "has 2147483648 bytes"),
}
BAD: dict[str, tuple[Callable[[Path], object], str, str]] = {
    **PATHS,
    **{
        name: (lambda path, make=make: path.write_bytes(make()), code, fact)
        for name, (make, code, fact) in CONTENT.items()
    },
}
