from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs.errors import RefusedError
from jobs.specs.survey import PreprocessSpec
from jobs.survey.preprocess import Preprocess

IMAGE = np.random.default_rng(3).normal(size=(3, 12, 10)).astype(np.float32)


def prepared(image: np.ndarray = IMAGE, **spec: object) -> np.ndarray:
    return Preprocess(PreprocessSpec.model_validate(spec), len(image)).apply(image)


def test_the_default_changes_nothing() -> None:
    assert np.array_equal(prepared(), IMAGE)


def test_stretch_then_normalise() -> None:
    mean, std = [0.3, 0.5, 0.6], [0.7, 0.9, 1.1]
    result = prepared(stretch="asinh", scale=0.1, mean=mean, std=std)
    exact = np.arcsinh(IMAGE.astype(np.float64) / 0.1)
    exact = (exact - np.reshape(mean, (3, 1, 1))) / np.reshape(std, (3, 1, 1))
    assert result.dtype == np.float32
    assert np.allclose(result, exact, rtol=1e-5, atol=1e-6)
    assert np.allclose(prepared(scale=4.0), IMAGE / 4, rtol=1e-6)


@pytest.mark.parametrize(("size", "shape"), [(24, (24, 24)), ([5, 9], (5, 9)), (6, (6, 6))])
def test_resizing(size: object, shape: tuple[int, int]) -> None:
    result = prepared(size=size)
    assert result.shape == (3, *shape)
    assert result.flags.c_contiguous
    flat = prepared(np.full((1, 12, 10), 2.5, dtype=np.float32), size=size)
    assert np.allclose(flat, 2.5, rtol=1e-6)


def test_halving_averages_with_the_weights_of_a_triangle() -> None:
    # Shrunk by two, the antialiasing triangle is four pixels wide: 1/8, 3/8, 3/8, 1/8.
    row = np.arange(12, dtype=np.float32)
    row[5] = 100.0
    image = np.tile(row, (1, 12, 1))
    result = prepared(image, size=6)
    expected = np.array([0.125, 0.375, 0.375, 0.125]) @ row[3:7]
    assert np.allclose(result[0, :, 2], expected, rtol=1e-6)


def test_resizing_comes_before_the_stretch() -> None:
    result = prepared(size=6, stretch="asinh", scale=0.2)
    assert np.array_equal(result, np.arcsinh(prepared(size=6) / np.float32(0.2)))


def test_the_cutout_stays_as_it_is_and_may_be_read_only() -> None:
    image = IMAGE.copy()
    image.flags.writeable = False
    assert np.array_equal(prepared(image, size=7), prepared(size=7))
    prepared(image, stretch="asinh", scale=0.1, mean=[1, 1, 1])
    assert np.array_equal(image, IMAGE)


@given(st.integers(2, 30), st.integers(2, 30), st.integers(1, 4))
def test_shape_and_repeatability(height: int, width: int, bands: int) -> None:
    image = np.random.default_rng(height).normal(size=(bands, height, width)).astype(np.float32)
    spec = PreprocessSpec(size=(11, 8), stretch="asinh", scale=0.5)
    preprocess = Preprocess(spec, bands)
    assert preprocess.output_shape((height, width)) == (11, 8)
    result = preprocess.apply(image)
    preprocess.apply(-image)
    assert result.shape == (bands, 11, 8)
    assert preprocess.apply(image).tobytes() == result.tobytes()


def test_native_keeps_the_shape() -> None:
    assert Preprocess(PreprocessSpec(), 3).output_shape((12, 10)) == (12, 10)
    assert Preprocess(PreprocessSpec(size=9), 3).output_shape((12, 10)) == (9, 9)


@pytest.mark.parametrize("name", ["mean", "std"])
def test_another_number_of_bands_is_refused(name: str) -> None:
    message = f"preprocess.{name} has 2 values where the network has 3 bands; give one per band"
    with pytest.raises(RefusedError, match=message):
        prepared(**{name: [1.0, 2.0]})
