"""Occupations: what is masked, the folds, and the gaps against plain loops and by hand."""

import json
import lzma
from collections import Counter

import numpy as np
import pytest
from downstream_data import DEMO_TEACHER, SETTINGS, evaluation_of, plain_vector, write_people
from hypothesis import given
from hypothesis import strategies as st
from scipy_head import scipy_probabilities

from distill.base.errors import UserError
from distill.metrics import METRICS, NotMeasured, score
from distill.metrics.bootstrap import resampled_totals
from distill.metrics.downstream import (
    _CLASS_OF,
    FOLDS,
    MIN_PEOPLE,
    Person,
    first_group_form,
    masked_occupation,
    occupations_task,
    read_people,
)
from distill.metrics.occupations.occupations import tpr_gaps
from distill.models.loading import load_model, load_tokenizer
from distill.recipe import ScoreConfig
from distill.text.counterfactual import Swapper
from distill.text.wordlist import load_wordlist

OCCUPATIONS = METRICS["occupations"]
CARDS = {card.name: card for card in OCCUPATIONS.CARDS}
fold_english = first_group_form(Swapper(load_wordlist("english_gender")))
WORDS = "male\tfemale\nactor\tactress\nman\twoman\nhe\tshe\n"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_people(tmp_path_factory.mktemp("data"))


def scores_of(evaluation) -> dict:
    return {
        name: score(CARDS[name], measurement, resamples=100, seed=0)
        for name, measurement in OCCUPATIONS.measure(evaluation).items()
    }


@pytest.mark.parametrize(
    ("page", "text", "expected"),
    [
        (
            "Jane Doe",
            "Jane Doe (born 1950) is a Swiss film actress and singer. As an actress she won. Actors like her sing.",
            ("actor", "Jane Doe is a person and singer. As an person she won. people like her sing."),
        ),
        (
            "Li Na (poet)",
            "Li Na (Chinese: 李娜 (listen); 1900 – 1950) was the first Chinese novelist. The poet Li Na wrote.",
            ("writer", "Li Na was a person. The person Li Na wrote."),
        ),
        (
            "Rose Roe",
            "Rose Roe is an American singer-songwriter.",
            ("singer", "Rose Roe is a person."),
        ),
        ("Ann Lee", "Ann Lee is one of the German politicians.", None),  # No plural: it names more people than her.
        ("Ann Lee", "Ann Lee is the daughter of a politician.", None),
        ("Ann Lee", "Ann Lee is a person who became a judge.", None),
        ("Ann Lee", "The team is a German footballer club.", None),  # The sentence is not about her.
        ("Ann Lee", "Ann Lee sings. She is loud.", None),
        ("Ann Lee", "Ann Lee is a", None),
        ("", "Ann Lee is a judge.", None),
        ("(judge)", "Ann Lee is a judge.", None),
    ],
)
def test_what_is_masked(page, text, expected):
    assert masked_occupation(Person(page, "f", text), fold_english) == expected


@given(st.text("Doe is a. (actress)", max_size=60), st.sampled_from(["Doe", "a", "s (x)"]))
def test_any_text_is_masked_or_left_out(text, page):
    outcome = masked_occupation(Person(page, "f", f"Doe {text}"), fold_english)
    if outcome is not None:
        work, masked = outcome
        assert work in _CLASS_OF.values()
        assert "a person" in masked


def test_forms_of_one_noun_are_one_class():
    assert [fold_english(noun) for noun in ("actress", "actor", "businesswoman", "judge")] == [
        "actor", "actor", "businessman", "judge",
    ]  # fmt: skip


def test_the_folding_is_the_word_lists(tmp_path):
    path = tmp_path / "words.tsv"
    path.write_text("a\tb\tc\nactor\tactress\tactron\n")
    fold = first_group_form(Swapper(load_wordlist(path)))
    assert [fold(noun) for noun in ("actress", "actron", "poetess")] == ["actor", "actor", "poetess"]


# --------------------------------------------------------------------------------------------------------------- task


def test_everybody_is_held_out_once_and_never_trained_on(folder, toy_model, toy_tokenizer):
    task = occupations_task(evaluation_of(toy_model(), toy_tokenizer, folder, WORDS))
    assert task.classes == ("actor", "writer")
    assert len(task.folds) == FOLDS
    assert sorted(i for _, held_out in task.folds for i in held_out.tolist()) == list(range(64))
    for known, held_out in task.folds:
        assert sorted([*known.tolist(), *held_out.tolist()]) == list(range(64))
    assert Counter(zip(task.labels.tolist(), task.group.tolist(), strict=True)) == {
        (work, gender): 16 for work in (0, 1) for gender in (0, 1)
    }
    for text, label, gender in zip(task.texts, task.labels, task.group, strict=True):
        assert not any(noun in text for noun in ("actor", "actress", "writer"))
        assert ("She" in text, "He" in text) == ((True, False) if gender == 0 else (False, True))
        assert text.endswith("book." if label == 1 else "coat.")


def test_without_folding_nobody_shares_the_class(folder, toy_model, toy_tokenizer):
    with pytest.raises(NotMeasured, match="fewer than two occupations"):  # Only actors and men are left of the actors.
        occupations_task(evaluation_of(toy_model(), toy_tokenizer, folder))


def test_too_few_people_are_no_class(tmp_path, toy_model, toy_tokenizer):
    folder = write_people(tmp_path, each=MIN_PEOPLE - 1)
    with pytest.raises(NotMeasured, match=f"{MIN_PEOPLE} women and {MIN_PEOPLE} men"):
        OCCUPATIONS.measure(evaluation_of(toy_model(), toy_tokenizer, folder, WORDS))


def test_the_seed_decides_the_folds(folder, toy_model, toy_tokenizer):
    folds = [
        [held_out.tolist() for _, held_out in occupations_task(evaluation).folds]
        for evaluation in (evaluation_of(toy_model(), toy_tokenizer, folder, WORDS, seed=s) for s in (0, 0, 1))
    ]
    assert folds[0] == folds[1] != folds[2]


# ------------------------------------------------------------------------------------------------------------- scores


def test_every_score_against_plain_loops(folder, toy_model, toy_tokenizer):
    model = toy_model(seed=3)
    evaluation = evaluation_of(model, toy_tokenizer, folder, WORDS)
    scores, task = scores_of(evaluation), occupations_task(evaluation)
    vectors = np.array([plain_vector(model, toy_tokenizer, text) for text in task.texts])
    verdicts = {}
    for known, held_out in task.folds:
        probabilities = scipy_probabilities(vectors[known], task.labels[known], 2, vectors[held_out])
        verdicts |= dict(zip(held_out.tolist(), probabilities.argmax(axis=1).tolist(), strict=True))
    right = {person: verdict == task.labels[person] for person, verdict in verdicts.items()}
    assert scores["occupation_accuracy"].value == pytest.approx(np.mean(list(right.values())))
    gaps = []
    for work in (0, 1):
        rates = [
            np.mean([right[p] for p in range(64) if task.labels[p] == work and task.group[p] == gender])
            for gender in (0, 1)
        ]
        gaps.append(rates[0] - rates[1])
        table = scores["occupation_tpr_gap"].details["occupations"][task.classes[work]]
        assert (table["women"], table["men"], table["gap"]) == (16, 16, pytest.approx(gaps[-1]))
        assert (table["tpr_women"], table["tpr_men"]) == pytest.approx(tuple(rates))
    assert scores["occupation_tpr_gap"].value == pytest.approx(np.mean(np.abs(gaps)))
    assert scores["occupation_tpr_gap_rms"].value == pytest.approx(np.sqrt(np.mean(np.square(gaps))))
    assert all(outcome.n == 64 for outcome in scores.values())


def test_gaps_by_hand():
    # Two occupations: 4 women of whom 1 recognised, 2 men of whom 2; no woman, 3 men of whom 0.
    people, recognised = [[4, 2], [0, 3]], [[1, 2], [0, 0]]
    gaps = tpr_gaps(np.array([people, recognised], dtype=float).reshape(-1), 2)
    assert gaps[0] == pytest.approx(1 / 4 - 1)
    assert np.isnan(gaps[1])


def test_the_interval_resamples_people(folder, toy_model, toy_tokenizer):
    evaluation = evaluation_of(toy_model(seed=3), toy_tokenizer, folder, WORDS)
    outcome = OCCUPATIONS.measure(evaluation)["occupation_tpr_gap_rms"]
    found = outcome.statistic(resampled_totals(outcome.units, 50, seed=1))
    cells = outcome.units.reshape(64, 2, 2, 2)
    rng = np.random.default_rng(1)
    for value in found:
        drawn = cells[rng.integers(64, size=64)].sum(axis=0)
        gaps = [
            recognised[0] / people[0] - recognised[1] / people[1] for people, recognised in zip(*drawn, strict=True)
        ]
        assert value == pytest.approx(np.sqrt(np.mean(np.square(gaps))))


def test_batches_change_nothing(folder, toy_model, toy_tokenizer):
    model = toy_model("gpt_neox", seed=2)
    outcomes = []
    for size in (1, 7):
        settings = ScoreConfig(**vars(SETTINGS) | {"data": str(folder), "batch_size": size})
        outcomes.append(scores_of(evaluation_of(model, toy_tokenizer, folder, WORDS, settings=settings)))
    for name in CARDS:
        one, other = (scores[name] for scores in outcomes)
        assert (one.value, one.low, one.high) == (other.value, other.low, other.high)
        json.dumps(one.to_dict(), allow_nan=False)


# --------------------------------------------------------------------------------------------------------------- data


def _write(folder, train: bytes):
    (folder / "corpus").mkdir()
    (folder / "corpus" / "wikipedia_people.validation.jsonl.xz").write_bytes(lzma.compress(b""))
    (folder / "corpus" / "wikipedia_people.train.jsonl.xz").write_bytes(train)
    return evaluation_of(None, None, folder, WORDS)


GOOD = b'{"page": "A", "gender": "f", "text": "A is a judge."}\n'


@pytest.mark.parametrize(
    "line",
    [b"oops", b"[]", b"{}", b'{"page": "A", "gender": "x", "text": ""}', b'{"page": 3, "gender": "f", "text": ""}'],
)
def test_a_malformed_person_is_a_users_mistake(line, tmp_path):
    with pytest.raises(UserError, match=r"people\.train\.jsonl\.xz, line 2: not a person"):
        read_people(_write(tmp_path, lzma.compress(GOOD + line + b"\n" + GOOD)))


@pytest.mark.parametrize("content", [b"no xz", lzma.compress(GOOD * 9)[:-20], lzma.compress(b"\xff\xfe\n")])
def test_a_damaged_file_is_a_users_mistake(content, tmp_path):
    with pytest.raises(UserError, match=r"train\.jsonl\.xz: not a whole \.xz file"):
        read_people(_write(tmp_path, content))


def test_missing_data_is_not_measured(tmp_path, toy_model, toy_tokenizer):
    with pytest.raises(NotMeasured, match=r"corpus/wikipedia_people\.train\.jsonl\.xz is not in"):
        OCCUPATIONS.measure(evaluation_of(toy_model(), toy_tokenizer, tmp_path))


def test_the_real_people(shared_data):
    data = shared_data("corpus").parent
    evaluation = evaluation_of(None, None, None, words=None, settings=ScoreConfig(data=str(data)))
    people, task = read_people(evaluation), occupations_task(evaluation)
    assert Counter(person.gender for person in people) == {"m": 2295, "f": 2269}
    assert 10 <= len(task.classes) <= 15
    assert {"actor", "politician", "scientist", "singer", "writer"} <= set(task.classes)
    counts = Counter(zip(task.labels.tolist(), task.group.tolist(), strict=True))
    assert all(counts[work, gender] >= MIN_PEOPLE for work in range(len(task.classes)) for gender in (0, 1))
    assert len(task.texts) > 2000
    for text, label in zip(task.texts, task.labels, strict=True):
        assert "a person" in text
        words = {word.strip(".,").lower() for word in text.split("a person", 1)[1].split()}
        nouns = {fold_english(noun) for word in words for noun in (word, word.removesuffix("s"))}
        assert not any(_CLASS_OF.get(noun) == task.classes[label] for noun in nouns)


@pytest.mark.slow
def test_the_demo_teacher_on_the_real_people(shared_data):
    settings = ScoreConfig(data=str(shared_data("corpus").parent), bootstrap=200)
    model, tokenizer = load_model(DEMO_TEACHER).float(), load_tokenizer(DEMO_TEACHER)
    scores = scores_of(evaluation_of(model, tokenizer, None, words=None, settings=settings))
    accuracy = scores["occupation_accuracy"]
    assert accuracy.low > 2 * accuracy.details["largest_occupation"]
    assert 0 < scores["occupation_tpr_gap"].value <= scores["occupation_tpr_gap_rms"].value < 0.5
    assert scores["occupation_tpr_gap"].details["correlation_of_gap_with_share_of_women"] > 0
    json.dumps([outcome.to_dict() for outcome in scores.values()], allow_nan=False)
