"""How fast a model writes: what is asked of it, and what is kept of it."""

import json

import pytest

from distill.scoring import speed
from distill.scoring.score import score
from distill.scoring.scores_file import read_speeds
from distill.scoring.speed import measured_speeds, tokens_per_second


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


@pytest.mark.parametrize(("device", "turns"), [("cpu", 3), ("cuda", 1)])
def test_models_take_turns_on_a_cpu_and_are_loaded_once_on_a_gpu(device, turns, monkeypatch):
    asked = []
    monkeypatch.setattr(speed, "default_device", lambda: device)
    monkeypatch.setattr(speed, "open_model", lambda source, where: (source, where))
    monkeypatch.setattr(speed, "tokens_per_second", lambda *model: asked.append(model) or len(asked))
    facts = {"weights": {"a": "x", "b": "y"}, "models": {"a": {"bytes": 1}, "b": {"bytes": 2}}}
    found = measured_speeds({"a": "A", "b": "B"}, facts, {})
    assert asked == [("A", device), ("B", device)] * turns
    assert {name: of["tokens_per_second"] for name, of in found.items()} == {"a": 2 * turns - 1, "b": 2 * turns}


@pytest.mark.parametrize("content", ["", "[]", '{"a": 3}', '{"a": {"weights": "x", "tokens_per_second": null}}'])
def test_a_damaged_record_tells_nothing(content, tmp_path):
    assert read_speeds(tmp_path) == {}
    (tmp_path / "speed.json").write_text(content, encoding="utf-8")
    assert read_speeds(tmp_path) == {}
