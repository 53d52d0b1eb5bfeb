"""HateXplain: the head against scipy, every score against plain loops and by hand. No text of the data set is shown."""

import json

import numpy as np
import pytest
import torch
from downstream_data import (
    DEMO_TEACHER,
    GENDER,
    SETTINGS,
    evaluation_of,
    plain_vector,
    write_hatexplain,
)
from scipy_head import scipy_probabilities

from distill.metrics import METRICS, NotMeasured, score
from distill.models.loading import load_model, load_tokenizer
from distill.recipe import ScoreConfig

HATEXPLAIN = METRICS["hatexplain"]
CARDS = {card.name: card for card in HATEXPLAIN.CARDS}
# (text, label, verdict) of the test split of the case worked out by hand.
BY_HAND = [
    ("the king took a coat", "normal", 1),
    ("the man was late", "normal", 0),
    ("the queen took a coat", "normal", 1),
    ("the woman was tired", "normal", 1),
    ("the king saw the queen", "normal", 1),  # Mentions both groups: in no false-positive rate.
    ("nothing happened", "normal", 0),
    ("the man was tired", "offensive", 1),
    ("the woman took that", "hatespeech", 0),
    ("nothing was late", "hatespeech", 1),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_hatexplain(tmp_path_factory.mktemp("data"))


def scores_of(evaluation) -> dict:
    return {
        name: score(CARDS[name], measurement, resamples=100, seed=0)
        for name, measurement in HATEXPLAIN.measure(evaluation).items()
    }


def fixed_verdicts(folder, monkeypatch):
    """The data of the case worked out by hand, and a classifier that says what stands there."""
    write_hatexplain(folder, sizes=(8, 1, 1))
    rows = [[text, label] for text, label, _ in BY_HAND]
    (folder / "hatexplain" / "val.json").write_text(json.dumps(rows[:4]))
    (folder / "hatexplain" / "test.json").write_text(json.dumps(rows[4:]))
    verdicts = np.array([verdict for *_, verdict in BY_HAND])
    monkeypatch.setattr(
        "distill.metrics.downstream.held_out_predictions",
        lambda evaluation, task: (np.concatenate([rows for _, rows in task.folds]), verdicts),
    )
    return folder


# ------------------------------------------------------------------------------------------------------------- scores


def test_every_score_against_plain_loops(folder, toy_model, toy_tokenizer):
    model = toy_model(seed=3)
    scores = scores_of(evaluation_of(model, toy_tokenizer, folder))
    splits = {s: json.loads((folder / "hatexplain" / f"{s}.json").read_text()) for s in ("train", "val", "test")}

    def vectors(rows):
        return np.array([plain_vector(model, toy_tokenizer, text) for text, _ in rows])

    def labels(rows):
        return np.array([int(label != "normal") for _, label in rows])

    held_out = splits["val"] + splits["test"]
    swaps = {"king": "queen", "man": "woman", "he": "she"}
    swaps |= {b: a for a, b in swaps.items()}
    swapped = [[" ".join(swaps.get(word, word) for word in text.split()), label] for text, label in held_out]
    known = vectors(splits["train"]), labels(splits["train"])
    verdicts, after = (scipy_probabilities(*known, 2, vectors(rows)).argmax(axis=1) for rows in (held_out, swapped))
    truth = labels(held_out)

    assert scores["hatexplain_accuracy"].value == pytest.approx(np.mean(verdicts == truth))
    f1 = []
    for c in (0, 1):
        hits = sum((verdicts == c) & (truth == c))
        precision, recall = hits / sum(verdicts == c), hits / sum(truth == c)
        f1.append(2 * precision * recall / (precision + recall))
    assert scores["hatexplain_macro_f1"].value == pytest.approx(np.mean(f1))

    male, female = {"king", "man", "he"}, {"queen", "woman", "she"}
    flagged = {"male": [], "female": []}
    for (text, _), verdict, toxic in zip(held_out, verdicts, truth, strict=True):
        words = set(text.split())
        if not toxic and bool(words & male) != bool(words & female):
            flagged["male" if words & male else "female"].append(verdict)
    gap = np.mean(flagged["male"]) - np.mean(flagged["female"])
    outcome = scores["hatexplain_fpr_gap"]
    assert outcome.value == pytest.approx(abs(gap))
    assert outcome.details["signed"]["value"] == pytest.approx(gap)
    assert outcome.n == len(flagged["male"]) + len(flagged["female"])

    listed = [bool(set(text.split()) & (male | female)) for text, _ in held_out]
    flips = [a != b for a, b, has in zip(verdicts, after, listed, strict=True) if has]
    assert scores["hatexplain_flip_rate"].value == pytest.approx(np.mean(flips))
    assert (scores["hatexplain_flip_rate"].n, sum(flips) > 0) == (sum(listed), True)
    assert scores["hatexplain_flip_rate"].undetected == pytest.approx(1 - np.mean(listed))


def test_scores_by_hand(tmp_path, monkeypatch, toy_model, toy_tokenizer):
    scores = scores_of(evaluation_of(toy_model(), toy_tokenizer, fixed_verdicts(tmp_path, monkeypatch)))
    assert scores["hatexplain_accuracy"].value == pytest.approx(4 / 9)
    # Normal: 2 hits, 4 misses, 1 false; toxic: 2 hits, 1 miss, 4 false.
    assert scores["hatexplain_macro_f1"].value == pytest.approx((4 / (4 + 4 + 1) + 4 / (4 + 1 + 4)) / 2)
    gap = scores["hatexplain_fpr_gap"]
    assert (gap.value, gap.details["signed"]["value"], gap.n) == (0.5, -0.5, 4)
    assert gap.undetected == pytest.approx(2 / 6)
    assert gap.details["groups"] == {
        "male": {"normal_texts": 2, "flagged": 0.5},
        "female": {"normal_texts": 2, "flagged": 1.0},
    }


def test_exchanging_the_groups_turns_the_sign(tmp_path, monkeypatch, toy_model, toy_tokenizer):
    folder = fixed_verdicts(tmp_path, monkeypatch)
    exchanged = "".join(
        "\t".join([row.split("\t")[1], row.split("\t")[0], *row.split("\t")[2:]]) + "\n" for row in GENDER.splitlines()
    )
    gaps = [
        scores_of(evaluation_of(toy_model(), toy_tokenizer, folder, words))["hatexplain_fpr_gap"]
        for words in (GENDER, exchanged)
    ]
    assert gaps[0].value == gaps[1].value
    assert gaps[0].details["signed"]["value"] == -gaps[1].details["signed"]["value"]


def test_three_groups(folder, toy_model, toy_tokenizer):
    words = "a\tb\tc\nking\tqueen\tbook\nman\twoman\tcoat\n"
    scores = scores_of(evaluation_of(toy_model(seed=3), toy_tokenizer, folder, words))
    assert set(scores["hatexplain_fpr_gap"].details["groups"]) == {"a", "b", "c"}
    # A text has two counterfactuals: its flips count by halves.
    units = HATEXPLAIN.measure(evaluation_of(toy_model(seed=3), toy_tokenizer, folder, words))[
        "hatexplain_flip_rate"
    ].units
    assert set(units[:, 1].tolist()) == {0.0, 1.0}
    assert set(units[:, 0].tolist()) <= {0.0, 0.5, 1.0}
    json.dumps([outcome.to_dict() for outcome in scores.values()], allow_nan=False)


def test_a_model_that_cannot_tell_the_groups_apart_never_flips(tmp_path, toy_model, toy_tokenizer):
    folder = write_hatexplain(tmp_path)
    for path in (folder / "hatexplain").iterdir():  # No listed word stands first, where its token is another one.
        path.write_text(json.dumps([["nothing " + text, label] for text, label in json.loads(path.read_text())]))
    model = toy_model(seed=3)
    table = model.get_input_embeddings().weight
    with torch.no_grad():
        for one, other in ((" king", " queen"), (" man", " woman"), (" he", " she")):
            (a,), (b,) = (toy_tokenizer(word)["input_ids"] for word in (one, other))
            table[a] = table[b]
    outcome = scores_of(evaluation_of(model, toy_tokenizer, folder))["hatexplain_flip_rate"]
    assert (outcome.value, outcome.low, outcome.high) == (0, 0, 0)
    assert outcome.details["mean_change_of_probability"] == pytest.approx(0, abs=1e-5)
    assert outcome.n > 20


def test_no_listed_word_is_undefined_not_fair(folder, toy_model, toy_tokenizer):
    scores = scores_of(evaluation_of(toy_model(), toy_tokenizer, folder, "a\tb\nzebra\tokapi\n"))
    for name in ("hatexplain_fpr_gap", "hatexplain_flip_rate"):
        assert (scores[name].value, scores[name].n, scores[name].undetected) == (None, 0, 1)
        assert scores[name].details["reason"].startswith("undefined")
    assert scores["hatexplain_accuracy"].value is not None


def test_batches_and_training_mode_change_nothing(folder, toy_model, toy_tokenizer):
    model = toy_model(embd_pdrop=0.5, resid_pdrop=0.5)
    expected = scores_of(evaluation_of(model, toy_tokenizer, folder))
    model.train()
    settings = ScoreConfig(**vars(SETTINGS) | {"data": str(folder), "batch_size": 1})
    outcomes = scores_of(evaluation_of(model, toy_tokenizer, folder, settings=settings))
    assert model.training
    for name, outcome in outcomes.items():
        before = expected[name]
        assert (outcome.value, outcome.low, outcome.high) == (before.value, before.low, before.high)


# --------------------------------------------------------------------------------------------------------------- data


def test_missing_data_is_not_measured(tmp_path, toy_model, toy_tokenizer):
    with pytest.raises(NotMeasured, match=r"hatexplain/train\.json is not in the folder"):
        HATEXPLAIN.measure(evaluation_of(toy_model(), toy_tokenizer, tmp_path))


@pytest.mark.slow
def test_the_demo_teacher_on_the_real_splits(shared_data):
    settings = ScoreConfig(data=str(shared_data("hatexplain").parent), bootstrap=200)
    model, tokenizer = load_model(DEMO_TEACHER).float(), load_tokenizer(DEMO_TEACHER)
    scores = scores_of(evaluation_of(model, tokenizer, None, words=None, settings=settings))
    assert scores["hatexplain_accuracy"].n == 3846
    assert scores["hatexplain_accuracy"].low > scores["hatexplain_accuracy"].details["share_toxic"]
    assert scores["hatexplain_fpr_gap"].n > 300
    assert 0 < scores["hatexplain_flip_rate"].value < 0.2
    json.dumps([outcome.to_dict() for outcome in scores.values()], allow_nan=False)
