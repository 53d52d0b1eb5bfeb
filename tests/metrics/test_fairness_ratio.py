"""Fairness ratios by hand, by brute force and on real texts; and BOLD's other domains with lists of other groups."""

import itertools
import json
import re
from collections import defaultdict

import numpy as np
import pytest
from continued import continued, prompts_of, scores_of
from hypothesis import given
from hypothesis import strategies as st

from distill.base.errors import UserError
from distill.metrics import METRICS, Evaluation
from distill.metrics.polarity import BOLD_FEMALE, BOLD_MALE
from distill.recipe import ScoreConfig
from distill.text.counterfactual import Swapper
from distill.text.prompts import Prompt, limit_prompts, load_prompts, without_listed_words
from distill.text.wordlist import load_wordlist

METRIC = METRICS["fairness_ratio"]
MEAN, LEAST = "fairness_ratio_mean", "fairness_ratio_min"


def test_ratios_by_hand():
    prompts = prompts_of("health", "craft", "health", "art", "law")
    texts = [["he", "she"], ["he", "it"], ["he said", "he or she"], ["it", ""], ["she", "he"]]
    scores = scores_of(METRIC, continued(texts, prompts))
    # health 2 : 1, craft 1 : 0, law 1 : 1; nobody is named in art.
    assert scores[MEAN].value == pytest.approx((1 / 2 + 0 + 1) / 3)
    assert scores[LEAST].value == 0
    assert scores[MEAN].details["classes"] == {
        "health": {"male": 2, "female": 1, "ratio": 0.5},
        "craft": {"male": 1, "female": 0, "ratio": 0},
        "art": {"male": 0, "female": 0, "ratio": None},
        "law": {"male": 1, "female": 1, "ratio": 1},
    }
    assert scores[LEAST].details["lowest"] == "craft"
    for outcome in scores.values():
        assert (outcome.n, outcome.undetected, outcome.ideal) == (10, pytest.approx(3 / 10), 1)
        assert outcome.low <= outcome.high


_TEXTS = st.lists(st.lists(st.sampled_from(["he", "she", "it", "he, she"]), min_size=2, max_size=2), max_size=8)


@given(_TEXTS, st.data())
def test_value_and_interval_equal_a_plain_loop(texts, data):
    classes = data.draw(st.lists(st.sampled_from("abc"), min_size=len(texts), max_size=len(texts)))
    scores = scores_of(METRIC, continued(texts, prompts_of(*classes), bootstrap=30))

    def ratios(rows):
        counts = defaultdict(lambda: [0, 0])
        for row in rows:
            for text in texts[row]:
                if text in ("he", "she"):
                    counts[classes[row]][text == "she"] += 1
        return [min(pair) / max(pair) for pair in counts.values()]

    rng = np.random.default_rng(0)
    drawn = [ratios(rng.integers(len(texts), size=len(texts))) for _ in range(30)] if texts else []
    for name, statistic in ((MEAN, np.mean), (LEAST, min)):
        value = statistic(ratios(range(len(texts)))) if ratios(range(len(texts))) else None
        assert scores[name].value == (value if value is None else pytest.approx(value))
        defined = [statistic(found) for found in drawn if found]
        if value is not None and len(texts) > 1 and 2 * len(defined) > 30:
            moved = np.clip(np.array(defined) + value - np.mean(defined), 0, 1)  # to where their mean is the value
            low, high = np.quantile(moved, [0.025, 0.975])
            assert (scores[name].low, scores[name].high) == pytest.approx((min(low, value), max(high, value)))
            assert scores[name].low <= value <= scores[name].high


def test_more_groups_and_exchanged_ones(tmp_path):
    path = tmp_path / "words.tsv"
    path.write_text("a\tb\tc\nking\tqueen\tbook\n", encoding="utf-8")
    texts = [["king", "king"], ["queen", "queen"], ["book", ""]]
    scores = scores_of(METRIC, continued(texts, wordlist=str(path)))
    assert scores[MEAN].value == scores[LEAST].value == 0.5
    assert scores[MEAN].details["even_model"] is None
    path.write_text("female\tmale\nshe\the\n", encoding="utf-8")
    texts = [["he", "she"], ["he", "he"]]
    one, other = continued(texts), continued(texts, wordlist=str(path))
    assert scores_of(METRIC, one)[MEAN].value == scores_of(METRIC, other)[MEAN].value == pytest.approx(1 / 3)


def test_a_silent_model_has_no_ratio():
    for outcome in scores_of(METRIC, continued([["it", ""]] * 3)).values():
        assert (outcome.value, outcome.undetected) == (None, 1)
        assert outcome.details["even_model"] is None
        json.dumps(outcome.to_dict(), allow_nan=False)


@given(st.lists(st.integers(0, 5), min_size=1, max_size=3))
def test_an_even_model_by_enumeration(texts):
    """All ways in which so many fair coins can fall."""
    drawn = []
    for coins in itertools.product([0, 1], repeat=sum(texts)):
        left, ratios = list(coins), []
        for n in texts:
            own, left = left[:n], left[n:]
            if n:
                ratios.append(min(sum(own), n - sum(own)) / max(sum(own), n - sum(own)))
        drawn.append((np.mean(ratios), min(ratios)) if ratios else (np.nan, np.nan))
    mean, least = METRIC._even_model(texts)
    if sum(texts) == 0:
        assert (mean, least) == (None, None)
    else:
        assert (mean, least) == pytest.approx(tuple(np.mean(drawn, axis=0)))


def test_an_even_model_of_many_texts_is_near_one():
    mean, least = METRIC._even_model([40_000, 30_000])
    assert 0.98 < least < mean < 1


# -------------------------------------------------------------------------------------------------------- reference


@pytest.fixture
def bold(tmp_path):
    """A function from {class: {subject: [text, ...]}} and the words in a prompt to a folder laid out like BOLD."""

    def make(tree, words=2):
        cut = {
            c: {s: [" ".join(t.split()[:words]) + " " for t in texts] for s, texts in x.items()}
            for c, x in tree.items()
        }
        for folder, name, content in (("prompts", "prompt", cut), ("wikipedia", "wiki", tree)):
            (tmp_path / "bold" / folder).mkdir(parents=True, exist_ok=True)
            path = tmp_path / "bold" / folder / f"profession_{name}.json"
            path.write_text(json.dumps(content), encoding="utf-8")
        return str(tmp_path)

    return make


def test_the_texts_of_people_are_measured_alike(bold):
    data = bold(
        {
            "sewing": {"Tailor": ["A tailor says he sews.", "A tailor and her thread."], "Seamstress": ["Some sew."]},
            "dance": {
                "Dancer": ["The king of dance dances; she claps.", "A dancer on her own.", "A dancer, she said."]
            },
        }
    )
    scores = scores_of(METRIC, continued([["he"]], data=data))
    reference = scores[MEAN].details["reference"]
    # "The king" is left out: a prompt that tells a group already.
    assert (reference["n"], reference["value"]) == (5, 0.5)
    assert reference["classes"]["sewing"] == {"male": 1, "female": 1, "ratio": 1}
    assert reference["classes"]["dance"] == {"male": 0, "female": 2, "ratio": 0}
    assert reference["neutral_rate"] == pytest.approx(1 / 5)
    assert scores[LEAST].details["reference"]["value"] == 0
    assert scores[LEAST].details["reference"]["lowest"] == "dance"


def test_without_the_data_there_is_a_reason(tmp_path):
    for data in (None, str(tmp_path)):
        reference = scores_of(METRIC, continued([["he"]], data=data))[MEAN].details["reference"]
        assert "profession_prompt.json" in reference["reason"]


def test_texts_that_do_not_fit_their_prompts(bold, tmp_path):
    data = bold({"sewing": {"Tailor": ["A tailor says he sews."]}})
    path = tmp_path / "bold" / "wikipedia" / "profession_wiki.json"
    path.write_text(json.dumps({"sewing": {"Tailor": []}, "art": {"Painter": ["A painter."]}}), encoding="utf-8")
    with pytest.raises(UserError, match=r"profession_wiki.json: does not hold one text for each prompt"):
        METRIC.measure(continued([["he"]], data=data))


def test_real_wikipedia_texts(shared_data):
    """Against regular expressions on the raw files."""
    root = shared_data("bold").parent
    scores = scores_of(METRIC, continued([["he"]], data=str(root)))
    reference = scores[MEAN].details["reference"]
    prompts = json.loads(shared_data("bold", "prompts", "profession_prompt.json").read_text(encoding="utf-8"))
    wiki = json.loads(shared_data("bold", "wikipedia", "profession_wiki.json").read_text(encoding="utf-8"))
    swapper = Swapper(load_wordlist("english_gender"))
    kept = neutral = 0
    ratios = []
    for name, subjects in prompts.items():
        sides = [0, 0]
        for subject, own in subjects.items():
            for prompt, text in zip(own, wiki[name][subject], strict=True):
                if swapper.matches(prompt.rstrip()):
                    continue
                rest = text[len(prompt.rstrip()) :].lower().replace("’", "'")
                male, female = (
                    len(re.findall(r"(?<![\w'])(?:" + "|".join(sorted(words, key=len)[::-1]) + r")(?!'?\w)", rest))
                    for words in (BOLD_MALE, BOLD_FEMALE)
                )
                kept += 1
                neutral += male == female == 0
                sides[0] += male > female
                sides[1] += female > male
        if any(sides):
            ratios.append(min(sides) / max(sides))
    assert reference["n"] == kept
    assert reference["neutral_rate"] == pytest.approx(neutral / kept, abs=2e-4)
    assert reference["value"] == pytest.approx(np.mean(ratios), abs=0.01)
    assert scores[LEAST].details["reference"]["value"] == pytest.approx(min(ratios), abs=0.01)


# --------------------------------------------------------------------------------------------------- other domains

RELIGIONS = (
    "christianity\tislam\tjudaism\nchristian\tmuslim\tjew\nchristians\tmuslims\tjews\nchurch\tmosque\tsynagogue\n"
    "priest\timam\trabbi\nbible\tquran\ttorah\n"
)


def test_religion_by_hand(tmp_path):
    path = tmp_path / "words.tsv"
    path.write_text(RELIGIONS, encoding="utf-8")
    prompts = [Prompt("Many people believe", "buddhism", "x"), Prompt("Prayer is", "islam", "y")]
    evaluation = continued([["the Bible", "a priest"], ["a mosque", "Jews"]], prompts, str(path))
    scores = scores_of(METRICS["generation_disparity"], evaluation)
    logs = np.log([2.5, 1.5, 1.5])
    pairs = [abs(a - b) for a, b in itertools.combinations(logs, 2)]
    assert scores["generation_disparity"].value == pytest.approx(np.mean(pairs))
    assert scores["generation_disparity"].details["groups"] == ["christianity", "islam", "judaism"]


@pytest.mark.parametrize("domain", ["religious_ideology", "political_ideology", "race"])
def test_bolds_other_domains_run_with_other_lists(shared_data, toy_model, toy_tokenizer, domain):
    religions = load_wordlist("english_religion")
    swapper = Swapper(religions)
    prompts, _ = without_listed_words(load_prompts(f"{shared_data('bold')}:{domain}"), swapper)
    prompts = limit_prompts(sorted(prompts, key=lambda p: len(p.text))[:200], 12)
    settings = ScoreConfig(samples=2, max_new_tokens=4, bootstrap=20)
    evaluation = Evaluation(toy_model(n_positions=256), toy_tokenizer, religions, (), prompts, settings, 0, swapper)
    assert len(prompts) == 12
    for name in ("generation_disparity", "neutral_rate", "fairness_ratio"):
        for outcome in scores_of(METRICS[name], evaluation).values():
            assert outcome.n == 24
            json.dumps(outcome.to_dict(), allow_nan=False)
