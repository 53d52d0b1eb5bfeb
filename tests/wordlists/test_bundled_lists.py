"""Laws of the bundled lists of three groups, and how large all of them are."""

import json
import lzma

import pytest
from bundled import GENDER, NEUTRAL, RELIGION, phrases_of
from hypothesis import given
from hypothesis import strategies as st

from distill.text.counterfactual import Swapper
from distill.text.wordlist import Row, WordList, load_wordlist


def plain_rows(wordlist: WordList) -> list[Row]:
    return [row for row in wordlist.rows if row.when is None and not (row.one_way or row.generic)]


def rows_that_are_one_to_one(swapper: Swapper) -> Swapper:
    """The list without phrases and without words whose counterpart depends on the sentence, or goes one way or none.

    Rows of several words are left out as well: "he" and "was" side by side make one ("he was") of two words.
    """
    wordlist = swapper.wordlist
    rows = [row for row in plain_rows(wordlist) if not any(" " in word for word in row.words)]
    return Swapper(WordList("one-to-one", wordlist.groups, tuple(rows), sha256=wordlist.name))


ONE_TO_ONE = {name: rows_that_are_one_to_one(s) for name, s in (("neutral", NEUTRAL), ("religion", RELIGION))}


def texts_of(swapper: Swapper):
    """Listed words in several letter cases among separators and other words."""
    words = st.sampled_from(swapper.wordlist.words).flatmap(
        lambda word: st.sampled_from([word, word.upper(), word.capitalize(), word.replace("'", "’")])
    )
    fillers = st.sampled_from([" ", "\n", ", ", ". ", "’s ", "x", "\u0301", " table ", "\u200d", "“"])
    return st.lists(words | fillers, max_size=15).map("".join)


@pytest.mark.parametrize("name", ONE_TO_ONE)
@given(data=st.data())
def test_shifts_go_round(name, data):
    """Shift 1 three times is the identity, so is shift 1 before or after shift 2, and shift 2 is shift 1 twice."""
    swapper = ONE_TO_ONE[name]
    text = data.draw(texts_of(swapper))
    once, twice = swapper.counterfactuals(text)
    assert swapper.swap(once.text).text == twice.text
    assert swapper.swap(twice.text).text == text
    assert swapper.swap(once.text, shift=2).text == text
    assert swapper.swap(swapper.swap(text, shift=2).text, shift=1).text == text


@pytest.mark.parametrize("swapper", [NEUTRAL, RELIGION], ids=lambda s: s.wordlist.name)
def test_every_plain_row_goes_round_in_a_sentence(swapper):
    """Rows of several words too (he was, she was, they were), each by itself."""
    rows = plain_rows(swapper.wordlist)
    assert len(rows) > 25
    for row in rows:
        texts = [f"Then, {word}, we say" for word in row.words]
        for group, text in enumerate(texts):
            first, second = swapper.counterfactuals(text)
            assert (first.text, second.text) == (texts[(group + 1) % 3], texts[(group + 2) % 3])


def test_sizes_and_groups():
    assert NEUTRAL.wordlist.groups == ("male", "female", "neutral") and len(NEUTRAL.wordlist.rows) >= 120
    assert RELIGION.wordlist.groups == ("christian", "muslim", "jewish") and len(RELIGION.wordlist.rows) >= 25
    protected, biology = phrases_of("english_protected"), phrases_of("english_biology")
    assert len(protected) >= 250 and len(biology) >= 50
    for swapper in (NEUTRAL, RELIGION, GENDER):
        assert set(protected) == set(swapper.wordlist.protected)
    for swapper in (NEUTRAL, GENDER):
        assert set(biology) == set(swapper.wordlist.skip)
    assert RELIGION.wordlist.skip == ()
    assert load_wordlist("english_gender_neutral+none").protected == ()


def test_lists_touch_little_of_real_text(shared_data):
    """Wikipedia, validation: of the edits, the two companions of `english_gender` keep back a few in a hundred."""
    with lzma.open(shared_data("corpus", "wikipedia_people.validation.jsonl.xz"), "rt", encoding="utf-8") as lines:
        documents = [json.loads(line)["text"] for line in lines]
    bare = Swapper(load_wordlist("english_gender+none"))
    without = sum(len(bare.swap(text).spans) for text in documents)
    counterfactuals = [GENDER.swap(text) for text in documents]
    kept = sum(len(c.spans) for c in counterfactuals)
    assert 0.95 * without < kept < without
    assert 0 < sum(c.skipped for c in counterfactuals) < 0.02 * len(documents)
