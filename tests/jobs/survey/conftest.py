"""Small surveys on disk, in the forms that users bring."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

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
