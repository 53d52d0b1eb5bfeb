"""Scores of a student on each client's own text: which documents, what they are, and what they are together."""

import itertools
import json
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from toy_federation import SWAPPER, TOKENIZER, federated, student_of, toy_recipe
from transformers import GPT2LMHeadModel

from distill.federation.client_scores import DOCUMENTS, ENOUGH, over_clients, sample, scorer
from distill.federation.partitions import partition


@given(st.integers(0, 400))
def test_a_sample_is_spread_over_all_documents_without_a_repetition(number):
    documents = [str(n) for n in range(number)]
    taken = [int(document) for document in sample(documents)]
    assert len(taken) == len(set(taken)) == min(number, DOCUMENTS)
    assert taken == sorted(taken)
    if number > 1:
        assert (taken[0], taken[-1]) == (0, number - 1)
        gaps = [after - before for before, after in itertools.pairwise(taken)]
        assert max(gaps) - min(gaps) <= 1


def naive_perplexity(model: GPT2LMHeadModel, documents: list[str]) -> float:
    """One document at a time: exp of the mean of -log p over all tokens behind the start token."""
    total, number = 0.0, 0
    for document in documents:
        ids = [TOKENIZER.bos_token_id, *TOKENIZER(document)["input_ids"]]
        with torch.no_grad():
            log_p = model.eval()(input_ids=torch.tensor([ids])).logits[0, :-1].double().log_softmax(-1)
        total -= float(log_p[range(len(ids) - 1), ids[1:]].sum())
        number += len(ids) - 1
    return math.exp(total / number)


def test_each_client_has_its_own_scores_and_the_training_record_says_them_together(tmp_path):
    """By an implementation of its own: the published student on the documents that the partition deals to each."""
    documents = [f"Number {n}: the nurse said that {'she' if n % 3 else 'he'} was tired." for n in range(80)]
    recipe = toy_recipe(tmp_path, 1, clients=3, rounds=1, client_metrics=["perplexity"])
    federated(recipe, documents)
    config = recipe.federation
    shares = partition(documents, config.partition, config.clients, recipe.seed, SWAPPER)
    student = GPT2LMHeadModel.from_pretrained(tmp_path / "student")
    found = json.loads((tmp_path / "federation" / "student-clients.json").read_text())
    assert [one["client"] for one in found] == [client for client, share in enumerate(shares) if len(share)]
    for one in found:
        own = sample([documents[i] for i in shares[one["client"]]])
        assert one["documents"] == len(own)
        assert one["perplexity"] == pytest.approx(naive_perplexity(student, own), rel=1e-4)
    told = json.loads((tmp_path / "training" / "student.json").read_text())["over_clients"]
    assert told == over_clients(found)


def test_without_client_metrics_nothing_is_kept_of_a_clients_text_and_nothing_written(tmp_path):
    federated(toy_recipe(tmp_path, 1, clients=2, rounds=1))
    assert not (tmp_path / "federation" / "student-clients.json").exists()
    assert "over_clients" not in json.loads((tmp_path / "training" / "student.json").read_text())


def test_over_clients_every_client_counts_alike_and_those_with_little_text_do_not():
    """By hand: -3 lies farther from the ideal 0 than 1; perplexity's ideal is 1."""
    found = [
        {"client": 2, "documents": ENOUGH, "corpus_disparity": 1.0, "perplexity": 50.0},
        {"client": 5, "documents": 64, "corpus_disparity": -3.0, "perplexity": 70.0},
        {"client": 6, "documents": ENOUGH - 1, "corpus_disparity": 99.0, "perplexity": 1.0},
        {"client": 9, "documents": 20, "perplexity": 60.0},
    ]
    told = over_clients(found)
    assert told["corpus_disparity"] == {
        "clients": 2, "mean": -1.0, "spread": 2.0, "least": -3.0, "largest": 1.0, "worst": -3.0, "worst_client": 5,
    }  # fmt: skip
    assert told["perplexity"]["spread"] == pytest.approx(math.sqrt(200 / 3))
    assert (told["perplexity"]["worst"], told["perplexity"]["worst_client"]) == (70.0, 5)
    assert over_clients([]) == over_clients(found[2:3]) == {}


def test_a_score_that_the_text_does_not_give_is_left_out(tmp_path):
    recipe = toy_recipe(tmp_path, clients=2)
    values = scorer(recipe, TOKENIZER, SWAPPER, ["perplexity"], "federation.client_metrics")
    student = student_of(recipe)
    assert values(student, []) == {}
    assert values(student, ["She was tired."]).keys() == {"perplexity"}
