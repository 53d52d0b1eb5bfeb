"""scores.json as a file: whole or not at all, and what its schema does not allow."""

import json

import jsonschema
import pytest

from distill.base.errors import UserError
from distill.metrics import CARDS, METRICS
from distill.scoring.scores_file import read_scores, write_scores

SCORE = {
    "value": 1.0,
    "low": None,
    "high": 2.0,
    "n": 3,
    "ideal": 0.0,
    "direction": "low",
    "undetected": None,
    "details": {},
}

EMPTY = {
    "format": 1,
    "models": {"m": {}},
    "differences": {},
    "cards": {},
    "not_asked": [],
    "samples": [],
    "settings": {
        "seed": 0,
        "interval": {"confidence": 0.95, "resamples": 5, "method": "bootstrap"},
        "decoding": {"samples": 1, "max_new_tokens": 5, "temperature": 1.0, "top_p": 1.0, "top_k": 0},
        "wordlist": {"name": "list", "groups": ["a", "b"], "sha256": "0f"},
        "prompts": {"count": 0, "groups": 0},
        "held_out": {"documents": 0, "bytes": 0},
    },
    "versions": {},
}
# As it was written before there were cards.
OLDER = {key: value for key, value in EMPTY.items() if key not in ("cards", "not_asked")}


def example(words: dict[str, list]) -> dict:
    """Examples of one prompt; model -> the listed words of its text."""
    shown = {
        name: {"next_word": {"he": 0.5, "she": 0.5}, "text": "he", "words": found} for name, found in words.items()
    }
    decoding = {"temperature": 1.0, "top_p": 1.0, "max_new_tokens": 5, "seed": 0}
    return {"decoding": decoding, "prompts": [{"prompt": "So", "words": [], "models": shown}]}


def test_a_failed_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "scores.json"
    write_scores(EMPTY, path)
    with pytest.raises(ValueError):
        write_scores(EMPTY | {"models": {"m": {"s": SCORE | {"details": {"x": float("nan")}}}}}, path)
    with pytest.raises(TypeError):
        write_scores(EMPTY | {"models": {"m": {"s": SCORE | {"details": {"x": object()}}}}}, path)
    with pytest.raises(jsonschema.ValidationError):
        write_scores(EMPTY | {"models": {"m": {"s": {}}}}, path)
    assert read_scores(path) == EMPTY


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"models": {"m": {"s": SCORE | {"low": "0"}}}}, r"models\.m\.s\.low: '0' is not of type 'number', 'null'"),
        ({"models": {"m": {"s": {"value": 1.0}}}}, r"models\.m\.s: '\w+' is a required property"),
        ({"extra": 1}, "the whole file: .*'extra' was unexpected"),
        ({"differences": {"a, b": {}}}, "differences: 'a, b' does not match ' - '"),
        ({"samples": [{"prompt": 1}]}, r"samples\.0"),
        ({"models": {}}, r"models: \{\} "),
        (
            {"models": {"m": {"next_word_disparity": SCORE | {"details": {"groups": ["a", "b"]}}}}},
            r"details: 'mean_signed' is",
        ),
        ({"models": {"m": {"generation_disparity": SCORE | {"details": {"texts": {}}}}}}, r"details: .*fairness_ratio"),
        (
            {"models": {"m": {"fairness_ratio_mean": SCORE | {"details": {"reference": {"value": "0.3"}}}}}},
            r"details\.reference\.value: '0\.3' is not of type",
        ),
        ({"settings": EMPTY["settings"] | {"decoding": {}}}, r"settings\.decoding: .*required"),
        ({"settings": EMPTY["settings"] | {"seed": 1e400}}, "Infinity is no number"),
        ({"examples": example({"other": []})}, r"examples\.prompts\.0: there is no model 'other'"),
        ({"examples": example({"m": [[0, 2, 2]]})}, r"examples\.prompts\.0: a listed word of a group"),
        ({"examples": example({"m": [[0.0, 2, 1]]})}, r"examples\..*words\.0\.0: 0\.0 is not of type 'integer'"),
    ],
)
def test_what_the_schema_does_not_allow_is_named(tmp_path, change, message):
    path = tmp_path / "scores.json"
    path.write_text(json.dumps(OLDER | change), encoding="utf-8")
    with pytest.raises(UserError, match=message):
        read_scores(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "cannot be read"), ("{", "not valid JSON"), ("[]", "format 1"), ('{"format": 0}', "format 1")],
)
def test_reading_what_is_no_scores_file(tmp_path, content, message):
    path = tmp_path / "scores.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(UserError, match=message) as caught:
        read_scores(path)
    assert "scores.json" in str(caught.value)


def test_a_card_of_its_own_time_is_kept(tmp_path):
    """What a file says of a score counts, not what the metric of that name says today."""
    card = METRICS["perplexity"].CARD.to_dict() | {"label": "as it was"}
    written = EMPTY | {"models": {"m": {"perplexity": SCORE}}, "cards": {"perplexity": card}, "not_asked": ["of old"]}
    write_scores(written, tmp_path / "scores.json")
    assert read_scores(tmp_path / "scores.json") == written
    with pytest.raises(jsonschema.ValidationError, match="'limits' is a required property"):
        write_scores(written | {"cards": {"perplexity": {k: card[k] for k in card if k != "limits"}}}, tmp_path / "x")


def test_an_older_file_is_explained_by_the_cards_of_today(tmp_path):
    models = {"m": {"perplexity": SCORE, "next_word_mean": SCORE, "of_old": SCORE}}
    (tmp_path / "scores.json").write_text(json.dumps(OLDER | {"models": models}), encoding="utf-8")
    scores = read_scores(tmp_path / "scores.json")
    assert list(scores["cards"]) == ["perplexity", "next_word_mean"]
    for name, card in scores["cards"].items():
        assert card == {k: list(v) if k == "shows" else v for k, v in vars(CARDS[name]).items() if k != "name"}
    assert scores["not_asked"] == [name for name in METRICS if name not in ("perplexity", "next_word_lean")]


def test_details_are_checked_whatever_the_score_that_shows_them_is_called(tmp_path):
    card = METRICS["next_word_disparity"].CARD.to_dict()
    models = {"m": {"s": SCORE | {"details": {"groups": ["a", "b"]}}}}
    (tmp_path / "scores.json").write_text(json.dumps(EMPTY | {"models": models, "cards": {"s": card}}))
    with pytest.raises(UserError, match=r"models\.m\.s\.details: 'mean_signed' is a dependency"):
        read_scores(tmp_path / "scores.json")
    with pytest.raises(jsonschema.ValidationError):
        write_scores(EMPTY | {"models": models, "cards": {"s": card}}, tmp_path / "scores.json")
