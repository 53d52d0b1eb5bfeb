"""Full disks, folders that vanish, flipped bits, two runs at once, signals, numbers that are not finite."""

import itertools
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import killed
import numpy as np
import pytest
import torch
import train_toy
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file
from shared import REPOSITORY, TOY_TEXT

from distill import run_folder
from distill.base.errors import UserError
from distill.base.files import write_folder
from distill.base.integrity import MANIFEST, damage, file_is_whole, put_file, put_folder
from distill.data import corpus, packing
from distill.data.blocks import BlockDataset
from distill.models.student import train_tokenizer
from distill.recipe import CorpusConfig, Recipe
from distill.reports import report
from distill.scoring import measure
from distill.text import counterfactual
from distill.training import checkpoints, trainer
from distill.training.step_watch import SpikeWatch, smallest_bad


def flip_bit(path: Path, byte: int | None = None) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2 if byte is None else byte] ^= 1
    path.write_bytes(content)


def folder_of(path: Path, **files: str) -> Path:
    path.mkdir(parents=True)
    for name, text in files.items():
        (path / name).write_text(text)
    return path


# ------------------------------------------------------------------------------------------------ whole, and seen to be


@pytest.fixture
def sealed(tmp_path):
    partial = folder_of(tmp_path / "partial", a="text a", b="text b")
    folder_of(partial / "sub", c="text c")
    put_folder(partial, tmp_path / "whole")
    return tmp_path / "whole"


def test_a_sealed_folder_is_whole_until_something_in_it_changes(sealed):
    assert damage(sealed) is None
    (sealed / "README.md").write_text("a card that came later")
    assert damage(sealed) is None
    flip_bit(sealed / "sub" / "c")
    assert "sub/c" in damage(sealed)
    flip_bit(sealed / "sub" / "c")
    assert damage(sealed) is None
    (sealed / "a").write_text("text")
    assert "a has 4 bytes instead of 6" in damage(sealed)
    (sealed / "a").unlink()
    assert damage(sealed) == "a is missing"


@given(content=st.binary())
def test_any_manifest_is_read_without_a_traceback(tmp_path_factory, content):
    folder = tmp_path_factory.mktemp("folder")
    (folder / MANIFEST).write_bytes(content)
    assert damage(folder) is not None
    assert damage(folder / "absent") == f"{MANIFEST} is missing"


def test_a_file_is_whole_only_with_its_hash(tmp_path):
    path, partial = tmp_path / "data.jsonl", tmp_path / "data.partial"
    partial.write_text("some text\n")
    assert not file_is_whole(path)
    put_file(partial, path)
    assert file_is_whole(path)
    check = subprocess.run(["sha256sum", "-c", "data.jsonl.sha256"], cwd=tmp_path, capture_output=True)
    assert check.returncode == 0
    for byte in range(10):
        flip_bit(path, byte)
        assert not file_is_whole(path)
        flip_bit(path, byte)
    os.truncate(path, 5)
    assert not file_is_whole(path)


def test_a_folder_is_replaced_only_by_a_whole_one(tmp_path):
    def fill(text):
        return lambda folder: [(folder / name).write_text(text) for name in ("a", "b")]

    def fail(folder):
        (folder / "a").write_text("half")
        raise OSError(28, "No space left on device", str(folder / "b"))

    write_folder(tmp_path / "student", fill("old"))
    with pytest.raises(UserError, match="no space left"):
        write_folder(tmp_path / "student", fail)
    assert damage(tmp_path / "student") is None
    assert (tmp_path / "student" / "a").read_text() == "old"
    write_folder(tmp_path / "student", fill("new"))
    assert (tmp_path / "student" / "b").read_text() == "new"
    assert [p.name for p in tmp_path.iterdir()] == ["student"]


def test_the_newest_whole_checkpoint_is_taken_and_damaged_ones_are_named_and_kept(tmp_path, capsys):
    def save(step):
        folder_of(tmp_path / checkpoints.PARTIAL / f"checkpoint-{step}", weights=f"weights {step}")
        checkpoints.publish(tmp_path, step, keep=2)

    def steps():
        return sorted(int(p.name.split("-")[1]) for p in tmp_path.glob("checkpoint-*"))

    assert checkpoints.newest_whole(tmp_path) is None
    for step in (5, 10, 100):
        save(step)
    assert steps() == [10, 100]
    assert checkpoints.newest_whole(tmp_path) == tmp_path / "checkpoint-100"
    flip_bit(tmp_path / "checkpoint-100" / "weights")
    folder_of(tmp_path / "checkpoint-105", weights="no manifest")
    folder_of(tmp_path / checkpoints.PARTIAL / "checkpoint-110", weights="a kill came")
    assert checkpoints.newest_whole(tmp_path) == tmp_path / "checkpoint-10"
    said = capsys.readouterr().err
    assert "checkpoint-100: weights is not what was written" in said
    assert f"checkpoint-105: {MANIFEST} is missing" in said
    assert steps() == [10, 100, 105]
    # Rotation counts only what is older than the new one, so that damaged newer ones cannot push it out.
    checkpoints.clear_partial(tmp_path)
    for step in (15, 20):
        save(step)
        assert checkpoints.newest_whole(tmp_path) == tmp_path / f"checkpoint-{step}"
    assert steps() == [15, 20, 100, 105]
    save(100)
    assert checkpoints.newest_whole(tmp_path) == tmp_path / "checkpoint-100"


# -------------------------------------------------------------------------------------------------------- a whole run


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return killed.small_run(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="module")
def finished(world, tmp_path_factory):
    """The folder around a finished run."""
    folder = tmp_path_factory.mktemp("finished")
    ending = killed.run(folder, world)
    assert ending.code == 0, ending.errors[-3000:]
    return folder


def error_of(ending: killed.Ending) -> str:
    """The one sentence of a user's mistake."""
    assert ending.code == 2, ending.errors[-3000:]
    assert "Traceback" not in ending.errors
    lines = [line for line in ending.errors.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1
    return lines[0]


@pytest.mark.parametrize(
    ("pattern", "said"),
    [
        ("cache/sampled-*.jsonl", "sampling it again"),
        ("cache/blocks-*.arrow", "packing again"),
        ("cache/blocks-*.json", "packing again"),
        ("cache/scores/perplexity-*.json", "measuring again"),
        ("student/model.safetensors", "student is damaged (model.safetensors is not what was written"),
    ],
)
@pytest.mark.parametrize("how", ["flipped", pytest.param("truncated", marks=pytest.mark.slow)])
def test_what_is_damaged_is_seen_and_made_again(world, finished, tmp_path, pattern, said, how):
    shutil.copytree(finished, tmp_path / "again")
    for path in (tmp_path / "again" / "run").glob(pattern):
        if how == "flipped":
            flip_bit(path)
        else:
            os.truncate(path, path.stat().st_size // 2)
    ending = killed.run(tmp_path / "again", world)
    assert ending.code == 0, ending.errors[-3000:]
    assert "damaged" in ending.errors
    if how == "flipped" or "student" not in pattern:
        assert said in ending.errors
    assert killed.results(tmp_path / "again") == killed.results(finished)


def test_a_damaged_newest_checkpoint_costs_the_steps_since_the_one_before(world, finished, tmp_path):
    shutil.copytree(finished, tmp_path / "again")
    run = tmp_path / "again" / "run"
    shutil.rmtree(run / "student")
    flip_bit(run / "checkpoints" / "student" / "checkpoint-6" / "optimizer.pt")
    ending = killed.run(tmp_path / "again", world)
    assert ending.code == 0, ending.errors[-3000:]
    assert "skipped run/checkpoints/student/checkpoint-6: optimizer.pt" in ending.errors
    assert ending.phases.count("l") == 2 * 1  # steps 5 and 6
    assert killed.results(tmp_path / "again") == killed.results(finished)


@pytest.mark.parametrize(
    ("owner", "name"),
    [
        (corpus, "sample_batch"),
        pytest.param(packing, "_close", marks=pytest.mark.slow),
        (trainer.DistillationTrainer, "_save_checkpoint"),
        pytest.param(checkpoints, "put_folder", marks=pytest.mark.slow),
        (trainer, "write_folder"),
        pytest.param(measure, "measured", marks=pytest.mark.slow),
        pytest.param(report, "report_markdown", marks=pytest.mark.slow),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_full_disk_is_one_sentence_and_loses_nothing(world, finished, tmp_path, owner, name):
    """From the first call of a function on no file may grow beyond 64 bytes (RLIMIT_FSIZE), as on a full disk."""

    def fill_up() -> None:
        plain = getattr(owner, name)

        def full(*args, **kwargs):
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (64, resource.RLIM_INFINITY))
            return plain(*args, **kwargs)

        setattr(owner, name, full)

    assert "free space" in error_of(killed.run(tmp_path, world, prepare=fill_up))
    ending = killed.run(tmp_path, world)
    assert ending.code == 0, ending.errors[-3000:]
    assert killed.results(tmp_path) == killed.results(finished)


def test_a_real_small_file_system_that_fills_up(world, finished, tmp_path):
    """A tmpfs that is too small for the checkpoints: one sentence; enlarged, the same command ends the run."""
    disk = tmp_path / "disk"
    disk.mkdir()
    size = sum(p.stat().st_size for p in (finished / "run" / "cache").rglob("*") if p.is_file())
    mount = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size + 700_000}", "tmpfs", str(disk)], capture_output=True, text=True
    )
    if mount.returncode:
        pytest.skip(f"no small file system can be mounted here: {mount.stderr.strip()}")
    try:
        work = tmp_path / "work"
        work.mkdir()
        (work / "run").symlink_to(disk)
        told = error_of(killed.run(work, world))
        assert "no space left on device" in told or "the disk may be full" in told
        subprocess.run(["mount", "-o", "remount,size=100m", str(disk)], check=True)
        ending = killed.run(work, world)
        assert ending.code == 0, ending.errors[-3000:]
        assert killed.results(work) == killed.results(finished)
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)


def test_a_folder_that_vanishes_while_a_run_writes_is_one_sentence(world, tmp_path):
    def vanish() -> None:
        plain = trainer.DistillationTrainer._save_checkpoint

        def save(self, *args):
            shutil.rmtree("run")
            Path("run").write_text("a file in its place")
            return plain(self, *args)

        trainer.DistillationTrainer._save_checkpoint = save

    assert "run" in error_of(killed.run(tmp_path, world, prepare=vanish))


def test_a_corpus_file_that_vanishes_is_one_sentence(world, tmp_path):
    (tmp_path / "a.txt").write_text("he saw the queen .\n" * 50)
    (tmp_path / "b.txt").write_text("she saw the king .\n" * 50)
    files = json.dumps({"source": "files", "files": [str(tmp_path / "a.txt"), str(tmp_path / "b.txt")]})

    def vanish() -> None:
        plain = counterfactual.Swapper.counterfactuals

        def swap(self, text):
            (tmp_path / "b.txt").unlink(missing_ok=True)
            return plain(self, text)

        counterfactual.Swapper.counterfactuals = swap

    assert "b.txt: cannot be read" in error_of(killed.run(tmp_path, [*world, "--corpus", files], prepare=vanish))


def test_a_folder_that_may_not_be_written_is_one_sentence(world, tmp_path):
    if os.geteuid() == 0:
        target = Path("/proc/sys/distill-run")  # root may write in any folder of a disk
    else:
        folder_of(tmp_path / "closed").chmod(0o555)
        target = tmp_path / "closed" / "run"
    ending = killed.run(tmp_path, [*world, "--output_dir", str(target)])
    assert f"{target}: cannot be written" in error_of(ending)


def test_two_runs_in_one_folder_are_refused_and_a_kill_leaves_no_lock(world, tmp_path):
    first = os.fork()
    if not first:
        (tmp_path / "run").mkdir()
        run_folder.lock(tmp_path / "run")
        (tmp_path / "locked").touch()
        signal.pause()
    try:
        while not (tmp_path / "locked").exists():
            time.sleep(0.01)
        told = error_of(killed.run(tmp_path, world))
    finally:
        os.kill(first, signal.SIGKILL)
        os.waitpid(first, 0)
    assert "run is in use by a run that is still going on" in told
    assert f"process {first} on " in told
    assert [p.name for p in (tmp_path / "run").iterdir()] == [".lock"]
    assert killed.run(tmp_path, world).code == 0


def in_other_process(work: Callable[[], object]) -> int:
    """Fork, do it, and end; the process id."""
    child = os.fork()
    if not child:
        code = 1
        try:
            work()
            code = 0
        finally:
            os._exit(code)
    return child


def slow_samples(tmp_path: Path, monkeypatch, name: str, stop_at: int | None = None) -> Callable[[], None]:
    """Samples 12 documents in batches of 2, each taking a while; waits for a kill before the batch `stop_at`."""
    config = CorpusConfig(max_documents=12, sample_batch_size=2)

    def sample_batch(model, tokenizer, config, seed, number):
        if number == stop_at:
            (tmp_path / f"{name}.waits").touch()
            signal.pause()
        with (tmp_path / f"{name}.batches").open("a") as stream:
            stream.write(f"{number}\n")
        time.sleep(0.02)
        return [f"document {number}.{i}" for i in range(2)]

    def work() -> None:
        monkeypatch.setattr(corpus, "sample_batch", sample_batch)
        corpus.open_corpus(config, 0, tmp_path / "cache")

    return work


def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def batches(tmp_path: Path, name: str) -> list[int]:
    return [int(line) for line in (tmp_path / f"{name}.batches").read_text().split()]


def test_two_runs_may_sample_into_one_cache(tmp_path, monkeypatch):
    children = [in_other_process(slow_samples(tmp_path, monkeypatch, name)) for name in ("one", "two")]
    assert [os.waitpid(child, 0)[1] for child in children] == [0, 0]
    (path,) = (tmp_path / "cache").glob("sampled-*.jsonl")
    assert file_is_whole(path)
    texts = [json.loads(line)["text"] for line in path.read_text().splitlines()]
    assert texts == [f"document {number}.{i}" for number in range(6) for i in range(2)]
    assert sorted(p.name for p in path.parent.iterdir()) == [path.name, f"{path.name}.sha256"]


def test_sampled_text_is_gone_on_with_only_when_its_run_has_ended(tmp_path, monkeypatch):
    """While the first run waits in its fourth batch a second one begins by itself; killed, a third goes on after it."""
    first = in_other_process(slow_samples(tmp_path, monkeypatch, "first", stop_at=3))
    until((tmp_path / "first.waits").exists)
    second = in_other_process(slow_samples(tmp_path, monkeypatch, "second", stop_at=5))
    until((tmp_path / "second.waits").exists)
    assert batches(tmp_path, "second") == [0, 1, 2, 3, 4]
    for child in (first, second):
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    assert os.waitpid(in_other_process(slow_samples(tmp_path, monkeypatch, "third")), 0)[1] == 0
    assert batches(tmp_path, "third") in ([3, 4, 5], [5])
    (path,) = (tmp_path / "cache").glob("sampled-*.jsonl")
    assert file_is_whole(path)
    assert len(path.read_text().splitlines()) == 12


def test_two_runs_may_pack_into_one_cache(tmp_path, monkeypatch, toy_tokenizer):
    """Each waits for the other in the middle of its packing."""
    documents = ["the king saw the queen ."] * 40

    def work(mine: str, other: str) -> None:
        def read():
            yield from documents[:20]
            (tmp_path / mine).touch()
            until((tmp_path / other).exists)
            yield from documents[20:]

        blocks, counts = packing.packed_blocks(corpus.Corpus("key", read), toy_tokenizer, None, 16, tmp_path / "cache")
        assert len(blocks) == counts.blocks and counts.documents == 40

    children = [in_other_process(lambda names=names: work(*names)) for names in (("one", "two"), ("two", "one"))]
    assert [os.waitpid(child, 0)[1] for child in children] == [0, 0]
    files = sorted((tmp_path / "cache").iterdir())
    assert [path.suffix for path in files] == [".arrow", ".sha256", ".json", ".sha256"]
    assert all(file_is_whole(path) for path in files if path.suffix != ".sha256")


def test_two_runs_may_write_one_file(tmp_path):
    """As the scores that both measured; readers see one whole text or the other."""
    path = tmp_path / "score.json"
    texts = ["a" * 300_000, "b" * 500_000]
    children = [
        in_other_process(lambda text=text: [run_folder.write_text(path, text) for _ in range(40)]) for text in texts
    ]
    until(path.exists)
    seen = {path.read_text() for _ in range(200)}
    assert [os.waitpid(child, 0)[1] for child in children] == [0, 0]
    assert seen | {path.read_text()} <= set(texts)
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_what_a_kill_left_half_written_is_removed_but_for_sampled_text(tmp_path):
    recipe = Recipe(output_dir=str(tmp_path / "run"))
    with run_folder.open_run(recipe) as folder:
        pass
    folder_of(folder / ".student.1a2b.partial", weights="half")
    folder_of(folder / "cache", **dict.fromkeys((".blocks-k.arrow.1a2b.partial", ".sampled-k.jsonl.1a2b.partial"), "x"))
    with run_folder.open_run(recipe):
        pass
    assert {p.name for p in folder.iterdir()} == {".lock", "recipe.yaml", "cache"}
    assert [p.name for p in (folder / "cache").iterdir()] == [".sampled-k.jsonl.1a2b.partial"]


def test_a_kill_while_the_folder_is_claimed_leaves_it_to_the_same_command(tmp_path):
    folder_of(tmp_path / "run", **{".lock": "process 1 on nowhere", "recipe.partial": "seed: "})
    with run_folder.open_run(Recipe(output_dir=str(tmp_path / "run"))):
        assert sorted(p.name for p in (tmp_path / "run").iterdir()) == [".lock", "recipe.yaml"]


# ------------------------------------------------------------------------------------------------------------ signals


def signalled(owner: Any, name: str, call: int, sig: int, rank: str = "0") -> Callable[[], None]:
    """For `killed.run`: the process of that rank gets a signal in the n-th call of a function."""

    def prepare() -> None:
        plain, calls = getattr(owner, name), itertools.count(1)

        def counted(*args, **kwargs):
            if next(calls) == call and os.environ.get("RANK", "0") == rank:
                os.kill(os.getpid(), sig)
            return plain(*args, **kwargs)

        setattr(owner, name, counted)

    return prepare


@pytest.mark.parametrize(
    ("processes", "rank", "sig", "code"),
    [(1, "0", signal.SIGTERM, 143), (1, "0", signal.SIGINT, 130), (2, "1", signal.SIGTERM, 143)],
)
def test_a_signal_in_training_saves_the_step_and_says_how_to_go_on(
    world, finished, tmp_path, processes, rank, sig, code
):
    """One process of several is enough: all of them finish the same step."""
    work = tmp_path / "stopped"
    work.mkdir()
    prepare = signalled(trainer.DistillationTrainer, "compute_loss", 3, sig, rank)
    ending = killed.run(work, world, processes, prepare=prepare)
    assert ending.code == code, ending.errors[-3000:]
    assert ending.errors.count("the same command goes on") == 1
    assert "Traceback" not in ending.errors
    newest = checkpoints.newest_whole(work / "run" / "checkpoints" / "baseline")
    assert newest.name == "checkpoint-3"
    want = finished
    if processes == 2:
        want = tmp_path / "whole"
        want.mkdir()
        assert killed.run(want, world, 2).code == 0
    ending = killed.run(work, world, processes)
    assert ending.code == 0, ending.errors[-3000:]
    assert killed.results(work) == killed.results(want)


def wait_for_group(group: int) -> None:
    """Until no process of the group is left."""
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline:
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return
        time.sleep(0.05)
    raise TimeoutError(f"processes of group {group} are still there")


@pytest.mark.slow
@pytest.mark.parametrize(
    "launcher",
    [
        ["accelerate.commands.launch", "--num_processes", "1", "--cpu"],
        ["torch.distributed.run", "--standalone", "--nproc_per_node", "2"],
    ],
    ids=["accelerate", "torchrun"],
)
@pytest.mark.parametrize("sig", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "SIGINT"])
def test_launchers_leave_time_to_save(world, tmp_path, launcher, sig):
    """The signal goes to launcher and processes alike, as Ctrl-C, `timeout` and schedulers send it."""
    argv = [*world, "--trainer.max_steps", "5000", "--trainer.save_steps", "20"]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    with (tmp_path / "errors.txt").open("wb") as errors:
        process = subprocess.Popen(
            [sys.executable, "-m", *launcher, str(REPOSITORY / "distill" / "train.py"), *argv],
            cwd=tmp_path,
            env=environment,
            stderr=errors,
            start_new_session=True,
        )
        baseline = tmp_path / "run" / "checkpoints" / "baseline"
        while not any(baseline.glob("checkpoint-*")):
            assert process.poll() is None, (tmp_path / "errors.txt").read_text()[-3000:]
            time.sleep(0.05)
        os.killpg(process.pid, sig)
        process.wait(timeout=300)
    wait_for_group(process.pid)  # SIGTERM ends accelerate's launcher at once, and leaves the run to save
    said = (tmp_path / "errors.txt").read_text()
    assert said.count("asked to stop: finishing this step and saving it") == 1
    assert said.count("stopped; the same command goes on from the last checkpoint") == 1
    saved = sorted(int(p.name.split("-")[1]) for p in baseline.glob("checkpoint-*"))
    assert checkpoints.newest_whole(baseline).name == f"checkpoint-{saved[-1]}"
    assert not list(baseline.glob(f"{checkpoints.PARTIAL}/*"))
    assert not (tmp_path / "run" / "baseline").exists()


@pytest.mark.parametrize(("sig", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_elsewhere_ends_at_once(world, finished, tmp_path, sig, code):
    prepare = signalled(counterfactual.Swapper, "counterfactuals", 5, sig)
    ending = killed.run(tmp_path, world, prepare=prepare)
    assert ending.code == code
    assert ending.errors.splitlines()[-1].endswith("the same command goes on from the last checkpoint")
    assert ending.phases.count("s") <= 5
    assert killed.run(tmp_path, world).code == 0
    assert killed.results(tmp_path) == killed.results(finished)


# ------------------------------------------------------------------------------------------------------------ numbers


def poisoned(monkeypatch, where: str, token: int, value: float) -> None:
    """Let the teacher's or student's head give `value` at every position of one token."""
    plain = trainer.hidden_states

    def hidden_states(model, input_ids, *others):
        states = plain(model, input_ids, *others)
        mine = model.training == (where != "teacher")
        bad = (input_ids == token).unsqueeze(-1)
        return states.masked_fill(bad, value) if mine else states

    monkeypatch.setattr(trainer, "hidden_states", hidden_states)


@pytest.fixture
def toy():
    """The tokenizer of train_toy.py."""
    return train_tokenizer([TOY_TEXT] * 4, 400)


@pytest.mark.parametrize(
    ("where", "value", "what", "cached"),
    [
        ("teacher", float("nan"), "a logit of the teacher", False),
        ("teacher", float("nan"), "a logit of the teacher", True),
        ("teacher", float("inf"), "a logit of the teacher", False),
        ("student", float("nan"), "the loss", False),
    ],
)
def test_a_number_that_is_not_finite_stops_the_run_and_names_its_text(
    monkeypatch, tmp_path, toy, where, value, what, cached, capsys
):
    token = toy(" coat")["input_ids"][-1]
    keys = {"cache_hidden_states": cached}
    train_toy.main(str(tmp_path), 4, 2, steps=2, save_steps=1, teacher_keys=keys)
    shutil.rmtree(tmp_path / "student")
    poisoned(monkeypatch, where, token, value)
    with pytest.raises(UserError) as stopped:
        train_toy.main(str(tmp_path), 4, 2, steps=6, save_steps=1, teacher_keys=keys)
    message = str(stopped.value)
    assert message.startswith("step 3: ")
    assert f"{what} is not finite in block " in message
    assert str(tmp_path / "checkpoints" / "checkpoint-2") in message
    assert not (tmp_path / "student").exists()
    # The text that is quoted ends with the poisoned token, and lies where the message says.
    block, view, position = place_in(message)
    rows = train_toy_blocks(tmp_path)[block].input_ids
    assert rows[view, position] == token
    assert repr(toy.decode(rows[view, max(0, position - 7) : position + 1])) in message
    if cached:  # what the teacher could not say was not kept
        hidden = np.fromfile(next((tmp_path / "cache").glob("teacher-*/hidden.bin")), dtype=np.float32)
        assert hidden.any() and np.isfinite(hidden).all()


def place_in(message: str) -> tuple[int, int, int]:
    words = message.replace(",", "").split()
    view = int(words[words.index("counterfactual") + 1]) if "counterfactual" in words else 0
    return int(words[words.index("block") + 1]), view, int(words[words.index("token") + 1])


def train_toy_blocks(folder: Path):
    return BlockDataset(next((folder / "cache-0").glob("*.arrow")), 48)


def test_a_gradient_that_is_not_finite_is_found_where_the_loss_is_finite(monkeypatch, tmp_path, toy):
    token = toy(" coat")["input_ids"][-1]
    plain = trainer.hidden_states

    def hidden_states(model, input_ids, *others):
        states = plain(model, input_ids, *others)
        if states.requires_grad:
            bad = (input_ids == token).unsqueeze(-1)
            states.register_hook(lambda gradient: gradient.masked_fill(bad & (gradient != 0), float("inf")))
        return states

    monkeypatch.setattr(trainer, "hidden_states", hidden_states)
    with pytest.raises(UserError, match="the gradient is not finite in block") as stopped:
        train_toy.main(str(tmp_path), 4, 2, steps=6)
    block, view, position = place_in(str(stopped.value))
    assert train_toy_blocks(tmp_path)[block].input_ids[view, position] == token
    assert "checkpoint is none yet" in str(stopped.value)


def test_steps_that_are_not_finite_can_be_left_out(monkeypatch, tmp_path, toy, capsys):
    """The student of a training in which every step is bad is the untrained one, bit for bit; and it is counted."""
    poisoned(monkeypatch, "teacher", toy.bos_token_id, float("nan"))
    train_toy.main(str(tmp_path), 4, 2, steps=3, on_nonfinite="skip")
    said = capsys.readouterr().err
    assert "3 steps were left out of training" in said
    got, untrained = (
        load_file(tmp_path / "student" / "model.safetensors"),
        load_file(tmp_path / "untrained.safetensors"),
    )
    assert all(torch.equal(got[key], untrained[key]) for key in got)
    state = json.loads((tmp_path / "checkpoints" / "checkpoint-3" / "trainer_state.json").read_text())
    assert all(torch.tensor([v for v in entry.values()]).isfinite().all() for entry in state["log_history"])


def test_weights_that_a_step_made_infinite_are_never_saved(monkeypatch, tmp_path):
    plain = torch.optim.SGD.step

    def step(self, closure=None):
        plain(self, closure)
        step.calls += 1
        if step.calls == 3:
            self.param_groups[0]["params"][0].data[0] = float("inf")

    step.calls = 0
    monkeypatch.setattr(torch.optim.SGD, "step", step)
    with pytest.raises(UserError, match="weights are not finite") as stopped:
        train_toy.main(str(tmp_path), 4, 1, steps=3, save_steps=2)
    assert str(tmp_path / "checkpoints" / "checkpoint-2") in str(stopped.value)
    assert sorted(p.name for p in (tmp_path / "checkpoints").iterdir()) == ["_partial", "checkpoint-2"]
    assert not (tmp_path / "student").exists()


def test_two_processes_stop_together_at_the_same_text(world, tmp_path):
    """Only the second process reads a bad text, and both end, with one sentence."""

    def poison() -> None:
        plain = trainer.DistillationTrainer._teacher_view

        def view(self, *args, **kwargs):
            found, read = plain(self, *args, **kwargs)
            if os.environ["RANK"] == "1" and self.state.global_step == 3:
                found.hidden[0] = float("nan")
            return found, read

        trainer.DistillationTrainer._teacher_view = view

    told = error_of(killed.run(tmp_path, world, 2, prepare=poison))
    assert "step 4: a logit of the teacher is not finite in block " in told
    assert "checkpoint-2" in told
    assert not (tmp_path / "run" / "baseline").exists()


def test_a_jump_of_the_loss_is_told_once():
    watch = SpikeWatch()
    told = [watch.usual(loss) for loss in [2.0] * 20 + [7.0, 8.0, 9.0] + [2.0] * 3 + [6.5] + [5.9]]
    assert [(i, usual) for i, usual in enumerate(told) if usual] == [(20, 2.0), (26, 2.0)]
    assert not any(SpikeWatch().usual(loss) for loss in (1.0, 100.0, 10_000.0)), "too few to know what is usual"


@given(st.sets(st.integers(0, 200), min_size=1), st.integers(201, 300))
def test_halving_finds_one_of_the_culprits(culprits, n):
    calls = []

    def is_bad(items):
        calls.append(items)
        return bool(culprits & set(items))

    assert smallest_bad(range(n), is_bad)[0] in culprits
    assert len(calls) <= 2 * n.bit_length()


def test_halving_keeps_what_is_bad_only_together():
    assert list(smallest_bad(range(8), lambda items: {2, 3} <= set(items))) == [2, 3]
