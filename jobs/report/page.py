"""The report: one HTML file that opens anywhere, offline, and loads nothing."""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import jinja2
from markupsafe import Markup

from cluster.errors import StorageError
from cluster.place import Place, write_at
from cluster.text import one_line

from ..errors import RefusedError
from ..run.status import read_manifest
from ..work.fit_files import FITS
from . import figures, readings
from .charts import Chart
from .class_maps import Swatch, swatches
from .diagnostics import diagnostics_charts
from .facts import RunFacts, count_status, load_facts, read_quarantine
from .gallery import Shelf, inception_shelves, network_shelves, run_shelves
from .grids import grid_charts, read_fits
from .judged import read_judgement
from .localisation import localise
from .numbers import measured, other_arrays
from .overlays import class_grids
from .pixels import ReadPixels, read_survey_pixels
from .tiles import colour_bar
from .trust import judge

_KINDS = ("attribution", "inceptionism", "training", "diagnostics")
_UNSEEN = re.compile(
    r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"
)
"""Control characters, those that turn the direction of text, and halves of characters."""
MAX_QUARANTINE_ROWS = 200
MAX_JOB_TEXT = 20_000
"""Characters of a job file that are shown."""


def write_report(
    runs: Sequence[Place],
    out: Place,
    *,
    partial: bool = False,
    read_pixels: ReadPixels = read_survey_pixels,
) -> Place:
    """Write the report of one run, or of several side by side, as one self-contained HTML file.

    Parameters
    ----------
    runs : folders of attribution runs, whose maps are aggregated in memory if they are missing or
        stale; of inceptionism runs, for their images; and of training runs, for their curves
    out : the file to write; its folder is made
    partial : report unfinished runs, too; the page says so
    read_pixels : where the pictures of galaxies come from

    Returns
    -------
    `out`

    Raises
    ------
    RefusedError
        If there is no run, one has nothing to report, or it isn't finished and `partial` is not
        set, or a training run has no history.
    StorageError
        If the file can't be written.
    """
    if not runs:
        raise RefusedError("report: no run is given; give the folder of at least one")
    content = gather_content(runs, partial=partial)
    html = render(content, read_pixels)
    try:
        write_at(out, html.encode())
    except OSError as error:
        raise StorageError(
            f"{out}: the report can't be written ({error.strerror or error}); free space or choose "
            "another place"
        ) from error
    return out


@dataclass(frozen=True)
class Content:
    """What a page is about."""

    runs: tuple[RunFacts, ...]
    """Attribution runs, with distinct names."""
    drawn: Mapping[str, Place]
    """Folders of inceptionism runs, by name."""
    trained: Mapping[str, Place]
    """Folders of training runs, by name."""
    diagnosed: Mapping[str, Place]
    """Folders of diagnostics runs, by name."""

    @property
    def title(self) -> str:
        """What the page is called."""
        named = [facts.name for facts in self.runs] or [*self.drawn, *self.trained, *self.diagnosed]
        return " and ".join(named)


def gather_content(paths: Sequence[Place], *, partial: bool) -> Content:
    """Sort runs by their kind, and read what the page needs of attribution runs."""
    folders: dict[str, dict[str, Place]] = {kind: {} for kind in _KINDS}
    for path in paths:
        manifest = read_manifest(path)
        kind, name = manifest["kind"], str(manifest["name"])
        if kind not in folders:
            raise RefusedError(
                f"{path}: a run of kind {kind}; a report needs kind {' or '.join(_KINDS)}"
            )
        # A page may have several runs of one name; attribution runs are numbered below.
        taken = kind == "attribution" or name in folders[kind]
        folders[kind][str(path) if taken else name] = path
    attribution, drawn, trained, diagnosed = (folders[kind] for kind in _KINDS)
    facts = _distinct([load_facts(path, partial=partial) for path in attribution.values()])
    return Content(tuple(facts), drawn, trained, diagnosed)


def _visible(value: Any) -> Any:
    """Write out what is unseen or turns other text around: a name shall not look like another."""
    if not isinstance(value, str) or isinstance(value, Markup):
        return value
    return _UNSEEN.sub(lambda found: one_line(found.group()), value)


def render(content: Content, read_pixels: ReadPixels) -> str:
    """Return the page."""
    runs = content.runs
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("jobs.report", "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        finalize=_visible,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["words"] = readings.readable
    environment.filters["sentence"] = lambda text: text[:1].upper() + text[1:]
    environment.filters["number"] = _number
    environment.filters["percent"] = lambda share: "–" if math.isnan(share) else f"{share:.0%}"
    style, script = (_asset(environment, name) for name in ("report.css", "report.js"))
    grids, scales = class_grids(runs, read_pixels)
    localised = {facts.name: localise(facts) for facts in runs}
    trusted = [judge(facts, localised[facts.name]) for facts in runs]
    return environment.get_template("report.html.j2").render(
        title=content.title,
        policy=_policy(style, script),
        style=style,
        script=script,
        runs=[_overview(facts) for facts in runs],
        headline=readings.headline(runs) if runs else "",
        shelves=_shelves(content),
        grids=grids,
        scales=scales,
        class_maps=_class_legends(runs),
        colour_bar=colour_bar(),
        means=figures.mean_rows(runs),
        sky=figures.sky_rows(runs),
        trends=figures.trend_charts(runs),
        calibration=figures.calibration_chart(runs),
        confusions=figures.confusions(runs),
        concentration=figures.concentration_charts(runs),
        trust=[trust for trust in trusted if trust],
        localisation=[
            {"run": name, "rows": rows, "reading": readings.localisation(name, rows)}
            for name, rows in localised.items()
            if rows
        ],
        training=[
            {
                "run": name,
                "charts": _training_charts(path),
                "judged": read_judgement(path),
            }
            for name, path in content.trained.items()
        ],
        diagnostics=[
            {"run": name, "charts": diagnostics_charts(path)}
            for name, path in content.diagnosed.items()
        ],
    )


def _training_charts(run: Place) -> list[Chart]:
    """Chart the epochs of a single fit, or what several came to."""
    if (run / FITS).exists():
        return [chart for fits in read_fits(run) for chart in grid_charts(fits)]
    return figures.training_charts(read_history(run))


def _shelves(content: Content) -> list[Shelf]:
    found = [shelf for facts in content.runs for shelf in run_shelves(facts)]
    found += [
        shelf for name, run in content.drawn.items() for shelf in inception_shelves(run, name)
    ]
    found += [
        shelf for name, run in content.trained.items() for shelf in network_shelves(run, name)
    ]
    # All of one sort together, whatever run they are of.
    order = list(dict.fromkeys(shelf.title for shelf in found))
    return sorted(found, key=lambda shelf: order.index(shelf.title))


def read_history(folder: Place) -> dict[str, list[float]]:
    """Read the numeric columns of a training run's history.csv.

    Raises
    ------
    RefusedError
        If there is none, or it holds something else than numbers.
    """
    path = folder / "history.csv"
    try:
        rows = list(csv.DictReader(io.StringIO(path.read_text(encoding="utf-8"))))
        return {column: [float(row[column]) for row in rows] for column in rows[0]} if rows else {}
    except (OSError, ValueError, TypeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise RefusedError(
            f"{path}: the history of the training can't be read ({reason}); give the folder of a "
            "training run"
        ) from error


def _distinct(runs: list[RunFacts]) -> list[RunFacts]:
    """Give runs of one name a number, so that a legend tells them apart."""
    names = [facts.name for facts in runs]
    distinct = []
    for i, facts in enumerate(runs):
        name = facts.name
        if names.count(name) > 1:
            name = f"{name} ({names[: i + 1].count(name)})"
        distinct.append(replace(facts, name=name, product=replace(facts.product, survey=name)))
    return distinct


def _overview(facts: RunFacts) -> dict[str, Any]:
    source, (rows, total) = facts.source, read_quarantine(facts.source.path, MAX_QUARANTINE_ROWS)
    text = (source.path / "job.yaml").read_text(encoding="utf-8")
    return {
        "name": facts.name,
        "run": source.name,
        "partial": not source.finished,
        "counts": count_status(source),
        "sampled": len(facts.rows) if len(facts.rows) < source.objects else 0,
        "labelled": int(facts.labelled.sum()),
        "accuracy": facts.accuracy,
        "classes": facts.classes,
        "grouped_by": facts.grouped_by,
        "entropy_from": facts.entropy_from,
        "maps": list(source.maps),
        "concentrations": list(facts.gini),
        "table": figures.class_table(facts),
        "measured": measured(facts),
        "others": other_arrays(facts),
        "notes": facts.product.notes,
        "left_out": facts.product.left_out,
        "min_count": facts.product.sky.min_count,
        "nside": facts.product.sky.nside,
        "quarantine": rows,
        "quarantine_total": total,
        "job": text[:MAX_JOB_TEXT],
        "manifest": sorted(_flat(source.manifest)),
    }


def _class_legends(runs: Sequence[RunFacts]) -> dict[str, list[Swatch]]:
    """Return the colours of the classes for each array of class maps."""
    legends: dict[str, list[Swatch]] = {}
    for facts in runs:
        for name in facts.source.class_maps:
            legends.setdefault(name, swatches(facts.classes))
    return legends


def _flat(values: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """List nested values by dotted name."""
    entries = []
    for key, value in values.items():
        if isinstance(value, Mapping):
            entries += _flat(value, f"{prefix}{key}.")
        elif isinstance(value, list):
            entries.append((f"{prefix}{key}", ", ".join(str(item) for item in value)[:400]))
        else:
            entries.append((f"{prefix}{key}", str(value)[:400]))
    return entries


def _number(value: float, digits: int = 2) -> str:
    return "–" if math.isnan(value) else f"{value:,.{digits}f}"


def _asset(environment: jinja2.Environment, name: str) -> Markup:
    """Return a file of the package that goes into the page as it is; it has no data in it."""
    assert environment.loader is not None
    return Markup(environment.loader.get_source(environment, name)[0].strip())


def _policy(style: str, script: str) -> str:
    """Allow this style, this script and inline pictures; nothing is ever loaded."""

    def digest(text: str) -> str:
        return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode("ascii")

    return (
        "default-src 'none'; img-src data:; "
        f"style-src 'sha256-{digest(style)}'; script-src 'sha256-{digest(script)}'; "
        "base-uri 'none'; form-action 'none'"
    )
