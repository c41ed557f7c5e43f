from __future__ import annotations

import base64
import hashlib
import io
import json
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
import zarr
from PIL import Image

from jobs.errors import RefusedError
from jobs.maps import build_maps
from jobs.report import write_report
from jobs.specs.maps import MapsSpec

Make, Write = Callable[..., Any], Callable[..., Path]


def off_the_sky(content: Any) -> Any:
    """Return content without positions: no sky maps, which take the most time to draw."""
    return content.but(ra=np.full(len(content.ra), np.nan))


class Page(HTMLParser):
    """The elements of a page, its visible text, and what its scripts and styles hold."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text, self.raw = "", {"script": "", "style": ""}
        self._inside = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._inside = tag

    def handle_data(self, data: str) -> None:
        if self._inside in self.raw:
            self.raw[self._inside] += data
        else:
            self.text += data

    def handle_endtag(self, tag: str) -> None:
        self._inside = ""

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]

    @property
    def words(self) -> str:
        return " ".join(self.text.split())


def training_run(folder: Path) -> Path:
    """Make a finished training run without a history."""
    training = folder / "training"
    training.mkdir()
    manifest = {"kind": "training", "name": "network", "results_digest": "cd" * 32}
    (training / "manifest.json").write_text(json.dumps(manifest))
    return training


@pytest.fixture(scope="module")
def two(make_content: Make, write_run: Write, read_pixels: Any) -> tuple[Any, Any, str]:
    first = make_content(objects=90, seed=1)
    second = make_content(objects=70, seed=2).but(name="survey-b")
    second.logit[second.label == "spiral", 0] += 4.0
    folder = write_run(first, "out")
    training = training_run(folder)
    (training / "history.csv").write_text(
        "epoch,train_loss,validation_loss,train_accuracy,validation_accuracy\n"
        "1,1.2,1.1,0.4,0.5\n2,0.8,0.7,0.6,0.71\n3,0.5,0.9,0.8,0.69\n"
    )
    out = write_report(
        [folder, write_run(second), training],
        folder / "report" / "index.html",
        read_pixels=read_pixels,
    )
    return first, second, out.read_text(encoding="utf-8")


def accuracy(content: Any) -> float:
    known = content.status == 1
    right = np.array(content.classes)[content.logit.argmax(axis=1)] == content.label
    return float(right[known].mean())


def test_the_page_loads_nothing_and_runs_only_its_own_script(two: tuple[Any, Any, str]) -> None:
    page = Page(two[2])
    links = [
        value
        for _, attributes in page.tags
        for name, value in attributes.items()
        if name in ("src", "href", "srcset", "action", "data", "poster", "xlink:href")
    ]
    assert len(links) > 50
    assert all(str(link).startswith(("data:image/webp;base64,", "#")) for link in links)
    assert "url(" not in page.raw["style"]
    assert "@import" not in page.raw["style"]
    policy = next(
        str(meta["content"])
        for meta in page.all("meta")
        if meta.get("http-equiv") == "Content-Security-Policy"
    )
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    assert rules["default-src"] == "'none'"
    assert rules["img-src"] == "data:"
    for sort in ("script", "style"):
        digest = base64.b64encode(hashlib.sha256(page.raw[sort].encode()).digest()).decode()
        assert rules[f"{sort}-src"] == f"'sha256-{digest}'"
    # A style attribute or an inline handler would be blocked by that policy.
    assert not any(name == "style" or name.startswith("on") for _, a in page.tags for name in a)


def test_the_numbers_are_those_of_the_runs(two: tuple[Any, Any, str]) -> None:
    first, second, html = two
    words = Page(html).words
    assert (
        f"From survey-a to survey-b accuracy falls from {accuracy(first):.2f} to "
        f"{accuracy(second):.2f}; recall moves most for spiral" in words
    )
    assert "Validation loss is lowest in epoch 2 of 3, at accuracy 0.71." in words
    assert "Objects90 Complete88 Quarantined2" in words
    assert f"Accuracy{accuracy(second):.2f} Labelled68" in words


def test_the_page_has_every_part_and_stays_small(two: tuple[Any, Any, str]) -> None:
    page = Page(two[2])
    sections = {attributes.get("id") for attributes in page.all("section")}
    assert sections == {
        "overview",
        "galaxies",
        "means",
        "sky",
        "trends",
        "calibration",
        "concentration",
        "numbers",
        "training",
        "quarantine",
        "provenance",
    }
    anchors = {str(a["href"])[1:] for a in page.all("a")}
    assert anchors <= sections | {"main"}
    assert len(two[2].encode()) < 5_000_000
    assert all(image["alt"] for image in page.all("img"))
    assert len({a["id"] for _, a in page.tags if a.get("id")}) == sum(
        bool(a.get("id")) for _, a in page.tags
    )


def test_pictures_are_pictures(two: tuple[Any, Any, str]) -> None:
    for image in Page(two[2]).all("img"):
        content = base64.b64decode(str(image["src"]).split(",", 1)[1])
        with Image.open(io.BytesIO(content)) as picture:
            picture.load()
            assert picture.format == "WEBP"


def picture(image: dict[str, str | None]) -> np.ndarray:
    content = base64.b64decode(str(image["src"]).split(",", 1)[1])
    with Image.open(io.BytesIO(content)) as opened:
        return np.asarray(opened.convert("RGB")).astype(int)


def corner(strength: np.ndarray) -> str:
    """Name the corner of a picture in which a quantity is strongest."""
    y, x = np.unravel_index(strength.argmax(), strength.shape)
    height, width = strength.shape
    return ("top" if y < height / 2 else "bottom") + (" left" if x < width / 2 else " right")


@pytest.mark.parametrize(
    ("form", "place"),
    [("fits", "bottom left"), ("simulated", "bottom left"), ("images", "top left")],
)
def test_row_zero_is_at_the_bottom_unless_the_survey_is_of_pictures(
    make_content: Make, write_run: Write, tmp_path: Path, form: str, place: str
) -> None:
    maps = np.zeros((12, 2, 12, 12))
    maps[:, :, 1, 2] = 1.0
    content = off_the_sky(make_content(objects=12)).but(
        maps={"integrated_gradients": maps, "occlusion": np.zeros((12, 2, 3, 3))},
        job={"survey": {"format": form, "path": "nowhere"}},
    )
    content.maps["occlusion"][:, :, 0, 0] = 1.0
    galaxy = np.zeros((3, 12, 12), np.float32)
    galaxy[:, :3, :3] = 1.0
    out = write_report(
        [write_run(content)],
        tmp_path / "r.html",
        read_pixels=lambda run, rows: [galaxy] * len(rows),
    )
    images = Page(out.read_text("utf-8")).all("img")
    seen: dict[str, set[str]] = {"Image": set(), "Integrated": set(), "Occlusion": set()}
    means = set()
    for image in images:
        first, colours = str(image["alt"]).split()[0], picture(image)
        red = colours[..., 0] - colours[..., 2]
        if first in seen:
            seen[first].add(corner(colours.sum(axis=2) if first == "Image" else red))
        elif first == "Mean":
            means.add(corner(red))
    assert seen == {name: {place} for name in seen}
    assert means == {place}


def test_methods_and_classes_can_be_chosen(two: tuple[Any, Any, str]) -> None:
    page = Page(two[2])
    methods = {"occlusion", "integrated_gradients", "gradient_x_input"}
    boxes = {box["value"] for box in page.all("input")}
    assert boxes == methods
    shown = {a["data-method"] for _, a in page.tags if a.get("data-method")}
    assert shown == methods
    classes = {option["value"] for option in page.all("option")} - {""}
    blocks = {a["data-class"] for a in page.all("div") if a.get("data-class")}
    assert classes == blocks == {"smooth", "spiral", "barred"}


def test_the_same_runs_give_the_same_page(
    make_content: Make, write_run: Write, read_pixels: Any, tmp_path: Path
) -> None:
    run = write_run(make_content())
    pages = [
        write_report([run], tmp_path / name, read_pixels=read_pixels).read_bytes()
        for name in ("a.html", "b.html")
    ]
    assert pages[0] == pages[1]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.html", "b.html"]


def test_markup_in_the_data_stays_text(
    make_content: Make, write_run: Write, read_pixels: Any, tmp_path: Path
) -> None:
    evil = "</script><script>alert(1)</script>"
    quote = "\"><img src=x onerror='alert(2)'>"
    content = off_the_sky(make_content(objects=24)).but(
        classes=(evil, quote, "{{ 7 * 7 }}"), name="<b>bold</b>", targets=(quote, "label")
    )
    content.id[:] = [f"{evil}{i}" for i in range(24)]
    content.label[:] = np.array(content.classes)[np.arange(24) % 3]
    run = write_run(content)
    out = write_report([run], tmp_path / "r.html", read_pixels=read_pixels)
    html = out.read_text(encoding="utf-8")
    page = Page(html)
    assert len(page.all("script")) == 1
    assert "alert" not in page.raw["script"]
    assert not page.all("b")
    assert all(str(image["src"]).startswith("data:") for image in page.all("img"))
    assert evil in page.text
    assert quote in page.text
    assert "{{ 7 * 7 }}" in page.text


def test_a_run_without_labels_dropout_or_positions_has_a_report(
    make_content: Make, write_run: Write, read_pixels: Any, tmp_path: Path
) -> None:
    content = make_content().but(entropy={}, columns={}, label=np.full(50, ""))
    content.ra[:] = np.nan
    run = write_run(content)
    html = write_report([run], tmp_path / "r.html", read_pixels=read_pixels).read_text("utf-8")
    page = Page(html)
    assert "48 objects are explained; none has a label to be judged by." in page.words
    assert "Entropy is that of the softmax of the logits" in page.words
    assert "No maps of uncertainty: the job has no mc_dropout." in page.words
    assert "The sky maps are empty" in page.words
    sections = {attributes.get("id") for attributes in page.all("section")}
    assert not sections & {"calibration", "trends", "localisation", "training"}
    assert "wrong" not in {a.get("class") for a in page.all("span")}


def test_runs_of_one_name_are_told_apart(
    make_content: Make, write_run: Write, read_pixels: Any, tmp_path: Path
) -> None:
    runs = [write_run(off_the_sky(make_content(seed=seed))) for seed in (1, 2)]
    html = write_report(runs, tmp_path / "r.html", read_pixels=read_pixels).read_text("utf-8")
    assert "survey-a (1) and survey-a (2)" in Page(html).words


def test_an_unfinished_run_is_refused_or_marked(
    make_content: Make, write_run: Write, read_pixels: Any, tmp_path: Path
) -> None:
    content = off_the_sky(make_content())
    content.status[30:] = 0
    run = write_run(content, finished=False)
    with pytest.raises(RefusedError, match=r"not finished.*occulta resume.*--partial"):
        write_report([run], tmp_path / "r.html", read_pixels=read_pixels)
    assert not (tmp_path / "r.html").exists()
    out = write_report([run], tmp_path / "r.html", partial=True, read_pixels=read_pixels)
    words = Page(out.read_text("utf-8")).words
    assert "Partial. The run survey-a was not finished" in words
    assert "20 of 50 objects are still to come" in words


def test_maps_of_other_results_are_built_again_and_fitting_ones_are_kept(
    make_content: Make, write_run: Write, read_pixels: Any, tmp_path: Path
) -> None:
    run = write_run(off_the_sky(make_content()))
    build_maps(run, MapsSpec(nside=4))
    page = write_report([run], tmp_path / "a.html", read_pixels=read_pixels)
    assert "nside 4," in Page(page.read_text("utf-8")).words
    manifest = json.loads((run / "manifest.json").read_text())
    (run / "manifest.json").write_text(json.dumps(manifest | {"results_digest": "cd" * 32}))
    page = write_report([run], tmp_path / "b.html", read_pixels=read_pixels)
    assert "nside 8," in Page(page.read_text("utf-8")).words


@pytest.mark.parametrize(
    ("history", "fact"),
    [(None, "history.csv"), ("epoch,loss\n1,low\n", "low"), ("epoch,loss\n1\n", "history.csv")],
)
def test_a_training_run_without_a_readable_history_is_refused(
    make_content: Make,
    write_run: Write,
    read_pixels: Any,
    tmp_path: Path,
    history: str | None,
    fact: str,
) -> None:
    training = training_run(tmp_path)
    if history is not None:
        (training / "history.csv").write_text(history)
    run = write_run(off_the_sky(make_content()))
    with pytest.raises(RefusedError, match=fact):
        write_report([run, training], tmp_path / "r.html", read_pixels=read_pixels)


def test_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RefusedError, match="no run is given"):
        write_report([], tmp_path / "r.html")


def simulated_run(make_content: Make, write_run: Write, folder: Path) -> tuple[Any, Path]:
    """Write a run over a simulation whose catalogue it took backwards."""
    content = make_content(objects=40)
    rows = np.arange(40)[::-1].copy()
    root = zarr.open_group(folder / "results.zarr", mode="w")
    random = np.random.default_rng(3)
    image = root.create_array(
        "cutout/image", shape=(40, 3, 12, 12), dtype="f4", chunks=(8, 3, 12, 12)
    )
    image[...] = random.normal(size=(40, 3, 12, 12))
    bar = root.create_array("truth/bar", shape=(40, 12, 12), dtype="bool", chunks=(8, 12, 12))
    masks = np.zeros((40, 12, 12), bool)
    for row in range(40):
        masks[row, row % 8 : row % 8 + 3, 4:8] = True
    bar[...] = masks
    inside = masks[rows][:, None]
    # Per pixel 9 inside and 1 outside, and as much negative evidence as one likes.
    maps = np.where(inside, 9.0, 1.0) * np.ones((40, 2, 12, 12))
    maps[:, :, 0, 0] = -50.0
    maps[inside[:, :1, 0, 0].repeat(2, axis=1), 0, 0] = 9.0
    stamp = root.create_array(
        "truth/shortcut", shape=(40, 12, 12), dtype="bool", chunks=(8, 12, 12)
    )
    stamp[:, 11, :4] = True
    content = off_the_sky(content).but(
        maps={"integrated_gradients": maps},
        columns={"row": rows},
        job={"survey": yaml.safe_load(f"{{format: simulated, path: '{folder}'}}")},
    )
    return content, write_run(content)


def test_evidence_is_compared_with_the_truth(
    make_content: Make, write_run: Write, tmp_path: Path
) -> None:
    _, run = simulated_run(make_content, write_run, tmp_path)
    html = write_report([run], tmp_path / "r.html").read_text("utf-8")
    # 12 of 144 pixels are in the bar: 108 of 108 + 131 (or 132, with the corner) of the evidence.
    words = Page(html).words
    assert "45% of the positive evidence of integrated gradients lies in the bar" in words
    assert "in the bar, 8.3% of the image: 5.4 times its share" in words
    # Stamps count whatever the class: 4 pixels in each complete object.
    assert "lies in the planted stamp, 2.8% of the image: 0.6 times its share" in words


def test_galaxies_come_from_the_survey_by_the_rows_of_the_run(
    make_content: Make, write_run: Write, tmp_path: Path
) -> None:
    from jobs.report import read_survey_pixels

    _, run = simulated_run(make_content, write_run, tmp_path)
    stored = np.asarray(zarr.open_array(tmp_path / "results.zarr/cutout/image", mode="r")[...])
    images = read_survey_pixels(run, [0, 7, 3])
    for image, row in zip(images, (39, 32, 36), strict=True):
        assert image is not None
        np.testing.assert_array_equal(image, stored[row, ::-1])


def test_a_survey_that_is_gone_leaves_a_report_without_galaxies(
    make_content: Make, write_run: Write, tmp_path: Path
) -> None:
    run = write_run(off_the_sky(make_content()))
    page = Page(write_report([run], tmp_path / "r.html").read_text("utf-8"))
    assert "no image" in page.words
    assert any("Integrated gradients of" in str(image["alt"]) for image in page.all("img"))
