"""Lines in, counterfactuals out: in order, whole, in every form, in any number of processes, and in little memory."""

import contextlib
import io
import json
import os
import signal
import subprocess
import sys
import threading
import time
from types import SimpleNamespace

import pytest
from psutil import Process
from shared import REPOSITORY

from distill.base.errors import UserError
from distill.text import swap_lines as module
from distill.text.counterfactual import Swapper
from distill.text.swap_lines import FORMS, as_json, as_pair, as_text, read_lines, swap_file, swap_lines


@pytest.fixture(scope="module")
def swapper(short_wordlist):
    return Swapper(short_wordlist)


def test_lines_have_their_endings_and_very_long_ones_are_cut(tmp_path, monkeypatch):
    path = tmp_path / "x.txt"
    path.write_bytes("he\r\n\nqueen \u2028 é\nlast".encode())
    assert list(read_lines(str(path))) == [("he", "\r\n"), ("", "\n"), ("queen \u2028 é", "\n"), ("last", "")]
    monkeypatch.setattr(module, "_LONGEST_PART", 10)
    path.write_bytes(b"he saw a king and a queen\nshe\n")
    found = list(read_lines(str(path)))
    assert found == [("he saw a ", ""), ("king and ", ""), ("a queen", "\n"), ("she", "\n")]


def test_standard_input_is_a_file(monkeypatch):
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(b"he\nshe")))
    assert list(read_lines("-")) == [("he", "\n"), ("she", "")]


@pytest.mark.parametrize(("name", "message"), [("nothing", "No such file"), ("folder", "Is a directory")])
def test_what_cannot_be_read_is_named(name, message, tmp_path):
    (tmp_path / "folder").mkdir()
    with pytest.raises(UserError, match=rf"{name}: cannot be read \({message}.*\); give a text file, or -"):
        list(read_lines(str(tmp_path / name)))


LINES = [(f"{number} he saw the king {'again ' * (number % 7)}", "\n") for number in range(40)]


@pytest.mark.parametrize("render", [as_text, as_json, as_pair])
def test_several_processes_give_what_one_gives_in_the_order_of_the_lines(render, swapper, monkeypatch):
    monkeypatch.setattr(module, "_CHUNK_CHARACTERS", 50)
    alone, together = (list(swap_lines(iter(LINES), swapper, 1, processes, render)) for processes in (1, 2))
    assert alone == together == [render(line, swapper.swap(line[0], 1)) for line in LINES]


def test_only_a_few_chunks_are_on_their_way(swapper, monkeypatch):
    monkeypatch.setattr(module, "_CHUNK_CHARACTERS", 1)
    read = 0

    def lines():
        nonlocal read
        for line in LINES:
            read += 1
            yield line

    swapped = swap_lines(lines(), swapper, 1, 2, as_text)
    next(swapped)
    assert read <= 2 * module._CHUNKS_AHEAD + 1 < len(LINES)
    assert len(list(swapped)) == len(LINES) - 1


def test_one_process_swaps_a_line_as_soon_as_it_is_there(swapper):
    """Somebody may be typing them."""
    lines = iter(LINES)
    swapped = swap_lines(lines, swapper, 1, 1, as_text)
    assert next(swapped) == "0 she saw the queen \n"
    assert next(lines) is LINES[1]


@pytest.mark.parametrize("form", FORMS)
def test_every_form_has_every_line(form, swapper, tmp_path, capfdbinary):
    path = tmp_path / "x.txt"
    path.write_bytes(b"he saw\r\nnothing here\nking")
    swap_file(str(path), swapper, 1, 1, form)
    shown = capfdbinary.readouterr().out.decode()
    if form == "text":
        assert shown == "she saw\r\nnothing here\nqueen"
    elif form == "json":
        rows = [json.loads(line) for line in shown.splitlines()]
        assert [row["text"] for row in rows] == ["he saw", "nothing here", "king"]
        assert [row["counterfactual"] for row in rows] == ["she saw", "nothing here", "queen"]
        assert [row["spans"] for row in rows] == [[[0, 2, 0, 3]], [], [[0, 4, 0, 5]]]
    else:
        assert all(word in shown for word in ("[he] saw", "[she] saw", "[king]", "[queen]", "2 of 3 lines edited"))
        assert "nothing here" not in shown


def test_a_long_table_is_printed_in_pieces(swapper, tmp_path, monkeypatch, capfdbinary):
    monkeypatch.setattr(module, "_ROWS_SHOWN", 2)
    path = tmp_path / "x.txt"
    path.write_text("he\n" * 5)
    swap_file(str(path), swapper, 1, 1, "table")
    shown = capfdbinary.readouterr().out.decode()
    assert shown.count("counterfactual") == 3 and shown.count("[she]") == 5 and "5 of 5 lines edited" in shown


# Tests that run in the background of a shell are started with Ctrl-C ignored, and what they start inherits that.
SWAP = """
import signal, sys
from distill.cli import main
signal.signal(signal.SIGINT, signal.default_int_handler)
sys.exit(main())
"""


def are_starting(process):
    """Whether there are two processes beside the one that tracks their resources."""
    return len(Process(process.pid).children()) == 3


@pytest.mark.parametrize("working", [True, False])
def test_ctrl_c_ends_several_processes_in_one_line(tmp_path, working):
    """The signal goes to all of them, as a terminal sends it, when they work or as they start.

    The text has no end, however fast it is swapped.
    """
    with (tmp_path / "out.txt").open("wb") as out, (tmp_path / "errors.txt").open("wb") as errors:
        process = subprocess.Popen(
            [sys.executable, "-c", SWAP, "swap", "-", "--num_proc", "2"],
            env={**os.environ, "PYTHONPATH": str(REPOSITORY)}, stdin=subprocess.PIPE, stdout=out, stderr=errors,
            start_new_session=True,
        )  # fmt: skip

        def write() -> None:
            with contextlib.suppress(OSError, ValueError):
                while True:
                    process.stdin.write(b"She told her father that the blame was hers.\n" * 1000)

        writer = threading.Thread(target=write, daemon=True)
        writer.start()
        while not ((tmp_path / "out.txt").stat().st_size if working else are_starting(process)):
            assert process.poll() is None
            time.sleep(0.05)
        os.killpg(process.pid, signal.SIGINT)
        assert process.wait(timeout=60) == 130
        writer.join()
        with contextlib.suppress(BrokenPipeError):
            process.stdin.close()
    assert (tmp_path / "errors.txt").read_text() == "stopped\n"
