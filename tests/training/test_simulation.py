from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from training.simulation import CLASSES, SURVEYS, SeeingPattern, SkyPatch, blur, simulate

A, B = SURVEYS["A"], SURVEYS["B"]


def test_an_object_is_the_same_in_every_block():
    whole = simulate(A, 3, range(8))
    for indices in ([5], [7, 5, 2], range(4, 8)):
        part = simulate(A, 3, indices)
        for row, index in enumerate(indices):
            assert part.images[row].tobytes() == whole.images[index].tobytes()
            assert part.bar_mask[row].tobytes() == whole.bar_mask[index].tobytes()
            assert part.arm_mask[row].tobytes() == whole.arm_mask[index].tobytes()
            for name, column in part.columns.items():
                assert column[row].tobytes() == whole.columns[name][index].tobytes(), name


@pytest.mark.parametrize("other", [(A, 4), (B, 3)], ids=["seed", "survey"])
def test_another_seed_or_survey_gives_other_objects(other):
    first, second = simulate(A, 3, range(4)), simulate(*other, range(4))
    assert not np.isin(first.columns["ra"], second.columns["ra"]).any()
    assert not np.isin(first.columns["axis_ratio"], second.columns["axis_ratio"]).any()


def test_shapes_types_and_ids():
    block = simulate(replace(A, bands=("g", "z"), noise=(0.1, 0.1), size=33), 0, [0, 123])
    assert block.images.shape == (2, 2, 33, 33)
    assert block.images.dtype == np.float32
    assert block.bar_mask.shape == block.arm_mask.shape == (2, 33, 33)
    assert block.columns["id"].tolist() == ["A-0000000", "A-0000123"]
    assert np.isfinite(block.images).all()
    empty = simulate(A, 0, [])
    assert empty.images.shape == (0, 3, 64, 64)
    assert empty.columns["ra"].shape == (0,)


def test_every_class_is_present_in_its_share_with_its_truth():
    block = simulate(replace(A, size=32), 1, range(400))
    label = block.columns["label"]
    for name in CLASSES:
        assert 60 < (label == name).sum() < 140
    has_bar, has_arms = block.bar_mask.any((1, 2)), block.arm_mask.any((1, 2))
    np.testing.assert_array_equal(has_bar, label == "barred")
    np.testing.assert_array_equal(np.isfinite(block.columns["bar_position_angle"]), has_bar)
    assert has_arms[label == "spiral"].all()
    assert not has_arms[(label == "smooth") | (label == "edge_on")].any()
    assert block.columns["axis_ratio"][label == "edge_on"].max() < 0.3


def test_a_class_without_a_share_never_comes():
    model = replace(A, size=32, class_mix=(0.5, 0.0, 0.0, 0.5))
    assert set(simulate(model, 1, range(60)).columns["label"]) == {"smooth", "edge_on"}


@pytest.mark.parametrize("fwhm", [2.5, 3.3, 5.0])
def test_psf_has_its_full_width_at_half_maximum_and_keeps_flux(fwhm):
    point = np.zeros((1, 128, 128), dtype=np.float32)
    point[0, 64, 64] = 1.0
    image = blur(point, fwhm)[0]
    assert image.sum() == pytest.approx(1.0, abs=1e-5)
    profile = image[64, 64:]
    outside = int(np.argmax(profile < profile[0] / 2))
    # The logarithm of a Gaussian is straight in the squared radius.
    around = np.arange(outside + 1, outside - 2, -1)
    crossing = np.interp(np.log(profile[0] / 2), np.log(profile[around]), around.astype(float) ** 2)
    assert 2 * np.sqrt(crossing) == pytest.approx(fwhm, rel=0.02)


def test_sky_noise_has_its_standard_deviation_in_each_band():
    model = replace(A, size=128, radius=0.5, star_density=0.0)
    corners = simulate(model, 2, range(4)).images[:, :, :24, :24]
    measured = corners.transpose(1, 0, 2, 3).reshape(3, -1).std(axis=1)
    np.testing.assert_allclose(measured, A.noise, rtol=0.05)


def test_seeing_follows_the_pattern_on_the_sky():
    columns = simulate(replace(A, size=32), 5, range(300)).columns
    pattern = A.seeing_at(columns["ra"], columns["dec"])
    scatter = np.log(columns["seeing"] / pattern)
    assert scatter.std() == pytest.approx(A.seeing_scatter, rel=0.2)
    assert np.log(pattern).std() > 3 * scatter.std()
    assert np.median(columns["seeing"]) == pytest.approx(A.seeing, rel=0.15)
    # Worse seeing spreads a point source over more sky noise.
    assert np.corrcoef(columns["seeing"], columns["depth"])[0, 1] < -0.99


def test_seeing_is_smooth_across_ra_zero():
    pattern = SeeingPattern()
    west, east = pattern.factor(np.array([359.999, 0.001]), np.array([5.0, 5.0]))
    assert west == pytest.approx(east, rel=1e-4)


def test_depth_is_that_of_a_point_source_at_five_sigma():
    block = simulate(replace(A, seeing_scatter=0.0), 0, [0])
    seeing, depth = block.columns["seeing"][0], block.columns["depth"][0]
    area = 4.0 * np.pi * (seeing / 2.3548 / A.pixel_scale) ** 2
    signal_to_noise = 10 ** (0.4 * (22.5 - depth)) / (A.noise[1] * np.sqrt(area))
    assert signal_to_noise == pytest.approx(5.0, rel=1e-3)


def test_objects_fill_the_footprint_evenly_and_stay_inside():
    columns = simulate(replace(B, size=32), 0, range(500)).columns
    inside = [patch.contains(columns["ra"], columns["dec"]) for patch in B.footprint]
    assert np.any(inside, axis=0).all()
    assert ((columns["ra"] >= 0) & (columns["ra"] < 360)).all()
    expected = B.footprint[0].area / sum(patch.area for patch in B.footprint)
    assert inside[0].mean() == pytest.approx(expected, abs=0.06)
    # Half of a patch's area lies below the latitude whose sine is the mean of its edges'.
    middle = np.rad2deg(np.arcsin(np.sin(np.deg2rad([-60.0, -25.0])).mean()))
    assert (columns["dec"][inside[0]] < middle).mean() == pytest.approx(0.5, abs=0.07)


def test_footprints_overlap_in_part():
    def overlap(first, second):
        columns = simulate(replace(first, size=32), 0, range(300)).columns
        return np.any([p.contains(columns["ra"], columns["dec"]) for p in second.footprint], axis=0)

    assert 0.02 < overlap(A, B).mean() < 0.5


def test_the_whole_circle_and_a_patch_across_ra_zero_have_their_area():
    assert SkyPatch(0.0, 360.0, -90.0, 90.0).area == pytest.approx(41252.96, rel=1e-6)
    assert SkyPatch(350.0, 10.0, 0.0, 10.0).width == 20.0


def test_digest_tells_models_apart():
    assert A.digest() == replace(A).digest()
    assert len({A.digest(), B.digest(), replace(A, seeing=1.31).digest()}) == 3


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"pixel_scale": 0.0}, "pixel_scale = 0.0 must be positive"),
        ({"size": 8}, "size = 8 is too small"),
        ({"bands": ("g", "q", "z")}, "bands = .* must be some of: u, g, r, i, z"),
        ({"noise": (0.1,)}, "noise = .* needs a number >= 0 for each"),
        ({"footprint": ()}, "footprint = .* needs at least one patch"),
        ({"class_mix": (0.5, 0.5, 0.5, -0.5)}, "class_mix = .* shares"),
        ({"magnitudes": (19.0, 17.0)}, "brightest .* first"),
        ({"seeing": float("nan")}, "seeing = nan must be positive"),
    ],
)
def test_a_meaningless_model_is_refused(change, match):
    with pytest.raises(ValueError, match=match):
        replace(A, **change)


@pytest.mark.parametrize(("seed", "indices"), [(-1, [0]), (0, [-3]), (2**63, [0])])
def test_seeds_and_indices_out_of_range_are_refused(seed, indices):
    with pytest.raises(ValueError, match="is out of range; use 0 to"):
        simulate(A, seed, indices)


@pytest.mark.parametrize(
    "edges", [(-10.0, 10.0, 0.0, 5.0), (0.0, 10.0, 5.0, 5.0), (0.0, 10.0, 0.0, 95.0)]
)
def test_an_impossible_patch_is_refused(edges):
    with pytest.raises(ValueError, match="sky patch"):
        SkyPatch(*edges)
