"""The canonical form of a row, and the queries and names of its subject: exact, the same whatever the engine."""

import sqlite3
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from store_samples import a_key, write

from hsmkms.store import row_forms, seal_engine, seal_layout, sealed_rows
from hsmkms.store.engine import Store
from hsmkms.store.sealed_tables import Kind, Pattern, SealedColumn, SealedTable

COLUMNS = (
    SealedColumn("b", Kind.TEXT),
    SealedColumn("a", Kind.INTEGER),
    SealedColumn("flag", Kind.BOOLEAN, default=False),
    SealedColumn("data", Kind.BINARY),
)
TABLE = SealedTable("t", COLUMNS, (Pattern("t", ("a",)),))
VALUES = st.one_of(
    st.none(), st.integers(-(2**63), 2**63 - 1), st.text(), st.binary(), st.booleans(), st.floats(allow_nan=False)
)
ROWS = st.fixed_dictionaries({column.name: VALUES for column in TABLE.ordered})


def members(values: dict[str, Any]) -> str:
    """What a row says: its values with their types, but for those that count as missing."""
    return repr(
        [
            (name, value)
            for name, value in values.items()
            if value is not None and not (name == "flag" and value is False)
        ]
    )


@given(ROWS, ROWS)
def test_equal_forms_are_of_equal_rows(one: dict[str, Any], other: dict[str, Any]) -> None:
    """Two rows have the same form exactly if they hold the same values of the same types."""
    for left, right in ((one, other), (one, {**one, "a": other["a"]}), (one, {**other, "flag": one["flag"]})):
        equal = row_forms.form(TABLE, left) == row_forms.form(TABLE, right)
        assert equal == (members(left) == members(right))


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"a": 1, "b": "x", "data": b"y", "flag": True}, "98a161 01 a162 a178 a464617461 c40179 a4666c6167 c3"),
        ({"a": 1, "b": None, "data": None, "flag": False}, "92a161 01"),
        ({"a": 0, "b": "", "data": b"", "flag": None}, "96a161 00 a162 a0 a464617461 c400"),
        ({"a": -1, "b": "\N{SNOWMAN}", "data": None, "flag": 0}, "96a161 ff a162 a3e29883 a4666c6167 00"),
        ({"a": 2**63 - 1, "b": None, "data": None, "flag": False}, "92a161 cf7fffffffffffffff"),
    ],
)
def test_form(values: dict[str, Any], expected: str) -> None:
    """The bytes of the form, by which rows are sealed for ever. NULL and the default are left out."""
    assert row_forms.form(TABLE, values) == bytes.fromhex(expected)


def test_an_added_column_changes_no_form() -> None:
    """A column that was added later and holds NULL or its default leaves the form of a row as it was."""
    row = {"a": 1, "b": "x", "data": None, "flag": True}
    more = SealedTable("t", (*COLUMNS, SealedColumn("c", Kind.TEXT), SealedColumn("d", Kind.INTEGER, 7)), TABLE.subject)
    longer = {column.name: {**row, "c": None, "d": 7}[column.name] for column in more.ordered}
    assert row_forms.form(more, longer) == row_forms.form(TABLE, row)
    assert row_forms.form(more, {**longer, "d": 8}) != row_forms.form(TABLE, row)


def test_subjects_of_triggers_are_those_of_rows() -> None:
    """The SQL of every table's triggers names the subject that Python computes from the row, also for odd names."""
    connection = sqlite3.connect(":memory:")
    connection.execute("CREATE TABLE material (id, key_id)")
    connection.execute("INSERT INTO material VALUES (7, 'of-material')")
    samples: dict[Kind, list[object]] = {
        Kind.TEXT: ["x", "a/b", "'", "ü", None],
        Kind.INTEGER: [7, None],
        Kind.BINARY: [b"\x00\xff", b"\xab"],
        Kind.BOOLEAN: [1],
    }
    for table in seal_layout.own().tables:
        names = [f'"{column.name}"' for column in table.ordered]
        for number in range(5):
            values = {column.name: samples[column.kind][number % len(samples[column.kind])] for column in table.ordered}
            nullable = {"user_name", "material"} if len(table.subject) > 1 else set()
            values |= {each: "z" for each, value in values.items() if value is None and each not in nullable}
            connection.execute("DROP TABLE IF EXISTS sample")
            connection.execute(f"CREATE TABLE sample ({', '.join(names)})")
            connection.execute(f"INSERT INTO sample VALUES ({', '.join('?' * len(names))})", list(values.values()))
            expression = table.subject_expression("sample", lambda sql: f"hex({sql})")
            (found,) = connection.execute(f"SELECT {expression} FROM sample").fetchone()
            referred = {each.column: "of-material" if values[each.column] == 7 else None for each in table.references}
            assert found == table.subject_of(values, referred), table.name
    connection.close()


@pytest.mark.parametrize(
    "subject", ["alias/no-region", "object/not hex", "grants/only/two", "key/none", "user/", "installation/x"]
)
def test_subjects_without_rows(folder: Path, subject: str) -> None:
    """A name that no row can have, as one that was forged may be, has no rows; only the installation has one name."""
    store = Store.open(folder)
    with store.reading() as conn:
        assert sealed_rows.entries(conn, subject) == []
    store.close()


def test_a_text_that_is_none(folder: Path) -> None:
    """A text that is not UTF-8, which only an edit can leave, is read, and differs from every other value."""
    store = Store.open(folder)
    made = a_key()
    write(store, made)
    subject = sealed_rows.key_subject(made.key_id)

    def forms() -> list[bytes]:
        with store.reading() as conn:
            return [row_forms.form(each.table, each.values) for each in sealed_rows.entries(conn, subject)]

    seen = [forms()]
    for value in ("CAST(x'ff' AS TEXT)", "x'ff'", "CAST(x'fe' AS TEXT)", "'x'"):
        connection = sqlite3.connect(folder / "meta.db")
        connection.execute(f"UPDATE regional_key SET description = {value}")
        connection.commit()
        connection.close()
        seen.append(forms())
    assert len({tuple(each) for each in seen}) == len(seen)
    with store.reading() as conn:  # the connection reads texts as before
        assert seal_engine.of(conn).rows(conn, "SELECT 'x'") == [("x",)]
    store.close()
