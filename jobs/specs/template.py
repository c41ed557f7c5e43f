"""Commented job files with every default."""

from __future__ import annotations

import re
import textwrap
from typing import Any

import yaml

from ..errors import RefusedError
from .inceptionism import IMAGES, ImagesSpec
from .methods import SECTIONS, MethodSpec


def _without(template: str, *fields: str) -> str:
    """Return a template without its first comment and without some of its fields."""
    entries = re.split(r"^(?=\w)", template, flags=re.MULTILINE)
    return "".join(entry for entry in entries[1:] if entry.partition(":")[0] not in fields)


_SURVEY = """\
format: fits                 # fits | images | npy | hdf5 | parquet | zarr | simulated
path: cutouts                # folder of the cutouts; or one file, a store, a simulation's run
catalogue: catalogue.parquet # parquet, CSV or FITS table, one row per object
columns:                     # names in the catalogue; null finds the usual ones
  id: null
  ra: null
  dec: null
  label: null
  path: null
nan: refuse                  # NaN pixels: refuse quarantines the object; a number fills them
hdu: null                    # FITS extension, by number or name; null: the first with an image
array: null                  # dataset of HDF5, array of Zarr, column of Parquet; null: usual names
bands: first                 # of arrays: first is (band, y, x), last is (y, x, band)
values: auto                 # of files: float | integer; another type is quarantined
verify: stat                 # what tells that a file changed: size and time, or all its content
"""

_PREPROCESS = """\
size: native                 # pixels at the network's input; a number resizes
stretch: linear              # linear | asinh
scale: 1.0                   # softening, in survey units
mean: []                     # one value per band, after the stretch
std: []                      # the same
"""

_NETWORK = f"""\
architecture: torchvision:resnet18  # torchvision: | timm: | zoobot: | occulta:small_cnn | file:
weights: model.safetensors   # or .pt, .pth, .ckpt without code
sha256: null                 # hash that the weights must have
classes: [smooth, featured]  # in the order of the network's outputs
options: {{}}                  # keyword arguments of the architecture
trust: null                  # code, to run a network that comes as file:PATH.py:FUNCTION
preprocess:                  # the same as in training
{textwrap.indent(_PREPROCESS, "  ")}\
"""

_ATTRIBUTION = f"""\
# Explain a network's answers over a survey: edit name, paths and classes, then
#   occulta plan job.yaml && occulta run job.yaml
# Relative paths start at the folder of this file.
kind: attribution
name: my-survey
survey:
{textwrap.indent(_SURVEY, "  ")}\
network:
{textwrap.indent(_NETWORK, "  ")}\
methods:                       # targets: predicted, label, all, class names or indices
@METHODS@
execution:
  replicas: auto               # copies of the network; or a number, or {{min: 2, max: 16}}
  cpus_per_replica: 1          # cores that are reserved for each
  gpus_per_replica: auto       # auto is one where there are GPUs; also a fraction
  node_labels: {{}}            # labels of the cluster's nodes that replicas may be on
  unit_timeout: auto           # seconds after which a unit counts as hung
  precision: float32           # float32 | float64
  micro_batch: 32              # rows per pass; lower it when memory is short
  shard_objects: auto          # objects per unit of work, a multiple of micro_batch
  seed: 0                      # of every random draw
output: runs/my-survey
maps:
  nside: 64                    # HEALPix resolution, a power of two
  group_by: label              # or predicted, or any text column
  min_count: 3                 # cells with fewer objects are masked
"""

_SIMULATION = """\
# Simulate a survey of galaxies with known truth.
kind: simulation
name: survey-a
preset: A                      # A: like SDSS; B: finer, sharper, deeper, like DES
model: {}                      # what differs from it: fields such as seeing: 2.0 [arcsec],
                               # noise: [0.02, 0.02, 0.04] [nanomaggy], pixel_scale [arcsec],
                               # class_mix: [0.7, 0.1, 0.1, 0.1], magnitudes: [16, 19],
                               # redshifts: [0.05, 0.3], name: faint
objects: 2000
seed: 0
shard_objects: 256             # objects per unit of work
shortcut: null                 # or a stamp beside galaxies of one class, which networks then learn:
#  label: barred               # class of the galaxies that may get it; all for every class
#  share: 0.8                  # probability that such a galaxy gets it
#  size: 3                     # edge, pixels
#  sigma: 10.0                 # what it adds, in standard deviations of the sky noise
galsim: null                   # or {}: images as GalSim makes them, pip install "occulta[galsim]"
#  psf_shear: 0.03             # how elliptical the PSF is, from object to object
#  gain: 900.0                 # electrons per nanomaggy
replicas: auto                 # processes, one CPU core each; or {min: 2, max: 16}
output: runs/survey-a
"""

_TRAINING = f"""\
# Train a network on a labelled survey: edit name, paths and classes, then
#   occulta run job.yaml
# The run folder receives weights.safetensors, card.json and history.csv, for several fits in
# fits/0000 and so on, and results.zarr what all of them came to.
# Relative paths start at the folder of this file.
kind: training
name: my-network
survey:
{textwrap.indent(_SURVEY, "  ")}\
architecture: occulta:small_cnn  # or torchvision:NAME, timm:NAME; the first weights are random
options: {{}}                    # keyword arguments of the architecture
classes: [smooth, featured]    # labels, in the order of the network's outputs
target_columns: []             # in place of classes: columns of votes, or of numbers; see fit.loss
only: []                       # CSV files with ids of the objects to learn from; by default all
also_train: []                 # likewise, of objects for training alone, as `occulta select` chose
preprocess:
{textwrap.indent(_PREPROCESS, "  ")}\
start: null                    # folder of a training run whose network to begin with
pretrained: null               # or {{weights: FILE}} from elsewhere: all but the last layer
transfer:                      # what of that network is trained again
  strategy: all                # frozen | last_blocks | all | scratch
  blocks: 1                    # of last_blocks: how many beside the last layer's own
  rate_decay: 0.7              # factor of the learning rate from one block to the one before it
split:                         # by the objects' ids, class by class; the same for all fits
  validation: 0.15             # share that decides when to stop
  test: 0.15                   # share that judges the network at the end
  seed: 0
  separation: 0.0              # arcsec; objects closer than that go to the same part
  folds: null                  # cross-validation in place of the shares; vary split.fold
  fold: 0
training_objects: null         # how many of the training objects to learn from; by default all
also_test: {{}}                  # further surveys, by name, that judge the network, too
fit:
  epochs: 8                    # most passes over the training set
  batch_size: 32
  loss: cross_entropy          # | multinomial | dirichlet_multinomial | mean_squared_error
  class_weights: none          # balanced, or a list: one weight for each class
  label_smoothing: 0.0
  questions: []                # of votes: how many answers each question has
  optimizer: adamw             # adamw | sgd
  learning_rate: 3e-3          # the highest rate
  momentum: 0.9                # of sgd
  weight_decay: 1e-2           # not of biases and norm layers
  schedule: one_cycle          # one_cycle | cosine | constant | step
  warm_up: null                # share of the steps; by default 0.3 for one_cycle, 0 for others
  max_gradient_norm: null      # longer gradients are cut; by default none are
  precision: float32           # float32 | bfloat16 | float16
  patience: 5                  # epochs without a better value before it stops
  monitor: validation_loss     # validation_loss | validation_accuracy
  gap_objects: 512             # training objects that are evaluated like the validation set
  checkpoint_steps: 0          # steps between checkpoints within an epoch; 0: at its end alone
  tensorboard: false           # also write events that TensorBoard reads
  augmentation:                # random views of the training images
    rotation: 360.0            # degrees; 360 is any angle
    shift: 4.0                 # pixels, either way along each axis
    zoom: 1.3                  # from 1 / zoom to zoom
    flip: true                 # mirror half of the images
    blur: [0.0, 0.0]           # least and greatest FWHM of a PSF, pixels
    brightness: 0.0            # standard deviation of what is added to all pixels
    noise: 0.0                 # highest standard deviation of white noise
    share: 0.7                 # probability that an image is changed at all
    border: reflection         # reflection | zeros
  seed: 0                      # of first weights, order, views and dropout
vary: {{}}                       # fields and their values; a fit for each combination, such as
                               # {{fit.seed: [0, 1, 2], options.dropout: [0.0, 0.5]}}
execution:
  replicas: auto               # fits that are made at the same time
  cpus_per_replica: 1          # cores that are reserved for each, threads at least
  gpus_per_replica: auto       # auto is one where there are GPUs; also a fraction
  node_labels: {{}}              # labels of the cluster's nodes that fits may be made on
  unit_timeout: auto           # seconds after which a fit counts as hung; auto is never
  threads: 1                   # of a fit's process on the CPU; results depend on it in the last bit
  processes: 1                 # that share each batch of a fit; results depend on it
output: runs/my-network
"""

_TRANSFER = """\
# How many labels of a new survey does a trained network need, and what of it should be trained
# again? Edit start, survey and classes, then
#   occulta run job.yaml && occulta report runs/my-transfer
# A fit for each strategy, number of labels and seed; `occulta init training` shows all fields.
kind: training
name: my-transfer
start: runs/my-network         # the run that trained the network on the survey that it comes from
survey: {format: fits, path: cutouts, catalogue: catalogue.parquet}  # the new survey
classes: [smooth, featured]
also_test:                     # what the network forgets of the survey that it comes from
  source: {format: fits, path: old-cutouts, catalogue: old-catalogue.parquet}
split: {validation: 0.05, test: 0.5, seed: 0}  # labels for validation come on top of the others
fit: {epochs: 30, patience: 30, batch_size: 16, learning_rate: 1.0e-3}
vary:
  transfer.strategy: [frozen, last_blocks, all, scratch]
  training_objects: [20, 40, 80, 160, 320]
  fit.seed: [0, 1, 2]          # the standard error in the report is over these
output: runs/my-transfer
"""

_STUDIES = """\
studies:                       # grids of networks, each with a figure or more in the report
  gradients:                   # vanishing and exploding gradients, and their cures
    fix: {options.width: 8, options.dropout: 0.0}
    vary:                      # a network for each combination
      options.depth: [8, 24]
      options.initialisation: [he, glorot, lecun, orthogonal, too_small, too_large]
      options.normalisation: [none, batch]
      options.residual: [false, true]
    trace:                     # record each layer over steps of gradient descent on one batch
      objects: 64
      steps: 20
      learning_rate: 0.01
      records: [0, 1, 5, 20]   # steps before which all layers are recorded
  depth:                       # does deeper tend to be better?
    fix: {options.width: 8, fit.epochs: 6}
    vary:
      options.depth: [8, 16, 32]
      options.residual: [false, true]
      fit.seed: [0, 1]
    trace: null                # fits
  overfitting:                 # dropout, augmentation and early stopping, with few labels
    fix:                       # at a constant rate, and to the last epoch, it shows best
      training_objects: 160
      fit.epochs: 40
      fit.patience: 40
      fit.schedule: constant
      fit.learning_rate: 1e-3
      fit.weight_decay: 0.0
      options.width: 8
    vary:
      options.dropout: [0.0, 0.5]
      fit.augmentation.share: [0.0, 0.7]
      fit.seed: [0, 1]
    trace: null
"""

_INCEPTIONISM = f"""\
# Draw what a network sees: images of its classes, and dreams. Edit name, paths and classes, then
#   occulta run job.yaml && occulta report runs/my-images
# Relative paths start at the folder of this file.
kind: inceptionism
name: my-images
survey:                        # where colours, valid range and start objects come from
{textwrap.indent(_SURVEY, "  ")}\
survey_sample: 128             # objects that colours and valid range are estimated from
network:
{textwrap.indent(_NETWORK, "  ")}\
images:                        # sections with method class_image or deep_dream, as many as you like
@IMAGES@
execution:
  replicas: auto               # copies of the network; or a number, or {{min: 2, max: 16}}
  cpus_per_replica: 1          # cores that are reserved for each
  gpus_per_replica: auto       # auto is one where there are GPUs; also a fraction
  node_labels: {{}}            # labels of the cluster's nodes that replicas may be on
  unit_timeout: auto           # seconds after which a unit counts as hung
  precision: float32           # float32 | float64
  micro_batch: 4               # images that are drawn together; lower it when memory is short
  shard_objects: auto          # images per unit of work, a multiple of micro_batch
  seed: 0                      # of every random draw
output: runs/my-images
"""

_PIPELINE = """\
# Simulate, train, explain: jobs that follow each other. Edit the steps, then
#   occulta plan job.yaml && occulta run job.yaml
# What was interrupted goes on with `occulta resume runs/my-story`; what is complete is kept.
kind: pipeline
name: my-story
steps:                         # each has the fields of its kind, see `occulta init KIND`
  galaxies:
    about: simulating galaxies to train on    # for people; optional
    kind: simulation
    preset: A
    objects: 1200
    seed: 1
  others:
    about: simulating the galaxies that are explained
    kind: simulation
    preset: A
    objects: 200
    seed: 2
  train:
    about: training the small CNN
    kind: training
    survey: {format: simulated, path: "step:galaxies"}  # step:NAME is an earlier step's folder
    classes: [smooth, spiral, barred, edge_on]
    preprocess: {stretch: asinh, scale: 0.1, mean: [0.18, 0.29, 0.42], std: [0.41, 0.57, 0.77]}
    fit: {epochs: 6}
  why:
    about: explaining what it sees
    kind: attribution
    network: step:train        # the network of a training step, in one line
    survey: {format: simulated, path: "step:others"}
    methods:
      - {method: occlusion, window: 16, stride: 8}
      - {method: integrated_gradients, steps: 16, rule: midpoint}
      - {method: mc_dropout, samples: 20}
    maps: {nside: 8, min_count: 3}
compare: []                    # pairs of attribution steps on the same objects: [[why, why-tuned]]
maps: true                     # aggregate attribution steps, as `occulta maps` does
report: true                   # write report/index.html of all steps
output: runs/my-story
"""

_DIAGNOSTICS = (
    """\
# Show what makes networks learn, or not: edit name, paths, classes and studies, then
#   occulta run job.yaml && occulta report runs/my-diagnostics
kind: diagnostics
name: my-diagnostics
"""
    + _without(
        _TRAINING, "kind", "name", "start", "pretrained", "transfer", "vary", "output"
    ).replace(
        "occulta:small_cnn  # or torchvision:NAME, timm:NAME;", "occulta:cnn  # of all studies;"
    )
    + _STUDIES
    + "output: runs/my-diagnostics\n"
)

_CHOSEN: dict[str, dict[str, Any]] = {
    "occlusion": {"window": 32, "stride": 16},
    "gradient_x_input": {},
    "integrated_gradients": {},
}
"""Methods that the attribution template asks for; the others are in it as comments."""
_EXAMPLE_VALUES: dict[str, Any] = {"layers": ["layer4"], "layer": "layer4"}
"""What stands where a method has no default."""


def _methods() -> str:
    chosen = [_section(SECTIONS[name], name, values) for name, values in _CHOSEN.items()]
    others = [_section(SECTIONS[name], name, {}) for name in SECTIONS if name not in _CHOSEN]
    return "".join([*chosen, *(textwrap.indent(text, "#", lambda _: True) for text in others)])


def _images() -> str:
    dream = {"layer": "layer3"}
    return _section(IMAGES["class_image"], "class_image", {}) + _section(
        IMAGES["deep_dream"], "deep_dream", dream
    )


def _section(section: type[MethodSpec | ImagesSpec], name: str, values: dict[str, Any]) -> str:
    """Write a section with every field; the first line of what it does is the comment."""
    kind = section.kind
    first_line = (kind.__doc__ or "").strip().splitlines()[0].rstrip(".").replace("`", "")
    _, _, summary = first_line.rpartition(": ")
    lines = [f"  - {f'method: {name} ':27}# {summary}"]
    for field_name, field in section.model_fields.items():
        if field_name != "method":
            value = _EXAMPLE_VALUES.get(field_name) if field.is_required() else field.default
            value = values.get(field_name, value)
            shown = yaml.safe_dump([_plain(value)], default_flow_style=True, width=1000)
            lines.append(f"    {field_name}: {shown.strip()[1:-1]}")
    return "\n".join(lines) + "\n"


def _plain(value: Any) -> Any:
    return [_plain(item) for item in value] if isinstance(value, tuple) else value


_EXAMPLES: dict[str, str] = {
    "attribution": _ATTRIBUTION.replace("@METHODS@\n", _methods()),
    "simulation": _SIMULATION,
    "training": _TRAINING,
    "inceptionism": _INCEPTIONISM.replace("@IMAGES@\n", _images()),
    "diagnostics": _DIAGNOSTICS,
    "pipeline": _PIPELINE,
    "transfer": _TRANSFER,
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
