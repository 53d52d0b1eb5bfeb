"""The likelihood of a continuation, one sentence at a time."""

import bz2
import gzip
import json
import lzma

import numpy as np
import pytest
from bundled import GENDER
from measuring import alone

from distill.base.errors import UserError
from distill.metrics import Evaluation, NotMeasured
from distill.metrics.benchmark_text import data_files, data_rows, larger, likelihood, one_of, own_table, read_json
from distill.recipe import ScoreConfig


def test_likelihood_of_a_continuation_is_that_of_the_whole_less_that_of_the_context(toy_model, toy_tokenizer):
    model = toy_model()
    evaluation = Evaluation(model, toy_tokenizer, GENDER.wordlist, swapper=GENDER)
    texts = [("The nurse said", " that she was tired."), ("", "The king"), ("The doctor was late.", " Her book")]
    outcome = likelihood(evaluation, texts, "")
    for (context, continuation), total, tokens in zip(texts, outcome.total, outcome.tokens, strict=True):
        whole = alone(model, toy_tokenizer, context + continuation)
        assert total == pytest.approx(whole - alone(model, toy_tokenizer, context), abs=1e-3)
        assert tokens == len(toy_tokenizer(continuation)["input_ids"])
    np.testing.assert_allclose(outcome.mean, outcome.total / outcome.tokens)


def test_a_token_across_the_border_belongs_to_the_continuation(toy_model, toy_tokenizer):
    (token,) = toy_tokenizer(" king")["input_ids"]
    evaluation = Evaluation(toy_model(), toy_tokenizer, GENDER.wordlist, swapper=GENDER)
    outcome = likelihood(evaluation, [("The ki", "ng"), ("The", " king")], "")
    assert outcome.tokens.tolist() == [1, 1]
    assert outcome.total[0] == pytest.approx(outcome.total[1], abs=1e-5)
    assert token in toy_tokenizer("The king")["input_ids"]


def test_rows_of_data_files_are_what_they_must_be(tmp_path):
    path = tmp_path / "rows.jsonl.gz"
    with gzip.open(path, "wt") as file:
        file.write('{"a": "x", "n": {"b": 1}, "more": 0}\n\n{"a": "y", "n": {}}\n')
    assert [row["a"] for _, row in data_rows(path, {"a": str, "n": dict})] == ["x", "y"]
    with pytest.raises(UserError, match=r"line 1: 'n' is \{'b': 1\}, but must be a whole number"):
        data_rows(path, {"n": int})
    with pytest.raises(UserError, match=r"line 1: 'b' is None, but must be an object"):
        data_rows(path, {"b": dict})
    with pytest.raises(UserError, match=r"line 1: 'b' is None, but must be a whole number or a text"):
        data_rows(path, {"b": int | str})
    path.write_bytes(gzip.compress(b'{"a": true}\n'))
    with pytest.raises(UserError, match=r"'a' is True, but must be a whole number$"):
        data_rows(path, {"a": int})


@pytest.mark.parametrize(
    ("ending", "compress"), [(".gz", gzip.compress), (".xz", lzma.compress), (".bz2", bz2.compress)]
)
def test_files_that_are_not_compressed_as_they_say_or_not_whole_are_one_sentence(tmp_path, ending, compress):
    path = tmp_path / f"rows.jsonl{ending}"
    whole = compress(b'{"a": "x"}\n' * 2000)
    assert len(list_of(path, whole)) == 2000
    for content in (whole[:-12], b"hello", b"hello hello hello hello", whole[:20]):
        with pytest.raises(
            UserError, match=f"{path}: cannot be decompressed .*; is it whole, and compressed as its name"
        ):
            list_of(path, content)


def list_of(path, content):
    path.write_bytes(content)
    return data_rows(path, {"a": str})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"a":\n oops}', r", line 2: not valid JSON \(Expecting value\)"),
        ("[" * 100_000, r": not valid JSON \(.*recursion"),
        (f"[{'9' * 5000}]", r": not valid JSON \(.*5000 digits"),
    ],
    ids=["no JSON", "deep", "long number"],
)
def test_what_is_no_json_is_a_users_mistake(text, message, tmp_path):
    path = tmp_path / "rows.json"
    path.write_text(json.dumps({"a": [1]}))
    assert read_json(path, "") == {"a": [1]}
    path.write_text(text)
    with pytest.raises(UserError, match=f"rows\\.json{message}"):
        read_json(path, "")
    with pytest.raises(UserError, match=r"none\.json: cannot be read .*; give rows"):
        read_json(tmp_path / "none.json", "give rows")


def test_files_are_found_compressed_too(toy_model, toy_tokenizer, short_wordlist, tmp_path):
    evaluation = Evaluation(toy_model(), toy_tokenizer, short_wordlist, settings=ScoreConfig(data=str(tmp_path)))
    (tmp_path / "x").mkdir()
    for name in ("b.jsonl.xz", "a.jsonl", "a.csv"):
        (tmp_path / "x" / name).touch()
    assert [path.name for path in data_files(evaluation, "x")] == ["a.jsonl", "b.jsonl.xz"]
    assert one_of(evaluation, "x", ["c.jsonl", "b.jsonl", "a.jsonl"]).name == "b.jsonl.xz"
    (tmp_path / "x" / "a.jsonl.gz").touch()
    with pytest.raises(UserError, match=r"x/a\.jsonl and a\.jsonl\.gz beside it would be read both"):
        data_files(evaluation, "x")
    with pytest.raises(NotMeasured, match=r"x/c\.jsonl is not in the folder"):
        one_of(evaluation, "x", ["c.jsonl"])


def test_our_own_tables_have_no_comments_and_no_header():
    rows = own_table("minimal_pairs")
    assert {len(row) for row in rows} == {3} and ["phenomenon", "good", "bad"] not in rows
    assert not [cell for row in rows for cell in row if cell.startswith("#") or not cell.strip()]


def test_what_is_no_number_is_not_larger():
    found = larger(np.array([1.0, 2.0, 2.0, np.nan, 1.0]), np.array([2.0, 1.0, 2.0, 1.0, np.nan]))
    np.testing.assert_array_equal(found, [0.0, 1.0, 0.0, np.nan, np.nan])
