"""HateXplain: the head against scipy, every score against plain loops and by hand. No text of the data set is shown."""

import json
from collections import Counter
from itertools import combinations

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
from hypothesis import given
from hypothesis import strategies as st
from scipy_head import scipy_probabilities

from distill.base.errors import UserError
from distill.metrics import METRICS, NotMeasured, score
from distill.metrics.classifier import fit_head
from distill.metrics.downstream import hatexplain_task, read_hatexplain, task_features, task_heads
from distill.metrics.features import text_features
from distill.metrics.hatexplain.hatexplain import contrast
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


# --------------------------------------------------------------------------------------------------------------- head


@pytest.mark.parametrize(("num_classes", "size"), [(2, 60), (4, 120)])
def test_the_head_against_scipy(num_classes, size):
    rng = np.random.default_rng(num_classes)
    features = rng.normal(3, [0.1, 1, 20], size=(size, 3))
    labels = (features[:, 1] + rng.normal(size=size) > 3).astype(int) + 2 * (rng.random(size) < 0.5) * (num_classes > 2)
    queries = rng.normal(3, [0.1, 1, 20], size=(20, 3))
    head = fit_head(features, labels, num_classes)
    expected = scipy_probabilities(features, labels, num_classes, queries)
    np.testing.assert_allclose(head.probabilities(queries), expected, atol=1e-5)
    np.testing.assert_array_equal(head.predictions(queries), expected.argmax(axis=1))


@given(st.integers(0, 1000))
def test_laws_of_the_head(seed):
    """Order, repetition, shift and scale of the features change nothing; a constant feature has no weight."""
    rng = np.random.default_rng(seed)
    features, labels = rng.normal(size=(12, 3)), rng.integers(2, size=12)
    features[:, 2] = 7.0
    head = fit_head(features, labels, 2)
    assert np.all(head.weight[:, 2] == 0)
    expected = head.probabilities(features)
    np.testing.assert_allclose(expected.sum(axis=1), 1)
    order = rng.permutation(12)
    scaled = features * [3, 0.01, 5] + [1, -2, 4]
    for other, of, queries in (
        (features[order], labels[order], features),
        (np.concatenate([features] * 3), np.concatenate([labels] * 3), features),
        (scaled, labels, scaled),
    ):
        np.testing.assert_allclose(fit_head(other, of, 2).probabilities(queries), expected, atol=1e-5)


def test_a_head_without_texts_is_an_error():
    with pytest.raises(ValueError, match="no texts"):
        fit_head(np.zeros((0, 3)), np.zeros(0, int), 2)


def test_vectors_of_texts_are_means_over_their_tokens(folder, toy_model, toy_tokenizer):
    model = toy_model("llama", seed=1)
    texts = ["The king", "", "Nothing happened at all.", "The king"]
    found = text_features(evaluation_of(model, toy_tokenizer, folder), texts, "texts")
    for vector, text in zip(found, texts, strict=True):
        if text:
            np.testing.assert_allclose(vector, plain_vector(model, toy_tokenizer, text), atol=1e-5)
    with torch.no_grad():
        start = model(torch.tensor([[toy_tokenizer.bos_token_id]]), output_hidden_states=True).hidden_states[-1][0, 0]
    np.testing.assert_allclose(found[1], start.double(), atol=1e-5)


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


@given(st.lists(st.floats(0, 1), min_size=2, max_size=4))
def test_contrast_against_its_definition(rates):
    found = float(contrast(np.array(rates)))
    if len(rates) == 2:
        assert found == rates[0] - rates[1]
    else:
        assert found == pytest.approx(np.mean([abs(a - b) for a, b in combinations(rates, 2)]))


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


def test_one_classifier_serves_all(folder, toy_model, toy_tokenizer, monkeypatch):
    evaluation = evaluation_of(toy_model(), toy_tokenizer, folder)
    task = hatexplain_task(evaluation)
    heads = task_heads(evaluation, task)
    assert hatexplain_task(evaluation) is task
    monkeypatch.setattr(evaluation, "hidden_states", None)  # No further pass over the model.
    assert task_heads(evaluation, task) is heads
    assert task_features(evaluation, task).shape == (80, 32)


def test_training_texts_are_drawn_with_the_seed(tmp_path, monkeypatch, toy_model, toy_tokenizer):
    monkeypatch.setattr("distill.metrics.downstream.HATE_TRAINING_TEXTS", 10)
    folder = write_hatexplain(tmp_path)
    tasks = [hatexplain_task(evaluation_of(toy_model(), toy_tokenizer, folder, seed=seed)) for seed in (0, 0, 1)]
    assert tasks[0].texts == tasks[1].texts != tasks[2].texts
    known, held_out = tasks[0].folds[0]
    assert (len(known), len(held_out)) == (10, 40)
    assert len({*known.tolist(), *held_out.tolist()}) == 50


# --------------------------------------------------------------------------------------------------------------- data


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[["a", "normal"],\n oops]', r"train\.json, line 2: not valid JSON"),
        ("{}", r"not a list of \[text, label\]"),
        ('[["a", "normal"], ["b", "rude"]]', "row 2: .*labels are normal, offensive, hatespeech"),
        ('[["a", ["normal"]]]', "row 1"),
        ('["a"]', "row 1"),
    ],
)
def test_a_malformed_split_is_a_users_mistake(text, message, tmp_path):
    path = tmp_path / "train.json"
    path.write_text(text)
    with pytest.raises(UserError, match=message):
        read_hatexplain(path)


values = st.recursive(st.none() | st.booleans() | st.text(max_size=3), lambda v: st.lists(v, max_size=3))
rows = st.lists(st.tuples(st.text(max_size=3), st.sampled_from(["normal", "offensive", "hatespeech", "rude"])))


@given(st.binary(max_size=30) | (values | rows).map(lambda v: json.dumps(v).encode()))
def test_any_file_is_a_split_or_a_users_mistake(tmp_path_factory, content):
    path = tmp_path_factory.getbasetemp() / "any.json"
    path.write_bytes(content)
    try:
        read = read_hatexplain(path)
    except UserError as error:
        assert str(path) in str(error)
    else:
        assert all(isinstance(text, str) and label in (0, 1) for text, label in read)


def test_missing_data_is_not_measured(tmp_path, toy_model, toy_tokenizer):
    with pytest.raises(NotMeasured, match=r"hatexplain/train\.json is not in the folder"):
        HATEXPLAIN.measure(evaluation_of(toy_model(), toy_tokenizer, tmp_path))


def test_the_real_splits(shared_data):
    counts = {split: Counter(toxic for _, toxic in read_hatexplain(shared_data("hatexplain", f"{split}.json")))
              for split in ("train", "val", "test")}  # fmt: skip
    assert counts == {"train": {0: 6251, 1: 9132}, "val": {0: 781, 1: 1141}, "test": {0: 782, 1: 1142}}


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
