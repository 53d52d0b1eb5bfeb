"""BLiMP: files in its authors' layout, and decisions one sentence at a time."""

import json
import lzma

import pytest
from measuring import alone, scored

from distill.base.errors import UserError
from distill.metrics import METRICS, Evaluation, NotMeasured
from distill.recipe import ScoreConfig

PAIRS = {
    "anaphor_number_agreement": [("The king saw himself.", "The king saw herself."), ("A man saw.", "A man saws.")],
    "wh_island": [("The book was late.", "The book were late.")],
}


@pytest.fixture
def evaluation(toy_model, toy_tokenizer, short_wordlist, tmp_path):
    """An evaluation of a toy model with a folder of data."""
    (tmp_path / "blimp").mkdir()
    settings = ScoreConfig(bootstrap=50, data=str(tmp_path))
    return Evaluation(toy_model(seed=2), toy_tokenizer, short_wordlist, settings=settings)


def written(uid: str) -> str:
    term = {"linguistics_term": "anaphor_agreement"} if uid.startswith("anaphor") else {}
    rows = [{"sentence_good": good, "sentence_bad": bad, "UID": uid, "pairID": "0", **term} for good, bad in PAIRS[uid]]
    return "\n".join(map(json.dumps, rows))


def test_decisions_one_sentence_at_a_time(evaluation, tmp_path, toy_tokenizer):
    (tmp_path / "blimp" / "anaphor_number_agreement.jsonl").write_text(written("anaphor_number_agreement"))
    with lzma.open(tmp_path / "blimp" / "wh_island.jsonl.xz", "wt") as file:
        file.write(written("wh_island"))
    right = {
        uid: [
            alone(evaluation.model, toy_tokenizer, good) > alone(evaluation.model, toy_tokenizer, bad)
            for good, bad in pairs
        ]
        for uid, pairs in PAIRS.items()
    }
    outcome = scored("blimp", evaluation)
    assert (outcome.value, outcome.n) == (pytest.approx(sum(sum(r) for r in right.values()) / 3), 3)
    assert outcome.details["phenomena"] == {
        "anaphor_agreement": {"value": sum(right["anaphor_number_agreement"]) / 2, "n": 2},
        "wh_island": {"value": float(right["wh_island"][0]), "n": 1},
    }


def test_what_is_missing_or_malformed_is_told(evaluation, tmp_path):
    with pytest.raises(NotMeasured, match=r"blimp holds no \.jsonl file"):
        METRICS["blimp"].measure(evaluation)
    (tmp_path / "blimp" / "a.jsonl").write_text('{"sentence_good": "Good.", "sentence_bad": " "}\n')
    with pytest.raises(UserError, match=r"a\.jsonl, line 1: 'sentence_bad' is ' ', but must be a text"):
        METRICS["blimp"].measure(evaluation)
    (tmp_path / "blimp" / "a.jsonl").write_text("\n")
    with pytest.raises(UserError, match=r"a\.jsonl: holds no rows"):
        METRICS["blimp"].measure(evaluation)
