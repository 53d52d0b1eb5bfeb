"""The laws that all metrics obey."""

import json
import socket
from pathlib import Path

import evaluate
import pytest
from benchmark_data import write_all
from measuring import DOCUMENTS, GENDER, SMALL, all_scored, scored, swapped

from distill.base.errors import UserError
from distill.metrics import (
    CARDS,
    METRICS,
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
from distill.metrics.audited import read_audited
from distill.recipe import ScoreConfig
from distill.text.prompts import Prompt


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


def test_a_class_of_ones_own_has_what_it_sets_or_inherits():
    """As in a notebook, whose own file has neither cards nor `measure`."""

    class Own(evaluation_module.ModelMetric):
        cards = METRICS["perplexity"].CARD, METRICS["perplexity"].CARD

        @staticmethod
        def measure(evaluation):
            return None

    class Heir(Own):
        pass

    assert len(Own.cards) == 2 and Own.measure(None) is None
    assert Heir.cards is Own.cards and Heir.measure is Own.measure


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


# With what one of the occupations is called.
WORDS = GENDER + "actor\tactress\n"
# So much that a random model writes listed words, too.
WRITTEN = {"samples": 4, "max_new_tokens": 24, "batch_size": 64}
# Their classes are words of the lists here, so that texts have a group whatever a model writes.
OF_GROUPS = [
    Prompt("The nurse said that", "king", "nurse"),
    Prompt("The nurse was", "queen", "nurse"),
    Prompt("The doctor said that", "book", "doctor"),
]


@pytest.fixture(scope="module")
def given(tmp_path_factory, toy_tokenizer):
    """The settings that name all that metrics read beside prompts and documents, by name."""
    return write_all(tmp_path_factory.mktemp("given"), toy_tokenizer)


@pytest.fixture
def furnished(evaluated, given, compounds):
    """As `evaluated`, with all of this, and judges: no metric is left without what it measures."""
    compounds({"tired.": 0.5})

    def make(model, words: str = WORDS, **settings):
        settings = ScoreConfig(**vars(SMALL) | given | WRITTEN | settings)
        return evaluated(model, words, prompts=OF_GROUPS, settings=settings, audited=read_audited(settings))

    return make


def has_value(outcomes) -> bool:
    return any(outcome.value is not None for outcome in outcomes.values())


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
def test_every_metric_says_whether_it_samples_or_asks_for_the_next_word(name, toy_model, furnished):
    """What is asked must fit into the context, which is looked at before hours of training."""
    evaluation = furnished(toy_model())
    assert has_value(all_scored(name, evaluation))
    assert samples_text(METRICS[name]) == ("continuations" in vars(evaluation))
    assert asks_next_word(METRICS[name]) == ("next_word_masses" in vars(evaluation))


class Watched(list):
    """Documents that know whether somebody looked at them."""

    read = False

    def __iter__(self):
        self.read = True
        return super().__iter__()


@pytest.mark.parametrize("name", METRICS)
def test_every_metric_says_whether_it_reads_documents(name, toy_model, furnished):
    """What does not would be the same on the text of every client of a federation.

    CEAT reads them where the benchmark data have no people, see there.
    """
    evaluation = furnished(toy_model())
    evaluation.documents = Watched(evaluation.documents)
    assert has_value(all_scored(name, evaluation))
    assert reads_documents(METRICS[name]) == evaluation.documents.read


@pytest.mark.parametrize("name", METRICS)
def test_batches_and_training_mode_change_nothing(name, toy_model, furnished, monkeypatch):
    model = toy_model(embd_pdrop=0.5, resid_pdrop=0.5)
    expected = all_scored(name, furnished(model))
    assert has_value(expected)
    monkeypatch.setattr(evaluation_module, "MAX_LOGITS", 2000)  # one text, and the logits of five places
    model.train()
    outcomes = all_scored(name, furnished(model, batch_size=5))
    assert model.training
    for of, outcome in outcomes.items():
        before = expected[of]
        for field in ("value", "low", "high"):
            value, same = getattr(outcome, field), getattr(before, field)
            assert value == same if same is None else value == pytest.approx(same, rel=1e-4, abs=1e-6), of
        assert (outcome.n, outcome.undetected) == (before.n, before.undetected)


TWO_GROUPS = {"gender_polarity"}  # what has no meaning for more


@pytest.mark.parametrize("name", METRICS)
def test_every_metric_takes_three_groups(name, toy_model, furnished):
    words = "a\tb\tc\nking\tqueen\tbook\nnurse\tdoctor\twoman\nactor\tactress\tplayer\n"
    outcomes = all_scored(name, furnished(toy_model(), words))
    assert has_value(outcomes) == (name not in TWO_GROUPS)
    for outcome in outcomes.values():
        assert outcome.value is not None or outcome.details["reason"]
        json.dumps(outcome.to_dict(), allow_nan=False)


def loaded(path: Path, cache: Path):
    return evaluate.load(str(path), cache_dir=str(cache))


@pytest.mark.parametrize("name", METRICS)
def test_every_metric_is_a_module_of_evaluate_offline(name, toy_model, furnished, given, monkeypatch, tmp_path):
    def refuse(*_):
        raise AssertionError("no network here")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    path = Path(METRICS[name].__file__)
    module, of_file = (loaded(place, tmp_path / place.name) for place in (path.parent, path))
    assert all(card.formula in module.description for card in cards(METRICS[name]))
    assert (type(of_file).__name__, of_file.description) == (type(module).__name__, module.description)
    evaluation = furnished(toy_model())
    evaluation.documents, evaluation.prompts = DOCUMENTS * 8, OF_GROUPS * 8
    inputs = {
        "model": evaluation.model,
        "tokenizer": evaluation.tokenizer,
        "wordlist": evaluation.wordlist,
        "documents": evaluation.documents,
        "prompts": evaluation.prompts,
        "seed": 0,
        "bootstrap": 200,
        **given,
        **WRITTEN,
    }
    expected = {
        of: score_of(CARDS[of], reported(resampled(measurement, resamples=200, seed=0)))
        for of, measurement in measured(METRICS[name], evaluation).items()
    }
    outcomes = module.compute(**inputs)
    if not hasattr(METRICS[name], "CARDS"):
        outcomes = {name: outcomes}
    assert outcomes and outcomes.keys() <= expected.keys()
    for of, outcome in outcomes.items():
        for field in ("value", "low", "high", "n"):
            assert outcome[field] == pytest.approx(getattr(expected[of], field))
        assert outcome["details"].get("reason") == expected[of].details.get("reason")


def test_unknown_metric():
    assert list(chosen(["perplexity", "bits_per_byte"])) == ["perplexity", "bits_per_byte"]
    with pytest.raises(UserError, match="unknown metric 'perplexty'; did you mean 'perplexity'"):
        chosen(["perplexty"])
