"""Study files for tests: the bundled study with other keys, and a small one whose rows train in seconds."""

import os
import signal
import subprocess
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import IO

import forked
import pytest
import yaml
from shared import REPOSITORY

from distill import pipeline
from distill.base import console
from distill.recipe import merge
from distill.train import main

assert pipeline  # imported here, so that a row's process need not

STUDY = REPOSITORY / "recipes" / "study.yaml"

#: Keys of a row that does without whatever the recipe below it mitigates by, as the row `plain` has to.
PLAIN = {"target": {"op": "none", "reverse_roles": False, "augment": False}, "loss": {"listed": 0.0}}


@cache
def _bundled() -> dict:
    values = yaml.safe_load(STUDY.read_text(encoding="utf-8"))
    return values | {"recipe": str(REPOSITORY / "recipes" / values["recipe"])}


def written(folder: Path, **changes) -> Path:
    """The bundled study with other keys, in a folder."""
    path = folder / "study.yaml"
    path.write_text(yaml.safe_dump(_bundled() | changes, sort_keys=False), encoding="utf-8")
    return path


def rewrite(path: Path, **changes) -> None:
    """Lay keys over those of a study file."""
    values = yaml.safe_load(path.read_text(encoding="utf-8"))
    path.write_text(yaml.safe_dump(merge(values, changes)), encoding="utf-8")


def small(folder: Path, **changes) -> Path:
    """A study of the demo teacher, two steps on a few texts; its list of words is short, its folder `out`."""
    words = folder / "short.tsv"
    words.write_text("male\tfemale\nhe\tshe\nhis\ther\nman\twoman\nking\tqueen\n", encoding="utf-8")
    return written(
        folder,
        output_dir=str(folder / "out"),
        recipe=str(REPOSITORY / "recipes" / "debug.yaml"),
        settings={
            "wordlist": str(words),
            "corpus": {"max_documents": 24, "sample_tokens": 40},
            "held_out": {"max_documents": 12, "sample_tokens": 40},
            "loss": {"listed": 0.0},
            "trainer": {"max_steps": 2, "save_steps": 1},
            "scores": {"max_prompts": 6, "samples": 1, "max_new_tokens": 4, "bootstrap": 50},
        },
        seeds=[0],
        metrics=["next_word_disparity", "generation_disparity", "perplexity", "crows_pairs"],
        half_metrics=["next_word_disparity", "neutral_rate"],
        text_metrics=["perplexity"],
        texts={"letters": "letters.jsonl"},
        **changes,
    )


def fork_rows(patch: pytest.MonkeyPatch) -> None:
    """Let the rows of a study be forks of the tests' process, and let it see at once that one has ended."""
    patch.setattr("distill.study.runs.subprocess", SimpleNamespace(Popen=ForkedRun, DEVNULL=subprocess.DEVNULL))
    patch.setattr("distill.study.runs._SECONDS_BETWEEN_LOOKS", 0.02)


class ForkedRun:
    """What a study starts for each row, `python -m distill.train ...` by `subprocess.Popen`, forked from the tests'."""

    def __init__(
        self,
        command: Sequence[str],
        *,
        stdin: int,
        stdout: IO,
        stderr: IO,
        env: Mapping[str, str],
        preexec_fn: Callable[[], None],
    ) -> None:
        behind = command.index("distill.train") + 1
        assert command[behind - 2] == "-m"
        self.returncode: int | None = None

        def work() -> int:
            preexec_fn()
            os.environ |= env
            forked.write_to(stdout.fileno(), stderr.fileno())
            return console.run_entry(main, command[behind:])

        self._child = forked.fork(work)

    def _ended(self, options: int) -> int | None:
        if self.returncode is None and (ended := os.waitpid(self._child, options))[0]:
            self.returncode = os.waitstatus_to_exitcode(ended[1])
        return self.returncode

    def poll(self) -> int | None:
        return self._ended(os.WNOHANG)

    def wait(self) -> int | None:
        return self._ended(0)

    def terminate(self) -> None:
        os.kill(self._child, signal.SIGTERM)
