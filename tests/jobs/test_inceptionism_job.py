"""Inceptionism jobs from section to store and picture: the same bits however they are cut."""

import dataclasses
import hashlib
import json
import re
from contextlib import contextmanager

import numpy as np
import pytest
import torch
import xarray as xr
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pydantic import ValidationError

from attribution.batch import reproducible
from attribution.inceptionism import ClassImage, DeepDream, survey_colours
from attribution.randomness import key
from cluster.ledger import Ledger
from cluster.pool import SerialPool
from cluster.unit import WorkUnit
from jobs.errors import RefusedError
from jobs.plan import plan_job
from jobs.report import write_report
from jobs.report.inception_figures import _colours, write_inception_figures
from jobs.run.execute import execute
from jobs.run.status import read_status
from jobs.specs.inceptionism import IMAGES
from jobs.specs.jobs import InceptionismJob, SimulationJob
from jobs.specs.load import load_job
from jobs.specs.survey import PreprocessSpec
from jobs.specs.template import job_template
from jobs.survey import Preprocess
from jobs.work.inception_arrays import survey_units
from training.checkpoints import load_weights, save_weights
from training.networks import build

CLASSES = ["smooth", "spiral", "barred", "edge_on"]
SMALL = {"steps": 6, "pad": 2, "jitter": 2}
BRIEF = {"octaves": 2, "iterations": 2}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("inceptionism")
    simulation = SimulationJob(
        kind="simulation", name="s", preset="A", objects=8, output=str(folder / "survey")
    )
    execute(plan_job(simulation), SerialPool)
    torch.manual_seed(0)
    save_weights(build("occulta:small_cnn", 4, 3), folder / "weights.safetensors")
    return folder


@pytest.fixture(scope="module")
def ids(folder):
    return list(zarr.open_group(folder / "survey/results.zarr", mode="r")["catalogue/id"][:])


@pytest.fixture(scope="module")
def images(ids):
    return [
        {"method": "class_image", "repetitions": 2, **SMALL},
        {"method": "deep_dream", "layer": "features.1", "starts": ids[3:5], **BRIEF},
        {"method": "deep_dream", "name": "barred", "target": "barred", **BRIEF},
    ]


@pytest.fixture(scope="module")
def run(folder, images):
    return execute(plan_job(job(folder, images)), SerialPool)


def job(folder, images, output="run", **fields):
    data = {
        "kind": "inceptionism",
        "name": "see",
        "survey": {"format": "simulated", "path": str(folder / "survey")},
        "survey_sample": 6,
        "network": {
            "architecture": "occulta:small_cnn",
            "weights": str(folder / "weights.safetensors"),
            "classes": CLASSES,
            "preprocess": {"stretch": "asinh", "scale": 0.1, "mean": [0.1, 0.2, 0.3]},
        },
        "images": images,
        "execution": {"micro_batch": 3, "seed": 5},
        "output": str(folder / output),
        **fields,
    }
    return InceptionismJob.model_validate_json(json.dumps(data), strict=True)


def decoded(run):
    """Digests of the decoded arrays, by path."""
    root = zarr.open_group(run / "results.zarr", mode="r")
    return {
        path: hashlib.sha256(
            str(array[...].tolist()).encode()
            if array.dtype.kind in "OT"
            else np.ascontiguousarray(array[...]).tobytes()
        ).hexdigest()
        for path, array in root.members(max_depth=None)
        if isinstance(array, zarr.Array)
    }


def test_xarray_alone_reads_what_each_image_is(run, ids):
    results = xr.open_datatree(run / "results.zarr", engine="zarr")
    catalogue = results["catalogue"]
    assert list(catalogue["class"].values) == [
        *(name for name in CLASSES for _ in range(2)),
        "",
        "",
        "barred",
    ]
    assert list(catalogue["start"].values) == [""] * 8 + [*ids[3:5], "noise"]
    assert list(catalogue["repetition"].values) == [0, 1] * 4 + [0, 0, 0]
    assert list(catalogue["section"].values) == (
        ["class_image"] * 8 + ["deep_dream"] * 2 + ["barred"]
    )
    assert catalogue["id"].values[2] == "class_image/spiral/0"
    assert len(set(catalogue["id"].values)) == 11
    image = results["class_image/image"]
    assert image.dims == ("object", "channel", "y", "x")
    assert image.shape == (11, 3, 64, 64)
    assert image.attrs["steps"] == 6
    assert results["class_image/score"].dims == ("object", "step_block")
    assert (results["status"].values == 1).all()


def test_rows_of_other_sections_are_empty(run):
    results = xr.open_datatree(run / "results.zarr", engine="zarr")
    for name, rows in (("class_image", range(8)), ("deep_dream", (8, 9)), ("barred", (10,))):
        for array in results[name].data_vars.values():
            there = np.isfinite(array.values).reshape(11, -1)
            assert there[list(rows)].all()
            assert not np.delete(there, list(rows), axis=0).any()


def test_class_images_are_the_librarys(folder, run, images):
    """The first micro-batch, drawn without any job."""
    cutouts = np.asarray(zarr.open_group(folder / "survey/results.zarr")["cutout/image"][:6])
    prepare = Preprocess(job(folder, images).network.preprocess, 3)
    colours = survey_colours(np.stack([prepare.apply(cutout) for cutout in cutouts]))
    network = build("occulta:small_cnn", 4, 3)
    load_weights(network, folder / "weights.safetensors", None)
    keys = [key(5, "class_image", *of) for of in (("smooth", 0), ("smooth", 1), ("spiral", 0))]
    with reproducible():
        expected = ClassImage(**SMALL).draw(network.eval(), [0, 0, 1], keys, (3, 64, 64), colours)
    group = zarr.open_group(run / "results.zarr", mode="r")["class_image"]
    np.testing.assert_array_equal(group["image"][:3], expected.image)
    np.testing.assert_array_equal(group["logit"][:3], expected.logit.astype(np.float32))
    assert list(group["image"].attrs["valid_low"]) == colours.low.tolist()


def test_the_stored_images_have_the_stored_logits_and_start_from_the_survey(folder, run, ids):
    network = build("occulta:small_cnn", 4, 3)
    load_weights(network, folder / "weights.safetensors", None)
    root = zarr.open_group(run / "results.zarr", mode="r")
    with torch.inference_mode():
        logits = network.eval()(torch.from_numpy(root["class_image/image"][:8]))
        barred = network(torch.from_numpy(root["barred/image"][10:]))[:, 2]
        norm = network.features[:2](torch.from_numpy(root["deep_dream/image"][8:10]))
    of_class = logits[np.arange(8), np.repeat(np.arange(4), 2)]
    np.testing.assert_allclose(root["class_image/logit"][:8], of_class, rtol=1e-4)
    np.testing.assert_allclose(root["barred/score"][10:], barred, rtol=1e-4)
    np.testing.assert_allclose(
        root["deep_dream/score"][8:10], norm.flatten(1).norm(dim=1), rtol=1e-4
    )
    assert (root["deep_dream/score"][8:10] > root["deep_dream/start_score"][8:10]).all()
    cutouts = zarr.open_group(folder / "survey/results.zarr", mode="r")["cutout/image"][3:5]
    mean = np.array([0.1, 0.2, 0.3], np.float32)[:, None, None]
    start = np.arcsinh(cutouts / np.float32(0.1)) - mean
    np.testing.assert_array_equal(root["deep_dream/start"][8:10], start)


@pytest.mark.parametrize("unit_images", [3, 6, 12])
def test_the_cut_into_units_changes_no_bit(folder, images, run, unit_images):
    execution = {"micro_batch": 3, "seed": 5, "shard_objects": unit_images}
    plan = plan_job(job(folder, images, f"cut-{unit_images}", execution=execution))
    assert len(plan.units) == -(-11 // unit_images)
    assert decoded(execute(plan, SerialPool)) == decoded(run)


@pytest.mark.slow
def test_replicas_on_ray_change_no_bit(folder, images, run):
    from cluster.ray_cluster import ray_cluster
    from cluster.ray_pool import RayPool

    @contextmanager
    def open_pool(workload, store):
        with ray_cluster(None, cpus=2), RayPool(workload, store, 2) as pool:
            yield pool

    plan = plan_job(job(folder, images, "ray"))
    assert decoded(execute(plan, open_pool)) == decoded(run)


def test_shares_of_a_unit_are_the_unit(folder, images):
    plan = plan_job(job(folder, images[:1], "shares"))
    work = plan.workload.open()
    unit = WorkUnit(plan.units[0], shares=2)
    whole = work.compute(unit)
    merged = work.finish(unit, [work.partial(unit, share) for share in range(2)])
    for path, array in whole.arrays.items():
        np.testing.assert_array_equal(merged.arrays[path], array)


def test_the_seed_changes_images_and_a_class_alone_does_not(folder, run):
    """A row follows from seed, class and repetition; other rows of its micro-batch don't count."""
    section = [{"method": "class_image", "classes": ["edge_on", "smooth", "barred"], **SMALL}]
    same = execute(plan_job(job(folder, section, "other")), SerialPool)
    execution = {"micro_batch": 3, "seed": 6}
    other = execute(plan_job(job(folder, section, "seed", execution=execution)), SerialPool)
    first, second, every = (
        zarr.open_group(r / "results.zarr", mode="r")["class_image/image"]
        for r in (same, other, run)
    )
    np.testing.assert_allclose(first[1], every[0], atol=1e-4)
    assert np.abs(first[1] - second[1]).max() > 1e-2


def test_the_plan_foresees_passes_and_digests(folder, images, run):
    plan = plan_job(job(folder, images))
    receipts = list(Ledger(run / "ledger").receipts())
    assert plan.passes[0] * 11 == pytest.approx(sum(r.forward for r in receipts))
    assert plan.passes[1] * 11 == pytest.approx(sum(r.backward for r in receipts))
    assert set(plan.digests) == {"spec", "code", "network", "survey"}
    assert plan.replica_bytes > 700 << 20
    status = read_status(run)
    assert (status.state, status.kind, status.objects["total"]) == ("complete", "inceptionism", 11)
    assert execute(plan, None) == run  # complete: nothing is opened


def test_pixels_need_no_survey(folder):
    network = {
        "architecture": "occulta:small_cnn",
        "weights": str(folder / "weights.safetensors"),
        "classes": CLASSES,
        "preprocess": {"size": 48, "mean": [0.0, 0.0, 0.0]},
    }
    section = {"method": "class_image", "parametrisation": "pixel", "bounded": False, "l2": 0.01}
    sections = [
        {**section, **SMALL},
        {**section, **SMALL, "name": "wide", "size": [40, 56], "classes": ["barred"]},
    ]
    plan = plan_job(job(folder, sections, "pixels", survey=None, network=network))
    assert set(plan.digests) == {"spec", "code", "network"}
    results = zarr.open_group(execute(plan, SerialPool) / "results.zarr", mode="r")
    assert results["class_image/image"].shape == (5, 3, 48, 48)
    assert results["wide/image"].shape == (5, 3, 40, 56)
    assert "valid_low" not in results["wide/image"].attrs
    assert np.isfinite(results["wide/image"][4]).all()


def test_an_unreadable_start_is_quarantined_and_its_neighbours_are_not_touched(folder, tmp_path):
    random = np.random.default_rng(2)
    for name in "abcd":
        pixels = random.integers(0, 255, (40, 40, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{name}.png")
    survey = {"format": "images", "path": str(tmp_path)}
    network = {
        "architecture": "occulta:small_cnn",
        "weights": str(folder / "weights.safetensors"),
        "classes": CLASSES,
    }
    dream = {"method": "deep_dream", "layer": "features.0", "starts": ["a", "c", "b"], **BRIEF}
    # The colours come from the first object, which is the same in both runs.
    options = {"survey": survey, "survey_sample": 1, "network": network}
    good = execute(plan_job(job(folder, [dream], "good", **options)), SerialPool)
    content = (tmp_path / "c.png").read_bytes()
    (tmp_path / "c.png").write_bytes(content[: len(content) // 2])
    bad = execute(plan_job(job(folder, [dream], "bad", **options)), SerialPool)
    assert read_status(bad).objects["quarantined"] == 1
    assert (
        "deep_dream/c/0,0000000000-0000000003,truncated_file"
        in (bad / "quarantine.csv").read_text()
    )
    before, after = (zarr.open_group(r / "results.zarr", mode="r") for r in (good, bad))
    assert after["status"][:].tolist() == [1, 2, 1]
    assert list(after["catalogue/start"][:]) == ["a", "c", "b"]
    for name in ("image", "survey_image", "start", "start_score", "score"):
        values = after[f"deep_dream/{name}"][:]
        assert np.isnan(values[1]).all()
        np.testing.assert_array_equal(values[[0, 2]], before[f"deep_dream/{name}"][:][[0, 2]])


def test_a_network_that_gives_no_number_leaves_no_image(folder, images):
    broken = build("occulta:small_cnn", 4, 3)
    with torch.no_grad():
        broken.head[-1].bias[1] = 3e38
        broken.head[-1].weight[1] = 3e38
    save_weights(broken, folder / "broken.safetensors")
    network = dict(json.loads(job(folder, images).network.model_dump_json()))
    network["weights"] = str(folder / "broken.safetensors")
    section = {"method": "class_image", "classes": ["smooth", "spiral"], **SMALL}
    run = execute(plan_job(job(folder, [section], "broken", network=network)), SerialPool)
    # The softmax of every class is spoilt.
    assert read_status(run).objects["quarantined"] == 2
    text = (run / "quarantine.csv").read_text()
    assert "non_finite_output" in text
    assert "class_image/spiral/0" in text


@given(
    stretch=st.sampled_from(["linear", "asinh"]),
    scale=st.floats(0.01, 10),
    mean=st.lists(st.floats(-2, 2), min_size=2, max_size=2),
    std=st.lists(st.floats(0.1, 3), min_size=2, max_size=2),
)
@settings(max_examples=30, deadline=None)
def test_survey_units_undo_the_preprocessing(stretch, scale, mean, std):
    spec = PreprocessSpec(stretch=stretch, scale=scale, mean=tuple(mean), std=tuple(std))
    flux = np.random.default_rng(0).normal(size=(2, 5, 4)).astype(np.float32)
    back = survey_units(Preprocess(spec, 2).apply(flux), spec)
    np.testing.assert_allclose(back, flux, atol=1e-4)


# Refusals


def refused(folder, *sections, **fields):
    """The one line that says what is wrong with a job."""
    with pytest.raises((RefusedError, ValidationError)) as caught:
        plan_job(job(folder, list(sections), "refused", **fields))
    if isinstance(caught.value, RefusedError):
        text = str(caught.value)
        assert "\n" not in text
        return text
    (detail,) = caught.value.errors()
    return detail["msg"]


@pytest.mark.parametrize(
    ("section", "message"),
    [
        (
            {"method": "class_image", "classes": ["smoth"]},
            "images[0]: 'smoth' is none of network.classes; did you mean 'smooth'?",
        ),
        (
            {"method": "deep_dream", "target": "ring"},
            "images[0]: 'ring' is none of network.classes; use smooth, spiral, barred, edge_on",
        ),
        (
            {"method": "class_image", "name": "catalogue"},
            "images[0]: the group 'catalogue' of the store is taken",
        ),
        ({"method": "class_image", "steps": 0}, "steps is 0; take 1 or more"),
        ({"method": "deep_dream"}, "a dream ascends a layer or a target class: name one"),
        (
            {"method": "deep_dream", "layer": "features.9"},
            "images[0] (deep_dream): layer 'features.9': the network has no such layer; did you",
        ),
        (
            {"method": "deep_dream", "layer": "features.0", "channel": 16},
            "images[0] (deep_dream): channel is 16, layer 'features.0' has channels 0 to 15",
        ),
        (
            {"method": "deep_dream", "layer": "features.0", "starts": ["nobody"]},
            "has no object 'nobody'; name some as",
        ),
        (
            {"method": "class_image", "size": 8},
            "images[0] (class_image): the network does not accept images of 8 x 8 px",
        ),
        (
            {"method": "deep_dream", "target": "smooth", "octaves": 9},
            "images[0] (deep_dream): the network does not accept the octave of 4 x 4 px",
        ),
    ],
)
def test_what_makes_no_sense_is_refused_in_one_line(folder, section, message):
    assert message in refused(folder, section)


def test_a_job_without_sections_is_refused(folder):
    assert "images is empty; add a section with method class_image" in refused(folder)


def test_two_sections_of_one_name_are_refused(folder):
    section = {"method": "class_image", **SMALL}
    assert "images[0]: the group 'class_image' of the store is taken" in refused(
        folder, section, section
    )


def test_what_needs_a_survey_is_refused_without_one(folder):
    network = {
        "architecture": "occulta:small_cnn",
        "weights": str(folder / "weights.safetensors"),
        "classes": CLASSES,
    }
    for section, what in (
        ({"method": "class_image"}, "parametrisation: fourier needs the colours of a survey"),
        ({"method": "class_image", "parametrisation": "pixel"}, "bounded: true needs the colours"),
        ({"method": "deep_dream", "target": "smooth"}, "a dream needs the colours of a survey"),
    ):
        assert what in refused(folder, section, survey=None, network=network)
    free = {"method": "class_image", "parametrisation": "pixel", "bounded": False}
    assert "without a survey, size and mean alone tell" in refused(
        folder, free, survey=None, network=network
    )


def test_units_are_whole_micro_batches(folder, images):
    text = refused(folder, *images, execution={"micro_batch": 3, "shard_objects": 4})
    assert "execution.shard_objects: 4 is no multiple of micro_batch 3; use 3" in text


def test_what_results_depend_on_is_the_jobs_identity(folder, images):
    first = job(folder, images)
    execution = {"micro_batch": 3, "seed": 5, "replicas": 7}
    assert job(folder, images, "elsewhere", execution=execution).digest() == first.digest()
    for change in (
        {"survey_sample": 5},
        {"execution": {"micro_batch": 4, "seed": 5}},
        {"images": images[:2]},
    ):
        assert job(folder, **{"images": images, **change}).digest() != first.digest()


@pytest.mark.parametrize(
    ("method", "kind"), [("class_image", ClassImage), ("deep_dream", DeepDream)]
)
def test_sections_have_the_fields_and_defaults_of_what_they_make(method, kind):
    shown = IMAGES[method].model_fields
    for field in dataclasses.fields(kind):
        assert shown[field.name].default == field.default
    assert shown["repetitions"].default == 1


# Pictures


def test_pictures_show_every_image(run):
    files = write_inception_figures(run)
    assert [file.name for file in files] == ["class_image.png", "deep_dream.png", "barred.png"]
    sizes = []
    for file in files:
        with Image.open(file) as picture:
            pixels = np.asarray(picture.convert("RGB"), dtype=float)
            sizes.append(picture.size)
        assert pixels.std() > 10
    # Four classes by two repetitions; two dreams and one, each with its start.
    assert sizes[0][0] == sizes[1][0] == sizes[2][0]
    assert sizes[0][1] > sizes[1][1] > sizes[2][1]


def test_a_picture_shows_the_pixels_of_the_image(run):
    results = xr.open_datatree(run / "results.zarr", engine="zarr")
    group = results["class_image"].to_dataset()
    low, high = (np.array(group["image"].attrs[f"valid_{end}"]) for end in ("low", "high"))
    shown = _colours(results, "class_image", "image", 4, blue_first=True)
    expected = (group["image"].values[4] - low[:, None, None]) / (high - low)[:, None, None]
    np.testing.assert_allclose(shown, np.moveaxis(expected[::-1], 0, -1).clip(0, 1), atol=1e-6)


def test_the_report_of_the_run_shows_its_pictures(run, folder):
    html = write_report([run], folder / "report.html").read_text("utf-8")
    assert re.findall(r'alt="((?:Class images|Dreams)[^"]*)"', html) == [
        "Class images of see: class_image",
        "Dreams of see: deep_dream",
        "Dreams of see: barred",
    ]
    assert "so that the L2 norm of the output of layer features.1 grows" in html
    assert "so that the logit of the class grows" in html


def test_pictures_of_another_kind_of_run_are_refused(folder):
    with pytest.raises(RefusedError, match="a run of kind simulation has drawn no images"):
        write_inception_figures(folder / "survey")


# The job file


def test_paths_in_a_job_file_are_relative_to_it(tmp_path):
    text = job_template("inceptionism").replace("weights: model", "weights: ../model")
    (tmp_path / "job.yaml").write_text(text)
    loaded = load_job(tmp_path / "job.yaml")
    assert loaded.network.weights == str(tmp_path.parent / "model.safetensors")
    assert loaded.survey.path == str(tmp_path / "cutouts")
    assert loaded.output == str(tmp_path / "runs/my-images")


@pytest.mark.parametrize(
    ("change", "fact"),
    [
        (
            "images.0.method=class_images",
            r"images\[0\].*'class_images' is unknown; did you mean",
        ),
        ("images.0.stepps=3", r"images\[0\].stepps.*did you mean 'steps'"),
        (
            "images.1.method=occlusion",
            r"'occlusion' is unknown; use one of class_image",
        ),
    ],
)
def test_mistakes_in_a_job_file_are_told_with_their_place(tmp_path, change, fact):
    (tmp_path / "job.yaml").write_text(job_template("inceptionism"))
    with pytest.raises(RefusedError, match=fact):
        load_job(tmp_path / "job.yaml", [change])
