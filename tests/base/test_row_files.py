"""Rows of every format that data sets come in, against what was written by other hands."""

import bz2
import csv
import gzip
import json
import lzma

import pyarrow as pa
import pyarrow.parquet as parquet
import pytest
from datasets import Dataset, DatasetDict, Features, Value
from hypothesis import assume, given
from hypothesis import strategies as st

from distill.base import row_files
from distill.base.errors import UserError
from distill.base.row_files import (
    check_readable,
    file_rows,
    is_prose,
    is_unquoted,
    prose,
    table_delimiter,
    table_header,
    whole_rows,
)

ROWS = [
    {"text": 'One "text",\nof two lines; ends with a comma,', "id": 1, "about": {"title": "A", "who": "she"}},
    {"text": "Zweiter Text: ä, 漢字, 👩‍⚕️.\ttab", "id": 2, "about": {"title": "B", "who": "he"}},
    {"text": None, "id": 3, "about": None},
]
TALK = [{"role": "user", "content": "Hello, she said."}, {"role": "assistant", "content": "He said hello."}]


def values(path, column="text", split="train"):
    check_readable(path)
    return [value for _, value in file_rows(path, column, split)]


def write(path, rows):
    """The rows in the form that the file's ending names."""
    opener = {".gz": gzip.open, ".xz": lzma.open, ".bz2": bz2.open}.get(path.suffix, open)
    kind = (path.with_suffix("").suffix if opener is not open else path.suffix).lower()
    if kind == ".parquet":
        parquet.write_table(pa.Table.from_pylist(rows), path)
        return path
    with opener(path, "wt", encoding="utf-8", newline="") as stream:
        if kind in (".jsonl", ".ndjson"):
            stream.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        elif kind == ".json":
            json.dump(rows, stream, indent=1)
        else:
            writer = csv.DictWriter(
                stream, ["id", "text"], delimiter="\t" if kind == ".tsv" else ",", extrasaction="ignore"
            )
            writer.writeheader()
            writer.writerows(rows)
    return path


@pytest.mark.parametrize(
    "name",
    [
        "a.jsonl", "a.JSONL", "a.ndjson", "a.json", "a.csv", "a.CSV", "a.tsv", "a.parquet",
        "a.jsonl.gz", "a.ndjson.xz", "a.json.bz2", "a.csv.gz", "A.Tsv.XZ",
    ],
)  # fmt: skip
def test_every_format_gives_the_same_rows(tmp_path, name):
    path = write(tmp_path / name.lower(), ROWS).rename(tmp_path / name)
    assert not is_prose(path)
    assert values(path) == [row["text"] for row in ROWS]


def test_saved_data_sets_are_read_and_of_several_splits_the_one_that_is_asked_for(tmp_path):
    one, other = Dataset.from_list(ROWS), Dataset.from_list(ROWS[:1])
    one.save_to_disk(tmp_path / "one")
    DatasetDict(train=one, test=other).save_to_disk(tmp_path / "two")
    assert values(tmp_path / "one", split="whatever") == [row["text"] for row in ROWS]
    assert values(tmp_path / "two") == [row["text"] for row in ROWS]
    assert values(tmp_path / "two", split="test") == [ROWS[0]["text"]]
    with pytest.raises(UserError, match="holds no split 'dev', but train, test"):
        values(tmp_path / "two", split="dev")
    (tmp_path / "one" / "state.json").write_text("{")
    with pytest.raises(UserError, match="save it again"):
        values(tmp_path / "one")


def test_the_format_of_a_saved_data_set_hides_nothing(tmp_path):
    rows = Dataset.from_list([{"text": "She left.", "n": 1}, {"text": None, "n": 2}])
    rows.with_format("numpy", columns=["n"]).save_to_disk(tmp_path / "hidden")
    DatasetDict(train=rows).with_format("pandas").save_to_disk(tmp_path / "pandas")
    for name in ("hidden", "pandas"):
        assert values(tmp_path / name) == ["She left.", None], name
        assert [row for _, row in whole_rows(tmp_path / name, "train")] == list(rows), name


def test_nested_keys_are_reached_by_dots(tmp_path):
    Dataset.from_list(ROWS).save_to_disk(tmp_path / "saved")
    for path in (write(tmp_path / "a.jsonl", ROWS), write(tmp_path / "a.parquet", ROWS), tmp_path / "saved"):
        assert values(path, "about.who") == ["she", "he", None], path
        with pytest.raises(UserError, match=r"no column 'about\.age'"):
            values(path, "about.age")
    # A column that is called so goes before a nested one.
    rows = [{"a.b": "whole", "a": {"b": "nested"}}]
    for name in ("b.jsonl", "b.parquet"):
        assert values(write(tmp_path / name, rows), "a.b") == ["whole"], name


def test_message_lists_come_as_they_are(tmp_path):
    rows = [{"messages": TALK}, {"messages": None}]
    Dataset.from_list(rows).save_to_disk(tmp_path / "saved")
    written = [write(tmp_path / name, rows) for name in ("a.jsonl", "a.json", "a.parquet")]
    for path in (*written, tmp_path / "saved"):
        assert values(path, "messages") == [TALK, None], path


def test_messages_whose_keys_differ_come_from_parquet_as_the_library_reads_them(tmp_path, monkeypatch):
    library = pytest.importorskip("datasets", "4.7")  # has no such type before
    talks = [TALK, None, [{"role": "user", "content": "Hi.", "thinking": ["x"]}], []]
    rows = [{"n": n, "messages": talk, "inner": {"all": talk, "n": 1}} for n, talk in enumerate(talks)]
    talk, number = library.List(library.Json()), Value("int64")
    features = Features(
        {"n": number, "messages": talk, "inner": {"all": library.LargeList(library.Json()), "n": number}}
    )
    path = tmp_path / "a.parquet"
    Dataset.from_list(rows, features=features).to_parquet(path)
    assert values(path, "messages") == values(path, "inner.all") == talks
    assert [row for _, row in whole_rows(path, None)] == list(Dataset.from_parquet(str(path))) == rows
    monkeypatch.setattr(row_files, "LONGEST_ROW", 40)
    with pytest.raises(UserError, match="a row of more than 40"):
        values(path, "messages")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5), lambda inner: st.lists(inner, max_size=3)
)


@given(
    rows=st.lists(
        st.dictionaries(st.text(max_size=3), JSON, max_size=3).map(lambda row: row | {"text": "t"}), max_size=8
    ),
    indent=st.sampled_from([None, 0, 2]),
    chunk=st.integers(1, 40),
)
def test_an_array_is_read_in_whatever_chunks_it_comes(tmp_path_factory, rows, indent, chunk):
    path = tmp_path_factory.getbasetemp() / "array.json"
    path.write_text(json.dumps(rows, indent=indent), encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(row_files, "_CHUNK", chunk)
        found = [row for _, row in file_rows(path, "text", "train")]
    assert found == ["t"] * len(rows)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("x.json", '[{"text": "a"}, {"text": ', ["row 2", "JSON", "complete"]),
        ("x.json", '[{"text": "a"} {"text": "b"}]', ["row 2", "comma"]),
        ("x.json", '[\n"a", "b"]', ["row 1", "object", "str"]),
        ("x.json", '[{"body": "a"}]', ["row 1", "body", "text_column"]),
        ("x.json", '{\n "data": []}', ["line 1", "JSON"]),
        ("x.json", '[{"text": "a"}]\n[{"text": "b"}]', ["not valid JSON", "behind the array"]),
        ("x.json", '\n\n{\n "text": "a"\n}', ["line 3", "[ and ]"]),
        ("x.csv", "text,id,text\na,1,b\n", ["line 1", "several columns are called 'text'"]),
        ("x.csv", "id;text\n1;a\n", ["line 2", "id;text", "text_column"]),
        ("x.csv", "id,text\n1,a\n2\n", ["line 3", "1 cells", "2"]),
        ("x.csv", 'id,text\n1,"a\nb"\n2,"a" b\n', ["line 4", "quotes"]),
        ("x.tsv", 'id\ttext\n1\t"a', ["line 2", "quotes"]),
        ("x.csv", "id,text\n1,caf\udce9\n", ["line 2", "UTF-8"]),
    ],
)
def test_a_broken_file_is_named_with_its_place(tmp_path, name, content, words):
    (tmp_path / name).write_bytes(content.encode(errors="surrogateescape"))
    with pytest.raises(UserError) as error:
        values(tmp_path / name)
    for word in [name, *words]:
        assert word in str(error.value)


@pytest.mark.parametrize("name", ["a.zip", "a.pdf", "a.jsonl.zst", "a.tar.gz", "a.docx", "a.json5", "a.arrow"])
def test_endings_that_may_be_anything_are_refused(tmp_path, name):
    (tmp_path / name).write_text("{}")
    with pytest.raises(UserError, match="are not read"):
        check_readable(tmp_path / name)


@pytest.mark.parametrize("name", ["a.csv", "a.tsv.gz", "a.jsonl", "a.json", "a.parquet"])
def test_whole_rows_have_every_column(tmp_path, name):
    rows = [{"id": "1", "text": 'a\n"b"'}, {"id": "2", "text": None}]
    path = write(tmp_path / name, rows)
    assert [row for _, row in whole_rows(path, None)] == rows
    if table_delimiter(path):
        assert table_header(path) == ["id", "text"]


def test_the_place_of_a_row_behind_blank_lines_is_its_own(tmp_path):
    (tmp_path / "a.json").write_text('\n\n{"text": "a"}\n\n{"text": "b"}\n')
    assert [where[-1] for where, _ in whole_rows(tmp_path / "a.json", None)] == ["3", "5"]
    (tmp_path / "b.json").write_text('\n \n[\n\n{"text": "a"}]\n\n')
    assert values(tmp_path / "b.json") == ["a"]


def test_prose_has_no_rows(tmp_path):
    for name in ("a.txt", "a.md", "a", "A.TXT", "a.txt.gz"):
        with (gzip.open if name.endswith("gz") else open)(tmp_path / name, "wt") as stream:
            stream.write('{"text": "she"}\n')
        check_readable(tmp_path / name)
        assert is_prose(tmp_path / name)
        assert list(prose(tmp_path / name, 1000)) == ['{"text": "she"}\n'], name


def test_rows_too_long_to_be_held_are_refused_before_they_are(tmp_path, monkeypatch):
    monkeypatch.setattr(row_files, "LONGEST_ROW", 1000)
    monkeypatch.setattr(row_files, "_CHUNK", 100)
    long = [{"text": "a"}, {"text": "x" * 2000}]
    talk = [{"text": [{"role": "user", "content": "x" * 2000}]}]
    for number, (name, rows) in enumerate(
        (("a.jsonl", long), ("a.json", long), ("a.csv", long), ("a.parquet", long), ("b.parquet", talk))
    ):
        with pytest.raises(UserError, match="too long to be read whole"):
            values(write(tmp_path / f"{number}{name}", rows))


@pytest.mark.parametrize(
    ("name", "content", "where"),
    [
        ("a.jsonl", '{"text": "one"}\n{"text": "two", "text": "three"}\n', "line 2"),
        ("a.json", '{"text": "one"}\n{"text": "two", "text": "three"}\n', "line 2"),
        ("a.json", '[{"text": "one"}, {"text": "two", "text": "three"}]', "row 2"),
        ("a.jsonl", '{"text": [{"role": "user", "content": "a", "role": "assistant"}]}\n', "line 1"),
    ],
)
def test_a_key_that_stands_twice_in_a_row_is_refused(tmp_path, name, content, where):
    """Python would keep the last one, and a text would be lost without a word."""
    (tmp_path / name).write_text(content, encoding="utf-8")
    key = "role" if "role" in content else "text"
    with pytest.raises(UserError, match=f"{name}, {where}: one object holds the key '{key}' twice"):
        values(tmp_path / name)


def _plain(path, rows):
    path.write_text("".join("\t".join(row) + "\n" for row in rows), encoding="utf-8")
    return path


def _cells(path):
    return [tuple(row.values()) for _, row in whole_rows(path, None)]


UNQUOTED = [
    [("1", '"I am tired.', "A"), ("2", 'She slept."', "A")],  # each with the tabs of one row, also when they are merged
    [("1", '"Never," she said.', "A"), ("2", '"No!"', "B")],
    [("1", 'He said "no".', "A"), ("2", '"No!"', "B"), ("3", 'It is 5" long.', "B")],
]


@pytest.mark.parametrize("rows", UNQUOTED)
@pytest.mark.parametrize("name", ["x.tsv", "X.TSV"])
def test_a_tsv_without_quoting_is_read_a_row_a_line(tmp_path, rows, name):
    path = _plain(tmp_path / name, [("id", "text", "author"), *rows])
    assert is_unquoted(path) and _cells(path) == rows
    assert values(path) == [text for _, text, _ in rows]
    assert table_header(path) == ["id", "text", "author"]
    compressed = tmp_path / "y.tsv.gz"
    compressed.write_bytes(gzip.compress(path.read_bytes()))
    assert _cells(compressed) == rows


TSV_CELLS = st.text(st.sampled_from("ab \"\t\n\r'"), max_size=6)


@given(
    rows=st.lists(st.tuples(TSV_CELLS, TSV_CELLS, st.integers(0, 9).map(str)), max_size=5),
    quoting=st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL, csv.QUOTE_NONNUMERIC]),
    end=st.sampled_from(["\n", "\r\n"]),
)
def test_a_tsv_of_a_csv_writer_is_read_as_it_was_written(tmp_path_factory, rows, quoting, end):
    """Unless tabs within cells make each line look like a row: what every line of them says may be either."""
    path = tmp_path_factory.getbasetemp() / "written.tsv"
    header = ("text", "other", "id")
    with path.open("w", encoding="utf-8", newline="") as stream:
        csv.writer(stream, delimiter="\t", quoting=quoting, lineterminator=end).writerows([header, *rows])
    # Until Python 3.13, the writer quotes no "\r" where lines end in "\n" alone.
    assume(end == "\r\n" or not any("\r" in cell for row in rows for cell in row))
    lines = path.read_text(encoding="utf-8").splitlines()
    with_tabs = any("\t" in cell for row in rows for cell in row)
    assume(not (with_tabs and any(line.count("\t") == 2 for line in lines[1:])))
    assert not is_unquoted(path)
    assert _cells(path) == [tuple(cell or None for cell in row) for row in rows]


@given(rows=st.lists(st.tuples(*[st.text(st.sampled_from("ab \"'"), max_size=5)] * 2), min_size=1, max_size=6))
def test_no_row_of_a_tsv_without_quoting_is_swallowed(tmp_path_factory, rows):
    path = _plain(tmp_path_factory.getbasetemp() / "plain.tsv", [("text", "id"), *rows])
    found = _cells(path)
    assert len(found) == len(rows)
    marks = any(
        '"' in cell and not (cell[:1] == cell[-1:] == '"' and len(cell) > 1 and '"' not in cell[1:-1].replace('""', ""))
        for row in rows
        for cell in row
    )
    assert is_unquoted(path) == marks
    if marks or not any('"' in cell for row in rows for cell in row):
        assert found == [tuple(cell or None for cell in row) for row in rows]


def test_of_a_tsv_of_one_column_marks_tell_and_merged_lines_are_said(tmp_path, capsys):
    written = tmp_path / "written.tsv"
    written.write_text('text\n"She said\n""no"".\n"\n\nHe left.\n', encoding="utf-8")
    assert values(written) == ['She said\n"no".\n', "He left."]
    assert f"{written}, lines 2 to 4: one row, because a quotation mark opens it" in capsys.readouterr().err
    plain = _plain(tmp_path / "plain.tsv", [("text",), ('"I am tired.',), ('She slept."',), ('"Go," he said.',)])
    assert values(plain) == ['"I am tired.', 'She slept."', '"Go," he said.']
    said = " ".join(capsys.readouterr().err.split())
    assert "one row" not in said and "plain.tsv: read a row a line, its quotation marks as they stand" in said


def test_rows_that_a_mark_would_merge_are_refused_where_a_line_lacks_its_tabs(tmp_path):
    rows = [("id", "text", "author"), ("1", '"I am tired.', "A"), ("2", 'She slept."', "A"), ("3", "b")]
    path = _plain(tmp_path / "x.tsv", rows)
    with pytest.raises(UserError, match=r"x\.tsv, line 2: a quotation mark opens a cell that ends in line 3, but both"):
        values(path)
    with pytest.raises(UserError, match=r"x\.tsv, line 2: not a table .* as many tabs as the header"):
        values(_plain(path, [*rows[:1], ("1", '"No," he said.', "A"), rows[-1]]))
