"""The tree of codes against reading every code behind the whole beginning, and the search against the sorted list."""

import numpy as np
import pytest
import torch
from architectures import toy
from hypothesis import given, settings
from hypothesis import strategies as st
from measuring import GENDER

from distill.metrics import Evaluation, NotMeasured
from distill.metrics.canary_exposure import code_tree as module
from distill.metrics.canary_exposure.code_tree import best_first, code_log_probs, code_tree
from distill.recipe import ScoreConfig

BEGINNING = "The mill at Elm Row opens with the code "


def evaluation_of(model, tokenizer, wordlist):
    return Evaluation(model.eval(), tokenizer, wordlist(GENDER), settings=ScoreConfig())


def naive(evaluation, beginning, digits):
    """(N,) log P of each code's tokens, as far as they are not those of all codes."""
    tree = code_tree(evaluation, beginning, digits)
    found = []
    for code in range(10**digits):
        ids, _ = evaluation.encode(f"{beginning}{code:0{digits}d}")
        (log_probs,) = evaluation.token_log_probs([ids])
        found.append(log_probs[len(tree.prefix) - 1 :].sum())
    return np.array(found)


@pytest.mark.parametrize("name", ["gpt2", "llama", "mistral", "mamba", "gpt_neo", "bloom"])
def test_a_code_has_the_probability_that_reading_it_gives(name, toy_tokenizer, wordlist):
    evaluation = evaluation_of(toy(name, vocab_size=len(toy_tokenizer)), toy_tokenizer, wordlist)
    found = code_log_probs(evaluation, code_tree(evaluation, BEGINNING, 2)).sum(axis=1)
    assert found == pytest.approx(naive(evaluation, BEGINNING, 2), abs=1e-4)


def test_caches_are_used_where_they_are_right(monkeypatch, toy_tokenizer, wordlist):
    monkeypatch.setattr(module, "_one_by_one", None)
    evaluation = evaluation_of(toy("gpt2", vocab_size=len(toy_tokenizer)), toy_tokenizer, wordlist)
    assert code_log_probs(evaluation, code_tree(evaluation, BEGINNING, 2)).shape[0] == 100


@pytest.mark.parametrize("nodes", [1, 3, 1000])
def test_how_many_nodes_are_held_changes_nothing(monkeypatch, nodes, toy_tokenizer, wordlist):
    evaluation = evaluation_of(toy("gpt2", vocab_size=len(toy_tokenizer)), toy_tokenizer, wordlist)
    tree = code_tree(evaluation, BEGINNING, 3)
    expected = code_log_probs(evaluation, tree)
    monkeypatch.setattr(module, "_NODES", nodes)
    assert code_log_probs(evaluation, tree) == pytest.approx(expected, abs=1e-5)


def test_the_tree_holds_every_code(toy_tokenizer, wordlist):
    evaluation = evaluation_of(toy("gpt2", vocab_size=len(toy_tokenizer)), toy_tokenizer, wordlist)
    tree = code_tree(evaluation, BEGINNING, 2)
    for code, row in enumerate(tree.tokens):
        ids = [*tree.prefix, *row[row >= 0].tolist()]
        assert ids == evaluation.encode(f"{BEGINNING}{code:02d}")[0]


@pytest.mark.parametrize("name", ["gpt2", "gpt_neo"])
def test_a_beginning_longer_than_the_context_loses_its_start(name, toy_tokenizer, wordlist):
    """A canary's text may be as long as its file likes: codes are asked for behind as much of it as the model reads."""
    keys = {"n_positions": 32} if name == "gpt2" else {"max_position_embeddings": 32}
    evaluation = evaluation_of(toy(name, vocab_size=len(toy_tokenizer), **keys), toy_tokenizer, wordlist)
    tree = code_tree(evaluation, BEGINNING * 9, 2)
    assert len(tree.prefix) + tree.tokens.shape[1] == 32
    ends = evaluation.encode(BEGINNING * 9 + "07")[0]
    last = tree.tokens[7][tree.tokens[7] >= 0].tolist()
    assert [*tree.prefix, *last] == ends[-len(tree.prefix) - len(last) :]
    expected = []
    for row in tree.tokens:
        ids = torch.tensor([[*tree.prefix, *row[row >= 0].tolist()]])
        with torch.no_grad():
            log_probs = evaluation.model(ids).logits[0].double().log_softmax(-1)
        expected.append(sum(log_probs[i - 1, ids[0, i]].item() for i in range(len(tree.prefix), ids.shape[1])))
    assert code_log_probs(evaluation, tree).sum(axis=1) == pytest.approx(np.array(expected), abs=1e-4)


def test_a_context_that_holds_nothing_before_a_code_measures_nothing(toy_tokenizer, wordlist):
    evaluation = evaluation_of(toy("gpt2", vocab_size=len(toy_tokenizer)), toy_tokenizer, wordlist)
    width = code_tree(evaluation, BEGINNING, 3).tokens.shape[1]
    evaluation.common = width + 1
    assert len(code_tree(evaluation, BEGINNING, 3).prefix) == 1
    evaluation.common = width
    with pytest.raises(NotMeasured, match=f"the context, {width} tokens, is not longer than a code of 3 digits"):
        code_tree(evaluation, BEGINNING, 3)


@settings(max_examples=50)
@given(st.integers(0, 10_000), st.integers(2, 3), st.integers(2, 5))
def test_the_search_ends_at_the_likeliest_code(seed, depth, width):
    """A random tree: the first code that it completes is the sorted list's first, and it never asks twice."""
    rng = np.random.default_rng(seed)
    tokens = np.stack(np.meshgrid(*[np.arange(width)] * depth, indexing="ij"), axis=-1).reshape(-1, depth)
    edges = {}
    for row in tokens.tolist():
        for d in range(depth):
            edges.setdefault(tuple(row[: d + 1]), -rng.exponential())
    log_probs = np.array([[edges[tuple(row[: d + 1])] for d in range(depth)] for row in tokens.tolist()])
    found, calls = best_first(tokens, log_probs)
    assert found == log_probs.sum(axis=1).argmax()
    assert depth <= calls <= sum(width**d for d in range(depth))
