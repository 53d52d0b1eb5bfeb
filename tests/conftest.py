"""Shared fixtures: where the real data lie, and what a machine must have for a marked test to run."""

import os
from pathlib import Path

import pytest
from hypothesis import settings
from shared import REPOSITORY, TOY_ARCHITECTURES, TOY_TEXT

from distill.text.wordlist import load_wordlist

# Machines differ in speed, and so does one machine under load: time limits belong to pytest-timeout.
settings.register_profile("distill", deadline=None)
settings.load_profile("distill")


@pytest.fixture(scope="session")
def shared_data():
    """A function from path parts to a file of the real data sets; skips the test where they are absent."""
    root = Path(os.environ.get("DISTILL_DATA", REPOSITORY.parent / "shared" / "data"))

    def find(*parts: str) -> Path:
        path = root.joinpath(*parts)
        if not path.exists():
            pytest.skip(f"real data not found: {path} (set DISTILL_DATA to the folder that holds them)")
        return path

    return find


@pytest.fixture(scope="session")
def short_wordlist(tmp_path_factory):
    """A short list: finding the tokens of the bundled one takes most of a test's time."""
    path = tmp_path_factory.mktemp("lists") / "short.tsv"
    path.write_text("male\tfemale\nhe\tshe\nhis\ther\nman\twoman\nking\tqueen\n", encoding="utf-8")
    return load_wordlist(path)


@pytest.fixture(scope="session")
def toy_tokenizer():
    """A byte-level BPE of 400 entries, trained on a few sentences."""
    from distill.models.student import train_tokenizer

    return train_tokenizer([TOY_TEXT] * 4, 400)


@pytest.fixture(scope="session")
def toy_model(toy_tokenizer):
    """A function from an architecture of TOY_ARCHITECTURES (and keys to change) to a small random model."""
    import torch

    from distill.models.student import make_student
    from distill.recipe import StudentConfig

    def make(architecture: str = "gpt2", seed: int = 0, **keys):
        config = {"model_type": architecture, **TOY_ARCHITECTURES[architecture], **keys}
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            return make_student(StudentConfig(init="config", config=config), None, toy_tokenizer, None).eval()

    return make


@pytest.fixture(scope="session")
def toy_scores(toy_model, toy_tokenizer, short_wordlist):
    """Scores of three toy models: teacher, baseline and student. Shared: copy it before you change it."""
    from distill.recipe import ScoreConfig
    from distill.scoring.score import score_models
    from distill.text.prompts import load_prompts

    models = {name: (toy_model(seed=i), toy_tokenizer) for i, name in enumerate(("teacher", "baseline", "student"))}
    return score_models(
        models,
        wordlist=short_wordlist,
        documents=["The nurse said that she was tired.", "A woman took her coat; a man took his coat."],
        prompts=load_prompts()[:8],
        settings=ScoreConfig(samples=1, max_new_tokens=4, bootstrap=50),
    )
