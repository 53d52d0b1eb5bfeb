"""Exposure: ranks worked out by hand, chance, and a model that has one code by heart."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from bigram import BigramModel
from measuring import GENDER, all_scored

from distill.data.canaries import Canary
from distill.metrics import METRICS, Evaluation
from distill.metrics.audited import Audited
from distill.recipe import ScoreConfig

BEGINNING = "The mill opens with "


@pytest.fixture
def exposed(toy_tokenizer, wordlist):
    """A function from a model and canaries to an evaluation."""

    def make(model, canaries):
        return Evaluation(
            model, toy_tokenizer, wordlist(GENDER), settings=ScoreConfig(bootstrap=200),
            audited=Audited(canaries=canaries),
        )  # fmt: skip

    return make


def canaries(codes, repeats=1):
    return [Canary(f"{BEGINNING}{code}", code, repeats) for code in codes]


def test_equal_codes_give_the_last_rank(toy_tokenizer, exposed):
    """Under a uniform model every code is as likely as any other of as many tokens: that is no exposure."""
    found = exposed(BigramModel(len(toy_tokenizer)), canaries(["00", "17", "42", "77", "99"]))
    lengths = {code: len(toy_tokenizer(f"{BEGINNING}{code:02d}")["input_ids"]) for code in range(100)}
    ranks = [sum(lengths[other] <= lengths[int(c.code)] for other in lengths) for c in found.audited.canaries]
    score = all_scored("canary_exposure", found)["canary_exposure_bits"]
    assert score.value == pytest.approx(np.mean([math.log2(100 / rank) for rank in ranks]))


def test_a_code_known_by_heart_has_all_bits(toy_tokenizer, exposed):
    model = BigramModel(len(toy_tokenizer))
    ids = toy_tokenizer(f"{BEGINNING}42")["input_ids"]
    for last, token in pairwise(ids):
        model.table[last] = -20.0
        model.table[last, token] = 0.0
    found = exposed(model, canaries(["42"] * 5))
    assert all_scored("canary_exposure", found)["canary_exposure_bits"].value == pytest.approx(math.log2(100))
    extracted = all_scored("canary_exposure", found)["canaries_extracted"]
    assert (extracted.value, extracted.n) == (1.0, 5)
    assert extracted.details["search_calls"] <= len(ids)


def test_chance_is_what_the_card_says(toy_model, exposed):
    """All codes of a random model have each rank once: the mean over them is log2 N less the mean of log2 rank."""
    found = exposed(toy_model(seed=1), canaries([f"{code:02d}" for code in range(100)]))
    score = all_scored("canary_exposure", found)["canary_exposure_bits"]
    assert score.value == pytest.approx(np.mean([math.log2(100 / rank) for rank in range(1, 101)]), abs=0.02)
    assert score.value == pytest.approx(score.ideal, abs=0.15)
    assert all_scored("canary_exposure", found)["canaries_extracted"].value == pytest.approx(0.01)


def test_those_left_out_are_told_apart(toy_model, exposed):
    inside, outside = canaries(["01", "23", "45", "67", "89"], 4), canaries(["10", "32", "54"], 0)
    both = all_scored("canary_exposure", exposed(toy_model(seed=1), [*inside, *outside]))["canary_exposure_bits"]
    alone = all_scored("canary_exposure", exposed(toy_model(seed=1), inside))["canary_exposure_bits"]
    assert both.value == alone.value and both.n == 5
    assert {often: of["n"] for often, of in both.details["repeats"].items()} == {"0": 3, "4": 5}


def test_few_canaries_are_too_few(toy_model, exposed):
    found = METRICS["canary_exposure"].measure(exposed(toy_model(), canaries(["01", "02", "03", "04"])))
    assert all("only 4 canaries" in of_score.too_little for of_score in found.values())


def test_what_is_no_number_is_not_kept_secret(toy_model, exposed):
    model = toy_model()
    torch.nn.init.constant_(model.transformer.wpe.weight[5:], math.nan)
    for found in all_scored("canary_exposure", exposed(model, canaries(["00", "17", "42", "77", "99"]))).values():
        assert (found.value, found.low) == (None, None)
        assert found.details["repeats"]["1"] == {"n": 5, "bits": None, "extracted": None, "median_rank": None}
