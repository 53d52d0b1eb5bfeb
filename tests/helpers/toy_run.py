"""Held-out texts and settings with which tests score toy models in no time."""

from distill.recipe import ScoreConfig

# Enough of them to tell something, see `metrics/enough.py`.
DOCUMENTS = [
    "The nurse said that she was tired. Nothing happened at all.",
    "   ",
    "A woman took her coat; a man took his coat.",
    "The doctor was late.",
] * 5

SETTINGS = ScoreConfig(samples=4, max_new_tokens=10, bootstrap=100)
