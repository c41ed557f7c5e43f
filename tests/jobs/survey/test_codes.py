"""What can go wrong and what is documented are the same list."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import jobs.survey
from jobs.survey.codes import ERROR_CODES
from jobs.survey.reader import ReadFailure


def raised_codes() -> set[str]:
    """Return every string that stands where a code does in the package's calls."""
    found = set()
    for module in Path(jobs.survey.__path__[0]).glob("*.py"):
        for node in ast.walk(ast.parse(module.read_text())):
            if not isinstance(node, ast.Call):
                continue
            name = getattr(node.func, "id", getattr(node.func, "attr", ""))
            if name in ("UnreadableError", "_failure"):
                strings = [a.value for a in node.args if isinstance(a, ast.Constant)]
                found |= {text for text in strings if isinstance(text, str) and "_" in text}
    return found


def test_every_code_is_documented_and_every_documented_code_is_used() -> None:
    assert raised_codes() == set(ERROR_CODES)


def test_each_code_says_what_to_do() -> None:
    for code, text in ERROR_CODES.items():
        assert text.count(". ") >= 1, code
        assert text.endswith("."), code


def test_no_other_code_can_be_given() -> None:
    with pytest.raises(AssertionError, match="bad_luck"):
        ReadFailure("bad_luck", "x.fits: bad luck")
