import numpy as np
import pytest
import torch
from captum.attr import LayerAttribution, LayerGradCam
from conformance.methods import MethodConformance, convolutional_network
from hypothesis import strategies as st
from torch import nn

from attribution import explain
from attribution.arrays import Layout
from attribution.batch import Batch
from attribution.grad_cam import GradCAM
from training.networks import build


class TestGradCAM(MethodConformance):
    methods = st.builds(GradCAM, layer=st.sampled_from(["3", "5"]), relu=st.booleans())
    layers = ("3", "5")


def test_a_layer_whose_mean_is_the_score_by_hand():
    # Score: the mean of channel 0 minus twice that of channel 1; weights are 1/4 and -2/4.
    network = nn.Sequential(nn.Conv2d(1, 2, 1, bias=False), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    network.append(nn.Linear(2, 1, bias=False))
    with torch.no_grad():
        network[0].weight.copy_(torch.tensor([1.0, 0.25]).reshape(2, 1, 1, 1))
        network[3].weight.copy_(torch.tensor([[1.0, -2.0]]))
    x = torch.tensor([[[[4.0, -8.0], [0.0, 2.0]]]])
    raw = explain(network, x, GradCAM("0", relu=False), targets=0)["attribution"][0, 0]
    assert raw.tolist() == [[0.5, -1.0], [0.0, 0.25]]
    kept = explain(network, x, GradCAM("0"), targets=0)["attribution"][0, 0]
    assert kept.tolist() == [[0.5, 0.0], [0.0, 0.25]]


def test_a_map_is_enlarged_between_the_centres_of_its_places():
    # Places (0, 4) of 2 pixels each, halved by the mean; centres 1 and 3, the edge is held.
    network = nn.Sequential(nn.AvgPool2d((1, 2)), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    x = torch.tensor([[[[0.0, 0, 4, 4]]]])
    found = explain(network, x, GradCAM("0"), targets=0)["attribution"]
    assert found.ravel().tolist() == [0, 0.5, 1.5, 2]


def test_the_pass_over_the_images_is_all_that_runs():
    network = convolutional_network(2, 5).eval()
    method = GradCAM("5")
    batch = Batch(network, torch.ones(2, 2, 9, 8), np.ones(2, bool), "ab", needs=method.needs)
    targets = np.array([[0, 1], [2, 1]])
    method.partial(batch, targets)
    batch.gradient_at_images(targets[:, 0])
    assert (batch.passes.forward, batch.passes.backward) == (2, 4)


def test_arrays_say_whether_evidence_against_was_kept():
    layout = Layout((3, 8, 8), 2, layers={"5": (6, 2, 2)})
    kept, raw = (GradCAM("5", relu=relu).arrays(layout)[0].convention for relu in (True, False))
    assert kept.startswith("Selvaraju 2017; relu(sum_k mean(dS/dA_k) A_k), raw values, enlarged")
    assert raw.startswith("Selvaraju 2017; sum_k mean(dS/dA_k) A_k, raw values, enlarged")


@pytest.mark.parametrize(
    ("architecture", "layer"), [("resnet18", "layer3"), ("vgg16", "features.29")]
)
def test_captum_agrees(architecture, layer):
    torch.manual_seed(0)
    network = build(f"torchvision:{architecture}", 4).eval()
    images = torch.randn(2, 3, 64, 64)
    found = explain(network, images, GradCAM(layer), targets=2, micro_batch=2)["attribution"]
    peer = LayerGradCam(network, network.get_submodule(layer)).attribute(
        images, target=2, relu_attributions=True
    )
    enlarged = LayerAttribution.interpolate(peer, (64, 64), "bilinear").detach().numpy()
    assert np.abs(found - enlarged).max() < 1e-6 * np.abs(enlarged).max()


def test_layers_without_places_are_refused():
    network = convolutional_network(2, 5)
    with pytest.raises(ValueError, match=r"layer '10' puts out shape \(5,\), which has no places"):
        explain(network, torch.zeros(1, 2, 9, 8), GradCAM("10"))
    with pytest.raises(ValueError, match="layer 'conv': the network has no such layer"):
        explain(network, torch.zeros(1, 2, 9, 8), GradCAM("conv"))
