"""Images that a network draws: optima known by hand, parameters without correlations, dreams."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from attribution.batch import Passes, reproducible
from attribution.inceptionism import (
    ClassImage,
    Colours,
    DeepDream,
    Fourier,
    Pixels,
    survey_colours,
)
from attribution.inceptionism.deep_dream import output_of
from attribution.inceptionism.regularisers import squared_norm, total_variation
from attribution.inceptionism.transforms import View, Views, look
from attribution.randomness import key
from training.networks import build

DOUBLE = {"dtype": torch.float64}
STILL = {"pad": 0, "jitter": 0, "scale": 0.0, "rotate": 0.0}


@pytest.fixture(autouse=True, scope="module")
def _one_thread():
    with reproducible():
        yield


def survey(channels=3, images=40, size=12, seed=0):
    """Images whose channels vary together, with different means."""
    random = np.random.default_rng(seed)
    mixing = np.eye(channels) + 0.5 * random.normal(size=(channels, channels))
    white = random.normal(size=(images, channels, size, size))
    offset = np.arange(channels)[:, None, None]
    return (np.einsum("dc,nchw->ndhw", mixing, white) + offset).astype(np.float32)


@pytest.fixture(scope="module")
def network():
    """A small convolutional network with random weights, float64."""
    torch.manual_seed(3)
    network = nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(6, 8, 3, padding=1, stride=2),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 4),
    )
    return network.double().eval().requires_grad_(False)


@pytest.fixture(scope="module")
def colours():
    return survey_colours(survey())


# Colours of a survey


@pytest.mark.parametrize("channels", [1, 2, 3, 10])
def test_the_colours_of_a_survey_are_its_mean_and_covariance(channels):
    images = survey(channels)
    found = survey_colours(images)
    pixels = np.moveaxis(images, 1, 0).reshape(channels, -1).astype(np.float64)
    np.testing.assert_allclose(found.mean, pixels.mean(axis=1), rtol=1e-6)
    covariance = np.cov(pixels, bias=True).reshape(channels, channels)
    np.testing.assert_allclose(found.factor @ found.factor.T, covariance, rtol=1e-4, atol=1e-5)
    assert (np.triu(found.factor, 1) == 0).all()
    inside = (pixels >= found.low[:, None]) & (pixels <= found.high[:, None])
    assert 0.999 < inside.mean() < 1
    assert found.bounded


def test_channels_that_are_copies_have_colours_too():
    grey = np.repeat(survey(1), 3, axis=1)
    found = survey_colours(grey)
    covariance = found.factor @ found.factor.T
    np.testing.assert_allclose(covariance, grey.var(), rtol=1e-4)


def test_equal_pixels_and_no_images_have_no_colours():
    with pytest.raises(ValueError, match="all pixels of the images are equal"):
        survey_colours(np.full((2, 3, 4, 4), 7.0))
    with pytest.raises(ValueError, match=r"shape \(0, 3, 4, 4\), expected"):
        survey_colours(np.zeros((0, 3, 4, 4)))


def test_bending_keeps_the_mean_and_small_differences_and_stays_within_the_range():
    colours = Colours(np.array([1.0]), np.eye(1), np.array([0.0]), np.array([10.0]))
    x = torch.tensor([1.0, 1.001, 0.999, 1e6, -1e6, 4.0], dtype=torch.float64)
    bent = colours.bend(x.reshape(1, 1, 1, -1)).flatten()
    expected = [1, 1.001, 0.999, 10, 0, 1 + 9 * math.tanh(3 / 9)]
    np.testing.assert_allclose(bent, expected, atol=1e-9)


def test_clipping_cuts_each_channel_at_its_own_ends(colours):
    wide = 100 * torch.randn(2, 3, 5, 5)
    clipped = colours.clip(wide)
    low, high = clipped.amin(dim=(0, 2, 3)), clipped.amax(dim=(0, 2, 3))
    np.testing.assert_allclose(low, colours.low, rtol=1e-6)
    np.testing.assert_allclose(high, colours.high, rtol=1e-6)


# Parametrisations


@pytest.mark.parametrize("kind", [Pixels, Fourier])
@pytest.mark.parametrize("size", [(8, 8), (9, 7), (6, 11), (7, 10)])
def test_images_come_back_from_their_parameters(kind, size, colours):
    written = kind((3, *size), colours)
    images = torch.randn(2, 3, *size, dtype=torch.float64)
    parameters = written.parameters(images)
    assert written.start([1, 2], 1.0, parameters).shape == parameters.shape
    torch.testing.assert_close(written.images(parameters), images, rtol=0, atol=1e-12)


@pytest.mark.parametrize("size", [(8, 8), (9, 7)])
def test_fourier_is_the_formula_in_numpy(size, colours):
    height, width = size
    written = Fourier((3, height, width), colours)
    parameters = written.start([5], 1.0, torch.empty((), **DOUBLE))
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.fftfreq(width))
    scale = 1 / np.maximum(frequency, 1 / max(height, width))
    half = parameters[0].numpy() @ np.array([1, 1j]) * scale[:, : width // 2 + 1]
    white = np.fft.irfft2(half, s=size, norm="ortho")
    # The variance of a pixel, from its definition: every frequency twice but the self-conjugate.
    twice = np.full(width // 2 + 1, 2.0)
    twice[0] = 1.0
    if width % 2 == 0:
        twice[-1] = 1.0
    white /= np.sqrt(((scale[:, : width // 2 + 1] * twice) ** 2).sum() / (height * width))
    expected = np.einsum("dc,chw->dhw", colours.factor, white) + colours.mean[:, None, None]
    np.testing.assert_allclose(written.images(parameters)[0], expected, atol=1e-12)


@pytest.mark.parametrize("kind", [Pixels, Fourier])
def test_unit_noise_makes_images_with_the_colours_of_the_survey(kind, colours):
    written = kind((3, 9, 8), colours)
    parameters = written.start([key(n) for n in range(4000)], 1.0, torch.empty((), **DOUBLE))
    images = written.images(parameters).numpy()
    # At one pixel each, so that the images' own correlations don't matter.
    for y, x in ((0, 0), (4, 5)):
        found = np.cov(images[:, :, y, x].T)
        expected = colours.factor @ colours.factor.T
        np.testing.assert_allclose(found, expected, atol=0.08 * np.abs(expected).max())
        np.testing.assert_allclose(images[:, :, y, x].mean(axis=0), colours.mean, atol=0.1)


def test_fourier_noise_is_smooth_and_pixel_noise_is_not(colours):
    like = torch.empty((), **DOUBLE)
    variation = {}
    for kind in (Fourier, Pixels):
        written = kind((3, 32, 32), colours)
        images = written.images(written.start(range(20), 1.0, like))
        variation[kind] = float(total_variation(images).mean())
    assert variation[Fourier] < 0.6 * variation[Pixels]


@pytest.mark.parametrize("kind", [Pixels, Fourier])
def test_blurring_is_a_gaussian(kind, colours):
    size, sigma = 33, 1.5
    written = kind((3, size, size), colours)
    image = torch.zeros(1, 3, size, size, dtype=torch.float64)
    image[0, 1, 16, 16] = 1.0
    blurred = written.images(written.blurred(written.parameters(image), sigma))
    offset = np.arange(size) - 16
    line = np.exp(-0.5 * (offset / sigma) ** 2)
    line /= line.sum()
    np.testing.assert_allclose(blurred[0, 1], np.outer(line, line), atol=1e-6)
    np.testing.assert_allclose(blurred[0, 0], 0, atol=1e-12)


# Views


def view(shift=(0, 0), scale=1.0, angle=0.0):
    return View(np.array([shift]), np.array([scale]), np.array([angle]))


@given(
    shift=st.tuples(st.integers(-4, 4), st.integers(-4, 4)),
    pad=st.integers(0, 4),
    size=st.tuples(st.integers(1, 7), st.integers(1, 7)),
)
@settings(max_examples=50, deadline=None)
def test_a_shift_copies_pixels_exactly_and_fills_the_rest(shift, pad, size):
    canvas_size = (size[0] + 2 * pad, size[1] + 2 * pad)
    canvas = torch.arange(2 * math.prod(canvas_size)).reshape(1, 2, *canvas_size).double() + 100
    outside = np.array([-1.0, -2.0])
    seen = look(canvas, view(shift), size, outside)[0].numpy()
    for y in range(size[0]):
        for x in range(size[1]):
            source = (y + pad - shift[0], x + pad - shift[1])
            known = all(0 <= s < c for s, c in zip(source, canvas_size, strict=True))
            expected = canvas[0, :, *source].numpy() if known else outside
            assert (seen[:, y, x] == expected).all()


@pytest.mark.parametrize("quarters", [1, 2, 3])
def test_right_angles_turn_the_image(quarters):
    canvas = torch.randn(1, 3, 7, 7, dtype=torch.float64)
    seen = look(canvas, view(angle=math.radians(90 * quarters)), (7, 7), np.zeros(3))
    inner = (..., slice(1, 6), slice(1, 6))  # the outermost pixels leave by a rounding error
    expected = canvas.rot90(quarters, (2, 3))
    torch.testing.assert_close(seen[inner], expected[inner], rtol=0, atol=1e-12)


def test_views_keep_planes():
    """Bilinear sampling of a plane is exact, so each view of a plane is the plane's formula."""
    y, x = np.indices((21, 21)).astype(float)
    canvas = torch.tensor(2 * (y - 10) - 3 * (x - 10))[None, None]
    scale, angle = 1.1, 0.15
    seen = look(canvas, view((1, 2), scale, angle), (9, 9), np.zeros(1))[0, 0].numpy()
    y, x = np.indices((9, 9)).astype(float) - 4
    cos, sin = math.cos(angle) / scale, math.sin(angle) / scale
    expected = 2 * (cos * y + sin * x - 1) - 3 * (cos * x - sin * y - 2)
    np.testing.assert_allclose(seen, expected, atol=1e-12)


def test_each_row_has_a_view_of_its_own():
    canvas = torch.randn(3, 2, 8, 8, dtype=torch.float64)
    drawn = Views(3, 0.1, 10.0).draw([4, 5, 6], 2)[1]
    together = look(canvas, drawn, (6, 6), np.zeros(2))
    for row in range(3):
        alone = View(drawn.shift[row, None], drawn.scale[row, None], drawn.angle[row, None])
        torch.testing.assert_close(
            look(canvas[row, None], alone, (6, 6), np.zeros(2))[0], together[row], rtol=0, atol=0
        )


def test_looking_agrees_with_torchs_grid_sample():
    canvas = torch.randn(1, 3, 16, 16, dtype=torch.float64, requires_grad=True)
    scale, angle = 0.93, -0.1
    cos, sin = math.cos(angle) / scale, math.sin(angle) / scale
    theta = torch.tensor([[[cos, -sin, -2 * 2 / 16], [sin, cos, 2 * 1 / 16]]], **DOUBLE)
    grid = nn.functional.affine_grid(theta, [1, 3, 16, 16], align_corners=False)
    expected = nn.functional.grid_sample(canvas, grid, align_corners=False)
    seen = look(canvas, view((-1, 2), scale, angle), (16, 16), np.zeros(3))
    torch.testing.assert_close(seen, expected, rtol=0, atol=1e-12)
    weights = torch.randn_like(seen)
    gradients = [torch.autograd.grad((s * weights).sum(), canvas)[0] for s in (seen, expected)]
    torch.testing.assert_close(*gradients, rtol=0, atol=1e-12)


def test_draws_fill_their_ranges_and_follow_from_key_and_step_alone():
    views = Views(8, 0.1, 10.0)
    drawn = views.draw([11, 12], 2000)
    shift = np.stack([v.shift for v in drawn])
    assert (shift.min(), shift.max()) == (-8, 8)
    assert len(np.unique(shift)) == 17
    scale, angle = (np.stack([getattr(v, n) for v in drawn]) for n in ("scale", "angle"))
    assert 0.9 <= scale.min() < 0.901
    assert 1.099 < scale.max() <= 1.1
    assert 9.9 < np.rad2deg(np.abs(angle).max()) <= 10
    again = views.draw([12], 7)[6]
    assert again.shift[0].tolist() == drawn[6].shift[1].tolist()
    assert (again.scale[0], again.angle[0]) == (drawn[6].scale[1], drawn[6].angle[1])
    still = Views(0, 0.0, 0.0).draw([1], 3)[2]
    assert (still.shift == 0).all()
    assert (still.scale, still.angle) == (1.0, 0.0)


# Class images


def drawn(network, classes, shape, colours=None, keys=None, **parameters):
    keys = list(range(len(classes))) if keys is None else keys
    colours = colours or Colours.unknown(shape[0])
    return ClassImage(**parameters).draw(network, classes, keys, shape, colours, **DOUBLE)


@pytest.mark.parametrize(
    ("parametrisation", "optimiser", "rate", "steps", "tolerance"),
    [
        ("pixel", "ascent", 0.5, 30, 1e-9),
        ("pixel", "adam", 0.05, 300, 1e-3),
        ("fourier", "adam", 0.05, 400, 0.02),
    ],
)
def test_a_linear_score_has_its_optimum_at_w_over_2_lambda(
    linear, parametrisation, optimiser, rate, steps, tolerance
):
    network, weights = linear
    found = drawn(
        network,
        [0, 2],
        (2, 5, 6),
        parametrisation=parametrisation,
        optimiser=optimiser,
        rate=rate,
        steps=steps,
        bounded=False,
        l2=0.7,
        **STILL,
    )
    np.testing.assert_allclose(found.image, weights[[0, 2]] / (2 * 0.7), atol=tolerance)
    bias = network[1].bias.detach()[[0, 2]].numpy()
    best = (weights[[0, 2]] ** 2).sum(dim=(1, 2, 3)).numpy() / 1.4 + bias
    np.testing.assert_allclose(found.logit, best, rtol=tolerance)
    np.testing.assert_allclose(found.score[:, -1], found.logit, rtol=tolerance)


def test_the_probability_is_that_of_the_stored_image(network, colours):
    found = drawn(network, [0, 3], (3, 10, 10), colours, steps=5)
    logits = network(torch.from_numpy(found.image))
    np.testing.assert_allclose(found.logit, logits[[0, 1], [0, 3]], rtol=1e-12)
    np.testing.assert_allclose(found.probability, logits.softmax(dim=1)[[0, 1], [0, 3]], rtol=1e-12)


@pytest.mark.parametrize("parametrisation", ["fourier", "pixel"])
def test_the_score_rises_and_the_image_stays_in_the_surveys_range(
    network, colours, parametrisation
):
    found = drawn(
        network, [0, 1, 2, 3], (3, 16, 16), colours, parametrisation=parametrisation, steps=60
    )
    assert (found.score[:, -1] > found.score[:, 0]).all()
    assert (found.logit > found.score[:, 0]).all()
    low, high = colours.low[:, None, None], colours.high[:, None, None]
    assert ((found.image >= low) & (found.image <= high)).all()
    assert found.image.shape == (4, 3, 16, 16)


def test_unbounded_images_leave_the_range_and_bounds_need_a_survey(network, colours):
    free = drawn(network, [0], (3, 8, 8), colours, steps=200, rate=0.5, bounded=False, **STILL)
    assert free.image.max() > colours.high.max()
    with pytest.raises(ValueError, match="valid range, and no survey is given: set bounded false"):
        drawn(network, [0], (3, 8, 8))


def test_the_weights_of_the_penalties_lower_what_they_weigh(network, colours):
    for name, measure in (("l2", squared_norm), ("total_variation", total_variation)):
        sizes = [
            float(
                measure(
                    torch.from_numpy(
                        drawn(
                            network,
                            [1],
                            (3, 12, 12),
                            colours,
                            parametrisation="pixel",
                            steps=80,
                            noise=0.5,
                            bounded=False,
                            **{name: weight},
                        ).image
                    )
                )
            )
            for weight in (0.0, 1e-3, 1e-1)
        ]
        assert sizes[0] > sizes[1] > sizes[2], name


def test_penalties_by_hand():
    image = torch.tensor([[1.0, 3.0], [0.0, 7.0]])[None, None]
    assert squared_norm(image).tolist() == [59.0]
    assert total_variation(image).tolist() == [1 + 4 + 2 + 7]


def test_blurs_smooth_the_image(network, colours):
    options = {"parametrisation": "pixel", "steps": 40, "noise": 1.0, "bounded": False}
    sharp, smooth = (
        drawn(network, [2], (3, 12, 12), colours, blur_every=every, blur_sigma=1.0, **options).image
        for every in (0, 4)
    )
    variation = [float(total_variation(torch.from_numpy(i))) for i in (sharp, smooth)]
    assert variation[1] < 0.5 * variation[0]


def test_rows_follow_from_their_class_and_key_alone(network, colours):
    together = drawn(network, [0, 1, 1], (3, 8, 8), colours, keys=[7, 8, 9], steps=6)
    other = drawn(network, [3, 1, 2], (3, 8, 8), colours, keys=[1, 8, 2], steps=6)
    assert (together.image[1] == other.image[1]).all()
    assert (together.score[1] == other.score[1]).all()
    assert not (together.image[1] == together.image[2]).all()


def test_the_blocks_of_the_history_cover_all_steps():
    for steps in (1, 5, 64, 65, 130, 512):
        ends = ClassImage(steps=steps).block_ends
        assert ends[-1] == steps
        assert len(ends) == min(steps, 64)
        assert (np.diff([0, *ends]) >= 1).all()


def test_passes_are_counted_as_predicted(network, colours):
    passes = Passes()
    kind = ClassImage(steps=7)
    kind.draw(network, [0, 1], [0, 1], (3, 8, 8), colours, passes=passes, **DOUBLE)
    assert (passes.forward, passes.backward) == tuple(2 * n for n in kind.passes)
    passes = Passes()
    dream = DeepDream(layer="2", octaves=2, iterations=3)
    dream.dream(network, torch.zeros(2, 3, 9, 9, **DOUBLE), [0, 1], colours, passes=passes)
    assert (passes.forward, passes.backward) == tuple(2 * n for n in dream.passes)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"parametrisation": "wavelet"}, "parametrisation is 'wavelet'; choose fourier or pixel"),
        ({"optimiser": "sgd"}, "optimiser is 'sgd'; choose adam or ascent"),
        ({"steps": 0}, "steps is 0; take 1 or more"),
        ({"rate": 0.0}, "rate is 0.0; choose a number above 0"),
        ({"l2": -1.0}, "l2 is -1.0; choose 0 or more"),
        ({"jitter": -1}, "jitter is -1; choose 0 or more"),
        ({"rotate": math.nan}, "rotate is nan; choose 0 or more"),
        ({"scale": 1.0}, "scale is 1.0; zoom by less than 1"),
    ],
)
def test_class_images_refuse_what_makes_no_sense(parameters, message):
    with pytest.raises(ValueError, match=message):
        ClassImage(**parameters)


# Dreams


def test_octaves_shrink_by_their_scale():
    assert DeepDream(layer="x").octave_sizes(224, 160) == [
        (82, 58),
        (114, 82),
        (160, 114),
        (224, 160),
    ]
    assert DeepDream(layer="x", octaves=1).octave_sizes(7, 9) == [(7, 9)]
    assert DeepDream(layer="x", octaves=9).octave_sizes(3, 3)[0] == (1, 1)


def test_one_step_is_the_formula(linear):
    """Of a linear score: step * range / 255 * w / mean |w|, wherever it starts."""
    network, weights = linear
    colours = Colours(np.zeros(2), np.eye(2), np.full(2, -50.0), np.full(2, 52.0))
    start = torch.randn(1, 2, 5, 6, **DOUBLE)
    dream = DeepDream(target=1, octaves=1, iterations=1, jitter=0)
    found = dream.dream(network, start, [3], colours)
    expected = start[0] + 1.5 * 102 / 255 * weights[1] / weights[1].abs().mean()
    np.testing.assert_allclose(found.image[0], expected, atol=1e-12)
    np.testing.assert_allclose(found.start_score, network(start)[:, 1].detach(), rtol=1e-12)


def test_one_step_for_a_layer_follows_the_gradient_of_its_norm():
    """Of a = w . x at each pixel: the gradient is proportional to a w, whatever the sign of a."""
    network = nn.Sequential(nn.Conv2d(2, 1, 1, bias=False)).double().requires_grad_(False)
    weights = network[0].weight[0]
    colours = Colours(np.zeros(2), np.eye(2), np.full(2, -999.0), np.full(2, 999.0))
    start = torch.randn(1, 2, 6, 5, **DOUBLE)
    dream = DeepDream(layer="0", octaves=1, iterations=1, jitter=0, step=0.1)
    gradient = (start[0] * weights).sum(dim=0) * weights
    expected = start[0] + 0.1 * (2 * 999 / 255) * gradient / gradient.abs().mean()
    found = dream.dream(network, start, [1], colours)
    np.testing.assert_allclose(found.image[0], expected, atol=1e-12)


def test_the_detail_of_each_octave_goes_into_the_next(formula):
    """A mean of pixels has the same gradient everywhere: every step adds the same constant."""
    weights = torch.tensor([1.0, -3.0], **DOUBLE)
    network = formula(lambda x: (x.mean(dim=(2, 3)) @ weights)[:, None])
    colours = Colours(np.zeros(2), np.eye(2), np.full(2, -999.0), np.full(2, 999.0))
    start = torch.randn(1, 2, 20, 17, **DOUBLE)
    found = DeepDream(target=0, octaves=3, iterations=4).dream(network, start, [1], colours)
    added = 3 * 4 * 1.5 * (2 * 999 / 255) * weights / 2
    expected = start[0] + added[:, None, None]
    np.testing.assert_allclose(found.image[0], expected, atol=1e-9)


def test_jitter_moves_the_image_and_moves_it_back(linear):
    network, weights = linear
    colours = Colours(np.zeros(2), np.eye(2), np.full(2, -50.0), np.full(2, 50.0))
    start = torch.randn(1, 2, 5, 6, **DOUBLE)
    dream = DeepDream(target=1, octaves=1, iterations=1, jitter=2)
    step = weights[1] / weights[1].abs().mean() * 1.5 * 100 / 255
    seen = set()
    for number in range(12):
        change = dream.dream(network, start, [key(number)], colours).image[0] - start[0].numpy()
        shifts = [
            (y, x)
            for y in range(-2, 3)
            for x in range(-2, 3)
            if np.allclose(step.roll((y, x), dims=(1, 2)), change, atol=1e-12)
        ]
        assert len(shifts) == 1
        seen.update(shifts)
    assert len(seen) > 5


@pytest.mark.parametrize("channel", [None, 5])
@pytest.mark.parametrize("shape", [(3, 24, 24), (3, 19, 30)])
def test_a_dream_raises_the_norm_of_its_layer_and_keeps_shape_and_range(
    network, colours, channel, shape
):
    dream = DeepDream(layer="3", channel=channel)
    starts = dream.noise([1, 2], shape, colours)
    found = dream.dream(network, starts, [1, 2], colours)
    assert found.image.shape == starts.shape
    output = network[:4](starts)
    output = output if channel is None else output[:, channel]
    np.testing.assert_allclose(found.start_score, output.flatten(1).norm(dim=1), rtol=1e-12)
    assert (found.score > 1.1 * found.start_score).all()
    low, high = colours.low[:, None, None], colours.high[:, None, None]
    assert ((found.image >= low) & (found.image <= high)).all()
    assert (found.image == found.image.clip(low, high)).all()


def test_a_dream_raises_the_logit_of_its_class(network, colours):
    dream = DeepDream(target=2, octaves=2)
    starts = dream.noise([1, 2], (3, 16, 16), colours)
    found = dream.dream(network, starts, [1, 2], colours)
    assert (found.score > found.start_score).all()
    np.testing.assert_allclose(found.score, network(torch.from_numpy(found.image))[:, 2])


def test_dreams_follow_from_their_start_and_key_alone(network, colours):
    dream = DeepDream(layer="0", octaves=2, iterations=3)
    starts = dream.noise([1, 2], (3, 12, 12), colours)
    both = dream.dream(network, starts, [1, 2], colours)
    other = dream.dream(network, torch.stack([starts[1] * 2, starts[1]]), [5, 2], colours)
    assert (both.image[1] == other.image[1]).all()
    moved = dream.dream(network, starts, [1, 3], colours)
    assert not (both.image[1] == moved.image[1]).all()


def test_an_image_that_excites_nothing_stays_as_it_is(colours):
    dead = nn.Sequential(nn.Conv2d(3, 2, 1), nn.ReLU()).double().requires_grad_(False)
    dead[0].weight.zero_()
    dead[0].bias.fill_(-1.0)
    dream = DeepDream(layer="1", octaves=1)
    starts = dream.noise([1], (3, 8, 8), colours)
    found = dream.dream(dead, starts, [1], colours)
    np.testing.assert_array_equal(found.image, starts)
    assert found.score == found.start_score == 0


def test_a_pass_ends_at_the_layer_and_leaves_no_hook(network):
    ran = []
    handle = network[4].register_forward_hook(lambda *_: ran.append(1))
    image = torch.randn(1, 3, 8, 8, **DOUBLE)
    output = output_of(network, "2", image)
    handle.remove()
    torch.testing.assert_close(output, network[:3](image), rtol=0, atol=0)
    assert ran == []
    assert not network[2]._forward_hooks


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({}, "a dream ascends a layer or a target class: name one"),
        ({"layer": "a", "target": 1}, "a dream ascends a layer or a target class: name one"),
        ({"target": 1, "channel": 2}, "channel 2 is of no layer; name the layer"),
        ({"layer": "a", "octaves": 0}, "octaves is 0; choose 1 or more"),
        ({"layer": "a", "step": 0.0}, "step is 0.0; choose a number above 0"),
        ({"layer": "a", "octave_scale": 1.0}, "octave_scale is 1.0; choose a number above 1"),
    ],
)
def test_dreams_refuse_what_makes_no_sense(parameters, message):
    with pytest.raises(ValueError, match=message):
        DeepDream(**parameters)


def test_dreams_check_the_network(network, linear):
    DeepDream(layer="2").check(network, (3, 20, 20))
    with pytest.raises(ValueError, match="layer '22': the network has no such layer"):
        DeepDream(layer="22").check(network, (3, 20, 20))
    with pytest.raises(ValueError, match="channel is 8, layer '2' has channels 0 to 7"):
        DeepDream(layer="2", channel=8).check(network, (3, 20, 20))
    fixed, _ = linear
    with pytest.raises(ValueError, match=r"accept the octave of 2 x 2 px .*set octaves to"):
        DeepDream(target=0).check(fixed, (2, 5, 6))
    DeepDream(target=0, octaves=1).check(fixed, (2, 5, 6))


def test_a_real_network_draws_in_float32():
    torch.manual_seed(0)
    network = build("occulta:small_cnn", 3, 2).eval()
    colours = survey_colours(survey(2))
    found = ClassImage(steps=4).draw(network, [2], [1], (2, 32, 32), colours)
    assert found.image.dtype == np.float32
    assert all(parameter.grad is None for parameter in network.parameters())
