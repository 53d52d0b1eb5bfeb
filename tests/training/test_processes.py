"""A user's mistake in one of several processes ends all of them, with one message."""

import os
import re
import socket
import subprocess
import sys
import time
from datetime import timedelta
from pathlib import Path
from unittest.mock import MagicMock

import forked
import pytest
import synthetic
import torch
from accelerate import PartialState
from launched import ENVIRONMENT, torchrun
from shared import REPOSITORY
from transformers.utils import logging as bars

from distill import pipeline, run_folder, train
from distill.base import console
from distill.base.console import run_entry
from distill.base.errors import UserError
from distill.recipe import Recipe
from distill.recipe_check import parse_recipe
from distill.run_folder import lock, unlock
from distill.training import processes
from distill.training.processes import leaving_nothing, opened_together, together, training_alone, use_all_cores


def one_message(errors: str, codes: set[int]) -> str:
    """What was said, once, before each process ended: by itself, or ended by the launcher."""
    messages = [line for line in errors.splitlines() if line.startswith("error: ")]
    assert len(messages) == 1, errors
    assert 2 in codes and codes <= {2, -15}, errors
    return messages[0]


@pytest.mark.parametrize("main_first", [False, True])
@pytest.mark.parametrize("rank", [0, 1])
def test_a_mistake_in_one_process_ends_all(rank, main_first):
    def main(argv):
        process = PartialState(cpu=True)
        with together(main_first=main_first):
            if process.process_index == rank:
                raise UserError(f"seen in {rank}")
        print("went on")

    done = forked.call(lambda: run_entry(main, []), processes=2)
    assert one_message(done.stderr, set(done.codes)) == f"error: seen in {rank}"
    assert "went on" not in done.stdout


FULL = "[enforce fail at alloc_cpu.cpp:117] data. DefaultCPUAllocator: can't allocate memory"  # as torch says it


@pytest.mark.parametrize("ranks", [{0}, {1}, {0, 1}], ids=["the first", "the other", "both"])
@pytest.mark.parametrize("told", [True, False], ids=["by torchrun", "by another launcher"])
@pytest.mark.parametrize(
    ("mistake", "words"), [(UserError("seen alone"), "seen alone"), (RuntimeError(FULL), "too little free memory")]
)
def test_a_mistake_that_a_process_meets_by_itself_is_told_once(monkeypatch, ranks, told, mistake, words):
    """As in a step of training, where nobody asks the others how it went."""
    if not told and len(ranks) > 1:
        pytest.skip("each tells of its own")

    def main(argv):
        process = PartialState(cpu=True)
        process.wait_for_everyone()
        if process.process_index in ranks:
            raise mistake
        time.sleep(60)  # in an exchange, until the launcher ends it

    def entry():
        if not told:
            del os.environ["TORCHELASTIC_ERROR_FILE"]
        return run_entry(main, [])

    done = forked.call(entry, processes=2, patience=0.3 if len(ranks) == 1 else 5)
    message = one_message(done.stderr, {done.codes[rank] for rank in ranks})
    assert words in message
    assert message.startswith(f"error: process 1 on {socket.gethostname()}: ") or 0 in ranks


@pytest.mark.parametrize(
    ("trainer", "seconds"),
    [
        ({"use_cpu": True}, 24 * 3600),
        ({"use_cpu": True, "ddp_timeout": "7200"}, 7200),
        pytest.param(
            {"bf16": True},  # which trains on the CPU where there is no GPU
            24 * 3600,
            marks=pytest.mark.skipif(torch.accelerator.is_available(), reason="on a GPU, processes need one each"),
        ),
    ],
)
def test_processes_wait_for_one_another_as_long_as_the_recipe_says(monkeypatch, tmp_path, trainer, seconds):
    """From the first time that they meet on: the first one may sample and pack for hours while the others wait."""

    def stop(recipe):
        group = torch.distributed.distributed_c10d._get_default_group()
        print(f"{group.name()} of {group.size()}: {group._get_backend(torch.device('cpu')).options._timeout}")
        raise UserError("far enough")

    monkeypatch.setattr(pipeline, "_load", stop)
    recipe = Recipe(trainer=trainer, output_dir=str(tmp_path))
    done = forked.call(lambda: run_entry(lambda argv: pipeline.run(recipe), []), processes=2)
    assert one_message(done.stderr, set(done.codes)) == "error: far enough"
    assert done.stdout == f"gloo of 2: {timedelta(seconds=seconds)}\n" * 2


@pytest.mark.parametrize(
    ("variables", "before", "given", "expected"),
    [
        ({"ACCELERATE_DYNAMO_BACKEND": "NO"}, 1, False, 6),
        ({"TORCHELASTIC_RUN_ID": "none", "LOCAL_WORLD_SIZE": "4"}, 1, False, 1),
        ({"TORCHELASTIC_RUN_ID": "none", "LOCAL_WORLD_SIZE": "2"}, 1, False, 3),
        ({"TORCHELASTIC_RUN_ID": "none", "LOCAL_WORLD_SIZE": "9"}, 1, False, 1),
        ({"TORCHELASTIC_RUN_ID": "none", "LOCAL_WORLD_SIZE": "2"}, 1, True, None),  # one thread was asked for
        ({"ACCELERATE_DYNAMO_BACKEND": "NO"}, 2, False, None),
        ({}, 1, False, None),  # no launcher has set it
    ],
)
def test_a_launchers_processes_share_the_cores_unless_the_user_said_how(
    monkeypatch, variables, before, given, expected
):
    for name in ("ACCELERATE_DYNAMO_BACKEND", "TORCHELASTIC_RUN_ID", "LOCAL_WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(processes, "usable_cores", lambda: 6)
    monkeypatch.setattr(processes, "_launcher_was_given_threads", lambda: given)
    monkeypatch.setattr(torch, "get_num_threads", lambda: before)
    asked = []
    monkeypatch.setattr(torch, "set_num_threads", asked.append)
    use_all_cores(on_gpu=False)
    assert asked == ([expected] if expected else [])
    use_all_cores(on_gpu=True)
    assert len(asked) == bool(expected)


@pytest.mark.parametrize("given", [False, True])
def test_what_a_launcher_began_with_is_seen_by_what_it_starts(given):
    """As torchrun and accelerate do, the parent sets the variable itself."""
    child = "from distill.training.processes import _launcher_was_given_threads as told; print(told())"
    parent = f"""import os, subprocess, sys
os.environ["OMP_NUM_THREADS"] = "1"
subprocess.run([sys.executable, "-c", {child!r}], check=True)"""
    own = {name: value for name, value in ENVIRONMENT.items() if name != "OMP_NUM_THREADS"}
    environment = own | ({"OMP_NUM_THREADS": "1"} if given else {})
    done = subprocess.run([sys.executable, "-c", parent], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout == f"{given}\n"


@pytest.fixture(scope="module")
def recipe_file(tmp_path_factory):
    """A recipe that needs no teacher, and a folder for its files."""
    folder = tmp_path_factory.mktemp("mistake")
    recipe = Path(synthetic.write_teacher_recipe(folder, folder / "run"))
    return recipe


@pytest.mark.parametrize("mistake", ["recipe", "corpus"])
def test_a_mistake_ends_all_processes_with_one_message(recipe_file, tmp_path, mistake):
    """Seen by all in the recipe, or by the first alone, in the text, while the other waits for it."""
    if mistake == "recipe":
        arguments, words = ["--target.op", "expmeen"], "did you mean 'expmean'"
    else:
        (tmp_path / "empty.txt").write_text("")
        arguments, words = ["--corpus.files", f'["{tmp_path / "empty.txt"}"]'], "holds no text"
    common = ["--config", str(recipe_file), "--output_dir", str(tmp_path / "run"), "--trainer.use_cpu", "true"]
    begun = time.monotonic()
    if mistake == "recipe":
        done = forked.run(*common, *arguments, processes=2)
        codes = set(done.codes)
    else:
        command = [*torchrun(2), str(REPOSITORY / "distill/train.py"), *common, *arguments]
        done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, timeout=300)
        # torchrun ends what still runs, and says how each one ended that had ended by itself.
        codes = {int(code) for code in re.findall(r"exitcode\s*: (-?\d+)", done.stderr)}
    assert time.monotonic() - begun < 120  # nobody waited for a time limit
    assert words in one_message(done.stderr, codes)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("held", [False, True])
def test_a_mistake_of_another_process_alone_leaves_nothing_of_a_new_folder(monkeypatch, tmp_path, held):
    """It is met as the run is prepared, when the first process has done so."""
    run = tmp_path / "run"
    if held:
        run.mkdir()

    def prepare(recipe, asked, folder, missing):
        (folder / "cache").mkdir(exist_ok=True)
        if not console.is_first_process():
            raise UserError("only here")
        return MagicMock(), MagicMock()

    for name in ("_load", "_prepare", "follow_run"):
        monkeypatch.setattr(pipeline, name, prepare if name == "_prepare" else MagicMock())
    monkeypatch.setattr(pipeline.preflight, "check_start", MagicMock())
    recipe = Recipe(trainer={"use_cpu": True}, output_dir=str(run))
    done = forked.call(lambda: run_entry(lambda argv: pipeline.run(recipe), []), processes=2)
    assert one_message(done.stderr, set(done.codes)) == "error: only here"
    assert run.exists() == held and not (held and [*run.iterdir()])


def test_a_machine_that_does_not_share_the_output_folder_is_told_before_any_work(monkeypatch, tmp_path):
    monkeypatch.setattr(run_folder, "_APPEARS", 0.2)

    def main(argv):
        (tmp_path / os.environ["RANK"]).mkdir()
        os.chdir(tmp_path / os.environ["RANK"])
        PartialState(cpu=True)
        with opened_together(Recipe(output_dir="run")):
            print("opened")

    done = forked.call(lambda: run_entry(main, []), processes=2)
    assert "does not see there what the first process has written" in one_message(done.stderr, set(done.codes))
    assert "opened" not in done.stdout and [path.name for path in tmp_path.rglob("*")] == ["0", "1"]


def test_a_script_of_several_processes_gets_the_scores_in_each_of_one_run(small_run, tmp_path):
    """As with `accelerate launch my.py`, where every process goes on with what `train` returns."""
    recipe = parse_recipe([*small_run, "--output_dir", str(tmp_path / "run"), "--trainer.use_cpu", "true"])

    def main():
        print(f"scores of {len(train(recipe)['models'])}")
        with pytest.raises(UserError, match="the 2 processes that were started have ended a run together"):
            train(recipe)
        print("told")

    done = forked.call(main, processes=2)
    assert done.codes == [0, 0], done.stderr[-3000:]
    assert done.stdout.count("scores of 3\n") == done.stdout.count("told\n") == 2


def float32_products() -> tuple[str, str, str]:
    """How they are made: by the newer names, and by the older one, which raises where the two contradict."""
    matmul = torch.backends.cuda.matmul.fp32_precision
    return torch.backends.fp32_precision, matmul, torch.get_float32_matmul_precision()


def turn_on_generally():
    torch.backends.fp32_precision = "tf32"  # as transformers does it, after which the older name raises


def turn_on_for_products():
    torch.backends.cuda.matmul.allow_tf32 = True  # as accelerate does it


@pytest.mark.parametrize("turn_on", [turn_on_generally, turn_on_for_products])
@pytest.mark.parametrize("before", ["highest", "high"])
def test_what_a_training_sets_for_the_whole_process_ends_with_it(turn_on, before):
    with training_alone():
        torch.set_float32_matmul_precision(before)
        kept = float32_products()
        with pytest.raises(KeyError), training_alone():
            turn_on()
            torch.use_deterministic_algorithms(True, warn_only=True)
            torch.backends.cudnn.deterministic = True
            raise KeyError
        assert float32_products() == kept and kept[2] == before
        assert not torch.are_deterministic_algorithms_enabled() and not torch.backends.cudnn.deterministic
    assert float32_products() == ("none", "none", "highest")
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        with training_alone():
            torch.use_deterministic_algorithms(False)
        assert torch.is_deterministic_algorithms_warn_only_enabled()  # the user's own
    finally:
        torch.use_deterministic_algorithms(False)


def test_a_training_computes_gradients_where_a_notebook_has_turned_them_off():
    with torch.no_grad():
        with training_alone():
            assert torch.is_grad_enabled()
        assert not torch.is_grad_enabled()


def is_free(folder: Path) -> bool:
    """Whether another process may take a run's folder."""
    code = "import pathlib, sys; from distill.run_folder import lock; lock(pathlib.Path(sys.argv[1]))"
    done = subprocess.run([sys.executable, "-c", code, str(folder)], capture_output=True, text=True)
    assert done.returncode == 0 or "is in use by a run that has not ended" in done.stderr
    return done.returncode == 0


def test_an_interrupted_run_of_a_notebook_frees_its_folder_and_is_followed_no_longer(tmp_path, monkeypatch):
    """The same command, in a terminal, is to continue it while the notebook stays open."""
    seen = []

    def interrupted(*_):
        seen.append((is_free(tmp_path / "run"), console._plan is not None))
        bars.disable_progress_bar()  # as the trainer does
        raise KeyboardInterrupt

    monkeypatch.setattr(pipeline, "_prepare", interrupted)
    bars.enable_progress_bar()  # whatever another test has left
    with pytest.raises(KeyboardInterrupt):
        train("debug", output_dir=str(tmp_path / "run"))
    assert seen == [(False, True)]
    assert is_free(tmp_path / "run") and console._plan is None and bars.is_progress_bar_enabled()


def test_a_run_that_ends_leaves_alone_what_is_not_its_own(tmp_path):
    lock(tmp_path)
    (tmp_path / "run").mkdir()
    bars.disable_progress_bar()
    try:
        with leaving_nothing(tmp_path / "run"):
            lock(tmp_path / "run")
        assert not bars.is_progress_bar_enabled()
    finally:
        bars.enable_progress_bar()
    assert is_free(tmp_path / "run") and not is_free(tmp_path)
    unlock(tmp_path)
    assert is_free(tmp_path)
