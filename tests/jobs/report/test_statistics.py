from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jobs.maps.contents import Windows
from jobs.report import readings
from jobs.report.charts import Axes, Series, draw_chart, nice_ticks
from jobs.report.class_maps import class_rgb, nearest
from jobs.report.examples import CERTAIN, UNCERTAIN, WRONG, choose_examples
from jobs.report.facts import RunFacts, load_facts
from jobs.report.rows import gather
from jobs.report.statistics import (
    Binned,
    confusion,
    half_evidence_radius,
    mean_by_class,
    quantile_bins,
    recall,
    reliability,
)
from jobs.report.tiles import galaxy_rgb, signed_rgb, white_balance


@pytest.fixture(scope="module")
def loaded(
    make_content: Callable[..., Any], write_run: Callable[..., Path]
) -> tuple[Any, RunFacts]:
    content = make_content(objects=120, seed=5)
    content.label[10:14] = ""
    return content, load_facts(write_run(content), partial=False)


def test_confusion_and_recall_count_labelled_complete_objects(loaded: tuple[Any, RunFacts]) -> None:
    content, facts = loaded
    expected = np.zeros((3, 3), int)
    for label, logit, status in zip(content.label, content.logit, content.status, strict=True):
        if status == 1 and label:
            expected[content.classes.index(label), logit.argmax()] += 1
    assert confusion(facts).tolist() == expected.tolist()
    np.testing.assert_allclose(recall(facts), expected.diagonal() / expected.sum(axis=1))
    assert facts.accuracy == pytest.approx(expected.trace() / expected.sum())


def test_examples_are_the_extremes_and_no_object_comes_twice(loaded: tuple[Any, RunFacts]) -> None:
    content, facts = loaded
    for group, name in enumerate(content.classes):
        members = np.flatnonzero((content.label == name) & (content.status == 1))
        entropy = content.entropy["predictive_entropy"].astype("f4")
        right = content.logit.argmax(axis=1) == group
        chosen = choose_examples(facts, group, 2)
        positions = [example.position for example in chosen]
        assert len(set(positions)) == len(positions)
        by = {r: [e.position for e in chosen if e.reason == r] for r in (CERTAIN, WRONG, UNCERTAIN)}
        certain = sorted(members[right[members]], key=lambda i: entropy[i])
        wrong = sorted(members[~right[members]], key=lambda i: entropy[i])
        assert by[CERTAIN] == certain[:2]
        assert by[WRONG] == wrong[:2]
        rest = [i for i in sorted(members, key=lambda i: -entropy[i]) if i not in positions[:-2]]
        assert by[UNCERTAIN] == rest[:2]


def test_a_perfectly_sure_and_right_network_is_calibrated(loaded: tuple[Any, RunFacts]) -> None:
    _, facts = loaded
    result = reliability(facts)
    assert result is not None
    confidence, right = facts.confidence[facts.labelled], facts.correct[facts.labelled]
    assert result.overconfidence == pytest.approx(confidence.mean() - right.mean())
    place = np.minimum((confidence * 10).astype(int), 9)
    error = sum(
        (place == b).mean() * abs(right[place == b].mean() - confidence[place == b].mean())
        for b in set(place.tolist())
    )
    assert result.calibration_error == pytest.approx(error)
    assert result.bins.number.sum() == facts.labelled.sum()


def test_bins_hold_equal_numbers_and_leave_nan_out() -> None:
    x = np.append(np.arange(40.0)[::-1], np.nan)
    y = np.append(2 * np.arange(40.0)[::-1], 1.0)
    bins = quantile_bins(x, y, bins=4)
    assert bins.number.tolist() == [10, 10, 10, 10]
    np.testing.assert_allclose(bins.x, [4.5, 14.5, 24.5, 34.5])
    np.testing.assert_allclose(bins.y, 2 * bins.x)
    np.testing.assert_allclose(bins.error, 2 * np.arange(10).std(ddof=1) / np.sqrt(10))
    assert len(quantile_bins(np.full(3, np.nan), np.zeros(3)).x) == 0


def test_means_by_class_leave_out_what_is_not_complete(loaded: tuple[Any, RunFacts]) -> None:
    _, facts = loaded
    binned = mean_by_class(facts, facts.gini["occlusion"])
    assert binned.x.tolist() == [0.0, 1.0, 2.0]
    assert binned.number.sum() == (facts.complete & (facts.label >= 0)).sum()


def test_the_radius_of_half_the_evidence() -> None:
    ring = np.zeros((9, 9))
    ring[4, 4], ring[4, 7] = 1.0, 3.0
    assert half_evidence_radius(ring) == 3.0
    ring[4, 4] = 4.0
    assert half_evidence_radius(ring) == 0.0
    assert np.isnan(half_evidence_radius(-ring))


def test_ticks_are_round_and_inside() -> None:
    assert nice_ticks(0.0, 1.0) == [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]
    assert nice_ticks(1.07, 1.56) == [1.1, 1.2, 1.3, 1.4, 1.5]
    assert nice_ticks(-3e-4, 2e-4) == [-3e-4, -2e-4, -1e-4, 0.0, 1e-4, 2e-4]


def test_a_chart_stays_inside_its_frame_and_skips_nan() -> None:
    series = Series("a", [0.0, 1.0, 2.0], [1.0, np.nan, 3.0], [0.1, 0.1, 5.0])
    chart = draw_chart(Axes("t", "x", "y", y_range=(0.0, 4.0)), [series])
    (drawn,) = chart.series
    assert len(drawn.points) == 2
    for point in drawn.points:
        assert chart.left <= point.x <= chart.width - chart.right
        assert point.low is not None
        assert point.high is not None
        assert chart.top <= point.high <= point.y <= point.low <= chart.height - chart.bottom
    empty = draw_chart(Axes("t", "x", "y"), [Series("a", [], [])])
    assert empty.series[0].points == ()


def test_rows_are_gathered_with_each_chunk_read_once() -> None:
    values, reads = np.arange(100) * 10, []

    def read(rows: slice) -> np.ndarray:
        reads.append(rows)
        return values[rows]

    found = dict(gather(read, 10, np.array([57, 3, 51, 3, 99])))
    assert {row: int(value) for row, value in found.items()} == {3: 30, 51: 510, 57: 570, 99: 990}
    assert [rows.start // 10 for rows in reads] == [0, 5, 9]


def test_the_signed_scale_is_white_at_zero_red_above_blue_below() -> None:
    plus, zero, minus, hole = signed_rgb(np.array([[9.0, 0.0, -9.0, np.nan]]), 1.0)[0].astype(int)
    assert plus[0] > plus[2] + 50
    assert minus[2] > minus[0] + 50
    assert (zero > 240).all()
    assert hole.tolist() == [128, 128, 128]


def test_a_galaxys_colours_survive_the_stretch() -> None:
    y, x = np.mgrid[:32, :32] - 15.5
    blob = np.exp(-(x**2 + y**2) / 30)
    noise = np.random.default_rng(0).normal(size=(3, 32, 32)) * 0.005
    red = galaxy_rgb(np.stack([blob, 0.6 * blob, 0.3 * blob]) + 7.0 + noise, np.ones(3)).astype(int)
    assert red[15, 15, 0] > red[15, 15, 1] > red[15, 15, 2] > 50
    assert red[0, 0].max() < 60
    assert galaxy_rgb(np.full((3, 4, 4), np.nan), np.ones(3)).max() == 0
    assert galaxy_rgb(blob[None], np.ones(3)).shape == (32, 32, 3)


def test_the_white_balance_brings_bands_together() -> None:
    image = np.zeros((3, 8, 8))
    image[:, 4, 4] = [8.0, 4.0, 1.0]
    balance = white_balance([image])
    balanced = image[:, 4, 4] * balance
    assert balanced.max() / balanced.min() == pytest.approx(8**0.2)
    assert white_balance([]).tolist() == [1.0, 1.0, 1.0]


def binned(y: list[float], error: list[float]) -> Binned:
    return Binned(np.array([1.0, 2.0]), np.array(y), np.array(error), np.array([9, 9]))


@pytest.mark.parametrize(
    ("y", "error", "text"),
    [
        ([0.05, 0.08], [0.02, 0.02], "no significant trend of entropy (from 0.050 ± 0.020 to"),
        ([0.05, 0.08], [0.01, 0.01], "a: entropy rises from 0.05 to 0.08 as seeing goes from 1 to"),
        ([0.50, 0.10], [0.1, 0.1], "a: entropy falls from 0.50 to 0.10 as seeing"),
        # 2 standard errors of the difference are 0.4 exactly: not more.
        ([0.50, 0.10], [0.2, 0.0], "no significant trend"),
        ([0.50, 0.10], [0.1, np.nan], "no significant trend"),
    ],
)
def test_a_trend_is_claimed_beyond_two_standard_errors(
    y: list[float], error: list[float], text: str
) -> None:
    assert text in readings.trend("entropy", "seeing", [("a", binned(y, error))])


def test_each_pixel_has_the_class_of_the_nearest_window() -> None:
    windows = Windows((5, 7), (2, 3), (2, 2))
    # Centres 0.5, 2.5, 4 (the last window is cut) and 1, 3, 5; a tie goes to the first.
    grid = np.arange(9).reshape(3, 3)
    rows, columns = [0, 0, 1, 1, 2], [0, 0, 0, 1, 1, 2, 2]
    assert nearest(grid, windows).tolist() == [[3 * r + c for c in columns] for r in rows]


def test_classes_have_colours_of_their_own_and_no_class_is_grey() -> None:
    colours = class_rgb(np.array([[-1, *range(20), 20]]), 20)[0].tolist()
    assert colours[0] == colours[-1] == [128, 128, 128]
    assert len({tuple(colour) for colour in colours[1:-1]}) == 20
