"""Files that unpack to far more than they are: an error of that object, at bounded memory.

Each is read in a process of its own that may not grow by more than a gigabyte or so.
"""

from __future__ import annotations

import gzip
import io
import json
import resource
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pyarrow as pa
import pytest
from astropy.io import fits
from PIL import Image
from pyarrow import parquet as pq

from jobs.errors import RefusedError
from jobs.specs.survey import SurveySpec
from jobs.survey import describe
from jobs.survey.memory import memory_limit
from jobs.survey.reader import ReadFailure
from jobs.survey.survey import open_survey

MEGABYTE = 1 << 20
READ = """
import json, resource, sys
from jobs.specs.survey import SurveySpec
from jobs.survey import memory
from jobs.survey.survey import open_survey
memory.memory_limit.__wrapped__.__defaults__ = (256 << 20,)
survey = open_survey(SurveySpec.model_validate_json(sys.argv[1]))
survey.read([0])
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
answer = survey.read([1])[0]
grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
print(json.dumps([answer.code, answer.reason, grown * 1024]))
"""


def read_in_a_process(spec: SurveySpec) -> tuple[str, str, int]:
    """Read the second object where 256 MiB more are allowed: its code, reason, and the growth."""
    command = [sys.executable, "-c", READ, spec.model_dump_json()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    code, reason, grown = json.loads(done.stdout)
    return code, reason, grown


def image_fits(**more: object) -> bytes:
    buffer = io.BytesIO()
    pixels = np.random.default_rng(0).normal(size=(3, 16, 16)).astype(np.float32)
    fits.PrimaryHDU(pixels).writeto(buffer)
    return buffer.getvalue()


def gzip_fits_bomb() -> bytes:
    """Half a megabyte that would unpack to half a gigabyte."""
    return gzip.compress(image_fits() + bytes(512 * MEGABYTE), compresslevel=9)


def tile_bomb() -> bytes:
    """A tile-compressed image of 64 x 64 pixels, one tile of which unpacks to half a gigabyte."""
    pixels = np.arange(4096, dtype=np.int32).reshape(64, 64)
    buffer = io.BytesIO()
    image = fits.CompImageHDU(pixels, compression_type="GZIP_1", tile_shape=(64, 64))
    fits.HDUList([fits.PrimaryHDU(), image]).writeto(buffer)
    buffer.seek(0)
    with fits.open(buffer, disable_image_compression=True) as hdus:
        table = hdus[1]
        bomb = np.frombuffer(gzip.compress(bytes(512 * MEGABYTE)), dtype=np.uint8)
        column = fits.Column("COMPRESSED_DATA", "1PB()", array=np.array([bomb], dtype=object))
        forged = fits.BinTableHDU.from_columns([column], header=table.header)
        for name in ("ZIMAGE", "ZTILE1", "ZTILE2", "ZCMPTYPE", "ZBITPIX", "ZNAXIS"):
            forged.header[name] = table.header[name]
        out = io.BytesIO()
        fits.HDUList([fits.PrimaryHDU(), forged]).writeto(out)
    return out.getvalue()


def hdf5_bomb() -> bytes:
    """A chunk of a few numbers, whose stream goes on for half a gigabyte."""
    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as file:
        shape = (3, 16, 16)
        images = file.create_dataset("image", shape, "f4", chunks=shape, compression="gzip")
        images.id.write_direct_chunk((0, 0, 0), zlib.compress(bytes(512 * MEGABYTE), 9))
    return buffer.getvalue()


def png_text_bomb() -> bytes:
    """A good image with a compressed comment that unpacks to half a gigabyte."""
    buffer = io.BytesIO()
    Image.fromarray(np.arange(768, dtype=np.uint8).reshape(16, 16, 3)).save(buffer, "PNG")
    content = buffer.getvalue()
    data = b"Comment\0\0" + zlib.compress(bytes(512 * MEGABYTE), 9)
    chunk = len(data).to_bytes(4, "big") + b"zTXt" + data
    chunk += zlib.crc32(b"zTXt" + data).to_bytes(4, "big")
    return content[:33] + chunk + content[33:]


def good_png() -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.arange(768, dtype=np.uint8).reshape(16, 16, 3)).save(buffer, "PNG")
    return buffer.getvalue()


def good_hdf5() -> bytes:
    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as file:
        file["image"] = np.arange(768, dtype=np.float32).reshape(3, 16, 16)
    return buffer.getvalue()


BOMBS: dict[str, tuple[str, str, Callable[[], bytes], Callable[[], bytes]]] = {
    "gzipped FITS": ("fits", ".fits", image_fits, gzip_fits_bomb),
    "FITS tile": ("fits", ".fits", image_fits, tile_bomb),
    "HDF5 chunk": ("hdf5", ".h5", good_hdf5, hdf5_bomb),
    "PNG comment": ("images", ".png", good_png, png_text_bomb),
}


@pytest.mark.skipif(sys.platform != "linux", reason="the limit is Linux's")
@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[] if name == "FITS tile" else pytest.mark.slow) for name in BOMBS],
)
def test_a_decompression_bomb_is_an_error_at_bounded_memory(name: str, tmp_path: Path) -> None:
    form, suffix, good, bomb = BOMBS[name]
    (tmp_path / f"a{suffix}").write_bytes(good())
    content = bomb()
    assert len(content) < 2 * MEGABYTE
    (tmp_path / f"b{suffix}").write_bytes(content)
    code, reason, grown = read_in_a_process(SurveySpec(format=form, path=str(tmp_path)))
    assert code in ("too_large", "corrupt_file")
    assert reason.startswith(f"b{suffix}: ")
    assert grown < 400 * MEGABYTE


def test_the_limit_is_on_growth_alone_and_goes_away_again() -> None:
    before = resource.getrlimit(resource.RLIMIT_DATA)
    held = np.ones(64 * MEGABYTE // 8)
    with memory_limit(64 * MEGABYTE), pytest.raises(MemoryError):
        np.ones(512 * MEGABYTE // 8)
    with memory_limit(256 * MEGABYTE):
        assert np.ones(64 * MEGABYTE // 8).sum() == held.sum()
    assert resource.getrlimit(resource.RLIMIT_DATA) == before


def test_a_pillow_warning_is_an_error(tmp_path: Path) -> None:
    # Pillow itself only warns between 89 and 179 million pixels.
    for number, size in enumerate([(9500, 9500), (13000, 13000), (14000, 14000)]):
        Image.new("1", size).save(tmp_path / f"{number}.png")
    (tmp_path / "9.png").write_bytes(good_png())
    survey = open_survey(SurveySpec(format="images", path=str(tmp_path)))
    answers = survey.read(range(4))
    codes = [answer.code if isinstance(answer, ReadFailure) else "" for answer in answers]
    assert codes == ["too_large"] * 3 + [""]


def test_a_catalogue_that_declares_more_rows_than_it_can_hold_is_refused(tmp_path: Path) -> None:
    rows = 50_000_000
    values = pa.DictionaryArray.from_arrays(pa.array(np.zeros(rows, np.int8)), ["x" * 100])
    pq.write_table(pa.table({"id": values}), tmp_path / "bomb.parquet")
    assert (tmp_path / "bomb.parquet").stat().st_size < MEGABYTE
    spec = SurveySpec(format="fits", path=str(tmp_path), catalogue=str(tmp_path / "bomb.parquet"))
    with pytest.raises(RefusedError, match=r"declares 50000000 rows in \d+ bytes"):
        describe.read_catalogue(spec)
