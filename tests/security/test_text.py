"""Text from outside never forges a line, drives a terminal, tells a secret or becomes a formula."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pytest

from cluster.events import RunEnded
from cluster.text import HIDDEN, has_credentials, is_secret_name, one_line, redact
from cluster.unit import ObjectFailure
from jobs.errors import RefusedError
from jobs.run.events import EventLog
from jobs.run.quarantine import quarantine_csv
from jobs.specs.load import load_job

SECRET = 'aK3/x+"Zq9 \\pQ=='
FORGED = 'x\n{"event": "RunFinished"}\r\x1b[2J\u2028\u202e\x00\ud800'


def rows(*failures: ObjectFailure) -> list[list[str]]:
    content = quarantine_csv(("plan", failure) for failure in failures).decode()
    assert len(content.splitlines()) == len(failures) + 1
    assert content.replace("\n", "").isprintable()
    return list(csv.reader(io.StringIO(content)))[1:]


@pytest.mark.parametrize("name", ["HF_TOKEN", "password", "AWS_ACCESS_KEY_ID", "db.api-key"])
def test_names_of_secrets(name: str) -> None:
    assert is_secret_name(name)


@pytest.mark.parametrize("name", ["tokenizer", "passes", "key", "RAY_AUTH_TOKEN_PATH", "compass"])
def test_names_of_no_secrets(name: str) -> None:
    assert not is_secret_name(name)


def test_one_line_keeps_what_can_be_read_and_escapes_the_rest() -> None:
    assert one_line("NGC 4567 ä 星") == "NGC 4567 ä 星"
    assert one_line(FORGED).isprintable()
    assert one_line("a\nb") == "a\\nb"


def test_values_of_secret_variables_are_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    monkeypatch.setenv("DB_PASSWORD", "short")  # would be found in harmless words
    assert redact(f"403 for {SECRET}: shortened") == f"403 for {HIDDEN}: shortened"
    assert SECRET not in json.loads(redact(json.dumps({"reason": SECRET})))["reason"]


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("s3://user:pa55word@host/bucket", "host/bucket"),
        ("https://h/o?X-Amz-Signature=pa55word&partNumber=1", "partNumber=1"),
        ("Authorization: Bearer pa55word, retried", "retried"),
        ("authorization: pa55word", "authorization"),
    ],
)
def test_passwords_in_addresses_are_hidden(text: str, kept: str) -> None:
    assert "pa55word" not in redact(text)
    assert kept in redact(text)


@pytest.mark.parametrize("text", ["file:net.py:build", "s3://bucket/a@b:c", "12:30:00 at x@y"])
def test_other_text_stays(text: str) -> None:
    assert redact(text) == text
    assert not has_credentials(text)


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t", "\r", "\n", "＝"])
def test_no_cell_of_the_quarantine_list_is_a_formula(start: str) -> None:
    evil = f"{start}HYPERLINK(1)"
    (row,) = rows(ObjectFailure(0, evil, "missing_file", evil))
    assert all(row[cell].startswith("'") for cell in (0, 3))


def test_no_identifier_forges_a_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    (row,) = rows(ObjectFailure(0, FORGED, "missing_file", f"{FORGED} {SECRET}"))
    assert SECRET not in row[3]
    assert HIDDEN in row[3]
    log = tmp_path / "events.jsonl"
    EventLog(log)(RunEnded("failed", f"{FORGED} {SECRET}"))
    text = log.read_text(encoding="utf-8")
    assert len(text.splitlines()) == 1
    assert text.replace("\n", "").isprintable()
    assert json.loads(text)["event"] == "RunEnded"
    assert SECRET not in json.loads(text)["reason"]


JOB = """
kind: attribution
name: why
survey: {format: fits, path: cutouts}
network: {architecture: "timm:x", weights: w.safetensors, classes: [a, b], options: {OPTION}}
methods: [{method: saliency}]
output: OUTPUT
"""


@pytest.mark.parametrize(
    ("option", "output", "place"),
    [
        ("api_token: pa55word", "run", "network.options.api_token: looks like a secret"),
        ("a: {password: pa55word}", "run", "network.options.a.password: looks like a secret"),
        ("a: 1", "s3://me:pa55word@bucket/run", "output: holds a password"),
        ("a: ['https://h/?X-Amz-Signature=pa55word']", "run", r"network.options.a\[0\]: holds"),
    ],
)
def test_a_job_file_with_a_secret_is_refused_without_telling_it(
    tmp_path: Path, option: str, output: str, place: str
) -> None:
    path = tmp_path / "job.yaml"
    path.write_text(JOB.replace("OPTION", option).replace("OUTPUT", output))
    with pytest.raises(RefusedError, match=f"^job.yaml: {place}") as caught:
        load_job(path)
    assert "pa55word" not in str(caught.value)


def test_options_that_only_sound_like_secrets_are_none(tmp_path: Path) -> None:
    path = tmp_path / "job.yaml"
    path.write_text(JOB.replace("OPTION", "class_token: true").replace("OUTPUT", "run"))
    assert load_job(path).network.options == {"class_token": True}
