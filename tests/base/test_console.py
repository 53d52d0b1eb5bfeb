"""Progress: bars on a terminal, lines elsewhere, nothing with --quiet; and how an entry ends."""

import json
import os
import pty
import re
import subprocess
import sys

import pytest
from shared import REPOSITORY

from distill.base import console
from distill.base.console import counter, duration, run_entry, say, warn
from distill.base.errors import UserError


def in_terminal(code: str, **environment: str) -> tuple[str, str]:
    """What the code writes to standard error, a terminal, and to standard output, a pipe."""
    ours, theirs = pty.openpty()
    done = subprocess.run(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        stderr=theirs,
        cwd=REPOSITORY,
        env=os.environ | {"TERM": "xterm", "COLUMNS": "120"} | environment,
        check=True,
        timeout=300,
    )
    os.close(theirs)
    shown = b""
    while True:
        try:
            shown += os.read(ours, 1 << 16)
        except OSError:  # Linux's way to say that the other end is closed and all is read
            break
    os.close(ours)
    return shown.decode(), done.stdout.decode()


def frames(shown: str) -> list[str]:
    """The states of the lines of a terminal, one after the other, without colours."""
    return [f for f in re.split(r"[\r\n]+", re.sub(r"\x1b\[[\d;?]*[a-zA-Z]", "", shown)) if f.strip()]


@pytest.fixture
def clock(monkeypatch):
    """Seconds that a test sets."""
    now = [0.0]
    monkeypatch.setattr(console.time, "monotonic", lambda: now[0])
    return now


def test_without_a_terminal_there_is_a_line_every_few_seconds_with_the_time_left(clock, capsys):
    report = counter("reading", "documents")
    for second in range(1, 11):
        clock[0] = float(second)
        report(second * 100, 2000)
    lines = [line.partition("] ")[2] for line in capsys.readouterr().err.splitlines()]
    # 100 a second: 1,500 are left after 5 seconds, 1,000 after 10.
    assert lines == ["reading: 500 of 2,000 documents, 15 s left", "reading: 1,000 of 2,000 documents, 10 s left"]


def test_the_end_is_told_at_once(clock, capsys):
    counter("reading", "documents")(3, 3, "loss 2")
    assert capsys.readouterr().err.endswith("] reading: 3 of 3 documents, loss 2\n")


def test_what_a_stopped_run_had_done_does_not_make_the_rest_look_quick(clock, capsys):
    report = counter("training", "steps", done=900)
    clock[0] = 10.0
    report(910, 1000)
    assert "90 s left" in capsys.readouterr().err


def test_a_terminal_gets_one_bar_that_is_drawn_again():
    shown, out = in_terminal(
        "from distill.base.console import counter, say\n"
        "say('begin')\n"
        "report = counter('reading [/b]', 'documents')\n"
        "for done in range(1, 4):\n    report(done, 3, f'loss {done}')\n"
        "print('result')\n"
        "say('end')\n"
    )
    assert out == "result\n"
    seen = frames(shown)
    assert seen[0].endswith("] begin") and seen[-1].endswith("] end")
    assert any(re.search(r"reading \[/b\] ━+ +3 of 3 documents, loss 3", frame) for frame in seen)
    # The bar stays on its line: of all that was drawn, one line break ends the bar and one each line of say.
    assert shown.count("\n") == 3
    assert shown.rfind("\x1b[?25h") > shown.rfind("\x1b[?25l"), "the cursor is back"


def test_a_bar_that_gives_way_to_a_line_is_erased_and_drawn_again_below():
    shown, _ = in_terminal(
        "from distill.base.console import counter, say, warn\n"
        "report = counter('reading', 'texts')\n"
        "report(1, 3); warn('careful'); report(3, 3); counter('next', 'texts')(1)\n"
    )
    assert re.search(
        r"1 of 3 texts.*\x1b\[2Kwarning: careful\r\n.*3 of 3 texts", re.sub(r"\x1b\[1A", "", shown), re.DOTALL
    )
    assert frames(shown)[-1].startswith("next") and "1 texts" in frames(shown)[-1]


def test_a_terminal_that_can_not_draw_gets_lines():
    shown, _ = in_terminal("from distill.base.console import counter; counter('reading', 'texts')(1, 1)", TERM="dumb")
    assert re.fullmatch(r"\[\d\d:\d\d:\d\d\] reading: 1 of 1 texts\r\n", shown)


def test_quiet_leaves_warnings_and_errors(capsys):
    def main(arguments):
        say("progress")
        counter("reading", "texts")(1, 1)
        warn("careful")
        raise UserError("wrong")

    assert run_entry(main, ["x", "--quiet"]) == 2
    assert capsys.readouterr().err == "warning: careful\nerror: wrong\n"
    assert run_entry(main, ["x"]) == 2
    assert "reading" in capsys.readouterr().err


def test_only_the_first_process_talks(monkeypatch, capsys):
    monkeypatch.setenv("RANK", "1")
    say("x")
    warn("x")
    counter("x", "x")(1, 1)
    assert capsys.readouterr().err == ""


def test_ctrl_c_ends_with_130(capsys):
    def main(arguments):
        raise KeyboardInterrupt

    assert run_entry(main, []) == 130
    assert "stopped" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.4, "0 s"), (599, "599 s"), (600, "10 min"), (35_999, "600 min"), (36_000, "10 h"), (864_000, "10 days")],
)
def test_durations(seconds, text):
    assert duration(seconds) == text


TRAIN = """
import sys
from distill.cli import main
sys.exit(main(["train", "--config", "recipes/debug.yaml", "--output_dir", sys.argv[1], *sys.argv[2:]]))
"""
SMALL = [
    "--trainer.max_steps",
    "2",
    "--trainer.save_steps",
    "1",
    "--trainer.logging_steps",
    "1",
    "--corpus.max_documents",
    "16",
]
SMALL += ["--held_out.max_documents", "4", "--baseline", "false", "--scores.metrics", '["perplexity"]']


@pytest.mark.slow
def test_a_whole_run_on_a_terminal_and_off_it(tmp_path):
    """Bars of our own alone: none of tqdm's, no dictionaries of Trainer's, and the result on standard output."""
    code = TRAIN.replace("sys.argv[1]", repr(str(tmp_path / "a"))).replace("*sys.argv[2:]", f"*{SMALL}")
    shown, _ = in_terminal(code)
    training = [frame for frame in frames(shown) if frame.startswith("training ")]
    assert any("2 of 2 steps, loss" in frame for frame in training)
    assert "it/s" not in shown.partition("sampling")[2] and "{'" not in shown
    done = subprocess.run(
        [sys.executable, "-c", TRAIN, str(tmp_path / "b"), *SMALL, "--quiet", "--json"],
        capture_output=True,
        text=True,
        cwd=REPOSITORY,
    )
    assert done.returncode == 0
    assert "training" not in done.stderr and "it/s" not in done.stderr
    assert json.loads(done.stdout) == json.loads((tmp_path / "b" / "scores.json").read_text())
