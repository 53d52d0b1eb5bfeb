"""Toy models, scored."""

import pytest
from toy_run import DOCUMENTS, SETTINGS

from distill.scoring.score import score_models
from distill.text.prompts import load_prompts


@pytest.fixture(scope="module")
def run(short_wordlist, toy_tokenizer):
    """A function from models to their scores on a few prompts and texts."""

    def make(models, **keys):
        keys = {"prompts": load_prompts()[:40], "settings": SETTINGS, "documents": DOCUMENTS} | keys
        models = {name: (model, toy_tokenizer) for name, model in models.items()}
        return score_models(models, wordlist=short_wordlist, **keys)

    return make
