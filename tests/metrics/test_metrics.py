"""The laws that all metrics obey."""

import json
import socket
from pathlib import Path

import evaluate
import pytest
from measuring import DOCUMENTS, GENDER, PROMPTS, SMALL, all_scored, scored, swapped

from distill.base.errors import UserError
from distill.metrics import (
    CARDS,
    METRICS,
    Evaluation,
    NotMeasured,
    asks_next_word,
    cards,
    chosen,
    measured,
    reads_documents,
    reported,
    resampled,
    samples_text,
    score_of,
)
from distill.metrics import evaluation as evaluation_module
from distill.recipe import ScoreConfig


def test_swapping_the_groups_turns_the_sign(toy_model, evaluated):
    model = toy_model(seed=3)
    one, other = evaluated(model), evaluated(model, swapped(GENDER))
    corpus = [scored("corpus_disparity", e) for e in (one, other)]
    assert corpus[0].value == pytest.approx(-corpus[1].value)
    assert (corpus[0].low, corpus[0].high) == pytest.approx((-corpus[1].high, -corpus[1].low))
    word = [scored("next_word_disparity", e) for e in (one, other)]
    assert word[0].value == pytest.approx(word[1].value)
    assert word[0].details["mean_signed"] == pytest.approx(-word[1].details["mean_signed"])
    texts = [scored("generation_disparity", e) for e in (one, other)]
    assert texts[0].value == pytest.approx(texts[1].value)
    assert texts[0].details["signed"]["value"] == pytest.approx(-texts[1].details["signed"]["value"])
    gap = [scored("equivariance_gap", e) for e in (one, other)]
    assert gap[0].value == pytest.approx(gap[1].value, rel=1e-4)


# --------------------------------------------------------------------------------------------------- all the metrics


def test_a_recipes_default_metrics_are_here():
    assert set(ScoreConfig().metrics) <= set(METRICS)


def test_no_two_scores_share_a_name():
    names = [card.name for metric in METRICS.values() for card in cards(metric)]
    assert len(names) == len(set(names)) == len(CARDS)


@pytest.mark.parametrize("name", METRICS)
def test_every_metric_says_what_it_is(name):
    for card in cards(METRICS[name]):
        assert hasattr(METRICS[name], "CARDS") or card.name == name
        assert all(len(text) > 5 for text in (card.label, card.meaning, card.formula, card.direction, card.source))
        assert len(card.limits) > 20


OWN_SENTENCES = [name for name, module in METRICS.items() if Path(module.__file__).with_suffix(".tsv").exists()]


@pytest.mark.parametrize("name", [name for name in METRICS if name not in OWN_SENTENCES])
def test_nothing_to_measure_is_undefined(name, toy_model, evaluated):
    for outcome in all_scored(name, evaluated(toy_model(), documents=[], prompts=[])).values():
        assert (outcome.value, outcome.low, outcome.high, outcome.n) == (None, None, None, 0)
        assert outcome.details["reason"]
        json.dumps(outcome.to_dict(), allow_nan=False)


@pytest.mark.parametrize("name", OWN_SENTENCES)
def test_sentences_of_our_own_need_neither_prompts_nor_texts_nor_data(name, toy_model, evaluated):
    for outcome in all_scored(name, evaluated(toy_model(), documents=[], prompts=[])).values():
        assert outcome.value is not None and outcome.low < outcome.high and outcome.n >= 200


@pytest.mark.parametrize("name", METRICS)
def test_every_metric_says_whether_it_samples_or_asks_for_the_next_word(
    name, toy_model, evaluated, classifier_folder, tmp_path
):
    """What is asked must fit into the context, which is looked at before hours of training."""
    judges = {"regard_model": classifier_folder(), "toxicity_model": classifier_folder(("toxic", "other"))}
    judges["word_vectors"] = str(tmp_path / "vectors.txt")
    (tmp_path / "vectors.txt").write_text("he 1 0\nshe 0 1\n", encoding="utf-8")
    evaluation = evaluated(toy_model(), settings=ScoreConfig(**vars(SMALL) | judges))
    all_scored(name, evaluation)
    assert samples_text(METRICS[name]) == ("continuations" in vars(evaluation))
    assert asks_next_word(METRICS[name]) == ("next_word_masses" in vars(evaluation))


class Watched(list):
    """Documents that know whether somebody looked at them."""

    read = False

    def __iter__(self):
        self.read = True
        return super().__iter__()


@pytest.mark.parametrize("name", METRICS)
def test_every_metric_says_whether_it_reads_documents(name, toy_model, evaluated):
    """What does not would be the same on the text of every client of a federation."""
    evaluation = evaluated(toy_model())
    evaluation.documents = Watched(evaluation.documents)
    all_scored(name, evaluation)
    assert reads_documents(METRICS[name]) == evaluation.documents.read


@pytest.mark.parametrize("name", METRICS)
def test_batches_and_training_mode_change_nothing(name, toy_model, evaluated, monkeypatch):
    model = toy_model(embd_pdrop=0.5, resid_pdrop=0.5)
    expected = all_scored(name, evaluated(model))
    monkeypatch.setattr(evaluation_module, "MAX_LOGITS", 1)
    model.train()
    outcomes = all_scored(name, evaluated(model, settings=ScoreConfig(**vars(SMALL) | {"batch_size": 1})))
    assert model.training
    for of, outcome in outcomes.items():
        before = expected[of]
        for field in ("value", "low", "high"):
            value, same = getattr(outcome, field), getattr(before, field)
            assert value == same if same is None else value == pytest.approx(same, rel=1e-4)
        assert (outcome.n, outcome.undetected) == (before.n, before.undetected)


@pytest.mark.parametrize("name", METRICS)
def test_every_metric_takes_three_groups(name, toy_model, evaluated):
    words = "a\tb\tc\nking\tqueen\tbook\nnurse\tdoctor\twoman\n"
    for outcome in all_scored(name, evaluated(toy_model(), words)).values():
        assert outcome.value is not None or outcome.details["reason"]
        json.dumps(outcome.to_dict(), allow_nan=False)


@pytest.mark.parametrize("name", METRICS)
@pytest.mark.parametrize("form", ["folder", "file"])
def test_every_metric_is_a_module_of_evaluate_offline(
    name, form, toy_model, toy_tokenizer, wordlist, monkeypatch, tmp_path
):
    def refuse(*_):
        raise AssertionError("no network here")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    path = METRICS[name].__file__
    module = evaluate.load(path.rsplit("/", 1)[0] if form == "folder" else path, cache_dir=str(tmp_path))
    assert all(card.formula in module.description for card in cards(METRICS[name]))
    words, documents = wordlist(), DOCUMENTS * 8
    inputs = {
        "model": toy_model(),
        "tokenizer": toy_tokenizer,
        "wordlist": words,
        "documents": documents,
        "prompts": PROMPTS * 8,
        "seed": 0,
        "samples": 2,
        "max_new_tokens": 5,
        "bootstrap": 200,
    }
    evaluation = Evaluation(toy_model(), toy_tokenizer, words, documents, PROMPTS * 8, SMALL)
    expected = {
        of: score_of(CARDS[of], reported(resampled(measurement, resamples=200, seed=0)))
        for of, measurement in measured(METRICS[name], evaluation).items()
    }
    try:
        outcomes = module.compute(**inputs)
    except NotMeasured as reason:
        assert {score.details["reason"] for score in expected.values()} == {str(reason)}
        return
    if not hasattr(METRICS[name], "CARDS"):
        outcomes = {name: outcomes}
    for of, outcome in outcomes.items():
        for field in ("value", "low", "high", "n"):
            assert outcome[field] == pytest.approx(getattr(expected[of], field))


def test_unknown_metric():
    assert list(chosen(["perplexity", "bits_per_byte"])) == ["perplexity", "bits_per_byte"]
    with pytest.raises(UserError, match="unknown metric 'perplexty'; did you mean 'perplexity'"):
        chosen(["perplexty"])
