import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from attribution.summary import summarise, summary_arrays


def described(*maps):
    """Describe maps (H, W), one object each."""
    return {name: values[:, 0] for name, values in summarise(np.stack(maps)[:, None]).items()}


def test_a_single_bright_pixel():
    image = np.zeros((9, 11))
    image[4, 8] = -3.0
    found = described(image)
    assert found["total"] == -3
    assert found["gini"] == pytest.approx(1)
    assert found["centroid_offset"] == pytest.approx(3)
    assert found["half_light_radius"] == pytest.approx(3)
    assert found["asymmetry"] == pytest.approx(1)


def test_an_even_map():
    found = described(np.full((8, 6), 0.25))
    assert found["total"] == 12
    assert found["gini"] == pytest.approx(0, abs=1e-12)
    assert found["centroid_offset"] == pytest.approx(0, abs=1e-12)
    assert found["asymmetry"] == 0


def test_asymmetry_of_symmetric_and_antisymmetric_maps():
    image = np.random.default_rng(0).normal(size=(7, 8))
    turned = image[::-1, ::-1]
    symmetric, antisymmetric = described(image + turned, image - turned)["asymmetry"]
    assert symmetric == 0
    assert antisymmetric == pytest.approx(1)


def test_half_light_radius_of_a_disk():
    y, x = np.mgrid[:101, :101] - 50
    found = described((np.hypot(y, x) <= 40).astype(float))
    assert found["half_light_radius"] == pytest.approx(40 / np.sqrt(2), abs=0.5)
    assert found["gini"] == pytest.approx(1 - np.pi * 40**2 / 101**2, abs=0.01)


def test_centroid_is_weighted_by_the_absolute_value():
    image = np.zeros((5, 5))
    image[0, 2], image[4, 2], image[2, 4] = 1, -1, 2
    assert described(image)["centroid_offset"] == pytest.approx(1)


def test_gini_of_a_known_distribution():
    # Mean absolute difference of (1, 2, 3, 4) is 5/3 over unlike pairs; twice the mean is 5.
    assert described(np.array([[1.0, -2.0], [4.0, -3.0]]))["gini"] == pytest.approx(1 / 3)


def test_nan_stays_nan_and_a_map_of_zeros_has_no_shape():
    empty, unknown = np.zeros((4, 5)), np.full((4, 5), np.nan)
    for values in described(empty, unknown).values():
        assert values[0] == 0
        assert np.isnan(values[1])


@settings(deadline=None, derandomize=True)
@given(
    arrays(np.float32, (2, 3, 4, 5), elements=st.floats(-1e6, 1e6, width=32)), st.floats(0.1, 10)
)
def test_shape_numbers_are_bounded_and_do_not_depend_on_scale(values, scale):
    found, scaled = summarise(values), summarise(values * np.float64(scale))
    assert list(found) == [spec.name for spec in summary_arrays(targets=3)]
    for spec in summary_arrays(targets=3):
        assert found[spec.name].shape == (2, *spec.shape)
    for name, limit in {"gini": 1, "asymmetry": 1, "centroid_offset": 2.5}.items():
        assert (found[name] >= -1e-12).all()
        assert (found[name] <= limit + 1e-12).all()
        np.testing.assert_allclose(scaled[name], found[name], rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(
        scaled["total"], scale * found["total"], rtol=1e-9, atol=1e-9 * np.abs(values).sum()
    )
