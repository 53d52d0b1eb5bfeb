"""The two downstream tasks: their files, masked occupations, folds and classifiers."""

import json
import lzma
import re
from collections import Counter

import pytest
from downstream_data import (
    evaluation_of,
    write_hatexplain,
    write_people,
)
from hypothesis import given
from hypothesis import strategies as st

from distill.base.errors import UserError
from distill.metrics import METRICS, NotMeasured
from distill.metrics.downstream import (
    _CLASS_OF,
    FOLDS,
    MIN_PEOPLE,
    Person,
    first_group_form,
    hatexplain_task,
    masked_occupation,
    occupations_task,
    read_hatexplain,
    read_people,
    read_published_hatexplain,
    task_features,
    task_heads,
)
from distill.recipe import ScoreConfig
from distill.text.counterfactual import Swapper
from distill.text.wordlist import load_wordlist


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_people(write_hatexplain(tmp_path_factory.mktemp("data")))


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


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[["a", "normal"],\n oops]', r"train\.json, line 2: not valid JSON"),
        pytest.param("[" * 100_000, r"train\.json: not valid JSON", id="deep"),
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


def _published(folder, splits):
    """The files of HateXplain's authors, with `[text, label]` of each split as two of three annotators say it."""
    posts, divisions = {}, {}
    for split, of_split in splits.items():
        divisions[split] = []
        for text, label in of_split:
            name = f"{len(posts)}_gab"
            other = "normal" if label != "normal" else "hatespeech"
            said = [{"label": one, "annotator_id": 1, "target": ["None"]} for one in (other, label, label)]
            posts[name] = {"post_id": name, "annotators": said, "rationales": [], "post_tokens": text.split(" ")}
            divisions[split].append(name)
    (folder / "hatexplain").mkdir(parents=True)
    (folder / "hatexplain" / "dataset.json").write_text(json.dumps(posts))
    (folder / "hatexplain" / "post_id_divisions.json").write_text(json.dumps(divisions))
    return posts, divisions


def test_the_authors_files_make_the_same_task(tmp_path, toy_model, toy_tokenizer):
    ours = write_hatexplain(tmp_path / "ours")
    splits = {part: json.loads((ours / "hatexplain" / f"{part}.json").read_text()) for part in ("train", "val", "test")}
    posts, divisions = _published(tmp_path / "theirs", splits)
    theirs = tmp_path / "theirs"
    tasks = [hatexplain_task(evaluation_of(toy_model(), toy_tokenizer, folder)) for folder in (ours, theirs)]
    assert tasks[0].texts == tasks[1].texts and tasks[0].labels.tolist() == tasks[1].labels.tolist()
    # What no two agree on is left out.
    for one, label in zip(
        posts[divisions["test"][0]]["annotators"], ("normal", "offensive", "hatespeech"), strict=True
    ):
        one["label"] = label
    path = theirs / "hatexplain" / "dataset.json"
    path.write_text(json.dumps(posts))
    read = read_published_hatexplain(path, theirs / "hatexplain" / "post_id_divisions.json")
    assert [text for text, _ in read["test"]] == [text for text, _ in splits["test"][1:]]


@pytest.mark.parametrize(
    ("post", "message"),
    [
        (None, "no post '0_gab', which post_id_divisions.json names"),
        ({"annotators": [{"label": 1}] * 3, "post_tokens": ["a"]}, "labels are normal, offensive, hatespeech"),
        ({"annotators": [], "post_tokens": ["a"]}, "no post '0_gab'"),
        ({"annotators": [{"label": "normal"}] * 3}, "with post_tokens"),
    ],
)
def test_malformed_files_of_the_authors_are_a_users_mistake(post, message, tmp_path):
    posts, _ = _published(tmp_path, {part: [["a b", "normal"]] for part in ("train", "val", "test")})
    paths = [tmp_path / "hatexplain" / name for name in ("dataset.json", "post_id_divisions.json")]
    paths[0].write_text(json.dumps({**posts, "0_gab": post} if post else {}))
    with pytest.raises(UserError, match=message):
        read_published_hatexplain(*paths)
    for wrong in paths[::-1]:
        wrong.write_text("[]")
        with pytest.raises(UserError, match=f"{wrong.name}: not as HateXplain's authors publish it"):
            read_published_hatexplain(*paths)


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_a_split_on_whose_posts_no_two_annotators_agree_is_a_users_mistake(split, tmp_path):
    posts, divisions = _published(tmp_path, {part: [["a b", "normal"]] * 2 for part in ("train", "val", "test")})
    for name in divisions[split]:
        posts[name]["annotators"] = posts[name]["annotators"][:1]
    paths = [tmp_path / "hatexplain" / name for name in ("dataset.json", "post_id_divisions.json")]
    paths[0].write_text(json.dumps(posts))
    with pytest.raises(UserError, match=rf"dataset\.json: of no post that .* names under '{split}' do two annotators"):
        read_published_hatexplain(*paths)


def test_the_real_splits(shared_data):
    counts = {split: Counter(toxic for _, toxic in read_hatexplain(shared_data("hatexplain", f"{split}.json")))
              for split in ("train", "val", "test")}  # fmt: skip
    assert counts == {"train": {0: 6251, 1: 9132}, "val": {0: 781, 1: 1141}, "test": {0: 782, 1: 1142}}


OCCUPATIONS = METRICS["occupations"]

fold_english = first_group_form(Swapper(load_wordlist("english_gender")))

WORDS = "male\tfemale\nactor\tactress\nman\twoman\nhe\tshe\n"


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


def _write(folder, train: bytes):
    (folder / "corpus").mkdir()
    (folder / "corpus" / "wikipedia_people.validation.jsonl.xz").write_bytes(lzma.compress(b""))
    (folder / "corpus" / "wikipedia_people.train.jsonl.xz").write_bytes(train)
    return evaluation_of(None, None, folder, WORDS)


GOOD = b'{"page": "A", "gender": "f", "text": "A is a judge."}\n'


@pytest.mark.parametrize(
    "line",
    [
        b"oops",
        b"[]",
        b"{}",
        pytest.param(b"[" * 100_000, id="deep"),
        b'{"page": "A", "gender": "x", "text": ""}',
        b'{"page": 3, "gender": "f", "text": ""}',
    ],
)
def test_a_malformed_person_is_a_users_mistake(line, tmp_path):
    with pytest.raises(UserError, match=r"people\.train\.jsonl\.xz, line 2: not a person"):
        read_people(_write(tmp_path, lzma.compress(GOOD + line + b"\n" + GOOD)))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"no xz", ": cannot be decompressed"),
        (lzma.compress(GOOD * 9)[:-20], ": cannot be decompressed"),
        (lzma.compress(b"\xff\xfe\n"), ", line 1: the file is UTF-16"),
        (lzma.compress(GOOD + b"\xff\n"), ", line 2: byte 0xff is not UTF-8"),
    ],
    ids=["no xz", "half", "UTF-16", "no UTF-8"],
)
def test_a_damaged_file_is_a_users_mistake(content, message, tmp_path):
    with pytest.raises(UserError, match=re.escape(f"train.jsonl.xz{message}")):
        read_people(_write(tmp_path, content))


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
