from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kdcache.core.errors import DataError
from kdcache.data.files import EXTENSIONS, READERS, read_file

TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1)
ROWS = st.lists(st.fixed_dictionaries({"text": TEXT, "label": TEXT}), min_size=1, max_size=5)


def read(path: Path, columns=("text", "label"), *, kind="auto", encoding="utf-8"):
    return read_file(path, columns, format=kind, encoding=encoding)


def write(folder: Path, name: str, content: str | bytes) -> Path:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


@pytest.mark.slow
@settings(max_examples=30, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture])
@given(rows=ROWS)
def test_jsonl_and_parquet_give_back_any_text(tmp_path: Path, rows):
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    records = read(write(tmp_path, "a.jsonl", lines))
    assert list(records.rows) == rows
    assert (records.unit, list(records.numbers)) == ("line", list(range(1, len(rows) + 1)))
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet")
    assert list(read(tmp_path / "a.parquet").rows) == rows


@pytest.mark.parametrize("name", ["a.csv", "a.CSV", "b.txt"])
def test_csv_may_quote_commas_quotes_and_line_ends(tmp_path: Path, name: str):
    path = write(tmp_path, name, 'text,label\r\n"a, ""b""\nc",yes\r\nplain,\r\n\r\n')
    records = read(path, kind="csv" if name == "b.txt" else "auto")
    assert list(records.rows) == [{"text": 'a, "b"\nc', "label": "yes"}, {"text": "plain", "label": None}]
    assert records.columns == ("text", "label")
    assert list(records.numbers) == [1, 2]


def test_tsv_takes_quotation_marks_as_text(tmp_path: Path):
    path = write(tmp_path, "a.tsv", 'text\tlabel\n"He said\tno\nshe"\tyes\n')
    assert [row["text"] for row in read(path).rows] == ['"He said', 'she"']


def test_a_byte_order_mark_and_blank_lines_are_not_data(tmp_path: Path):
    assert read(write(tmp_path, "a.csv", "\ufefftext,label\na,b\n")).columns == ("text", "label")
    records = read(write(tmp_path, "a.jsonl", '\ufeff{"text": "a"}\n\n{"text": "b"}'))
    assert [row["text"] for row in records.rows] == ["a", "b"]
    assert list(records.numbers) == [1, 3]


def test_another_encoding_is_read_when_it_is_named(tmp_path: Path):
    path = write(tmp_path, "a.csv", "text,label\ncafé,x\n".encode("latin-1"))
    assert read(path, encoding="latin-1").rows[0]["text"] == "café"


def test_only_the_columns_asked_for_are_read_and_a_missing_one_is_none(tmp_path: Path):
    path = write(tmp_path, "a.jsonl", '{"text": "a", "more": 1}\n')
    records = read(path)
    assert list(records.rows) == [{"text": "a", "label": None}]
    assert records.columns == ("text", "more")
    pq.write_table(pa.table({"text": ["a"], "more": [1]}), tmp_path / "a.parquet")
    records = read(tmp_path / "a.parquet")
    assert list(records.rows) == [{"text": "a"}]
    assert records.columns == ("text", "more")


def test_every_extension_has_a_reader():
    assert {*EXTENSIONS.values(), "squad", "mrqa"} == set(READERS)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (
            "a.xlsx",
            "x",
            "{path} has the extension '.xlsx', known are .jsonl, .ndjson, .parquet, .csv, .tsv, .txt, .conll, .iob, "
            ".iob2, .bio; set format: jsonl, parquet, csv, tsv, lines, conll, squad, mrqa",
        ),
        ("a.jsonl", "", "{path} is empty; a split needs at least one example"),
        ("a.jsonl", "\n\n", "{path} has no rows; a split needs at least one example"),
        ("a.csv", "text,label\n", "{path} has no rows; a split needs at least one example"),
        (
            "a.jsonl",
            '{"text": "a"}\n{"text": \n',
            "line 2 of {path} is not JSON (Expecting value: line 2 column 1 (char 10)); write one object a line",
        ),
        ("a.jsonl", '{"label": NaN}\n', "line 1 of {path} is not JSON (NaN is not JSON); write one object a line"),
        ("a.jsonl", "[1]\n", "line 1 of {path} is list, not an object {{...}} with columns"),
        (
            "a.jsonl",
            b'{"text": "caf\xe9"}\n',
            "{path} is not utf-8 text (byte 0xe9: invalid continuation byte); set encoding, e.g. encoding: latin-1, "
            "or convert the file",
        ),
        (
            "a.csv",
            "text,label\na,b\na,b,c\n",
            "row 2 of {path} (line 3) has 3 cells, the first row names 2 columns; quote or escape what splits it",
        ),
        (
            "a.csv",
            "text,text\na,b\n",
            "{path} has the column 'text' twice in its first row; each column has one name",
        ),
        ("a.csv", 'text,label\n"a,b\n', "line 2 of {path} is malformed: unexpected end of data"),
    ],
)
def test_a_malformed_file_is_refused_in_one_line(tmp_path: Path, name, content, message):
    path = write(tmp_path, name, content)
    with pytest.raises(DataError) as error:
        read(path)
    assert str(error.value) == message.format(path=path)


def test_a_file_that_is_not_parquet_or_has_an_encoding_is_refused(tmp_path: Path):
    path = write(tmp_path, "a.parquet", "text,label\n")
    with pytest.raises(DataError, match=r"^cannot read .*a\.parquet as Parquet: [^\n]+$"):
        read(path)
    with pytest.raises(DataError, match=r"^encoding = 'latin-1' is a setting of text files, but .*a\.parquet is Parq"):
        read(path, encoding="latin-1")


def test_a_file_that_cannot_be_opened_is_refused(tmp_path: Path):
    (tmp_path / "a.csv").mkdir()
    with pytest.raises(DataError, match=r"^cannot read .*a\.csv: Is a directory; check the file and its permissions$"):
        read(tmp_path / "a.csv")
