"""What each row of a study takes: seconds of its training, of a step of it, and of a token that its model writes.

On a CPU they are the processor's own, which other work on the machine does not change; on a GPU those of the clock.
What a row's student began from is part of its training. They say nothing of a score, and are kept beside the scores.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from distill.base.files import training_record, write_json
from distill.scoring.speed import tokens_per_second
from distill.study.file import derived_row, needed_rows, run_folder
from distill.study.schema import Study


def keep_token_seconds(study: Study, row: str, seed: int, model: Any, tokenizer: Any, key: str) -> None:
    """Measure how long a row's model takes for a token, unless that is known of a model of this hash."""
    path = _speed_file(study, row, seed)
    if not path.exists() or json.loads(path.read_text(encoding="utf-8"))["model"] != key:
        path.parent.mkdir(parents=True, exist_ok=True)
        threads = 1 if torch.cuda.is_available() else torch.get_num_threads()  # a training's seconds are of all, too
        write_json(path, {"model": key, "seconds": threads / tokens_per_second(model, tokenizer)})


def row_costs(study: Study, row: str) -> dict[str, float | None]:
    """What a row takes, means over seeds; None where there is nothing of the kind.

    Returns:
        {"training_seconds": of the row and of the rows whose students it begins from, "step_seconds": of the row's own
        steps, "token_seconds": of a token that its model writes, one text at a time}
    """
    of_teacher = row in study.teachers
    derived = derived_row(study, row) if of_teacher else None
    trained = (derived.of if derived is not None else None) if of_teacher else row
    found: dict[str, list[float]] = {"training_seconds": [], "step_seconds": [], "token_seconds": []}
    for seed in study.seeds:
        if trained is not None:
            all_of_it = [_training(study, one, seed)[0] for one in _with_needed(study, trained)]
            found["training_seconds"].append(sum(all_of_it))
            seconds, steps = _training(study, trained, seed)
            found["step_seconds"] += [seconds / steps] if steps and not of_teacher else []
        if (path := _speed_file(study, row, seed)).exists():
            found["token_seconds"].append(json.loads(path.read_text(encoding="utf-8"))["seconds"])
    return {name: float(np.mean(values)) if values else None for name, values in found.items()}


def _with_needed(study: Study, row: str) -> list[str]:
    """A row and those whose students it begins from, each once."""
    rows = [row]
    for one in rows:  # grows
        rows += [needed for needed in needed_rows(study, one) if needed not in rows]
    return rows


def _training(study: Study, row: str, seed: int) -> tuple[float, int]:
    """Seconds of a run's training, and its steps, of all clients together."""
    told = json.loads(training_record(run_folder(study, row, seed) / "student").read_text(encoding="utf-8"))
    seconds = told["seconds" if torch.cuda.is_available() else "processor_seconds"]
    return seconds, steps_made(told)


def steps_made(told: Mapping[str, Any]) -> int:
    """The steps of which a training's record tells the seconds; in a federation, those of all clients in all rounds."""
    history = told["history"]
    if any("clients" in entry for entry in history):
        return sum(entry["step"] // entry["round"] * entry["clients"] for entry in history)
    return max((entry.get("step", 0) for entry in history), default=0)


def _speed_file(study: Study, row: str, seed: int) -> Path:
    return Path(study.output_dir) / "cache" / "speeds" / f"{row}-{seed}.json"
