from __future__ import annotations

from itertools import pairwise

import numpy as np
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from jobs.survey.digest import table_digest

rows = st.lists(
    st.tuples(
        st.text(max_size=4),
        st.floats(allow_nan=False),
        st.integers(-(2**63), 2**63 - 1),
        st.booleans(),
    ),
    max_size=12,
)
SCHEMA = pa.schema([("id", pa.string()), ("x", pa.float64()), ("n", pa.int64()), ("b", pa.bool_())])


def table(values: list[tuple[str, float, int, bool]]) -> pa.Table:
    columns = list(map(list, zip(*values, strict=True))) if values else [[], [], [], []]
    return pa.Table.from_arrays(
        [pa.array(column, type_) for column, type_ in zip(columns, SCHEMA.types, strict=True)],
        schema=SCHEMA,
    )


@given(rows, st.lists(st.integers(0, 12), max_size=4))
def test_chunks_do_not_matter(values: list[tuple[str, float, int, bool]], cuts: list[int]) -> None:
    edges = sorted({0, len(values), *(min(cut, len(values)) for cut in cuts)})
    whole = table(values)
    pieces = [whole.slice(a, b - a) for a, b in pairwise(edges)]
    assert table_digest(pa.concat_tables([*pieces, whole.slice(0, 0)])) == table_digest(whole)


@given(rows, rows)
def test_content_does(
    values: list[tuple[str, float, int, bool]], others: list[tuple[str, float, int, bool]]
) -> None:
    same = repr(values) == repr(others)  # tells -0.0 from 0.0, as the bytes do
    assert (table_digest(table(values)) == table_digest(table(others))) == same


def test_names_types_and_borders_between_texts_count() -> None:
    tables = [
        pa.table({"a": ["ab", "c"]}),
        pa.table({"a": ["a", "bc"]}),
        pa.table({"b": ["ab", "c"]}),
        pa.table({"a": np.array([0, 0], dtype=np.int64)}),
        pa.table({"a": np.array([0, 0], dtype=np.float64)}),
        pa.table({"a": np.array([0, 0], dtype=np.int32)}),
    ]
    assert len({table_digest(each) for each in tables}) == len(tables)
