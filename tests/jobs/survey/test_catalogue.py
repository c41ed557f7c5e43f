from __future__ import annotations

import os
import pickle
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from astropy import units
from astropy.table import Table
from pyarrow import parquet as pq

from jobs.errors import RefusedError
from jobs.specs.survey import SurveySpec
from jobs.survey.catalogue import Catalogue
from jobs.survey.describe import read_catalogue

HUGE = 2**60 + 1  # float64 would make it 2**60


def written(folder: Path, columns: dict[str, object], kind: str = "parquet") -> str:
    path = str(folder / f"catalogue.{kind}")
    table = pa.table(columns)
    if kind == "parquet":
        pq.write_table(table, path)
    elif kind == "csv":
        lines = [",".join(table.column_names)]
        lines += [",".join(map(str, row.values())) for row in table.to_pylist()]
        Path(path).write_text("\n".join(lines) + "\n")
    else:
        Table({name: np.asarray(values) for name, values in columns.items()}).write(path)
    return path


def read(folder: Path, catalogue: str | None, **more: object) -> Catalogue:
    spec = {"format": "fits", "path": str(folder), "catalogue": catalogue, **more}
    return read_catalogue(SurveySpec.model_validate(spec))


@pytest.mark.parametrize("kind", ["parquet", "csv", "fits"])
def test_every_kind_of_table_gives_the_same_catalogue(tmp_path: Path, kind: str) -> None:
    columns = {
        "OBJID": [HUGE, 7],
        "RA": [-10.0, 350.5],
        "Dec": [5.0, -5.0],
        "Class": ["spiral", "smooth"],
        "FileName": ["a.fits", "./b.fits"],
        "mag_r": [17.5, 18.25],
        "n": [1, 2],
    }
    catalogue = read(tmp_path, written(tmp_path, columns, kind))
    assert catalogue.table.column_names == ["id", "ra", "dec", "label", "path", "mag_r", "n"]
    assert catalogue.ids == [str(HUGE), "7"]
    assert catalogue.table["ra"].to_pylist() == [350.0, 350.5]
    assert catalogue.labels == ["spiral", "smooth"]
    assert catalogue.paths == ["a.fits", "b.fits"]
    assert catalogue.table["mag_r"].to_pylist() == [17.5, 18.25]
    reference = read(tmp_path, written(tmp_path, columns, "parquet"))
    assert catalogue.digest() == reference.digest()


def test_zoobots_catalogue_is_understood(fits_survey) -> None:
    catalogue = read_catalogue(fits_survey.spec)
    assert catalogue.ids == fits_survey.ids
    assert catalogue.paths == fits_survey.names  # absolute in the file
    assert catalogue.labels[:2] == ["smooth", "spiral"]
    assert catalogue.table["smooth-or-featured-gz2_smooth"].to_pylist() == list(range(6))


def test_text_in_csv_stays_as_it_is_written(image_survey) -> None:
    catalogue = read_catalogue(image_survey.spec)
    assert catalogue.ids == ["0000", "0001", "0002", "0003", "0004", "0005"]
    assert catalogue.labels == ["0", "1", "0", "1", "0", "1"]
    assert np.isnan(catalogue.table["ra"].to_numpy()).all()


def test_overrides_win_and_the_passed_over_column_stays(tmp_path: Path) -> None:
    path = written(tmp_path, {"id": [1, 2], "dr8_id": ["x", "y"], "label": ["a", "b"]})
    catalogue = read(tmp_path, path, columns={"id": "dr8_id"})
    assert catalogue.ids == ["x", "y"]
    assert catalogue.table["survey_id"].to_pylist() == [1, 2]


def test_a_column_is_named_for_one_part_only(tmp_path: Path) -> None:
    path = written(tmp_path, {"id": ["x"], "target": ["t"]})
    assert read(tmp_path, path, columns={"id": "target"}).labels == [""]
    with pytest.raises(RefusedError, match="'id' is given two parts"):
        read(tmp_path, path, columns={"id": "id", "label": "id"})


@pytest.mark.parametrize(
    ("columns", "more", "message"),
    [
        (
            {"id": ["a"]},
            {"columns": {"id": "Ids"}},
            "columns.id: .* 'Ids'; did you mean 'id'.*: id",
        ),
        ({"name": ["a"]}, {}, "no column of identifiers .* survey.columns.id; there are: name"),
        ({"id": [1.0, 2.0]}, {}, "floating-point .* save them as integers or text"),
        ({"id": ["a"], "ra": ["12:30:00"]}, {}, "'ra' is string where ra needs degrees"),
        ({"id": pa.array([], pa.string())}, {}, "the catalogue is empty"),
        ({"id": [{"a": 1}]}, {}, "can't be the id: text is needed"),
    ],
)
def test_a_table_that_is_no_catalogue_is_refused(
    tmp_path: Path, columns: dict[str, object], more: dict[str, object], message: str
) -> None:
    path = written(tmp_path, columns)
    with pytest.raises(RefusedError, match=message) as caught:
        read(tmp_path, path, **more)
    assert path in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "Empty CSV"),
        (b"id,ra\n1,2\n3\n", "Expected 2 columns"),
        (b"id,id\n1,2\n", "'id' appears more than once"),
        (b"id,ra\n1,twelve\n", "'ra' is string"),
        (b"id\n\xff\n", "UTF8"),
        (b"PAR1 and then text", "can't be read"),
        (b"SIMPLE but not FITS", "can't be read"),
    ],
)
def test_a_damaged_table_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "catalogue"
    path.write_bytes(content)
    with pytest.raises(RefusedError, match=message) as caught:
        read(tmp_path, str(path))
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RefusedError, match=r"survey.catalogue: .*none.csv' does not exist"):
        read(tmp_path, str(tmp_path / "none.csv"))
    with pytest.raises(RefusedError, match=r"survey.path: .*nowhere' is no folder"):
        read(tmp_path / "nowhere", None)
    with pytest.raises(RefusedError, match=r"holds no file named .fits"):
        read(tmp_path, None)
    with pytest.raises(RefusedError, match="is no simulation run"):
        read_catalogue(SurveySpec(format="simulated", path=str(tmp_path)))


def test_no_null_is_left(tmp_path: Path) -> None:
    columns = {
        "id": ["a", "b"],
        "ra": pa.array([1.0, None]),
        "dec": pa.array([1.0, None]),
        "label": pa.array([1.0, None]),
        "flux": pa.array([1.5, None]),
        "count": pa.array([3, None]),
        "huge": pa.array([HUGE, None]),
        "flag": pa.array([True, None]),
        "text": pa.array(["x", None]).dictionary_encode(),
        "nothing": pa.nulls(2),
        "image": [{"bytes": b"1"}, {"bytes": b"2"}],
        "blob": [b"1", b"2"],
        "bands": [[1.0], [2.0]],
    }
    table = read(tmp_path, written(tmp_path, columns), path=str(tmp_path)).table
    assert all(column.null_count == 0 for column in table.columns)
    first, second = table.drop_columns(["path"]).to_pylist()
    assert first == {
        "id": "a",
        "ra": 1.0,
        "dec": 1.0,
        "label": "1",
        "flux": 1.5,
        "count": 3.0,
        "huge": str(HUGE),
        "flag": 1.0,
        "text": "x",
    }
    assert [second[name] for name in ("label", "huge", "text")] == ["", "", ""]
    assert all(np.isnan(second[name]) for name in ("ra", "dec", "flux", "count", "flag"))


def test_column_names_never_become_paths(tmp_path: Path) -> None:
    columns = {"id": ["a"], "../x": [1], "a/b": [2], "a_b": [3], "__g": [4], "zarr.json": [5]}
    names = read(tmp_path, written(tmp_path, columns)).table.column_names[5:]
    assert names == ["_x", "a_b", "a_b_2", "g", "survey_zarr.json"]


def test_angles_in_other_units_become_degrees(tmp_path: Path) -> None:
    table = Table({"id": ["a"], "ra": [12.0], "dec": [np.pi / 4]})
    table["ra"].unit, table["dec"].unit = units.hour, units.rad
    path = str(tmp_path / "catalogue.fits")
    table.write(path)
    read_back = read(tmp_path, path).table
    assert read_back["ra"].to_pylist() == pytest.approx([180.0])
    assert read_back["dec"].to_pylist() == pytest.approx([45.0])


def test_files_are_found_by_id(tmp_path: Path) -> None:
    for name in ("1.fits", "sub/2.FITS", "twice.fits", "sub/twice.fits", "sub/3.fits.gz", "no.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    ids = ["1", "2", "twice", "sub/twice", "3", "no", "../1"]
    catalogue = read(tmp_path, written(tmp_path, {"id": ids}))
    # A name that two files have says nothing; the path of one of them does.
    expected = ["1.fits", "sub/2.FITS", "", "sub/twice.fits", "sub/3.fits.gz", "", ""]
    assert catalogue.paths == expected


def test_a_folder_is_its_own_catalogue(tmp_path: Path) -> None:
    for name in ("b.fits", "a.fit", ".a.fits", "sub/c.fits", "x.png", "catalogue.csv"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    os.symlink(tmp_path, tmp_path / "sub" / "loop")
    os.symlink("self", tmp_path / "self")
    catalogue = read(tmp_path, None)
    assert catalogue.ids == ["a", "b", "sub/c"]
    assert catalogue.paths == ["a.fit", "b.fits", "sub/c.fits"]


def test_rows_that_can_be_no_objects(tmp_path: Path) -> None:
    columns = {
        "id": pa.array(["a", "b", "a", None, "", "c", "d", "e\n\u202e", "e\n\u202e", "f", "g"]),
        "ra": pa.array([360.0, -180.0, 1, 1, 1, 400.0, None, 1, 1, None, np.inf]),
        "dec": pa.array([90.0, -90.0, 1, 1, 1, 0.0, None, 1, 1, 5.0, 0.0]),
    }
    path = written(tmp_path, columns)
    catalogue = read(tmp_path, path)
    found = {failure.index: failure for failure in catalogue.failures()}
    assert {row: failure.code for row, failure in found.items()} == {
        2: "duplicate_id",
        3: "missing_id",
        4: "missing_id",
        5: "bad_coordinates",
        8: "duplicate_id",
        9: "bad_coordinates",
        10: "bad_coordinates",
    }
    assert catalogue.table["ra"].to_pylist()[:2] == [0.0, 180.0]
    assert found[2].id == "a"
    assert found[2].reason == (
        f"{path}: row 2: id 'a' repeats row 0, which is kept: make the ids unique or drop one row"
    )
    assert "\\n\\u202e" in found[8].reason
    assert all(failure.reason.isprintable() for failure in found.values())
    assert [failure.index for failure in catalogue.duplicates()] == [2, 8]


def test_unicode_twins_are_two_objects(tmp_path: Path) -> None:
    catalogue = read(tmp_path, written(tmp_path, {"id": ["é", "e\u0301"]}))
    assert catalogue.failures() == []


def test_parts_of_a_catalogue(fits_survey) -> None:
    catalogue = read_catalogue(fits_survey.spec)
    part = catalogue.slice(2, 4)
    assert len(part) == 2
    assert part.ids == fits_survey.ids[2:4]
    assert catalogue.take([4, 0]).ids == [fits_survey.ids[4], fits_survey.ids[0]]
    assert catalogue.take([2, 3]).digest() == part.digest() != catalogue.digest()
    assert Catalogue.from_table(part.table).digest() == part.digest()
    with pytest.raises(ValueError, match="column 'id' of type string"):
        Catalogue.from_table(pa.table({"id": [1]}))


def test_a_pickled_part_carries_its_own_rows_only() -> None:
    ids = [f"object-{row:06d}" for row in range(20_000)]
    nothing = np.zeros(len(ids))
    table = pa.table({"id": ids, "ra": nothing, "dec": nothing, "label": ids})
    part = Catalogue.from_table(table, "x.csv").slice(100, 104)
    pickled = pickle.dumps(part)
    assert len(pickled) < 5000
    again = pickle.loads(pickled)
    assert again.ids == ids[100:104]
    assert again.source == "x.csv"
    assert again.digest() == part.digest()
