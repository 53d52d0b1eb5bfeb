"""Word lists, models and evaluations whose scores can be worked out by hand; stand-ins for judges of texts."""

import math
import sys
from types import ModuleType

import pytest
import torch
from bigram import BigramModel
from measuring import DOCUMENTS, GENDER, PROMPTS, SMALL, write_classifier

from distill.metrics import (
    Evaluation,
)
from distill.text.wordlist import load_wordlist


@pytest.fixture
def wordlist(tmp_path):
    """A function from the text of a word list to the list."""

    def make(text: str = GENDER):
        rows = [line.split("\t") for line in text.splitlines()]
        width = max(map(len, rows))
        path = tmp_path / "words.tsv"
        path.write_text("".join("\t".join(row + [""] * (width - len(row))) + "\n" for row in rows), encoding="utf-8")
        return load_wordlist(path)

    return make


@pytest.fixture
def bigram(toy_tokenizer):
    """A function from {last word: {next word: probability}} to a model, `None` for the start token; rest uniform."""

    def token(word):
        if word is None:
            return toy_tokenizer.bos_token_id
        (only,) = toy_tokenizer(word)["input_ids"]
        return only

    def make(rows=None, **keys):
        model = BigramModel(len(toy_tokenizer), **keys)
        for last, probabilities in (rows or {}).items():
            model.table[token(last)] = -torch.inf
            for word, probability in probabilities.items():
                model.table[token(last), token(word)] = math.log(probability)
        return model

    return make


@pytest.fixture
def evaluated(toy_tokenizer, wordlist):
    """A function from a model to an `Evaluation` of it; keywords change its fields."""

    def make(model, words: str = GENDER, **fields):
        fields = {"documents": DOCUMENTS, "prompts": PROMPTS, "settings": SMALL, "seed": 0} | fields
        return Evaluation(model, toy_tokenizer, wordlist(words), **fields)

    return make


@pytest.fixture
def classifier_folder(toy_tokenizer, tmp_path):
    """A function from what `write_classifier` takes to the folder of a classifier."""

    def make(*given, **keys):
        return write_classifier(tmp_path / f"classifier{len(list(tmp_path.iterdir()))}", toy_tokenizer, *given, **keys)

    return make


@pytest.fixture
def compounds(monkeypatch):
    """A function from {word: compound} to a stand-in for VADER: a text has the compound of its last word."""

    def make(values):
        class Analyzer:
            def polarity_scores(self, text):
                return {"compound": values.get(text.rsplit(" ", 1)[-1], 0.0)}

        package, module = ModuleType("vaderSentiment"), ModuleType("vaderSentiment.vaderSentiment")
        module.SentimentIntensityAnalyzer = Analyzer
        monkeypatch.setitem(sys.modules, "vaderSentiment", package)
        monkeypatch.setitem(sys.modules, "vaderSentiment.vaderSentiment", module)

    return make
