"""One sentence per figure, computed from its numbers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..maps.healpix import SkyTable
from .facts import RunFacts
from .localisation import Localisation
from .statistics import (
    Binned,
    Estimate,
    Reliability,
    confusion,
    differ,
    half_evidence_radius,
    recall,
    share,
)


def readable(name: str) -> str:
    """Return a method's or column's name as words."""
    return name.replace("_", " ")


def headline(runs: Sequence[RunFacts]) -> str:
    """Say how well the network names the labels, and where two runs differ most."""
    judged = [facts for facts in runs if facts.labelled.any()]
    if not judged:
        total = sum(int(facts.complete.sum()) for facts in runs)
        return f"{total:,} objects are explained; none has a label to be judged by."
    first, last = judged[0], judged[-1]
    if first is last:
        return (
            f"The network gives {first.accuracy:.0%} of {int(first.labelled.sum()):,} labelled "
            f"objects their label{_weakest(first)}."
        )
    before, after = (share(run.accuracy, int(run.labelled.sum())) for run in (first, last))
    if not differ(before, after):
        return (
            f"From {first.name} to {last.name} accuracy does not change significantly: {before} "
            f"and {after}."
        )
    text = f"From {first.name} to {last.name} accuracy {_change(before.mean, after.mean)}"
    if first.classes != last.classes:
        return f"{text}."
    found = zip(first.classes, _recalls(first), _recalls(last), strict=True)
    moved = [(name, r, s) for name, r, s in found if differ(r, s)]
    if not moved:
        return f"{text}."
    name, r, s = max(moved, key=lambda entry: abs(entry[2].mean - entry[1].mean))
    return f"{text}; recall moves most for {name}, where it {_change(r.mean, s.mean)}."


def mean_attributions(runs: Sequence[RunFacts], method: str) -> str:
    """Say how far from the centre the evidence lies, for the tightest and the widest group."""
    parts = []
    for facts in runs:
        stack = facts.product.stacks[method]
        radius = np.array([half_evidence_radius(mean) for mean in stack.mean])
        if not np.isfinite(radius).any():
            continue
        tight, wide = int(np.nanargmin(radius)), int(np.nanargmax(radius))
        text = f"{radius[tight]:.1f} px ({stack.groups[tight]})"
        if radius[wide] > radius[tight]:
            text += f" to {radius[wide]:.1f} px ({stack.groups[wide]})"
        parts.append(f"{facts.name} {text}")
    if not parts:
        return ""
    return f"Radius that holds half of the positive mean evidence: {'; '.join(parts)}."


def sky(name: str, run: str, table: SkyTable) -> str:
    """Say how a quantity varies over the sky, beside its standard error."""
    means, count = table.means.get(name), table.count
    if means is None:
        return (
            f"{run}: {int(count.sum()):,} objects in {len(count):,} cells, "
            f"{np.median(count):.0f} in the median cell."
            if len(count)
            else f"{run}: no object has a position."
        )
    known = np.isfinite(means.mean)
    if not known.any():
        return f"{run}: no cell has enough objects to show a mean."
    low, high = np.percentile(means.mean[known], (5, 95))
    error = means.standard_error[known & np.isfinite(means.standard_error)]
    typical = ""
    if len(error):
        typical = (
            f"; a cell's standard error is {np.sqrt(np.mean(error**2)):.2f} (root mean square)"
        )
    return (
        f"{run}: {readable(name)} lies between {low:.2f} and {high:.2f} in nine of ten of the "
        f"{known.sum():,} cells{typical}."
    )


def trend(quantity: str, column: str, bins: Sequence[tuple[str, Binned]]) -> str:
    """Say where a quantity goes from the lowest to the highest bin, if it goes anywhere."""
    parts = []
    for name, b in bins:
        if len(b.x) < 2:
            continue
        before, after = b.estimate(0), b.estimate(-1)
        change = (
            f"{quantity} {_change(before.mean, after.mean)}"
            if differ(before, after)
            else f"no significant trend of {quantity} (from {before} to {after})"
        )
        parts.append(f"{name}: {change} as {column} goes from {b.x[0]:.3g} to {b.x[-1]:.3g}")
    return f"{'; '.join(parts)}." if parts else "Too few objects for a trend."


def calibration(found: Sequence[tuple[str, Reliability]]) -> str:
    """Say how far confidence is from accuracy."""
    parts = []
    for name, reliability in found:
        sort = "overconfident" if reliability.overconfidence > 0 else "underconfident"
        parts.append(
            f"{name}: {sort} by {abs(reliability.overconfidence):.2f} on average "
            f"(calibration error {reliability.calibration_error:.2f})"
        )
    return f"{'; '.join(parts)}."


def mistakes(facts: RunFacts) -> str:
    """Name the most frequent mistake."""
    counts = confusion(facts)
    off = counts - np.diag(counts.diagonal())
    if not off.any():
        return "Every labelled object is classified as its label."
    label, predicted = np.unravel_index(int(off.argmax()), off.shape)
    return (
        f"The most frequent mistake: {facts.classes[label]} taken for {facts.classes[predicted]}, "
        f"{off[label, predicted]:,} of {counts[label].sum():,}."
    )


def concentration(method: str, means: Sequence[tuple[RunFacts, Binned]]) -> str:
    """Name the classes with the most and the least concentrated evidence."""
    parts = []
    for facts, binned in means:
        if not len(binned.y):
            continue
        top, low = int(binned.y.argmax()), int(binned.y.argmin())
        if not differ(binned.estimate(top), binned.estimate(low)):
            parts.append(f"{facts.name}: no significant difference between the classes")
        else:
            parts.append(
                f"{facts.name}: most concentrated for {facts.classes[round(binned.x[top])]} "
                f"({binned.y[top]:.2f}), least for {facts.classes[round(binned.x[low])]} "
                f"({binned.y[low]:.2f})"
            )
    return f"{readable(method).capitalize()}. {'; '.join(parts)}."


def localisation(run: str, found: Sequence[Localisation]) -> str:
    """Say how much evidence lies in each feature against its area, where that is most."""
    parts = []
    for feature in dict.fromkeys(entry.feature for entry in found):
        best = max((e for e in found if e.feature == feature), key=lambda entry: entry.gain)
        parts.append(
            f"{best.evidence:.0%} of the positive evidence of {readable(best.method)} lies in the "
            f"{feature.words}, {best.area:.1%} of the image: {best.gain:.1f} times its share"
        )
    return f"{run}: {'; '.join(parts)}."


def training(history: dict[str, list[float]]) -> str:
    """Name the best epoch."""
    loss = next((c for c in history if "validation" in c and "loss" in c), None)
    if loss is None or not history[loss]:
        return ""
    best = int(np.nanargmin(history[loss]))
    epoch = history["epoch"][best] if "epoch" in history else best + 1
    text = f"Validation loss is lowest in epoch {epoch:.0f} of {len(history[loss])}"
    accuracy = next((c for c in history if "validation" in c and "accuracy" in c), None)
    text += f", at accuracy {history[accuracy][best]:.2f}." if accuracy else "."
    if "gap" in history and np.isfinite(history["gap"][best]):
        gap = history["gap"][best]
        more = f"{abs(gap):.2f} {'above' if gap > 0 else 'below'}" if abs(gap) >= 0.005 else "at"
        text += f" There it is {more} the loss of training objects, seen likewise."
    return text


def _change(before: float, after: float) -> str:
    if round(before, 2) == round(after, 2):
        return f"stays at {after:.2f}"
    return f"{'rises' if after > before else 'falls'} from {before:.2f} to {after:.2f}"


def _recalls(facts: RunFacts) -> list[Estimate]:
    numbers = confusion(facts).sum(axis=1)
    return [share(float(r), int(n)) for r, n in zip(recall(facts), numbers, strict=True)]


def _weakest(facts: RunFacts) -> str:
    found = recall(facts)
    if np.isfinite(found).sum() < 2:
        return ""
    worst = int(np.nanargmin(found))
    return f"; it finds {facts.classes[worst]} least often ({found[worst]:.0%})"
