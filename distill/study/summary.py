"""Outcomes of all rows and seeds -> the content of study.json."""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, fields, replace
from typing import Any

import numpy as np

from distill.base.files import training_record
from distill.metrics import CARDS, Outcome, card_dicts, cards, chosen
from distill.metrics.bootstrap import CONFIDENCE, distance, finite, interval, no_difference
from distill.models.architecture import default_device
from distill.scoring.score import versions
from distill.study.against import against, comparable
from distill.study.costs import row_costs, steps_made
from distill.study.file import derived_row, row_recipe, run_folder, teacher_checkpoint, teacher_target
from distill.study.schema import BASELINE, Study

FORMAT = 1

_RESAMPLES = 2000


def resampled_mean(
    outcomes: Sequence[Outcome], aim: float | None = None, draws: int = _RESAMPLES
) -> tuple[float | None, np.ndarray]:
    """The mean over seeds, and bootstrap draws of it over seeds and units (prompts, documents, pairs).

    Every draw takes as many seeds as there are, with replacement, and of all of them the same resample of the units:
    prompts and pairs are the same ones in every seed, and asked again they tell nothing new. That is the pigeonhole
    bootstrap (Owen 2007, doi 10.1214/07-AOAS122), which errs to the wide side: what a unit has in one seed alone counts
    (2 - 1 / seeds) times, and held-out documents of a seed's own have nothing else. The same call for another row takes
    the same seeds and resamples, so that two rows are paired.

    Args:
        outcomes: One for each seed.
        aim: Take the `distance` of each seed's value from this; 0 gives its size, without its sign. `None`: the value.
        draws: Number of draws.

    Returns:
        (mean or None, (draws,) or an empty array where a seed has no resamples).
    """
    values = [outcome.value for outcome in outcomes]
    if not values or any(value is None for value in values):
        return None, np.empty(0)

    def taken(of_seeds: np.ndarray) -> np.ndarray:
        return of_seeds if aim is None else distance(of_seeds, aim)

    mean = float(np.mean(taken(np.array(values, dtype=float))))
    if any(not outcome.drawn for outcome in outcomes):
        return mean, np.empty(0)
    rng = np.random.default_rng(0)
    seeds = rng.integers(len(outcomes), size=(draws, len(outcomes)))
    place = np.broadcast_to(rng.random(size=(draws, 1)), seeds.shape)
    tables = [taken(np.array(outcome.drawn, dtype=float)) for outcome in outcomes]
    drawn = np.empty((draws, len(outcomes)))
    for seed, table in enumerate(tables):
        here = seeds == seed
        drawn[here] = table[(place[here] * len(table)).astype(int)]
    return mean, drawn.mean(axis=1)


def _interval(drawn: np.ndarray, value: float | None) -> dict[str, float | None]:
    return dict(zip(("low", "high"), interval(drawn, value), strict=True))


def _aggregate(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    value, drawn = resampled_mean(outcomes)
    per_seed = [outcome.value for outcome in outcomes]
    entry = {
        "value": value,
        **_interval(drawn, value),
        "per_seed": per_seed,
        "n": sum(outcome.n for outcome in outcomes),
    }
    reason = next((o.details["reason"] for o in outcomes if o.value is None and "reason" in o.details), None)
    instead = next((o.details["instead"] for o in outcomes if "instead" in o.details), None)
    return entry | ({"reason": reason} if reason else {}) | ({"instead": instead} if instead else {})


def difference_and_ratio(
    outcomes: Sequence[Outcome], plain: Sequence[Outcome], aim: float | None = None
) -> dict[str, Any]:
    """Difference and ratio of the sizes of two rows, paired by seed and resample; why not, where they have none.

    With what the rows are judged by, a card's `aim`, also `farther`: by how much the first row's values lie farther
    from it than the other's, the mean over seeds, as `distill.metrics.difference_of` has it for one.
    """
    reason = next(filter(None, map(no_difference, outcomes, plain)), None)
    sizes = [resampled_mean(o, 0.0) for o in (outcomes, plain)]
    against = {"difference": _paired(sizes, np.subtract, reason), "ratio": _paired(sizes, np.divide, reason)}
    if aim is None:
        return against
    distances = sizes if aim == 0 else [resampled_mean(o, aim) for o in (outcomes, plain)]
    return against | {"farther": _paired(distances, np.subtract, reason)}


def _paired(of_rows: Sequence[tuple[float | None, np.ndarray]], of_two: np.ufunc, reason: str | None) -> dict[str, Any]:
    """A function of the `resampled_mean` of two rows, on the same resamples."""
    if reason is not None:
        return {"value": None, "low": None, "high": None, "instead": reason}
    (ours, our_draws), (theirs, their_draws) = of_rows
    if ours is None or theirs is None:
        return {"value": None, "low": None, "high": None}
    with np.errstate(divide="ignore", invalid="ignore"):
        value = finite(of_two(np.float64(ours), theirs))
        drawn = of_two(our_draws, their_draws) if len(our_draws) and len(their_draws) else np.empty(0)
    return {"value": value, **_interval(drawn, value)}


def summary(study: Study, outcomes: Mapping[str, Sequence[Mapping[str, Outcome]]]) -> dict[str, Any]:
    """The content of study.json.

    Args:
        study: Names the rows.
        outcomes: Row -> for each seed the outcomes by name.
    """
    rows = []
    for name, of_row in outcomes.items():
        metrics = {metric: [of_seed[metric] for of_seed in of_row] for metric in of_row[0]}
        rows.append(
            {
                "name": name,
                "setting": _setting(study, name),
                **_private_training(study, name),
                **({"costs": row_costs(study, name)} if study.costs else {}),
                "seeds": list(study.seeds),
                "metrics": {metric: _aggregate(of_metric) for metric, of_metric in metrics.items()},
                **_set_against(study, name, outcomes),
            }
        )
    shared = row_recipe(study, BASELINE, study.seeds[0])
    told = {f.name for f in fields(Study)} - {"output_dir", "recipe", "data", "jobs"}  # paths say nothing elsewhere
    return {
        "format": FORMAT,
        "rows": rows,
        "reverse_roles": [
            {"row": row, "against": without, "metrics": _rows_against(outcomes[row], outcomes[without])}
            for row, without in _reversals(study)
            if comparable(row, against(study, row), without, against(study, without))
        ],
        "cards": study_cards(study, outcomes[BASELINE][0]),
        "settings": {
            "study": {key: list(v) if isinstance(v, tuple) else v for key, v in asdict(study).items() if key in told},
            "trainer": shared.trainer,
            "interval": f"{CONFIDENCE:.0%} percentile bootstrap over seeds and over units; rows paired",
            "recipe_sha256": hashlib.sha256(json.dumps(shared.to_dict(), sort_keys=True).encode()).hexdigest(),
        },
        "versions": versions(default_device()),
    }


def study_cards(study: Study, held: Iterable[str]) -> dict[str, dict[str, Any]]:
    """What is told of each score that a study holds, by its name without half or text."""
    metrics = chosen([*study.metrics, *study.half_metrics, *study.text_metrics]).values()
    names = dict.fromkeys(card.name for metric in metrics for card in cards(metric))
    return card_dicts(name for name in names if any(f"{score}_".startswith(f"{name}_") for score in held))


def _set_against(
    study: Study, name: str, outcomes: Mapping[str, Sequence[Mapping[str, Outcome]]]
) -> dict[str, dict[str, Any]]:
    """A row beside `plain`, or else, if its key names another row or none, beside that one."""
    if name == BASELINE:
        return {"against_plain": {}}
    other = against(study, name)
    found = _rows_against(outcomes[name], outcomes[other]) if other is not None else {}
    if other == BASELINE:
        return {"against_plain": found}
    return {"against_plain": {}, "against": {"row": other, "metrics": found}}


def _rows_against(
    of_row: Sequence[Mapping[str, Outcome]], of_other: Sequence[Mapping[str, Outcome]]
) -> dict[str, dict[str, Any]]:
    def aim(score: str) -> float | None:  # of a half or a text: none, since the score of all says it too
        return CARDS[score].aim if score in CARDS else None

    return {
        m: difference_and_ratio([seed[m] for seed in of_row], [seed[m] for seed in of_other], aim(m)) for m in of_row[0]
    }


def _reversals(study: Study) -> Iterator[tuple[str, str]]:
    """(a row with `reverse_roles`, the row that differs from it in nothing else)."""
    recipes = {name: replace(row_recipe(study, name, study.seeds[0]), output_dir="") for name in study.students}
    for name, recipe in recipes.items():
        if recipe.target.reverse_roles:
            without = replace(recipe, target=replace(recipe.target, reverse_roles=False))
            yield from ((name, other) for other in recipes if recipes[other] == without)


def _private_training(study: Study, name: str) -> dict[str, Any]:
    """Of a study with private rows: a row's `epsilon` (null without privacy), and the seconds of a step, the mean over
    seeds, by the clock of whatever machine it ran on.
    """
    if name in study.teachers or not any(row_recipe(study, row, study.seeds[0]).is_private for row in study.students):
        return {}
    logs = [training_record(run_folder(study, name, seed) / "student") for seed in study.seeds]
    told = [json.loads(log.read_text(encoding="utf-8")) for log in logs if log.exists()]
    seconds = [one["seconds"] / steps for one in told if (steps := steps_made(one))]
    return {
        "epsilon": row_recipe(study, name, study.seeds[0]).privacy.epsilon,
        "step_seconds": float(np.mean(seconds)) if seconds else None,
    }


def _setting(study: Study, name: str) -> dict[str, Any] | None:
    """What makes a row what it is; None where no target is made (no teacher, another checkpoint, a derived row)."""
    if name in study.teachers:
        if teacher_checkpoint(study, name) is not None or derived_row(study, name) is not None:
            return None
        return asdict(teacher_target(study, name))
    recipe = row_recipe(study, name, study.seeds[0])
    return None if recipe.teacher.path is None else asdict(recipe.target)
