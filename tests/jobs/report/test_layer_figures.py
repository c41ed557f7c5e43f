"""Pictures of layers: what is drawn where, in which colour, and what they say about their scale."""

import io

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from attribution.weights import filters
from jobs.report import layer_figures
from jobs.report.layer_figures import Look, draw_filters, draw_top

RED_FIRST = Look("upper", blue_first=False)


@pytest.fixture
def pages(monkeypatch):
    """What pages are made of: canvas, title, text and labels."""
    found = []
    make = layer_figures._page

    def page(canvas, title, text, labels=None):
        found.append((canvas, title, text, labels or {}))
        return make(canvas, title, text, labels)

    monkeypatch.setattr(layer_figures, "_page", page)
    return found


def layer_of(weights):
    layer = nn.Conv2d(weights.shape[1], weights.shape[0], weights.shape[2:])
    with torch.no_grad():
        layer.weight.copy_(torch.as_tensor(weights))
    return filters(nn.Sequential(layer), "0")


def test_filters_of_three_bands_are_in_colour_about_grey(pages):
    weights = np.zeros((4, 3, 2, 2), dtype=np.float32)
    weights[0, 0] = 0.5  # red at the end of the scale, green and blue at 0
    weights[1, :, 0] = -0.5
    weights[3, 2, 1, 1] = 0.25
    png = draw_filters(layer_of(weights), RED_FIRST)
    canvas, title, text, _ = pages[0]
    side = (len(canvas) - 1) // 2
    tiles = {
        number: canvas[y : y + side - 1, x : x + side - 1]
        for number, (y, x) in enumerate(
            [(1, 1), (1, 1 + side), (1 + side, 1), (1 + side, 1 + side)]
        )
    }
    assert (tiles[0] == [255, 128, 128]).all()
    assert (tiles[1][:10] == 0).all()
    assert (tiles[1][-10:] == 128).all()
    assert (tiles[2] == 128).all()
    assert tiles[3][-1, -1].tolist() == [128, 128, 191]
    assert title == "0: 4 filters of 3 inputs, 1 dead"
    assert "grey is 0, black -0.5 and white 0.5" in text
    # The page holds the canvas pixel by pixel, below the title.
    with Image.open(io.BytesIO(png)) as picture:
        shown = np.asarray(picture.convert("RGB"))
    np.testing.assert_array_equal(shown[-len(canvas) :, : canvas.shape[1]], canvas)


def test_blue_comes_first_in_bands_of_flux_and_row_0_is_at_the_bottom():
    shares = np.zeros((3, 2, 1))
    shares[0, 0] = 1.0
    assert Look("lower", blue_first=True).rgb(shares)[:, 0].tolist() == [[0, 0, 0], [0, 0, 255]]
    assert RED_FIRST.rgb(shares)[:, 0].tolist() == [[255, 0, 0], [0, 0, 0]]
    assert RED_FIRST.rgb(shares[:2])[:, 0].tolist() == [[128, 128, 128], [0, 0, 0]]
    assert RED_FIRST.rgb(np.full((3, 1, 1), np.nan)).tolist() == [[[128, 128, 128]]]


def test_other_filters_have_a_row_each_and_a_column_per_input(pages):
    weights = np.zeros((2, 40, 3, 3), dtype=np.float32)
    weights[1, 4] = 2.0
    weights[0, 0] = -2.0
    draw_filters(layer_of(weights), RED_FIRST)
    canvas, title, text, _ = pages[0]
    side = (len(canvas) - 4) // 2
    tile = canvas[4 + side : 2 * side, 4 + 4 * side : 5 * side].astype(int)
    assert (tile[..., 0] - tile[..., 2] > 50).all()
    first = canvas[4:side, 4:side].astype(int)
    assert (first[..., 2] - first[..., 0] > 50).all()
    assert canvas.shape[1] == 32 * side + 4
    assert title == "0: 2 filters of 40 inputs; the first 2 and 32 are shown"
    assert "rows are filters, columns inputs; white is 0, red 2, blue -2" in text


def test_projections_are_left_of_their_crops_in_the_order_of_ranks(pages):
    crops = np.zeros((2, 4, 3, 8, 8))
    crops[1, 2] = 1.0
    crops[0, :, :, 6:] = np.nan
    projections = np.zeros_like(crops)
    projections[1, 1] = -3e-5
    pixels = {"crop": crops, "projection": projections}
    draw_top(pixels, "a title", RED_FIRST, first=24)
    canvas, title, text, labels = pages[0]
    assert title == "a title"
    assert "black 0, white 1" in text
    assert list(labels.values()) == ["24", "25"]
    height = (len(canvas) - 16) // 2
    panel = canvas[height + 16 :, 16:-16]
    quarter = panel.shape[1] // 4
    black, white, grey = ([0] * 3, [255] * 3, [128] * 3)
    middles = [
        panel[y * 58 + 28, x * quarter + quarter // 2].tolist() for y in (0, 1) for x in range(4)
    ]
    assert middles == [grey, black, black, black, grey, grey, white, black]
    bottom = canvas[16 + 4 + 56, 16 + 3 * quarter - 10].tolist()
    assert bottom == grey


def test_crops_without_projections_and_without_objects(pages):
    draw_top({"crop": np.full((1, 1, 5, 3, 3), np.nan)}, "", RED_FIRST)
    canvas = pages[0][0]
    assert (canvas[canvas.shape[0] // 2, canvas.shape[1] // 2] == 128).all()
    assert "projections" not in pages[0][2]
