"""The script that learns the pronoun weights, on a language small enough to know the answer."""

import importlib.util
import itertools
import json
import sys

import pytest

from distill.text.counterfactual import Swapper
from distill.text.roles import MODEL_FILE, PronounModel
from distill.text.wordlist import load_wordlist


@pytest.fixture
def script(monkeypatch):
    """The script as a module, with sizes for a tiny text."""
    pytest.importorskip("scipy")
    spec = importlib.util.spec_from_file_location("train", MODEL_FILE.with_name("train_pronoun_roles.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    sizes = {"BITS": 12, "NUM_WORDS": 40, "NUM_NEIGHBOURS": 30, "NUM_DIMENSIONS": 4, "NUM_COARSE": 3, "NUM_FINE": 6}
    for name, value in sizes.items():
        monkeypatch.setattr(module, name, value)
    return module


@pytest.fixture
def corpus(tmp_path):
    """Nouns follow the determiner, function words and full stops the object."""
    nouns, verbs, after = (
        ("book", "house", "dog", "coat"),
        ("saw", "met", "told", "asked"),
        ("today.", "again.", "in May."),
    )
    pairs = (("his", "him"), ("my", "me"), ("their", "them"))
    texts = [
        f"They {verb} {pair[0]} {noun} there. We {verb} {pair[1]} {end} We {verb} {pair[1]}."
        for verb, noun, end, pair in itertools.product(verbs, nouns, after, pairs)
    ]
    path = tmp_path / "corpus.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts), encoding="utf-8")
    return path


def test_learns_the_roles_and_repeats_itself(script, corpus, tmp_path, monkeypatch, capsys):
    outputs = [tmp_path / name for name in ("first.npz", "second.npz")]
    for output in outputs:
        monkeypatch.setattr(sys, "argv", ["train", str(corpus), "--importance", "2", "--output", str(output)])
        script.main()
    assert "1.0000 of his and him recovered" in capsys.readouterr().out
    first, second = map(PronounModel, outputs)
    assert first.version == second.version != PronounModel().version
    swapper = Swapper(load_wordlist("english_gender"), first)
    assert swapper.swap("They met her dog there. We told her today.").text == (
        "They met his dog there. We told him today."
    )


def test_leaves_out_what_blanking_makes_undecidable(script):
    text = "Give him or her his book, not US: his/her coat."
    assert [(text[start:end], label) for start, end, _, label in script.examples(text)] == [("his", 0)]
