"""On every kind of network, attributions are what other implementations and definitions say.

Passes have the rows that the reference's have: so deep a network's rounding changes with them.
"""

import copy
from functools import partial

import captum.attr
import numpy as np
import pytest
import torch
from conformance.networks import FAMILY, SIZE, TIMM, TORCHVISION, ZOOBOT, some_images
from torch import nn
from torchvision.models import DenseNet

from attribution import (
    AttributionUncertainty,
    Deconvnet,
    Deletion,
    FeatureMaps,
    GradCAM,
    GradientXInput,
    GuidedBackprop,
    Insertion,
    IntegratedGradients,
    MCDropout,
    MutualInformationAttribution,
    Occlusion,
    Saliency,
    SmoothGrad,
    TopResponses,
    VarGrad,
    explain,
)
from attribution.batch import reproducible
from attribution.dropout import DropoutSamples
from attribution.dropout_masks import hashed_dropout
from attribution.dropout_prefix import Split
from attribution.explain import make_batch
from attribution.randomness import key

TOLERANCE = 1e-6
FAST = (
    "torchvision:densenet121",
    "torchvision:mobilenet_v2",
    "zoobot:convnext_atto",
    "occulta:cnn",
)
"""Networks that every run of the tests tries: a function in place, ReLU6, and dropout with GELU."""
TARGETS = (1, 3)


def marked(example):
    marks = () if example.architecture in FAST else pytest.mark.slow
    return pytest.param(example, id=str(example), marks=marks)


class Opened:
    """A network with an image, and a copy of it on which peers work: no layer overwrites."""

    def __init__(self, example):
        self.example = example
        self.network = example.make()
        self.plain = without_overwriting(self.network)
        self.image = some_images(1)
        with reproducible(), torch.no_grad():
            self.logits = self.network(self.image.clone())[0]

    def explain(self, method, **options):
        options = {"targets": list(TARGETS), "micro_batch": 1, "channels": "keep", **options}
        return explain(self.network, self.image, method, **options)

    def gradient(self, x, target):
        """Differentiate one score by one or more images, as autograd does."""
        x = x.clone().requires_grad_()
        with reproducible():
            (gradient,) = torch.autograd.grad(self.plain(x)[:, target].sum(), x)
        return gradient


@pytest.fixture(scope="module", params=[marked(e) for e in (*TORCHVISION, *TIMM, *ZOOBOT, *FAMILY)])
def opened(request):
    return Opened(request.param)


def without_overwriting(network):
    other = copy.deepcopy(network)
    for module in other.modules():
        if hasattr(module, "inplace"):
            module.inplace = False
        if isinstance(module, DenseNet):
            module.rectifier = nn.ReLU()
            module.forward = _densenet_forward.__get__(module)
    return other


def _densenet_forward(self, x):
    """Rectify by a module: the original calls a function, in place."""
    features = self.rectifier(self.features(x))
    return self.classifier(torch.flatten(nn.functional.adaptive_avg_pool2d(features, 1), 1))


def assert_close(found, expected, scale=0.0, tolerance=TOLERANCE):
    scale = max(scale, np.abs(expected).max())
    assert found.shape == expected.shape
    error = np.abs(found - expected).max() / scale
    assert error <= tolerance


# Captum.


@pytest.mark.filterwarnings("ignore:Input Tensor")
def test_captum_agrees(opened):
    score = float(opened.logits.abs().max())
    peers = [
        (GradientXInput(), captum.attr.InputXGradient, {}),
        (Saliency(), captum.attr.Saliency, {}),
        (IntegratedGradients(4, "midpoint"), captum.attr.IntegratedGradients,
         {"n_steps": 4, "method": "riemann_middle"}),
    ]  # fmt: skip
    for method, peer, options in peers:
        rows = 4 if options else 1
        found = opened.explain(method, micro_batch=rows)["attribution"]
        for t, target in enumerate(TARGETS):
            with reproducible():
                expected = peer(opened.plain).attribute(opened.image, target=target, **options)
            assert_close(found[:, t], expected.detach().numpy())
    found = opened.explain(Occlusion(32, 16, fill=0.5))["grid"]
    for t, target in enumerate(TARGETS):
        with reproducible():
            expected = captum.attr.Occlusion(opened.plain).attribute(
                opened.image,
                sliding_window_shapes=(3, 32, 32),
                strides=(3, 16, 16),
                baselines=0.5,
                target=target,
            )
        pixels = Occlusion.expand(found[:, t], (SIZE, SIZE), 32, 16)
        assert_close(pixels, expected.numpy()[:, 0], score)


def test_captums_grad_cam_agrees(opened):
    layer = opened.plain.get_submodule(opened.example.last)
    for relu in (True, False):
        found = opened.explain(GradCAM(opened.example.last, relu), channels="sum")["attribution"]
        for t, target in enumerate(TARGETS):
            image = opened.image.clone().requires_grad_()
            with reproducible():
                peer = captum.attr.LayerGradCam(opened.plain, layer)
                terms = peer.attribute(image, target=target, attr_dim_summation=False).detach()
            map_1yx = terms.double().sum(dim=1, keepdim=True)
            expected = captum.attr.LayerAttribution.interpolate(
                map_1yx.clamp(min=0) if relu else map_1yx, (SIZE, SIZE), "bilinear"
            )
            # Channels cancel each other: what is rounded are the terms.
            scale = float(terms.abs().sum(dim=1).max())
            assert_close(found[:, t], expected.numpy()[:, 0], scale)


def test_contributions_and_the_gap_make_up_the_difference(opened):
    found = opened.explain(IntegratedGradients(6))
    with reproducible(), torch.no_grad():
        start = opened.network(torch.zeros_like(opened.image))[0]
    difference = (opened.logits - start).double().numpy()[list(TARGETS)]
    made_up = found["attribution"].sum(axis=(2, 3, 4), dtype=np.float64) - found["completeness_gap"]
    scale = max(np.abs(found["attribution"]).sum(), np.abs(difference).max())
    np.testing.assert_allclose(made_up[0], difference, rtol=0, atol=TOLERANCE * scale)


# The way back through ReLUs, by hooks on modules.


@pytest.mark.parametrize("method", [Deconvnet(), GuidedBackprop()])
def test_the_way_back_is_rectified_at_every_relu(opened, method):
    if not opened.example.is_rectified:
        with pytest.raises(ValueError, match=f"uses {opened.example.rectifier}"):
            opened.explain(method)
        return
    found = opened.explain(method)["attribution"]
    handles = [
        module.register_full_backward_hook(_HOOKS[method.name])
        for module in opened.plain.modules()
        if isinstance(module, nn.ReLU | nn.ReLU6)
    ]
    assert handles
    for t, target in enumerate(TARGETS):
        assert_close(found[:, t], opened.gradient(opened.image, target).numpy())
    for handle in handles:
        handle.remove()
    assert np.abs(found[0, 0] - opened.gradient(opened.image, TARGETS[0])[0].numpy()).max() > 0


_HOOKS = {
    "deconvnet": lambda _module, _gradient, arriving: (arriving[0].clamp(min=0),),
    # A ReLU6 has no gradient where it is off or at its bound, and neither has a ReLU below 0.
    "guided_backprop": lambda _module, gradient, _arriving: (gradient[0].clamp(min=0),),
}


# Definitions.


def test_layers_are_what_their_modules_put_out(opened):
    names = (opened.example.first, opened.example.last)
    outputs, handles = {}, []
    for name in names:
        layer = opened.plain.get_submodule(name)
        keep = partial(_keep, outputs, name)
        handles.append(layer.register_forward_hook(keep))
    with reproducible(), torch.no_grad():
        opened.plain(opened.image)
    for handle in handles:
        handle.remove()
    found = opened.explain(FeatureMaps(names)) | opened.explain(TopResponses(names))
    for name in names:
        short, places = name.replace(".", "_"), outputs[name].reshape(len(outputs[name]), -1)
        np.testing.assert_array_equal(found[short][0], outputs[name])
        np.testing.assert_array_equal(found[f"{short}_value"][0], places.max(axis=1))
        y, x = found[f"{short}_position"][0].T
        np.testing.assert_array_equal(y * outputs[name].shape[2] + x, places.argmax(axis=1))


def test_noisy_gradients_have_this_mean_and_variance(opened):
    batch = make_batch(opened.network, opened.image, ["0"], 1, seed=0, needs=SmoothGrad(3).needs)
    noisy = [opened.image + SmoothGrad(3)._draw(batch, sample) for sample in range(3)]
    for t, target in enumerate(TARGETS):
        gradients = np.stack([opened.gradient(x, target).double().numpy() for x in noisy])
        smooth = opened.explain(SmoothGrad(3))["attribution"][:, t]
        varied = opened.explain(VarGrad(3))["attribution"][:, t]
        assert_close(smooth, gradients.mean(axis=0))
        assert_close(varied, gradients.var(axis=0), np.square(gradients).max())


def _keep(outputs, name, _layer, _inputs, output):
    outputs[name] = output[0].numpy()


def dropout_of(example):
    return {} if example.dropout else {"inject": 0.3}


def sampled_passes(opened, x, keys):
    """Run whole passes under some masks: logits (samples, K)."""
    with (
        reproducible(),
        hashed_dropout(opened.plain, keys, dropout_of(opened.example).get("inject")),
    ):
        return opened.plain(x.expand(len(keys), -1, -1, -1).clone())


KEYS = [key(0, "0", "mc_dropout", sample) for sample in range(4)]


def test_replayed_heads_have_the_bits_of_whole_passes(opened):
    method = MCDropout(4, **dropout_of(opened.example))
    totals = []
    for whole in (False, True):
        images = some_images(4)
        batch = make_batch(opened.network, images, list("0123"), 4, seed=0, needs=method.needs)
        if whole:
            split = Split(images, (opened.network,))
            batch.once((DropoutSamples, method.inject), lambda split=split: split)
        with reproducible():
            totals.append(method.partial(batch, np.zeros((4, 1), dtype=np.int64)).total(1))
    # The kernel of SiLU rounds by place in memory, and so by the row of a pass.
    tolerance = 1e-5 if opened.example.rectifier == "silu" else 0
    for term, values in totals[0].items():
        np.testing.assert_allclose(values, totals[1][term], rtol=0, atol=tolerance, err_msg=term)


def test_dropout_statistics_are_those_of_whole_passes(opened):
    found = opened.explain(MCDropout(4, **dropout_of(opened.example)), micro_batch=4)
    with torch.no_grad():
        p_TK = torch.softmax(sampled_passes(opened, opened.image, KEYS).double(), dim=1).numpy()
    np.testing.assert_allclose(found["probability_mean"][0], p_TK.mean(axis=0), rtol=0, atol=1e-6)
    np.testing.assert_allclose(found["probability_std"][0], p_TK.std(axis=0), rtol=0, atol=1e-6)
    assert found["probability_std"].max() > 1e-6


def test_maps_over_sub_networks_are_those_of_whole_passes(opened):
    method = AttributionUncertainty(4, **dropout_of(opened.example))
    found = opened.explain(method, micro_batch=4, channels="sum")
    for t, target in enumerate(TARGETS):
        x = opened.image.expand(4, -1, -1, -1).clone().requires_grad_()
        score = sampled_passes(opened, x, KEYS)[:, target].sum()
        (gradient,) = torch.autograd.grad(score, x)
        maps = (gradient.double() * x.double()).sum(dim=1).detach().numpy()
        # Channels cancel each other, and a spread has the rounding of all the maps.
        scale, slack = np.abs(maps).sum(axis=0).max(), 5 * TOLERANCE
        assert_close(found["attribution"][0, t], maps.mean(axis=0), scale, slack)
        assert_close(found["attribution_std"][0, t], maps.std(axis=0), scale, slack)


def test_the_gradient_of_the_mutual_information_is_that_of_whole_passes(opened):
    method = MutualInformationAttribution(4, **dropout_of(opened.example))
    found = opened.explain(method, micro_batch=4)["attribution"][0, 0]
    x = opened.image.clone().requires_grad_()
    p_TK = torch.softmax(sampled_passes(opened, x, KEYS).double(), dim=1)
    m_K = p_TK.mean(dim=0)
    information = -(m_K * m_K.log()).sum() + (p_TK * p_TK.log()).sum(dim=1).mean()
    (gradient,) = torch.autograd.grad(information, x)
    expected = (gradient * x).detach().numpy()[0]
    scale = np.abs(expected).max()
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4 * scale)


def test_curves_begin_and_end_at_the_image_and_the_fill(opened):
    options = {"of": (GradientXInput(),), "steps": 2, "fill": 0.5}
    with reproducible(), torch.no_grad():
        empty = opened.network(torch.full_like(opened.image, 0.5))[0]
    for t, target in enumerate(TARGETS):
        ends = [float(torch.softmax(z.double(), 0)[target]) for z in (opened.logits, empty)]
        gone = opened.explain(Deletion(**options))["curve"][0, t, 0]
        come = opened.explain(Insertion(**options))["curve"][0, t, 0]
        np.testing.assert_allclose(gone[[0, -1]], ends, rtol=0, atol=1e-6)
        np.testing.assert_allclose(come[[-1, 0]], ends, rtol=0, atol=1e-6)
