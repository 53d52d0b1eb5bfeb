"""Signals: a training saves its step and says how to continue, everything else ends at once."""

import itertools
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import killed
import pytest
from shared import REPOSITORY

from distill.text import counterfactual
from distill.training import checkpoints, trainer


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
    [
        (1, "0", signal.SIGTERM, 143),
        (1, "0", signal.SIGINT, 130),
        pytest.param(2, "1", signal.SIGTERM, 143, marks=pytest.mark.slow),
    ],
)
def test_a_signal_in_training_saves_the_step_and_says_how_to_go_on(
    small_run, finished_run, tmp_path, processes, rank, sig, code
):
    """One process of several is enough: all of them finish the same step."""
    work = tmp_path / "stopped"
    work.mkdir()
    prepare = signalled(trainer.DistillationTrainer, "compute_loss", 3, sig, rank)
    ending = killed.run(work, small_run, processes, prepare=prepare)
    assert ending.code == code, ending.errors[-3000:]
    assert ending.errors.count("the same command continues where it stopped") == 1
    assert "Traceback" not in ending.errors
    newest = checkpoints.newest_whole(work / "run" / "checkpoints" / "baseline")
    assert newest.name == "checkpoint-3"
    want = finished_run
    if processes == 2:
        want = tmp_path / "whole"
        want.mkdir()
        assert killed.run(want, small_run, 2).code == 0
    ending = killed.run(work, small_run, processes)
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
def test_launchers_leave_time_to_save(small_run, tmp_path, launcher, sig):
    """The signal goes to launcher and processes alike, as Ctrl-C, `timeout` and schedulers send it."""
    argv = [*small_run, "--trainer.max_steps", "5000", "--trainer.save_steps", "20"]
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
    assert said.count("stopped; the same command continues where it stopped") == 1
    saved = sorted(int(p.name.split("-")[1]) for p in baseline.glob("checkpoint-*"))
    assert checkpoints.newest_whole(baseline).name == f"checkpoint-{saved[-1]}"
    assert not list(baseline.glob(f"{checkpoints.PARTIAL}/*"))
    assert not (tmp_path / "run" / "baseline").exists()


@pytest.mark.parametrize(("sig", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_elsewhere_ends_at_once(small_run, finished_run, tmp_path, sig, code):
    prepare = signalled(counterfactual.Swapper, "counterfactuals", 5, sig)
    ending = killed.run(tmp_path, small_run, prepare=prepare)
    assert ending.code == code
    assert ending.errors.splitlines()[-1].endswith("the same command continues where it stopped")
    assert ending.phases.count("s") <= 5
    assert killed.run(tmp_path, small_run).code == 0
    assert killed.results(tmp_path) == killed.results(finished_run)
