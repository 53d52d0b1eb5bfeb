"""Scores as reports meet them."""

import copy

import pytest


@pytest.fixture(scope="module")
def scores(toy_scores):
    """Scores of three toy models; two texts are hostile."""
    scores = copy.deepcopy(toy_scores)
    scores["samples"][0]["texts"]["student"] = ["a | b\n\n# <script>alert(1)</script> [x](javascript:y) `c` *d*"]
    scores["samples"][1]["texts"]["student"] = ["x" * 5000]
    return scores
