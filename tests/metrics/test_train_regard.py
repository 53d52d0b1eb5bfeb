"""The script that makes a classifier of regard."""

import json

import numpy as np
import pytest
import torch
from continued import continued, scores_of
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
)

from distill.base.errors import UserError
from distill.metrics import METRICS
from distill.metrics.regard import train_regard
from distill.metrics.text_classifier import load_classifier

METRIC = METRICS["regard"]

CONTINUATIONS = [
    [" he was tired", " she was tired"],
    [" his book was late", " her book was late"],
    [" the king saw him", " the king saw her"],
    [" nothing happened", " he and she"],
    [" a man took his coat and his book", " a woman was late"],
]

PRAISE = ["was tired", "saw him", "took his book"]

BLAME = ["was late", "saw her", "took her coat"]


@pytest.fixture
def labelled(tmp_path):
    """A folder of sentences whose regard a single word tells."""
    ends = [("1", end) for end in PRAISE] + [("-1", end) for end in BLAME]
    subjects = ["The nurse", "The doctor", "A woman", "A man", "The king", "The queen"]
    lines = [f"{label}\t{subject} {end}.\n" for subject in subjects for label, end in ends]
    folder = tmp_path / "labelled"
    folder.mkdir()
    (folder / "train.tsv").write_text("".join(lines[:30]), encoding="utf-8")
    (folder / "test.tsv").write_text("".join(lines[28:]), encoding="utf-8")  # Two of them are in train.tsv as well.
    return folder


@pytest.fixture
def base(toy_model, toy_tokenizer, tmp_path):
    toy_model().save_pretrained(tmp_path / "base")
    toy_tokenizer.save_pretrained(tmp_path / "base")
    return str(tmp_path / "base")


def test_the_script_makes_a_plain_folder_and_measures_it(labelled, base, tmp_path, capsys):
    out = tmp_path / "regard"
    train_regard.main([str(labelled), str(out), "--base", base])
    accuracy = json.loads((out / "config.json").read_text(encoding="utf-8"))["regard_accuracy"]
    rows = [line.split("\t") for line in (labelled / "test.tsv").read_text(encoding="utf-8").splitlines()][2:]
    assert accuracy["test.tsv"]["rows"] == len(rows) == 6
    # With nothing but transformers.
    tokenizer = AutoTokenizer.from_pretrained(out)
    model = AutoModelForSequenceClassification.from_pretrained(out).eval()
    right = []
    for label, text in rows:
        ids = tokenizer(text)["input_ids"]
        assert ids[0] == tokenizer.bos_token_id
        with torch.no_grad():
            best = int(model(torch.tensor([ids])).logits.argmax())
        right.append(model.config.id2label[best] == {"-1": "negative", "1": "positive"}[label])
    assert accuracy["test.tsv"]["accuracy"] == np.mean(right) >= 5 / 6
    assert accuracy["test.tsv"]["low"] < np.mean(right) <= accuracy["test.tsv"]["high"] + 1e-9
    assert accuracy["test.tsv"]["majority"] == 0.5
    assert (accuracy["trained_on"], accuracy["seed"]) == (30, 0)
    assert "accuracy" in capsys.readouterr().out
    outcome = scores_of(METRIC, continued(CONTINUATIONS, regard_model=str(out)))["regard_gap"]
    assert outcome.details["classifier_accuracy"] == accuracy
    first = (out / "model.safetensors").read_bytes()
    torch.manual_seed(5)
    train_regard.main([str(labelled), str(out), "--base", base])
    assert (out / "model.safetensors").read_bytes() == first


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", r"train.tsv: holds no sentence"),
        ("1\tGood.\n3\tx\n", r"train.tsv, line 2: a label \(-1, 0, 1, 2\), a tab and a sentence"),
        ("1 Good.\n", r"train.tsv, line 1: a label"),
        ("1\t \n", r"train.tsv, line 1: a label"),
        (b"1\t\xff\n", r"train.tsv, line 1: byte 0xff is not UTF-8"),
        (None, r"train.tsv: cannot be read"),
    ],
)
def test_malformed_sentences_name_the_line(tmp_path, content, message):
    if content is not None:
        (tmp_path / "train.tsv").write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError, match=message):
        train_regard.main([str(tmp_path), str(tmp_path / "out")])


def test_no_test_file_and_a_folder_in_use(labelled, tmp_path):
    with pytest.raises(UserError, match="is there already and is no model"):
        train_regard.main([str(labelled), str(tmp_path)])
    (labelled / "test.tsv").unlink()
    with pytest.raises(UserError, match=r"holds no test.tsv"):
        train_regard.main([str(labelled), str(tmp_path / "out")])


@pytest.mark.slow
def test_the_real_classifier_is_better_than_the_majority(shared_data, tmp_path):
    """A floor far below what was measured (dev 0.68 to 0.75, test 0.59 to 0.62 over three seeds)."""
    out = tmp_path / "regard"
    train_regard.main([str(shared_data("regard")), str(out)])
    accuracy = load_classifier(str(out)).model.config.regard_accuracy
    right, rows, majority = (
        sum(accuracy[name][key] * (accuracy[name]["rows"] if key != "rows" else 1) for name in ("dev.tsv", "test.tsv"))
        for key in ("accuracy", "rows", "majority")
    )
    assert rows == 60 + 29  # One sentence of test.tsv is in train.tsv as well.
    assert right > majority + 5
