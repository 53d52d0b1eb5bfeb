"""The teacher's cached hidden states: the same losses, no teacher after the first epoch, nothing false ever used."""

import argparse
import errno
import importlib
import json
import os
import shutil
import subprocess
import sys
from collections import namedtuple
from pathlib import Path

import numpy as np
import pytest
import torch
import train_toy
from device_questions import Operations
from hypothesis import given, settings
from hypothesis import strategies as st
from launched import train
from safetensors.torch import load_file
from shared import REPOSITORY

from distill.base.errors import UserError
from distill.data.batches import Collator
from distill.data.corpus import Corpus
from distill.data.packing import packed_blocks
from distill.models.architecture import hidden_states
from distill.recipe import CorpusConfig, LossConfig, Recipe, StudentConfig, TeacherConfig
from distill.recipe_check import check_recipe
from distill.text.counterfactual import Swapper
from distill.training import teacher_cache
from distill.training.teacher_cache import TeacherCache, open_teacher_cache

VIEWS = np.array([2, 1, 2])
SHAPE = (4, 3)
CPU = torch.device("cpu")
SOURCE = np.array([(0, 0), (1, 0), (2, 0), (0, 1), (2, 1)])
KEY = {"format": 1}


class Teacher:
    """Predicts rows of the toy data set above, and remembers which."""

    def __init__(self) -> None:
        self.asked: list[int] = []
        self.hidden = torch.randn(len(SOURCE), *SHAPE, generator=torch.Generator().manual_seed(0))

    def __call__(self, rows: np.ndarray) -> torch.Tensor:
        self.asked += rows.tolist()
        return self.hidden[rows]


def open_toy(folder: Path, key: dict | None = None, dtype: torch.dtype = torch.float32) -> TeacherCache:
    return TeacherCache(folder, key or KEY, VIEWS, SHAPE, dtype)


def asked_by(cache: TeacherCache, source: np.ndarray = SOURCE) -> list[int]:
    """The rows that the cache asks the teacher for; what it gives is always right."""
    teacher = Teacher()
    hidden, predicted = cache.hidden_states(source, teacher, CPU)
    assert torch.equal(hidden, teacher.hidden[: len(source)].to(hidden.dtype))
    assert np.flatnonzero(predicted).tolist() == teacher.asked
    return teacher.asked


@pytest.fixture
def filled(tmp_path):
    """The folder of a cache with all five rows."""
    cache = open_toy(tmp_path / "cache")
    assert asked_by(cache) == [0, 1, 2, 3, 4]
    cache.close()
    return cache.folder


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_rows_are_predicted_once(tmp_path, dtype):
    cache = open_toy(tmp_path / "cache", dtype=dtype)
    assert cache.missing_rows() == 5
    assert asked_by(cache, SOURCE[:3]) == [0, 1, 2]
    assert cache.missing_rows() == 2
    assert asked_by(cache) == [3, 4]
    assert asked_by(cache) == []
    again = open_toy(tmp_path / "cache", dtype=dtype)
    assert asked_by(again) == [] and again.missing_rows() == again.damaged == 0


@pytest.mark.parametrize("at_the_end", [False, True])
def test_what_is_predicted_on_a_gpu_is_written_without_waiting_for_it(tmp_path, monkeypatch, at_the_end):
    """Not until the next rows are asked for or the files are closed; asking the device nothing until then."""
    cache, teacher = open_toy(tmp_path / "cache"), Teacher()
    with monkeypatch.context() as patched, Operations() as done:
        patched.setattr(cache, "_write_last", lambda: None)  # as where the device is a GPU
        cache.hidden_states(SOURCE, teacher, CPU)
    assert not done.questions and cache.missing_rows() == 5
    if at_the_end:
        cache.close()
        cache = open_toy(tmp_path / "cache")
        assert cache.missing_rows() == 0
    assert asked_by(cache) == []


def test_a_run_that_was_slower_to_make_the_files_takes_those_of_the_other(tmp_path, monkeypatch):
    """The other run makes and fills them between this one's look and its making."""
    plain = TeacherCache._make

    def make(self, key, sizes):
        monkeypatch.setattr(TeacherCache, "_make", plain)
        other = open_toy(tmp_path / "cache")
        assert asked_by(other) == [0, 1, 2, 3, 4]
        plain(self, key, sizes)

    monkeypatch.setattr(TeacherCache, "_make", make)
    slower = open_toy(tmp_path / "cache")
    assert slower.missing_rows() == 0
    assert asked_by(slower) == []
    assert [p.name for p in tmp_path.iterdir()] == ["cache"]


@settings(max_examples=40)
@given(st.integers(0, 5 * 4 * 3 * 4 - 1), st.integers(0, 7))
def test_a_flipped_bit_is_noticed_and_mended(tmp_path_factory, byte, bit):
    folder = tmp_path_factory.mktemp("flip")
    cache = open_toy(folder)
    asked_by(cache)
    with open(folder / "hidden.bin", "r+b") as file:
        file.seek(byte)
        value = file.read(1)[0]
        file.seek(byte)
        file.write(bytes([value ^ 1 << bit]))
    file_row = byte // cache.row_bytes
    # Rows lie on disk by block and view; SOURCE has the texts first.
    assert asked_by(cache) == [[0, 3, 1, 2, 4][file_row]]
    assert cache.damaged == 1
    assert asked_by(cache) == []
    cache.close()


def test_a_flipped_bit_of_a_checksum_costs_one_prediction(filled):
    checksums = np.fromfile(filled / "checksums.bin", dtype=np.uint64)
    checksums[2] ^= 1
    checksums.tofile(filled / "checksums.bin")
    assert asked_by(open_toy(filled)) == [1]


def test_a_row_without_a_checksum_is_not_there(filled):
    """As after a kill between the two writes, or in the middle of the first."""
    checksums = np.fromfile(filled / "checksums.bin", dtype=np.uint64)
    checksums[4] = 0
    checksums.tofile(filled / "checksums.bin")
    cache = open_toy(filled)
    assert asked_by(cache) == [4] and cache.damaged == 0


@pytest.mark.parametrize(
    "harm",
    [
        lambda folder: os.truncate(folder / "hidden.bin", 100),
        lambda folder: os.truncate(folder / "checksums.bin", 8),
        lambda folder: (folder / "hidden.bin").unlink(),
        lambda folder: (folder / "key.json").unlink(),
        lambda folder: (folder / "key.json").write_text('{"format": 1', encoding="utf-8"),
        lambda folder: (folder / "key.json").write_text('{"format": 0}', encoding="utf-8"),
    ],
    ids=["hidden cut", "checksums cut", "hidden gone", "key gone", "key cut", "other key"],
)
def test_a_cut_or_stale_cache_is_made_anew(filled, capsys, harm):
    harm(filled)
    assert asked_by(open_toy(filled)) == [0, 1, 2, 3, 4]
    assert "made anew" in capsys.readouterr().err
    assert asked_by(open_toy(filled)) == []


def test_a_file_cut_short_while_it_is_open_is_noticed(filled):
    cache = open_toy(filled)
    os.truncate(filled / "hidden.bin", 2 * cache.row_bytes + 10)
    assert asked_by(cache) == [1, 2, 4]


def test_a_full_disk_ends_the_caching_not_the_training(tmp_path, monkeypatch, capsys):
    cache = open_toy(tmp_path / "cache")
    pwrite = os.pwrite

    def full(descriptor, buffer, offset):
        if offset >= 2 * cache.row_bytes:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return pwrite(descriptor, buffer, offset)

    monkeypatch.setattr(os, "pwrite", full)
    assert asked_by(cache) == [0, 1, 2, 3, 4]
    assert capsys.readouterr().err.count("No space left on device") == 1
    monkeypatch.undo()
    assert 0 < len(asked_by(open_toy(tmp_path / "cache"))) < 5


def test_numbers_that_the_format_cannot_hold_are_refused(tmp_path):
    cache = open_toy(tmp_path / "cache", dtype=torch.float16)
    with pytest.raises(UserError, match="cache_dtype"):
        cache.hidden_states(SOURCE, lambda rows: torch.full((len(rows), *SHAPE), 1e5), CPU)
    assert cache.missing_rows() == 5


@pytest.fixture
def toy_blocks(tmp_path, toy_tokenizer, short_wordlist):
    corpus = Corpus("toy", lambda: ["she saw her book", "Nothing happened.", "his king and a man"])
    blocks, _ = packed_blocks(corpus, toy_tokenizer, Swapper(short_wordlist), 24, tmp_path / "blocks")
    return blocks


def test_the_key_changes_with_all_that_decides_the_content(tmp_path, toy_model, toy_blocks, monkeypatch):
    def folder(teacher, recipe=None, mixed_precision="no"):
        recipe = recipe or Recipe(block_length=24)
        return open_teacher_cache(tmp_path, teacher, toy_blocks, recipe, mixed_precision).folder

    first = folder(toy_model(seed=1))
    assert folder(toy_model(seed=1)) == first
    moved = toy_model(seed=1)
    moved.config._name_or_path = "elsewhere"
    assert folder(moved) == first
    eager = toy_model(seed=1)
    eager.set_attn_implementation("eager")
    other_epsilon = toy_model(seed=1)
    other_epsilon.config.layer_norm_epsilon = 1e-3
    half = Recipe(block_length=24, teacher=TeacherConfig(cache_dtype="float16"))
    others = [
        folder(toy_model(seed=2)),
        folder(toy_model(seed=1).to(torch.bfloat16)),
        folder(eager),
        folder(other_epsilon),
        folder(toy_model(seed=1), half),
        folder(toy_model(seed=1), mixed_precision="bf16"),
    ]
    monkeypatch.setattr(torch, "get_float32_matmul_precision", lambda: "high")
    others.append(folder(toy_model(seed=1)))
    monkeypatch.undo()
    toy_blocks.key = "blocks-other"
    others.append(folder(toy_model(seed=1)))
    assert len({first, *others}) == 9


def test_what_is_kept_is_what_the_teacher_says(tmp_path, toy_model, toy_blocks):
    teacher = toy_model(seed=1)
    batch = Collator(2, augment=True)([toy_blocks[i] for i in range(len(toy_blocks))])
    want = hidden_states(teacher, batch["input_ids"], batch["position_ids"]).detach()
    for dtype, error in ((None, 0), ("float16", 1e-3), ("bfloat16", 1e-2)):
        recipe = Recipe(block_length=24, teacher=TeacherConfig(cache_dtype=dtype))
        cache = open_teacher_cache(tmp_path, teacher, toy_blocks, recipe, "no")
        for _ in range(2):
            hidden, _ = cache.hidden_states(batch["source"], lambda rows: want[rows], CPU)
            torch.testing.assert_close(hidden.float(), want, atol=error, rtol=error)
        assert cache.missing_rows() == 0


def test_too_little_room_is_said_before_anything_is_trained(tmp_path, toy_model, toy_blocks, monkeypatch, capsys):
    usage = namedtuple("usage", "total used free")
    open_teacher_cache(tmp_path / "roomy", toy_model(), toy_blocks, Recipe(block_length=24), "no").close()
    assert "will take up to 0.00 GiB" in capsys.readouterr().err
    monkeypatch.setattr(teacher_cache.shutil, "disk_usage", lambda path: usage(10**9, 10**9, 100))
    with pytest.raises(UserError, match=r"only 0\.0 GiB are free.*cache_dir.*cache_dtype"):
        open_teacher_cache(tmp_path / "full", toy_model(), toy_blocks, Recipe(block_length=24), "no")
    assert not list((tmp_path / "full").iterdir())


def test_a_cache_without_a_teacher_is_a_users_mistake():
    files = CorpusConfig(source="files", files=["a.txt"])
    recipe = Recipe(
        teacher=TeacherConfig(path=None, cache_hidden_states=True),
        student=StudentConfig(init="config", config={"model_type": "gpt2"}),
        corpus=files,
        held_out=files,
        loss=LossConfig(kd=0.0, ce=1.0),
    )
    with pytest.raises(UserError, match="cache_hidden_states is true"):
        check_recipe(recipe)


# -------------------------------------------------------------------------------------------------------- in training

EPOCH = 11  # steps of six blocks
TRAINING = {"steps": 2 * EPOCH, "logging_steps": 1, "save_strategy": "no", "optim": "adamw_torch"}
SAVED = {**TRAINING, "save_strategy": "steps", "save_steps": 3, "save_total_limit": 9}
CACHED = {"teacher_keys": {"cache_hidden_states": True}}


def figures(folder: Path) -> dict:
    return json.loads((folder / "training" / "student.json").read_text(encoding="utf-8"))


def losses(folder: Path) -> list[float]:
    return [entry["loss"] for entry in figures(folder)["history"] if "loss" in entry]


@pytest.fixture(scope="module")
def uncached(tmp_path_factory):
    folder = tmp_path_factory.mktemp("uncached")
    train_toy.main(str(folder), 6, 1, **TRAINING)
    return folder


@pytest.mark.parametrize(("dtype", "tolerance"), [(None, 1e-6), ("bfloat16", 1e-3), ("float16", 1e-3)])
def test_the_second_epoch_runs_no_teacher_and_has_the_same_losses(tmp_path, uncached, dtype, tolerance):
    train_toy.main(str(tmp_path), 6, 1, teacher_keys={"cache_hidden_states": True, "cache_dtype": dtype}, **TRAINING)
    got, want = figures(tmp_path), figures(uncached)
    assert losses(tmp_path) == pytest.approx(losses(uncached), abs=tolerance)
    assert len(losses(tmp_path)) == 2 * EPOCH
    assert ["cached_share" in e for e in got["history"][:-1]] == [False] * EPOCH + [True] * EPOCH
    assert {e["cached_share"] for e in got["history"] if "cached_share" in e} == {1.0}
    assert got["student_tokens"] == want["student_tokens"]
    assert 2 * got["teacher_tokens"] == want["teacher_tokens"]
    assert got["teacher_tokens"] + got["teacher_tokens_saved"] == 2 * want["teacher_tokens"]


def test_a_run_stopped_in_the_first_epoch_goes_on_with_what_is_cached(tmp_path):
    """The checkpoint is older than the cache: its steps are done again, without a teacher, and to the same bits."""
    train_toy.main(str(tmp_path / "whole"), 6, 1, **SAVED, **CACHED)
    again = tmp_path / "again"
    shutil.copytree(tmp_path / "whole" / "checkpoints", again / "checkpoints")
    for lost in (6, 9, 12, 15, 18, 21, 22):
        shutil.rmtree(again / "checkpoints" / f"checkpoint-{lost}")
    train_toy.main(str(again), 6, 1, **{**TRAINING, "steps": 5}, **CACHED)
    shutil.rmtree(again / "student")
    shutil.rmtree(again / "training")
    train_toy.main(str(again), 6, 1, **SAVED, **CACHED)
    history = {e["step"]: e for e in figures(again)["history"]}
    assert all(history[step]["cached_share"] == 1 for step in (4, 5))
    assert all("cached_share" not in history[step] for step in (6, 7))
    want, got = (load_file(tmp_path / name / "student" / "model.safetensors") for name in ("whole", "again"))
    assert all(torch.equal(want[k], got[k]) for k in want)


def test_processes_fill_one_cache(tmp_path, uncached):
    """Two processes of three blocks each: one cache, the losses of one process that has none, and its counts."""
    train(tmp_path, 3, processes=2, **TRAINING, **CACHED)
    assert losses(tmp_path) == pytest.approx(losses(uncached), abs=1e-5)
    got, want = figures(tmp_path), figures(uncached)
    assert {e.get("cached_share") for e in got["history"][EPOCH:-1]} == {1.0}
    assert got["student_tokens"] == want["student_tokens"]
    assert 2 * got["teacher_tokens"] == want["teacher_tokens"]
    assert len(list((tmp_path / "cache").glob("teacher-*"))) == 1


BENCHMARKS = REPOSITORY / "tests" / "benchmarks"


@pytest.mark.slow
def test_the_benchmark_compares_like_with_like(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    benchmark = importlib.import_module("teacher_cache")
    try:
        shape = argparse.Namespace(vocabulary=512, width=64, layers=2, tokens=64, steps=2)
        records = {name: [benchmark.measure(name, shape)] for name in benchmark.CONTENDERS}
        benchmark.check_agreement(records)
        assert {name: run[0]["bytes"] > 0 for name, run in records.items()} == {
            name: name.endswith(", cache") for name in records
        }
        speed = benchmark.report(records)["speed"]
        assert set(speed) == {"one view", "two views", "augmented"} and speed["augmented"]["later"] > 0
        records["augmented, cache"][0]["losses"][-1] += 0.01
        with pytest.raises(RuntimeError, match="augmented: losses disagree"):
            benchmark.check_agreement(records)
    finally:
        for name in ("common", "step", "teacher_cache"):
            sys.modules.pop(name, None)


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_the_second_epoch_keeps_its_target():
    """GPT-2's shapes, targets of two views, one thread; one run each takes minutes."""
    contenders = ("two views, no cache", "two views, cache")
    command = [sys.executable, str(BENCHMARKS / "teacher_cache.py"), "--json", "--repeats", "1", "--contenders"]
    done = subprocess.run([*command, *contenders], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    assert json.loads(done.stdout)["speed"]["two views"]["later"] >= 1.3
