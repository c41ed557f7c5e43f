"""Every bad input through real explained units: it alone is quarantined, its neighbours the same.

A survey of each format has a bad object after every good one, and a twin in which the bad ones are
good. Both are explained; good objects must have the same bytes in both.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
import zarr
from astropy.io import fits
from conformance.bad_arrays import HDF5, NPY
from conformance.bad_fits import BAD as FITS
from conformance.bad_images import BAD as IMAGES
from PIL import Image

from cluster.pool import SerialPool
from jobs.plan import plan_job
from jobs.run.execute import execute
from jobs.run.status import read_status
from jobs.specs.load import load_job
from jobs.survey.codes import ERROR_CODES
from training.checkpoints import save_weights
from training.networks import build

Damage = Callable[[Path], object]
Cases = dict[str, tuple[Damage, str, str]]

JOB = """
kind: attribution
name: why
survey: {format: FORMAT, path: cutouts, catalogue: catalogue.csv}
network:
  architecture: occulta:small_cnn
  weights: weights.safetensors
  classes: [a, b]
  preprocess: {mean: [0.1, 0.2, 0.3]}
methods:
  - {method: occlusion, window: 10, stride: 10}
  - {method: gradient_x_input}
  - {method: mc_dropout, samples: 2}
execution: {micro_batch: 4, shard_objects: 32, seed: 3}
output: run
"""


def content(cases: Mapping[str, tuple[Callable[[], bytes], str, str]]) -> Cases:
    return {
        name: (lambda path, make=make: path.write_bytes(make()), code, fact)
        for name, (make, code, fact) in cases.items()
    }


def good(form: str, number: int) -> bytes:
    """Return a file of 3 x 20 x 20 pixels that only this number has."""
    random, buffer = np.random.default_rng(number), io.BytesIO()
    pixels = random.normal(0.3, 1.0, (3, 20, 20)).astype(np.float32)
    if form == "fits":
        fits.PrimaryHDU(pixels).writeto(buffer)
    elif form == "npy":
        np.save(buffer, pixels)
    elif form == "hdf5":
        with h5py.File(buffer, "w") as file:
            file["image"] = pixels
    else:
        values = random.integers(0, 256, (20, 20, 3), dtype=np.uint8)
        Image.fromarray(values).save(buffer, "PNG")
    return buffer.getvalue()


CASES: dict[str, tuple[str, Cases]] = {
    "fits": (".fits", content(FITS)),
    "images": (".png", IMAGES),
    "npy": (".npy", content(NPY)),
    "hdf5": (".h5", content(HDF5)),
}


@dataclass(frozen=True)
class Explained:
    """A run, by object."""

    run: Path
    ids: list[str]
    values: dict[str, np.ndarray]
    """The floating-point results, by path in the store."""
    status: dict[str, int]
    quarantine: dict[str, dict[str, str]]

    @classmethod
    def of(cls, run: Path) -> Explained:
        root = zarr.open_group(run / "results.zarr", mode="r")
        ids = [str(id_) for id_ in root["catalogue/id"][...]]
        with (run / "quarantine.csv").open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
        return cls(
            run,
            ids,
            {
                path: array[...]
                for path, array in root.members(max_depth=None)
                if isinstance(array, zarr.Array)
                and array.dtype.kind == "f"
                and not path.startswith("catalogue/")
            },
            dict(zip(ids, root["status"][...].tolist(), strict=True)),
            {row["id"]: row for row in rows},
        )

    def bytes_of(self, id_: str) -> dict[str, bytes]:
        row = self.ids.index(id_)
        return {path: values[row].tobytes() for path, values in self.values.items()}


def explained(folder: Path, form: str, damaged: bool) -> Explained:
    suffix, cases = CASES[form]
    cutouts = folder / "cutouts"
    cutouts.mkdir(parents=True)
    lines = ["id,path,label"]
    for number, (damage, _, _) in enumerate(cases.values()):
        for kind, of_kind in enumerate(("good", "bad")):
            path = cutouts / f"{of_kind}-{number}{suffix}"
            path.write_bytes(good(form, 2 * number + kind))
            lines.append(f"{of_kind}-{number},{path.name},a")
            if damaged and of_kind == "bad":
                damage(path)
    (folder / "catalogue.csv").write_text("\n".join(lines) + "\n")
    (folder / "job.yaml").write_text(JOB.replace("FORMAT", form))
    torch.manual_seed(0)
    save_weights(build("occulta:small_cnn", 2, 3), folder / "weights.safetensors")
    return Explained.of(execute(plan_job(load_job(folder / "job.yaml")), SerialPool))


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, tuple[Explained, ...]]]:
    """The damaged run and its clean twin, by format; made when they are first asked for."""

    class Lazily(dict[str, tuple[Explained, ...]]):
        def __missing__(self, form: str) -> tuple[Explained, ...]:
            folder = tmp_path_factory.mktemp(form)
            self[form] = tuple(explained(folder / str(bad), form, bad) for bad in (True, False))
            return self[form]

    return Lazily()


def marked(form: str) -> list[pytest.MarkDecorator]:
    return [] if form == "npy" else [pytest.mark.slow]


ALL = [
    pytest.param(form, name, marks=marked(form), id=f"{form}: {name}")
    for form, (_, cases) in CASES.items()
    for name in cases
]
FORMS = [pytest.param(form, marks=marked(form)) for form in CASES]


@pytest.mark.parametrize(("form", "name"), ALL)
def test_only_the_bad_object_is_quarantined(runs, form: str, name: str) -> None:
    damaged, _ = runs[form]
    cases = CASES[form][1]
    number = list(cases).index(name)
    _, code, fact = cases[name]
    row = damaged.quarantine[f"bad-{number}"]
    assert row["code"] == code
    assert row["code"] in ERROR_CODES
    assert fact in row["reason"]
    assert row["reason"].startswith(f"bad-{number}.")
    assert row["reason"].isprintable()
    assert damaged.status[f"bad-{number}"] == 2
    values = damaged.ids.index(f"bad-{number}")
    assert all(np.isnan(array[values]).all() for array in damaged.values.values())


@pytest.mark.parametrize("form", FORMS)
def test_the_neighbours_have_the_bytes_of_a_clean_run(runs, form: str) -> None:
    damaged, clean = runs[form]
    count = len(CASES[form][1])
    assert clean.quarantine == {}
    assert set(damaged.quarantine) == {f"bad-{number}" for number in range(count)}
    assert len(damaged.values) > 10
    for number in range(count):
        assert damaged.status[f"good-{number}"] == 1
        assert damaged.bytes_of(f"good-{number}") == clean.bytes_of(f"good-{number}")
    assert read_status(damaged.run).objects == {
        "total": 2 * count,
        "complete": count,
        "quarantined": count,
    }


def run_with(folder: Path, name: str, catalogue: str, cutouts: Path) -> Explained:
    """Explain the files that a catalogue lists."""
    (folder / f"{name}.csv").write_text(catalogue, encoding="utf-8")
    job = JOB.replace("FORMAT", "npy").replace("catalogue.csv", f"{name}.csv")
    (folder / f"{name}.yaml").write_text(job)
    sets = [f"output={folder / name}", f"survey.path={cutouts}"]
    return Explained.of(execute(plan_job(load_job(folder / f"{name}.yaml", sets)), SerialPool))


ROWS: dict[str, tuple[str, str | None]] = {
    # What stands in the row (id, ra, dec, file), and the code that it gets.
    "a duplicate id": ("g0,1,2,x.npy", "duplicate_id"),
    "no id": (",1,2,x.npy", "missing_id"),
    "RA alone": ("c,1,,x.npy", "bad_coordinates"),
    "RA infinite": ("d,inf,2,x.npy", "bad_coordinates"),
    "RA out of range": ("e,400,2,x.npy", "bad_coordinates"),
    "Dec out of range": ("f,1,91,x.npy", "bad_coordinates"),
    "a row without a file": ("g,1,2,gone.npy", "missing_file"),
    "a path that leads out": ("h,1,2,../x.npy", "path_outside_survey"),
    # These are no mistakes.
    "RA and Dec NaN": ("i,nan,nan,x.npy", None),
    "RA and Dec empty": ("j,,,x.npy", None),
    "the pole": ("k,12,90,x.npy", None),
    "across 0": ("l,-0.1,2,x.npy", None),
    "an id with a slash": ("a/../b,1,2,x.npy", None),
    "an id with a line break": ('"b\n{""event"": ""x""}",1,2,x.npy', None),
    "an id with markup": ("<script>alert(1)</script>,1,2,x.npy", None),
    "a unicode twin": ("g\u0966,1,2,x.npy", None),
    "two objects of one file": ("m,1,2,g0.npy", None),
}


@pytest.fixture(scope="module")
def cutouts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Good files, one of which no row names."""
    folder = tmp_path_factory.mktemp("rows")
    for number, name in enumerate(("g0", "g1", "g2", "x", "nobody")):
        (folder / f"{name}.npy").write_bytes(good("npy", number))
    torch.manual_seed(0)
    save_weights(build("occulta:small_cnn", 2, 3), folder / "weights.safetensors")
    return folder


def test_every_bad_row_of_a_catalogue_is_quarantined_alone(cutouts: Path) -> None:
    ids = ["g0", "g1", "g2"]
    head = "id,ra,dec,path\n" + "".join(f"{id_},10,20,{id_}.npy\n" for id_ in ids)
    clean = run_with(cutouts, "clean", head, cutouts)
    bad = run_with(cutouts, "bad", head + "".join(f"{row}\n" for row, _ in ROWS.values()), cutouts)
    for id_ in ids:
        assert bad.bytes_of(id_) == clean.bytes_of(id_)
    root = zarr.open_group(bad.run / "results.zarr", mode="r")
    status = root["status"][...].tolist()[3:]
    assert status == [2 if code else 1 for _, code in ROWS.values()]
    with (bad.run / "quarantine.csv").open(encoding="utf-8", newline="") as file:
        found = [row["code"] for row in csv.DictReader(file)]
    assert found == [code for _, code in ROWS.values() if code]
    stored = [str(id_) for id_ in root["catalogue/id"][...]]
    assert "a/../b" in stored
    assert 'b\n{"event": "x"}' in stored
    assert not [path for path in cutouts.rglob("*") if "script" in path.name]
    for log in ("events.jsonl", "quarantine.csv"):
        for line in (bad.run / log).read_text(encoding="utf-8").splitlines():
            assert not line.startswith('{"event": "x"')
