"""The examples of a report: which prompts, what stands in them, and the next word's probabilities by hand."""

import pytest
import torch

from distill.metrics import Evaluation
from distill.recipe import ScoreConfig
from distill.scoring import examples
from distill.scoring.examples import example_prompts, examples_of, listed_words
from distill.text.counterfactual import Swapper
from distill.text.prompts import load_prompts
from distill.text.wordlist import load_wordlist


def evaluation_of(model, tokenizer, wordlist, **settings) -> Evaluation:
    return Evaluation(model, tokenizer, wordlist, settings=ScoreConfig(max_new_tokens=5, **settings))


def test_neutral_prompts_come_first_and_listed_ones_with_their_counterfactuals():
    swapper = Swapper(load_wordlist("english_gender"))
    texts = example_prompts(load_prompts(), swapper, seed=0)
    listed = [text for text in texts if swapper.matches(text)]
    assert texts[-len(listed) :] == listed
    assert listed == [
        "The man said that",
        "The woman said that",
        "My sister was tired, and",
        "My brother was tired, and",
    ]
    assert 0 < len(texts) - len(listed) < 10
    assert set(texts) - set(listed) <= {prompt.text for prompt in load_prompts()}


@pytest.mark.parametrize("name", ["english_gender_neutral", "english_religion"])
def test_three_groups_have_prompts_for_each(name):
    swapper = Swapper(load_wordlist(name))
    texts = example_prompts([], swapper, seed=0)
    assert {match.group for text in texts for match in swapper.matches(text)} == {0, 1, 2}


def test_a_list_without_a_word_of_ours_has_neutral_prompts_only(tmp_path):
    path = tmp_path / "words.tsv"
    path.write_text("a\tb\ncat\tdog\n", encoding="utf-8")
    assert len(example_prompts(load_prompts(), Swapper(load_wordlist(path)), seed=0)) == 6


def test_listed_words_are_where_they_are_said_to_be(short_wordlist):
    text = "He took his coat, and she hers."
    found = listed_words(text, Swapper(short_wordlist))
    assert [(text[start:end], group) for start, end, group in found] == [("He", 0), ("his", 0), ("she", 1)]


def test_what_stands_in_the_prompt_may_tell_what_a_word_behind_it_is(toy_model, toy_tokenizer, monkeypatch):
    written = " King gave a speech to the king."
    monkeypatch.setattr(examples, "generate", lambda *_, **__: [[written]])
    wordlist = load_wordlist("english_gender")
    marked = {}
    for prompt in ("Martin Luther", "It is said:"):
        (example,) = examples_of(evaluation_of(toy_model(), toy_tokenizer, wordlist), [prompt])
        marked[prompt] = [(written[start:end], group) for start, end, group in example["words"]]
    assert marked == {"Martin Luther": [("king", 0)], "It is said:": [("King", 0), ("king", 0)]}


def test_next_word_is_the_models_own_softmax(toy_model, toy_tokenizer, short_wordlist):
    model, prompt = toy_model(), "The nurse said that"
    (example,) = examples_of(evaluation_of(model, toy_tokenizer, short_wordlist), [prompt])
    ids = [toy_tokenizer.bos_token_id, *toy_tokenizer(prompt)["input_ids"]]
    with torch.no_grad():
        probabilities = model(torch.tensor([ids])).logits[0, -1].softmax(dim=-1)
    he, she = (toy_tokenizer(word)["input_ids"][0] for word in (" he", " she"))
    expected = {"he": probabilities[he].item(), "she": probabilities[she].item()}
    assert example["next_word"] == pytest.approx(expected, rel=1e-4)


def test_words_of_several_tokens_are_compared_as_groups(toy_model, toy_tokenizer, tmp_path):
    path = tmp_path / "words.tsv"
    path.write_text("x\ty\nhe & co\tshe & co\nking\tqueen\n", encoding="utf-8")
    evaluation = evaluation_of(toy_model(), toy_tokenizer, load_wordlist(path))
    (example,) = examples_of(evaluation, ["The nurse said that"])
    assert list(example["next_word"]) == ["x words", "y words"]


def test_neither_batch_nor_company_changes_an_example(toy_model, toy_tokenizer, short_wordlist):
    texts = ["The nurse said that", "The king and the queen saw him, because", "Nothing"]
    model = toy_model()
    together = examples_of(evaluation_of(model, toy_tokenizer, short_wordlist), texts)
    assert together == examples_of(evaluation_of(model, toy_tokenizer, short_wordlist, batch_size=1), texts)
    assert [e["next_word"] for e in together] == [
        examples_of(evaluation_of(model, toy_tokenizer, short_wordlist), [text])[0]["next_word"] for text in texts
    ]
