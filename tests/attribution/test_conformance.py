"""Every method of the package keeps every promise of a method."""

from conformance.methods import MethodConformance
from hypothesis import strategies as st

from attribution import (
    GradientXInput,
    IntegratedGradients,
    MCDropout,
    Occlusion,
    Prediction,
    Saliency,
)

RULES = ["gauss_legendre", "midpoint", "trapezoid", "riemann_left", "riemann_right"]


class TestPrediction(MethodConformance):
    methods = st.just(Prediction())


class TestGradientXInput(MethodConformance):
    methods = st.just(GradientXInput())


class TestSaliency(MethodConformance):
    methods = st.just(Saliency())


class TestIntegratedGradients(MethodConformance):
    methods = st.one_of(
        st.builds(
            IntegratedGradients,
            steps=st.integers(2, 22),
            rule=st.sampled_from(RULES),
            baseline=st.sampled_from(["black", 0.5, (0.5, -1.0), "image_mean", "blur"]),
            blur_sigma=st.just(1.5),
            tolerance=st.sampled_from([None, 0.02, 0.3]),
            max_steps=st.just(44),
        ),
        st.builds(
            IntegratedGradients,
            steps=st.integers(2, 9),
            baseline=st.just("sky_noise"),
            draws=st.integers(1, 4),
        ),
    )


@st.composite
def occlusions(draw):
    window = draw(st.tuples(st.integers(1, 9), st.integers(1, 8)))
    stride = tuple(draw(st.integers(1, size)) for size in window)
    fill = draw(st.sampled_from([0.0, 0.5, (0.25, -1.0)]))
    return Occlusion(window, stride, fill, draw(st.sampled_from(["logit", "probability"])))


class TestOcclusion(MethodConformance):
    methods = occlusions()


class TestMCDropout(MethodConformance):
    methods = st.builds(
        MCDropout, samples=st.integers(2, 22), masks=st.sampled_from(["per_object", "consistent"])
    )
