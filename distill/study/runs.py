"""A study's recipes -> its runs: the text of each seed, drawn once, and a trained student for each row and seed.

In the study's folder, `text/` holds what all rows of a seed read, and `recipes/`, `logs/` and `runs/`, for each row and
seed, what was asked for, what its process said, and what it made. `recipes/shared.yaml` is the recipe below all rows.
"""

import ctypes
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import yaml

from distill.base.console import counter, say
from distill.base.errors import UserError
from distill.base.files import PACKAGE, write_text
from distill.data.corpus import open_corpus
from distill.models.architecture import model_hash
from distill.models.loading import load_teacher
from distill.recipe import read_recipe_file
from distill.run_folder import refuse_another
from distill.study.file import TEXT_SECTIONS, needed_rows, row_recipe, run_folder, shared_recipe, text_path
from distill.study.made import children_seconds, spend, threads, timed
from distill.study.schema import Study

_SECONDS_BETWEEN_LOOKS = 0.5


def keep_recipe(study: Study) -> Study:
    """The study with a copy of its recipe in its own folder, which is read from now on.

    Rows take hours, and whoever edits the recipe meanwhile, for the next experiment, shall not change those to come.
    """
    path = Path(study.output_dir) / "recipes" / "shared.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, yaml.safe_dump(read_recipe_file(study.recipe), sort_keys=False, allow_unicode=True))
    return replace(study, recipe=str(path))


def make_text(study: Study, seed: int) -> None:
    """Draw the text of a seed from the teacher, where the recipe says so and it is not there yet."""
    recipe = shared_recipe(study, seed)
    out = Path(study.output_dir)
    for number, section in enumerate(TEXT_SECTIONS):
        config, path = getattr(recipe, section), text_path(study, section, recipe)
        if config.source != "teacher" or path.exists():
            continue
        with timed(out, "text"):
            teacher, tokenizer = load_teacher(recipe.teacher)
            progress = counter(f"sampling text of seed {seed}", "documents")
            corpus = open_corpus(
                config, 2 * seed + number, out / "cache", teacher, tokenizer, model_hash(teacher, tokenizer), progress
            )
            path.parent.mkdir(parents=True, exist_ok=True)
            write_text(path, "".join(json.dumps({"text": document}) + "\n" for document in corpus.documents()))


def refuse_other_rows(study: Study) -> None:
    """Raises UserError if a row, or what it reads, is another than when its run was begun."""
    for row, seed in product(study.students, study.seeds):
        folder = run_folder(study, row, seed)
        if (folder / "recipe.yaml").exists():
            refuse_another(row_recipe(study, row, seed), folder, _identity)


def _identity(values: dict[str, Any]) -> dict[str, Any]:
    """What makes a run of a study what it is: its scores are the study's, and folders may be moved."""
    kept = {key: value for key, value in values.items() if key not in ("cache_dir", "scores")}
    for section in TEXT_SECTIONS:
        kept[section] = kept[section] | {"files": [Path(file).name for file in kept[section]["files"]]}
    return kept


def train_missing(study: Study) -> None:
    """Train all rows that are not finished, `jobs` at a time; the first that fails ends the others."""
    out = Path(study.output_dir)
    todo = [
        (row, seed)
        for seed in study.seeds
        for row in study.students
        if not (run_folder(study, row, seed) / "scores.json").exists()
    ]
    total, done, begun = len(todo), 0, time.monotonic()
    running: dict[tuple[str, int], subprocess.Popen] = {}
    started: dict[tuple[str, int], float] = {}
    try:
        while todo or running:
            while len(running) < study.jobs and (ready := next((run for run in todo if _is_ready(study, *run)), None)):
                todo.remove(ready)
                row, seed = ready
                left = f", {(time.monotonic() - begun) / done * (total - done) / 60:.0f} min left" if done else ""
                say(f"training {row}, seed {seed} ({total - len(todo)} of {total}{left})")
                started[row, seed] = time.monotonic()
                running[row, seed] = _start(study, row, seed)
            time.sleep(_SECONDS_BETWEEN_LOOKS)
            for (row, seed), process in list(running.items()):
                # The only child that ends within the call is this one, so the time is its own.
                before = children_seconds()
                if (code := process.poll()) is None:
                    continue
                spend(out, "training", time.monotonic() - started[row, seed], children_seconds() - before)
                del running[row, seed]
                done += 1
                if code != 0:
                    raise UserError(f"row '{row}', seed {seed}: {_last_words(_log(study, row, seed), code)}")
    finally:
        for process in running.values():
            process.terminate()
        for process in running.values():
            process.wait()


def _is_ready(study: Study, row: str, seed: int) -> bool:
    """Whether the students that a run reads are there."""
    return all((run_folder(study, needed, seed) / "scores.json").exists() for needed in needed_rows(study, row))


def _start(study: Study, row: str, seed: int) -> subprocess.Popen:
    recipe = row_recipe(study, row, seed)
    path = Path(study.output_dir) / "recipes" / f"{row}-{seed}.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(recipe.to_dict(), sort_keys=False, allow_unicode=True), encoding="utf-8")
    log = _log(study, row, seed)
    log.parent.mkdir(parents=True, exist_ok=True)
    # A user's own evaluate.py in the current folder is not to be taken for the library; a clone's folder has distill.
    apart = [] if Path.cwd() == PACKAGE.parent else ["-P"]
    with log.open("ab") as stream:
        return subprocess.Popen(
            [sys.executable, *apart, "-m", "distill.train", "--config", str(path)],
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=stream,
            env={**os.environ, "OMP_NUM_THREADS": str(threads(study))},
            preexec_fn=end_with_parent,
        )


def end_with_parent() -> None:
    """In a child, before it begins: a study that is killed leaves no process behind that would write on.

    Not SIGTERM: the run would first save a checkpoint, in a folder that the study, called again, wants to have.
    """
    if sys.platform == "linux":
        set_parent_death_signal = 1  # PR_SET_PDEATHSIG
        ctypes.CDLL(None).prctl(set_parent_death_signal, signal.SIGKILL)


def _log(study: Study, row: str, seed: int) -> Path:
    return Path(study.output_dir) / "logs" / f"{row}-{seed}.log"


def _last_words(log: Path, code: int) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    last = lines[-1] if lines else "it said nothing"
    return f"its run ended with exit code {code}: {last.removeprefix('error: ')} (all of it: {log})"
