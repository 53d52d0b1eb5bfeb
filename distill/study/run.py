"""Many recipes -> one table: a loop over the pipeline, row by row and seed by seed.

1. A study file names a recipe, and rows that lay keys of their own over it.
2. For every seed the training and held-out text is made once; all rows of the seed read the same.
3. Each row is a run of `distill.train` in a process of its own. One that is finished is skipped, one that was stopped
   goes on.
4. Each model is scored on all prompts, on both halves of the occupations, and on the texts that the study names.
5. Values are averaged over seeds, with intervals over seeds and prompts; every row is set against `plain`, or against
   the row that it names, paired by seed and by resample. -> study.json, study.md, pareto.svg; with private rows also
   epsilon.svg

Whatever is finished is found again by its name, so a study may be killed at any moment, and a later call may add rows
and seeds.
"""

from pathlib import Path
from typing import Any

from distill.base.files import write_json, write_text
from distill.run_folder import lock, making
from distill.study.checks import check_data
from distill.study.made import commit, hours, machine
from distill.study.report import against_epsilon, markdown, pareto
from distill.study.runs import keep_recipe, make_text, refuse_other_rows, train_missing
from distill.study.schema import Study
from distill.study.scores import score_all
from distill.study.summary import summary


def run_study(study: Study, command: str = "") -> dict[str, Any]:
    """Train what is missing, score everything, and write study.json, study.md and pareto.svg.

    Args:
        study: What is to be there in the end.
        command: The command that asked for it, to be kept with the results.

    Returns:
        What study.json holds:
            {"format",
             "rows": [{"name", "setting", "seeds", "metrics": {METRIC: {value, low, high, per_seed, n}},
                       "epsilon", "step_seconds": of the students of a study with private rows,
                       "costs": {"training_seconds", "step_seconds", "token_seconds"}, where they are asked for,
                       "against_plain": {METRIC: {"difference": {value, low, high}, "ratio": {...}}},
                       "against": {"row", "metrics": as "against_plain", which is empty then}, of a row that is set
                                  against another one, or (null, {}) none}],
             "reverse_roles": [{"row", "against", "metrics": as "against_plain"}],
             "cards": {METRIC: {label, meaning, formula, ideal, direction, limits ...}}, without halves and texts,
             "settings", "versions",
             "made": {"command", "commit", "machine", "hours": {PART: {wall, processor}}}}

    Raises:
        UserError: the folder is in use, or holds a run of other settings; the data folder is missing, or a text in it
            cannot be read; a model cannot be made or scored, see `check_data`; or a run ended with a mistake in its
            recipe.
    """
    out = Path(study.output_dir)
    refuse_other_rows(study)
    check_data(study)
    with making(out):
        out.mkdir(parents=True, exist_ok=True)
        lock(out)
        study = keep_recipe(study)
    refuse_other_rows(study)
    for seed in study.seeds:
        make_text(study, seed)
    train_missing(study)
    results = summary(study, score_all(study))
    results["made"] = {"command": command, "commit": commit(), "machine": machine(study), "hours": hours(out)}
    write_json(out / "study.json", results)
    write_text(out / "study.md", markdown(results))
    if (figure := pareto(results)) is not None:
        write_text(out / "pareto.svg", figure)
    if (figure := against_epsilon(results)) is not None:
        write_text(out / "epsilon.svg", figure)
    return results
