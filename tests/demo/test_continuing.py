"""Texts from the same random numbers, and the count that goes on: against `generate`, by hand, and by its law."""

import math
import re
import threading
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import brentq

from distill.base.errors import UserError
from distill.demo import continuing
from distill.demo.continuing import AT_ONCE, Asked, Count, interval, write
from distill.demo.next_word import next_words
from distill.metrics.polarity import NEUTRAL, TIE, group_counter, polarity

PROMPT = "The nurse said that"
ASKED = Asked(samples=6, tokens=8, seed=3)


def last(found):
    *_, count = found
    return count


def test_models_with_the_same_weights_write_the_same(loaded, monkeypatch):
    """The same random numbers for all: what differs is the model's."""
    teacher = loaded.models[0]
    twins = [teacher, type(teacher)(loaded.models[1].source, teacher.evaluation)]
    monkeypatch.setattr(continuing, "_SHOWN", 100)
    count = last(write(type(loaded)(loaded.shown, twins, loaded.target, loaded.swapper), PROMPT, ASKED, Count()))
    first, second = count.newest.values()
    assert first == second
    assert len(first) == 6


def test_counts_are_those_of_the_texts(loaded, monkeypatch):
    monkeypatch.setattr(continuing, "_SHOWN", 100)
    count = last(write(loaded, PROMPT, Asked(samples=20, tokens=8), Count()))
    counter, _ = group_counter(loaded.swapper.wordlist, loaded.swapper)
    for title, texts in count.newest.items():
        wanted = [0, 0, 0, 0]
        for _, one in texts:
            verdict = polarity(counter(one.text))
            wanted[{TIE: 2, NEUTRAL: 3}.get(verdict, verdict)] += 1
        assert count.texts[title].tolist() == wanted
        assert sum(wanted) == 20


def test_it_goes_on_a_few_texts_at_a_time(loaded):
    counts = list(write(loaded, PROMPT, Asked(samples=2 * AT_ONCE + 1, tokens=2), Count()))
    # The first texts are there as soon as one model has written them, and are counted when all have.
    assert [count.total for count in counts] == [
        0,
        0,
        AT_ONCE,
        AT_ONCE,
        AT_ONCE,
        2 * AT_ONCE,
        *[2 * AT_ONCE] * 2,
        2 * AT_ONCE + 1,
    ]
    assert list(counts[0].newest) == ["teacher"]


def test_a_later_call_draws_new_numbers_and_adds_to_the_count(loaded, monkeypatch):
    monkeypatch.setattr(continuing, "_SHOWN", 100)
    first = last(write(loaded, PROMPT, ASKED, Count()))
    second = last(write(loaded, "The king said", ASKED, first))
    assert (first.total, second.total) == (6, 12)
    assert second.prompts == (PROMPT, "The king said")
    again = last(write(loaded, PROMPT, ASKED, first))
    for title, texts in again.newest.items():
        assert texts[6:] == first.newest[title]
        assert texts[:6] != first.newest[title]
    assert last(write(loaded, PROMPT, ASKED, Count())).newest == first.newest  # the seed decides


def test_words_are_marked_where_they_stand(loaded):
    count = last(write(loaded, "A man and a woman:", Asked(samples=8, tokens=30), Count()))
    marked = [one for texts in count.newest.values() for _, one in texts]
    listed = re.compile(r"(?<!\w)(he|she|his|her|him|man|woman|king|queen)(?!\w)", re.IGNORECASE)
    assert any(one.words for one in marked)
    for one in marked:
        assert [(start, end) for start, end, _ in one.words] == [found.span() for found in listed.finditer(one.text)]
        for start, end, group in one.words:
            assert loaded.swapper.wordlist.group_of[one.text[start:end].lower()] == group


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (Asked(samples=0), "0 texts are asked for; give 1 to 64"),
        (Asked(samples=65), "65 texts are asked for; give 1 to 64"),
        (Asked(tokens=101), "101 tokens of a text are asked for; give 1 to 100"),
        (Asked(seed=-1), "the seed is -1"),
        (Asked(seed=None), "the field for the seed is empty; give a number"),  # as gradio gives a field that is cleared
        (Asked(samples=None), "the field for the number of texts is empty"),
        (Asked(temperature=0.0), "temperature must be above 0"),
        (Asked(temperature=math.nan), "temperature must be above 0"),
        (Asked(top_p=0.0), "top_p must be above 0"),
        (Asked(tokens=80), "exceed the model's context of 64 tokens"),
    ],
)
def test_settings_out_of_range_are_told(asked, message, loaded):
    with pytest.raises(UserError, match=message):
        last(write(loaded, PROMPT, asked, Count()))


def test_the_interval_by_hand():
    """10 of 20: Wilson's formula gives 0.299 to 0.701, as its tables have it."""
    assert interval(10, 20) == pytest.approx((0.2993, 0.7007), abs=1e-4)
    assert interval(0, 10) == pytest.approx((0.0, 0.2775), abs=1e-4)
    assert interval(0, 0) == (0.0, 1.0)


@given(st.integers(1, 500).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_the_interval_is_where_the_test_of_the_share_is_not_rejected(case):
    """Wilson's interval holds the shares p with (k/n - p)² <= z² p (1 - p) / n: its ends are the roots."""
    k, n = case
    low, high = interval(k, n)
    assert 0 <= low <= k / n <= high <= 1

    def beyond(p):
        return (k / n - p) ** 2 - 1.959964**2 * p * (1 - p) / n

    if k:
        assert low == pytest.approx(brentq(beyond, 0, k / n - 1e-9), abs=1e-6)
    if k < n:
        assert high == pytest.approx(brentq(beyond, k / n + 1e-9, 1), abs=1e-6)


def test_a_guest_does_not_wait_for_the_texts_of_another(loaded):
    """While one person has many texts written, another's question comes in between the first and the last of them."""
    begun, counted = threading.Event(), []

    def many():
        for count in write(loaded, PROMPT, Asked(samples=64, tokens=30), Count()):
            counted.append(count.total)
            begun.set()

    thread = threading.Thread(target=many)
    thread.start()
    begun.wait()
    waits = []
    while thread.is_alive() and len(waits) < 5:
        before = time.perf_counter()
        next_words(loaded, "The king said that", 1.0)
        waits.append((time.perf_counter() - before, len(counted)))
        if len(waits) == 1:
            assert counted[-1] < 64  # answered before the other was done
    thread.join()
    assert counted[-1] == 64
    assert np.array([done for _, done in waits]).min() < len(counted)
