"""Rows in, rows with counterfactuals out: one column is swapped, and everything else stays."""

import csv
import gzip
import io
import json
import os
import threading
from datetime import datetime

import datasets
import pyarrow as pa
import pyarrow.parquet as parquet
import pytest

from distill.base.errors import UserError
from distill.cli import main
from distill.text import swap_rows
from distill.text.counterfactual import Swapper
from distill.text.swap_rows import holds_rows, read_rows, swap_dataset
from distill.text.wordlist import load_wordlist

ROWS = [
    {"id": "1", "text": 'She said, "no".\nHe left.', "gender": "female", "she": "he"},
    {"id": "2", "text": "Nothing — 漢字", "gender": "male", "she": "\tking"},
]
SWAPPED = 'He said, "no".\nShe left.'


@pytest.fixture(scope="module")
def swapper():
    return Swapper(load_wordlist("english_gender"))


SHORT = (
    "# language: en\n# with: skipped.tsv\nmale\tfemale\twhen\nhe\tshe\t\nhim\ther\tobject\nhis\ther\tdeterminer\n"
    "king\tqueen\t\nduke\tduchess\t\nhusband\twife\t\n"
)


@pytest.fixture(scope="module")
def words(tmp_path_factory):
    """A short list, and a companion: reading the bundled one takes longer than most of these calls."""
    folder = tmp_path_factory.mktemp("words")
    (folder / "skipped.tsv").write_text("skip\npregnant\n", encoding="utf-8")
    (folder / "short.tsv").write_text(SHORT, encoding="utf-8")
    return folder / "short.tsv"


@pytest.fixture
def swap(words, capsys):
    """A function from arguments to the exit code of `distill swap`, what was written, and the errors."""

    def call(*arguments):
        capsys.readouterr()
        code = main(["swap", *map(str, arguments), "--wordlist", str(words)])
        return code, *capsys.readouterr()

    return call


def _write(path, rows):
    if path.suffix in (".csv", ".tsv"):
        with path.open("w", newline="", encoding="utf-8") as stream:
            writer = csv.DictWriter(stream, rows[0], delimiter="," if path.suffix == ".csv" else "\t")
            writer.writeheader()
            writer.writerows(rows)
    elif path.suffix == ".parquet":
        parquet.write_table(pa.Table.from_pylist(rows), path)
    elif path.suffix == ".json":
        path.write_text(json.dumps(rows), encoding="utf-8")
    elif path.suffix:
        path.write_text("".join(json.dumps(row) + "\n\n" for row in rows), encoding="utf-8")
    else:
        datasets.Dataset.from_list(rows).save_to_disk(path)


def _read(name, printed):
    if name.endswith((".csv", ".tsv")):
        return list(csv.DictReader(io.StringIO(printed, newline=""), delimiter="," if name.endswith("csv") else "\t"))
    return [json.loads(line) for line in printed.splitlines()]


KINDS = ["x.jsonl", "x.JSONL", "x.ndjson", "x.json", "x.csv", "x.tsv", "x.parquet", "saved"]


@pytest.mark.parametrize("name", KINDS)
def test_one_column_is_swapped_and_all_else_stays(name, tmp_path, swap):
    path = tmp_path / name
    _write(path.with_suffix(path.suffix.lower()), ROWS)
    path.with_suffix(path.suffix.lower()).rename(path)
    assert holds_rows(path)
    assert list(read_rows(path)) == ROWS
    for options in ([], ["--num_proc", "2"] if name == "x.csv" else []):
        code, out, _ = swap(path, *options)
        assert (code, _read(name, out)) == (0, [ROWS[0] | {"text": SWAPPED}, ROWS[1]])
    code, out, _ = swap(path, "--text_column", "she")
    assert (code, [row["she"] for row in _read(name, out)]) == (0, ["she", "\tqueen"])
    code, out, _ = swap(path, "--json")
    first = json.loads(out.splitlines()[0])
    assert code == 0
    assert (first["text"], first["counterfactual"]) == (ROWS[0]["text"], SWAPPED)


@pytest.mark.parametrize("name", KINDS)
def test_a_column_that_is_not_there_is_named_before_anything_is_written(name, tmp_path, swap):
    path = tmp_path / name.lower()
    _write(path, ROWS)
    code, out, err = swap(path, "--text_column", "review")
    assert (code, out) == (2, "")
    assert "row 1: no column 'review'; its columns are: id, text, gender, she. Name one of them by --text_column" in err


def test_what_is_no_text(tmp_path, capsys):
    """With the bundled list, as by default; the other tests of formats have a short one."""
    path = tmp_path / "x.jsonl"
    path.write_text('{"text": null, "n": 1.0}\n{"text": "he", "n": "\\ud83d"}\n', encoding="utf-8")
    assert main(["swap", str(path)]) == 0
    assert capsys.readouterr().out == '{"text": null, "n": 1.0}\n{"text": "she", "n": "\\ud83d"}\n'
    for text, message in (
        ('{"text": 3}', "row 1: 'text' holds int, not text"),
        ("[1]", "line 1: holds a list; one JSON object a line is expected"),
        ("{", "line 1: not valid JSON"),
    ):
        path.write_text(text, encoding="utf-8")
        assert main(["swap", str(path)]) == 2
        assert message in capsys.readouterr().err
    text = tmp_path / "x.txt"
    text.write_text("he", encoding="utf-8")
    assert main(["swap", str(text), "--text_column", "text"]) == 2
    assert "has no columns, it is read line by line" in capsys.readouterr().err


def test_a_data_set_and_its_counterfactuals(swapper):
    dataset = datasets.Dataset.from_list([*ROWS, {**ROWS[1], "text": None}])
    made = swap_dataset(dataset, "text", swapper)
    assert made.column_names == [*dataset.column_names, "pair_id", "view", "spans"]
    assert [(row["pair_id"], row["view"]) for row in made] == [(0, 0), (0, 1), (1, 0), (2, 0)]
    text, counterfactual = made[0], made[1]
    assert {key: text[key] for key in ROWS[0]} == ROWS[0]
    assert counterfactual["text"] == SWAPPED
    assert counterfactual["gender"] == "female"
    edits = [(text["text"][a:b], counterfactual["text"][c:d]) for a, b, c, d in counterfactual["spans"]]
    assert edits == [("She", "He"), ("He", "She")]
    assert text["spans"] == []
    both = swap_dataset(datasets.DatasetDict(train=dataset, test=dataset), "text", "english_gender", num_proc=2)
    assert both["test"].to_list() == made.to_list()
    for column, change, message in (
        ("review", {}, "no column 'review'; its columns are: id, text, gender, she"),
        ("n", {"n": [1, 2, 3]}, "the column 'n' holds no text"),
        ("text", {"view": [1, 2, 3]}, "has a column 'view' already"),
    ):
        changed = dataset
        for name, values in change.items():
            changed = changed.add_column(name, values)
        with pytest.raises(UserError, match=message):
            swap_dataset(changed, column, swapper)
    with pytest.raises(UserError, match="shift is 2, but the list english_gender"):
        swap_dataset(dataset, "text", swapper, shift=2)


def test_a_saved_data_set_is_swapped_once(tmp_path, capsys, monkeypatch):
    """A second call finds what the first one made beside the data set, and swaps nothing again."""
    datasets.Dataset.from_list(ROWS * 20).save_to_disk(tmp_path / "saved")
    command = ["swap", "--dataset", str(tmp_path / "saved"), "--column", "text", "--to"]
    assert main([*command, str(tmp_path / "pairs")]) == 0
    assert "40 rows, 20 of them with a counterfactual" in capsys.readouterr().out
    assert main([*command, str(tmp_path / "pairs")]) == 2
    assert "is not empty; choose another --to" in capsys.readouterr().err
    monkeypatch.setattr(Swapper, "swap", None)
    assert main([*command, str(tmp_path / "again")]) == 0
    found = [datasets.load_from_disk(tmp_path / name).to_list() for name in ("pairs", "again")]
    assert found[0] == found[1]
    for options in ([], ["x.txt", "--dataset", "y", "--to", "z"], ["--dataset", "y"], ["x.txt", "--to", "z"]):
        assert main(["swap", *options]) == 2


@pytest.mark.parametrize("name", ["x.jl", "x.html", "x.xlsx", "x.jsonl.zst"])
def test_endings_that_may_be_anything_are_refused(name, tmp_path, swap):
    (tmp_path / name).write_text('{"text": "She.", "gender": "female"}\n')
    code, out, err = swap(tmp_path / name)
    assert (code, out) == (2, "")
    assert "are not read" in err
    for other in ("x", "x.txt", "x.md"):
        (tmp_path / other).write_text("She.\n")
        assert swap(tmp_path / other)[:2] == (0, "He.\n")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("x.csv", "id,text\n1,She.\n2,She.,more\n", "line 3: has 3 cells, but the header 2"),
        ("x.csv", "id,text\n1,She.\n2\n", "line 3: has 1 cells, but the header 2"),
        ("x.tsv", "text\ttext\nShe.\tHe.\n", "line 1: several columns are called 'text'"),
        ("x.json", '[{"text": "She."}]\n[{"text": "He."}]', 'not valid JSON (\'[{"text": "He."}]\' stands behind the'),
        ("x.csv", "text,,\nShe.,1,2\n", "line 1: several columns have no name"),
        ("x.json", '[] [{"text": "He."}]', "stands behind the array"),
        (
            "x.json",
            '\n{\n "text": "She."\n}\n',
            "line 2: not valid JSON by itself; put an object that stands on several",
        ),
        ("x.jsonl", '{"text": "She."}\n{"text": "He.", "n": 1e400}\n', "row 2: 'n' holds inf, which JSON cannot"),
        (
            "x.jsonl",
            '{"text": "She."}\n{"text": "He.", "n": [-Infinity]}\n',
            "row 2: 'n' holds -inf, which JSON cannot",
        ),
        ("x.jsonl", '{"text": "She."}\n{"text": ["a"]}\n', "message 1 is no {role, content}"),
        ("x.csv", "id,body\n", "no column 'text'; its columns are: id, body"),
    ],
)
def test_a_mistake_in_any_row_is_told_before_anything_is_written(name, content, message, tmp_path, swap):
    (tmp_path / name).write_text(content)
    code, out, err = swap(tmp_path / name)
    assert (code, out) == (2, "")
    assert message in err and name in err


def test_a_file_that_is_not_there_is_told_as_such(tmp_path, swap):
    code, _, err = swap(tmp_path / "x.csv", "--text_column", "text")
    assert code == 2 and "x.csv: cannot be read (No such file" in err


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes with names here")
def test_a_pipe_is_read_once(tmp_path, swap):
    path = tmp_path / "x.jsonl"
    os.mkfifo(path)
    writer = threading.Thread(target=path.write_text, args=('{"text": "She."}\n',), daemon=True)
    writer.start()
    assert swap(path)[:2] == (0, '{"text": "He."}\n')
    writer.join()


def test_options_of_the_other_way_are_pointed_at(tmp_path, swap):
    path = tmp_path / "x.csv"
    path.write_text("text,body\nShe.,He.\n")
    for arguments, message in (
        (["--dataset", path, "--to", tmp_path / "to", "--text_column", "body"], "of --dataset by --column"),
        (["--dataset", path, "--to", tmp_path / "to", "--split", "train"], "--split goes with FILE"),
        ([path, "--column", "body"], "of FILE by --text_column"),
        ([path, "--split", "train"], "has no splits"),
    ):
        code, out, err = swap(*arguments)
        assert (code, out) == (2, "")
        assert message in err
    assert not (tmp_path / "to").exists()


def test_of_several_splits_one_is_named(tmp_path, swap):
    parts = {name: datasets.Dataset.from_list([{"text": text}]) for name, text in (("train", "She."), ("test", "He."))}
    datasets.DatasetDict(parts).save_to_disk(tmp_path / "saved")
    code, out, err = swap(tmp_path / "saved")
    assert (code, out) == (2, "")
    assert "holds the splits train, test; name one by --split" in err
    assert swap(tmp_path / "saved", "--split", "test")[:2] == (0, '{"text": "She."}\n')
    assert "holds no split 'dev'" in swap(tmp_path / "saved", "--split", "dev")[2]
    datasets.DatasetDict(one=parts["train"]).save_to_disk(tmp_path / "one")
    assert swap(tmp_path / "one")[:2] == (0, '{"text": "He."}\n')


def test_columns_that_json_cannot_hold_are_named(tmp_path, swap):
    path = tmp_path / "x.parquet"
    for value, message in (
        (b"\x00", "'n' holds bytes, which JSON cannot"),
        (datetime(2020, 1, 1), "'n' holds datetime, which JSON cannot"),
        ({"deep": [b"\x00"]}, "'n' holds bytes"),
        (float("inf"), "'n' holds inf"),
    ):
        parquet.write_table(pa.Table.from_pylist([{"text": "She.", "n": value}]), path)
        code, out, err = swap(path)
        assert (code, out) == (2, "")
        assert message in err and "--dataset" in err
        assert swap(path, "--dataset", path, "--to", tmp_path / "to")[0] == 2  # one of both
    parquet.write_table(pa.Table.from_pylist([{"text": "She.", "n": 1.5}, {"text": "He.", "n": float("nan")}]), path)
    code, out, err = swap(path)
    assert (code, out) == (0, '{"text": "He.", "n": 1.5}\n{"text": "She.", "n": null}\n')
    assert err.count("NaN in 'n' is written as null") == 1


@pytest.mark.parametrize("name", ["x.jsonl.gz", "x.json.gz", "x.csv.gz", "x.txt.gz"])
def test_compressed_files_are_written_as_what_they_hold(name, tmp_path, swap):
    plain = tmp_path / name.removesuffix(".gz")
    if plain.suffix == ".txt":
        plain.write_text("She.\r\nHe.")
    else:
        _write(plain, ROWS)
    (tmp_path / name).write_bytes(gzip.compress(plain.read_bytes()))
    expected = swap(plain)
    assert expected[0] == 0 and ("He." in expected[1] or "He said" in expected[1])
    assert swap(tmp_path / name) == expected
    (tmp_path / name).write_bytes((tmp_path / name).read_bytes()[:-12])
    code, _, err = swap(tmp_path / name)
    assert code == 2
    assert f"{name}: cannot be " in err and "end-of-stream" in err


TALK = [
    {"role": "user", "content": " Is he a king?\n", "rating": 1},
    {"role": "he", "content": ""},
    {"role": "assistant", "content": "He is a duke, his wife said."},
]
OTHER_TALK = [
    {"role": "user", "content": " Is she a queen?\n", "rating": 1},
    {"role": "he", "content": ""},
    {"role": "assistant", "content": "She is a duchess, her husband said."},
]


def test_messages_in_a_data_set_are_swapped_as_in_a_file(swapper):
    """What is said, and not the JSON: behind the escape of a line break, Her would be no word."""
    talk = [{"role": "user", "content": "Hi.\nHer dog “Max”"}, {"role": "assistant", "content": 'He said: "she".'}]
    other = [{"role": "user", "content": "Hi.\nHis dog “Max”"}, {"role": "assistant", "content": 'She said: "he".'}]
    cells = [json.dumps(talk), '["he"]', "[]", json.dumps([{"role": "he", "content": "It rained."}]), None]
    made = swap_dataset(datasets.Dataset.from_dict({"messages": cells}), "messages", swapper)
    assert [(row["pair_id"], row["view"]) for row in made] == [(0, 0), (0, 1), (1, 0), (1, 1), (2, 0), (3, 0), (4, 0)]
    assert made["messages"][0] == cells[0] and json.loads(made["messages"][1]) == other
    said, swapped = ("\n\n".join(message["content"] for message in messages) for messages in (talk, other))
    edits = [(said[a:b], swapped[c:d]) for a, b, c, d in made["spans"][1]]
    assert edits == [("Her", "His"), ("He", "She"), ("she", "he")]


@pytest.mark.parametrize("name", ["x.csv", "x.tsv"])
def test_a_carriage_return_in_a_cell_breaks_no_row(name, tmp_path, swap):
    rows = [{"id": "1", "text": "line one\rShe"}, {"id": "a\rb", "text": 'He\r\nleft, "so"\n'}]
    _write(tmp_path / name, rows)
    code, out, _ = swap(tmp_path / name)
    assert code == 0 and out.endswith("\n") and not out.endswith("\r\n")
    texts = ["line one\rHe", 'She\r\nleft, "so"\n']
    assert _read(name, out) == [row | {"text": text} for row, text in zip(rows, texts, strict=True)]
    (tmp_path / f"again.{name[2:]}").write_bytes(out.encode())
    assert [row["text"] for row in read_rows(tmp_path / f"again.{name[2:]}")] == texts


def test_a_tsv_without_quoting_is_written_as_it_was(tmp_path, swap):
    path = tmp_path / "x.tsv"
    path.write_text('id\ttext\tby\n1\t"Never," she said.\t"B"\n2\tHe said "no".\t\n', encoding="utf-8")
    assert swap(path)[:2] == (0, 'id\ttext\tby\n1\t"Never," he said.\t"B"\n2\tShe said "no".\t\n')
    assert swap("--dataset", path, "--to", tmp_path / "pairs")[0] == 0
    assert datasets.load_from_disk(tmp_path / "pairs")["text"][:2] == ['"Never," she said.', '"Never," he said.']


def test_messages_are_swapped_as_one_conversation_and_roles_stay(tmp_path, swap):
    path = tmp_path / "x.jsonl"
    rows = [{"messages": TALK}, {"messages": []}, {"messages": None}]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    code, out, _ = swap(path, "--text_column", "messages")
    assert code == 0
    assert [json.loads(line)["messages"] for line in out.splitlines()] == [OTHER_TALK, [], None]
    # A word to skip in one message leaves the whole conversation alone.
    path.write_text(json.dumps({"messages": [*TALK, {"role": "user", "content": "She is pregnant."}]}) + "\n")
    assert swap(path, "--text_column", "messages")[1] == path.read_text()
    table = tmp_path / "x.csv"
    _write(table, [{"id": "he", "messages": json.dumps(TALK)}, {"id": "2", "messages": '["he"]'}])
    (first, second) = _read("x.csv", swap(table, "--text_column", "messages")[1])
    assert (first["id"], json.loads(first["messages"])) == ("he", OTHER_TALK)
    assert second["messages"] == '["she"]'


def test_nested_columns_are_reached_by_dots(tmp_path, swap):
    path = tmp_path / "x.jsonl"
    path.write_text('{"a": {"b": "She.", "c": "He."}, "d": 1}\n{"a": null}\n')
    code, out, _ = swap(path, "--text_column", "a.b")
    assert (code, out) == (0, '{"a": {"b": "He.", "c": "He."}, "d": 1}\n{"a": null}\n')
    assert "no column 'a.x'; its columns are: a.b, a.c, d" in swap(path, "--text_column", "a.x")[2]


def test_a_table_without_rows_keeps_its_header(tmp_path, swap):
    path = tmp_path / "x.csv"
    path.write_text('id,"text"\n')
    assert swap(path)[:2] == (0, "id,text\n")
    assert swap(path, "--json")[:2] == (0, "")
    path.write_text("")
    assert swap(path)[:2] == (0, "")


def test_an_array_may_stand_behind_blank_lines(tmp_path, swap):
    path = tmp_path / "x.json"
    path.write_text('\n \n[\n{"text": "She."}\n]\n\n')
    assert swap(path)[:2] == (0, '{"text": "He."}\n')


@pytest.mark.parametrize("name", ["x.csv", "x.jsonl", "x.json", "x.parquet", "x.tsv.gz"])
def test_a_file_of_rows_is_a_data_set(name, tmp_path, swap):
    path = tmp_path / name.removesuffix(".gz")
    _write(path, ROWS)
    if name.endswith(".gz"):
        (tmp_path / name).write_bytes(gzip.compress(path.read_bytes()))
    code, out, _ = swap("--dataset", tmp_path / name, "--to", tmp_path / "pairs")
    assert code == 0 and "2 rows, 1 of them with a counterfactual" in out
    found = datasets.load_from_disk(tmp_path / "pairs")
    assert found["text"][:] == [ROWS[0]["text"], SWAPPED, ROWS[1]["text"]]
    assert found["gender"][:] == ["female", "female", "male"]


def test_what_makes_no_data_set_is_told(tmp_path, swap):
    (tmp_path / "x.txt").write_text("She.")
    assert "has no rows" in swap("--dataset", tmp_path / "x.txt", "--to", tmp_path / "no")[2]
    (tmp_path / "broken.csv").write_text("text\nShe.\nHe.,x\n")
    (tmp_path / "mixed.jsonl").write_text('{"text": "She.", "n": 1}\n' * 1500 + '{"text": "He.", "n": "x"}\n')
    err = swap("--dataset", tmp_path / "mixed.jsonl", "--to", tmp_path / "no")[2]
    assert "mixed.jsonl: no data set can be made of it (" in err
    (tmp_path / "empty.csv").write_text("text\n")
    err = swap("--dataset", tmp_path / "empty.csv", "--to", tmp_path / "no")[2]
    assert "empty.csv: holds no rows" in err
    code, _, err = swap("--dataset", tmp_path / "broken.csv", "--to", tmp_path / "no")
    assert code == 2 and "line 3: has 2 cells" in err and not (tmp_path / "no").exists()


def test_a_column_may_be_empty_in_many_rows(tmp_path, swap):
    """As many as the library looks at by itself."""
    late = {"text": "He.", "reply": "No.", "labels": ["a"], "meta": {"n": 2.5}}
    early = {"text": "She.", "reply": None, "labels": [], "meta": None}
    path = tmp_path / "x.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in [early] * 1500 + [late]))
    code, _, err = swap("--dataset", path, "--to", tmp_path / "pairs")
    assert code == 0, err
    found = datasets.load_from_disk(tmp_path / "pairs")
    assert {name: found[-1][name] for name in late} == late | {"text": "She."}
    assert {name: found[0][name] for name in early} == early
    table = tmp_path / "x.csv"
    table.write_text("text,reply,none\n" + "She.,,\n" * 1500 + "He.,No.,\n")
    assert swap("--dataset", table, "--to", tmp_path / "more")[0] == 0
    found = datasets.load_from_disk(tmp_path / "more")
    assert (found[-1]["reply"], found[0]["reply"], found[-1]["none"]) == ("No.", None, None)


def test_a_file_that_was_made_a_data_set_before_is_found_again(tmp_path):
    rows = [{"text": "She.", "n": 1, "x": [{"a": 1.5, "b": None}]}, {"text": "He.", "n": 2, "x": [], "y": {"z": True}}]
    path = tmp_path / "x.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    made = [swap_rows._dataset_of(path) for _ in range(2)]
    assert made[0].cache_files == made[1].cache_files and made[0]._fingerprint == made[1]._fingerprint
    whole = [{"y": None, **row} for row in rows]
    assert made[0].features == datasets.Dataset.from_generator(lambda: iter(whole)).features


def test_rows_need_not_have_the_same_columns(tmp_path, swap):
    (tmp_path / "x.jsonl").write_text('{"text": "She.", "n": 1}\n{"m": "x", "text": "It."}\n')
    assert swap("--dataset", tmp_path / "x.jsonl", "--to", tmp_path / "pairs")[0] == 0
    found = datasets.load_from_disk(tmp_path / "pairs")
    kept = [(row["text"], row["n"], row["m"]) for row in found]
    assert kept == [("She.", 1, None), ("He.", 1, None), ("It.", None, "x")]


def test_what_is_no_data_set_is_refused(swapper):
    stream = datasets.Dataset.from_list(ROWS).to_iterable_dataset()
    for what, kind in ((ROWS, "list"), (stream, "IterableDataset")):
        with pytest.raises(UserError, match=rf"is a {kind}; a datasets.Dataset or DatasetDict is expected"):
            swap_dataset(what, "text", swapper)
