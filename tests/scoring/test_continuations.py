"""Continuations side by side: their prompts, their marked words, and how they are shown."""

import io
import re

import pytest
from chat_templates import chat_tokenizer
from rich.console import Console

from distill.base.errors import UserError
from distill.scoring import continuations
from distill.text.counterfactual import Swapper


def test_prompts_of_a_file_are_its_lines(tmp_path):
    path = tmp_path / "prompts.txt"
    path.write_text("\ufeffThe king\n\nShe said  \nHe\n", encoding="utf-8")
    assert continuations.read_prompts(str(path)) == ["The king", "She said", "He"]
    assert continuations.read_prompts(str(path), 2) == ["The king", "She said"]
    assert len(continuations.read_prompts("occupations", 7)) == 7


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "cannot be read"), (b"\n \n", "holds no prompt"), (b"\xff", "line 1: byte 0xff is not UTF-8")],
)
def test_a_file_without_prompts_is_a_users_mistake(content, message, tmp_path):
    path = tmp_path / "prompts.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=message):
        continuations.read_prompts(str(path))


def test_a_word_is_marked_by_what_stands_before_it_in_the_prompt(short_wordlist, toy_model, toy_tokenizer, tmp_path,
                                                                 monkeypatch):  # fmt: skip
    toy_model().save_pretrained(tmp_path)
    toy_tokenizer.save_pretrained(tmp_path)
    monkeypatch.setattr(continuations, "generate", lambda *_, **__: [[" he and a woman"], [""]])
    asked_for = {"samples": 1, "max_new_tokens": 4}
    found = continuations.continuations({"m": str(tmp_path)}, ["A man:", "It"], Swapper(short_wordlist), **asked_for)
    assert [row["words"] for row in found["prompts"]] == [[[2, 5, 0]], []]
    assert [row["texts"]["m"] for row in found["prompts"]] == [
        [{"text": " he and a woman", "words": [[1, 3, 0], [10, 15, 1]]}],
        [{"text": "", "words": []}],
    ]
    prompts = ["bad\udcff", "It"]
    asked = continuations.continuations({"m": str(tmp_path)}, prompts, Swapper(short_wordlist), **asked_for)
    assert [row["prompt"] for row in asked["prompts"]] == ["bad?", "It"]  # as no tokenizer and no page takes it


def test_what_a_later_checkpoint_cannot_take_is_told_before_the_first_writes(short_wordlist, toy_model, toy_tokenizer,
                                                                             tmp_path, monkeypatch):  # fmt: skip
    chat = chat_tokenizer(toy_tokenizer, "chatml")
    for name, tokenizer, positions in (("first", chat, 256), ("bare", toy_tokenizer, 256), ("short", chat, 64)):
        toy_model(n_positions=positions).save_pretrained(tmp_path / name)
        tokenizer.save_pretrained(tmp_path / name)
    monkeypatch.setattr(continuations, "generate", lambda *_, **__: pytest.fail("it went on"))

    def write(name, chat=False):
        checkpoints = {name: str(tmp_path / name) for name in ("first", name)}
        asked_for = {"samples": 1, "max_new_tokens": 62}
        continuations.continuations(checkpoints, ["A man: he"], Swapper(short_wordlist), chat, **asked_for)

    with pytest.raises(UserError, match="bare: its tokenizer has no chat template"):
        write("bare", chat=True)
    with pytest.raises(UserError, match="exceed the context of short, 64 tokens"):
        write("short")


def test_a_terminal_has_columns_colours_and_a_legend():
    console = Console(force_terminal=True, width=80, file=io.StringIO(), color_system="256")
    samples = {name: [{"text": " he left", "words": [[1, 3, 0]]}] for name in ("before", "after")}
    found = {"groups": ["male", "female"], "prompts": [{"prompt": "Then", "words": [], "texts": samples}]}
    continuations.print_continuations(found, console)
    shown = console.file.getvalue()
    plain = re.sub(r"\x1b\[[\d;]*m", "", shown)
    assert re.search(r"before.*after", plain) and re.search(r"he left.*he left", plain)
    assert "Then" in plain and "marked: male female" in plain and "[" not in plain
    assert shown.count("\x1b[1;34mhe") == 2
