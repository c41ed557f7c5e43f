from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
import zarr

from jobs.errors import RefusedError
from jobs.specs.survey import SurveySpec
from jobs.survey.catalogue import Catalogue
from jobs.survey.describe import read_catalogue
from jobs.survey.reader import Cutout, ReadFailure
from jobs.survey.survey import open_reader, open_survey


def test_the_catalogue_is_the_runs(simulated_survey) -> None:
    catalogue = read_catalogue(simulated_survey.spec)
    assert catalogue.table.column_names == ["id", "ra", "dec", "label", "row", "seeing"]
    assert catalogue.ids == simulated_survey.ids
    assert catalogue.table["row"].to_pylist() == list(range(8))
    assert catalogue.labels == ["barred"] * 8
    assert catalogue.failures() == []


@pytest.mark.parametrize("rows", [[0, 1, 2, 3, 4, 5, 6, 7], [7, 0, 4, 4, 2], [5], []])
def test_rows_come_in_the_order_asked(simulated_survey, rows: list[int]) -> None:
    survey = open_survey(simulated_survey.spec)
    answers = survey.read(rows)
    assert len(answers) == len(rows)
    for row, cutout in zip(rows, answers, strict=True):
        assert isinstance(cutout, Cutout)
        expected = simulated_survey.pixels[row]
        assert np.array_equal(cutout.pixels, expected)
        assert cutout.sha256 == hashlib.sha256(expected.tobytes()).hexdigest()
        assert cutout.pixels.flags.c_contiguous


def test_a_chunk_is_read_once(simulated_survey, monkeypatch: pytest.MonkeyPatch) -> None:
    survey = open_survey(simulated_survey.spec)
    slabs = []
    read = zarr.Array.__getitem__

    def counted(array: zarr.Array, key: slice) -> np.ndarray:
        slabs.append((key.start, key.stop))
        return read(array, key)

    monkeypatch.setattr(zarr.Array, "__getitem__", counted)
    survey.read([7, 0, 4, 4, 2])
    assert slabs == [(0, 3), (4, 5), (7, 8)]


def test_a_reader_needs_only_the_rows(simulated_survey) -> None:
    table = read_catalogue(simulated_survey.spec).slice(4, 6).table
    answers = open_reader(simulated_survey.spec, 3, (20, 20)).read(Catalogue.from_table(table))
    assert np.array_equal(answers[1].pixels, simulated_survey.pixels[5])


def shards(run: Path) -> list[Path]:
    return sorted((run / "results.zarr/cutout/image/c").glob("*/0/0/0"))


def test_a_damaged_chunk_fails_its_own_rows(simulated_survey) -> None:
    first, _ = shards(simulated_survey.folder)
    content = bytearray(first.read_bytes())
    content[100] ^= 1  # in the first chunk of the first shard
    first.write_bytes(content)
    answers = open_survey(simulated_survey.spec).read(range(8))
    for row, answer in enumerate(answers):
        if row < 3:
            assert isinstance(answer, ReadFailure)
            assert answer.code == "corrupt_file"
            assert f"results.zarr/cutout/image row {row}: its chunk is damaged" in answer.reason
        else:
            assert np.array_equal(answer.pixels, simulated_survey.pixels[row])


def test_a_missing_shard_is_no_image_of_nan(simulated_survey) -> None:
    shards(simulated_survey.folder)[1].unlink()
    answers = open_survey(simulated_survey.with_spec(nan=0.0)).read(range(8))
    codes = [answer.code if isinstance(answer, ReadFailure) else "" for answer in answers]
    assert codes == [""] * 6 + ["missing_chunk"] * 2


def test_a_row_that_the_run_lacks(simulated_survey) -> None:
    table = read_catalogue(simulated_survey.spec).table
    column = table.column_names.index("row")
    moved = table.set_column(column, "row", [np.array([0, 8, -1, 3, 4, 5, 9999, 7])])
    answers = open_reader(simulated_survey.spec).read(Catalogue.from_table(moved))
    codes = [answer.code if isinstance(answer, ReadFailure) else "" for answer in answers]
    assert codes == ["", "missing_row", "missing_row", "", "", "", "missing_row", ""]
    assert "row 8: there are 8 rows" in answers[1].reason


def test_other_bands_or_shape(simulated_survey) -> None:
    answers = open_survey(simulated_survey.spec, bands=1, shape=(20, 20)).read([0])
    assert answers[0].code == "wrong_bands"
    answers = open_survey(simulated_survey.spec, bands=3, shape=(24, 20)).read([0])
    assert answers[0].code == "wrong_shape"


def test_a_run_without_images_is_refused(tmp_path: Path) -> None:
    group = zarr.create_group(tmp_path / "results.zarr")
    spec = SurveySpec(format="simulated", path=str(tmp_path))
    with pytest.raises(RefusedError, match="no group 'catalogue'"):
        read_catalogue(spec)
    with pytest.raises(RefusedError, match="no array cutout/image"):
        open_reader(spec)
    group.create_array("catalogue/id", data=np.array([], dtype=np.int64))
    with pytest.raises(RefusedError, match="catalogue is empty"):
        read_catalogue(spec)
