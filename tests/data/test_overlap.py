"""Training text that is held-out text too, counted as a naive comparison counts it."""

import json

from chat_templates import chat_tokenizer
from hypothesis import given
from hypothesis import strategies as st

from distill.data.corpus import Corpus
from distill.data.counts import PackingCounts
from distill.data.overlap import digests, held_out_documents, look_for_held_out, warn_of_held_out
from distill.recipe import CorpusConfig, Recipe
from distill.text.conversations import Messages, rendered

FILES = Recipe(corpus=CorpusConfig(source="files"), held_out=CorpusConfig(source="files"))
TEXTS = st.lists(st.sampled_from(["she", "he", "ä", "he ", "\nshe", "she he", "\ud800"]), max_size=12)


def count(documents, held_out, folder, recipe=FILES, key="k"):
    return held_out_documents(recipe, Corpus(key, lambda: iter(documents)), digests(held_out), folder, lambda _: None)


@given(TEXTS, TEXTS)
def test_documents_of_both_are_counted(tmp_path_factory, training, held_out):
    key = json.dumps([training, held_out])
    naive = sum(any(text.strip() == other.strip() for other in held_out) for text in training)
    assert count(training, held_out, tmp_path_factory.getbasetemp() / "cache", key=key) == naive


def test_conversations_are_compared_by_what_is_said(tmp_path, toy_tokenizer):
    talk, other = (Messages(["user", "assistant"], ["Hello.", answer]) for answer in ("She.", "He."))
    training = [rendered(document, chat_tokenizer(toy_tokenizer, "chatml")) for document in (talk, other)]
    assert count(training, [talk], tmp_path) == 1


def test_the_corpus_is_read_once_for_each_held_out_text(tmp_path):
    assert count(["she", "he"], ["he"], tmp_path) == 1
    assert count([], ["he"], tmp_path) == 1  # from the cache: the key is the same
    assert count(["she", "he"], ["it"], tmp_path) == 0
    for file in tmp_path.glob("held-out-*.json"):
        file.write_text("{")
    assert count(["she", "he"], ["he"], tmp_path) == 1


def test_where_nobody_looks_it_is_said_why(tmp_path, capsys):
    streamed = Recipe(corpus=CorpusConfig(source="hub", streaming=True), held_out=CorpusConfig(source="files"))
    assert count(["he"], ["he"], tmp_path, streamed) == 0
    assert "stream the data set once more" in capsys.readouterr().err
    assert count(["he"], ["he"], tmp_path, Recipe()) == 0  # two samples of one teacher


def test_the_number_is_counted_and_told(tmp_path, capsys):
    counts = PackingCounts(documents=3)
    look_for_held_out(FILES, Corpus("k", lambda: iter(["she", "he", "he"])), ["he"], tmp_path, counts)
    assert counts == PackingCounts(documents=3, held_out_documents=2)
    assert "2 of 3 training documents are held-out text too" in capsys.readouterr().err


def test_the_warning_tells_how_many(capsys):
    warn_of_held_out(0, 10)
    assert not capsys.readouterr().err
    warn_of_held_out(1200, 5000)
    assert "1,200 of 5,000 training documents are held-out text too" in capsys.readouterr().err
