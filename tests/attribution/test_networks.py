"""Every method on every kind of network that users bring: defined and cut anywhere, or refused.

`make test` runs every method on three networks, and some on the others; `make test-all` runs all.
"""

from functools import cache, lru_cache

import numpy as np
import pytest
import torch
from conformance.networks import CLASSES, FAMILY, SIZE, TIMM, TORCHVISION, ZOOBOT, some_images

from attribution import (
    ActivationAtlas,
    AttributionUncertainty,
    Deconvnet,
    Deletion,
    FeatureMaps,
    GradCAM,
    GradientXInput,
    GuidedBackprop,
    Infidelity,
    Insertion,
    IntegratedGradients,
    Layout,
    MaxSensitivity,
    MCDropout,
    ModelRandomisation,
    MutualInformationAttribution,
    Occlusion,
    Saliency,
    SmoothGrad,
    TestTimeAugmentation,
    TopResponses,
    VarGrad,
    explain,
)
from attribution.batch import reproducible
from attribution.explain import complete, make_batch
from attribution.layers import layer_shapes
from attribution.partials import Partial
from attribution.registry import METHODS

EXAMPLES = (*TORCHVISION, *TIMM, *ZOOBOT, *FAMILY)
THOROUGH = (
    "torchvision:resnet18",
    "torchvision:mobilenet_v2",
    "zoobot:convnext_atto",
    "occulta:cnn",
)
"""Networks on which every run of the tests tries every method."""
QUICK = ("occlusion", "gradient_x_input", "deconvnet", "mc_dropout")
"""Methods that every run of the tests tries on the others of torchvision's."""
RECTIFIED = ("deconvnet", "guided_backprop")
SAMPLED = ("mc_dropout", "attribution_uncertainty", "mutual_information_attribution")
TARGETS = np.array([[1, 3], [0, 1]])
OPTIONS = {"targets": TARGETS, "micro_batch": 2, "ids": ["a", "b"]}


def methods(example):
    """Every method, small: most have three parts, of which two go into one pass."""
    inject = None if example.dropout else 0.3
    judged = (GradientXInput(),)
    made = (
        Occlusion(SIZE // 2, SIZE // 2, layers=(example.last,)),
        GradientXInput(),
        IntegratedGradients(3, "midpoint"),
        Saliency(),
        SmoothGrad(3),
        VarGrad(3),
        GradCAM(example.last, relu=False),
        Deconvnet(),
        GuidedBackprop(),
        FeatureMaps((example.first, example.last), "mean"),
        TopResponses((example.first, example.last)),
        ActivationAtlas((example.last,)),
        MCDropout(3, inject=inject),
        TestTimeAugmentation((1.0, 1.2), rotations=2, flips=False),
        AttributionUncertainty(3, inject=inject),
        MutualInformationAttribution(3, inject=inject),
        Deletion(of=judged, steps=2),
        Insertion(of=judged, steps=2),
        Infidelity(of=judged, samples=3, window=16),
        MaxSensitivity(of=judged, samples=3),
        ModelRandomisation(of=judged, stages=3),
    )
    return {method.name: method for method in made}


def test_the_list_holds_every_method():
    assert list(methods(EXAMPLES[0])) == list(METHODS)


@lru_cache(maxsize=1)
def network_of(example):
    """Keep one network at a time: some take half a gigabyte."""
    return example.make()


@cache
def images():
    return some_images(2)


def pairs():
    for example in EXAMPLES:
        for name in METHODS:
            quick = name in QUICK and example in TORCHVISION
            fast = quick or example.architecture in THOROUGH
            marks = () if fast else pytest.mark.slow
            yield pytest.param(example, name, marks=marks, id=f"{example}-{name}")


@pytest.mark.parametrize(("example", "name"), list(pairs()))
def test_every_method_on_every_network(example, name):
    network, method = network_of(example), methods(example)[name]
    if name in RECTIFIED and not example.is_rectified:
        uses = (
            rf"{name} is defined for ReLU networks only, .* uses {example.rectifier}: .*; use sal"
        )
        with pytest.raises(ValueError, match=uses):
            explain(network, images(), method, **OPTIONS)
        return
    if name in SAMPLED and not example.dropout:
        without = type(method)(3)
        with pytest.raises(ValueError, match=r"no dropout layer with p > 0, so .*; set inject"):
            explain(network, images(), without, **OPTIONS)
    layout = layout_of(network, method)
    arrays = explain(network, images(), method, **OPTIONS)
    check_arrays(method, arrays, layout)
    cut = in_blocks(network, method, layout)
    for name in arrays:
        assert arrays[name].tobytes() == cut[name].astype(arrays[name].dtype).tobytes(), name


def layout_of(network, method):
    shape = (3, SIZE, SIZE)
    return Layout(shape, CLASSES, 2, "sum", layer_shapes(network, shape, method.needs.layers))


def check_arrays(method, arrays, layout):
    """Results are as announced, finite, and say something of each object."""
    specs = method.arrays(layout)
    assert list(arrays) == [spec.name for spec in specs]
    for spec in specs:
        array = arrays[spec.name]
        assert array.shape == (2, *spec.shape), spec.name
        assert np.isfinite(array).all(), spec.name
    pixels = method.pixel_map(arrays, layout)
    if pixels is not None and method.targeted:
        assert (np.ptp(pixels, axis=(2, 3)) > 0).all()
        assert not np.array_equal(pixels[0], pixels[1])


def in_blocks(network, method, layout):
    """Explain as replicas would that get one block each, and meet for the end."""

    def batch():
        return make_batch(network, images(), ["a", "b"], 2, seed=0, needs=method.needs)

    merged = Partial(method.rules)
    with reproducible():
        for block in reversed(range(method.blocks(layout.image_shape, 2))):
            partial = method.partial(batch(), TARGETS, range(block, block + 1))
            merged = merged.merge(partial)
        return complete(method, merged, batch(), TARGETS, layout)


@pytest.mark.parametrize("method", [Deletion, MaxSensitivity, ModelRandomisation])
def test_measures_of_maps_that_a_network_has_not_are_refused(method):
    network = ZOOBOT[0].make()
    with pytest.raises(ValueError, match="deconvnet is defined for ReLU networks only"):
        explain(network, images(), method(of=(Deconvnet(),)), **OPTIONS)


@pytest.mark.parametrize("method", [MCDropout(3), AttributionUncertainty(3)])
def test_dropout_that_is_switched_off_is_no_dropout(method):
    network = ZOOBOT[0].make()
    network.head.dropout.p = 0.0
    with pytest.raises(ValueError, match="no dropout layer with p > 0"):
        explain(network, images(), method, **OPTIONS)


def test_a_channels_last_network_gives_the_same_maps():
    example = TORCHVISION[-1]
    plain, other = example.make(), example.make().to(memory_format=torch.channels_last)
    for name in ("occlusion", "gradient_x_input", "deconvnet", "grad_cam", "mc_dropout"):
        method = methods(example)[name]
        expected = explain(plain, images(), method, **OPTIONS)
        found = explain(other, images(), method, **OPTIONS)
        for array, values in expected.items():
            close = {"rtol": 0, "atol": 1e-4 * max(np.abs(values).max(), 1e-3)}
            np.testing.assert_allclose(found[array], values, **close, err_msg=f"{name} {array}")
