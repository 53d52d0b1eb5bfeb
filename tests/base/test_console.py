"""Progress: bars on a terminal, lines elsewhere, nothing with --quiet; and how an entry ends."""

import json
import os
import pty
import re
import subprocess
import sys

import pytest
import torch
from shared import REPOSITORY

from distill.base import console
from distill.base.console import counter, duration, follow, phase, run_entry, say, warn
from distill.base.errors import UserError
from distill.base.phases import Phase, Plan


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


def test_tokens_that_were_counted_are_told_by_the_second(clock, capsys):
    console.count_tokens(999)  # before this counter
    report = console.counter("sampling", "documents")
    clock[0] += 2
    console.count_tokens(300, at_matrix_rate=0.5)
    report(2, 2)
    assert "sampling: 2 of 2 documents, 150 tokens/s (25.0% of the matrix rate)\n" in capsys.readouterr().err
    clock[0] += 4
    console.count_tokens(100)  # the first batch is there before a counter is asked for
    console.counter("reading", "done", follows=True)(1, 1)
    assert "reading: 1 of 1 done, 25 tokens/s\n" in capsys.readouterr().err
    report = console.counter("training", "steps", tells_speed=False)
    console.count_tokens(100)
    clock[0] += 4
    report(1, 1, "loss 2")
    assert "training: 1 of 1 steps, loss 2\n" in capsys.readouterr().err


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


OF_A_CARD = (
    "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 15.89 GiB of which 1 is free."
)


def _raise(error):
    raise error


def test_ctrl_c_ends_with_130(capsys):
    def main(arguments):
        raise KeyboardInterrupt

    assert run_entry(main, []) == 130
    assert "stopped" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("work", "words"),
    [
        (lambda: torch.empty(2**50), ["this machine has too little free memory", "4503599627370496 bytes"]),
        (lambda: _raise(torch.OutOfMemoryError(OF_A_CARD)), ["the GPU has too little free memory", "2.00 GiB more"]),
        (lambda: _raise(RuntimeError("CUBLAS_STATUS_ALLOC_FAILED when calling")), ["the GPU has", "block_length"]),
    ],
)
def test_a_memory_that_is_full_is_one_sentence(work, words, capsys):
    assert run_entry(lambda _: work(), []) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert all(word in line for word in words)


def test_other_errors_of_a_device_keep_their_traceback():
    with pytest.raises(RuntimeError, match="illegal"):
        run_entry(lambda _: _raise(RuntimeError("CUDA error: an illegal memory access was encountered")), [])


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


# ------------------------------------------------------------------------------------------------------------- phases


@pytest.fixture
def followed(clock, monkeypatch):
    """A run of three phases of 100 seconds each, at 12:00; `clock` sets its seconds."""
    monkeypatch.setenv("TZ", "UTC")
    console.time.tzset()
    monkeypatch.setattr(console.time, "time", lambda: 1_700_049_600.0 + clock[0])
    names, counters = ("sampling", "training here/student", "writing"), ("sampling", "training", "")
    follow(Plan([Phase(name, name, 100.0, counter) for name, counter in zip(names, counters, strict=True)]))
    yield
    follow(None)
    monkeypatch.undo()
    console.time.tzset()


def test_a_run_tells_its_phase_and_when_all_is_done(followed, clock, capsys):
    report = counter("sampling", "documents")
    report(0, 10)  # the phase begins with it
    for clock[0] in (50.0, 100.0):
        report(int(clock[0] / 10), 10)
    assert phase("training here/student")
    steps = counter("training", "steps", done=40)
    for clock[0] in (130.0, 160.0):
        steps(int(40 + clock[0] - 100), 100, "loss 1")
    assert not phase("nothing of this run") and not phase("sampling")
    lines = [line.partition("] ")[2] for line in capsys.readouterr().err.splitlines()]
    assert lines == [
        "phase 1 of 3: sampling; all done at about 12:05, 300 s left",
        "sampling: 5 of 10 documents, 50 s left; phase 1 of 3, all done at about 12:05",
        "sampling: 10 of 10 documents",
        "phase 2 of 3: training here/student; all done at about 12:05, 200 s left",
        "training: 70 of 100 steps, loss 1, 30 s left; phase 2 of 3, all done at about 12:04",
        "training: 100 of 100 steps, loss 1",
    ]


def test_what_is_not_of_the_run_tells_nothing_of_it(followed, clock, capsys):
    phase("writing")
    for what in ("writing: a pass", "scoring student: likelihood", "training"):
        report = counter(what, "documents")
        clock[0] += 5
        report(1, 3)
    said = [line.partition("] ")[2] for line in capsys.readouterr().err.splitlines()][1:]
    assert [("phase" in line) for line in said] == [True, False, False]


@pytest.mark.parametrize("quiet", [False, True])
def test_what_models_read_and_wrote_in_each_phase_is_kept(clock, monkeypatch, quiet):
    """By hand: 150 tokens from 0 to 10, and 50 from 12 to 20 in two counters. A training has a record of its own."""
    monkeypatch.setattr(console, "_quiet", quiet)
    kept, names = [], ("sampling", "scoring a", "training", "writing")
    plan = Plan([Phase(n, n, 9.0, "" if n == "writing" else n) for n in names], keep=lambda *taken: kept.append(taken))
    follow(plan)
    sampled = counter("sampling", "documents")
    sampled(0, 10)
    for clock[0], done, tokens, least in ((4.0, 5, 100, 1.0), (10.0, 10, 50, 0.5)):
        console.count_tokens(tokens, least)
        sampled(done, 10)
    clock[0] = 12.0
    console.count_tokens(7)  # between two phases
    assert phase("scoring a")
    for what, clock[0], tokens in (("likelihood", 15.0, 30), ("pairs", 20.0, 20)):
        read = counter(f"scoring a: {what}", "done", follows=True)
        console.count_tokens(tokens)
        read(1, 1)
    clock[0] = 21.0
    steps = counter("training", "steps", tells_speed=False)
    console.count_tokens(99)
    steps(1, 1)
    assert phase("writing")
    follow(None)
    assert kept == [("sampling", 10.0, 150, 1.5), ("scoring a", 8.0, 50, 0.0)]


def test_what_a_stopped_run_had_sampled_does_not_make_the_rest_look_quick(clock, capsys):
    """It says so with its first report, at once."""
    report = counter("sampling", "documents")
    for clock[0], done in ((0.1, 50), (10.1, 60)):
        report(done, 100)
    assert capsys.readouterr().err.endswith("] sampling: 60 of 100 documents, 40 s left\n")


def test_a_bar_of_a_narrow_terminal_tells_when_all_is_done():
    shown, _ = in_terminal(
        "from distill.base.console import counter, follow, phase\n"
        "from distill.base.phases import Phase, Plan\n"
        "follow(Plan([Phase('a/student', 'training', 9.0, 'training')]))\n"
        "phase('a/student')\n"
        "counter('training', 'steps')(120, 500, 'loss 0.121, loss_kd 0.121, disparity 0.365')\n",
        COLUMNS="80",
    )
    seen = frames(shown)
    assert re.search(r"phase 1 of 1: a/student; all done at about \d\d:\d\d, 9 s left$", seen[0])
    assert any(re.search(r"^training ━.*120 of 500 steps, all done \d\d:\d\d, .*… -:--:--", frame) for frame in seen), (
        seen
    )
    assert all(len(frame) <= 80 for frame in seen)
