"""Whether probabilities are what they say, and the temperature that makes them so.

Guo, Pleiss, Sun & Weinberger (2017), "On Calibration of Modern Neural Networks".

Shapes: N objects, K classes, B bins.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from .metrics import Floats, Integers

_LARGEST = 1e3
"""Temperatures end here, and at its inverse: a network that is right for all objects wants 0."""


@dataclass(frozen=True)
class Reliability:
    """Confidence against accuracy in bins of confidence."""

    edges: npt.NDArray[np.float64]
    """Of the bins (B + 1,), equally wide over [0, 1]; a bin holds its upper edge."""
    objects: npt.NDArray[np.int64]
    """How many are in each (B,)."""
    confidence: npt.NDArray[np.float64]
    """Mean probability of the predicted class (B,); NaN in empty bins."""
    accuracy: npt.NDArray[np.float64]
    """Share of right predictions (B,); NaN in empty bins."""

    @property
    def expected_error(self) -> float:
        """Mean over objects of |accuracy - confidence| of their bins (Guo 2017, equation 3)."""
        full = self.objects > 0
        gaps = np.abs(self.accuracy[full] - self.confidence[full])
        return float(np.sum(self.objects[full] * gaps) / self.objects.sum())


def reliability(labels: Integers, probabilities_NK: Floats, bins: int = 15) -> Reliability:
    """Put objects into equally wide bins by the probability of their predicted class.

    15 bins as in Guo et al.; the expected error depends on their number.
    """
    predicted = probabilities_NK.argmax(axis=1)
    confidence = probabilities_NK.max(axis=1).astype(np.float64)
    edges = np.linspace(0.0, 1.0, bins + 1)
    place = np.clip(np.searchsorted(edges, confidence, side="left") - 1, 0, bins - 1)
    objects = np.bincount(place, minlength=bins)
    means = []
    for values in (confidence, (predicted == labels).astype(np.float64)):
        mean = np.full(bins, np.nan)
        sums = np.bincount(place, weights=values, minlength=bins)
        np.divide(sums, objects, out=mean, where=objects > 0)
        means.append(mean)
    return Reliability(edges, objects.astype(np.int64), *means)


def expected_calibration_error(labels: Integers, probabilities_NK: Floats, bins: int = 15) -> float:
    """Return `Reliability.expected_error` of equally wide bins."""
    return reliability(labels, probabilities_NK, bins).expected_error


def probabilities_of(logits_NK: Floats, temperature: float = 1.0) -> npt.NDArray[np.float64]:
    """Return softmax(z / T) (N, K), in float64."""
    z = np.asarray(logits_NK, dtype=np.float64) / temperature
    e = np.exp(z - z.max(axis=1, keepdims=True))
    scaled: npt.NDArray[np.float64] = e / e.sum(axis=1, keepdims=True)
    return scaled


def fit_temperature(labels: Integers, logits_NK: Floats) -> float:
    """Return the temperature T that makes softmax(z / T) likeliest (Guo 2017, section 4.2).

    The negative log likelihood is convex in b = 1 / T. Its slope is the mean of E[z] - z_label with
    probabilities at b, its curvature their variance; Newton's steps that leave the bracket of the
    root are replaced by halving it. The predicted classes stay the same.

    Returns
    -------
    float
        In [1e-3, 1e3]; its ends where no temperature is best, as for a network that is always
        right, or one that is worse than chance. Fit it on objects that trained nothing.

    Raises
    ------
    ValueError
        If there are no objects, or logits are not finite.
    """
    z = np.asarray(logits_NK, dtype=np.float64)
    if not len(z) or not np.isfinite(z).all():
        raise ValueError(f"temperature: {len(z)} objects; give one or more, with finite logits")
    z = z - z.mean(axis=1, keepdims=True)
    of_label = z[np.arange(len(z)), labels]

    def slope(b: float) -> tuple[float, float]:
        p = probabilities_of(z, 1.0 / b)
        mean = np.sum(p * z, axis=1)
        variance = np.sum(p * z**2, axis=1) - mean**2
        return float(np.mean(mean - of_label)), float(np.mean(variance))

    low, high = 1.0 / _LARGEST, _LARGEST
    if slope(low)[0] >= 0.0:
        return _LARGEST
    if slope(high)[0] <= 0.0:
        return 1.0 / _LARGEST
    b = 1.0
    while high - low > 1e-12 * high:
        first, second = slope(b)
        if first == 0.0:
            break
        low, high = (b, high) if first < 0.0 else (low, b)
        step = b - first / second if second > 0.0 else low
        step = step if low < step < high else 0.5 * (low + high)
        if abs(step - b) <= 1e-13 * b:
            break
        b = step
    return 1.0 / b
