"""Word lists, models and evaluations whose scores can be worked out by hand; stand-ins for judges of texts."""

import math
import sys
from types import ModuleType

import pytest
import torch
from bigram import BigramModel
from measuring import DOCUMENTS, GENDER, PROMPTS, SMALL
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    GPT2Config,
    GPT2ForSequenceClassification,
    RobertaConfig,
    RobertaForSequenceClassification,
)

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


_ENCODERS = {
    "bert": (BertConfig, BertForSequenceClassification),
    "roberta": (RobertaConfig, RobertaForSequenceClassification),
}


@pytest.fixture
def classifier_folder(toy_tokenizer, tmp_path):
    """A function from labels and an architecture to the folder of a classifier with large random weights."""

    def make(labels=("positive", "neutral", "negative"), architecture="gpt2", pad=True, seed=0, **keys):
        # At least two outputs: transformers makes a regression of one.
        names = dict(enumerate(labels))
        keys |= {"vocab_size": len(toy_tokenizer), "id2label": names, "label2id": {v: k for k, v in names.items()}}
        keys = {"pad_token_id": toy_tokenizer.eos_token_id if pad else None} | keys
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            if architecture == "gpt2":
                config = GPT2Config(n_positions=64, n_embd=16, n_layer=2, n_head=2, initializer_range=0.3, **keys)
                model = GPT2ForSequenceClassification(config)
            else:
                of_config, of_model = _ENCODERS[architecture]
                config = of_config(
                    max_position_embeddings=64, hidden_size=16, num_hidden_layers=2, num_attention_heads=2,
                    intermediate_size=32, initializer_range=0.3, **keys,
                )  # fmt: skip
                model = of_model(config)
        folder = tmp_path / f"{architecture}{len(list(tmp_path.iterdir()))}"
        model.save_pretrained(folder)
        toy_tokenizer.save_pretrained(folder)
        return str(folder)

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
