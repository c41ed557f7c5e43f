from __future__ import annotations

import os

import numpy as np
import pytest
import zarr
from pyarrow import parquet as pq

from jobs.errors import RefusedError
from jobs.survey.catalogue import Catalogue
from jobs.survey.reader import Cutout, ReadFailure
from jobs.survey.survey import open_reader, open_survey

SURVEYS = [
    "fits_survey",
    "image_survey",
    "simulated_survey",
    "npy_survey",
    "hdf5_survey",
    "hdf5_rows",
    "zarr_rows",
    "parquet_rows",
]


@pytest.fixture(params=SURVEYS)
def on_disk(request: pytest.FixtureRequest):
    return request.getfixturevalue(request.param)


def test_every_format_gives_native_float32(on_disk) -> None:
    survey = open_survey(on_disk.spec, bands=3, shape=(20, 20))
    answers = survey.read(survey.catalogue)
    assert len(answers) == len(on_disk.ids)
    for expected, cutout in zip(on_disk.pixels, answers, strict=True):
        assert isinstance(cutout, Cutout)
        assert cutout.pixels.dtype == np.dtype("=f4")
        assert cutout.pixels.flags.c_contiguous
        assert np.array_equal(cutout.pixels, expected)
        assert len(cutout.sha256) == 64
    assert (survey.reader.bands, survey.reader.shape) == (3, (20, 20))


def test_every_format_knows_its_objects(on_disk) -> None:
    catalogue = open_survey(on_disk.spec).catalogue
    assert catalogue.ids == on_disk.ids
    assert catalogue.failures() == []


def test_a_worker_reads_from_rows_alone(on_disk) -> None:
    catalogue = open_survey(on_disk.spec).catalogue
    travelled = Catalogue.from_table(catalogue.slice(2, 5).table)
    answers = open_reader(on_disk.spec).read(travelled)
    for row, cutout in zip(range(2, 5), answers, strict=True):
        assert np.array_equal(cutout.pixels, on_disk.pixels[row])


def test_the_digest_is_that_of_the_content(on_disk) -> None:
    assert open_survey(on_disk.spec).digest() == open_survey(on_disk.spec).digest()


# A Zarr store has no one file whose state could be kept: `verify: content` looks after those.
STAMPED = [name for name in SURVEYS if name not in ("simulated_survey", "zarr_rows")]


@pytest.fixture(params=STAMPED)
def changing(request: pytest.FixtureRequest):
    return request.getfixturevalue(request.param)


def test_a_file_that_changes_after_planning_is_caught(changing) -> None:
    survey = open_survey(changing.spec)
    planned = survey.planned(survey.snapshot())
    assert all(isinstance(answer, Cutout) for answer in survey.reader.read(planned))
    path = changing.file(3) if changing.names else changing.folder
    path = path / "0.parquet" if path.is_dir() else path
    os.utime(path, ns=(0, 12345))
    answers = open_reader(changing.spec).read(planned)
    failure = answers[3]
    assert isinstance(failure, ReadFailure)
    assert failure.code == "changed_file"
    assert "changed since the run was planned" in failure.reason
    for other, answer in enumerate(answers):
        if changing.names and other != 3:
            assert np.array_equal(answer.pixels, changing.pixels[other])


@pytest.mark.parametrize("name", ["image_survey", "npy_survey", "zarr_rows"])
def test_content_that_changes_under_the_same_stamp_is_caught(name: str, request) -> None:
    on_disk = request.getfixturevalue(name)
    spec = on_disk.with_spec(verify="content")
    survey = open_survey(spec)
    snapshot = survey.snapshot()
    planned = survey.planned(snapshot)
    assert all(isinstance(answer, Cutout) for answer in open_reader(spec).read(planned))
    if on_disk.names:  # the same size and time
        path = on_disk.file(3)
        info = path.stat()
        content = bytearray(path.read_bytes())
        if name == "npy_survey":
            content[-1] ^= 1
        else:
            content[-3] ^= 0x10  # a JPEG, which has no checksum
        path.write_bytes(content)
        os.utime(path, ns=(info.st_atime_ns, info.st_mtime_ns))
    else:
        array = zarr.open_array(on_disk.folder / "images", mode="r+")
        array[3] = array[4]
    answers = open_reader(spec).read(planned)
    codes = [answer.code if isinstance(answer, ReadFailure) else "" for answer in answers]
    assert codes == [""] * 3 + ["changed_file"] + [""] * (len(answers) - 4)
    assert open_survey(spec).digest() != snapshot.digest


def test_verified_content_belongs_to_the_digest(npy_survey) -> None:
    spec = npy_survey.with_spec(verify="content")
    assert open_survey(spec).digest() != open_survey(npy_survey.spec).digest()
    npy_survey.file(0).write_bytes(b"x")
    content = open_survey(spec).snapshot().content
    assert content[0].as_py() == "wrong_format"


def test_values_of_another_type_are_of_another_processing(npy_survey) -> None:
    first = open_survey(npy_survey.spec)
    spec = first.resolved()
    assert spec.values == "float"
    np.save(npy_survey.file(2), np.arange(1200, dtype=np.uint8).reshape(3, 20, 20))
    answers = open_reader(spec).read(first.catalogue)
    assert answers[2].code == "wrong_type"
    assert "holds uint8 where the survey's values are float" in answers[2].reason
    assert [isinstance(answer, Cutout) for answer in answers].count(True) == 5
    integers = npy_survey.with_spec(values="integer")
    assert isinstance(open_reader(integers).read(first.catalogue)[2], Cutout)


def test_rows_and_catalogue_must_be_as_many(zarr_rows) -> None:
    catalogue = zarr_rows.folder.parent / "five.csv"
    catalogue.write_text("id\n1\n2\n3\n4\n5\n")
    with pytest.raises(RefusedError, match=r"has 5 rows, .*cutouts.zarr has 8; give one row"):
        open_survey(zarr_rows.with_spec(catalogue=str(catalogue)))


def test_rows_without_identifiers_are_called_after_their_number(hdf5_rows) -> None:
    survey = open_survey(hdf5_rows.with_spec(columns={"label": "ans"}))
    assert survey.catalogue.ids == [str(row) for row in range(8)]
    assert survey.catalogue.labels[:4] == ["0", "1", "2", "0"]


def test_the_digest_sees_a_file_change(fits_survey) -> None:
    survey = open_survey(fits_survey.spec)
    before = survey.digest()
    info = fits_survey.file(3).stat()
    fits_survey.file(3).write_bytes(fits_survey.file(2).read_bytes())  # the same size
    os.utime(fits_survey.file(3), ns=(info.st_atime_ns, info.st_mtime_ns + 1))
    touched = survey.digest()
    fits_survey.file(3).unlink()
    gone = survey.digest()
    assert len({before, touched, gone}) == 3


def test_the_digest_leaves_other_files_alone(fits_survey) -> None:
    survey = open_survey(fits_survey.spec)
    before = survey.digest()
    (fits_survey.folder / "notes.txt").write_text("not in the catalogue")
    assert survey.digest() == before


def test_the_digest_follows_linked_folders(fits_survey) -> None:
    # As observatories keep them: the survey's folder holds links to where the files are.
    elsewhere = fits_survey.folder.parent / "elsewhere"
    fits_survey.folder.rename(elsewhere)
    fits_survey.folder.mkdir()
    (fits_survey.folder / "tile").symlink_to(elsewhere)
    survey = open_survey(fits_survey.with_spec(catalogue=None))
    assert survey.catalogue.paths == sorted(f"tile/{name}" for name in fits_survey.names)
    before = survey.digest()
    os.utime(elsewhere / fits_survey.names[0], ns=(0, 0))
    assert survey.digest() != before


def test_the_digest_of_a_simulation_is_its_manifests(simulated_survey) -> None:
    survey = open_survey(simulated_survey.spec)
    before = survey.digest()
    manifest = simulated_survey.folder / "manifest.json"
    manifest.write_text('{"digest": "other"}')
    assert survey.digest() != before
    manifest.unlink()
    with pytest.raises(
        RefusedError, match=r"manifest.json' does not exist: the simulation has not"
    ):
        survey.digest()


def test_the_shape_is_that_of_the_first_readable_object(fits_survey) -> None:
    for row in (0, 1):
        fits_survey.file(row).write_bytes(b"")
    assert open_survey(fits_survey.spec).image_shape == (3, 20, 20)


def test_a_survey_without_a_readable_object_is_refused(image_survey) -> None:
    for row in range(6):
        image_survey.file(row).unlink()
    survey = open_survey(image_survey.spec)
    with pytest.raises(RefusedError, match=r"none of the first 6 .* 0000.png: there is no"):
        _ = survey.image_shape


def test_a_file_name_that_is_no_utf8_fails_alone(image_survey) -> None:
    os.rename(image_survey.file(2), os.fsencode(image_survey.folder) + b"/\xff.png")
    survey = open_survey(image_survey.with_spec(catalogue=None))
    answers = survey.read(survey.catalogue)
    failures = [answer for answer in answers if isinstance(answer, ReadFailure)]
    assert [failure.code for failure in failures] == ["missing_file"]
    assert "udcff.png" in failures[0].reason


def test_an_object_without_a_file_of_its_own(image_survey) -> None:
    catalogue = image_survey.folder.parent / "ids.csv"
    catalogue.write_text("id\n0000\n0001\n9999\n")
    survey = open_survey(image_survey.with_spec(catalogue=str(catalogue)))
    answers = survey.read(survey.catalogue)
    assert np.array_equal(answers[1].pixels, image_survey.pixels[1])
    assert answers[2].code == "missing_file"
    assert "no file, or more than one, is named after '9999'" in answers[2].reason


def test_a_catalogue_whose_paths_start_elsewhere_is_told_where(tmp_path, fits_survey) -> None:
    catalogue = tmp_path / "paths.csv"
    name = fits_survey.names[0]
    catalogue.write_text(f"id,path\na,{fits_survey.folder.name}/{name}\nb,x/{name}\n")
    spec = fits_survey.with_spec(catalogue=str(catalogue), columns={})
    with pytest.raises(RefusedError, match=f"paths start at {tmp_path}: set survey.path to that$"):
        _ = open_survey(spec).image_shape
    catalogue.write_text(f"id,path\nb,x/{name}\n")
    with pytest.raises(RefusedError, match=f"paths start at survey.path, {fits_survey.folder}$"):
        _ = open_survey(spec).image_shape


def test_a_wrong_number_of_bands_points_at_the_preprocessing(fits_survey) -> None:
    with pytest.raises(RefusedError, match=r"has 3 bands where 2 .* preprocess\.mean\?"):
        _ = open_survey(fits_survey.spec, bands=2).image_shape


def test_a_row_group_is_read_once(parquet_rows, monkeypatch: pytest.MonkeyPatch) -> None:
    survey = open_survey(parquet_rows.spec)
    read, groups = pq.ParquetFile.read_row_group, []

    def counted(file: pq.ParquetFile, number: int, **more: object) -> object:
        groups.append(number)
        return read(file, number, **more)

    monkeypatch.setattr(pq.ParquetFile, "read_row_group", counted)
    for row in range(8):
        assert isinstance(survey.read([row])[0], Cutout)
    assert groups == [0, 1, 2, 0, 1]
