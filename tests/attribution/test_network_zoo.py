"""Every method on the networks that people use: defined and right, or refused with the cure."""

import warnings
from dataclasses import dataclass

import captum.attr
import numpy as np
import pytest
import torch

from attribution import explain
from attribution.batch import reproducible
from attribution.dropout_masks import hashed_dropout
from attribution.explain import make_batch
from attribution.method import Method
from attribution.partials import Partial
from attribution.registry import METHODS
from training.networks import build

CLASSES, SIZE, OBJECTS = 4, 64, 2


@dataclass(frozen=True)
class Zoo:
    """A network of the zoo, the layer that is looked at, and the methods that make no sense."""

    architecture: str
    layer: str
    refused: frozenset[str] = frozenset()

    @property
    def name(self) -> str:
        return self.architecture.replace(":", "-")


RECTIFIED = frozenset({"deconvnet", "guided_backprop"})
DROPOUT = frozenset({"mc_dropout", "attribution_uncertainty", "mutual_information_attribution"})
ZOO = [
    Zoo("torchvision:resnet18", "layer4", DROPOUT),
    Zoo("torchvision:mobilenet_v2", "features.18"),
    Zoo("torchvision:resnet50", "layer3", DROPOUT),
    Zoo("torchvision:vgg16", "features.29"),
    Zoo("torchvision:efficientnet_b0", "features.8", RECTIFIED),
    Zoo("torchvision:convnext_tiny", "features.7", RECTIFIED | DROPOUT),
    Zoo("torchvision:densenet121", "features.denseblock4", DROPOUT),
    Zoo("timm:resnet10t", "layer4", DROPOUT),
    Zoo("zoobot:convnext_atto", "encoder.stages.3", RECTIFIED),
]
FAST = {"torchvision-resnet18", "torchvision-mobilenet_v2"}
MAPS = ("occlusion", "gradient_x_input")
PARAMETERS = {
    "occlusion": {"window": 32, "stride": 32},
    "integrated_gradients": {"steps": 4, "rule": "midpoint"},
    "smoothgrad": {"samples": 4},
    "vargrad": {"samples": 4},
    "mc_dropout": {"samples": 4},
    "test_time_augmentation": {"zooms": (1.0, 1.2), "rotations": 2},
    "attribution_uncertainty": {"samples": 4},
    "mutual_information_attribution": {"samples": 4},
    "deletion": {"steps": 3, "of": MAPS},
    "insertion": {"steps": 3, "of": MAPS},
    "infidelity": {"samples": 4, "of": MAPS},
    "max_sensitivity": {"samples": 2, "of": MAPS[1:]},
    "model_randomisation": {"stages": 2, "of": MAPS[1:]},
}


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(member, id=member.name, marks=[] if member.name in FAST else pytest.mark.slow)
        for member in ZOO
    ],
)
def member(request):
    return request.param


@pytest.fixture(scope="module")
def network(member):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = build(member.architecture, CLASSES, 3).train().requires_grad_(False)
        # Statistics that keep the signal alive, as training leaves them.
        for module in network.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.momentum = 1.0
        network(torch.randn(8, 3, SIZE, SIZE))
        return network.eval()


@pytest.fixture(scope="module")
def images():
    return torch.randn(OBJECTS, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(1))


def made(name: str, layer: str, **changes) -> Method:
    parameters = PARAMETERS.get(name, {}) | changes
    if name in ("feature_maps", "top_responses"):
        parameters["layers"] = (layer,)
    if name == "grad_cam":
        parameters["layer"] = layer
    if "of" in parameters:
        parameters["of"] = tuple(made(other, layer) for other in parameters["of"])
    return METHODS[name](**parameters)


def batch_of(network, images, method):
    ids = [str(n) for n in range(len(images))]
    return make_batch(network, images, ids, len(images), seed=0, needs=method.needs)


@pytest.mark.parametrize("name", METHODS)
def test_every_method_is_right_or_refused(member, network, name, images):
    method = made(name, member.layer)
    if name in member.refused:
        with pytest.raises(ValueError, match=r"ReLU networks only|no (active )?dropout"):
            explain(network, images, method)
        return
    found = explain(network, images, method, targets=[1, 3], micro_batch=OBJECTS)
    for array, values in found.items():
        if values.dtype.kind == "f":
            assert np.isfinite(values).all(), array
    assert next(iter(found.values())).any()
    # The parts of the first block and of the rest, made apart, are the whole.
    batch = batch_of(network, images, method)
    targets = np.array([[1, 3]] * OBJECTS)
    with reproducible():
        blocks = method.blocks((3, SIZE, SIZE), batch.block_length)
        whole = method.partial(batch, targets).total(blocks)
        rest = method.partial(batch_of(network, images, method), targets, range(1, blocks))
        first = method.partial(batch_of(network, images, method), targets, range(1))
        cut = Partial(method.rules).merge(rest).merge(first).total(blocks)
    assert whole.keys() == cut.keys()
    for term, values in whole.items():
        np.testing.assert_array_equal(values, cut[term])


def test_dropout_that_is_missing_is_injected_on_request(member, network, images):
    for name in DROPOUT:
        method = made(name, member.layer, inject=0.3)
        if name not in member.refused:
            with pytest.raises(ValueError, match="has active dropout of its own"):
                explain(network, images, method)
            continue
        found = explain(network, images, method, targets=[1], micro_batch=OBJECTS)
        spread = found.get("probability_std", found.get("attribution_std"))
        assert spread is None or (spread > 0).any()
        assert all(np.isfinite(values).all() for values in found.values())


def test_samples_of_dropout_are_those_of_whole_passes(member, network, images):
    method = made(
        "mc_dropout", member.layer, inject=0.3 if "mc_dropout" in member.refused else None
    )
    found = explain(network, images, method, micro_batch=OBJECTS)
    batch = batch_of(network, images, method)
    for n in range(OBJECTS):
        keys = method.keys(batch, n, range(method.samples))
        rows = images[n].repeat(method.samples, 1, 1, 1)
        with reproducible(), torch.no_grad(), hashed_dropout(network, keys, method.inject):
            p = torch.softmax(network(rows).double(), dim=1)
        mean = p.mean(dim=0)
        np.testing.assert_allclose(found["probability_mean"][n], mean, rtol=0, atol=1e-6)
        std = p.std(dim=0, correction=0)
        np.testing.assert_allclose(found["probability_std"][n], std, atol=1e-6)


PEERS = {
    "occlusion": (
        captum.attr.Occlusion,
        {"sliding_window_shapes": (3, 32, 32), "strides": (3, 32, 32), "baselines": 0.0},
    ),
    "gradient_x_input": (captum.attr.InputXGradient, {}),
    "saliency": (captum.attr.Saliency, {}),
    "integrated_gradients": (
        captum.attr.IntegratedGradients,
        {"n_steps": 4, "method": "riemann_middle", "baselines": 0.0},
    ),
}


@pytest.mark.parametrize("name", PEERS)
def test_captum_agrees(member, network, name, images):
    method = made(name, member.layer)
    peer, options = PEERS[name]
    if name == "occlusion":
        # A network's own rounding changes with the rows of a pass; the peer's have one per image.
        images = images[:1]
    found = explain(network, images, method, targets=1, channels="keep", micro_batch=len(images))
    ours = found.get("attribution")
    if ours is None:
        grid = found["grid"]
        ours = method.expand(grid, (SIZE, SIZE), method.window, method.stride)[:, :, None]
    with warnings.catch_warnings(), reproducible():
        warnings.simplefilter("ignore")
        theirs = peer(network).attribute(images.clone(), target=1, **options).detach()
    scale = max(float(theirs.abs().max()), float(network(images).abs().max()))
    np.testing.assert_allclose(
        np.broadcast_to(ours[:, 0], theirs.shape), theirs, rtol=0, atol=1e-6 * scale
    )
    assert float(theirs.abs().max()) > 1e-4 * scale


def test_the_zoo_has_the_networks_that_we_promise():
    promised = "resnet18 resnet50 vgg16 efficientnet_b0 convnext_tiny densenet121 mobilenet_v2"
    assert {f"torchvision:{name}" for name in promised.split()} <= {m.architecture for m in ZOO}
