from __future__ import annotations

from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

from cluster.errors import VerificationError
from jobs.report import write_report
from jobs.report.facts import load_facts
from jobs.report.localisation import FEATURES, Localisation
from jobs.report.numbers import measured, other_arrays
from jobs.report.statistics import Estimate
from jobs.report.trust import judge
from jobs.report.verdict import Column, reading

Make, Write = Callable[..., Any], Callable[..., Path]
JUDGED = ("gradient_x_input", "integrated_gradients")


def put(root: zarr.Group, name: str, values: np.ndarray, *dims: str, **attributes: Any) -> None:
    root.create_array(name, data=values, dimension_names=("object", *dims), attributes=attributes)


def put_names(root: zarr.Group, name: str, names: tuple[str, ...]) -> None:
    array = root.create_array(
        name, shape=(len(names),), dtype="string", dimension_names=(name.split("/")[1],)
    )
    array[:] = np.array(names, dtype=np.dtypes.StringDType())


@pytest.fixture(scope="module")
def judged(make_content: Make, write_run: Write) -> tuple[dict[str, np.ndarray], Path]:
    """Write a run with every measure; integrated gradients are better by all but one."""
    content = make_content().but(ra=np.full(50, np.nan), label=np.full(50, ""))
    run = write_run(content)
    random = np.random.default_rng(4)
    good = np.array([0.0, 1.0])
    noise = 0.1 * random.normal(size=(50, 2, 2))
    fraction = np.linspace(0, 1, 33)
    arrays = {
        "deletion/area": 0.6 - 0.4 * good + noise,
        "insertion/area": 0.3 + 0.3 * good + noise,
        "infidelity/infidelity": 1.0 + noise,
        "infidelity/infidelity_scaled": 2.0 - good + noise,
        "max_sensitivity/max_sensitivity": 0.5 + noise,
        "deletion/curve": (1 - good[:, None] * fraction) + noise[..., None],
        "model_randomisation/rank_correlation": np.stack(
            [np.ones((50, 2, 2)), np.where(noise > 0, 1, -1) * (0.8 - 0.7 * good)], axis=-1
        ),
        "patience/waited": 3.0 + noise,
        "integrated_gradients/completeness_gap": np.where(noise[..., 0] > 0, 0.2, -0.4),
    }
    root = zarr.open_group(run / "results.zarr", mode="r+", use_consolidated=False)
    last = {"deletion/curve": ("fraction",), "model_randomisation/rank_correlation": ("stage",)}
    text = {"long_name": "time waited", "convention": "us 2026; a low wait is good, they say"}
    for path, values in arrays.items():
        values[content.status != 1] = np.nan
        dims = ("target",) if path.endswith("gap") else ("target", "judged", *last.get(path, ()))
        put(root, path, values, *dims, **(text if path.startswith("patience") else {}))
    for group in {path.split("/")[0] for path in arrays} - {"integrated_gradients"}:
        put_names(root, f"{group}/judged", JUDGED)
        put_names(root, f"{group}/target", ("predicted", "label"))
    zarr.consolidate_metadata(root.store)
    return {path: values[content.status == 1, 0] for path, values in arrays.items()}, run


def test_a_column_is_the_mean_over_the_objects(
    judged: tuple[dict[str, np.ndarray], Path],
) -> None:
    arrays, run = judged
    trust = judge(load_facts(run, partial=False), [])
    assert trust is not None
    columns = {column.title: column for column in trust.columns}
    expected = {
        "Deletion area": (arrays["deletion/area"], "low", 1),
        "Insertion area": (arrays["insertion/area"], "high", 1),
        "Infidelity, scaled": (arrays["infidelity/infidelity_scaled"], "low", 1),
        "Max-sensitivity": (arrays["max_sensitivity/max_sensitivity"], "low", None),
        "Model randomisation": (
            np.abs(arrays["model_randomisation/rank_correlation"][..., -1]),
            "low",
            1,
        ),
        "Time waited": (arrays["patience/waited"], "low", None),
    }
    assert list(columns) == [*expected, "Completeness gap [logit]"]
    for title, (values, good, best) in expected.items():
        assert columns[title].good == good
        for m, name in enumerate(JUDGED):
            score = columns[title].scores[name]
            assert score.mean == pytest.approx(values[:, m].mean(), rel=1e-5)
            error = values[:, m].std(ddof=1) / np.sqrt(len(values))
            assert score.error == pytest.approx(error, rel=1e-4, abs=1e-8)
        if best is not None:
            assert columns[title].best == JUDGED[best]
    gap = columns["Completeness gap [logit]"]
    assert set(gap.scores) == {"integrated_gradients"}
    values = np.abs(arrays["integrated_gradients/completeness_gap"])
    assert gap.scores["integrated_gradients"].mean == pytest.approx(values.mean())
    assert gap.best is None


def test_the_curves_are_means_over_the_objects(
    judged: tuple[dict[str, np.ndarray], Path],
) -> None:
    arrays, run = judged
    trust = judge(load_facts(run, partial=False), [])
    assert trust is not None
    (chart,) = trust.charts
    assert chart.title == "Deletion"
    assert [series.name for series in chart.series] == ["gradient x input", "integrated gradients"]
    mean = arrays["deletion/curve"].mean(axis=0)
    for series, values in zip(chart.series, mean, strict=True):
        assert len(series.points) == 9
        assert series.path.count("L") == 32
        assert series.points[-1].text.endswith(f": 1, {values[-1]:.3g}")


def test_the_sentence_names_what_to_trust_and_why_not_the_others(
    judged: tuple[dict[str, np.ndarray], Path],
) -> None:
    trust = judge(load_facts(judged[1], partial=False), [])
    assert trust is not None
    assert trust.reading == (
        "survey-a: integrated gradients deserves most trust, the best or within 2 standard errors "
        "of the best in 6 of 6 measures; gradient x input hardly depends on what the network "
        "learned: its ranks still correlate by 0.80 when all weights are random."
    )


def column(title: str, good: Any, **scores: tuple[float, float]) -> Column:
    return Column(title, "", good, {name: Estimate(*score) for name, score in scores.items()})


def test_the_best_is_found_and_what_ties_with_it() -> None:
    high = column("Insertion area", "high", a=(0.5, 0.03), b=(0.58, 0.03), c=(0.4, 0.03))
    assert high.best == "b"
    assert high.shortfall("a") == 0.0
    assert high.shortfall("c") == pytest.approx(0.18 / np.hypot(0.03, 0.03))
    low = column("Deletion area", "low", a=(0.5, 0.03), b=(np.nan, np.nan))
    assert low.best is None
    assert column("New", None, a=(0.5, 0.1), b=(0.6, 0.1)).best is None


def test_the_sentence_gives_for_each_other_method_its_worst_measure() -> None:
    columns = [
        column("Deletion area", "low", a=(0.1, 0.01), b=(0.3, 0.01), c=(0.2, 0.01), d=(0.1, 0.01)),
        column("Insertion area", "high", a=(0.6, 0.01), b=(0.5, 0.01), c=(0.3, 0.01)),
    ]
    assert reading("run", list("abcd"), columns) == (
        "run: a deserves most trust, the best or within 2 standard errors of the best in 2 of 2 "
        "measures; b (0.300 ± 0.010) falls short most in deletion area (best 0.100 ± 0.010); "
        "c (0.300 ± 0.010) falls short most in insertion area (best 0.600 ± 0.010); "
        "fewer measures judge d, and none speaks against."
    )
    even = [column("Deletion area", "low", a=(0.1, 0.1), b=(0.12, 0.1))]
    assert reading("run", ["a", "b"], even) == (
        "run: a and b deserve most trust, each the best or within 2 standard errors of the best in "
        "1 of 1 measures."
    )


def test_the_sentence_may_trust_none_or_have_nothing_to_compare() -> None:
    stuck = column("Model randomisation", "low", a=(0.9, 0.01), b=(0.7, 0.01))
    assert reading("run", ["a", "b"], [stuck]).startswith("run: no method deserves trust; a hardly")
    alone = column("Deletion area", "low", a=(0.9, 0.01))
    assert "one method alone" in reading("run", ["a"], [alone])


def test_truth_is_a_column_too(judged: tuple[dict[str, np.ndarray], Path]) -> None:
    bar, _, stamp = FEATURES
    found = [
        Localisation(bar, "occlusion", 9, 0.2, 0.01, 0.1),
        Localisation(bar, "integrated_gradients", 9, 0.4, 0.01, 0.1),
        Localisation(stamp, "occlusion", 20, 0.5, 0.01, 0.1),
    ]
    trust = judge(load_facts(judged[1], partial=False), found)
    assert trust is not None
    in_bar, in_stamp = trust.columns[-2:]
    assert in_bar.best == "integrated_gradients"
    # To look at the stamp is no merit of a map.
    assert (in_stamp.title, in_stamp.best) == ("Evidence in the planted stamp", None)
    assert trust.methods == (*JUDGED, "occlusion")


def test_a_run_without_measures_has_no_such_section(make_content: Make, write_run: Write) -> None:
    run = write_run(make_content().but(ra=np.full(50, np.nan)))
    assert judge(load_facts(run, partial=False), []) is None


def test_a_lost_measure_is_noticed(make_content: Make, write_run: Write) -> None:
    run = write_run(make_content().but(ra=np.full(50, np.nan)))
    root = zarr.open_group(run / "results.zarr", mode="r+", use_consolidated=False)
    put(root, "deletion/area", np.full((50, 2, 2), np.nan), "target", "judged")
    put_names(root, "deletion/judged", JUDGED)
    zarr.consolidate_metadata(root.store)
    with pytest.raises(VerificationError, match=r"deletion/area: shard c.0.0.0 .* is lost"):
        judge(load_facts(run, partial=False), [])


def test_numbers_per_object_are_described_by_their_attributes(
    make_content: Make, write_run: Write
) -> None:
    content = make_content().but(ra=np.full(50, np.nan))
    run = write_run(content)
    root = zarr.open_group(run / "results.zarr", mode="r+", use_consolidated=False)
    values = np.arange(100.0).reshape(50, 2)
    values[content.status != 1] = np.nan
    text = {"long_name": "a number", "units": "nat", "convention": "us 2026"}
    put(root, "new/number", values, "target", **text)
    put(root, "new/layer", np.zeros((50, 4, 3)), "channel", "knot", long_name="of a layer")
    put(root, "new/judge", np.zeros((50, 2, 1)), "target", "judged")
    zarr.consolidate_metadata(root.store)
    facts = load_facts(run, partial=False)
    (row,) = [row for row in measured(facts) if row.method == "new"]
    known = values[content.status == 1, 0]
    assert (row.long_name, row.units, row.convention, row.objects) == (*text.values(), 48)
    assert row.mean.mean == pytest.approx(known.mean())
    assert row.mean.error == pytest.approx(known.std(ddof=1) / np.sqrt(48))
    assert row.percentiles == pytest.approx(tuple(np.percentile(known, (5, 50, 95))))
    others = [other for other in other_arrays(facts) if other[0].startswith("new")]
    assert others == [("new/layer", ("object", "channel", "knot"), "of a layer")]


class Cells(HTMLParser):
    """The cells of the table of trust, and the texts of the page."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.rows: list[list[str]] = []
        self.tags: set[str] = set()
        self._inside = False
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        if tag == "table":
            self._inside = "trust" in str(dict(attrs).get("class"))
        if tag == "tr" and self._inside:
            self.rows.append([])
        if tag in ("td", "th") and self._inside:
            self.rows[-1].append("")

    def handle_data(self, data: str) -> None:
        if self._inside and self.rows and self.rows[-1]:
            self.rows[-1][-1] += data

    def handle_endtag(self, tag: str) -> None:
        self._inside = self._inside and tag != "table"


def test_the_page_marks_the_best_and_shows_classes(
    judged: tuple[dict[str, np.ndarray], Path], read_pixels: Any, tmp_path: Path
) -> None:
    run = judged[1]
    root = zarr.open_group(run / "results.zarr", mode="r+", use_consolidated=False)
    windows = {"window": [6, 6], "stride": [4, 4], "image_shape": [12, 12]}
    winner = np.full((50, 3, 3), 2, np.int32)
    winner[:, 0, 0] = -1
    put(root, "occlusion/winner", winner, "window_y", "window_x", **windows)
    put(root, "evil/<i>", np.zeros(50), long_name="<i>name</i>", units="<i>", convention='"><i>')
    zarr.consolidate_metadata(root.store)
    html = write_report([run], tmp_path / "r.html", read_pixels=read_pixels).read_text("utf-8")
    cells = Cells(html)
    assert "i" not in cells.tags
    heading, *rows = ([" ".join(cell.split()) for cell in row] for row in cells.rows)
    assert heading[1] == "Deletion area, low is good"
    assert heading[2] == "Insertion area, high is good"
    by_name = {row[0]: row[1:] for row in rows}
    assert list(by_name) == ["gradient x input", "integrated gradients"]
    assert all(cell.endswith("★") for cell in by_name["integrated gradients"][:3])
    assert not any("★" in cell for cell in by_name["gradient x input"][:3])
    assert by_name["gradient x input"][-1] == "–"
    assert 'data-method="occlusion_winner"' in html
    assert "barred in 83%" in html  # the first window is nearest to 5 x 5 of 144 pixels
