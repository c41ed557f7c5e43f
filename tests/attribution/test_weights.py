"""Filters by hand, dead ones planted, and the table of a known network."""

import numpy as np
import pytest
import torch
from torch import nn

from attribution.receptive_field import Field
from attribution.weights import convolutions, filters, layer_table, never_respond


def test_norms_by_hand():
    layer = nn.Conv2d(1, 2, 2)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[3.0, 0, 0, -4], [1, 1, 1, 1]]).reshape(2, 1, 2, 2))
    found = filters(nn.Sequential(layer), "0")
    np.testing.assert_array_equal(found.weights, layer.weight.detach())
    np.testing.assert_array_equal(found.l1, [7, 4])
    np.testing.assert_array_equal(found.l2, [5, 2])
    assert not found.dead.any()


def test_filters_that_are_zero_or_negligible_are_dead():
    layer = nn.Conv2d(3, 6, 3)
    with torch.no_grad():
        layer.weight[1] = 0
        layer.weight[2] *= 1e-8
        layer.weight[3] *= 1e-4
    assert filters(nn.Sequential(layer), "0").dead.tolist() == [False, True, True, *[False] * 3]
    with torch.no_grad():
        layer.weight.zero_()
    assert filters(nn.Sequential(layer), "0").dead.all()


@pytest.mark.parametrize("groups", [1, 2])
def test_the_filter_of_a_transposed_convolution_makes_its_output(groups):
    torch.manual_seed(0)
    layer = nn.ConvTranspose2d(4, 6, 3, groups=groups, bias=False)
    weights = filters(nn.Sequential(layer), "0").weights
    assert weights.shape == (6, 4 // groups, 3, 3)
    # One input pixel paints the kernel of every output of its group.
    for source in range(4):
        image = torch.zeros(1, 4, 1, 1)
        image[0, source] = 1
        painted = layer(image)[0].detach().numpy()
        group, inside = divmod(source, 4 // groups)
        mine = range(group * 6 // groups, (group + 1) * 6 // groups)
        for output in range(6):
            expected = weights[output, inside] if output in mine else np.zeros((3, 3))
            np.testing.assert_array_equal(painted[output], expected)


def test_filters_that_never_respond():
    responses = np.array([[0.0, -1, 2, np.nan], [0, 3, np.nan, np.nan]])
    assert never_respond(responses).tolist() == [True, False, False, True]


def test_what_is_no_convolution_is_refused_with_those_there_are():
    network = nn.Sequential(nn.Conv1d(1, 1, 1), nn.ReLU(), nn.ConvTranspose3d(1, 1, 1))
    assert convolutions(network) == ["0", "2"]
    with pytest.raises(ValueError, match=r"'1' is a ReLU, .* name a convolution: 0, 2"):
        filters(network, "1")
    with pytest.raises(ValueError, match="this network has none"):
        filters(nn.Sequential(nn.ReLU()), "0")


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.block = nn.Sequential(nn.Conv2d(3, 4, 3, stride=2), nn.BatchNorm2d(4))
        self.relu = nn.ReLU()
        self.head = nn.Linear(4, 2)
        self.unused = nn.Linear(1, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.relu(self.relu(self.block(x)) - 1)
        return self.head(x.mean(dim=(2, 3)))


def test_the_table_lists_what_methods_can_name():
    rows = {row.name: row for row in layer_table(Small().eval(), (3, 21, 15))}
    assert list(rows) == ["block.0", "block.1", "block", "head"]
    field = (Field(3, 2), Field(3, 2))
    assert rows["block.0"].kind == "Conv2d"
    assert rows["block.0"].shape == (4, 10, 7)
    assert rows["block.0"].parameters == 3 * 4 * 9 + 4
    assert rows["block.0"].field == rows["block"].field == field
    assert (rows["block"].kind, rows["block"].parameters) == ("Sequential", 3 * 4 * 9 + 4 + 8)
    assert (rows["head"].shape, rows["head"].field) == ((2,), (None, None))
