import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from attribution import Layout, round_mantissa

reproducibly = settings(deadline=None, derandomize=True)
any_float32 = arrays(np.float32, array_shapes(min_dims=0, max_dims=3), elements=st.floats(width=32))


@reproducibly
@given(any_float32, st.integers(1, 23))
def test_trailing_bits_are_zero_and_rounding_twice_changes_nothing(values, bits):
    rounded = round_mantissa(values, bits)
    assert rounded.shape == values.shape
    assert rounded.dtype == np.float32
    finite = np.isfinite(values)
    dropped = np.uint32((1 << (23 - bits)) - 1)
    assert not (np.asarray(rounded).view(np.uint32)[finite] & dropped).any()
    np.testing.assert_array_equal(round_mantissa(rounded, bits), rounded)


@reproducibly
@given(any_float32)
def test_nan_infinity_and_the_sign_are_kept(values):
    rounded = round_mantissa(values)
    odd = ~np.isfinite(values)
    np.testing.assert_array_equal(rounded[odd], values[odd])
    np.testing.assert_array_equal(np.signbit(rounded), np.signbit(values))


@reproducibly
@given(any_float32)
def test_the_relative_error_is_at_most_2_to_the_minus_11(values):
    # Above this the nearest value with 10 bits is infinity; subnormal numbers have fewer bits.
    largest = np.float32((2 - 2.0**-11) * 2.0**127)
    normal = (np.abs(values) < largest) & (np.abs(values) >= np.finfo(np.float32).tiny)
    exact = values[normal].astype(np.float64)
    error = np.abs(round_mantissa(values)[normal].astype(np.float64) - exact)
    assert (error <= 2.0**-11 * np.abs(exact)).all()


def test_half_goes_to_even_and_all_bits_are_kept_on_request():
    step = np.float32(2.0**-10)
    values = 1 + np.array([0.5, 1.5, 0.75, 0.25], np.float32) * step
    np.testing.assert_array_equal(round_mantissa(values), [1, 1 + 2 * step, 1 + step, 1])
    np.testing.assert_array_equal(round_mantissa(values, 23), values)


def test_strided_and_wider_input_is_rounded_too():
    values = np.linspace(0, 1, 40).reshape(4, 10)
    expected = round_mantissa(values.astype(np.float32))
    np.testing.assert_array_equal(round_mantissa(values.astype(np.float32).T), expected.T)
    assert round_mantissa(values).dtype == np.float32
    np.testing.assert_array_equal(round_mantissa(values), expected)


@pytest.mark.parametrize(
    ("channels", "dims", "shape"),
    [
        ("sum", ("target", "y", "x"), (2, 5, 6)),
        ("keep", ("target", "channel", "y", "x"), (2, 3, 5, 6)),
    ],
)
def test_a_layout_reduces_maps_to_the_shape_it_names(channels, dims, shape):
    layout = Layout((3, 5, 6), classes=4, targets=2, channels=channels)
    attribution = np.arange(7 * 2 * 3 * 5 * 6, dtype=float).reshape(7, 2, 3, 5, 6)
    assert layout.map_dims == dims
    assert layout.map_shape == shape
    assert layout.reduce(attribution).shape == (7, *shape)
    assert layout.reduce(attribution).sum() == attribution.sum()
