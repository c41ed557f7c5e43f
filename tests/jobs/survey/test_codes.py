"""What can go wrong and what is documented are the same list."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import cluster
import cluster.errors
import jobs
import jobs.errors
from cluster.search import DIED, FAILED, HUNG
from jobs.survey.codes import CODE_GROUPS, ERROR_CODES
from jobs.survey.reader import ReadFailure

PAGE = Path(jobs.__path__[0]).parent / "docs/reference/errors.md"
RAISERS = ("UnreadableError", "_failure", "ObjectFailure")


def modules() -> Iterator[Path]:
    for package in (jobs, cluster):
        yield from Path(package.__path__[0]).rglob("*.py")


def raised_codes() -> set[str]:
    """Return every string that stands where a code does in the calls that name one."""
    found = set()
    for module in modules():
        for node in ast.walk(ast.parse(module.read_text())):
            if not isinstance(node, ast.Call):
                continue
            name = getattr(node.func, "id", getattr(node.func, "attr", ""))
            if name in RAISERS:
                strings = [a.value for a in node.args if isinstance(a, ast.Constant)]
                strings += [
                    k.value.value for k in node.keywords if isinstance(k.value, ast.Constant)
                ]
                found |= {s for s in strings if isinstance(s, str) and re.fullmatch("[a-z_]+", s)}
    return {text for text in found if "_" in text}


def table_rows() -> list[list[str]]:
    lines = PAGE.read_text(encoding="utf-8").splitlines()
    return [line.strip("| ").split(" | ") for line in lines if line.startswith("| ")]


def test_every_code_is_in_the_table_and_every_code_of_the_table_is_used() -> None:
    assert raised_codes() | {FAILED, DIED, HUNG} == set(ERROR_CODES)


def test_no_code_is_in_two_groups() -> None:
    assert sum(map(len, CODE_GROUPS.values())) == len(ERROR_CODES)


def test_the_page_lists_every_code_and_no_other() -> None:
    printed = {row[0].strip("`"): row[1:] for row in table_rows() if len(row) == 4}
    del printed["code"]
    printed = {code: row for code, row in printed.items() if re.fullmatch("[a-z_]+", code)}
    wanted = {code: [text.meaning, text.cause, text.cure] for code, text in ERROR_CODES.items()}
    assert printed == wanted


def test_the_page_lists_every_exit_code() -> None:
    def subclasses(kind: type[cluster.errors.OccultaError]) -> Iterator[type]:
        for child in kind.__subclasses__():
            yield child
            yield from subclasses(child)

    printed = {row[1].strip("` "): row[0] for row in table_rows() if len(row) == 4}
    own = [kind for kind in subclasses(cluster.errors.OccultaError) if "Test" not in kind.__name__]
    assert jobs.errors.RefusedError in own
    for kind in own:
        if kind.__module__ in ("jobs.errors", "cluster.errors"):
            assert printed.get(kind.__name__) == str(kind.exit_code)


def test_each_part_is_a_sentence() -> None:
    for code, text in ERROR_CODES.items():
        for sentence in (text.meaning, text.cause, text.cure):
            assert sentence.endswith("."), code
            assert "|" not in sentence, code
            assert sentence.isprintable(), code


def test_no_other_code_can_be_given() -> None:
    with pytest.raises(AssertionError, match="bad_luck"):
        ReadFailure("bad_luck", "x.fits: bad luck")
