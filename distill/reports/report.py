"""scores.json -> the table in the terminal, report.md, report.html and the model cards of a run.

Everything that came from outside (model output, prompts, file names) is escaped before it enters Markdown or HTML.
"""

import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.box import MINIMAL, SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from distill.base.console import phase
from distill.base.files import write_text
from distill.base.markdown_text import escape, items, table
from distill.base.phase_speeds import read_phase_speeds
from distill.base.phases import REPORT
from distill.data.counts import PackingCounts
from distill.recipe import Recipe
from distill.reports.findings import (
    LIMITS,
    OVER_CLIENTS,
    TOO_LITTLE,
    Scored,
    all_cards,
    client_table,
    coverage,
    difference_rows,
    headline,
    how_measured,
    label,
    metrics_of,
    not_measured,
    note_of,
    number,
    phase_rows,
    round_table,
    score_rows,
    settings_rows,
    showing,
    title_of,
    told_pairs,
    training_rows,
    undefined_scores,
)
from distill.reports.model_card import write_cards
from distill.reports.page import run_page
from distill.reports.side_by_side import FEWEST_MODELS, checkpoints, side_by_side
from distill.run_folder import processes_of
from distill.scoring.scores_file import read_speeds

_LONGEST_WORD = 12  # Characters: a label breaks between its words.
_NAME_WIDTH = 11  # Characters that the column of a model has when three stand in a row.
_MODELS_ABREAST = 3  # In a table of 80 columns; of more models there are several tables.
_TEXT_LIMIT = 300  # Characters of a sampled continuation that report.md shows.


# --------------------------------------------------------------------------------------------------------- terminal


def print_table(scores: Mapping[str, Any], console: Console | None = None) -> None:
    """The scores of all models, why some could not be measured, and the last model's difference to those before it."""
    console = console or Console()
    names = list(scores["models"])
    for first in range(0, len(names), _MODELS_ABREAST):
        shown = {"models": {name: scores["models"][name] for name in names[first : first + _MODELS_ABREAST]}}
        console.print(_score_grid({**scores, **shown}))
    for line in undefined_scores(scores):
        if f": {TOO_LITTLE}" not in line:  # stands in the table already
            console.print(Text(f"not measured: {line}"))
    for pair in told_pairs(scores):
        grid = Table(title=Text(f"{pair}, paired by prompt or document"), box=SIMPLE_HEAD)
        for heading in ("score", "difference", "ratio of sizes", "units"):
            grid.add_column(heading)
        for row in difference_rows(scores, pair):
            grid.add_row(*map(Text, row))
        console.print(grid)


def _score_grid(scores: Mapping[str, Any]) -> Table:
    """A score a row, a model a column."""
    grid = Table(title="Scores with 95% intervals", box=MINIMAL, padding=(0, 1, 1, 1), pad_edge=False)
    grid.add_column("score", min_width=_LONGEST_WORD)
    for name in scores["models"]:
        grid.add_column(Text(_name_in_lines(name)), overflow="fold")
    grid.add_column("ideal")
    grid.add_column("better")
    for *row, direction in score_rows(scores):
        # The interval stands under its value, so that three models fit into 80 columns.
        grid.add_row(*(Text(text.replace(" [", "\n[")) for text in (*row, direction.split(" is ")[0])))
    return grid


def _name_in_lines(name: str) -> str:
    """A long name in lines that end behind a slash, a hyphen or an underscore."""
    lines = [""]
    for part in re.findall(r"[^/_-]*[/_-]|[^/_-]+", name):
        if lines[-1] and len(lines[-1] + part) > _NAME_WIDTH:
            lines.append("")
        lines[-1] += part
    return "\n".join(lines)


def print_side_by_side(files: Mapping[str, Mapping[str, Any]], console: Console | None = None) -> None:
    """Intrinsic beside extrinsic scores of all checkpoints, and how their ranks agree, where there are enough of them.

    Args:
        files: Label -> contents of a scores.json.
        console: Where to.
    """
    console = console or Console()
    found = side_by_side(checkpoints(files))
    if not (found["intrinsic"] and found["extrinsic"]):
        console.print("no rank correlations: they set intrinsic scores against extrinsic ones, and one kind is missing")
        return
    cards = {"cards": all_cards(files.values())}
    both = [*found["intrinsic"], *found["extrinsic"]]
    grid = Table(title="Distance from the ideal, intrinsic scores before extrinsic ones", box=SIMPLE_HEAD)
    grid.add_column("score")
    for name in found["rows"]:
        grid.add_column(Text(name), justify="right")
    for score in both:
        grid.add_row(Text(label(cards, score)), *(number(cells[score]["distance"]) for cells in found["rows"].values()))
    console.print(grid)
    if (number_of := len(found["rows"])) < FEWEST_MODELS:
        console.print(
            f"no rank correlations: {number_of} models were measured alike, and {FEWEST_MODELS} are needed",
            soft_wrap=True,
        )
        return
    grid = Table(title="Rank correlation over these checkpoints (Spearman)", box=SIMPLE_HEAD)
    for heading in ("intrinsic", "extrinsic", "n", "rho", "p (permutation)"):
        grid.add_column(heading)
    for pair in found["correlations"]:
        if pair["spearman"] is not None and pair["n"] >= FEWEST_MODELS:
            names = (label(cards, pair[side]) for side in ("intrinsic", "extrinsic"))
            grid.add_row(*map(Text, names), str(pair["n"]), number(pair["spearman"]), number(pair["p_value"]))
    console.print(
        grid if grid.row_count else "no rank correlations: too few of these models have both scores of a pair"
    )


# --------------------------------------------------------------------------------------------------------- Markdown


def _details(scores: Mapping[str, Any]) -> list[str]:
    """What single numbers hide: spread over subjects, texts and fairness ratios of each prompt group."""
    lines: list[str] = []
    for metric in showing(scores, "subjects"):
        if spread := _details_of(metric, "groups", scores["models"]):
            lines += _spread(spread)
    for metric in showing(scores, "texts"):
        if texts := _details_of(metric, "texts", scores["models"]):
            lines += _polarities(texts)
    return lines


def _spread(found: Mapping[str, Any]) -> list[str]:
    """Model -> details with `subjects` -> a table."""
    groups = next(iter(found.values()))["groups"]
    which = f", log ratio of {escape(groups[0])} over {escape(groups[1])}" if len(groups) == 2 else ""
    rows = [
        [name, number(d["mean_signed"]), number(d["spread"]), number(d["listed_mass"])] for name, d in found.items()
    ]
    headings = ["model", "mean, signed", "spread over subjects", "mass of listed words"]
    return [f"Next word{which}:", "", *table(headings, rows)]


def _polarities(found: Mapping[str, Any]) -> list[str]:
    """Model -> details with `texts` -> two tables."""
    first = next(iter(found.values()))
    kinds = list(first["texts"])
    rows = [
        [
            name,
            *(str(d["texts"].get(kind, "–")) for kind in kinds),
            number(d["fairness_ratio_mean"]),
            number(d["fairness_ratio_min"]),
        ]
        for name, d in found.items()
    ]
    by_group = [
        [group, *(number(d["fairness_ratios"].get(group)) for d in found.values())]
        for group in first["fairness_ratios"]
    ]
    return [
        "Texts of each polarity, and the fairness ratio (1 is even) over prompt groups:",
        "",
        *table(["model", *kinds, "mean fairness ratio", "least fairness ratio"], rows),
        *table(["fairness ratio of prompt group", *found], by_group),
    ]


def _details_of(metric: str, key: str, models: Mapping[str, Any]) -> dict[str, Any]:
    """Model -> details of a metric, of the models whose details have this key: of others it could not be measured."""
    found = {name: of_model[metric]["details"] for name, of_model in models.items() if metric in of_model}
    return {name: details for name, details in found.items() if key in details}


def _samples(scores: Mapping[str, Any]) -> list[str]:
    """The first continuation of the same prompts by every model, models in columns."""
    samples = scores["samples"]
    if not samples:
        return []
    names = list(scores["models"])
    rows = [
        [sample["prompt"], *(_shortened((sample["texts"].get(name) or [""])[0]) for name in names)]
        for sample in samples
    ]
    note = "The first sample of each, as it came: nothing was chosen. All models drew the same random numbers."
    return ["## Same prompts, before and after", "", note, "", *table(["prompt", *names], rows)]


def _shortened(text: str) -> str:
    return text if len(text) <= _TEXT_LIMIT else f"{text[:_TEXT_LIMIT]}…"


def report_markdown(
    source: Recipe | Scored,
    scores: Mapping[str, Any],
    counts: PackingCounts | None = None,
    training: Mapping[str, Mapping[str, Any]] | None = None,
) -> str:
    """The report of a run, or of checkpoints that were scored.

    Args:
        source: The run's recipe, or what was scored.
        scores: Contents of its scores.json.
        counts: What packing saw.
        training: Model -> what its training took, see `read_training`.
    """
    names = list(scores["models"])
    lines = [f"# Report: {escape(title_of(source))}", "", escape(headline(scores)), ""]
    lines += [f"- **{escape(name)}**: {escape(note_of(source, name))}" for name in names]
    lines += ["", "## Scores", "", "Values with 95% intervals in brackets.", ""]
    lines += table(["score", *names, "ideal", "better"], score_rows(scores))
    for pair in told_pairs(scores):
        lines += [f"### {escape(pair)}", "", "Paired: both models on the same resampled prompts or documents.", ""]
        lines += table(["score", "difference", "ratio of sizes", "units"], difference_rows(scores, pair))
    lines += ["What the rows mean:", ""]
    lines += [
        f"- **{escape(card['label'])}**: {card['meaning']} {card['limits']}"
        for metric in metrics_of(scores)
        if (card := scores["cards"].get(metric))
    ]
    if details := _details(scores):
        lines += ["", "## Behind the averages", "", *details]
    else:
        lines += [""]
    lines += _samples(scores)
    if isinstance(source, Recipe):
        lines += ["## How the student was made", "", *table(["", ""], settings_rows(source, scores))]
    if training:
        lines += table(["model", "time", "student's tokens", "teacher's tokens", "tokens/s"], training_rows(training))
    if phases := phase_rows(scores):
        lines += ["Before and after training:", "", *table(["phase", "time", "tokens", "tokens/s"], phases)]
    headings, rounds = round_table(scores, training or {})
    if rounds:
        lines += ["Rounds, each with the clients' mean loss, and the scores of the student after it:", ""]
        lines += table(headings, rounds)
    headings, clients = client_table(scores, training or {})
    if clients:
        lines += ["Scores of the finished student on each client's own text; spread is the standard deviation:", ""]
        lines += table(headings, clients)
    if counts is not None:
        lines += [f"Training text: {escape(counts.summary())}.", ""]
    lines += ["## What the word list covers", "", *items(coverage(scores, counts))]
    lines += ["## How it was measured", "", *items(how_measured(scores))]
    lines += ["## What was not measured", "", *items(not_measured(scores))]
    lines += ["## Limits", "", *items(LIMITS)]
    return "\n".join(lines)


# -------------------------------------------------------------------------------------------------------------- run


def read_training(folder: Path) -> dict[str, dict[str, Any]]:
    """What training a run's models took and how the loss went: the files `training/NAME.json`, by name.

    A run of an older version has none, and what cannot be read is left out: no report should fail for it.
    """
    found = {}
    for path in sorted((folder / "training").glob("*.json")):
        try:
            record = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError):
            continue
        if isinstance(record, dict) and _is_training(record):
            found[path.stem] = record
    return found


def _is_training(record: Mapping[str, Any]) -> bool:
    """Whether a report can be made of it, see `TrainingLog.write`."""
    history = record.get("history", [])
    if not isinstance(history, list) or not all(isinstance(entry, dict) for entry in history):
        return False
    clients = record.get("over_clients", {})
    if not isinstance(clients, dict):
        return False
    if not all(isinstance(entry, dict) and entry.keys() >= OVER_CLIENTS for entry in clients.values()):
        return False
    totals = {name: value for name, value in record.items() if name not in ("history", "over_clients", "privacy")}
    entries = (totals, *history, *clients.values())
    numbers = [value for entry in entries for value in entry.values() if value is not None]
    return all(isinstance(n, (int, float)) and math.isfinite(n) for n in numbers)


def with_speeds(scores: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """The scores and what a clock told beside them, as far as it can be read.

    `speed`: how fast each model writes, where `speed.json` has it of the same weights. `phases`: how fast the models
    were in each phase of the run, see `read_phase_speeds`.
    """
    weights = scores["settings"].get("weights", {})
    found = read_speeds(folder)
    known = {name: one["tokens_per_second"] for name, one in found.items() if one["weights"] == weights.get(name)}
    return {**scores, "speed": known, "phases": read_phase_speeds(folder)}


def write_report(
    recipe: Recipe,
    scores: Mapping[str, Any],
    counts: PackingCounts | None,
    folder: Path,
    console: Console | None = None,
) -> None:
    """Write report.md, report.html and the model cards of a run, and print the table and what `print_end` prints.

    The student is then pushed to the hub, if the recipe says so. The last line is where the page lies.

    Args:
        recipe: The run's recipe.
        scores: Contents of its scores.json.
        counts: What packing saw.
        folder: The run's folder; a card goes into each of its `student/` and `baseline/` that exist.
        console: Where to print; standard output by default.

    Raises:
        UserError: the hub refuses the student.
    """
    phase(REPORT)
    training = read_training(folder)
    scores = with_speeds(scores, folder) | {"processes": processes_of(folder)}
    page = _write_pages(recipe, scores, counts, training, folder)
    write_cards(recipe, scores, folder)
    print_table(scores, console)
    if recipe.trainer.get("push_to_hub"):
        from distill.training.hub import push_student  # transformers takes seconds

        push_student(recipe, folder)
    print_end(scores, page, console)


def write_scores_report(scores: Mapping[str, Any], source: Scored) -> Path:
    """Write report.md and report.html of checkpoints that were scored, and return the page's path.

    Args:
        scores: Contents of their scores.json, with their speeds (`with_speeds`).
        source: What was scored, and the folder that the files go into.
    """
    return _write_pages(source, scores, None, None, source.folder)


def _write_pages(
    source: Recipe | Scored,
    scores: Mapping[str, Any],
    counts: PackingCounts | None,
    training: Mapping[str, Mapping[str, Any]] | None,
    folder: Path,
) -> Path:
    write_text(folder / "report.md", report_markdown(source, scores, counts, training))
    page = folder / "report.html"
    write_text(page, run_page(source, scores, counts, training))
    return page


def print_end(scores: Mapping[str, Any], page: Path, console: Console | None = None) -> None:
    """The headline, and as the last line the path of the page, whole, so that a terminal can open it."""
    console = console or Console()
    console.print(Text(headline(scores)))
    console.print(Text(str(page.resolve())), soft_wrap=True)
