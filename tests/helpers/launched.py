"""The toy training under a launcher: one process or several, as a user would start them."""

import json
import os
import subprocess
import sys
from pathlib import Path

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


def train(output: Path, micro_batch: int, *launcher: str, accumulation: int = 1, **options) -> Path:
    """Train the toy student under a launcher; the folder of the run."""
    program = [str(HELPERS / "train_toy.py"), str(output), str(micro_batch), str(accumulation), json.dumps(options)]
    command = [*(launcher or [sys.executable]), *program]
    done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, timeout=580)
    assert done.returncode == 0, done.stderr[-3000:]
    return output


def processes(number: int) -> list[str]:
    return [*TORCHRUN, "--standalone", f"--nproc_per_node={number}"]
