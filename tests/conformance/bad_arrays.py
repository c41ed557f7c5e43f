"""Bad npy and HDF5 files: what they hold, the code they get and a fact that the reason tells."""

from __future__ import annotations

import io
import os
import pickle
import struct
from collections.abc import Callable
from typing import Any

import h5py
import numpy as np

IMAGE = np.random.default_rng(0).normal(size=(3, 20, 20)).astype(np.float32)


def npy(values: np.ndarray, **more: Any) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, values, **more)
    return buffer.getvalue()


def npy_header(text: str) -> bytes:
    """Write a header by hand, and hardly any data."""
    padded = (text + " " * (-(len(text) + 11) % 64) + "\n").encode()
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(padded)) + padded + b"\0" * 8


def declared(shape: tuple[int, ...], kind: str = "<f4") -> bytes:
    return npy_header(f"{{'descr': '{kind}', 'fortran_order': False, 'shape': {shape}, }}")


class Touch:
    """A pickle that leaves a file behind when it is read."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("touch pwned-by-a-pickle",)


def ragged() -> np.ndarray:
    return np.array([Touch(), [1, 2]], dtype=object)


def hdf5(write: Callable[[h5py.File], object]) -> bytes:
    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as file:
        write(file)
    return buffer.getvalue()


def good_hdf5() -> bytes:
    return hdf5(lambda file: file.create_dataset("image", data=IMAGE))


def squeezed(file: h5py.File) -> None:
    file.create_dataset(
        "image", data=IMAGE, chunks=(1, 20, 20), compression="gzip", fletcher32=True
    )


def flipped_hdf5() -> bytes:
    content = bytearray(hdf5(squeezed))
    with h5py.File(io.BytesIO(content), "r") as file:
        where = file["image"].id.get_chunk_info(1)
    content[where.byte_offset + where.size // 2] ^= 4
    return bytes(content)


def holes(file: h5py.File) -> None:
    images = file.create_dataset("image", shape=(3, 20, 20), dtype="f4", chunks=(1, 20, 20))
    images[0], images[2] = IMAGE[0], IMAGE[2]


def external(file: h5py.File) -> None:
    file["image"] = h5py.ExternalLink("/etc/shadow.h5", "/image")


def virtual(file: h5py.File) -> None:
    layout = h5py.VirtualLayout(shape=(3, 20, 20), dtype="f4")
    layout[:] = h5py.VirtualSource("/tmp/other.h5", "image", shape=(3, 20, 20))
    file.create_virtual_dataset("image", layout)


def external_data(file: h5py.File) -> None:
    file.create_dataset("image", shape=(3, 20, 20), dtype="f4", external=[("/etc/passwd", 0, 4800)])


def objects(file: h5py.File) -> None:
    file.create_dataset("image", shape=(3,), dtype=h5py.vlen_dtype(np.float32))


def unknown_filter(file: h5py.File) -> None:
    creation = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    creation.set_chunk((3, 20, 20))
    creation.set_filter(32015, h5py.h5z.FLAG_OPTIONAL, (3,))  # zstd, by a plugin
    space = h5py.h5s.create_simple((3, 20, 20))
    h5py.h5d.create(file.id, b"image", h5py.h5t.NATIVE_FLOAT, space, creation)


NPY: dict[str, tuple[Callable[[], bytes], str, str]] = {
    "empty": (lambda: b"", "empty_file", "is empty"),
    "text": (lambda: b"<html>404</html>", "wrong_format", "is no npy file"),
    "bare pickle": (lambda: pickle.dumps(Touch()), "wrong_format", "is no npy file"),
    "objects by pickle": (
        lambda: npy(ragged(), allow_pickle=True),
        "wrong_type",
        "holds Python objects, which are never read",
    ),
    "text array": (lambda: npy(np.array(["a", "b"])), "wrong_type", "holds type <U1"),
    "records": (lambda: npy(np.zeros(3, "f4,i2")), "wrong_type", "holds type ["),
    "complex": (lambda: npy(IMAGE.astype(complex)), "wrong_type", "holds type complex128"),
    "cut in its data": (lambda: npy(IMAGE)[:900], "truncated_file", "has 900 bytes where"),
    "cut in its header": (lambda: npy(IMAGE)[:40], "truncated_file", "within its header"),
    "rubbish header": (lambda: npy_header("{'descr': ("), "corrupt_file", "header is damaged"),
    "code in its header": (
        lambda: npy_header("{'descr': __import__('os').system('touch pwned-by-a-pickle')}"),
        "corrupt_file",
        "header is damaged",
    ),
    "another version": (
        lambda: b"\x93NUMPY\x09\x00" + npy(IMAGE)[8:],
        "wrong_format",
        "is of another npy version",
    ),
    "memory bomb": (lambda: declared((3, 10**6, 10**6)), "too_large", "3000000000000 pixels"),
    "overflow bomb": (lambda: declared((2**62, 2**62)), "too_large", "the limit is 67108864"),
    "more declared than there is": (
        lambda: declared((3, 2000, 2000)),
        "truncated_file",
        "where its header needs 48000",
    ),
    "negative axis": (lambda: declared((3, -20, -20)), "no_image", "without pixels"),
    "no pixels": (lambda: npy(IMAGE[:, :0]), "no_image", "without pixels"),
    "no axes": (lambda: npy(np.float32(1)), "no_image", "without pixels"),
    "one axis": (lambda: npy(IMAGE.ravel()), "wrong_dimensions", "has 1 axes"),
    "four axes": (lambda: npy(IMAGE[None]), "wrong_dimensions", "has 4 axes"),
    "bands last": (
        lambda: npy(IMAGE.transpose(1, 2, 0)),
        "wrong_bands",
        "it looks like (y, x, band)",
    ),
    "bytes among floats": (
        lambda: npy(IMAGE.astype(np.uint8)),
        "wrong_type",
        "holds uint8 where the survey's values are float",
    ),
    "other size": (lambda: npy(IMAGE[:, 1:]), "wrong_shape", "is 19 x 20 px"),
    "NaN": (lambda: npy(IMAGE * np.nan), "no_finite_pixels", "every pixel"),
    "constant": (lambda: npy(IMAGE * 0 + 3), "constant_image", "every pixel is 3"),
}
HDF5: dict[str, tuple[Callable[[], bytes], str, str]] = {
    "empty": (lambda: b"", "empty_file", "is empty"),
    "text": (lambda: b"<html>404</html>", "wrong_format", "is no HDF5 file"),
    "truncated": (lambda: good_hdf5()[:-3000], "truncated_file", "ends early"),
    "cut in its header": (lambda: good_hdf5()[:100], "truncated_file", "ends early"),
    "flipped": (flipped_hdf5, "corrupt_file", "damaged"),
    "external link": (lambda: hdf5(external), "outside_link", "is a link out of its place"),
    "soft link": (
        lambda: hdf5(lambda file: file.update({"image": h5py.SoftLink("/etc")})),
        "outside_link",
        "is a link out of its place",
    ),
    "virtual dataset": (lambda: hdf5(virtual), "outside_link", "lies in other files"),
    "external data": (lambda: hdf5(external_data), "outside_link", "lies in other files"),
    "missing dataset": (
        lambda: hdf5(lambda file: file.create_dataset("flux", data=IMAGE)),
        "missing_array",
        "has no dataset 'image' or 'images'",
    ),
    "a group": (
        lambda: hdf5(lambda file: file.create_group("image/inner")),
        "missing_array",
        "has no dataset",
    ),
    "object dtype": (lambda: hdf5(objects), "wrong_type", "holds Python objects"),
    "a dataset of text": (
        lambda: hdf5(lambda file: file.create_dataset("image", data=["a"])),
        "wrong_type",
        "holds Python objects",
    ),
    "huge declared shape": (
        lambda: hdf5(
            lambda file: file.create_dataset("image", (3, 10**6, 10**6), "f4", chunks=(1, 64, 64))
        ),
        "too_large",
        "declares 3000000000000 pixels",
    ),
    "missing chunk": (lambda: hdf5(holes), "missing_chunk", "its chunk at (1, 0, 0) was never"),
    "never written": (
        lambda: hdf5(lambda file: file.create_dataset("image", (3, 20, 20), "f4")),
        "missing_chunk",
        "were never written",
    ),
    "unknown codec": (lambda: hdf5(unknown_filter), "unknown_codec", "the HDF5 filter 32015"),
    "no pixels": (
        lambda: hdf5(lambda file: file.create_dataset("image", (3, 0, 20), "f4")),
        "no_image",
        "without pixels",
    ),
    "bytes among floats": (
        lambda: hdf5(lambda file: file.create_dataset("image", data=IMAGE.astype(np.uint8))),
        "wrong_type",
        "holds uint8",
    ),
}
