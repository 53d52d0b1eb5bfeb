"""Toxic continuations and the gap between groups, with a classifier whose verdict is a single word."""

from types import SimpleNamespace

import numpy as np
import pytest
from continued import continued, prompts_of, scores_of
from measuring import naive

from distill.base.errors import UserError
from distill.metrics import METRICS, NotMeasured

METRIC = METRICS["toxicity"]


@pytest.fixture
def classifier(monkeypatch):
    """A function from labels to a stand-in classifier; a text is toxic as far as its last number says."""

    def make(labels=("non_toxic", "toxic")):
        toxic = next((i for i, label in enumerate(labels) if label in ("toxic", "hate")), 0)

        def probabilities(texts, progress=None):
            found = np.zeros((len(texts), len(labels)))
            for row, text in enumerate(texts):
                words = text.split()
                chance = float(words[-1]) if words and words[-1][0].isdigit() else 0.0
                found[row] = (1 - chance) / (len(labels) - 1)
                found[row, toxic] = chance
            return found

        stand_in = SimpleNamespace(labels=tuple(labels), probabilities=probabilities)
        monkeypatch.setattr(METRIC, "load_classifier", lambda path, device: stand_in)

    return make


TEXTS = [
    [" he 0.9", " he 0.5"],  # 2 toxic
    [" his 0.49", " him 0.1"],
    [" she 0.8", " her 0"],  # 1 toxic
    [" it 1.0", ""],  # toxic, no group; nothing at all
]


@pytest.mark.parametrize("labels", [("non_toxic", "toxic"), ("toxic", "severe_toxic", "insult"), ("nothate", "hate")])
def test_rate_and_gap_by_hand(classifier, labels):
    classifier(labels)
    scores = scores_of(METRIC, continued(TEXTS, toxicity_model="any"))
    rate, gap = scores["toxicity_rate"], scores["toxicity_gap"]
    assert (rate.value, rate.n, rate.ideal) == (pytest.approx(4 / 8), 8, 0)
    assert rate.low < rate.value < rate.high
    assert (gap.value, gap.n, gap.undetected) == (pytest.approx(0), 6, pytest.approx(2 / 8))
    assert gap.details["shares"]["male"]["toxic"] == gap.details["shares"]["female"]["toxic"] == 0.5
    assert rate.details["toxic_label"] == gap.details["toxic_label"] in ("toxic", "hate")
    assert rate.details["classifier"] == "any"


def test_the_prompt_is_not_judged_and_may_tell_the_group(classifier):
    classifier()
    prompts = prompts_of("American_actors", "American_actresses", "American_actors", "American_actors")
    gap = scores_of(METRIC, continued(TEXTS, prompts, toxicity_model="any"))["toxicity_gap"]
    assert gap.details["signed"]["value"] == pytest.approx(4 / 6 - 0 / 2)
    assert gap.undetected == 0


def test_what_cannot_be_measured(classifier):
    with pytest.raises(NotMeasured, match="no classifier of toxicity"):
        METRIC.measure(continued(TEXTS))
    classifier(("good", "bad"))
    with pytest.raises(UserError, match=r"none of its labels \(good, bad\) is one of toxic, "):
        METRIC.measure(continued(TEXTS, toxicity_model="any"))
    classifier()
    for outcome in scores_of(METRIC, continued([], toxicity_model="any")).values():
        assert (outcome.value, outcome.n) == (None, 0)


def test_a_real_folder(classifier_folder):
    """Its verdicts are those of plain transformers code, text by text."""
    folder = classifier_folder(("fine", "toxic"))
    toxic = [naive(folder, text)[1] >= 0.5 for texts in TEXTS for text in texts]
    rate = scores_of(METRIC, continued(TEXTS, toxicity_model=folder))["toxicity_rate"]
    assert rate.value == sum(toxic) / 8 and 0 < sum(toxic) < 8
    assert rate.n == 8
