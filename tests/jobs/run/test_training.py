"""Training runs: what they leave, how they go on after a kill, what they refuse and leave out."""

import csv
import errno
import hashlib
import io
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time

import numpy as np
import pytest
import safetensors.torch
import timm
import torch
import xarray as xr
import yaml
import zarr

from cluster.errors import OccultaError, RunBusyError
from cluster.events import RunEnded, RunFinished, RunStarted, UnitCommitted
from cluster.ledger import Lease
from cluster.pool import SerialPool
from jobs.errors import RefusedError
from jobs.plan import plan_job
from jobs.report import write_report
from jobs.run.execute import execute
from jobs.run.local import run_on_ray
from jobs.run.status import read_status
from jobs.run.verify import repair_run, verify_run
from jobs.specs.load import load_job, make_job
from jobs.work import labelled
from jobs.work.labelled import Labelled
from jobs.work.training import OpenTraining, TrainingFailedError
from training.checkpoints import load_card, load_weights
from training.examples import Examples
from training.fit import predict_logits
from training.fit_state import FitState
from training.networks import build
from training.simulation import CLASSES

SIMULATION = """
kind: simulation
name: survey
preset: A
objects: 48
shard_objects: 48
output: survey
"""
TRAINING = """
kind: training
name: train
survey: {format: simulated, path: survey}
options: {width: 4}
classes: [smooth, spiral, barred, edge_on]
preprocess: {size: 32, stretch: asinh, scale: 0.1}
fit: {epochs: 4, batch_size: 8, patience: 100}
output: train
"""
ATTRIBUTION = """
kind: attribution
name: why
survey: {format: simulated, path: survey}
network:
  architecture: occulta:small_cnn
  options: {width: 4}
  weights: train/weights.safetensors
  classes: [smooth, spiral, barred, edge_on]
  preprocess: {size: 32, stretch: asinh, scale: 0.1}
methods:
  - {method: gradient_x_input}
output: why
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("training")
    for name, text in (("simulation", SIMULATION), ("train", TRAINING), ("why", ATTRIBUTION)):
        (folder / f"{name}.yaml").write_text(text)
    execute(plan_job(load_job(folder / "simulation.yaml")), SerialPool)
    train(load_job(folder / "train.yaml"))
    return folder


def train(job, subscribers=()):
    return execute(plan_job(job), SerialPool, subscribers)


def job_of(folder, *changes, output):
    return load_job(folder / "train.yaml", [*changes, f"output={output}"])


def weights(run):
    return hashlib.sha256((run / "weights.safetensors").read_bytes()).hexdigest()


def states(run):
    lines = (run / "events.jsonl").read_text().splitlines()
    return [event["event"] for event in map(json.loads, lines)]


def test_a_run_leaves_weights_card_history_and_an_empty_quarantine(folder):
    run = folder / "train"
    card = load_card(run / "card.json")
    assert card.sha256 == weights(run)
    assert card.classes == CLASSES
    assert card.options == {"width": 4}
    assert card.preprocess["size"] == 32
    accuracy = card.metrics["test"]["accuracy"]
    assert 0.0 <= accuracy["low"] <= accuracy["value"] <= accuracy["high"] <= 1.0
    with (run / "history.csv").open() as file:
        assert [row["epoch"] for row in csv.DictReader(file)] == ["1", "2", "3", "4"]
    assert (run / "quarantine.csv").read_text() == "id,unit,code,reason\n"
    status = read_status(run)
    assert (status.state, status.kind) == ("complete", "training")
    assert status.objects == {"total": 48, "complete": 48, "quarantined": 0}
    assert status.units == {"total": 1, "committed": 1, "quarantined": 0, "pending": 0}
    assert status.epochs == {"total": 4, "done": 4}
    begin = ["DriverStarted", "RunStarted"]
    assert states(run) == [*begin, *["EpochEnded"] * 4, "UnitCommitted", "RunFinished"]


def test_the_store_has_what_the_fit_came_to(folder):
    results = xr.open_datatree(folder / "train/results.zarr", engine="zarr")
    metrics = load_card(folder / "train/card.json").metrics
    fit, history = results["fit"], results["history"]
    assert fit["validation_accuracy"].dims == ("fit",)
    assert fit["sha256"].item() == weights(folder / "train")
    assert fit["best_epoch"].item() == metrics["best_epoch"]
    confusion = fit["test_confusion"].values[0]
    assert 1 <= confusion.sum() <= 12  # of 48, of each class its 15 %
    accuracy = np.trace(confusion) / confusion.sum()
    assert metrics["test"]["accuracy"]["value"] == accuracy
    assert fit["test_accuracy"].item() == np.float32(accuracy)
    assert fit["test_accuracy_low"] <= accuracy <= fit["test_accuracy_high"]
    assert fit["class"].values.tolist() == list(CLASSES)
    with (folder / "train/history.csv").open() as file:
        losses = [float(row["train_loss"]) for row in csv.DictReader(file)]
    np.testing.assert_array_equal(history["train_loss"].values[0], np.float32(losses))


def test_the_weights_load_into_an_attribution_job(folder):
    run = execute(plan_job(load_job(folder / "why.yaml")), SerialPool)
    results = zarr.open_group(run / "results.zarr", mode="r")
    assert np.isfinite(results["prediction/logit"][...]).all()
    digest = json.loads((run / "manifest.json").read_text())["digests"]["network"]
    other = folder / "other"
    train(job_of(folder, "fit.seed=1", output=other))
    change = [f"network.weights={other}/weights.safetensors", f"output={folder}/why2"]
    assert plan_job(load_job(folder / "why.yaml", change)).digests["network"] != digest


def test_a_run_is_named_in_one_line_as_the_network_of_another(folder, tmp_path):
    whole = load_job(folder / "why.yaml")
    for place in ("train", "train/card.json"):
        job = load_job(folder / "why.yaml", [f"network={place}"])
        assert job.network == whole.network.model_copy(
            update={"sha256": weights(folder / "train"), "preprocess": whole.network.preprocess}
        )
    with pytest.raises(RefusedError, match=r"network: .*survey holds no card\.json; give the fol"):
        load_job(folder / "why.yaml", ["network=survey"])
    (tmp_path / "fits").mkdir()
    with pytest.raises(RefusedError, match=r"holds several networks; name one, such as .*0000"):
        load_job(folder / "why.yaml", [f"network={tmp_path}"])


def test_outputs_are_in_the_order_of_the_classes(folder, tmp_path):
    from astropy.io import fits

    (tmp_path / "cutouts").mkdir()
    random = np.random.default_rng(0)
    lines = ["id,label"]
    for n in range(48):
        label = ("faint", "bright", "blank")[n % 3]
        level = {"faint": 0.2, "bright": 1.0, "blank": 0.0}[label]
        image = random.normal(scale=0.02, size=(3, 32, 32))
        image[:, 8:24, 8:24] += level
        fits.writeto(tmp_path / f"cutouts/g{n}.fits", image.astype(">f4"))
        lines.append(f"g{n},{label}")
    (tmp_path / "table.csv").write_text("\n".join(lines))
    survey = f"survey={{format: fits, path: {tmp_path}/cutouts, catalogue: {tmp_path}/table.csv}}"
    changes = (survey, "classes=[faint, bright, blank]", "fit.epochs=20", "options={dropout: 0.0}")
    run = train(job_of(folder, *changes, output=tmp_path / "run"))
    network = build("occulta:small_cnn", 3, 3, {"dropout": 0.0})
    load_weights(network, run / "weights.safetensors")
    images = np.stack([fits.getdata(tmp_path / f"cutouts/g{n}.fits") for n in range(3)])
    inputs = np.arcsinh(images / 0.1).astype(np.float32)
    logits = predict_logits(network, Examples(inputs, np.arange(3)))
    assert logits.argmax(axis=1).tolist() == [0, 1, 2]
    assert load_card(run / "card.json").metrics["test"]["accuracy"]["value"] == 1.0


def test_the_same_job_gives_the_same_weights(folder, tmp_path):
    torch.manual_seed(99)  # nothing may depend on the process's own generator
    assert weights(train(job_of(folder, output=tmp_path / "a"))) == weights(folder / "train")
    other = train(job_of(folder, "fit.seed=1", output=tmp_path / "b"))
    assert weights(other) != weights(folder / "train")


def test_a_complete_run_is_left_alone(folder):
    run = folder / "train"
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*")}
    told = []
    assert train(load_job(folder / "train.yaml"), [told.append]) == run
    assert told == []
    assert {path: path.stat().st_mtime_ns for path in run.rglob("*")} == before
    status = read_status(run)
    assert (status.units["pending"], status.objects["complete"]) == (0, 48)


def test_a_stopped_run_says_so_and_goes_on_to_the_same_weights(folder, tmp_path, monkeypatch):
    save = FitState.save

    def stop(state, store):
        save(state, store)
        if len(state.history) == 2:
            raise KeyboardInterrupt

    job = job_of(folder, output=tmp_path / "run")
    with monkeypatch.context() as patch:
        patch.setattr(FitState, "save", stop)
        with pytest.raises(KeyboardInterrupt):
            train(job)
    status = read_status(tmp_path / "run")
    assert status.state == "stopped"
    assert status.line().startswith("stopped: 1 of 4 epochs, 0 of 1 fits")
    told = []
    run = train(job, [told.append])
    _, started, *epochs, committed, finished = told
    assert isinstance(started, RunStarted)
    assert (started.units, started.epochs, started.epochs_done) == (1, 4, 1)
    # The second epoch was done, its row not yet written.
    assert [event.epoch for event in epochs] == [2, 3, 4]
    assert isinstance(committed, UnitCommitted)
    assert isinstance(finished, RunFinished)
    assert read_status(run).state == "complete"
    assert weights(run) == weights(folder / "train")


def test_a_grid_of_fits_has_the_bits_of_single_ones(folder, tmp_path):
    vary = "vary={fit.seed: [0, 1], options.dropout: [0.25, 0.5]}"
    run = train(job_of(folder, vary, "fit.epochs=2", output=tmp_path / "grid"))
    single = ("fit.seed=1", "options={width: 4, dropout: 0.5}", "fit.epochs=2")
    assert weights(run / "fits/0003") == weights(
        train(job_of(folder, *single, output=tmp_path / "single"))
    )
    assert (run / "fits/0003/card.json").read_bytes() == (
        tmp_path / "single/card.json"
    ).read_bytes()
    found = {weights(run / f"fits/{number:04d}") for number in range(4)}
    assert len(found) == 4
    results = xr.open_datatree(run / "results.zarr", engine="zarr")
    assert [json.loads(text) for text in results["fit/setting"].values] == [
        {"fit.seed": seed, "options.dropout": dropout} for seed in (0, 1) for dropout in (0.25, 0.5)
    ]
    status = read_status(run)
    assert (status.units["total"], status.epochs) == (4, {"total": 8, "done": 8})
    assert status.objects["total"] == 48
    accuracy = results["fit/test_accuracy"].values.reshape(2, 2).mean(axis=0)
    page = write_report([run], tmp_path / "report.html").read_text()
    assert "Accuracy against dropout, test set" in page
    best = (0.25, 0.5)[accuracy.argmax()]
    found = re.search(r"highest, ([\d.]+)(?: ± [\d.]+)?, with dropout (\S+);", page)
    assert (float(found[1]), float(found[2])) == (pytest.approx(accuracy.max(), abs=1e-3), best)


def test_a_fit_of_several_that_diverges_is_quarantined_alone(folder, tmp_path):
    vary = "vary={fit.learning_rate: [1.0e+30, 3.0e-3]}"
    run = train(job_of(folder, vary, output=tmp_path / "grid"))
    status = read_status(run)
    assert status.state == "complete"
    assert status.units["quarantined"] == 1
    assert status.objects["quarantined"] == 0
    with (run / "quarantine.csv").open() as file:
        (row,) = csv.DictReader(file)
    assert (row["id"], row["code"]) == ('{"fit.learning_rate": 1e+30}', "training_diverged")
    assert not (run / "fits/0000/weights.safetensors").exists()
    assert weights(run / "fits/0001") == weights(folder / "train")


def test_a_network_is_transferred_to_another_survey(folder, tmp_path):
    changes = ["preset=B", "name=b", "seed=1", f"output={folder}/b"]
    execute(plan_job(load_job(folder / "simulation.yaml", changes)), SerialPool)
    (tmp_path / "job.yaml").write_text(f"""
kind: training
name: a-to-b
survey: {{format: simulated, path: {folder}/b}}
start: {folder}/train
classes: [smooth, spiral, barred, edge_on]
fit: {{epochs: 2, batch_size: 8}}
vary:
  transfer.strategy: [frozen, last_blocks, all, scratch]
  training_objects: [8, 16]
also_test: {{a: {{format: simulated, path: {folder}/survey}}}}
output: run
""")
    job = load_job(tmp_path / "job.yaml")
    source = load_card(folder / "train/card.json")
    assert job.options == source.options
    assert job.preprocess.size == 32
    run = train(job)
    fit = xr.open_datatree(run / "results.zarr", engine="zarr")["fit"]
    before = safetensors.torch.load_file(folder / "train/weights.safetensors")
    changed = []
    for number in range(8):
        after = safetensors.torch.load_file(run / f"fits/{number:04d}/weights.safetensors")
        changed.append({name for name in before if not torch.equal(before[name], after[name])})
    assert changed[0] == changed[1] == {"head.4.weight", "head.4.bias"}
    assert changed[0] < changed[2] < changed[4] <= set(before)
    trained = fit["trained"].values.tolist()
    assert trained[0] == 4 * 64 + 4 < trained[2] < trained[4] == trained[6]
    assert np.isfinite(fit["a_accuracy"].values).all()
    assert fit["a_confusion"].values.sum(axis=(1, 2)).tolist() == [48] * 8
    gap, low, high = (fit[f"a_domain_auc{end}"].values for end in ("", "_low", "_high"))
    assert ((low <= gap) & (gap <= high) & (low >= 0) & (high <= 1)).all()
    assert "test_domain_auc" not in fit
    page = write_report([run], tmp_path / "report.html").read_text()
    assert "Accuracy against training_objects" in page
    with pytest.raises(RefusedError, match="architecture: timm:resnet18 is not that of start"):
        load_job(tmp_path / "job.yaml", ["architecture=timm:resnet18"])


def test_an_encoder_from_elsewhere_is_kept_and_gets_a_head(folder, tmp_path):
    encoder = timm.create_model("resnet10t", num_classes=0).state_dict()
    safetensors.torch.save_file(encoder, tmp_path / "encoder.safetensors")
    changes = [f"pretrained={{weights: {tmp_path}/encoder.safetensors}}", "fit.epochs=1"]
    zoobot = [*changes, "architecture=zoobot:resnet10t", "options={}"]
    run = train(job_of(folder, *zoobot, "transfer={strategy: frozen}", output=tmp_path / "run"))
    found = safetensors.torch.load_file(run / "weights.safetensors")
    assert all(torch.equal(encoder[name], found[f"encoder.{name}"]) for name in encoder)
    assert found["head.linear.weight"].shape[0] == 4
    with pytest.raises(RefusedError, match="don't fit the network"):
        train(job_of(folder, *changes, output=tmp_path / "other"))
    (tmp_path / "both.yaml").write_text(
        TRAINING.replace("options: {width: 4}", f"start: {folder}/train\noptions: {{width: 4}}")
    )
    with pytest.raises(RefusedError, match="pretrained: start has weights already"):
        load_job(tmp_path / "both.yaml", changes)


def test_more_images_than_are_held_in_memory_are_learned_from_a_file(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(labelled, "HELD_BYTES", 1000)
    mapped = []
    read = labelled.read_labelled

    def watched(*given):
        found = read(*given)
        mapped.append(isinstance(found.images, np.memmap))
        return found

    monkeypatch.setattr("jobs.work.training.read_labelled", watched)
    job = job_of(folder, output=tmp_path / "run")
    assert weights(train(job)) == weights(folder / "train")
    assert mapped == [True]


def test_a_disk_that_is_full_of_images_is_told_in_one_line(folder, tmp_path, monkeypatch):
    class Full(io.BytesIO):
        def write(self, _):
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(labelled, "HELD_BYTES", 1000)
    monkeypatch.setattr(tempfile, "TemporaryFile", Full)
    job = job_of(folder, output=tmp_path / "run")
    with pytest.raises(OccultaError, match=r"No space left on device.*; free space, or set TMPDIR"):
        train(job)


def test_copies_of_a_galaxy_are_in_one_part(folder, tmp_path):
    job = job_of(folder, "split={separation: 10.0}", output=tmp_path / "run")
    places = np.repeat(np.arange(40.0), 2)[:, None] * [1.0, 0.5]
    ids, labels = [f"g{n}" for n in range(80)], np.arange(80) // 2 % 4
    images = np.arange(80, dtype=np.float32).reshape(80, 1, 1, 1)
    parts = Labelled(ids, images, labels, places, []).parts(job)
    galaxies = [
        {int(x) // 2 for x in part.images[part.rows].ravel()}
        for part in (parts.train, parts.validation, parts.test)
    ]
    assert sum(map(len, galaxies)) == 40
    assert all(galaxies)


def test_weights_that_are_damaged_or_lost_are_named_and_made_again(folder, tmp_path):
    job = job_of(folder, "fit.epochs=1", output=tmp_path / "run")
    run = train(job)
    before = weights(run)
    content = bytearray((run / "weights.safetensors").read_bytes())
    content[-1] ^= 1
    (run / "weights.safetensors").write_bytes(content)
    found = verify_run(run)
    assert [(d.shard, d.fact) for d in found.damaged] == [("../weights.safetensors", "changed")]
    repair_run(run, found)
    assert read_status(run).state == "interrupted"
    train(job)
    assert weights(run) == before
    assert verify_run(run).damaged == ()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("vary={fit.sed: [1]}", "vary: fit.sed is no field of the job"),
        ("vary={fit.seed: [-1]}", r"vary: fit.seed: -1: .*must not be negative"),
        ("vary={classes: [[a, b]]}", "vary: classes can't vary"),
        ("vary={fit.seed: [1, 1]}", "vary: fit.seed names 1 twice"),
        ("vary={fit.seed: []}", r"vary\.fit\.seed"),
        ("split={validation: 0.9}", "validation 0.9 and test 0.15 leave nothing to train on"),
        ("split={folds: 3, fold: 3}", "fold 3 of 3; count them from 0"),
        ("transfer={strategy: frozen}", "transfer: needs a network to begin with"),
    ],
)
def test_a_grid_that_makes_no_sense_is_refused(folder, change, message):
    with pytest.raises(RefusedError, match=message) as caught:
        job_of(folder, change, output="run")
    assert "\n" not in str(caught.value)


@pytest.mark.slow
def test_a_killed_run_goes_on_to_the_same_weights(folder, tmp_path):
    run = tmp_path / "run"
    changes = ["fit.epochs=30"]
    command = [sys.executable, "-c", "from jobs.cli import main; main()", "run"]
    command += [str(folder / "train.yaml"), "--out", str(run), "--set", *changes]
    driver = subprocess.Popen(
        command, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        end = time.monotonic() + 120
        while not (run / "history.csv").exists():
            assert time.monotonic() < end, "no epoch ended"
            assert driver.poll() is None, "the driver ended"
            time.sleep(0.01)
        os.kill(driver.pid, signal.SIGKILL)
    finally:
        driver.wait(60)
    assert not (run / "weights.safetensors").exists()
    assert read_status(run).state == "interrupted"
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    epochs = [json.loads(line) for line in (run / "events.jsonl").read_text().splitlines()]
    numbers = [event["epoch"] for event in epochs if event["event"] == "EpochEnded"]
    # Epochs that were made after the driver was killed have checkpoints, but nobody told of them.
    assert sorted(set(numbers)) == numbers
    assert read_status(run).epochs == {"total": 30, "done": 30}
    whole = train(job_of(folder, *changes, output=tmp_path / "whole"))
    assert weights(run) == weights(whole)
    assert (run / "card.json").read_bytes() == (whole / "card.json").read_bytes()
    assert (run / "history.csv").read_text().count("\n") == 31


@pytest.mark.slow
def test_a_group_of_processes_makes_a_fit_with_the_same_bits_each_time(folder, tmp_path):
    for name in ("one", "two"):
        output = f"output={tmp_path / name}"
        job = load_job(folder / "train.yaml", ["execution.processes=2", output])
        run_on_ray(plan_job(job), None)
    one, two = tmp_path / "one", tmp_path / "two"
    assert read_status(one).state == "complete"
    assert weights(one) == weights(two)
    assert weights(one) != weights(folder / "train")  # batch norm sees half a batch
    with (one / "history.csv").open() as file:
        first = next(csv.DictReader(file))
    with (folder / "train/history.csv").open() as file:
        alone = next(csv.DictReader(file))
    assert float(first["train_loss"]) == pytest.approx(float(alone["train_loss"]), rel=0.2)


@pytest.mark.slow
def test_a_group_whose_loss_is_not_finite_says_so(folder, tmp_path):
    changes = ("execution.processes=2", "fit.learning_rate=1e30", f"output={tmp_path / 'run'}")
    with pytest.raises(TrainingFailedError, match=r"the loss is \S+ at epoch .*lower"):
        run_on_ray(plan_job(load_job(folder / "train.yaml", changes)), None)


def test_a_spec_that_changed_is_refused_by_name(folder):
    run = folder / "train"
    with pytest.raises(RefusedError, match=r"spec changed .*\(fit\.epochs: 4 -> 5\)") as caught:
        train(job_of(folder, "fit.epochs=5", output=run))
    assert caught.value.exit_code == 2
    assert "\n" not in str(caught.value)


def test_a_survey_that_changed_is_refused_by_name(folder, cutouts, tmp_path):
    (tmp_path / "cutouts").mkdir()
    for source in cutouts.glob("*.fits"):
        (tmp_path / "cutouts" / source.name).write_bytes(source.read_bytes())
    survey = survey_of(cutouts, "good").replace(f"path: {cutouts},", f"path: {tmp_path}/cutouts,")
    job = job_of(folder, survey, "fit.epochs=1", output=tmp_path / "run")
    train(job)
    os.utime(tmp_path / "cutouts/g3.fits", (1, 1))
    with pytest.raises(RefusedError, match="run: survey changed since this run began; undo"):
        train(job)


def test_a_loss_that_is_not_finite_fails_the_run(folder, tmp_path):
    run = tmp_path / "run"
    told = []
    with pytest.raises(TrainingFailedError, match=r"the loss is \S+ at epoch .*lower") as caught:
        train(job_of(folder, "fit.learning_rate=1e30", output=run), [told.append])
    assert caught.value.exit_code == 5
    assert "\n" not in str(caught.value)
    assert str(run) in str(caught.value)
    assert isinstance(told[-1], RunEnded)
    assert read_status(run).state == "failed"
    assert not (run / "weights.safetensors").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("classes=[smooth, spirl]", r"no object of .* is a 'spirl'; did you mean 'spiral'\?"),
        ("classes=[smooth, xyz]", r"'xyz'; there are barred, edge_on, smooth, spiral"),
        ("architecture=torchvision:resnet19", r"resnet19.*did you mean 'torchvision:resnet1"),
        ("options={widht: 4}", "options .* are refused"),
        ("fit.batch_size=4096", "training set has 3. images, it needs 4096"),
        ("training_objects=40", "training_objects: 40 of 3. training objects; ask for fewer"),
        ("preprocess.mean=[1.0, 1.0]", "2 are expected.*preprocess.mean"),
    ],
)
def test_what_makes_no_sense_is_refused_before_a_run_is_made(folder, tmp_path, change, message):
    with pytest.raises(RefusedError, match=message) as caught:
        train(job_of(folder, change, output=tmp_path / "run"))
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run" / "manifest.json").exists()
    assert not (tmp_path / "run" / "job.yaml").exists()
    assert not (tmp_path / "run" / "events.jsonl").exists()


def test_a_folder_of_something_else_is_refused_and_left_alone(folder, tmp_path):
    (tmp_path / "thesis.tex").write_text("x")
    with pytest.raises(RefusedError, match=r"holds 'thesis\.tex'"):
        train(job_of(folder, output=tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_second_driver_is_kept_out_and_leaves_no_trace(folder, tmp_path):
    lease = Lease(tmp_path / "run/ledger")
    lease.acquire()
    try:
        with pytest.raises(RunBusyError):
            train(job_of(folder, output=tmp_path / "run"))
    finally:
        lease.release()
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["ledger"]


@pytest.fixture(scope="module")
def cutouts(folder, tmp_path_factory):
    """The survey as FITS files, whole and with four objects that can't be used."""
    from astropy.io import fits

    place = tmp_path_factory.mktemp("cutouts")
    survey = zarr.open_group(folder / "survey/results.zarr", mode="r")
    labels = [str(label) for label in survey["catalogue/label"][...]]
    rows = ["id,ra,dec,label"]
    for n, label in enumerate(labels):
        fits.writeto(place / f"g{n}.fits", np.asarray(survey["cutout/image"][n], dtype=">f4"))
        rows.append(f"g{n},{361 if n == 11 else n},2,{label}")
    truncated = place / "g2.fits"
    truncated.write_bytes(truncated.read_bytes()[:5000])
    (place / "g5.fits").unlink()
    spoilt = np.asarray(survey["cutout/image"][7], dtype=">f4")
    fits.writeto(place / "g7.fits", np.full_like(spoilt, np.nan), overwrite=True)
    bad = (2, 5, 7, 11)
    (place / "all.csv").write_text("\n".join(rows) + "\n")
    good = [row for n, row in enumerate(rows) if n - 1 not in bad]
    (place / "good.csv").write_text("\n".join(good) + "\n")
    return place


def survey_of(cutouts, catalogue):
    return f"survey={{format: fits, path: {cutouts}, catalogue: {cutouts}/{catalogue}.csv}}"


def test_objects_that_cant_be_read_are_quarantined_and_change_nothing(folder, cutouts, tmp_path):
    run = train(job_of(folder, survey_of(cutouts, "all"), output=tmp_path / "all"))
    with (run / "quarantine.csv").open() as file:
        found = {row["id"]: (row["unit"], row["code"]) for row in csv.DictReader(file)}
    assert found == {
        "g2": ("plan", "truncated_file"),
        "g5": ("plan", "missing_file"),
        "g7": ("plan", "no_finite_pixels"),
        "g11": ("plan", "bad_coordinates"),
    }
    status = read_status(run)
    assert (status.objects["total"], status.objects["quarantined"]) == (48, 4)
    clean = train(job_of(folder, survey_of(cutouts, "good"), output=tmp_path / "good"))
    assert read_status(clean).objects["quarantined"] == 0
    assert weights(run) == weights(clean)


def test_cutouts_of_another_shape_are_quarantined_unless_resized(folder, cutouts, tmp_path):
    from astropy.io import fits

    for name in (f"g{n}" for n in range(48)):
        source = cutouts / f"{name}.fits"
        if source.exists():
            (tmp_path / f"{name}.fits").write_bytes(source.read_bytes())
    fits.writeto(
        tmp_path / "g3.fits",
        np.random.default_rng(3).normal(size=(3, 40, 40)).astype(">f4"),
        overwrite=True,
    )
    survey = survey_of(cutouts, "good").replace(f"path: {cutouts},", f"path: {tmp_path},")
    native = ("preprocess={stretch: asinh, scale: 0.1}", "fit.epochs=1")
    run = train(job_of(folder, survey, *native, output=tmp_path / "native"))
    assert "g3,plan,wrong_shape," in (run / "quarantine.csv").read_text()
    run = train(job_of(folder, survey, "fit.epochs=1", output=tmp_path / "resized"))
    assert "g3" not in (run / "quarantine.csv").read_text()


def test_objects_of_other_classes_are_no_part_of_the_run(folder, tmp_path):
    run = train(
        job_of(folder, "classes=[smooth, spiral]", "fit.batch_size=4", output=tmp_path / "run")
    )
    survey = zarr.open_group(folder / "survey/results.zarr", mode="r")
    labels = [str(label) for label in survey["catalogue/label"][...]]
    expected = sum(label in ("smooth", "spiral") for label in labels)
    assert read_status(run).objects["total"] == expected < 48


def test_a_training_plan_counts_the_labelled_objects(folder):
    job = load_job(folder / "train.yaml", [f"output={folder}/planned"])
    facts = plan_job(job).facts
    assert sum(facts["labelled"].values()) == 48
    assert list(facts["labelled"]) == list(job.classes)
    network = build(job.architecture, 4, 3, job.options)
    assert facts["parameters"] == [sum(p.numel() for p in network.parameters())]


def test_chosen_objects_and_their_neighbours_never_judge(folder, tmp_path):
    places = np.repeat(np.arange(40.0), 2)[:, None] * [1.0, 0.5]
    ids, labels = [f"g{n}" for n in range(80)], np.arange(80) // 2 % 4
    images = np.arange(80, dtype=np.float32).reshape(80, 1, 1, 1)
    (tmp_path / "chosen.csv").write_text("id\n" + "".join(f"g{n}\n" for n in range(0, 40, 2)))
    found = Labelled(ids, images, labels, places, [])
    for separation, chosen in ((0.0, set(range(0, 40, 2))), (10.0, set(range(40)))):
        changes = f"split={{separation: {separation}}}", f"also_train=[{tmp_path}/chosen.csv]"
        parts = found.parts(job_of(folder, *changes, output=tmp_path / "run"))
        train, *judges = (
            set(part.rows.tolist()) for part in (parts.train, parts.validation, parts.test)
        )
        assert chosen <= train
        assert not train & (judges[0] | judges[1])
        assert sorted([*train, *judges[0], *judges[1]]) == list(range(80))
        assert all(judges)


def test_objects_for_training_alone_join_the_listed_ones(folder, tmp_path):
    ids = xr.open_datatree(folder / "survey/results.zarr", engine="zarr")["catalogue/id"].values
    for name, some in (("first", ids[:24]), ("chosen", ids[24:40])):
        (tmp_path / f"{name}.csv").write_text("id\n" + "".join(f"{i}\n" for i in some))
    lists = f"only=[{tmp_path}/first.csv]", f"also_train=[{tmp_path}/chosen.csv]"
    run = train(job_of(folder, *lists, "fit.epochs=1", output=tmp_path / "run"))
    assert read_status(run).objects["total"] == 40
    test = load_card(run / "card.json").metrics["test"]["objects"]
    assert 0 < test <= 6


def test_nothing_but_the_listed_objects_is_learnt_from(folder, tmp_path):
    ids = xr.open_datatree(folder / "survey/results.zarr", engine="zarr")["catalogue/id"].values
    for name, some in (("one", ids[:20]), ("two", ids[16:32]), ("other", ["nobody"])):
        (tmp_path / f"{name}.csv").write_text("rank,id\n" + "".join(f"0,{i}\n" for i in some))
    lists = f"only=[{tmp_path}/one.csv, {tmp_path}/two.csv]"
    run = train(job_of(folder, lists, "fit.epochs=1", output=tmp_path / "run"))
    assert read_status(run).objects["total"] == 32
    (tmp_path / "two.csv").write_text("id\nx\n")
    with pytest.raises(RefusedError, match="survey changed since this run began"):
        train(job_of(folder, lists, "fit.epochs=1", output=tmp_path / "run"))
    with pytest.raises(RefusedError, match="lists 1 objects, none of which"):
        train(job_of(folder, f"only=[{tmp_path}/other.csv]", output=tmp_path / "x"))
    with pytest.raises(RefusedError, match=r"also_train: .* lists 1 objects, none of which"):
        train(job_of(folder, f"also_train=[{tmp_path}/other.csv]", output=tmp_path / "x"))


@pytest.fixture(scope="module")
def voted(folder):
    """The survey with another catalogue: volunteers' votes for two questions, and a number."""
    store = xr.open_datatree(folder / "survey/results.zarr", engine="zarr")
    images = store["cutout/image"].values
    labels = store["catalogue/label"].values
    for number, image in enumerate(images):
        np.save(folder / f"voted-{number}.npy", image)
    generator = np.random.default_rng(0)
    smooth = np.where(labels == "smooth", 0.8, 0.1)
    votes = generator.binomial(40, smooth)
    bars = np.where(
        labels == "smooth", 0, generator.binomial(20, np.where(labels == "barred", 0.8, 0.2))
    )
    asked = np.where(labels == "smooth", 0, 20)
    rows = ["id,path,smooth-or-not_smooth,smooth-or-not_not,bar_yes,bar_no,flux"]
    for number in range(len(images)):
        counts = (
            f"{votes[number]},{40 - votes[number]},{bars[number]},{asked[number] - bars[number]}"
        )
        flux = "" if number == 0 else f"{images[number].sum():.4f}"
        rows.append(f"v{number},voted-{number}.npy,{counts},{flux}")
    (folder / "voted.csv").write_text("\n".join(rows))
    return {"format": "npy", "path": str(folder), "catalogue": str(folder / "voted.csv")}


def target_job(folder, survey, output, **fields):
    data = yaml.safe_load(TRAINING)
    del data["classes"]
    data |= {"survey": survey, "output": str(output), **fields}
    data["fit"] = {"epochs": 2, "batch_size": 8, **fields.get("fit", {})}
    return make_job(data, "job.yaml", folder)


VOTES = ["smooth-or-not_smooth", "smooth-or-not_not", "bar_yes", "bar_no"]


@pytest.mark.parametrize(
    ("loss", "network"),
    [
        ("multinomial", {}),
        (
            "dirichlet_multinomial",
            {
                "architecture": "zoobot:resnet10t",
                "options": {"head": "dirichlet", "answers": 4},
            },
        ),
    ],
)
def test_a_network_learns_votes(folder, voted, tmp_path, loss, network):
    fit = {"loss": loss, "questions": [2, 2]}
    fields = {"target_columns": VOTES, "fit": fit, **network}
    run = train(target_job(folder, voted, tmp_path / "run", **fields))
    card = load_card(run / "card.json")
    assert card.classes == tuple(VOTES)
    errors = card.metrics["test"]["root_mean_squared_error"]
    assert sorted(errors) == sorted(VOTES)
    # Of two answers, the shares that are missed are the same.
    assert errors[VOTES[0]]["value"] == pytest.approx(errors[VOTES[1]]["value"])
    stored = xr.open_datatree(run / "results.zarr", engine="zarr")["fit"]
    assert stored["test_root_mean_squared_error"].values[0].tolist() == pytest.approx(
        [errors[name]["value"] for name in VOTES]
    )
    assert "test_accuracy" not in stored
    assert read_status(run).objects == {"total": 48, "complete": 48, "quarantined": 0}


def test_a_network_learns_numbers_in_their_own_units(folder, voted, tmp_path):
    job = target_job(
        folder,
        voted,
        tmp_path / "run",
        target_columns=["flux"],
        fit={"loss": "mean_squared_error"},
    )
    run = train(job)
    card = load_card(run / "card.json")
    # The object without a number is left out.
    assert read_status(run).objects["total"] == 47
    network = build(job.architecture, 1, 3, job.options)
    load_weights(network, run / "weights.safetensors", card.sha256)
    parts = OpenTraining(plan_job(job.model_copy(update={"output": str(tmp_path / "x")})).workload)
    test = parts._read(job, "").parts(job).test
    numbers = predict_logits(network, test)[:, 0] * card.loss["std"][0] + card.loss["mean"][0]
    error = np.sqrt(np.mean((numbers - np.asarray(test.labels)[:, 0]) ** 2))
    stored = card.metrics["test"]["root_mean_squared_error"]["flux"]["value"]
    assert stored == pytest.approx(error, rel=1e-5)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"classes": ["a", "b"], "fit": {"loss": "multinomial"}},
            "target_columns: fit.loss is multinomial; name what",
        ),
        ({"target_columns": VOTES}, "target_columns: fit.loss is cross_entropy, which learns"),
        (
            {"target_columns": ["bar_yse", "bar_no"], "fit": {"loss": "multinomial"}},
            "has no 'bar_yse'; did you mean 'bar_yes'",
        ),
        ({"target_columns": ["id"], "fit": {"loss": "mean_squared_error"}}, "id of .* no numbers"),
        (
            {"target_columns": VOTES, "fit": {"loss": "multinomial", "questions": [3, 2]}},
            r"questions: \(3, 2\) have 5 answers",
        ),
        (
            {
                "target_columns": ["flux"],
                "classes": ["smooth"],
                "fit": {"loss": "mean_squared_error"},
            },
            "classes: leave them out",
        ),
    ],
)
def test_targets_that_make_no_sense_are_refused(folder, voted, tmp_path, fields, message):
    with pytest.raises(RefusedError, match=message):
        train(target_job(folder, voted, tmp_path / "run", **fields))
