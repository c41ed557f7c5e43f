"""Networks whose ingredients are switches: as many layers as asked for, and what each is for."""

import pytest
import torch
from torch import nn

from training.blocks import blocks_of
from training.family import Ingredients
from training.networks import build


def convolutions(network):
    return [
        part
        for part in network.modules()
        if isinstance(part, nn.Conv2d) and part.kernel_size == (3, 3)
    ]


@pytest.mark.parametrize("style", ["vgg", "resnet"])
@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("depth", [8, 11, 34])
def test_it_is_as_deep_as_asked_whatever_else(style, residual, depth):
    options = {"style": style, "residual": residual, "depth": depth, "width": 4}
    network = build("occulta:cnn", 3, 2, options).eval()
    assert len(convolutions(network)) == depth
    logits = network(torch.randn(2, 2, 32, 32))
    assert logits.shape == (2, 3)
    assert torch.isfinite(logits).all()
    assert blocks_of(network)[-1] == ("head",)


def test_every_stage_halves_the_image_and_doubles_the_channels():
    for style in ("vgg", "resnet"):
        network = build("occulta:cnn", 2, 3, {"style": style, "width": 4, "depth": 6, "stages": 3})
        shapes, x = [], torch.randn(1, 3, 64, 64)
        for stage in network.stages:
            x = stage(x)
            shapes.append(tuple(x.shape[1:]))
        last = {"vgg": [(4, 32, 32), (8, 16, 16), (16, 8, 8)]}
        assert shapes == last.get(style, [(4, 64, 64), (8, 32, 32), (16, 16, 16)])


def test_plain_and_residual_differ_in_the_shortcuts_alone():
    options = {"style": "resnet", "depth": 8, "width": 4, "stages": 2}
    torch.manual_seed(0)
    plain = build("occulta:cnn", 2, 3, options)
    torch.manual_seed(0)
    residual = build("occulta:cnn", 2, 3, {**options, "residual": True})
    names = set(residual.state_dict()) - set(plain.state_dict())
    assert names
    assert all(".shortcut." in name for name in names)
    identities = sum(isinstance(part, nn.Identity) for part in residual.modules())
    assert identities == 2  # of four blocks, the first of each stage changes the channels


def test_without_weights_a_residual_block_passes_its_input_on():
    network = build("occulta:cnn", 2, 4, {"residual": True, "width": 4, "depth": 2, "stages": 1})
    block = network.stages[0][0].eval()
    for part in convolutions(block):
        nn.init.zeros_(part.weight)
    x = torch.rand(1, 4, 8, 8)
    torch.testing.assert_close(block(x), x)


@pytest.mark.parametrize(
    ("options", "kind", "count"),
    [
        ({"normalisation": "batch"}, nn.BatchNorm2d, 8),
        ({"normalisation": "none"}, nn.BatchNorm2d, 0),
        ({"activation": "tanh"}, nn.Tanh, 8),
        ({"activation": "relu"}, nn.ReLU, 8),
        ({"dropout_place": "head", "dropout": 0.5}, nn.Dropout2d, 0),
        ({"dropout_place": "blocks", "dropout": 0.5}, nn.Dropout2d, 4),
        ({"dropout_place": "both", "dropout": 0.5}, nn.Dropout2d, 4),
    ],
)
def test_ingredients_are_there_as_often_as_they_should(options, kind, count):
    network = build("occulta:cnn", 2, 3, {"width": 4, **options})
    assert sum(isinstance(part, kind) for part in network.modules()) == count
    if "dropout_place" in options:
        assert network.dropout.p == (0.0 if options["dropout_place"] == "blocks" else 0.5)
    biased = {part.bias is not None for part in convolutions(network)}
    assert biased == {options.get("normalisation") == "none"}


@pytest.mark.parametrize("name", ["vgg_like", "resnet_like"])
def test_presets_are_the_family_with_other_defaults(name):
    network = build(f"occulta:{name}", 5, 4, {"width": 4})
    assert network(torch.randn(2, 4, 32, 32)).shape == (2, 5)
    shortcuts = any(".shortcut" in part for part, _ in network.named_modules())
    assert shortcuts == (name == "resnet_like")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"depth": 3}, "depth = 3 is too few for 4 stages; use 4 or more, or fewer stages"),
        ({"depth": 7, "residual": True}, "use 8 or more"),
        ({"activation": "rleu"}, "activation = 'rleu' must be one of relu,"),
        ({"initialisation": "xavier"}, "initialisation = 'xavier' must be one of default,"),
        ({"dropout": 1.0}, r"dropout = 1.0 must be in \[0, 1\)"),
        ({"style": "unet"}, "style = 'unet' must be one of vgg, resnet"),
        ({"widht": 4}, "options .* are refused.*widht"),
    ],
)
def test_what_can_not_be_built_is_refused_in_one_line(options, message):
    with pytest.raises(ValueError, match=message) as caught:
        build("occulta:cnn", 2, 3, options)
    assert "\n" not in str(caught.value)


def test_stages_share_the_depth():
    assert Ingredients(depth=10, stages=4).stage_depths == (2, 2, 3, 3)
    assert Ingredients(width=8, stages=5, depth=5).stage_widths == (8, 16, 32, 64, 64)
