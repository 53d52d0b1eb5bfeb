"""How fast a model writes: what is asked of it, and what is kept of it."""

import json

import pytest

from distill.scoring.score import score
from distill.scoring.scores_file import read_speeds
from distill.scoring.speed import tokens_per_second


@pytest.mark.parametrize("positions", [16, 64])
def test_every_model_writes_as_much_and_is_left_as_it_was(positions, toy_model, toy_tokenizer, monkeypatch):
    """A clock that moves by a second a look: the tokens of one text, in what lies between two looks."""
    model = toy_model(n_positions=positions).train()
    own, ticks = model.generation_config, iter(range(10_000))
    monkeypatch.setattr("distill.scoring.speed._seconds", lambda _: next(ticks))
    assert tokens_per_second(model, toy_tokenizer) == min(32, positions - 1)
    assert model.generation_config is own
    assert model.training


def test_a_speed_is_measured_once_of_the_same_weights(toy_model, toy_tokenizer, tmp_path, monkeypatch):
    asked = {"metrics": ["perplexity"], "texts": ["The nurse was tired."] * 5, "folder": tmp_path}
    score({"one": (toy_model(), toy_tokenizer)}, **asked)
    (first,) = read_speeds(tmp_path).values()
    assert first["tokens_per_second"] > 0
    turns = iter([1.0, 3.0, 2.0])
    monkeypatch.setattr("distill.scoring.speed.tokens_per_second", lambda *_: next(turns))
    score({"one": (toy_model(), toy_tokenizer)}, **asked)
    assert list(read_speeds(tmp_path).values()) == [first]
    scores = score({"one": (toy_model(seed=1), toy_tokenizer)}, **asked)
    assert read_speeds(tmp_path)["one"] == {"weights": scores["settings"]["weights"]["one"], "tokens_per_second": 3.0}
    assert "speed" not in json.loads((tmp_path / "scores.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("content", ["", "[]", '{"a": 3}', '{"a": {"weights": "x", "tokens_per_second": null}}'])
def test_a_damaged_record_tells_nothing(content, tmp_path):
    assert read_speeds(tmp_path) == {}
    (tmp_path / "speed.json").write_text(content, encoding="utf-8")
    assert read_speeds(tmp_path) == {}
