"""Every bad npy, HDF5, Zarr or Parquet input: its code, one line, and unharmed neighbours."""

from __future__ import annotations

import json
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pyarrow as pa
import pytest
import zarr
from conformance.bad_arrays import HDF5, NPY, Touch, hdf5, unknown_filter
from pyarrow import parquet as pq

from jobs.errors import RefusedError
from jobs.survey.reader import Cutout, ReadFailure
from jobs.survey.survey import open_reader, open_survey

ROW = 2
FILES = {
    **{("npy_survey", name): case for name, case in NPY.items()},
    **{("hdf5_survey", name): case for name, case in HDF5.items()},
}


@pytest.mark.parametrize(("survey", "name"), FILES, ids=[f"{s}: {name}" for s, name in FILES])
def test_only_the_bad_file_fails(
    survey: str, name: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    on_disk = request.getfixturevalue(survey)
    monkeypatch.chdir(on_disk.folder.parent)
    make, code, fact = FILES[survey, name]
    catalogue = open_survey(on_disk.spec).catalogue
    reader = open_reader(on_disk.with_spec(values="float"), 3, (20, 20))
    before = reader.read(catalogue)
    on_disk.file(ROW).write_bytes(make())
    after = reader.read(catalogue)
    for row, (old, new) in enumerate(zip(before, after, strict=True)):
        assert isinstance(old, Cutout)
        if row != ROW:
            assert isinstance(new, Cutout)
            assert new.pixels.tobytes() == old.pixels.tobytes()
            assert new.sha256 == old.sha256
    failure = after[ROW]
    assert isinstance(failure, ReadFailure), failure.pixels.shape
    assert failure.code == code, failure.reason
    assert failure.reason.startswith(f"{on_disk.names[ROW]}: ")
    assert fact in failure.reason
    assert failure.reason.isprintable()
    assert not list(on_disk.folder.parent.glob("pwned*"))


def codes(on_disk: Any) -> list[str]:
    """Read all rows; a readable one counts only with the pixels that it had."""
    survey = open_survey(on_disk.spec)
    answers = survey.read(survey.catalogue)
    for row, answer in enumerate(answers):
        if isinstance(answer, Cutout):
            assert np.array_equal(answer.pixels, on_disk.pixels[row])
        else:
            assert answer.reason.isprintable()
            assert f"row {row}" in answer.reason or ".parquet row" in answer.reason
    return [answer.code if isinstance(answer, ReadFailure) else "" for answer in answers]


def test_a_flipped_bit_of_hdf5_fails_the_rows_of_its_chunk(hdf5_rows) -> None:
    with h5py.File(hdf5_rows.folder, "r") as file:
        where = file["images"].id.get_chunk_info(1)
    content = bytearray(hdf5_rows.folder.read_bytes())
    content[where.byte_offset + where.size // 2] ^= 4
    hdf5_rows.folder.write_bytes(content)
    assert codes(hdf5_rows) == [""] * 3 + ["corrupt_file"] * 3 + [""] * 2


def test_a_missing_chunk_of_hdf5_is_no_black_image(hdf5_rows) -> None:
    with h5py.File(hdf5_rows.folder, "r+") as file:
        values = file["images"][...]
        del file["images"]
        images = file.create_dataset("images", values.shape, "u1", chunks=(3, 20, 20, 3))
        images[0:3], images[6:8] = values[0:3], values[6:8]
    assert codes(hdf5_rows) == [""] * 3 + ["missing_chunk"] * 3 + [""] * 2


def test_a_flipped_bit_of_zarr_fails_the_rows_of_its_chunk(zarr_rows) -> None:
    path = zarr_rows.folder / "images/c/1/0/0/0"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    zarr.create_array(  # the same, with a checksum
        zarr_rows.folder / "images",
        shape=(8, 3, 20, 20),
        chunks=(3, 3, 20, 20),
        dtype="f8",
        compressors=[zarr.codecs.Crc32cCodec()],
        overwrite=True,
    )[:] = np.stack(zarr_rows.pixels)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)
    assert codes(zarr_rows) == [""] * 3 + ["corrupt_file"] * 3 + [""] * 2


@pytest.mark.parametrize("damage", [Path.unlink, lambda path: path.write_bytes(b"")])
def test_a_missing_chunk_of_zarr_is_no_black_image(zarr_rows, damage) -> None:
    damage(zarr_rows.folder / "images/c/1/0/0/0")
    assert codes(zarr_rows) == [""] * 3 + ["missing_chunk"] * 3 + [""] * 2


def test_a_truncated_chunk_of_zarr_fails_its_rows(zarr_rows) -> None:
    os.truncate(zarr_rows.folder / "images/c/0/0/0/0", 50)
    assert codes(zarr_rows) == ["corrupt_file"] * 3 + [""] * 5


def test_bad_cells_of_parquet_fail_alone(parquet_rows) -> None:
    path = parquet_rows.folder / "0.parquet"
    table = pq.read_table(path)
    cells = table["image"].to_pylist()
    cells[0]["bytes"] = cells[0]["bytes"][:300]
    cells[1]["bytes"] = b""
    cells[2] = None
    cells[3]["bytes"] = pickle.dumps(Touch())
    table = table.set_column(0, "image", pa.array(cells, table.schema.field("image").type))
    pq.write_table(table, path, row_group_size=2)
    expected = ["truncated_file", "empty_file", "empty_file", "wrong_format"] + [""] * 4
    assert codes(parquet_rows) == expected


def test_a_damaged_page_of_parquet_fails_its_rows(parquet_rows) -> None:
    path = parquet_rows.folder / "1.parquet"
    table = pq.read_table(path)
    pq.write_table(table, path, write_page_checksum=True, compression="none", use_dictionary=False)
    content = bytearray(path.read_bytes())
    content[content.index(table["image"][0].as_py()["bytes"]) + 200] ^= 4
    path.write_bytes(content)
    assert codes(parquet_rows)[5:] == ["corrupt_file"] * 3


def hdf5_file(write: Callable[[h5py.File], object]) -> Callable[[Any], None]:
    return lambda on_disk: on_disk.folder.write_bytes(hdf5(write))


def big(file: h5py.File) -> None:
    file.create_dataset("images", (10**12, 20, 20, 3), "u1", chunks=(1, 20, 20, 3))[0] = 1


def metadata(**changes: Any) -> Callable[[Any], None]:
    def change(on_disk: Any) -> None:
        path = on_disk.folder / "images/zarr.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return change


WHOLE: dict[tuple[str, str], tuple[Callable[[Any], object], str]] = {
    ("hdf5_rows", "truncated"): (
        lambda d: os.truncate(d.folder, d.folder.stat().st_size - 500),
        "truncated file",
    ),
    ("hdf5_rows", "external link"): (
        hdf5_file(lambda file: file.update({"images": h5py.ExternalLink("x.h5", "/images")})),
        "is a link out of its place",
    ),
    ("hdf5_rows", "a trillion rows"): (hdf5_file(big), "10{12} chunks, of which 1 are stored"),
    ("hdf5_rows", "no dataset"): (hdf5_file(lambda file: None), "has no dataset 'image' or"),
    ("hdf5_rows", "vlen"): (
        hdf5_file(lambda f: f.create_dataset("images", (4,), h5py.vlen_dtype("f4"))),
        "holds Python objects",
    ),
    ("hdf5_rows", "huge image"): (
        hdf5_file(lambda f: f.create_dataset("images", (4, 10**5, 10**5, 3), "u1", chunks=True)),
        "declares 30000000000 pixels",
    ),
    ("hdf5_rows", "unknown codec"): (
        hdf5_file(unknown_filter),
        "filter 32015",
    ),
    ("zarr_rows", "a trillion rows"): (
        metadata(shape=[10**12, 3, 20, 20]),
        "declares 333333333334 blocks of rows, of which 3 are stored",
    ),
    ("zarr_rows", "unknown codec"): (
        metadata(codecs=[{"name": "os.system", "configuration": {}}]),
        "can't be read",
    ),
    ("zarr_rows", "object dtype"): (metadata(data_type="object"), "can't be read"),
    ("zarr_rows", "huge chunk"): (
        metadata(
            shape=[3 * 10**6, 3, 20, 20],
            chunk_grid={"name": "regular", "configuration": {"chunk_shape": [10**6, 3, 20, 20]}},
        ),
        "keeps 1200000000 values in a chunk",
    ),
    ("zarr_rows", "no array"): (lambda d: os.rename(d.folder / "images", d.folder / "x"), "no arr"),
    ("zarr_rows", "rubbish"): (
        lambda d: (d.folder / "images/zarr.json").write_text("{"),
        "can't be read|no array",
    ),
    ("parquet_rows", "rubbish"): (
        lambda d: (d.folder / "0.parquet").write_bytes(b"PAR1 and then text"),
        "0.parquet can't be read",
    ),
    ("parquet_rows", "no column"): (
        lambda d: pq.write_table(pa.table({"x": [1]}), d.folder / "0.parquet"),
        "has no column 'image' or .*there are x: name one in survey.array",
    ),
    ("parquet_rows", "numbers"): (
        lambda d: pq.write_table(pa.table({"image": [1]}), d.folder / "0.parquet"),
        "is int64: image files as bytes are needed",
    ),
}


@pytest.mark.parametrize(("survey", "name"), WHOLE, ids=[f"{s}: {name}" for s, name in WHOLE])
def test_a_survey_file_that_is_bad_as_a_whole_is_refused(
    survey: str, name: str, request: pytest.FixtureRequest
) -> None:
    on_disk = request.getfixturevalue(survey)
    damage, message = WHOLE[survey, name]
    damage(on_disk)
    with pytest.raises(RefusedError, match=message) as caught:
        _ = open_survey(on_disk.spec).image_shape
    assert str(caught.value).startswith("survey.path: ")
    assert str(on_disk.folder) in str(caught.value)
    assert str(caught.value).isprintable()
