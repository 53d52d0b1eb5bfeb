"""Pasted texts and lists: against `distill swap` and `distill wordlist check`, which say the same of the same."""

import io
import json
import sys
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distill.base.errors import UserError
from distill.cli import main
from distill.demo import swapping
from distill.demo.swapping import bundled_names, group_places, sentence, shifts, swap, swapper_of, uploaded
from distill.text.wordlist import bundled_wordlists, load_wordlist

TEXT = "She told her father.\n\nAn earl saw the ladies' room of https://a.b/her and the actress.\nNobody.\n"
GENDER = load_wordlist("english_gender")
THREE = load_wordlist("english_gender_neutral")


def test_the_json_is_that_of_the_command(capsys, monkeypatch):
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(TEXT.encode())))
    assert main(["swap", "-", "--json"]) == 0
    assert swap(TEXT, GENDER).json == capsys.readouterr().out


def test_the_text_is_that_of_the_command(capfdbinary, monkeypatch):
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(TEXT.encode())))
    assert main(["swap", "-"]) == 0
    assert swap(TEXT, GENDER).counterfactual.encode() == capfdbinary.readouterr().out


def test_edits_stand_where_they_are_said_to_be():
    found = swap(TEXT, GENDER)
    before = [(found.text[start:end], group) for start, end, group in found.edits]
    after = [(found.counterfactual[start:end], group) for start, end, group in found.counterfactual_edits]
    assert before[:5] == [("She", 1), ("her", 1), ("father", 0), ("An", -1), ("earl", 0)]
    assert after[:5] == [("He", 0), ("his", 0), ("mother", 1), ("A", -1), ("countess", 1)]
    assert len(before) == len(after)
    assert found.text == TEXT
    assert sentence(found) == "8 edits; 1 word in links, tags or code left alone"


@given(st.text(alphabet="heshr \n'.,éß\u2028\r\t", max_size=60).filter(str.strip))
def test_what_stands_outside_of_the_edits_is_kept(text):
    found = swap(text, GENDER)

    def outside(content, places):
        rest, position = [], 0
        for start, end, _ in places:
            rest.append(content[position:start])
            position = end
        return [*rest, content[position:]]

    assert found.text == text
    assert outside(found.text, found.edits) == outside(found.counterfactual, found.counterfactual_edits)
    assert "".join(json.loads(line)["text"] for line in found.json.splitlines()) == "".join(
        part.rstrip("\r") for part in text.split("\n")
    )


def test_a_list_of_three_groups_gives_a_choice():
    assert shifts(GENDER) == ["male to female, female to male"]
    a, b, c = THREE.groups
    assert shifts(THREE) == [f"{a} to {b}, {b} to {c}, {c} to {a}", f"{a} to {c}, {b} to {a}, {c} to {b}"]
    texts = [swap("He saw the queen.", THREE, shift).counterfactual for shift in (1, 2)]
    assert texts == [swapper_of(THREE).swap("He saw the queen.", shift).text for shift in (1, 2)]
    assert texts[0] != texts[1]
    with pytest.raises(UserError, match="has 2 groups, so no shift 2"):
        swap("He", GENDER, 2)


def test_texts_that_are_none_are_told():
    with pytest.raises(UserError, match="there is no text yet"):
        swap(" \n", GENDER)
    with pytest.raises(UserError, match=r"has 20,001 characters, and at most 20,000 are taken here"):
        swap("x" * 20_001, GENDER)
    assert sentence(swap("Nothing here.", GENDER)) == "nothing to swap"


LISTS = [
    "male\tfemale\nhe\tshe\nhe\ther\n\tx\n",
    "male\tfemale\nhe\tshe\nking\tqueens\n",
    "male\n",
    "",
    "male\tfemale\twhen\nhe\tshe\tsometimes\n",
]


@pytest.mark.parametrize("content", LISTS)
def test_a_list_is_told_what_the_command_tells(content, tmp_path, capsys):
    path = tmp_path / "mine.tsv"
    path.write_text(content, encoding="utf-8")
    main(["wordlist", "check", str(path), "--json"])
    wanted = json.loads(capsys.readouterr().out)
    found = uploaded(content.encode(), "mine.tsv")
    assert [m.replace(str(path), "mine.tsv") for m in wanted["mistakes"]] == list(found.mistakes)
    assert len(wanted.get("suspicions") or ()) == len(found.suspicions)
    assert (found.wordlist is None) == bool(found.mistakes)
    assert "/tmp" not in " ".join([*found.mistakes, *found.suspicions])


def test_a_list_that_is_too_large_or_no_text_is_told():
    with pytest.raises(UserError, match=r"big.tsv: larger than 1 MB; is it the right file\?"):
        uploaded(b"x" * 1_000_001, "big.tsv")
    with pytest.raises(UserError, match=r"^mine.tsv, line 1: byte 0xff is not UTF-8"):
        uploaded(b"\xff", "mine.tsv")


def test_a_list_reaches_no_file_of_the_server(tmp_path):
    """Companions are files beside the list, and beside an uploaded one there is nothing."""
    with pytest.raises(UserError, match="a companion is a bundled list or a file beside this one"):
        uploaded(b"# with: ../../etc/passwd\nmale\tfemale\nhe\tshe\n", "mine.tsv")


def test_bundled_lists_are_those_that_can_be_used():
    names = bundled_names("english_gender+english_names")
    assert names[:2] == ["english_gender+english_names", "english_gender"]
    assert set(names[1:]) < set(bundled_wordlists())
    for name in names:
        swapper_of(load_wordlist(name))


def test_a_list_is_compiled_once(monkeypatch):
    made = []
    plain = swapping.Swapper
    monkeypatch.setattr(swapping, "Swapper", lambda wordlist: made.append(wordlist) or plain(wordlist))
    monkeypatch.setattr(swapping, "_SWAPPERS", type(swapping._SWAPPERS)())
    for _ in range(3):
        swap("He left.", GENDER)
    assert len(made) == 1
    for number in range(20):
        swapper_of(uploaded(f"male\tfemale\nhe{number}\tshe{number}\n".encode(), "m.tsv").wordlist)
    assert len(swapping._SWAPPERS) == swapping._KEPT


def test_what_follows_a_form_has_a_colour_of_its_own():
    assert group_places([(0, 2, 1), (3, 4, -1)], 2) == [[0, 2, 1], [3, 4, 2]]
