"""What is told of a training: counts against loops over the blocks, and the same numbers after a restart."""

import json
import shutil
import socket
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import train_toy
from transformers import TrainerCallback
from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK

from distill.data.batches import Collator
from distill.data.counts import PackingCounts
from distill.data.packing import pack
from distill.objective.chunks import IGNORED
from distill.text.alignment import partner_positions
from distill.text.counterfactual import Swapper
from distill.text.wordlist import load_wordlist
from distill.training.probing import MEAN, SIZE, SoFar
from distill.training.training_log import Stopwatch, Totals, TrainingLog, log_line, token_counts

STEPS = {"steps": 6, "optim": "adamw_torch", "logging_steps": 4, "save_steps": 2, "save_total_limit": 3}


def figures(folder: Path) -> dict:
    return json.loads((folder / "training" / "student.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("augment", [True, False])
@pytest.mark.parametrize("wordlist", ["english_gender", "english_gender_neutral"])
def test_counts_are_those_of_a_loop_over_blocks(toy_tokenizer, wordlist, augment):
    texts = [*train_toy.toy_documents()[:9], "Nothing happened at all. " * 3]
    wordlist = load_wordlist(wordlist)
    blocks = list(pack(texts, toy_tokenizer, Swapper(wordlist), 64, PackingCounts()))
    groups = wordlist.num_groups
    batch = Collator(groups, augment)(blocks)
    want = dict.fromkeys(("student", "edited", "aligned", "teacher", "unshared"), 0)
    for block in blocks:
        tokens = (block.labels != IGNORED).sum(axis=1).tolist()
        edited = len(tokens) > 1
        want["teacher"] += sum(tokens)
        for view, n in enumerate(tokens if augment else tokens[:1]):
            want["student"] += n
            want["edited"] += n * edited
            want["unshared"] += sum(tokens) if edited else groups * n
            if edited:
                shared = (partner_positions(block.boundaries)[view] >= 0).all(axis=0)
                want["aligned"] += int((shared & (block.labels[view] != IGNORED)).sum())
    all_read = np.ones(len(batch["labels"]), dtype=bool)
    got = {n.removesuffix("_tokens"): v for n, v in token_counts(batch, groups, all_read).items()}
    assert got == {**want, "cached": 0}
    assert 0 < want["aligned"] < want["edited"] < want["student"] < want["unshared"]

    half = all_read.copy()
    half[::2] = False
    got = token_counts(batch, 1, half)
    assert got["teacher_tokens"] + got["cached_tokens"] == want["teacher"]
    assert got["cached_tokens"] == int((batch["labels"][::2] != IGNORED).sum())
    assert got["unshared_tokens"] == want["student"]
    without_teacher = token_counts(batch, 0, ~all_read)
    assert [without_teacher[f"{n}_tokens"] for n in ("teacher", "cached", "unshared")] == [0, 0, 0]


class Tracker(TrainerCallback):
    """Keeps what the trainer reports to it."""

    seen: list[dict]

    def on_log(self, args, state, control, logs=None, **kwargs):
        self.seen.append(dict(logs))


def test_a_tracker_and_the_console_are_told_everything(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(Tracker, "seen", [], raising=False)
    monkeypatch.setitem(INTEGRATION_TO_CALLBACK, "fake", Tracker)
    train_toy.main(str(tmp_path), 4, 1, report_to="fake", **STEPS)
    first, *_, last = Tracker.seen
    assert set(first) >= {"loss", "learning_rate", "grad_norm", "loss_kd", "loss_ce", "loss_hidden", "epoch"}
    # kd * 1 + ce * 0.5 + hidden * 0.1, weighted by tokens; `loss` is the mean over steps of unequal length.
    parts = first["loss_kd"] + 0.5 * first["loss_ce"] + 0.1 * first["loss_hidden"]
    assert parts == pytest.approx(first["loss"], rel=0.01)
    assert first["teacher_time_share"] > 0 and first["student_time_share"] > 0
    assert first["teacher_time_share"] + first["student_time_share"] < 1
    assert 0.5 < first["edited_share"] < 1 and 0.9 < first["aligned_share"] < 1
    assert 0.05 < first["peak_memory_gib"] < 16
    assert "train_runtime" in last

    lines = [line for line in capsys.readouterr().err.splitlines() if "step 4 of 6" in line]
    assert len(lines) == 1
    for word in ("loss", "kd", "tokens/s", "teacher", "student", "edited", "aligned", "rate", "norm", "GiB"):
        assert word in lines[0]

    kept = figures(tmp_path)
    assert [entry["step"] for entry in kept["history"]] == [4, 6]
    assert kept["history"][0]["tokens_per_second"] == first["tokens_per_second"]
    # A pair shares its two passes (four without), an unedited text is read once (twice without).
    assert kept["student_tokens"] == kept["teacher_tokens"] == kept["teacher_tokens_saved"] > 0
    assert kept["tokens_per_second"] == kept["student_tokens"] / kept["seconds"]
    assert "matrix_rate_share" not in {*first, *kept}  # a processor has none


def test_a_log_is_of_the_time_and_text_since_the_one_before(monkeypatch):
    """Twice ten seconds by the clock: in each two steps of three, one the teacher's; between them a checkpoint."""
    now = [100.0]
    monkeypatch.setattr("distill.training.training_log.time.perf_counter", lambda: now[0])
    log = TrainingLog(SimpleNamespace(device=torch.device("cpu"), num_processes=1, gather=lambda sums: sums))
    state = SimpleNamespace(stateful_callbacks={})
    names = ("student", "edited", "aligned", "teacher", "cached", "unshared")

    def step(*counts):
        now[0] += 1
        log.on_step_begin(None, state, None)
        log.teacher_time.start()
        now[0] += 1
        log.teacher_time.stop()
        log.add({"loss_kd": torch.tensor(1000.0)}, {f"{n}_tokens": c for n, c in zip(names, counts, strict=True)})
        now[0] += 2
        log.on_step_end(None, state, None)

    log.on_train_begin(None, state, None)
    for faster in (1, 2):
        step(500 * faster, 400, 300, 500, 0, 900)
        log.keep(state)
        step(500 * faster, 400, 300, 300, 200, 900)
        now[0] += 2
        told = log.figures()
        assert told.pop("peak_memory_gib") > 0
        assert told == pytest.approx({
            "loss_kd": 2 / faster, "tokens_per_second": 100 * faster, "teacher_time_share": 0.2,
            "student_time_share": 0.4, "edited_share": 0.8 / faster, "aligned_share": 0.75, "cached_share": 0.2,
        })  # fmt: skip
    assert log.totals.seconds == 20 and log.totals.student_tokens == 3000


def test_the_share_of_the_matrix_rate_is_of_all_processes_time(tmp_path):
    """Three of ten seconds of two processes, were there nothing but products of matrices."""
    log = TrainingLog(SimpleNamespace(device=torch.device("cpu"), num_processes=2))
    log.totals = Totals(seconds=5.0, student_tokens=1000, teacher_tokens=3000)
    log.at_matrix_rate = (0.0005, 0.0015)
    log.write(tmp_path / "student.json", [])
    kept = json.loads((tmp_path / "student.json").read_text(encoding="utf-8"))
    assert (kept["tokens_per_second"], kept["matrix_rate_share"]) == (200.0, pytest.approx(0.3))


def test_totals_go_on_after_a_restart(tmp_path):
    """The checkpoint in step 2 lies between two logs."""
    train_toy.main(str(tmp_path / "whole"), 4, 1, **STEPS)
    shutil.copytree(tmp_path / "whole" / "checkpoints", tmp_path / "again" / "checkpoints")
    for lost in (4, 6):
        shutil.rmtree(tmp_path / "again" / "checkpoints" / f"checkpoint-{lost}")
    train_toy.main(str(tmp_path / "again"), 4, 1, **STEPS)
    want, got = figures(tmp_path / "whole"), figures(tmp_path / "again")
    for name in ("student_tokens", "teacher_tokens", "teacher_tokens_saved"):
        assert got[name] == want[name] > 0
    state = json.loads((tmp_path / "again" / "checkpoints" / "checkpoint-2" / "trainer_state.json").read_text())
    before = state["stateful_callbacks"]["distill"]["seconds"]
    assert 0 < before < got["seconds"] < 60
    assert [e["step"] for e in got["history"]] == [e["step"] for e in want["history"]]


FIGURES = (
    "loss", "loss_kd", "loss_ce", "tokens_per_second", "teacher_time_share", "student_time_share", "edited_share",
    "aligned_share", "peak_memory_gib", "learning_rate",
)  # fmt: skip


def probe(model) -> SoFar:
    """Of which a tracker is told as of the losses."""
    return SoFar(0.75, -0.25, None, 40)


@pytest.fixture
def no_connection(monkeypatch):
    """A connection to anywhere fails, and is remembered."""
    tried = []

    def connect(self, address):
        tried.append(address)
        raise OSError("no network in this test")

    for name in ("connect", "connect_ex"):
        monkeypatch.setattr(socket.socket, name, connect)
    yield
    assert not tried


def logged(folder: Path, key: str) -> dict[int, float]:
    """Step -> what the trainer's own history has."""
    return {entry["step"]: entry[key] for entry in figures(folder)["history"] if key in entry}


def test_tensorboard_gets_the_figures(tmp_path, no_connection):
    accumulator = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator", reason="tensorboard is in the extra trackers"
    )
    train_toy.main(str(tmp_path), 4, 1, report_to="tensorboard", probe=probe, **STEPS)
    events = accumulator.EventAccumulator(str(next(tmp_path.rglob("events.out.tfevents.*")).parent))
    events.Reload()
    for name in (*FIGURES, SIZE, MEAN):
        found = {event.step: event.value for event in events.Scalars(f"train/{name}")}
        assert found == pytest.approx(logged(tmp_path, name), rel=1e-5), name
    assert list(logged(tmp_path, SIZE)) == [0, 2, 4, 6]


def test_trackio_gets_the_figures_and_keeps_them_here(tmp_path, no_connection, monkeypatch):
    """Without a Space's name it writes to the folder TRACKIO_DIR, and a run that goes on is the same run there."""
    pytest.importorskip("trackio", reason="trackio is in the extra trackers")
    from trackio import sqlite_storage, utils

    for module in (sqlite_storage, utils):  # they read it when they are imported
        monkeypatch.setattr(module, "TRACKIO_DIR", tmp_path / "tracked")
    train_toy.main(str(tmp_path / "run"), 4, 1, report_to="trackio", probe=probe, **STEPS)
    storage = sqlite_storage.SQLiteStorage
    assert storage.get_projects() == ["distill"] and storage.get_runs("distill") == ["run-checkpoints"]
    rows = storage.get_logs("distill", "run-checkpoints")
    for name in (*FIGURES, SIZE, MEAN):
        found = {row["train/global_step"]: row[f"train/{name}"] for row in rows if f"train/{name}" in row}
        assert found == pytest.approx(logged(tmp_path / "run", name), rel=1e-6), name
    train_toy.main(str(tmp_path / "without"), 4, 1, **STEPS)
    want, got = (tmp_path / name / "student" / "model.safetensors" for name in ("without", "run"))
    assert want.read_bytes() == got.read_bytes()


def test_a_stopwatch_adds_spans_until_they_are_taken(monkeypatch):
    now = iter([1.0, 3.0, 10.0, 10.5])
    monkeypatch.setattr("distill.training.training_log.time.perf_counter", lambda: next(now))
    watch = Stopwatch(torch.device("cpu"))
    for _ in range(2):
        watch.start()
        watch.stop()
    assert watch.take() == 2.5
    assert watch.take() == 0


def test_the_line_of_a_plain_run_says_only_what_there_is():
    logs = {"loss": 1.5, "loss_kd": 1.5, "learning_rate": 5e-4, "tokens_per_second": 1234.5}
    logs |= {"teacher_time_share": 0.25, "student_time_share": 0.7, "peak_memory_gib": 1.5, "edited_share": 0.0}
    assert log_line(logs, 20, 500) == (
        "step 20 of 500: loss 1.5000; 1,234 tokens/s, teacher 25% and student 70% of the time; learning rate 0.0005; "
        "peak memory 1.50 GiB"
    )
