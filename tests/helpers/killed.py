"""Runs of the pipeline in forked processes, told of by phase, and killed by a schedule: slowed down where they write.

A process that has imported everything forks one child for each process of a run. The child patches itself so that it
says which phase it is in, one letter a call, through a pipe; the parent reads along and kills by the letters. Nothing
in distill/ knows of it.
"""

import json
import os
import random
import re
import select
import shutil
import signal
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import synthetic
from forked import fork, free_port, rank_environment, write_to

from distill import pipeline, run_folder
from distill.base import console, files, integrity
from distill.data import corpus, packing
from distill.models import generation
from distill.recipe_check import parse_recipe
from distill.reports import report
from distill.scoring import measure, score
from distill.text import alignment, counterfactual
from distill.training import run as training_run
from distill.training import trainer

# In the order in which a run comes through them.
PHASES = {
    "g": "generating",
    "s": "swapping",
    "t": "tokenising",
    "p": "packing",
    "l": "training",
    "w": "saving",
    "f": "saving the student",
    "m": "scoring",
    "r": "reporting",
}


def _marked(owner: Any, name: str, letter: str, tell: Callable[[str, float], None], seconds: float = 0.0) -> None:
    """Let a function or method say its phase, and take some time, before it does what it does."""
    plain = getattr(owner, name)

    def marked(*args: Any, **kwargs: Any) -> Any:
        tell(letter, seconds)
        return plain(*args, **kwargs)

    setattr(owner, name, marked)


def _mark_everything(tell: Callable[[str, float], None]) -> None:
    _marked(corpus, "sample_batch", "g", tell, 0.002)
    _marked(generation, "generate", "g", tell, 0.002)
    _marked(counterfactual.Swapper, "counterfactuals", "s", tell)
    _marked(alignment, "_encode", "t", tell)
    _marked(packing, "_close", "p", tell, 0.001)
    _marked(packing, "put_file", "p", tell, 0.01)
    _marked(trainer.DistillationTrainer, "compute_loss", "l", tell)
    _marked(trainer.DistillationTrainer, "_save_checkpoint", "w", tell)
    _marked(training_run, "write_folder", "f", tell)
    _marked(measure, "measured", "m", tell, 0.005)
    _marked(score, "write_scores", "m", tell, 0.01)
    _marked(pipeline, "write_report", "r", tell)
    _marked(report, "write_text", "r", tell, 0.01)
    for module in (integrity, files, run_folder):  # between any two files that are written
        for name in ("sync", "put_folder"):
            if hasattr(module, name):
                _marked(module, name, "", tell, 0.004)


@dataclass(frozen=True)
class Kill:
    """When to pull the plug: `seconds` after the `count`-th letter of a phase."""

    letter: str
    count: int
    seconds: float


@dataclass(frozen=True)
class Ending:
    """How a run ended. code: exit code of its first process, -9 after a kill. phases: the letters in their order."""

    code: int
    phases: str
    errors: str


def run(
    folder: Path,
    argv: Sequence[str],
    processes: int = 1,
    kill: Kill | None = None,
    prepare: Callable[[], None] | None = None,
) -> Ending:
    """Run the pipeline in `folder` with forked processes, and kill all of them as told.

    Args:
        folder: Working directory.
        argv: Arguments of the run.
        processes: Ranks.
        kill: When; None: never.
        prepare: Called in each child before the run.
    """
    port, launchers = free_port(), tempfile.mkdtemp()
    letters, errors = os.pipe(), os.pipe()  # not a file: some runs may write none
    to_child = (letters, errors, prepare, kill is not None)
    children = []
    for rank in range(processes):
        environment = rank_environment(rank, processes, port) if processes > 1 else {}
        if processes > 1:  # as torchrun names it
            environment |= {"TORCHELASTIC_ERROR_FILE": f"{launchers}/{rank}/error.json"}
        children.append(fork(lambda given=environment: _run_marked(folder, argv, given, *to_child)))
    for _, writing in (letters, errors):
        os.close(writing)
    read = {letters[0]: b"", errors[0]: b""}
    still, due = set(read), None
    while still:
        wait = None if due is None else max(0.0, due - time.monotonic())
        for pipe in select.select(list(still), [], [], wait)[0]:
            more = os.read(pipe, 1 << 16)
            read[pipe] += more
            if not more:
                still.remove(pipe)
                os.close(pipe)
        if kill and due is None and read[letters[0]].count(kill.letter.encode()) >= kill.count:
            due = time.monotonic() + kill.seconds
        if due is not None and time.monotonic() >= due:
            for child in children:
                os.kill(child, signal.SIGKILL)
            kill, due = None, None
    codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    shutil.rmtree(launchers)
    return Ending(codes[0], read[letters[0]].decode(), read[errors[0]].decode(errors="replace"))


def _run_marked(
    folder: Path,
    argv: Sequence[str],
    environment: Mapping[str, str],
    letters: tuple[int, int],
    errors: tuple[int, int],
    prepare: Callable[[], None] | None,
    slow: bool,
) -> int:
    for reading, _ in (letters, errors):
        os.close(reading)
    os.chdir(folder)
    write_to(errors[1], errors[1])
    os.close(errors[1])
    os.environ |= environment
    rank = environment.get("RANK", "0")

    def tell(letter: str, seconds: float) -> None:
        if rank == "0":
            os.write(letters[1], letter.encode())
        if slow:
            time.sleep(seconds)

    _mark_everything(tell)
    if prepare:
        prepare()
    return console.run_entry(lambda given: pipeline.run(parse_recipe(given)), argv)


def error_of(ending: Ending) -> str:
    """The one sentence of a user's mistake."""
    assert ending.code == 2, ending.errors[-3000:]
    assert "Traceback" not in ending.errors
    lines = [line for line in ending.errors.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1
    return lines[0]


def small_run(folder: Path) -> list[str]:
    """Arguments of a run of seconds, into `run/`, whose text is sampled from a teacher that is trained for it here."""
    teacher = synthetic.write_teacher_recipe(folder, folder / "run")
    ending = run(folder, ["--config", teacher, "--trainer.max_steps", "60", "--trainer.save_steps", "60"])
    assert ending.code == 0, ending.errors[-3000:]
    (folder / "list.tsv").write_text("male\tfemale\nhe\tshe\nking\tqueen\n", encoding="utf-8")
    recipe = synthetic.write_student_recipe(folder, folder / "run" / "student", Path("run"))
    sampled = {"source": "teacher", "max_documents": 60, "sample_tokens": 24, "sample_batch_size": 20}
    trainer = {"max_steps": 6, "save_steps": 2, "per_device_train_batch_size": 2, "logging_steps": 2, "use_cpu": True}
    trainer |= {"disable_tqdm": True, "learning_rate": 3e-3}
    scores = {"metrics": ["perplexity", "corpus_disparity", "generation_disparity", "next_word_disparity"]}
    scores |= {"prompts": str(folder / "prompts.tsv"), "bootstrap": 20, "samples": 2, "max_new_tokens": 6}
    return [
        *("--config", recipe, "--wordlist", str(folder / "list.tsv"), "--corpus", json.dumps(sampled)),
        *("--trainer", json.dumps(trainer), "--scores", json.dumps(scores)),
    ]


def teacher_of(argv: Sequence[str]) -> Path:
    """The folder of the teacher that `small_run` has trained."""
    return Path(argv[argv.index("--config") + 1]).parent / "run" / "student"


def schedule(rng: random.Random, kills: int) -> Iterator[Kill]:
    """Kills at random moments of random phases, in the order in which a run meets the phases."""
    many = {"s": 60, "t": 80, "p": 4, "l": 20, "g": 3, "m": 9, "w": 4}
    for letter in sorted(rng.choices(list(PHASES), k=kills), key=list(PHASES).index):
        slow = 0.12 if letter in "wf" else 0.03
        yield Kill(letter, rng.randint(1, many.get(letter, 1)), rng.random() * slow)


def results(folder: Path) -> dict[str, bytes]:
    """What a run is for, to the last bit; but for what a clock says in the report: the time of training and
    of other phases, models' speeds.
    """
    names = ("student/model.safetensors", "baseline/model.safetensors", "scores.json", "report.md")
    found = {name: (folder / "run" / name).read_bytes() for name in names}
    clock = rb"^(\| (?:student|baseline) \|) [\d.]+ \w+ (\|[^|]*\|[^|]*\|)[^|]*\|$"
    report = re.sub(clock, rb"\1 a while \2 so many |", found["report.md"], flags=re.M)
    report = re.sub(
        rb"^Before and after training:\n\n(\|.*\n)+\n", b"", report, flags=re.M
    )  # in how many parts it went
    return found | {"report.md": re.sub(rb"^\| tokens a second \|.*$", b"", report, flags=re.M)}
