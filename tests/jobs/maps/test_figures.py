from __future__ import annotations

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.projections.geo import MollweideAxes

from jobs.maps import figures
from jobs.maps.contents import ACCURACY
from jobs.maps.figures import (
    colour_limits,
    draw_mean_attribution,
    draw_sky,
    masked_note,
    signed_scale,
)
from jobs.maps.healpix import CellMeans, SkyTable, mean_and_error, suggest_nside
from jobs.maps.mollweide import EQUATOR, POLE, cell_polygons, central_meridian, project
from jobs.maps.stacks import MeanAttribution


def area(polygon: np.ndarray) -> float:
    x, y = polygon.T
    return float(abs(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1))) / 2)


def test_the_projection_is_matplotlibs_mirrored() -> None:
    random = np.random.default_rng(0)
    offset, dec = random.uniform(-180, 180, 500), random.uniform(-89.9, 89.9, 500)
    oracle = MollweideAxes.MollweideTransform(1).transform(
        np.deg2rad(np.stack([offset, dec], axis=1))
    )
    x, y = project(offset, dec)
    np.testing.assert_allclose(np.stack([-x, y], axis=1), oracle, atol=3e-3)  # it stops early
    theta = np.arcsin(y / POLE)
    np.testing.assert_allclose(
        2 * theta + np.sin(2 * theta), np.pi * np.sin(np.deg2rad(dec)), atol=1e-9
    )
    np.testing.assert_allclose(x, -EQUATOR * offset / 180 * np.cos(theta), atol=1e-9)
    assert project(np.array([90.0]), np.array([0.0]))[0][0] == pytest.approx(-EQUATOR / 2)
    assert project(np.array([0.0]), np.array([-90.0]))[1][0] == pytest.approx(-POLE)


@pytest.mark.parametrize("centre", [0.0, 30.0, 180.0])
def test_the_cells_of_the_whole_sky_cover_the_map_once(centre: float) -> None:
    level, cells = 3, np.arange(12 * 64)
    polygons, owner = cell_polygons(cells, level, centre)
    assert set(owner.tolist()) == set(cells.tolist())
    # The projection keeps areas, so every cell has the same; sides are drawn as a few lines.
    total = np.bincount(owner, weights=[area(polygon) for polygon in polygons])
    expected = np.pi * EQUATOR * POLE / len(cells)
    assert total.sum() == pytest.approx(np.pi * EQUATOR * POLE, rel=0.01)
    assert np.abs(total / expected - 1).max() < 0.2
    assert np.ptp(polygons[..., 0], axis=1).max() < 1.5


def test_a_cell_on_the_edge_is_drawn_at_both_ends() -> None:
    cells = np.arange(12 * 64)
    polygons, owner = cell_polygons(cells, 3, 0.0)
    twice = np.flatnonzero(np.bincount(owner) == 2)
    assert len(twice) == 8  # every other ring between the polar caps
    for cell in twice:
        middle = polygons[owner == cell][..., 0].mean(axis=1)
        assert (middle > 0).sum() == 1
        assert (middle < 0).sum() == 1


def test_the_edge_of_the_map_lies_in_the_widest_gap() -> None:
    assert central_meridian(np.array([350.0, 355.0, 5.0, 10.0])) == 0.0
    assert central_meridian(np.array([170.0, 180.0, 190.0])) == 180.0
    assert central_meridian(np.linspace(120.0, 240.0, 50)) == 180.0
    assert central_meridian(np.empty(0)) == 0.0


def table() -> SkyTable:
    cells = np.arange(0, 700, 7)
    mean = np.linspace(0.2, 0.9, len(cells))
    mean[5] = np.nan
    count = np.arange(len(cells))
    return SkyTable(8, cells, count, {"accuracy": CellMeans(ACCURACY, mean, mean * 0.1, count)})


def test_a_figure_does_not_depend_on_the_users_settings() -> None:
    plain = draw_sky(table(), "accuracy", "A $survey_$ <b>")
    settings = {"font.family": ["serif"], "axes.facecolor": "red", "lines.linewidth": 9}
    with mpl.rc_context(settings):
        assert draw_sky(table(), "accuracy", "A $survey_$ <b>") == plain
        assert mpl.rcParams["axes.facecolor"] == "red"


def test_an_empty_sky_can_be_drawn() -> None:
    empty = np.empty(0, np.int64)
    assert draw_sky(SkyTable(8, empty, empty, {}), "count", "nothing").startswith(b"\x89PNG")


def test_colour_scales_span_what_is_shown() -> None:
    assert colour_limits("count", [np.array([1.0, 1.0])]) == (0.0, 1.0)
    low, high = colour_limits("accuracy", [np.array([0.5, np.nan]), np.array([0.7])])
    assert (low, high) == pytest.approx((0.504, 0.696))
    low, high = colour_limits("accuracy", [np.array([0.5])])
    assert low < 0.5 < high
    assert signed_scale([np.array([-3.0, 1.0, np.nan])], percentile=100) == 3.0
    assert signed_scale([np.zeros(4)]) == 1.0
    assert signed_scale([]) == 1.0


def test_mean_and_error_of_few_values() -> None:
    number, total = np.array([0.0, 1.0, 2.0, 3.0]), np.array([0.0, 4.0, 4.0, 3e8])
    square = np.array([0.0, 16.0, 10.0, 3e16])
    mean, error = mean_and_error(number, total, square)
    np.testing.assert_array_equal(mean, [np.nan, 4.0, 2.0, 1e8])
    np.testing.assert_array_equal(error, [np.nan, np.nan, 1.0, 0.0])


def masked(numbers: list[int], min_count: int = 3) -> SkyTable:
    """Return neighbouring cells of nside 8 with these numbers of objects."""
    number = np.array(numbers)
    mean = np.where(number >= min_count, 0.5, np.nan)
    means = {"accuracy": CellMeans(ACCURACY, mean, mean * 0.1, number)}
    return SkyTable(8, np.arange(len(numbers)), number, means, min_count)


def test_grey_is_explained_where_there_is_grey() -> None:
    assert masked_note(masked([3, 4]), "accuracy") == ""
    assert masked_note(masked([1, 4]), "count") == ""
    assert masked_note(masked([1, 4]), "accuracy") == "grey: fewer than 3 objects"
    assert masked_note(masked([0, 4], 1), "accuracy") == "grey: no object"
    empty = masked_note(masked([1, 1, 1, 1]), "accuracy")
    assert empty == "grey: fewer than 3 objects\nin every cell: try nside: 4"
    most = masked_note(masked([3, 1, 1, 1]), "accuracy")
    assert most == "grey: fewer than 3 objects\nin most cells: try nside: 4"
    assert masked_note(masked([1, 1]), "accuracy").endswith("in every cell: lower min_count")


def test_the_nside_that_is_proposed_shows_half_of_the_cells() -> None:
    # 16 cells of one object: 4 cells of 4 objects at nside 4.
    assert suggest_nside(masked([1] * 16), "accuracy") == 4
    assert suggest_nside(masked([1] * 16, min_count=5), "accuracy") == 2
    # Cells 0 to 3 merge to 4 objects at nside 4, but the other three cells stay below 3.
    spread = masked([1, 1, 1, 1, 1, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0])
    assert suggest_nside(spread, "accuracy") == 2


class Drawn:
    """What was drawn, instead of its pixels."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.figure = mpl.figure.Figure()
        monkeypatch.setattr(figures, "png", self._keep)

    def _keep(self, figure: mpl.figure.Figure) -> bytes:
        self.figure = figure
        figure.draw_without_rendering()
        return b""


def test_a_picture_says_what_grey_is(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = Drawn(monkeypatch)
    draw_sky(masked([1, 4]), "accuracy", "title")
    assert "grey: fewer than 3 objects" in [text.get_text() for text in drawn.figure.texts]


@pytest.mark.parametrize("most", [1, 2, 3, 7, 4321])
def test_a_count_has_whole_ticks(monkeypatch: pytest.MonkeyPatch, most: int) -> None:
    drawn = Drawn(monkeypatch)
    draw_sky(masked([1, most]), "count", "title")
    labels = [tick.get_text() for tick in drawn.figure.axes[1].get_xticklabels()]
    assert len(labels) >= 2
    assert all(label.isdigit() for label in labels)


@pytest.mark.parametrize(("origin", "top"), [("lower", 2), ("upper", 0)])
def test_row_zero_of_a_mean_is_drawn_where_it_belongs(
    monkeypatch: pytest.MonkeyPatch, origin: figures.Origin, top: int
) -> None:
    drawn = Drawn(monkeypatch)
    mean = np.zeros((1, 3, 3))
    mean[0, top, 0] = 1.0
    stack = MeanAttribution("m", "m", "", ("g",), np.array([1]), mean, mean, "1")
    draw_mean_attribution(stack, "title", origin=origin)
    axes = drawn.figure.axes[0]
    (image,) = axes.images
    assert image.get_array()[top, 0] == 1.0
    # The strong pixel's centre is in the upper left corner of the axes.
    x, y = axes.transAxes.inverted().transform(axes.transData.transform((0, top)))
    assert x < 0.34 < 0.66 < y
