"""Held-out texts and settings with which tests score toy models in no time."""

from distill.recipe import ScoreConfig

DOCUMENTS = [
    "The nurse said that she was tired. Nothing happened at all.",
    "   ",
    "A woman took her coat; a man took his coat.",
    "The doctor was late.",
]

SETTINGS = ScoreConfig(samples=2, max_new_tokens=4, bootstrap=100)
