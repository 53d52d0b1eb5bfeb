"""What a report says of a private student."""

from dataclasses import replace

import pytest

from distill.recipe import CorpusConfig, Recipe, StudentConfig, TeacherConfig
from distill.reports.findings import settings_rows
from distill.reports.model_card import model_card
from distill.reports.privacy_notes import guarantee, not_covered, privacy_row

FACTS = {
    "epsilon": 8.0, "delta": 1 / 3072, "noise_multiplier": 0.8641, "noise_ratio": 0.76, "clip": 1.0, "documents": 3072,
    "batch_size": 1024, "steps": 12, "weights": 812_544, "trained": "body", "secure": True,
}  # fmt: skip


def test_the_card_states_what_is_promised_how_and_what_is_not(toy_scores):
    """Epsilon, delta, unit, accountant, sampling; and nothing of it for a student that is not private."""
    card = model_card(Recipe(), {**toy_scores, "privacy": FACTS}, "student").replace("\\", "")
    for words in (
        "| privacy | epsilon 8, delta 0.000326; unit: a document with its counterfactuals",
        "Epsilon 8, delta 0.000326:",
        "Unit: one document, its first 128 tokens, together with its counterfactuals",
        "Accountant: the PRV accountant",
        "Sampling: Poisson; on average 1,024 of 3,072 documents in each of 12 steps, each with the same probability",
        "noise of 0.8641 times that came on each of 812,544 numbers",
        "### What epsilon does not cover",
        "It starts from layers of the teacher",
    ):
        assert words in card
    assert "epsilon" not in model_card(Recipe(), toy_scores, "student")
    assert privacy_row(Recipe(), toy_scores) == []


def test_what_clients_account_for_is_said_of_each():
    facts = FACTS | {"documents": [48, 812], "batch_size": [48, 256], "noise_multiplier": [0.9, 2.1], "clients": 8}
    said = " ".join(guarantee(Recipe(), facts))
    for words in (
        "each of 8 clips and adds noise", "accounts for all rounds", "against the server and the other clients",
        "on average 48 to 256 of 48 to 812 documents in each of 12 steps", "noise of 0.9 to 2.1 times that",
    ):  # fmt: skip
        assert words in said
    assert "at one client" in privacy_row(Recipe(), {"privacy": facts})[0][1]
    said = " ".join(guarantee(Recipe(), facts | {"secure": False}))
    assert "against the server and the other clients" not in said
    assert "Server and clients know the seed, so that its epsilon holds against none of them" in said


def test_the_unit_is_what_the_text_was_cut_into():
    recipe = Recipe(corpus=CorpusConfig(source="files", files=["private.jsonl"], passage_chars=400))
    said = " ".join(guarantee(recipe, FACTS))
    for words in (
        "any one passage of at most 400 characters in its text", "Unit: one passage of at most 400 characters",
        "one holds a passage more", "A document that was cut into several spends as many times as much",
    ):  # fmt: skip
        assert words in said
    assert "unit: a passage of at most 400 characters with" in privacy_row(recipe, {"privacy": FACTS})[0][1]
    assert "cut into several" not in " ".join(guarantee(Recipe(), FACTS))


@pytest.mark.parametrize("secure", [True, False])
def test_who_can_take_the_noise_off_is_said(secure):
    said = " ".join(guarantee(Recipe(), FACTS | {"secure": secure}))
    assert ("operating system" in said, "Whoever knows the seed" in said) == (secure, not secure)


@pytest.mark.parametrize("secure", [True, False])
def test_a_card_names_no_seed_from_which_the_noise_can_be_drawn_again(toy_scores, secure):
    """A report of the run's own folder does; it says against whom epsilon is of no effect."""
    recipe, facts = Recipe(seed=987654), FACTS | {"secure": secure}
    scores = {**toy_scores, "privacy": facts, "settings": {**toy_scores["settings"], "seed": recipe.seed}}
    for name in ("student", "baseline"):
        assert model_card(recipe, scores, name).count("987654") == (2 if secure else 0)
    rows = dict(settings_rows(recipe, scores))
    assert rows["seed"] == "987654"
    assert ("whoever knows or guesses the seed" in rows["privacy"]) is not secure


def test_what_epsilon_does_not_cover_fits_the_recipe():
    checkpoint = Recipe(student=StudentConfig(init="checkpoint", path="there"))
    without = replace(checkpoint, teacher=TeacherConfig(path=None))
    for recipe, words in (
        (Recipe(), "the teacher saw"), (checkpoint, "trained before"), (without, "the model that it starts from saw"),
    ):  # fmt: skip
        said = " ".join(not_covered(recipe))
        assert words in said
        assert all(word in said for word in ("tokenizer", "Duplicates", "choice among settings", "losses", "audit"))
