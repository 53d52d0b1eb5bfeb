"""LAMBADA: its files, and last words one passage at a time."""

import bz2
import json
import math

import pytest
import torch
from measuring import all_scored, alone

from distill.base.errors import UserError
from distill.metrics import METRICS, Evaluation
from distill.metrics import evaluation as evaluation_module
from distill.recipe import ScoreConfig

lambada = METRICS["lambada"]
PASSAGES = ["The nurse said that she was tired.", "A man took his coat", "  The king and the queen saw him and her "]


@pytest.fixture
def benchmark(toy_tokenizer, short_wordlist, tmp_path):
    """A function from a model to an evaluation with passages in OpenAI's layout."""

    def make(model, passages=PASSAGES, **settings):
        (tmp_path / "lambada").mkdir(exist_ok=True)
        rows = "\n".join(json.dumps({"text": text}) for text in passages)
        (tmp_path / "lambada" / "lambada_test.jsonl").write_text(rows)
        settings = ScoreConfig(**{"bootstrap": 50, "data": str(tmp_path)} | settings)
        return Evaluation(model, toy_tokenizer, short_wordlist, settings=settings)

    return make


def likeliest(model, tokenizer, before: str, tokens: int) -> list[int]:
    """So many tokens, the likeliest one after the other."""
    ids = [tokenizer.bos_token_id, *tokenizer(before)["input_ids"]]
    for _ in range(tokens):
        with torch.no_grad():
            ids.append(int(model(torch.tensor([ids])).logits[0, -1].argmax()))
    return ids[-tokens:]


def knowing(model, tokenizer, text: str):
    """The model, taught one text by heart."""
    ids = torch.tensor([[tokenizer.bos_token_id, *tokenizer(text)["input_ids"]]])
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(100):
        optimizer.zero_grad()
        logits = model(ids).logits[0, :-1]
        torch.nn.functional.cross_entropy(logits, ids[0, 1:]).backward()
        optimizer.step()
    return model


@pytest.mark.parametrize("rows", [1, 64])
def test_last_words_one_passage_at_a_time(rows, toy_model, toy_tokenizer, benchmark, monkeypatch):
    monkeypatch.setattr(evaluation_module, "MAX_ROWS", rows)
    known = "The doctor said that he saw the kings"
    assert len(toy_tokenizer(" kings")["input_ids"]) == 2
    model = knowing(toy_model(seed=1), toy_tokenizer, known)
    passages = [text.strip().rpartition(" ") for text in (*PASSAGES, known)]
    found = []
    for before, space, word in passages:
        ids = toy_tokenizer(before + space + word)["input_ids"]
        size = len(ids) - len(toy_tokenizer(before)["input_ids"])
        right = likeliest(model, toy_tokenizer, before, size) == ids[-size:]
        loss = alone(model, toy_tokenizer, before) - alone(model, toy_tokenizer, before + space + word)
        found.append((right, loss))
    assert [right for right, _ in found] == [False, False, False, True]
    outcome = all_scored("lambada", benchmark(model, [before + space + word for before, space, word in passages]))
    accuracy, perplexity = outcome["lambada_accuracy"], outcome["lambada_perplexity"]
    assert accuracy.value == sum(right for right, _ in found) / len(found)
    assert perplexity.value == pytest.approx(math.exp(sum(loss for _, loss in found) / len(found)), rel=1e-4)
    assert (accuracy.n, accuracy.ideal, perplexity.ideal) == (len(found), 1.0, 1.0)


def test_a_model_that_knows_the_word_is_right(bigram, benchmark):
    model = bigram({" took": {" his": 0.6, " her": 0.4}})
    outcome = all_scored("lambada", benchmark(model, ["A man took his", "A woman took her"]))
    assert outcome["lambada_accuracy"].value == 0.5
    assert outcome["lambada_perplexity"].value == pytest.approx((0.6 * 0.4) ** -0.5)


def test_a_passage_longer_than_the_context_loses_its_beginning(toy_model, benchmark):
    details = all_scored("lambada", benchmark(toy_model(n_positions=8)))["lambada_accuracy"].details
    assert details["texts_longer_than_context"] == 2


def test_the_authors_file_has_a_passage_a_line(tmp_path):
    path = tmp_path / "lambada_test_plain_text.txt.bz2"
    path.write_bytes(bz2.compress(b"he took the coat\n\nshe was late , she said\n"))
    assert lambada.read_passages(path) == [("he took the", " coat"), ("she was late , she", " said")]
    path = tmp_path / "lambada_test_plain_text.txt"
    path.write_text("he took\nword\n")
    with pytest.raises(UserError, match=r"txt, line 2: a passage of two words or more"):
        lambada.read_passages(path)
    path.write_text("\n")
    with pytest.raises(UserError, match="holds no passages"):
        lambada.read_passages(path)


def test_without_a_file_it_says_which_one_is_missing(benchmark, toy_model, tmp_path):
    evaluation = benchmark(toy_model())
    (tmp_path / "lambada" / "lambada_test.jsonl").unlink()
    outcome = all_scored("lambada", evaluation)["lambada_accuracy"]
    assert "lambada/lambada_test.jsonl is not in the folder" in outcome.details["reason"]


def test_what_is_no_number_is_no_wrong_word(toy_model, benchmark):
    """Its positions from the fifth on are damaged: what it says there is no number, which is neither more nor less."""
    model = toy_model()
    torch.nn.init.constant_(model.transformer.wpe.weight[5:], math.nan)
    outcome = all_scored("lambada", benchmark(model))
    assert outcome["lambada_accuracy"].value is outcome["lambada_perplexity"].value is None
