"""Made-up results of the bundled study, for tests of what is said of them: each part of the method takes its share."""

from functools import cache
from typing import Any

import numpy as np
from shared import REPOSITORY

from distill.metrics import Outcome
from distill.study.file import read_study, row_recipe
from distill.study.summary import summary

DRAWS = 50
_LEFT = {"none": 1.0, "max": 0.9, "mean": 0.85, "expmean": 0.8, "swap": 0.7}  # of the teacher's disparity


def outcome(value: float | None, drawn=(), n: int = 5) -> Outcome:
    return Outcome(value, tuple(drawn), n, "prompt", n, "prompts", False, None, {})


def _values(op: str, reverse: bool, augment: bool, strength: float, student: bool) -> dict[str, float]:
    left = 1 - strength * (1 - _LEFT[op] * (0.3 if reverse else 1.0)) - 0.06 * augment
    values = {"corpus_disparity": 0.45, "next_word_disparity": 1.0, "generation_disparity": 0.95}
    values = {f"{metric}{part}": value * left for metric, value in values.items() for part in _parts(metric)}
    values |= dict.fromkeys(("neutral_rate", "neutral_rate_chosen", "neutral_rate_held_out"), 0.35)
    values["fairness_ratio_mean"] = min(1.0, 0.35 + 0.5 * (1 - left))
    values["equivariance_gap"] = 0.04 * left
    values["perplexity"] = (158 if student else 138) * (1 + 0.004 * augment + 0.003 * reverse + 0.01 * (1 - _LEFT[op]))
    return values | {"crows_pairs_gender": 52.0}


def _parts(metric: str) -> tuple[str, ...]:
    return ("",) if metric == "corpus_disparity" else ("", "_chosen", "_held_out")


@cache
def made_up_results(seeds: tuple[int, ...] = (0, 1, 2), rows: tuple[str, ...] | None = None) -> dict[str, Any]:
    """What study.json holds after the bundled study; shared: copy it before you change it."""
    study = read_study(REPOSITORY / "recipes" / "study.yaml", rows=rows, seeds=list(seeds))
    targets = {"teacher": ("none", False, False, 1.0, False), "two_view_teacher": ("expmean", True, False, 1.0, False)}
    for name in study.students:
        target = row_recipe(study, name, 0).target
        targets[name] = (target.op, target.reverse_roles, target.augment, target.strength, True)
    outcomes = {}
    for name, target in targets.items():
        values = _values(*target)
        if name == "no_teacher":
            values["perplexity"] *= 2
        outcomes[name] = [
            {metric: _drawn(value, seed, metric, name) for metric, value in values.items()} for seed in seeds
        ]
    made = {
        "command": "distill study recipes/study.yaml --data DIR",
        "commit": "1234567",
        "machine": {"gpu": None, "processor": "x86_64 with AVX2", "cores": 2, "jobs": 2, "threads": 1},
        "hours": {"text": {"wall": 0.1, "processor": 0.2}, "training": {"wall": 4.0, "processor": 3.5}},
    }
    return summary(study, outcomes) | {"made": made}


def _drawn(value: float, seed: int, metric: str, name: str) -> Outcome:
    rng = np.random.default_rng([seed, sum(map(ord, metric + name))])
    size = 0.02 if metric.startswith("perplexity") else 0.05
    here = value * (1 + size / 4 * rng.normal())
    return outcome(here, here + size * value * rng.normal(size=DRAWS))
