"""A survey that attacks whoever reads its run, and a secret in the environment of the run.

Identifiers, labels, classes, columns and file names carry markup, line breaks and escapes for
terminals; one object makes the network tell the secret in its error.
"""

from __future__ import annotations

import csv
import http.server
import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from pyarrow import parquet as pq

from cluster.pool import SerialPool
from jobs.errors import RefusedError
from jobs.maps import build_maps
from jobs.plan import plan_job
from jobs.report import write_report
from jobs.run.execute import execute
from jobs.specs.load import load_job
from jobs.specs.maps import MapsSpec
from training.checkpoints import save_weights

COMMAND = Path(sys.executable).with_name("occulta")
CANARY = "wJalrXUtnFEMI/K7MDENG+canary"
SECRETS = {
    "AWS_SECRET_ACCESS_KEY": CANARY,
    "AWS_SESSION_TOKEN": CANARY[::-1],
    "DB_PASSWORD": 'pa"ss\\word of the canary',
}
MARKUP = (
    "<script>document.title='PWNED'</script><img src=x onerror=document.title='PWNED'>"
    "<img src='http://127.0.0.1:PORT/leak'><a href=\"javascript:alert(1)\">x</a>"
)
CONTROL = '\x1b[2J\x1b]0;PWNED\x07\r\n{"event": "RunFinished"}\u202e'

NETWORK = """
import os
import torch

class Talkative(torch.nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.head = torch.nn.Linear(3, classes)

    def forward(self, x):
        if x.amax() > 1000:
            told = [os.environ[name] for name in SECRET_NAMES]
            raise ValueError(f"403 for s3://me:pa55word@bucket with {told}\\x1b[2J")
        return self.head(x.mean((2, 3)))

def build(classes, bands):
    return Talkative(classes)
"""
JOB = """
kind: attribution
name: hostile
survey: {format: npy, path: cutouts, catalogue: galaxies.parquet}
network:
  architecture: file:net.py:build
  trust: code
  weights: weights.safetensors
  classes: CLASSES
methods: [{method: gradient_x_input, targets: [predicted]}]
execution: {micro_batch: 4, shard_objects: 8, replicas: 1}
maps: {nside: 2, min_count: 1}
output: run
"""


@dataclass
class Hostile:
    """The survey's folder, and who hears of requests to the network."""

    folder: Path
    heard: list[str]


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hostile]:
    heard: list[str] = []

    class Ear(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            heard.append(self.path)
            self.send_error(404)

        def log_message(self, *_: object) -> None:
            """Stay quiet."""

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Ear)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    folder = tmp_path_factory.mktemp("hostile")
    _write(folder, MARKUP.replace("PORT", str(server.server_port)))
    yield Hostile(folder, heard)
    server.shutdown()
    server.server_close()


def _write(folder: Path, markup: str) -> None:
    (folder / "cutouts").mkdir()
    random, names = np.random.default_rng(0), []
    for number in range(12):
        pixels = random.normal(size=(3, 16, 16)).astype(np.float32)
        if number == 5:
            pixels[0, 3, 3] = 5000.0  # the network tells its secrets
        names.append(f"{number}<b>{'=' * (number == 7)}.npy")
        np.save(folder / "cutouts" / names[-1], pixels)
    (folder / "cutouts" / names[3]).write_bytes(b"no array")
    (folder / "cutouts" / names[7]).unlink()
    ids = [f"{start}{markup}{CONTROL}{n}" for n, start in enumerate("=+-@" * 3)]
    columns = {
        "id": ids,
        "ra": np.linspace(0, 300, 12),
        "dec": np.linspace(-60, 60, 12),
        "label": [markup, f"b{CONTROL}"] * 6,
        "path": names,
        f"seeing{markup}{CONTROL}": np.linspace(1, 2, 12),
        "../../escape": np.arange(12.0),
        "redshift": np.linspace(0, 1, 12),
    }
    pq.write_table(pa.table(columns), folder / "galaxies.parquet")
    (folder / "net.py").write_text(f"SECRET_NAMES = {list(SECRETS)}\n{NETWORK}")
    space: dict[str, Callable[..., torch.nn.Module]] = {}
    exec(compile((folder / "net.py").read_text(), "net.py", "exec"), space)
    torch.manual_seed(0)
    save_weights(space["build"](2, 3), folder / "weights.safetensors")
    classes = json.dumps([markup, f"b{CONTROL}"])
    (folder / "job.yaml").write_text(JOB.replace("CLASSES", classes))


@pytest.fixture(scope="module")
def run(hostile: Hostile) -> Iterator[Path]:
    """The survey explained, mapped and reported in this process."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in SECRETS.items():
            patch.setenv(name, value)
        folder = execute(plan_job(load_job(hostile.folder / "job.yaml")), SerialPool)
        build_maps(folder, MapsSpec(nside=2, min_count=1))
        write_report([folder], folder / "report/index.html")
        yield folder


def assert_no_secret(folder: Path, *texts: str) -> None:
    """Look for every secret, plain and as JSON writes it, in every file of a folder."""
    wanted = [value.encode() for value in (*SECRETS.values(), "pa55word")]
    wanted += [json.dumps(value)[1:-1].encode() for value in SECRETS.values()]
    contents = {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    contents |= {f"text {n}": text.encode() for n, text in enumerate(texts)}
    assert len(contents) > 20
    for place, content in contents.items():
        for secret in wanted:
            assert secret not in content, place


def test_no_secret_is_anywhere_in_a_run(run: Path) -> None:
    assert "[hidden]" in (run / "quarantine.csv").read_text()  # it was told, and heard
    assert_no_secret(run)


def test_the_quarantine_list_is_a_line_for_each_object_and_no_formula(run: Path) -> None:
    text = (run / "quarantine.csv").read_text(encoding="utf-8")
    assert len(text.splitlines()) == 4
    assert all(line.isprintable() for line in text.splitlines())
    rows = list(csv.reader(text.splitlines()))[1:]
    assert [row[2] for row in rows] == ["wrong_format", "computation_failed", "missing_file"]
    assert not any(cell.startswith(("=", "+", "-", "@", "\t")) for row in rows for cell in row)


def test_every_line_of_the_history_is_an_event_of_ours(run: Path) -> None:
    lines = (run / "events.jsonl").read_bytes().splitlines()
    events = [json.loads(line) for line in lines]
    assert all(line.isascii() and line.decode().isprintable() for line in lines)
    assert [event["event"] for event in events].count("RunFinished") == 1
    assert all({"time", "event"} <= event.keys() for event in events)


def test_no_file_lies_outside_of_the_run(hostile: Hostile, run: Path) -> None:
    ours = {"cutouts", "galaxies.parquet", "net.py", "weights.safetensors", "job.yaml", "run"}
    found = {path.name for path in hostile.folder.iterdir()}
    assert found - {"__pycache__"} == ours
    assert not list(hostile.folder.parent.rglob("escape"))


def test_the_report_holds_the_survey_as_text_alone(run: Path) -> None:
    page = (run / "report/index.html").read_text(encoding="utf-8")
    assert "&lt;script&gt;document.title=" in page
    assert page.count("<script") == 1
    assert "<img src=x" not in page
    assert "<img src='http" not in page
    assert "\x1b" not in page
    assert "\u202e" not in page


@pytest.mark.skipif(shutil.which("chromium") is None, reason="needs a browser")
def test_a_browser_runs_nothing_of_the_survey_and_fetches_nothing(
    hostile: Hostile, run: Path, tmp_path: Path
) -> None:
    page = run / "report/index.html"
    # The same page without its policy and its escapes: the trap must snap, or it shows nothing.
    bare = page.read_text(encoding="utf-8").replace("Content-Security-Policy", "x")
    trap = tmp_path / "trap.html"
    trap.write_text(bare.replace("&lt;", "<").replace("&gt;", ">").replace("&#39;", "'"))
    assert "PWNED" in title_in_browser(trap, tmp_path)
    assert hostile.heard
    hostile.heard.clear()
    assert "Occulta: hostile" in title_in_browser(page, tmp_path)
    assert hostile.heard == []


def title_in_browser(page: Path, folder: Path) -> str:
    command = ["chromium", "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom"]
    command += ["--virtual-time-budget=5000", f"--user-data-dir={folder / 'profile'}"]
    done = subprocess.run(
        [*command, page.as_uri()], capture_output=True, text=True, timeout=120, check=True
    )
    return done.stdout.split("<title>", 1)[1].split("</title>", 1)[0]


@pytest.mark.slow
def test_the_command_line_tells_no_secret_and_sends_no_escape(
    hostile: Hostile, tmp_path: Path
) -> None:
    out = tmp_path / "run"

    def occulta(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [COMMAND, *arguments],
            cwd=hostile.folder,
            env={**os.environ, **SECRETS},
            capture_output=True,
            text=True,
            timeout=300,
        )

    done = [
        occulta("run", "job.yaml", "--out", out),
        occulta("status", out),
        occulta("verify", out),
        occulta("maps", out),
        occulta("report", out),
    ]
    assert [each.returncode for each in done] == [3, 0, 0, 0, 0], [each.stderr for each in done]
    assert_no_secret(out, *(each.stdout + each.stderr for each in done))
    for each in done:
        for line in (each.stdout + each.stderr).splitlines():
            assert line.isprintable()


def test_code_is_not_run_without_trust(hostile: Hostile) -> None:
    with pytest.raises(RefusedError, match="is code that would run with your rights"):
        plan_job(load_job(hostile.folder / "job.yaml", ["network.trust=null"]))
