"""Every bad image or path: its code, one line that names it, and unharmed neighbours."""

from __future__ import annotations

import errno
import os

import numpy as np
import pytest
from conformance.bad_images import BAD, RGB, encoded

from jobs.survey import files
from jobs.survey.reader import Cutout, ReadFailure
from jobs.survey.survey import open_reader, open_survey

ROW = 2


@pytest.mark.parametrize("name", BAD)
def test_only_the_bad_object_fails(image_survey, name: str) -> None:
    damage, code, fact = BAD[name]
    survey = open_survey(image_survey.spec, bands=3, shape=(20, 20))
    before = survey.read(survey.catalogue)
    damage(image_survey.file(ROW))
    after = survey.read(survey.catalogue)
    for row, (old, new) in enumerate(zip(before, after, strict=True)):
        assert isinstance(old, Cutout)
        assert np.array_equal(old.pixels, image_survey.pixels[row])
        if row != ROW:
            assert isinstance(new, Cutout)
            assert new.pixels.tobytes() == old.pixels.tobytes()
            assert new.sha256 == old.sha256
    failure = after[ROW]
    assert isinstance(failure, ReadFailure), failure.pixels.shape
    assert failure.code == code, failure.reason
    assert failure.reason.startswith(f"{image_survey.names[ROW]}: ")
    assert fact in failure.reason
    assert failure.reason.isprintable()


def with_path(survey, path: str):
    """Return the survey's catalogue with another path in one row."""
    catalogue = open_survey(survey.spec).catalogue
    paths = catalogue.paths
    paths[ROW] = path
    column = catalogue.table.column_names.index("path")
    return type(catalogue)(catalogue.table.set_column(column, "path", [paths]))


@pytest.mark.parametrize(
    ("path", "code"),
    [
        ("../outside.png", "path_outside_survey"),
        ("sub/../../outside.png", "path_outside_survey"),
        ("/etc/passwd", "path_outside_survey"),
        (".", "path_outside_survey"),
        ("../images-of-others/0002.png", "path_outside_survey"),
        ("0002.png/x.png", "missing_file"),
        ("x" * 300, "missing_file"),
        ("a\0b.png", "missing_file"),
        ("a\nb\u202e.png", "missing_file"),
        ("", "missing_file"),
    ],
)
def test_a_path_that_leads_nowhere_good(image_survey, path: str, code: str) -> None:
    others = image_survey.folder.parent / "images-of-others"
    others.mkdir()
    for outside in (others / "0002.png", image_survey.folder.parent / "outside.png"):
        outside.write_bytes(encoded(RGB))
    answers = open_reader(image_survey.spec).read(with_path(image_survey, path))
    failure = answers[ROW]
    assert isinstance(failure, ReadFailure)
    assert failure.code == code
    assert failure.reason.isprintable()
    assert [isinstance(answer, Cutout) for answer in answers].count(True) == 5


def test_a_path_with_dots_inside_the_folder_is_fine(image_survey) -> None:
    catalogue = with_path(image_survey, "sub/../0002.png")
    cutout = open_reader(image_survey.spec).read(catalogue)[ROW]
    assert isinstance(cutout, Cutout)
    assert np.array_equal(cutout.pixels, image_survey.pixels[ROW])


def test_a_file_that_may_not_be_read(image_survey, monkeypatch: pytest.MonkeyPatch) -> None:
    # The superuser may read everything, so the system's answer is given in its place.
    opened = os.open

    def refuse(path: str, *rest: int) -> int:
        if path.endswith(image_survey.names[ROW]):
            raise PermissionError(errno.EACCES, "Permission denied")
        return opened(path, *rest)

    monkeypatch.setattr(files.os, "open", refuse)
    answers = open_survey(image_survey.spec).read(range(4))
    failure = answers.pop(ROW)
    assert isinstance(failure, ReadFailure)
    assert failure.code == "unreadable_file"
    assert failure.reason.startswith("0002.png: can't be opened (Permission denied)")
    assert all(isinstance(answer, Cutout) for answer in answers)


def test_a_fault_of_the_storage_is_not_blamed_on_the_object(
    image_survey, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> int:
        raise OSError(errno.EIO, "Input/output error")

    survey = open_survey(image_survey.spec)
    monkeypatch.setattr(files.os, "open", fail)
    with pytest.raises(OSError, match="Input/output error"):
        survey.read([ROW])
