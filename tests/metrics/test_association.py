"""Effect sizes, their permutation tests and intervals by hand; association tests read from files."""

import json
from itertools import combinations
from math import comb

import numpy as np
import pytest
from downstream_data import (
    plain_effect_size,
)
from hypothesis import given
from hypothesis import strategies as st

from distill.base.errors import UserError
from distill.metrics.association import (
    GENDER_TESTS,
    OTHER_TESTS,
    PARTS,
    associations,
    effect_size,
    effect_units,
    permutation_test,
    read_test,
)
from distill.metrics.bootstrap import resampled_totals


def units_of(first, second) -> np.ndarray:
    return effect_units(np.array(first), np.array(second), np.arange(len(first) + len(second)))


def size_of(first, second) -> float:
    return float(effect_size(units_of(first, second).sum(axis=0)))


def test_perfect_association_by_hand():
    """X lies on A and Y on B: s is 1 and -1, and the effect size the largest there is, 2 sqrt((N - 1) / N)."""
    east, north = np.array([1.0, 0.0]), np.array([0.0, 1.0])
    values = associations(np.array([3 * east, east, 7 * north, north]), east[None], north[None])
    np.testing.assert_allclose(values, [1, 1, -1, -1])
    assert size_of(values[:2], values[2:]) == pytest.approx(2 * np.sqrt(3 / 4))
    assert permutation_test(units_of(values[:2], values[2:]), seed=0)["p_value"] == pytest.approx(1 / comb(4, 2))


numbers = st.integers(-1000, 1000).map(lambda n: n / 100)


@given(st.lists(numbers, min_size=2, max_size=6), st.lists(numbers, min_size=2, max_size=6), numbers)
def test_laws_of_the_effect_size(first, second, shift):
    if len({*first, *second}) == 1:
        with np.errstate(invalid="ignore"):
            assert np.isnan(size_of(first, second))
        return
    size = size_of(first, second)
    assert size == pytest.approx(plain_effect_size(first, second), abs=1e-9)
    assert size == pytest.approx(-size_of(second, first), abs=1e-9)
    assert size == pytest.approx(size_of([3 * v + shift for v in first], [3 * v + shift for v in second]), abs=1e-9)
    bound = (len(first) + len(second)) / np.sqrt(len(first) * len(second))
    assert abs(size) <= bound + 1e-9


@given(st.lists(numbers, min_size=2, max_size=5), st.lists(numbers, min_size=2, max_size=5))
def test_permutation_test_by_enumeration(first, second):
    values = [*first, *second]
    observed = np.mean(first) - np.mean(second)
    dealt = []
    for chosen in combinations(range(len(values)), len(first)):
        rest = [values[i] for i in range(len(values)) if i not in chosen]
        dealt.append(np.mean([values[i] for i in chosen]) - np.mean(rest) >= observed - 1e-9)
    outcome = permutation_test(units_of(first, second), seed=0)
    assert outcome == {"p_value": pytest.approx(np.mean(dealt)), "partitions": len(dealt), "exact": True}


def test_drawn_partitions_come_near_the_exact_p_value(monkeypatch):
    rng = np.random.default_rng(0)
    units = units_of(rng.normal(0.4, 1, size=8), rng.normal(size=8))
    exact = permutation_test(units, seed=0)
    assert (exact["exact"], exact["partitions"]) == (True, comb(16, 8))
    monkeypatch.setattr("distill.metrics.association.MAX_EXACT", 100)
    drawn = permutation_test(units, seed=0)
    assert (drawn["exact"], drawn["partitions"]) == (False, 10_000)
    assert drawn["p_value"] == pytest.approx(exact["p_value"], abs=0.015)
    assert drawn == permutation_test(units, seed=0)


def test_the_interval_resamples_target_words():
    """Against a bootstrap written out on the words themselves."""
    rng = np.random.default_rng(5)
    first, second = rng.normal(1, 1, size=6), rng.normal(size=6)
    sizes = effect_size(resampled_totals(units_of(first, second), 200, seed=1))
    again, values = np.random.default_rng(1), np.concatenate([first, second])
    for size in sizes:
        drawn = again.integers(12, size=12)
        expected = plain_effect_size(values[drawn[drawn < 6]], values[drawn[drawn >= 6]])
        assert size == pytest.approx(expected)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"targ1":\n oops', r"weat6\.jsonl, line 2: not valid JSON"),
        pytest.param("[" * 100_000, r"weat6\.jsonl: not valid JSON", id="deep"),
        ("[]", "'targ1' needs 'examples'"),
        ('{"targ1": {"examples": []}}', "'targ1' needs 'examples'"),
        ('{"targ1": {"examples": ["a"]}, "targ2": {"examples": ["a", 3]}}', "'targ2' needs 'examples'"),
    ],
)
def test_a_malformed_test_is_a_users_mistake(text, message, tmp_path):
    path = tmp_path / "weat6.jsonl"
    path.write_text(text)
    with pytest.raises(UserError, match=message):
        read_test(path)


json_values = st.recursive(
    st.none() | st.text(max_size=5) | st.integers(), lambda v: st.lists(v, max_size=3) | st.dictionaries(st.text(), v)
)

tables = st.dictionaries(
    st.sampled_from(PARTS),
    st.dictionaries(st.sampled_from(["category", "examples"]), json_values | st.lists(st.text())),
)


@given(st.binary(max_size=60) | (json_values | tables).map(lambda v: json.dumps(v).encode()))
def test_any_file_is_a_test_or_a_users_mistake(tmp_path_factory, content):
    path = tmp_path_factory.getbasetemp() / "any.jsonl"
    path.write_bytes(content)
    try:
        test = read_test(path)
    except UserError as error:
        assert str(path) in str(error)
    else:
        assert len(test.examples) == 4
        assert all(word.strip() for words in test.examples for word in words)


def test_the_real_word_lists(shared_data):
    """The layout that the scores' names promise: what is X and Y, A and B, in which direction."""
    directions = {
        "weat6": ("MaleNames", "FemaleNames", "Career", "Family"),
        "weat6b": ("MaleTerms", "FemaleTerms", "Career", "Family"),
        "weat7": ("Math", "Arts", "MaleTerms", "FemaleTerms"),
        "weat7b": ("Math", "Arts", "MaleNames", "FemaleNames"),
        "weat8": ("Science", "Arts", "MaleTerms", "FemaleTerms"),
        "weat8b": ("Science", "Arts", "MaleNames", "FemaleNames"),
    }
    for test in (*GENDER_TESTS, *OTHER_TESTS):
        for prefix in ("", "sent-"):
            read = read_test(shared_data("seat", f"{prefix}{test}.jsonl"))
            assert read.categories == directions.get(test, read.categories)
            assert len(read.examples[0]) == len(read.examples[1])
