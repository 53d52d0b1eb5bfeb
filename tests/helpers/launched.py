"""The toy training under a launcher: one process or several, as a user would start them."""

import json
import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import forked
import train_toy
from shared import REPOSITORY

HELPERS = REPOSITORY / "tests" / "helpers"
ENVIRONMENT = {
    **os.environ,
    "PYTHONPATH": f"{REPOSITORY}:{HELPERS}",
    "OMP_NUM_THREADS": "1",
    "HF_HUB_OFFLINE": "1",
    "DS_ACCELERATOR": "cpu",
}
TORCHRUN = [sys.executable, "-m", "torch.distributed.run"]


def train(output: Path, micro_batch: int, *launcher: str, processes: int = 1, accumulation: int = 1, **options) -> Path:
    """Train the toy student under a launcher, or without one in forked processes; the folder of the run."""
    if launcher:
        program = [str(HELPERS / "train_toy.py"), str(output), str(micro_batch), str(accumulation), json.dumps(options)]
        done = subprocess.run([*launcher, *program], env=ENVIRONMENT, capture_output=True, text=True, timeout=580)
    else:
        train_toy.language()  # for all processes at once
        work = partial(train_toy.main, str(output), micro_batch, accumulation, **options)
        done = forked.call(work, processes)
    assert done.returncode == 0, done.stderr[-3000:]
    return output


def torchrun(processes: int) -> list[str]:
    """The launcher of several processes on this machine."""
    return [*TORCHRUN, "--standalone", f"--nproc_per_node={processes}"]
