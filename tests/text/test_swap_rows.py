"""Rows in, rows with counterfactuals out: one column is swapped, and everything else stays."""

import csv
import io
import json

import datasets
import pyarrow as pa
import pyarrow.parquet as parquet
import pytest

from distill.base.errors import UserError
from distill.cli import main
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
def test_one_column_is_swapped_and_all_else_stays(name, tmp_path, capsys):
    path = tmp_path / name
    _write(path.with_suffix(path.suffix.lower()), ROWS)
    path.with_suffix(path.suffix.lower()).rename(path)
    assert holds_rows(path)
    assert list(read_rows(path)) == ROWS
    capsys.readouterr()
    for options in ([], ["--num_proc", "2"] if name == "x.csv" else []):
        assert main(["swap", str(path), *options]) == 0
        assert _read(name, capsys.readouterr().out) == [ROWS[0] | {"text": SWAPPED}, ROWS[1]]
    assert main(["swap", str(path), "--text_column", "she"]) == 0
    assert [row["she"] for row in _read(name, capsys.readouterr().out)] == ["she", "\tqueen"]
    assert main(["swap", str(path), "--json"]) == 0
    first = json.loads(capsys.readouterr().out.splitlines()[0])
    assert (first["text"], first["counterfactual"]) == (ROWS[0]["text"], SWAPPED)


@pytest.mark.parametrize("name", KINDS)
def test_a_column_that_is_not_there_is_named_before_anything_is_written(name, tmp_path, capsys):
    path = tmp_path / name.lower()
    _write(path, ROWS)
    capsys.readouterr()
    assert main(["swap", str(path), "--text_column", "review"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert "row 1: no column 'review'; its columns are: id, text, gender, she. Name one of them by --text_column" in err


def test_what_is_no_text(tmp_path, capsys):
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
