"""The entry as `accelerate launch` and `torchrun` start it: a script, with its own folder first on the import path."""

import os
import subprocess
import sys

import pytest
from shared import REPOSITORY

RECIPE = ["--config", str(REPOSITORY / "recipes/debug.yaml")]


def entry(folder, *arguments: str) -> subprocess.CompletedProcess:
    """The script, in a folder in which `import torch` fails."""
    (folder / "torch.py").write_text("raise ImportError('torch is not needed here')")
    environment = {**os.environ, "PYTHONPATH": f"{folder}:{REPOSITORY}"}
    command = [sys.executable, str(REPOSITORY / "distill/train.py"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=folder, env=environment)


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--help"], 0, "--target.strength"),
        ([*RECIPE, "--seed", "7", "--print_config"], 0, "seed: 7"),
        ([*RECIPE, "--target.strenght", "1"], 2, "did you mean --target.strength?"),
    ],
    ids=["help", "print_config", "typo"],
)
def test_what_needs_no_torch_is_answered_without_it(arguments, code, words, tmp_path):
    done = entry(tmp_path, *arguments)
    assert done.returncode == code, done.stderr
    assert words in (done.stdout if code == 0 else done.stderr)
    assert "Traceback" not in done.stderr
