"""What a report says of a private student."""

from dataclasses import replace

import pytest

from distill.recipe import Recipe, StudentConfig, TeacherConfig
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
    assert privacy_row(toy_scores) == []


def test_what_clients_account_for_is_said_of_each():
    facts = FACTS | {"documents": [48, 812], "batch_size": [48, 256], "noise_multiplier": [0.9, 2.1], "clients": 8}
    said = " ".join(guarantee(Recipe(), facts))
    for words in (
        "each of 8 clips and adds noise", "accounts for all rounds", "against the server and the other clients",
        "on average 48 to 256 of 48 to 812 documents in each of 12 steps", "noise of 0.9 to 2.1 times that",
    ):  # fmt: skip
        assert words in said
    assert "at one client" in privacy_row({"privacy": facts})[0][1]


@pytest.mark.parametrize("secure", [True, False])
def test_who_can_take_the_noise_off_is_said(secure):
    said = " ".join(guarantee(Recipe(), FACTS | {"secure": secure}))
    assert ("operating system" in said, "Whoever knows the seed" in said) == (secure, not secure)


def test_what_epsilon_does_not_cover_fits_the_recipe():
    checkpoint = Recipe(student=StudentConfig(init="checkpoint", path="there"))
    without = replace(checkpoint, teacher=TeacherConfig(path=None))
    for recipe, words in (
        (Recipe(), "the teacher saw"), (checkpoint, "trained before"), (without, "the model that it starts from saw"),
    ):  # fmt: skip
        said = " ".join(not_covered(recipe))
        assert words in said
        assert all(word in said for word in ("tokenizer", "Duplicates", "choice among settings", "losses", "audit"))
