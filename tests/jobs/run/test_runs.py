"""Runs from end to end, serially and on a real Ray: the same bits, resumable, refused by name."""

import csv
import hashlib
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import xarray as xr
import zarr

from attribution import IntegratedGradients, Occlusion, explain, round_mantissa
from cluster.errors import VerificationError
from cluster.events import WorkDisturbed
from cluster.pool import SerialPool
from cluster.ray_cluster import ray_cluster
from cluster.ray_pool import RayPool
from cluster.unit import LeftOut, WorkUnit
from jobs.errors import RefusedError
from jobs.plan import plan_job
from jobs.run.execute import execute
from jobs.run.status import read_status
from jobs.run.verify import repair_run, verify_run
from jobs.specs.load import load_job
from training.checkpoints import save_weights
from training.networks import build

SIMULATION = """
kind: simulation
name: survey
preset: A
objects: 20
shard_objects: 8
output: survey
"""
ATTRIBUTION = """
kind: attribution
name: why
survey: {format: simulated, path: survey}
network:
  architecture: occulta:small_cnn
  weights: weights.safetensors
  classes: [smooth, spiral, barred, edge_on]
  preprocess: {stretch: asinh, scale: 0.1}
methods:
  - {method: occlusion, window: 32, stride: 16, targets: [predicted, label]}
  - {method: gradient_x_input}
  - {method: integrated_gradients, steps: 11, rule: midpoint}
  - {method: mc_dropout, samples: 11}
execution: {micro_batch: 4, shard_objects: 8, seed: 3}
output: why
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    (folder / "simulation.yaml").write_text(SIMULATION)
    (folder / "attribution.yaml").write_text(ATTRIBUTION)
    torch.manual_seed(0)
    save_weights(build("occulta:small_cnn", 4, 3), folder / "weights.safetensors")
    run_serially(folder / "simulation.yaml")
    run_serially(folder / "attribution.yaml")
    return folder


@pytest.fixture(scope="module")
def cluster():
    with ray_cluster(None, cpus=2):
        yield


def run_serially(job_file, *changes):
    return execute(plan_job(load_job(job_file, changes)), SerialPool)


def decoded(run):
    """Digests of the decoded result arrays, by path."""
    root = zarr.open_group(run / "results.zarr", mode="r")
    return {
        path: hashlib.sha256(np.ascontiguousarray(array[...])).hexdigest()
        for path, array in root.members(max_depth=None)
        if isinstance(array, zarr.Array) and array.dtype.kind in "fiub"
    }


def shards(run):
    return {
        str(path.relative_to(run)): (path.stat().st_mtime_ns, path.read_bytes())
        for path in (run / "results.zarr").rglob("c.*")
    }


@pytest.mark.parametrize(("replicas", "shard_objects"), [(1, 8), (2, 8), (2, 20)])
def test_ray_equals_serial_bit_for_bit(folder, cluster, replicas, shard_objects):
    # 20 objects in one unit and two replicas: the parts axis is cut.
    change = f"execution.shard_objects={shard_objects}"
    plan = plan_job(load_job(folder / "attribution.yaml", [change, "output=ray"]))
    plan = plan_job(plan.job.model_copy(update={"output": f"{folder}/{replicas}-{shard_objects}"}))

    @contextmanager
    def open_pool(workload, store):
        with RayPool(workload, store, replicas) as pool:
            yield pool

    run = execute(plan, open_pool)
    assert decoded(run) == decoded(folder / "why")
    assert read_status(run).state == "complete"


def test_run_equals_explain_bit_for_bit(folder):
    cutouts = zarr.open_array(folder / "survey/results.zarr/cutout/image", mode="r")
    images = np.arcsinh(np.asarray(cutouts[...]) / np.float32(0.1))
    results = zarr.open_group(folder / "why/results.zarr", mode="r")
    ids = list(results["catalogue/id"][...])
    network = build("occulta:small_cnn", 4, 3)
    network.load_state_dict(_weights(folder))
    maps = explain(
        network, images, IntegratedGradients(11, "midpoint"), ids=ids, seed=3, micro_batch=4
    )
    stored = results["integrated_gradients/attribution"][...]
    np.testing.assert_array_equal(stored, round_mantissa(maps["attribution"]))
    grids = explain(network, images, Occlusion(32, 16), ids=ids, seed=3, micro_batch=4)
    np.testing.assert_array_equal(results["occlusion/grid"][:, :1], grids["grid"])


def _weights(folder):
    import safetensors.torch

    return safetensors.torch.load_file(folder / "weights.safetensors")


# What the scheduler asks for when a unit fails.


def results(plan, unit):
    return plan.workload.open().compute(unit)


def same(arrays, others, rows):
    for path, array in arrays.items():
        np.testing.assert_array_equal(array[rows], others[path][rows], err_msg=path)


def test_an_object_that_is_left_out_is_blank_and_its_neighbours_keep_their_bits(folder):
    plan = plan_job(load_job(folder / "attribution.yaml"))
    whole = results(plan, WorkUnit(plan.units[1]))
    out = LeftOut(10, "replica_died", "the worker died")
    part = results(plan, WorkUnit(plan.units[1], without=(out,)))
    same(whole.arrays, part.arrays, [0, 1, 3, 4, 5, 6, 7])
    assert np.isnan(part.arrays["occlusion/grid"][2]).all()
    (failure,) = part.failures
    assert (failure.index, failure.code) == (10, "replica_died")
    assert failure.reason == f"object {failure.id!r} makes its unit fail: the worker died"


def test_what_is_left_out_or_not_probed_is_not_even_read(folder, monkeypatch):
    plan = plan_job(load_job(folder / "attribution.yaml"))
    work, read = plan.workload.open(), []
    reader = work._reader
    listening = SimpleNamespace(read=lambda rows: read.append(rows.ids) or reader.read(rows))
    monkeypatch.setattr(work, "_reader", listening)
    out = LeftOut(9, "timeout", "no answer")
    work.compute(WorkUnit(plan.units[1], without=(out,)))
    work.probe(WorkUnit(plan.units[1]), range(10, 12))
    work.probe(WorkUnit(plan.units[1]), range(0))
    ids = list(zarr.open_array(folder / "why/results.zarr/catalogue/id", mode="r")[...])
    assert read == [[ids[8], *ids[10:16]], ids[10:12], []]


def test_a_probe_computes_its_objects_or_a_blank_batch_and_nothing_else(folder, monkeypatch):
    plan = plan_job(load_job(folder / "attribution.yaml"))
    work, present = plan.workload.open(), []
    partials = work._partials
    monkeypatch.setattr(
        work, "_partials", lambda b, *more: present.append(b.present.tolist()) or partials(b, *more)
    )
    work.probe(WorkUnit(plan.units[1]), range(13, 15))
    work.probe(WorkUnit(plan.units[1]), range(0))
    assert present == [[False, True, True, False], [False] * 4]


def test_a_halved_micro_batch_gives_the_bits_of_a_job_with_half_of_it(folder):
    plan = plan_job(load_job(folder / "attribution.yaml"))
    half = plan_job(load_job(folder / "attribution.yaml", ["execution.micro_batch=2"]))
    halved = results(plan, WorkUnit(plan.units[1], halvings=1))
    same(results(half, WorkUnit(plan.units[1])).arrays, halved.arrays, slice(None))
    # Until nothing is left to halve.
    assert results(plan, WorkUnit(plan.units[1], halvings=5)).arrays


def test_a_disturbed_run_whose_shards_changed_is_not_called_complete(folder):
    run = Path(f"{folder}/disturbed")

    class Disturbed(SerialPool):
        def run(self, units, tell):
            for receipt in super().run(units, tell):
                yield receipt
                if receipt.key.endswith("-0000000016"):
                    # Word of a replica that was given up, but still writes.
                    tell(WorkDisturbed("lost", replica=7))
                    shard = run / "results.zarr" / receipt.shards[0].path
                    shard.write_bytes(shard.read_bytes()[::-1])

    plan = plan_job(load_job(folder / "attribution.yaml", [f"output={run}"]))
    with pytest.raises(VerificationError, match=r"unit 0000000008-.* is changed .*--repair"):
        execute(plan, Disturbed)
    assert read_status(run).state == "failed"
    repair_run(run, verify_run(run))
    execute(plan, SerialPool)
    assert decoded(run) == decoded(folder / "why")


def test_store_is_read_by_xarray_alone(folder):
    tree = xr.open_datatree(folder / "why/results.zarr", engine="zarr")
    assert tree["integrated_gradients/attribution"].dims == ("object", "target", "y", "x")
    assert tree["occlusion/target"].values.tolist() == ["predicted", "label"]
    assert tree["prediction/class"].values.tolist() == ["smooth", "spiral", "barred", "edge_on"]
    assert (tree["status"].values == 1).all()
    assert np.isfinite(tree["mc_dropout/mutual_information"].values).all()
    assert np.isfinite(tree["summary/occlusion/gini"].values).all()


def test_complete_run_is_left_alone(folder):
    before = {path: path.stat().st_mtime_ns for path in (folder / "why").rglob("*")}
    run_serially(folder / "attribution.yaml")
    assert {path: path.stat().st_mtime_ns for path in (folder / "why").rglob("*")} == before


def test_changes_are_refused_by_name(folder):
    with pytest.raises(RefusedError, match=r"spec changed .*steps: 11 -> 12"):
        run_serially(folder / "attribution.yaml", "methods.2.steps=12")
    torch.manual_seed(1)
    save_weights(build("occulta:small_cnn", 4, 3), folder / "other.safetensors")
    with pytest.raises(RefusedError, match="network"):
        run_serially(folder / "attribution.yaml", "network.weights=other.safetensors")


def test_bad_objects_are_quarantined_and_neighbours_unchanged(folder, tmp_path):
    from astropy.io import fits

    cutouts = zarr.open_array(folder / "survey/results.zarr/cutout/image", mode="r")
    ids = [f"g{n}" for n in range(12)]
    for kind in ("clean", "bad"):
        (tmp_path / kind).mkdir()
        for n, name in enumerate(ids):
            fits.writeto(tmp_path / kind / f"{name}.fits", np.asarray(cutouts[n], dtype=">f4"))
        (tmp_path / f"{kind}.csv").write_text(
            "id,ra,dec,label\n" + "".join(f"{i},1,2,smooth\n" for i in ids)
        )
    truncated = tmp_path / "bad/g2.fits"
    truncated.write_bytes(truncated.read_bytes()[:5000])
    (tmp_path / "bad/g5.fits").unlink()
    spoilt = np.asarray(cutouts[7], dtype=">f4")
    spoilt[0, 3, 3] = np.nan
    fits.writeto(tmp_path / "bad/g7.fits", spoilt, overwrite=True)
    (tmp_path / "bad/g9.fits").unlink()
    fits.writeto(tmp_path / "bad/g9.fits", np.zeros((1, 64, 64), dtype=">f4"))
    runs = {}
    for kind in ("clean", "bad"):
        survey = f"{{format: fits, path: {tmp_path / kind}, catalogue: {tmp_path / kind}.csv}}"
        changes = (f"survey={survey}", f"output={tmp_path / 'run'}-{kind}")
        runs[kind] = run_serially(folder / "attribution.yaml", *changes)
    clean, bad = (zarr.open_group(runs[kind] / "results.zarr") for kind in ("clean", "bad"))
    good = [n for n in range(12) if n not in (2, 5, 7, 9)]
    for path, array in clean.members(max_depth=None):
        if isinstance(array, zarr.Array) and array.dtype.kind == "f" and array.ndim > 1:
            np.testing.assert_array_equal(array[...][good], bad[path][...][good])
            assert np.isnan(bad[path][...][[2, 5, 7, 9]]).all()
    assert bad["status"][...].tolist() == [2 if n in (2, 5, 7, 9) else 1 for n in range(12)]
    with (runs["bad"] / "quarantine.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["id"] for row in rows] == ["g2", "g5", "g7", "g9"]
    assert rows[1]["code"] == "missing_file"
    assert rows[2]["code"] == "non_finite_pixels"
    assert rows[3]["code"] == "wrong_bands"
    assert Path(runs["bad"] / "manifest.json").exists()
