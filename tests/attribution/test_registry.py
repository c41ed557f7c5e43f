from attribution import GradientXInput, IntegratedGradients, MCDropout, Occlusion, Saliency
from attribution.registry import METHODS


def test_the_names_that_job_files_use():
    expected = {
        "occlusion": Occlusion,
        "gradient_x_input": GradientXInput,
        "saliency": Saliency,
        "integrated_gradients": IntegratedGradients,
        "mc_dropout": MCDropout,
    }
    assert expected == METHODS
