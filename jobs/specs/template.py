"""Commented job files with every default."""

from __future__ import annotations

from ..errors import RefusedError

_EXAMPLES: dict[str, str] = {
    "attribution": """\
# Explain a network's answers over a survey: edit name, paths and classes, then
#   occulta plan job.yaml && occulta run job.yaml
# Relative paths start at the folder of this file.
kind: attribution
name: my-survey
survey:
  format: fits                 # fits | images | simulated
  path: cutouts                # folder of the cutouts
  catalogue: catalogue.parquet # parquet, CSV or FITS table, one row per object
  columns: {}                  # names of id, ra, dec, label, path, where they are not the usual
  nan: refuse                  # NaN pixels: refuse quarantines the object; a number fills them
network:
  architecture: torchvision:resnet18  # torchvision: | timm: | occulta:small_cnn | file:
  weights: model.safetensors
  classes: [smooth, featured]  # in the order of the network's outputs
  options: {}                  # keyword arguments of the architecture
  preprocess:
    size: native               # pixels at the network's input; a number resizes
    stretch: linear            # linear | asinh
    scale: 1.0                 # softening, in survey units
    mean: []                   # one value per band, after the stretch
    std: []                    # the same
methods:
  - {method: occlusion, window: 32, stride: 16, fill: 0.0, output: logit, targets: [predicted]}
  - {method: gradient_x_input, targets: [predicted]}
  - {method: integrated_gradients, steps: 50, rule: gauss_legendre, baseline: black}
  # Needs dropout layers in the network:
  # - {method: mc_dropout, samples: 100, masks: per_object}
execution:
  replicas: auto               # copies of the network, one CPU core each
  gpus_per_replica: auto
  precision: float32
  micro_batch: 32              # rows per pass; lower it when memory is short
  shard_objects: auto          # objects per unit of work
  seed: 0
output: runs/my-survey
maps:
  nside: 64                    # HEALPix resolution, a power of two
  group_by: label              # or predicted, or any text column
  min_count: 3                 # cells with fewer objects are masked
""",
    "simulation": """\
# Simulate a survey of galaxies with known truth.
kind: simulation
name: survey-a
preset: A                      # A: like SDSS; B: finer, sharper, deeper, like DES
objects: 2000
seed: 0
shard_objects: 256             # objects per unit of work
replicas: auto                 # processes, one CPU core each
output: runs/survey-a
""",
}


def job_template(kind: str) -> str:
    """Return a commented job file.

    Raises
    ------
    RefusedError
        If there is no such kind.
    """
    if kind not in _EXAMPLES:
        raise RefusedError(f"init: kind {kind!r} is unknown; use one of {', '.join(_EXAMPLES)}")
    return _EXAMPLES[kind]
