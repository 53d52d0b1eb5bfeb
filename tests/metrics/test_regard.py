"""The regard gap against a plain loop, for classifiers of random weights."""

from itertools import chain

import numpy as np
import pytest
from continued import continued, prompts_of, scores_of
from measuring import naive

from distill.base.errors import UserError
from distill.metrics import METRICS, NotMeasured
from distill.metrics import text_classifier as module

METRIC = METRICS["regard"]


CONTINUATIONS = [
    [" he was tired", " she was tired"],
    [" his book was late", " her book was late"],
    [" the king saw him", " the king saw her"],
    [" nothing happened", " he and she"],
    [" a man took his coat and his book", " a woman was late"],
]


def test_gap_equals_a_plain_loop(classifier_folder):
    folder = classifier_folder(seed=3)
    evaluation = continued(CONTINUATIONS, regard_model=folder)
    outcome = scores_of(METRIC, evaluation)["regard_gap"]
    values = {0: 1, 1: 0, 2: -1}
    regard = {"m": [], "f": []}
    for prompt, samples in zip(evaluation.prompts, CONTINUATIONS, strict=True):
        for text in samples:
            side = {"he": "m", "his": "m", "him": "m", "man": "m", "she": "f", "her": "f", "woman": "f"}
            sides = {side[word] for word in text.split() if word in side}
            if len(sides) == 1:
                regard[sides.pop()].append(values[int(naive(folder, prompt.text + text).argmax())])
    assert (len(regard["m"]), len(regard["f"])) == (4, 4)
    assert len({*regard["m"], *regard["f"]}) > 1
    assert outcome.details["signed"]["value"] == pytest.approx(np.mean(regard["m"]) - np.mean(regard["f"]))
    assert (outcome.n, outcome.undetected) == (8, pytest.approx(1 / 5))
    assert outcome.details["classifier"] == folder
    assert outcome.details["classifier_accuracy"] is None
    assert outcome.details["shares"]["male"]["positive"] == pytest.approx(regard["m"].count(1) / 4)


def test_the_judges_own_gap_by_counterfactuals(classifier_folder):
    """Each text about a group and the same with its words swapped by hand."""
    folder = classifier_folder(seed=3)
    texts = [[" he was tired"], [" she was late"], [" nothing happened"], [" the king was late"]]
    others = {" he was tired": " she was tired", " she was late": " he was late"}
    evaluation = continued(texts, regard_model=folder)
    gaps, flips = [], []
    for prompt, (text,) in zip(evaluation.prompts, texts, strict=True):
        if text in others:  # BOLD's words do not count kings.
            own, other = (1 - int(naive(folder, prompt.text + t).argmax()) for t in (text, others[text]))
            gaps.append(own - other if "he" in text.split() else other - own)
            flips.append(own != other)
    found = scores_of(METRIC, evaluation)["regard_gap"].details["judge_gap"]
    assert found == {"value": pytest.approx(np.mean(gaps)), "texts": 2, "flipped": np.mean(flips)}


@pytest.mark.parametrize("rows", [1, 2, 64])
def test_batches_and_order_play_no_part(classifier_folder, rows, monkeypatch):
    folder = classifier_folder(("negative", "neutral", "positive", "other"), "bert", seed=2)
    expected = scores_of(METRIC, continued(CONTINUATIONS, regard_model=folder))["regard_gap"]
    monkeypatch.setattr(module, "_MAX_ROWS", rows)
    other = continued(CONTINUATIONS[::-1], prompts_of(*["job"] * 5)[::-1], regard_model=folder)
    outcome = scores_of(METRIC, other)["regard_gap"]
    assert outcome.value == pytest.approx(expected.value)
    assert outcome.details["shares"] == expected.details["shares"]


def test_what_cannot_be_measured(classifier_folder):
    with pytest.raises(NotMeasured, match="no classifier of regard"):
        METRIC.measure(continued(CONTINUATIONS))
    folder = classifier_folder(("LABEL_0", "LABEL_1", "LABEL_2"))
    with pytest.raises(UserError, match="this classifier has label_0, label_1, label_2; set id2label"):
        METRIC.measure(continued(CONTINUATIONS, regard_model=folder))
    assert scores_of(METRIC, continued([], regard_model=classifier_folder()))["regard_gap"].n == 0


def test_every_text_is_judged_once(classifier_folder):
    """The labels go back to the texts that they were found for."""
    folder = classifier_folder(seed=3)
    evaluation = continued(CONTINUATIONS, regard_model=folder)
    shares = scores_of(METRIC, evaluation)["regard_gap"].details["shares_of_all_texts"]
    texts = chain.from_iterable(
        [prompt.text + text for text in samples]
        for prompt, samples in zip(evaluation.prompts, CONTINUATIONS, strict=True)
    )
    labels = [("positive", "neutral", "negative")[int(naive(folder, text).argmax())] for text in texts]
    assert shares == {label: labels.count(label) / 10 for label in ("positive", "neutral", "negative", "other")}
