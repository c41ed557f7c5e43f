"""What a good PyTorch user would write by hand for one survey: no Occulta, one process, one thread.

It reads FITS cutouts with astropy, explains them in batches of 32 rows and writes numpy files.
Shape suffixes: N objects, K classes, P rows of a pass, C channels, H height, W width.
"""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path

import numpy as np
import torch
from astropy.io import fits
from torch import nn

BATCH, WINDOW, STRIDE, STEPS, SAMPLES = 32, 16, 8, 16, 20


def explain_survey(paths: list[Path], network: nn.Module, scale: float, out: Path) -> None:
    """Predict and explain all cutouts, and write an array per result and batch."""
    torch.set_num_threads(1)
    out.mkdir(parents=True)
    network.eval().requires_grad_(False)
    for number, start in enumerate(range(0, len(paths), BATCH)):
        cutouts = [fits.getdata(path).astype(np.float32) for path in paths[start : start + BATCH]]
        x_NCHW = torch.from_numpy(np.arcsinh(np.stack(cutouts) / np.float32(scale)))
        for name, array in explain_batch(network, x_NCHW).items():
            np.save(out / f"{name}.{number:06d}.npy", array.astype(np.float32))
    (out / "objects.json").write_text(json.dumps([path.stem for path in paths]))


def explain_batch(network: nn.Module, x_NCHW: torch.Tensor) -> dict[str, np.ndarray]:
    """Return all results of one batch."""
    x = x_NCHW.clone().requires_grad_()
    logits_NK = network(x)
    target_N = logits_NK.argmax(dim=1)
    score_N = logits_NK.gather(1, target_N[:, None])[:, 0]
    (gradient,) = torch.autograd.grad(score_N.sum(), x)
    found = defaultdict(list)
    for n in range(len(x_NCHW)):
        image, target = x_NCHW[n], int(target_N[n])
        found["grid"].append(occlusion(network, image, target, float(score_N[n].detach())))
        found["attribution"].append(integrated_gradients(network, image, target))
        for name, value in mc_dropout(network, image).items():
            found[name].append(value)
    results = {name: np.stack(values) for name, values in found.items()}
    results["logit"] = logits_NK.detach().numpy()
    results["gradient_x_input"] = (gradient * x_NCHW).sum(dim=1).numpy()
    for name in ("gradient_x_input", "attribution"):
        results |= {f"{name}_{key}": value for key, value in summary(results[name]).items()}
    pixels = expand(results["grid"], x_NCHW.shape[2:])
    results |= {f"grid_{key}": value for key, value in summary(pixels).items()}
    return results


def occlusion(network: nn.Module, image: torch.Tensor, target: int, score: float) -> np.ndarray:
    """Return the score lost when each window is black."""
    starts = range(0, image.shape[1] - WINDOW + 1, STRIDE)
    corners = [(y, x) for y in starts for x in starts]
    lost = []
    for first in range(0, len(corners), BATCH):
        some = corners[first : first + BATCH]
        rows = image.expand(len(some), -1, -1, -1).clone()
        for row, (y, x) in zip(rows, some, strict=True):
            row[:, y : y + WINDOW, x : x + WINDOW] = 0
        with torch.inference_mode():
            lost.append(score - network(rows)[:, target].double().numpy())
    return np.concatenate(lost).reshape(len(starts), len(starts))


def integrated_gradients(network: nn.Module, image: torch.Tensor, target: int) -> np.ndarray:
    """Return the attribution per pixel by the midpoint rule from a black image."""
    nodes = ((torch.arange(STEPS) + 0.5) / STEPS)[:, None, None, None]
    path = (nodes * image).requires_grad_()
    (gradient,) = torch.autograd.grad(network(path)[:, target].sum(), path)
    return (gradient.double().mean(dim=0) * image).sum(dim=0).numpy()


def mc_dropout(network: nn.Module, image: torch.Tensor) -> dict[str, np.ndarray]:
    """Return mean, spread and entropies over dropout samples."""
    dropouts = [module for module in network.modules() if isinstance(module, nn.Dropout)]
    for module in dropouts:
        module.train()
    with torch.inference_mode():
        p_PK = network(image.expand(SAMPLES, -1, -1, -1)).double().softmax(dim=1).numpy()
    for module in dropouts:
        module.eval()
    mean_K = p_PK.mean(axis=0)
    predictive, expected = entropy(mean_K), entropy(p_PK).mean()
    return {
        "probability_mean": mean_K,
        "probability_std": p_PK.std(axis=0),
        "predictive_entropy": predictive,
        "expected_entropy": expected,
        "mutual_information": predictive - expected,
    }


def entropy(p: np.ndarray) -> np.ndarray:
    """Return the entropy in nats over the last axis."""
    return -(p * np.log(np.maximum(p, 1e-300))).sum(axis=-1)


def expand(grid_Nyx: np.ndarray, image_shape: tuple[int, int]) -> np.ndarray:
    """Give each pixel the mean of the windows that cover it."""
    total, count = np.zeros((len(grid_Nyx), *image_shape)), np.zeros(image_shape)
    for j in range(grid_Nyx.shape[1]):
        for i in range(grid_Nyx.shape[2]):
            window = (
                slice(j * STRIDE, j * STRIDE + WINDOW),
                slice(i * STRIDE, i * STRIDE + WINDOW),
            )
            total[(..., *window)] += grid_Nyx[:, j, i, None, None]
            count[window] += 1
    return total / count


def summary(map_NHW: np.ndarray) -> dict[str, np.ndarray]:
    """Return sum, Gini coefficient, centroid offset, half-light radius and asymmetry."""
    weight = np.abs(map_NHW)
    mass = weight.sum(axis=(1, 2))
    h, w = map_NHW.shape[1:]
    y, x = np.mgrid[:h, :w] - np.array([(h - 1) / 2, (w - 1) / 2])[:, None, None]
    ordered = np.sort(weight.reshape(len(weight), -1), axis=1)
    rank = 2 * np.arange(1, h * w + 1) - h * w - 1
    by_radius = np.argsort(np.hypot(y, x), axis=None, kind="stable")
    grown = np.cumsum(weight.reshape(len(weight), -1)[:, by_radius], axis=1)
    half = (grown < mass[:, None] / 2).sum(axis=1)
    return {
        "total": map_NHW.sum(axis=(1, 2)),
        "gini": (ordered * rank).sum(axis=1) / (ordered.sum(axis=1) * (h * w - 1)),
        "centroid_offset": np.hypot(
            (weight * y).sum(axis=(1, 2)) / mass, (weight * x).sum(axis=(1, 2)) / mass
        ),
        "half_light_radius": np.hypot(y, x).ravel()[by_radius][half],
        "asymmetry": np.abs(map_NHW - map_NHW[:, ::-1, ::-1]).sum(axis=(1, 2)) / (2 * mass),
    }
