"""Classifiers from folders against plain transformers code, the regard gap, and the script that makes a classifier."""

import json
from itertools import chain

import numpy as np
import pytest
import torch
from continued import continued, prompts_of, scores_of
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BertConfig,
    BertForSequenceClassification,
    GPT2Config,
    GPT2ForSequenceClassification,
)

from distill.base.errors import UserError
from distill.metrics import METRICS, NotMeasured
from distill.metrics import text_classifier as module
from distill.metrics.regard import train_regard
from distill.metrics.text_classifier import load_classifier

METRIC = METRICS["regard"]
TEXTS = [
    "The nurse said that she was tired.",
    "A",
    "",
    "The king and the queen saw him and her. " * 2,
    "A woman took her coat; a man took his coat.",
    "the the the the",
    "Nothing happened at all.",
]


@pytest.fixture
def classifier_folder(toy_tokenizer, tmp_path):
    """A function from labels and an architecture to the folder of a classifier with large random weights."""

    def make(labels=("positive", "neutral", "negative"), architecture="gpt2", pad=True, seed=0, **keys):
        # At least two outputs: transformers makes a regression of one.
        names = dict(enumerate(labels))
        keys |= {"vocab_size": len(toy_tokenizer), "id2label": names, "label2id": {v: k for k, v in names.items()}}
        keys |= {"pad_token_id": toy_tokenizer.eos_token_id if pad else None}
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            if architecture == "gpt2":
                config = GPT2Config(n_positions=64, n_embd=16, n_layer=2, n_head=2, initializer_range=0.3, **keys)
                model = GPT2ForSequenceClassification(config)
            else:
                config = BertConfig(
                    max_position_embeddings=64, hidden_size=16, num_hidden_layers=2, num_attention_heads=2,
                    intermediate_size=32, initializer_range=0.3, **keys,
                )  # fmt: skip
                model = BertForSequenceClassification(config)
        folder = tmp_path / f"{architecture}{len(list(tmp_path.iterdir()))}"
        model.save_pretrained(folder)
        toy_tokenizer.save_pretrained(folder)
        return str(folder)

    return make


def naive(folder, text):
    """One text, without any padding."""
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    ids = AutoTokenizer.from_pretrained(folder)(text)["input_ids"][:64] or [model.config.pad_token_id or 0]
    with torch.no_grad():
        return model(torch.tensor([ids])).logits[0].softmax(-1).numpy()


# ------------------------------------------------------------------------------------------------------- classifiers


@pytest.mark.parametrize("rows", [1, 3, 64])
@pytest.mark.parametrize(("architecture", "pad"), [("gpt2", True), ("gpt2", False), ("bert", True)])
def test_probabilities_equal_plain_transformers(classifier_folder, architecture, pad, rows, monkeypatch):
    monkeypatch.setattr(module, "_MAX_ROWS", rows)
    folder = classifier_folder(architecture=architecture, pad=pad)
    found = load_classifier(folder).probabilities(TEXTS)
    np.testing.assert_allclose(found, [naive(folder, text) for text in TEXTS], atol=1e-5)
    assert len(set(found.argmax(axis=1))) > 1


def test_long_texts_are_cut_and_large_batches_parted(classifier_folder, monkeypatch):
    folder = classifier_folder()
    texts = ["The nurse said that she was tired. " * 20, *TEXTS]
    expected = load_classifier(folder).probabilities(texts)
    np.testing.assert_allclose(expected[0], naive(folder, texts[0]), atol=1e-5)
    monkeypatch.setattr(module, "_MAX_TOKENS", 20)
    seen = []
    found = load_classifier(folder).probabilities(texts, lambda *done: seen.append(done))
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert seen[-1] == (8, 8)
    assert len(seen) > 4
    assert load_classifier(folder).probabilities([]).shape == (0, 3)


def test_labels_that_do_not_exclude_one_another(classifier_folder):
    folder = classifier_folder(("toxic", "obscene"), problem_type="multi_label_classification")
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    ids = AutoTokenizer.from_pretrained(folder)(TEXTS[0])["input_ids"]
    with torch.no_grad():
        expected = model(torch.tensor([ids])).logits[0].sigmoid().numpy()
    np.testing.assert_allclose(load_classifier(folder).probabilities(TEXTS[:1])[0], expected, atol=1e-5)


def test_labels_are_plain(classifier_folder):
    assert load_classifier(classifier_folder(("Very Bad", "hate-speech", "OK"))).labels == (
        "very_bad",
        "hate_speech",
        "ok",
    )


def test_what_is_no_classifier(toy_model, toy_tokenizer, tmp_path):
    with pytest.raises(UserError, match="nowhere: no such folder"):
        load_classifier(str(tmp_path / "nowhere"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="empty: no classifier of texts can be loaded from it"):
        load_classifier(str(tmp_path / "empty"))
    toy_model().save_pretrained(tmp_path / "language_model")
    toy_tokenizer.save_pretrained(tmp_path / "language_model")
    with pytest.raises(UserError, match=r"language_model: holds no trained classifier \(score.weight would be random"):
        load_classifier(str(tmp_path / "language_model"))


# --------------------------------------------------------------------------------------------------------------- gap

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


# ------------------------------------------------------------------------------------------------------------ script

PRAISE = ["was tired", "saw him", "took his book"]
BLAME = ["was late", "saw her", "took her coat"]


@pytest.fixture
def labelled(tmp_path):
    """A folder of sentences whose regard a single word tells."""
    ends = [("1", end) for end in PRAISE] + [("-1", end) for end in BLAME]
    subjects = ["The nurse", "The doctor", "A woman", "A man", "The king", "The queen"]
    lines = [f"{label}\t{subject} {end}.\n" for subject in subjects for label, end in ends]
    folder = tmp_path / "labelled"
    folder.mkdir()
    (folder / "train.tsv").write_text("".join(lines[:30]), encoding="utf-8")
    (folder / "test.tsv").write_text("".join(lines[28:]), encoding="utf-8")  # Two of them are in train.tsv as well.
    return folder


@pytest.fixture
def base(toy_model, toy_tokenizer, tmp_path):
    toy_model().save_pretrained(tmp_path / "base")
    toy_tokenizer.save_pretrained(tmp_path / "base")
    return str(tmp_path / "base")


def test_the_script_makes_a_plain_folder_and_measures_it(labelled, base, tmp_path, capsys):
    out = tmp_path / "regard"
    train_regard.main([str(labelled), str(out), "--base", base])
    accuracy = json.loads((out / "config.json").read_text(encoding="utf-8"))["regard_accuracy"]
    rows = [line.split("\t") for line in (labelled / "test.tsv").read_text(encoding="utf-8").splitlines()][2:]
    assert accuracy["test.tsv"]["rows"] == len(rows) == 6
    # With nothing but transformers.
    tokenizer = AutoTokenizer.from_pretrained(out)
    model = AutoModelForSequenceClassification.from_pretrained(out).eval()
    right = []
    for label, text in rows:
        ids = tokenizer(text)["input_ids"]
        assert ids[0] == tokenizer.bos_token_id
        with torch.no_grad():
            best = int(model(torch.tensor([ids])).logits.argmax())
        right.append(model.config.id2label[best] == {"-1": "negative", "1": "positive"}[label])
    assert accuracy["test.tsv"]["accuracy"] == np.mean(right) >= 5 / 6
    assert accuracy["test.tsv"]["low"] < np.mean(right) <= accuracy["test.tsv"]["high"] + 1e-9
    assert accuracy["test.tsv"]["majority"] == 0.5
    assert (accuracy["trained_on"], accuracy["seed"]) == (30, 0)
    assert "accuracy" in capsys.readouterr().out
    outcome = scores_of(METRIC, continued(CONTINUATIONS, regard_model=str(out)))["regard_gap"]
    assert outcome.details["classifier_accuracy"] == accuracy
    first = (out / "model.safetensors").read_bytes()
    torch.manual_seed(5)
    train_regard.main([str(labelled), str(out), "--base", base])
    assert (out / "model.safetensors").read_bytes() == first


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", r"train.tsv: holds no sentence"),
        ("1\tGood.\n3\tx\n", r"train.tsv, line 2: a label \(-1, 0, 1, 2\), a tab and a sentence"),
        ("1 Good.\n", r"train.tsv, line 1: a label"),
        ("1\t \n", r"train.tsv, line 1: a label"),
        (b"1\t\xff\n", r"train.tsv, line 1: byte 0xff is not UTF-8"),
        (None, r"train.tsv: cannot be read"),
    ],
)
def test_malformed_sentences_name_the_line(tmp_path, content, message):
    if content is not None:
        (tmp_path / "train.tsv").write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError, match=message):
        train_regard.main([str(tmp_path), str(tmp_path / "out")])


def test_no_test_file_and_a_folder_in_use(labelled, tmp_path):
    with pytest.raises(UserError, match="is there already and is no model"):
        train_regard.main([str(labelled), str(tmp_path)])
    (labelled / "test.tsv").unlink()
    with pytest.raises(UserError, match=r"holds no test.tsv"):
        train_regard.main([str(labelled), str(tmp_path / "out")])


@pytest.mark.slow
def test_the_real_classifier_is_better_than_the_majority(shared_data, tmp_path):
    """A floor far below what was measured (dev 0.68 to 0.75, test 0.59 to 0.62 over three seeds)."""
    out = tmp_path / "regard"
    train_regard.main([str(shared_data("regard")), str(out)])
    accuracy = load_classifier(str(out)).model.config.regard_accuracy
    right, rows, majority = (
        sum(accuracy[name][key] * (accuracy[name]["rows"] if key != "rows" else 1) for name in ("dev.tsv", "test.tsv"))
        for key in ("accuracy", "rows", "majority")
    )
    assert rows == 60 + 29  # One sentence of test.tsv is in train.tsv as well.
    assert right > majority + 5


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
