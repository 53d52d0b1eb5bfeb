"""The list of first names: the laws of the shipped file, and the script that makes it."""

import importlib.util
import itertools
import json
import sys
from collections import Counter

import numpy as np
import pytest

from distill.text.wordlist import bundled_wordlists, load_wordlist

LIST = bundled_wordlists()["english_names"]
ROWS = [line.split("\t") for line in LIST.read_text(encoding="utf-8").splitlines() if not line.startswith("#")]
PAIRS = [(male, female) for male, female, _ in ROWS[1:]]
AMBIGUOUS = {name for *names, when in ROWS[1:] for name in names if when == "name ambiguous"}
BIRTHS = ("names", "us_first_names_1930_2015.csv")
CORPORA = ("gutenberg_fiction.train.jsonl.xz", "wikipedia_people.train.jsonl.xz")


@pytest.fixture(scope="module")
def script():
    """The script as a module."""
    pytest.importorskip("scipy")
    spec = importlib.util.spec_from_file_location("make_english_names", LIST.with_name("make_english_names.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def births(shared_data):
    """Name -> (female births, male births)."""
    lines = shared_data(*BIRTHS).read_text(encoding="utf-8").splitlines()[1:]
    return {name.lower(): (int(female), int(male)) for name, female, male in (line.split(",") for line in lines)}


# ------------------------------------------------------------------------------------------------------- the list


def test_form():
    assert ROWS[0] == ["male", "female", "when"]
    assert all(len(row) == 3 and row[2] in ("name", "name ambiguous") for row in ROWS[1:])
    assert all(name.isalpha() and name.islower() for pair in PAIRS for name in pair)
    assert 400 < len(PAIRS) < 1500


def test_every_name_once():
    counts = Counter(name for pair in PAIRS for name in pair)
    assert counts.most_common(1)[0][1] == 1


def test_no_word_of_the_gender_list():
    """A word that two lists hold would have two counterparts."""
    assert {name for pair in PAIRS for name in pair}.isdisjoint(load_wordlist("english_gender").words)


def test_common_words_places_and_surnames_are_ambiguous():
    assert {"rose", "grace", "will", "mark", "hope", "faith", "bill", "april", "june"} <= AMBIGUOUS
    assert {"florence", "georgia", "virginia", "victoria", "austin", "carolina", "sydney"} <= AMBIGUOUS
    assert {"scott", "grant", "jackson", "wilson", "lincoln", "nelson", "dean"} <= AMBIGUOUS
    plain = {name for pair in PAIRS for name in pair} - AMBIGUOUS
    assert {"mary", "john", "james", "elizabeth", "henry", "alice", "peter", "sarah", "jack", "jane", "tom"} <= plain
    assert len(AMBIGUOUS) < len(plain) / 3


def test_names_that_no_context_tells_apart_are_left_out(script):
    listed = {name for pair in PAIRS for name in pair}
    assert listed.isdisjoint(script.LEFT_OUT)
    assert listed.isdisjoint({"jordan", "taylor", "kelly", "jamie", "leslie", "jean", "lee", "guy", "earl"})


def test_pairs_are_alike(births):
    """The two names of a pair are about as common, and about as one-sided."""
    total = {name: sum(counts) for name, counts in births.items()}
    ratios = [max(total[m], total[f]) / min(total[m], total[f]) for m, f in PAIRS]
    assert np.median(ratios) < 1.1
    assert np.quantile(ratios, 0.9) < 1.5
    assert max(ratios) < 5
    male_share = np.array([births[m][1] / total[m] for m, _ in PAIRS])
    female_share = np.array([births[f][0] / total[f] for _, f in PAIRS])
    assert min(male_share.min(), female_share.min()) >= 0.95
    assert np.median(abs(male_share - female_share)) < 0.005


def test_most_people_bear_a_listed_name(births):
    listed = sum(sum(births[name]) for pair in PAIRS for name in pair)
    assert listed > 0.85 * sum(map(sum, births.values()))


@pytest.mark.slow
def test_the_script_makes_the_shipped_file(script, shared_data, tmp_path, monkeypatch):
    inputs = [shared_data(*BIRTHS), *(shared_data("corpus", name) for name in CORPORA)]
    monkeypatch.setattr(sys, "argv", ["make", *map(str, inputs), "--output", str(tmp_path / "made.tsv")])
    script.main()
    assert (tmp_path / "made.tsv").read_text(encoding="utf-8") == LIST.read_text(encoding="utf-8")


# ----------------------------------------------------------------------------------------------------- the script


def test_counts_of_uses(script):
    names = [
        script.Name("rose", 10, 1.0, True),
        script.Name("mary", 10, 1.0, True),
        script.Name("scott", 10, 1.0, False),
    ]
    uses = script.Uses(names)
    uses.add("A rose, the rose. Mary Rose met Mr. Scott. In Rose's garden, Rose 5. The Rose of W. Scott, Rose Hill.")
    uses.add("Mary Scott came. We saw Scott Brown and the Rose garden.")
    assert uses.lower == {"rose": 2}
    assert uses.capital == {"rose": 6, "mary": 2, "scott": 4}
    assert uses.documents == {"rose": 2, "mary": 2, "scott": 2}
    assert +uses.number == {"rose": 1}
    assert +uses.article == {"rose": 1}
    assert uses.surname == {"scott": 2}  # Mary Rose has two first names
    uses.add("They went from Mary to Scott, from Mary's house, in Mary, near Mary and into Mary; in Mary Brown's too.")
    assert +uses.place == {"mary": 5}
    assert [name.name for name in names if uses.is_ambiguous(name.name)] == ["mary"]


def test_chooses_one_sided_names(script):
    names = [
        script.Name("ann", 100, 0.99, True),
        script.Name("kim", 100, 0.84, True),
        script.Name("guy", 100, 0.99, False),
        script.Name("jesus", 100, 0.99, False),
    ]
    assert [name.name for name in script.choose(names)] == ["ann"]


def test_matching_is_the_best_of_all(script):
    """Against all pairings of four men with four of five women."""
    random = np.random.default_rng(0)
    names = [
        script.Name(f"{sex}{index}", int(random.integers(20_000, 4_000_000)), random.uniform(0.95, 1), sex == "f")
        for sex, count in (("m", 4), ("f", 5))
        for index in range(count)
    ]
    ambiguous, documents = {"m1", "f0", "f3"}, Counter({"f2": 90, "m0": 9})
    points = {name.name: np.array([np.log10(name.births), name.share]) for name in names}
    scale = np.array(list(points.values())).std(axis=0)

    def cost(male, female):
        distance = np.sqrt((((points[male] - points[female]) / scale) ** 2).sum())
        if (male in ambiguous) != (female in ambiguous):
            return distance + script.MIXED
        return distance - script.KNOWN * (np.log10(1 + documents[male]) + np.log10(1 + documents[female]))

    men, women = (sorted(name for name in points if name[0] == sex) for sex in "mf")
    best = min(itertools.permutations(women, 4), key=lambda chosen: sum(map(cost, men, chosen)))
    pairs = script.match(names, ambiguous, documents)
    assert {(male.name, female.name) for male, female in pairs} == set(zip(men, best, strict=True))
    assert [male.births for male, _ in pairs] == sorted((male.births for male, _ in pairs), reverse=True)


def test_whole_run_on_a_small_world(script, tmp_path, monkeypatch, capsys):
    (tmp_path / "births.csv").write_text(
        "name,female_births,male_births\n"
        "John,100,90000\nMark,50,30000\nMary,80000,90\nRose,28000,10\nKim,5000,4000\nZoe,20500,0\n"
    )
    texts = ["A rose. " * 9 + "Do mark this. " * 9 + "Mary met Mark and Rose. John met Mary."] * 2
    (tmp_path / "texts.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    for output in ("one.tsv", "two.tsv"):
        arguments = [str(tmp_path / name) for name in ("births.csv", "texts.jsonl")]
        monkeypatch.setattr(sys, "argv", ["make", *arguments, "--output", str(tmp_path / output)])
        script.main()
    made = (tmp_path / "one.tsv").read_text(encoding="utf-8")
    assert made == (tmp_path / "two.tsv").read_text(encoding="utf-8")
    assert made.splitlines()[-3:] == ["male\tfemale\twhen", "john\tmary\tname", "mark\trose\tname ambiguous"]
    assert "2 pairs" in capsys.readouterr().out
