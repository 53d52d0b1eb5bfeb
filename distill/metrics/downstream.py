"""Downstream tasks on a frozen model: texts with classes and groups -> a trained head and its predictions.

    hatexplain     toxic or normal (HateXplain); groups: whose words of the word list the text holds
    occupations    a person's occupation, from their Wikipedia lead without it; groups: women and men, after Wikidata

Several metrics measure the same classifiers: tasks, vectors and heads are kept with the evaluation. The texts of
HateXplain are offensive: nothing here shows one.
"""

import json
import lzma
import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from distill.base.errors import UserError
from distill.base.long_input import open_text
from distill.metrics.benchmark_text import read_json
from distill.metrics.classifier import PENALTY, Head, fit_head
from distill.metrics.evaluation import Evaluation, NotMeasured
from distill.metrics.features import max_tokens, remembered, text_features
from distill.text.counterfactual import Swapper

HATE_TRAINING_TEXTS = 3_000
FOLDS = 5
MIN_PEOPLE = 15  # Women, and men, that an occupation needs.
MAX_OCCUPATIONS = 15
_HATE_SPLITS = ("train", "val", "test")
_HATE_PUBLISHED = ("dataset.json", "post_id_divisions.json")
_HATE_LABELS = {"normal": 0, "offensive": 1, "hatespeech": 1}

# Lines of work and the nouns that stand for them in a first sentence, in the form of the word list's first group
# (actor, not actress). Nouns that name the same line of work are one class, so that each has enough women and men.
_WORK = {
    "academic": "academic archaeologist economist historian linguist philosopher professor psychologist scholar "
    "sociologist",
    "activist": "abolitionist activist campaigner feminist revolutionary suffragist",
    "actor": "actor",
    "artist": "artist cartoonist illustrator painter photographer printmaker sculptor",
    "athlete": "athlete hurdler jumper pentathlete racewalker runner sprinter thrower putter vaulter",
    "businessperson": "businessman businessperson entrepreneur industrialist",
    "coach": "coach manager",
    "dancer": "ballerina choreographer dancer",
    "director": "director filmmaker producer screenwriter",
    "engineer": "architect designer engineer inventor programmer",
    "fencer": "fencer",
    "footballer": "footballer",
    "golfer": "golfer",
    "gymnast": "gymnast",
    "journalist": "broadcaster columnist editor journalist presenter reporter",
    "lawyer": "attorney barrister judge jurist lawyer",
    "model": "model",
    "musician": "cellist composer conductor guitarist musician organist pianist violinist",
    "physician": "doctor nurse physician psychiatrist surgeon",
    "player": "player",
    "politician": "diplomat politician statesman",
    "racer": "biathlete cyclist racer skier",
    "scientist": "astronomer biochemist biologist botanist chemist geologist geneticist mathematician physicist "
    "scientist statistician zoologist",
    "singer": "rapper singer singer-songwriter songwriter vocalist",
    "skater": "skater",
    "soldier": "admiral commander general officer soldier",
    "swimmer": "diver swimmer",
    "teacher": "educator teacher",
    "wrestler": "boxer judoka wrestler",
    "writer": "author dramatist essayist novelist playwright poet writer",
}
_CLASS_OF = {noun: work for work, nouns in _WORK.items() for noun in nouns.split()}
_PREDICATE = re.compile(r"\b(?:is|was)\s+((?:an?|the|one of the)\s)")
_WORD = re.compile(r"[^\W\d_]+(?:-[^\W\d_]+)*|[.;:(]")
# What ends the noun phrase that names the occupation: "the daughter of a politician" is none.
_PHRASE_ENDS = "about at by during for from in of on that to under when where which who whose with . ; : ("
_PHRASE_END = frozenset(_PHRASE_ENDS.split())
_FIRST_SENTENCE = 500  # Characters in which the predicate must begin.
_ASIDE = re.compile(r"\s*\([^()]*\)")


@dataclass(frozen=True)
class Task:
    """Texts to classify.

    Args:
        name: Of the task.
        texts: N texts.
        classes: Names of the K classes.
        labels: (N,) class of each.
        groups: Names of the groups.
        group: (N,) index of the one group that a text is about; -1 for none or several.
        folds: (training, held out) indices; every text is held out at most once.
        details: How it was made.
    """

    name: str
    texts: tuple[str, ...]
    classes: tuple[str, ...]
    labels: np.ndarray
    groups: tuple[str, ...]
    group: np.ndarray
    folds: tuple[tuple[np.ndarray, np.ndarray], ...]
    details: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Person:
    """A row of the Wikipedia people."""

    page: str
    gender: str
    text: str


def task_features(evaluation: Evaluation, task: Task) -> np.ndarray:
    """Vectors of the task's texts; (N, D)."""
    return text_features(evaluation, task.texts, f"{task.name} texts")


def task_heads(evaluation: Evaluation, task: Task) -> list[Head]:
    """The classifier of each fold, trained on the fold's training texts."""

    def train() -> list[Head]:
        features = task_features(evaluation, task)
        return [fit_head(features[known], task.labels[known], len(task.classes)) for known, _ in task.folds]

    return remembered(evaluation, ("heads", task.name), train)


def protected_heads(evaluation: Evaluation, task: Task) -> list[Head]:
    """The protected-status model of each fold: the group from the same vectors, on training texts about one group.

    Raises:
        NotMeasured: a group has no training text.
    """

    def train() -> list[Head]:
        features = task_features(evaluation, task)
        heads = []
        for known, _ in task.folds:
            about = known[task.group[known] >= 0]
            if len(set(task.group[about].tolist())) < len(task.groups):
                raise NotMeasured(f"{task.name}: no training text about one of the groups {', '.join(task.groups)}")
            heads.append(fit_head(features[about], task.group[about], len(task.groups)))
        return heads

    return remembered(evaluation, ("protected heads", task.name), train)


def held_out_predictions(evaluation: Evaluation, task: Task) -> tuple[np.ndarray, np.ndarray]:
    """Indices of all held-out texts, and the class that the fold's classifier gives to each."""
    features, heads = task_features(evaluation, task), task_heads(evaluation, task)
    held_out = np.concatenate([rows for _, rows in task.folds])
    predicted = [head.predictions(features[rows]) for head, (_, rows) in zip(heads, task.folds, strict=True)]
    return held_out, np.concatenate(predicted)


def task_details(evaluation: Evaluation, task: Task) -> dict[str, Any]:
    """How the classifier was made, for a score's details."""
    return {
        "classifier": "logistic regression on the mean of the frozen model's last hidden states; the head is trained, "
        "the model is not",
        "penalty": PENALTY,
        "max_tokens": max_tokens(evaluation),
        **task.details,
        "seed": evaluation.seed,
    }


# --------------------------------------------------------------------------------------------------------- hatexplain


def hatexplain_task(evaluation: Evaluation) -> Task:
    """HateXplain: offensive or hateful (toxic) against normal.

    Trained on a sample of the training split, held out are the validation and the test split together (nothing is
    tuned on either), so that there are texts enough that mention a group.

    Raises:
        NotMeasured: the files are not there.
        UserError: a file is malformed.
    """
    return remembered(evaluation, "hatexplain", lambda: _hatexplain(evaluation))


def _hatexplain(evaluation: Evaluation) -> Task:
    splits = _hate_splits(evaluation)
    chosen = np.random.default_rng(evaluation.seed).permutation(len(splits["train"]))[:HATE_TRAINING_TEXTS]
    training = [splits["train"][i] for i in sorted(chosen.tolist())]
    rows = [*training, *splits["val"], *splits["test"]]
    group = np.array([mentioned_group(evaluation.swapper, text) for text, _ in rows], dtype=np.int64)
    return Task(
        name="hatexplain",
        texts=tuple(text for text, _ in rows),
        classes=("normal", "toxic"),
        labels=np.array([label for _, label in rows], dtype=np.int64),
        groups=evaluation.wordlist.groups,
        group=group,
        folds=((np.arange(len(training)), np.arange(len(training), len(rows))),),
        details={
            "training_texts": len(training),
            "held_out_texts": len(rows) - len(training),
            "wordlist": evaluation.wordlist.sha256,
        },
    )


def _hate_splits(evaluation: Evaluation) -> dict[str, list[tuple[str, int]]]:
    """The rows of each split, from a file for each or from those that the authors publish."""
    try:
        return {split: read_hatexplain(evaluation.data_file("hatexplain", f"{split}.json")) for split in _HATE_SPLITS}
    except NotMeasured as missing:
        try:
            published = [evaluation.data_file("hatexplain", name) for name in _HATE_PUBLISHED]
        except NotMeasured:
            raise NotMeasured(f"{missing}, nor are both of {' and '.join(_HATE_PUBLISHED)} there") from None
        return read_published_hatexplain(*published)


def read_hatexplain(path: Path) -> list[tuple[str, int]]:
    """(text, 1 if toxic) of each row of a split: [[text, label], ...]."""
    rows = read_json(path, "give HateXplain as a list of [text, label]")
    if not isinstance(rows, list) or not rows:
        raise UserError(f"{path}: not a list of [text, label]")
    for number, row in enumerate(rows, 1):
        if not (isinstance(row, list) and len(row) == 2 and isinstance(row[0], str) and str(row[1]) in _HATE_LABELS):
            raise UserError(f"{path}, row {number}: not [text, label]; labels are {', '.join(_HATE_LABELS)}")
    return [(text, _HATE_LABELS[str(label)]) for text, label in rows]


def read_published_hatexplain(posts: Path, divisions: Path) -> dict[str, list[tuple[str, int]]]:
    """(text, 1 if toxic) of each row of each split, as HateXplain's authors publish them.

    A text is its tokens with spaces between, its label what most annotators say; where no two agree, it is left out.

    Args:
        posts: `dataset.json`: {post: {"annotators": [{"label": ...}, ...], "post_tokens": [...]}}.
        divisions: `post_id_divisions.json`: {"train": [post, ...], "val": ..., "test": ...}.

    Raises:
        UserError: one of them is malformed, or names a post that the other lacks, or a split has no text left.
    """
    hint = "give the file as HateXplain's authors publish it"
    found, parts = read_json(posts, hint), read_json(divisions, hint)
    named = [parts.get(part) if isinstance(parts, dict) else None for part in _HATE_SPLITS]
    if not (isinstance(found, dict) and all(isinstance(names, list) and names for names in named)):
        wrong = divisions if isinstance(found, dict) else posts
        raise UserError(f"{wrong}: not as HateXplain's authors publish it; take it from their repository")
    splits: dict[str, list[tuple[str, int]]] = {part: [] for part in _HATE_SPLITS}
    for rows, names in zip(splits.values(), named, strict=True):
        for name in names or ():
            try:
                said = Counter(str(one["label"]) for one in found[name]["annotators"])
                label, votes = said.most_common(1)[0]
                row = " ".join(found[name]["post_tokens"]), _HATE_LABELS[label]
            except (KeyError, TypeError, IndexError):
                raise UserError(
                    f"{posts}: no post '{name}', which {divisions.name} names, with post_tokens, and annotators whose "
                    f"labels are {', '.join(_HATE_LABELS)}"
                ) from None
            if votes > 1:
                rows.append(row)
    for part, rows in splits.items():
        if not rows:
            raise UserError(
                f"{posts}: of no post that {divisions.name} names under '{part}' do two annotators say the same; take "
                "both files from the repository of HateXplain's authors"
            )
    return splits


def mentioned_group(swapper: Swapper, text: str) -> int:
    """The one group whose listed words a text holds; -1 if it holds none, or those of several."""
    found = {match.group for match in swapper.matches(text)}
    return found.pop() if len(found) == 1 else -1


# -------------------------------------------------------------------------------------------------------- occupations


def occupations_task(evaluation: Evaluation) -> Task:
    """Occupations of the Wikipedia people, from texts in which the occupation is masked.

    Both splits of the people together, in `FOLDS` folds drawn with the seed: everybody is held out once. Classes are
    the most frequent `MAX_OCCUPATIONS` lines of work that have at least `MIN_PEOPLE` women and as many men.

    Raises:
        NotMeasured: the files are not there, or fewer than two occupations have enough people.
        UserError: a file is malformed.
    """
    return remembered(evaluation, "occupations", lambda: _occupations(evaluation))


def _occupations(evaluation: Evaluation) -> Task:
    people = remembered(evaluation, "people", lambda: read_people(evaluation))
    fold = first_group_form(evaluation.swapper)
    found = [(person, *occupation) for person in people if (occupation := masked_occupation(person, fold))]
    counts = Counter((work, person.gender) for person, work, _ in found)
    works = {work for work, _ in counts}
    enough = [work for work in works if min(counts[work, "f"], counts[work, "m"]) >= MIN_PEOPLE]
    classes = sorted(sorted(enough, key=lambda w: (-counts[w, "f"] - counts[w, "m"], w))[:MAX_OCCUPATIONS])
    if len(classes) < 2:
        raise NotMeasured(
            f"fewer than two occupations have {MIN_PEOPLE} women and {MIN_PEOPLE} men in corpus/wikipedia_people"
        )
    kept = [(person, work, text) for person, work, text in found if work in classes]
    order = np.random.default_rng(evaluation.seed).permutation(len(kept))
    parts = [np.sort(part) for part in np.array_split(order, FOLDS)]
    folds = tuple((np.sort(np.setdiff1d(order, part)), part) for part in parts)
    return Task(
        name="occupations",
        texts=tuple(text for _, _, text in kept),
        classes=tuple(classes),
        labels=np.array([classes.index(work) for _, work, _ in kept], dtype=np.int64),
        groups=("women", "men"),
        group=np.array(["fm".index(person.gender) for person, _, _ in kept], dtype=np.int64),
        folds=folds,
        details={
            "people": len(kept),
            "people_with_an_occupation": len(found),
            "people_in_all": len(people),
            "folds": FOLDS,
            "masked": "the noun phrase that names the occupation, and later nouns of the same occupation; the name and "
            "the pronouns stay; parentheses before the phrase are left out",
            "wordlist": evaluation.wordlist.sha256,
        },
    )


def read_people(evaluation: Evaluation) -> list[Person]:
    """The Wikipedia people of both splits.

    Raises:
        NotMeasured: the files are not there.
        UserError: a row is malformed; file and line are named.
    """
    people: list[Person] = []
    for split in ("train", "validation"):
        people += _read_people(evaluation.data_file("corpus", f"wikipedia_people.{split}.jsonl.xz"))
    return people


def _read_people(path: Path) -> Iterator[Person]:
    with open_text(path, lzma.open) as lines:
        for number, line in enumerate(lines, 1):
            yield _person(line, f"{path}, line {number}")


def _person(line: str, where: str) -> Person:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        row = None
    values: list[Any] = [row.get(key) for key in ("page", "gender", "text")] if isinstance(row, dict) else []
    if not values or not all(isinstance(value, str) for value in values) or values[1] not in ("f", "m"):
        raise UserError(f"{where}: not a person; each line is a JSON object with page, gender (f or m) and text")
    page, gender, text = values
    return Person(page, gender, text)


def first_group_form(swapper: Swapper) -> Callable[[str], str]:
    """A function that folds the forms of a noun for several groups into one through the word list: actress, actor."""
    wordlist = swapper.wordlist
    known: dict[str, str] = {}

    def fold(noun: str) -> str:
        if noun not in known:
            group = wordlist.group_of.get(noun, 0)
            counterparts = wordlist.counterparts(noun, wordlist.num_groups - group) if group else ()
            known[noun] = counterparts[0][0] if counterparts else noun
        return known[noun]

    return fold


def masked_occupation(person: Person, fold: Callable[[str], str]) -> tuple[str, str] | None:
    """A person's line of work, and their text without it; None where the first sentence names none that is known.

    In "Jane Doe (born 1950) is a Swiss film actress and singer." the predicate begins at "a", and the first known noun
    before the phrase ends is "actress": the text becomes "Jane Doe is a person and singer." The sentence must name the
    person, by the last word of the page's title. What stands in parentheses before the predicate (dates, how the name
    is spoken) is left out: it would fill the model's context.
    """
    predicate = _PREDICATE.search(person.text, 0, _FIRST_SENTENCE)
    name = re.sub(r"\(.*", "", person.page).split()
    if predicate is None or not name or name[-1] not in person.text[: predicate.start()]:
        return None
    for word in _WORD.finditer(person.text, predicate.end()):
        noun = word[0].lower()
        if noun in _PHRASE_END:
            return None
        if work := _CLASS_OF.get(fold(noun)):
            break
    else:
        return None

    def mask(other: re.Match[str]) -> str:
        noun = other[0].lower()
        if _CLASS_OF.get(fold(noun)) == work:
            return "person"
        return "people" if _CLASS_OF.get(fold(noun.removesuffix("s"))) == work else other[0]

    subject = _ASIDE.sub("", _ASIDE.sub("", person.text[: predicate.start(1)]))  # Twice: one may hold another.
    return work, f"{subject}a person{_WORD.sub(mask, person.text[word.end() :])}"
