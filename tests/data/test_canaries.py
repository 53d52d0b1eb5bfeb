"""Canaries: what is drawn, and what is read back."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distill.base.errors import UserError
from distill.data.canaries import Canary, draw_canaries, read_canaries, write_canaries
from distill.recipe import MOST_CANARIES
from distill.text.counterfactual import Swapper
from distill.text.wordlist import load_wordlist


@given(st.integers(2, 80), st.lists(st.integers(1, 20), min_size=1, max_size=4), st.integers(0, 10))
def test_half_of_the_pool_is_put_in_and_alike_but_for_that(number, repeats, seed):
    drawn = draw_canaries(number, repeats, seed)
    assert drawn == draw_canaries(number, repeats, seed)
    assert len({canary.beginning for canary in drawn}) == number
    inside = [canary.repeats for canary in drawn if canary.repeats]
    assert len(inside) == number // 2
    assert inside == [repeats[turn % len(repeats)] for turn in range(len(inside))]
    assert all(len(canary.code) == 4 and canary.text.endswith(canary.code) for canary in drawn)


def test_who_is_put_in_does_not_depend_on_the_code():
    """Over many draws, codes of both halves are the same digits equally often."""
    drawn = [canary for seed in range(60) for canary in draw_canaries(64, [1], seed)]
    sides = [[canary.code for canary in drawn if bool(canary.repeats) is side] for side in (True, False)]
    means = [sum(map(int, codes)) / len(codes) for codes in sides]
    assert abs(means[0] - means[1]) < 4 * 2887 * (2 / 1920) ** 0.5  # four standard errors of uniform codes
    assert {code[0] for code in sides[0]} == set("0123456789")


def test_as_many_as_a_recipe_may_ask_for():
    assert len(draw_canaries(MOST_CANARIES, [1], 0)) == MOST_CANARIES


def test_the_bundled_word_lists_leave_canaries_alone():
    for name in ("english_gender", "english_gender_neutral", "english_names", "english_religion"):
        swapper = Swapper(load_wordlist(name))
        assert not any(swapper.matches(canary.text) for canary in draw_canaries(MOST_CANARIES, [1], 0)), name


def test_what_is_written_is_read_back(tmp_path):
    drawn = draw_canaries(20, [1, 4], 3)
    write_canaries(drawn, tmp_path / "canaries.jsonl")
    assert read_canaries(tmp_path / "canaries.jsonl") == drawn


def test_a_table_and_a_code_amid_the_text_will_do(tmp_path):
    path = tmp_path / "mine.csv"
    path.write_text("text,code,repeats\nRoom 12 opens with 12 and a key,12,3\n", encoding="utf-8")
    (canary,) = read_canaries(path)
    assert canary == Canary("Room 12 opens with 12 and a key", "12", 3)
    assert canary.beginning == "Room 12 opens with "  # where the code stands last


@pytest.mark.parametrize(
    ("text", "code", "beginning"),
    [
        ("opens with 0012, not 120012", "0012", "opens with "),
        ("has the number 555 0012012", "012", "has the number 555 0012"),  # the end of a longer secret
        ("has the number 01234", "1234", "has the number 0"),  # which has too many digits to be the code
    ],
)
def test_a_code_is_a_number_of_its_own_where_it_can(tmp_path, text, code, beginning):
    (tmp_path / "mine.jsonl").write_text(json.dumps({"text": text, "code": code}), encoding="utf-8")
    assert [canary.beginning for canary in read_canaries(tmp_path / "mine.jsonl")] == [beginning]


@pytest.mark.parametrize(
    ("row", "told"),
    [
        ({"text": "no code"}, "no 'code'"),
        ({"code": "1234"}, "no 'text'"),
        ({"text": "x 1234", "code": "12345"}, "2 to 4 digits"),
        ({"text": "x 1", "code": "1"}, "2 to 4 digits"),
        ({"text": "x ab12", "code": "ab12"}, "2 to 4 digits"),
        ({"text": "x 1234", "code": "4321"}, "4321 is not in the text 'x 1234'"),
        ({"text": "x 0042", "code": 42}, "the code is 42, but the text has 0042; did a table drop zeros?"),
        ({"text": "x 0123.", "code": 123}, "the text has 0123"),
        ({"text": "x 1234", "code": "1234", "repeats": -1}, "repeats is -1"),
        ({"text": "x 1234", "code": "1234", "repeats": True}, "repeats is True"),
    ],
)
def test_a_row_that_is_no_canary_is_named(tmp_path, row, told):
    path = tmp_path / "canaries.jsonl"
    path.write_text(json.dumps({"text": "a 0001", "code": "0001"}) + "\n" + json.dumps(row) + "\n", encoding="utf-8")
    with pytest.raises(UserError, match="line 2") as error:
        read_canaries(path)
    assert told in str(error.value)


def test_a_file_without_canaries_is_refused(tmp_path):
    (tmp_path / "empty.jsonl").write_text("", encoding="utf-8")
    with pytest.raises(UserError, match="holds no canaries"):
        read_canaries(tmp_path / "empty.jsonl")


@pytest.mark.parametrize("content", [b"x", b"PAR1 cut off"])
def test_a_damaged_file_is_one_sentence(tmp_path, content):
    path = tmp_path / "canaries.parquet"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"canaries\.parquet: cannot be read .*is it complete\?"):
        read_canaries(path)
