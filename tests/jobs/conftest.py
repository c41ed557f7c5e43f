"""Small but real run folders, for what reads them: the maps and the report."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
import zarr

CLASSES = ("smooth", "spiral", "barred")
SIZE, WINDOW, STRIDE = 12, (6, 6), (4, 4)
SHARD, CHUNK = 16, 8


@dataclass
class RunContent:
    """What a run folder holds, as arrays in memory; quarantined rows are blanked when written."""

    id: np.ndarray
    ra: np.ndarray
    dec: np.ndarray
    label: np.ndarray
    logit: np.ndarray
    status: np.ndarray
    maps: dict[str, np.ndarray]
    entropy: dict[str, np.ndarray] = field(default_factory=dict)
    columns: dict[str, np.ndarray] = field(default_factory=dict)
    classes: tuple[str, ...] = CLASSES
    name: str = "survey-a"
    targets: tuple[str, ...] = ("predicted", "label")
    job: dict[str, Any] = field(default_factory=dict)

    def but(self, **changes: Any) -> RunContent:
        return replace(self, **changes)


@pytest.fixture(scope="session")
def make_content() -> Callable[..., RunContent]:
    return _make_content


@pytest.fixture(scope="session")
def write_run(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    def write(content: RunContent, name: str = "run", *, finished: bool = True) -> Path:
        path = tmp_path_factory.mktemp(name)
        _write_files(path, content, finished)
        _write_store(path / "results.zarr", content)
        return path

    return write


def _make_content(objects: int = 50, seed: int = 1) -> RunContent:
    random = np.random.default_rng(seed)
    label = random.integers(0, 3, objects)
    logit = random.normal(size=(objects, 3))
    logit[np.arange(objects), label] += 1.5
    status = np.ones(objects, np.uint8)
    status[[3, objects - 1]] = 2
    probability = random.dirichlet((1, 1, 1), objects)
    entropy = -(probability * np.log(probability)).sum(axis=1)
    return RunContent(
        id=np.array([f"J{i:04d}" for i in range(objects)]),
        ra=(350.0 + random.uniform(0, 20, objects)) % 360.0,
        dec=random.uniform(-5, 5, objects),
        label=np.array(CLASSES)[label],
        logit=logit,
        status=status,
        maps={
            "occlusion": random.normal(size=(objects, 2, 3, 3)),
            "integrated_gradients": random.normal(size=(objects, 2, SIZE, SIZE)),
            "gradient_x_input": random.normal(size=(objects, 2, SIZE, SIZE)),
        },
        entropy={
            "predictive_entropy": entropy,
            "mutual_information": 0.2 * entropy,
            "expected_entropy": 0.8 * entropy,
            "probability_mean": probability,
            "probability_std": 0.1 * probability,
        },
        columns={"seeing": random.uniform(0.8, 2.0, objects)},
    )


def _write_files(path: Path, content: RunContent, finished: bool) -> None:
    job = {
        "kind": "attribution",
        "name": content.name,
        "survey": {"format": "zarr", "path": "nowhere"},
        "network": {"architecture": "occulta:small", "classes": list(content.classes)},
        "methods": [{"method": name} for name in content.maps],
        "maps": {"nside": 8, "group_by": "label", "min_count": 2},
    }
    (path / "job.yaml").write_text(yaml.safe_dump(job | content.job, sort_keys=False))
    manifest = {
        "kind": "attribution",
        "name": content.name,
        "classes": list(content.classes),
        "image_shape": [3, SIZE, SIZE],
        "objects": len(content.id),
        "versions": {"numpy": np.__version__},
    }
    if finished:
        manifest["results_digest"] = "ab" * 32
    (path / "manifest.json").write_text(json.dumps(manifest))
    (path / "events.jsonl").write_text("")
    rows = "".join(
        f"{content.id[i]},0,truncated_file,the file ends early\r\n"
        for i in np.flatnonzero(content.status == 2)
    )
    (path / "quarantine.csv").write_text("id,unit,code,reason\r\n" + rows, newline="")


def _write_store(store: Path, content: RunContent) -> None:
    root = zarr.open_group(store, mode="w")
    gone = content.status != 1
    _put(root, "status", content.status, ())
    for name in ("id", "label"):
        _put(root, f"catalogue/{name}", getattr(content, name), ())
    for name in ("ra", "dec"):
        _put(root, f"catalogue/{name}", getattr(content, name), (), units="degree")
    for name, values in content.columns.items():
        _put(root, f"catalogue/{name}", values, ())
    _put(root, "prediction/logit", _blank(content.logit, gone), ("class",), units="logit")
    _text(root, "prediction/class", content.classes, "class")
    code = {name: i for i, name in enumerate(content.classes)}
    label = np.array([code.get(str(name), -1) for name in content.label])
    target = np.stack([content.logit.argmax(axis=1), label], axis=1).astype(np.int32)
    target[gone] = -1
    if content.targets[0] == "label":
        target = target[:, ::-1]
    _put(root, "prediction/target", target, ("target",))
    for method, maps in content.maps.items():
        blank = _blank(maps, gone | (target[:, 0] < 0))
        if method == "occlusion":
            dims, name = ("target", "window_y", "window_x"), "grid"
            extra = {"window": WINDOW, "stride": STRIDE, "image_shape": [SIZE, SIZE]}
        else:
            dims, name, extra = ("target", "y", "x"), "attribution", {}
        if maps.ndim == 5:
            dims = ("target", "channel", "y", "x")
        _put(root, f"{method}/{name}", blank, dims, units="logit", **extra)
        _text(root, f"{method}/target", content.targets, "target")
        gini = np.abs(blank).reshape(*maps.shape[:2], -1).std(axis=-1)
        _put(root, f"summary/{method}/gini", gini, ("target",), units="1")
    for name, values in content.entropy.items():
        dims = ("class",) if values.ndim == 2 else ()
        _put(root, f"mc_dropout/{name}", _blank(values, gone), dims, units="nat")
    zarr.consolidate_metadata(root.store)


def _blank(values: np.ndarray, gone: np.ndarray) -> np.ndarray:
    values = values.astype(np.float32)
    values[gone] = np.nan
    return values


def _put(
    root: zarr.Group, name: str, values: np.ndarray, dims: tuple[str, ...], **attributes: Any
) -> None:
    text = values.dtype.kind in "OTU"
    array = root.create_array(
        name,
        shape=values.shape,
        dtype="string" if text else values.dtype,
        chunks=(CHUNK, *values.shape[1:]),
        shards=None if text else (SHARD, *values.shape[1:]),
        compressors=[zarr.codecs.ZstdCodec(), zarr.codecs.Crc32cCodec()],
        dimension_names=("object", *dims),
        chunk_key_encoding={"name": "default", "separator": "."},
        attributes={"units": "1", "long_name": name, **attributes},
        fill_value="" if text else (np.nan if values.dtype.kind == "f" else 0),
    )
    array[...] = values.astype(np.dtypes.StringDType()) if text else values


def _text(root: zarr.Group, name: str, values: tuple[str, ...], dim: str) -> None:
    array = root.create_array(name, shape=(len(values),), dtype="string", dimension_names=(dim,))
    array[:] = np.array(values, dtype=np.dtypes.StringDType())
