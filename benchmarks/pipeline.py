"""The whole job against a plain script: time per object with 1 and with 2 replicas, and the error.

Both read the same FITS cutouts, use the same batches and keep the same results. Occulta's time is
from the first unit handed out to the last one committed, so that starting Ray and loading torch
are left out on both sides. The rounds alternate; the medians are compared. The goals: one replica
takes at most 1.15 of the script's time, two on two cores are 1.8 times as fast as one. What two
cores of this machine can give at all is measured too: the script twice at once, on half of the
objects each.
"""

from __future__ import annotations

import json
import multiprocessing
import statistics
import sys
import tempfile
import time
from datetime import datetime
from pathlib import Path

import numpy as np
import torch
import zarr
from astropy.io import fits

from benchmarks import plain_script
from jobs.plan import plan_job
from jobs.run.local import run_on_ray
from jobs.specs.load import make_job
from training.checkpoints import save_weights
from training.networks import build
from training.simulation import simulate
from training.surveys import SURVEYS

OBJECTS, ROUNDS, SCALE = 512, 3, 0.1
CLASSES = ("smooth", "spiral", "barred", "edge_on")
ARRAYS = {
    "logit": "prediction/logit",
    "grid": "occlusion/grid",
    "gradient_x_input": "gradient_x_input/attribution",
    "attribution": "integrated_gradients/attribution",
    "grid_gini": "summary/occlusion/gini",
    "attribution_half_light_radius": "summary/integrated_gradients/half_light_radius",
}
"""Results of the script and where a run has them; dropout masks are drawn differently."""


def main() -> None:
    """Measure and print a table."""
    objects = int(sys.argv[1]) if len(sys.argv) > 1 else OBJECTS
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        paths = _survey(folder, objects)
        times: dict[str, list[float]] = {
            kind: [] for kind in ("script", "two scripts", "1 replica", "2 replicas")
        }
        for number in range(ROUNDS):
            out = folder / f"script-{number}"
            times["script"].append(_script_seconds(folder, paths, out))
            times["two scripts"].append(_two_scripts_seconds(folder, paths, number))
            for replicas in (1, 2):
                run = folder / f"run-{number}-{replicas}"
                run_on_ray(plan_job(_job(folder, run, replicas)), None)
                times[f"{replicas} replica{'s' * (replicas > 1)}"].append(_working_seconds(run))
        errors = _errors(out, run)
    best = {kind: statistics.median(seconds) / objects for kind, seconds in times.items()}
    print(f"{objects} objects, median of {ROUNDS} alternating rounds, small CNN at 64 px")
    for kind, seconds in best.items():
        rounds = ", ".join(f"{s / objects * 1e3:.2f}" for s in times[kind])
        print(f"{kind:12} {seconds * 1e3:8.2f} ms per object   ({rounds})")
    print(f"1 replica / script    {best['1 replica'] / best['script']:.3f}   (goal: 1.15 or less)")
    print(f"1 replica / 2 replicas {best['1 replica'] / best['2 replicas']:.3f}   (goal: 1.8)")
    print(
        f"script / two scripts  {best['script'] / best['two scripts']:.3f}   (the machine's limit)"
    )
    for name, error in errors.items():
        print(f"largest difference of {name}, relative to its largest value: {error:.1e}")


def _survey(folder: Path, objects: int) -> list[Path]:
    torch.manual_seed(0)
    save_weights(build("occulta:small_cnn", len(CLASSES), 3), folder / "weights.safetensors")
    (folder / "cutouts").mkdir()
    images = simulate(SURVEYS["A"], 0, range(objects)).images
    paths = [folder / "cutouts" / f"g{n:06d}.fits" for n in range(objects)]
    for path, image in zip(paths, images, strict=True):
        fits.writeto(path, image.astype(">f4"))
    lines = [f"{path.stem},{n % 360},{n % 90}" for n, path in enumerate(paths)]
    (folder / "catalogue.csv").write_text("\n".join(["id,ra,dec", *lines]) + "\n")
    return paths


def _script_seconds(folder: Path, paths: list[Path], out: Path) -> float:
    network = _network(folder)
    plain_script.explain_survey(paths[:8], network, SCALE, out.with_suffix(".warm"))
    began = time.perf_counter()
    plain_script.explain_survey(paths, network, SCALE, out)
    return time.perf_counter() - began


def _two_scripts_seconds(folder: Path, paths: list[Path], number: int) -> float:
    halves = [paths[0::2], paths[1::2]]
    outs = [folder / f"two-{number}-{half}" for half in (0, 1)]
    with multiprocessing.get_context("spawn").Pool(2) as processes:
        return max(processes.starmap(_script_seconds, zip([folder] * 2, halves, outs, strict=True)))


def _network(folder: Path) -> torch.nn.Module:
    from safetensors.torch import load_file

    network = build("occulta:small_cnn", len(CLASSES), 3)
    network.load_state_dict(load_file(folder / "weights.safetensors"))
    return network


def _job(folder: Path, run: Path, replicas: int) -> object:
    fields = {
        "kind": "attribution",
        "name": run.name,
        "survey": {"format": "fits", "path": "cutouts", "catalogue": "catalogue.csv"},
        "network": {
            "architecture": "occulta:small_cnn",
            "weights": "weights.safetensors",
            "classes": list(CLASSES),
            "preprocess": {"stretch": "asinh", "scale": SCALE},
        },
        "methods": [
            {
                "method": "occlusion",
                "window": plain_script.WINDOW,
                "stride": plain_script.STRIDE,
            },
            {"method": "gradient_x_input"},
            {
                "method": "integrated_gradients",
                "steps": plain_script.STEPS,
                "rule": "midpoint",
            },
            {"method": "mc_dropout", "samples": plain_script.SAMPLES},
        ],
        "execution": {"micro_batch": plain_script.BATCH, "replicas": replicas},
        "output": run.name,
    }
    return make_job(fields, "benchmark", folder)


def _working_seconds(run: Path) -> float:
    events = [json.loads(line) for line in (run / "events.jsonl").read_text().splitlines()]
    times = {
        event["event"]: datetime.fromisoformat(event["time"])
        for event in events  # the last of each kind
    }
    return (times["UnitCommitted"] - times["RunStarted"]).total_seconds()


def _errors(out: Path, run: Path) -> dict[str, float]:
    results = zarr.open_group(run / "results.zarr", mode="r")
    errors = {}
    for name, path in ARRAYS.items():
        plain = np.concatenate([np.load(file) for file in sorted(out.glob(f"{name}.[0-9]*.npy"))])
        ours = np.asarray(results[path][...]).reshape(plain.shape)
        errors[path] = float(np.abs(ours - plain).max() / np.abs(plain).max())
    return errors


if __name__ == "__main__":
    main()
