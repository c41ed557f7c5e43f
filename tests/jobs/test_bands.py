"""Surveys of one band to ten, from FITS cutouts to maps, pictures and report."""

import numpy as np
import pytest
import torch
import xarray as xr
from astropy.io import fits

from cluster.pool import SerialPool
from jobs.errors import RefusedError
from jobs.features import build_features
from jobs.maps import build_maps
from jobs.plan import plan_job
from jobs.report import write_report
from jobs.run.execute import execute
from jobs.specs.load import load_job
from jobs.toplists.build import build_top
from jobs.weights import build_weights
from training.checkpoints import save_weights
from training.networks import build

JOB = """
kind: attribution
name: bands
survey: {format: fits, path: cutouts, catalogue: galaxies.csv}
network:
  architecture: occulta:small_cnn
  weights: weights.safetensors
  classes: [smooth, spiral, barred]
  options: {width: 4}
methods:
  - {method: occlusion, window: 16, stride: 16, fill: sky_noise, layers: [features.1]}
  - {method: integrated_gradients, steps: 4, baseline: blur, channels: keep}
  - {method: deconvnet}
  - {method: feature_maps, layers: [features.0]}
  - {method: top_responses, layers: [features.1], k: 2}
maps: {nside: 1}
execution: {micro_batch: 4}
output: run
"""


def prepare(folder, bands, seed=0):
    random = np.random.default_rng(seed)
    (folder / "cutouts").mkdir()
    shape = (bands, 34, 32) if bands > 1 else (34, 32)
    for number in range(5):
        image = random.normal(size=shape).astype(">f4")
        fits.writeto(folder / f"cutouts/g{number}.fits", image)
    rows = "".join(f"g{n},{n},{2 * n},smooth\n" for n in range(5))
    (folder / "galaxies.csv").write_text("id,ra,dec,label\n" + rows)
    torch.manual_seed(seed)
    network = build("occulta:small_cnn", 3, bands, {"width": 4})
    save_weights(network, folder / "weights.safetensors")
    (folder / "job.yaml").write_text(JOB)


@pytest.mark.parametrize("bands", [1, 2, 10])
def test_the_whole_line_takes_any_bands(tmp_path, bands):
    prepare(tmp_path, bands)
    run = execute(plan_job(load_job(tmp_path / "job.yaml")), SerialPool)
    results = xr.open_datatree(run / "results.zarr", engine="zarr")
    kept = results["integrated_gradients/attribution"]
    assert kept.sizes["channel"] == bands
    assert np.isfinite(kept.values).all()
    assert (results["status"] == 1).all()
    weights = xr.open_datatree(build_weights(run).zarr, engine="zarr")["features_0_0/weights"]
    assert weights.sizes["input"] == bands
    top = xr.open_datatree(build_top(run).zarr, engine="zarr")["features_1/crop"]
    assert top.sizes["channel"] == bands
    assert build_features(run).figures
    assert build_maps(run, load_job(tmp_path / "job.yaml").maps).figures
    assert "Strongest responses" in write_report([run], tmp_path / "r.html").read_text("utf-8")


def test_weights_for_other_bands_are_refused(tmp_path):
    prepare(tmp_path, 5)
    save_weights(build("occulta:small_cnn", 3, 3, {"width": 4}), tmp_path / "weights.safetensors")
    with pytest.raises(RefusedError, match=r"\(4, 3, 3, 3\) in the file, \(4, 5, 3, 3\) in the n"):
        plan_job(load_job(tmp_path / "job.yaml"))
