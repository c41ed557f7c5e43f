from __future__ import annotations

import pytest
import timm
import torch
from torch import nn

from training.networks import build, head_of, outputs_of


@pytest.mark.parametrize("bands", [1, 3, 5])
@pytest.mark.parametrize("size", [(32, 32), (64, 48)])
def test_small_cnn_takes_any_bands_and_sizes(bands, size):
    network = build("occulta:small_cnn", 4, bands).eval()
    assert network(torch.randn(2, bands, *size)).shape == (2, 4)


def test_small_cnn_has_active_dropout_before_and_in_its_head():
    network = build("occulta:small_cnn", 4)
    assert [part.p for part in network.modules() if isinstance(part, nn.Dropout)] == [0.25, 0.25]
    image = torch.randn(1, 3, 64, 64)
    network.eval()
    assert torch.equal(network(image), network(image))
    for part in network.modules():
        if isinstance(part, nn.Dropout):
            part.train()
    assert not torch.equal(network(image), network(image))


@pytest.mark.parametrize(
    ("architecture", "bands", "size"),
    [
        ("torchvision:resnet18", 3, 64),
        ("torchvision:resnet18", 5, 64),
        ("torchvision:squeezenet1_1", 1, 64),
        ("torchvision:mobilenet_v3_small", 4, 64),
        ("torchvision:googlenet", 2, 64),
        ("torchvision:densenet121", 10, 32),
        ("timm:resnet18", 4, 64),
        ("timm:convnext_atto", 1, 64),
        ("timm:convnext_atto", 10, 64),
        ("zoobot:convnext_atto", 1, 64),
        ("zoobot:resnet10t", 10, 64),
    ],
)
def test_library_networks_take_bands_and_classes(architecture, bands, size):
    network = build(architecture, 7, bands).train()
    assert network(torch.randn(2, bands, size, size)).shape == (2, 7)
    assert outputs_of(network) == 7


def test_torchvision_weights_keep_their_names():
    own = build("torchvision:resnet18", 1000).state_dict()
    adapted = build("torchvision:resnet18", 3, 5).state_dict()
    assert list(own) == list(adapted)
    assert adapted["conv1.weight"].shape == (64, 5, 7, 7)


def test_a_zoobot_is_a_timm_encoder_with_dropout_and_a_linear_head():
    network = build("zoobot:resnet10t", 5, 3, {"dropout": 0.3}).eval()
    encoder = timm.create_model("resnet10t", num_classes=0)
    names = [f"encoder.{name}" for name in encoder.state_dict()]
    assert list(network.state_dict()) == [*names, "head.linear.weight", "head.linear.bias"]
    images = torch.randn(2, 3, 64, 64)
    features = network.encoder(images)
    expected = features @ network.head.linear.weight.T + network.head.linear.bias
    torch.testing.assert_close(network(images), expected)
    assert network.head.dropout.p == 0.3
    with pytest.raises(ValueError, match=r"dropout = 1.5 is invalid; use a probability below 1"):
        build("zoobot:resnet10t", 5, 3, {"dropout": 1.5})
    with pytest.raises(ValueError, match=r"did you mean 'timm:resnet10t'"):
        build("zoobot:resnet10", 5)


def test_a_zoobot_of_a_tree_gives_the_log_concentrations_of_one_question():
    options = {"head": "dirichlet", "answers": 7, "first": 2}
    network = build("zoobot:resnet10t", 3, 1, options).eval()
    # As zoobot's get_pytorch_dirichlet_head nests them.
    assert list(network.state_dict())[-2:] == ["head.1.0.weight", "head.1.0.bias"]
    images = torch.randn(2, 1, 64, 64)
    z = network.head[1][0](network.encoder(images))
    concentrations = torch.sigmoid(z) * 100 + 1
    torch.testing.assert_close(network(images), concentrations[:, 2:5].log())
    fractions = concentrations[:, 2:5] / concentrations[:, 2:5].sum(dim=1, keepdim=True)
    torch.testing.assert_close(torch.softmax(network(images), dim=1), fractions)
    assert build("zoobot:resnet10t", 3, 1, {"head": "dirichlet"})(images).shape == (2, 3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"head": "tree"}, "head = 'tree' is invalid; use linear or dirichlet"),
        ({"head": "dirichlet", "answers": 2}, "first = 0 with 3 classes is invalid; the tree has"),
        ({"head": "dirichlet", "answers": 5, "first": 3}, "the tree has answers 0 to 4"),
        ({"head": "dirichlet", "dropout": 1.0}, "dropout = 1.0 is invalid"),
        ({"answers": 5}, "options {'answers': 5} are refused"),
    ],
)
def test_impossible_heads_of_a_zoobot_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        build("zoobot:resnet10t", 3, 3, options)


def test_options_reach_the_network():
    network = build("occulta:small_cnn", 4, options={"dropout": 0.5, "width": 8})
    assert [part.p for part in network.modules() if isinstance(part, nn.Dropout)] == [0.5, 0.5]
    assert head_of(network) == "head.4"


@pytest.mark.parametrize(
    ("architecture", "match"),
    [
        ("torchvision:resnet81", r"did you mean .*'torchvision:resnet18'"),
        ("timm:resnet18x", r"did you mean .*'timm:resnet18'"),
        ("timm:hf-hub:someone/net", "timm has no such network"),
        ("occulta:smal_cnn", "did you mean 'occulta:small_cnn'"),
        ("torchvision:fcn_resnet50", "torchvision has no such network"),
        ("resnet18", "write FAMILY:NAME"),
        ("keras:resnet18", "no such family"),
    ],
)
def test_unknown_names_are_refused_with_the_nearest(architecture, match):
    with pytest.raises(ValueError, match=match):
        build(architecture, 3)


@pytest.mark.parametrize(
    ("classes", "bands", "options", "match"),
    [
        (0, 3, {}, "classes = 0"),
        (2, 0, {}, "bands = 0"),
        (2, 3, {"dropout": 1.0}, "dropout = 1.0"),
        (2, 3, {"depth": 3}, "options .* are refused"),
    ],
)
def test_impossible_networks_are_refused(classes, bands, options, match):
    with pytest.raises(ValueError, match=match):
        build("occulta:small_cnn", classes, bands, options)
