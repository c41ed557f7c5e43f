"""Small surveys on disk, in the forms that users bring."""

from __future__ import annotations

import io
import json
from dataclasses import dataclass, field
from pathlib import Path

import h5py
import numpy as np
import pyarrow as pa
import pytest
import zarr
from astropy.io import fits
from PIL import Image
from pyarrow import parquet as pq

from jobs.specs.survey import SurveySpec

BANDS, SIZE, OBJECTS = 3, 20, 6


@dataclass(frozen=True)
class OnDisk:
    """A survey that was just written, and what is in it."""

    spec: SurveySpec
    folder: Path
    ids: list[str]
    names: list[str]
    """File names, in catalogue order."""
    pixels: list[np.ndarray] = field(default_factory=list)
    """What reading them must give."""

    def file(self, row: int) -> Path:
        return self.folder / self.names[row]

    def with_spec(self, **changes: object) -> SurveySpec:
        return SurveySpec.model_validate({**self.spec.model_dump(), **changes})


def nanomaggies(row: int, shape: tuple[int, ...] = (BANDS, SIZE, SIZE)) -> np.ndarray:
    return np.random.default_rng(row).normal(0.3, 1.0, shape).astype(np.float32)


def sky(count: int) -> dict[str, np.ndarray]:
    return {"ra": np.linspace(-20.0, 200.0, count), "dec": np.linspace(-60.0, 60.0, count)}


@pytest.fixture
def fits_survey(tmp_path: Path) -> OnDisk:
    """Legacy-like: big-endian float32 (band, y, x); ids in int64 beyond float64; Zoobot's names."""
    folder = tmp_path / "cutouts"
    folder.mkdir()
    ids = [10995474270000000001 + row for row in range(OBJECTS)]
    names = [f"{id_}.fits" for id_ in ids]
    pixels = [nanomaggies(row) for row in range(OBJECTS)]
    for name, image in zip(names, pixels, strict=True):
        fits.PrimaryHDU(image.astype(">f4")).writeto(folder / name)
    columns = {
        "id_str": [str(id_) for id_ in ids],
        "file_loc": [str(folder / name) for name in names],
        "smooth-or-featured-gz2_smooth": np.arange(OBJECTS),
        "morphology": ["smooth", "spiral"] * (OBJECTS // 2),
        **sky(OBJECTS),
    }
    catalogue = tmp_path / "galaxies.parquet"
    pq.write_table(pa.table(columns), catalogue)
    spec = SurveySpec(format="fits", path=str(folder), catalogue=str(catalogue))
    return OnDisk(spec, folder, [str(id_) for id_ in ids], names, pixels)


@pytest.fixture
def image_survey(tmp_path: Path) -> OnDisk:
    """PNG and JPEG in turn, with a CSV catalogue of ids with leading zeros."""
    folder = tmp_path / "images"
    folder.mkdir()
    random = np.random.default_rng(5)
    ids = [f"{row:04d}" for row in range(OBJECTS)]
    names = [f"{id_}.{'jpg' if row % 2 else 'png'}" for row, id_ in enumerate(ids)]
    pixels = []
    for name in names:
        values = random.integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8)
        Image.fromarray(values).save(folder / name)
        with Image.open(folder / name) as written:
            pixels.append(np.asarray(written).transpose(2, 0, 1).astype(np.float32) / 255)
    catalogue = tmp_path / "galaxies.csv"
    rows = [
        f"{id_},{name},{row % 2}" for row, (id_, name) in enumerate(zip(ids, names, strict=True))
    ]
    catalogue.write_text("objid,filename,label\n" + "\n".join(rows) + "\n")
    spec = SurveySpec(format="images", path=str(folder), catalogue=str(catalogue))
    return OnDisk(spec, folder, ids, names, pixels)


@pytest.fixture
def simulated_survey(tmp_path: Path) -> OnDisk:
    """A finished run: sharded, three objects a chunk, so that reads cross chunk borders."""
    run = tmp_path / "run"
    root = zarr.create_group(run / "results.zarr")
    pixels = [nanomaggies(row) for row in range(8)]
    shape = (8, BANDS, SIZE, SIZE)
    images = root.create_array(
        "cutout/image",
        shape=shape,
        chunks=(3, *shape[1:]),
        shards=(6, *shape[1:]),
        dtype="float32",
        fill_value=np.nan,
        compressors=[zarr.codecs.ZstdCodec(), zarr.codecs.Crc32cCodec()],
        dimension_names=("object", "band", "y", "x"),
    )
    images[:] = np.stack(pixels)
    ids = [f"A-{row:07d}" for row in range(8)]
    columns = {"id": ids, "label": ["barred"] * 8, "seeing": np.full(8, 1.25), **sky(8)}
    for name, values in columns.items():
        data = np.asarray(
            values, dtype=np.dtypes.StringDType() if name in ("id", "label") else None
        )
        root.create_array(f"catalogue/{name}", data=data, dimension_names=("object",))
    (run / "manifest.json").write_text(json.dumps({"digest": "0" * 64}))
    return OnDisk(SurveySpec(format="simulated", path=str(run)), run, ids, [], pixels)


def listed(folder: Path, count: int, names: list[str] | None = None) -> str:
    """Write a catalogue of ids, positions and, if given, files."""
    columns: dict[str, object] = {"id": [f"g{row}" for row in range(count)], **sky(count)}
    if names is not None:
        columns["path"] = names
    pq.write_table(pa.table(columns), folder / "galaxies.parquet")
    return str(folder / "galaxies.parquet")


@pytest.fixture
def npy_survey(tmp_path: Path) -> OnDisk:
    """One npy file each, in both byte orders and both memory orders."""
    folder = tmp_path / "arrays"
    folder.mkdir()
    ids = [f"g{row}" for row in range(OBJECTS)]
    pixels = [nanomaggies(row) for row in range(OBJECTS)]
    for row, image in enumerate(pixels):
        order = "F" if row % 3 == 0 else "C"
        np.save(folder / f"g{row}.npy", image.astype(">f4" if row % 2 else "<f4", order=order))
    spec = SurveySpec(format="npy", path=str(folder), catalogue=listed(tmp_path, OBJECTS))
    return OnDisk(spec, folder, ids, [f"{id_}.npy" for id_ in ids], pixels)


@pytest.fixture
def hdf5_survey(tmp_path: Path) -> OnDisk:
    """One HDF5 file each, of several filters."""
    folder = tmp_path / "files"
    folder.mkdir()
    ids = [f"g{row}" for row in range(OBJECTS)]
    pixels = [nanomaggies(row) for row in range(OBJECTS)]
    for row, image in enumerate(pixels):
        filters = [{}, {"compression": "gzip", "shuffle": True}, {"fletcher32": True}][row % 3]
        with h5py.File(folder / f"g{row}.h5", "w") as file:
            file.create_dataset("image", data=image, **filters)
    spec = SurveySpec(format="hdf5", path=str(folder), catalogue=listed(tmp_path, OBJECTS))
    return OnDisk(spec, folder, ids, [f"{id_}.h5" for id_ in ids], pixels)


@pytest.fixture
def hdf5_rows(tmp_path: Path) -> OnDisk:
    """Like Galaxy10: one file, bytes with bands last, labels and positions beside them."""
    values = np.random.default_rng(3).integers(0, 256, (8, SIZE, SIZE, BANDS), dtype=np.uint8)
    path = tmp_path / "galaxy10.h5"
    with h5py.File(path, "w") as file:
        chunks = (3, SIZE, SIZE, BANDS)
        file.create_dataset("images", data=values, chunks=chunks, compression="gzip")
        file.create_dataset("ans", data=np.arange(8) % 3)
        file.create_dataset("name", data=[f"gal-{row}" for row in range(8)])
        for name, column in sky(8).items():
            file.create_dataset(name, data=column)
    spec = SurveySpec(
        format="hdf5", path=str(path), bands="last", columns={"id": "name", "label": "ans"}
    )
    pixels = [image.transpose(2, 0, 1).astype(np.float32) for image in values]
    return OnDisk(spec, path, [f"gal-{row}" for row in range(8)], [], pixels)


@pytest.fixture
def zarr_rows(tmp_path: Path) -> OnDisk:
    """A store of one's own, not sharded, whose catalogue is a table."""
    pixels = [nanomaggies(row) for row in range(8)]
    store = tmp_path / "cutouts.zarr"
    root = zarr.create_group(store)
    array = root.create_array(
        "images", shape=(8, BANDS, SIZE, SIZE), chunks=(3, 3, SIZE, SIZE), dtype=">f8"
    )
    array[:] = np.stack(pixels)
    spec = SurveySpec(format="zarr", path=str(store), catalogue=listed(tmp_path, 8))
    return OnDisk(spec, store, [f"g{row}" for row in range(8)], [], pixels)


@pytest.fixture
def parquet_rows(tmp_path: Path) -> OnDisk:
    """Like a data set of a model hub: two tables of PNG and FITS files, in row groups of two."""
    folder = tmp_path / "data"
    folder.mkdir()
    pixels, cells = [], []
    for row in range(8):
        buffer = io.BytesIO()
        if row % 2:
            pixels.append(nanomaggies(row))
            fits.PrimaryHDU(pixels[-1]).writeto(buffer)
        else:
            random = np.random.default_rng(row)
            values = random.integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8)
            Image.fromarray(values).save(buffer, "PNG")
            pixels.append(values.transpose(2, 0, 1).astype(np.float32) / 255)
        cells.append({"bytes": buffer.getvalue(), "path": f"{row}.png"})
    for number, part in enumerate((slice(0, 5), slice(5, 8))):
        columns = {
            "image": cells[part],
            "id_str": [f"g{row}" for row in range(8)][part],
            "label": ["spiral"] * len(cells[part]),
        }
        pq.write_table(pa.table(columns), folder / f"{number}.parquet", row_group_size=2)
    spec = SurveySpec(format="parquet", path=str(folder))
    return OnDisk(spec, folder, [f"g{row}" for row in range(8)], [], pixels)
