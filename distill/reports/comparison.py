"""The scores.json of any number of runs and checkpoints -> one page, one Markdown file and one CSV, side by side."""

import csv
import io
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distill.base.errors import UserError
from distill.base.files import write_text
from distill.base.markdown_text import items, table
from distill.recipe import read_resolved
from distill.reports.findings import (
    LIMITS,
    MEMORY,
    all_cards,
    cell,
    cost_of,
    headline,
    label,
    main_pair,
    memory_heading,
    metrics_of,
    ratio_cell,
    templates_differ,
)
from distill.reports.page import model_style, render, trade_off_charts
from distill.reports.side_by_side import checkpoints, measured_with, tokens_read
from distill.run_folder import processes_of
from distill.scoring.scores_file import read_scores

FILES = ("report.html", "report.md", "scores.csv")
_SCORES = "scores.json"
_ALIKE = {
    "word list": ("wordlist", "sha256"),
    "prompts": ("prompts", "sha256"),
    "number of prompts": ("prompts", "count"),
    "chat template around prompts": ("prompts", "chat"),
    "held-out text": ("held_out", "sha256"),
    "bytes of held-out text": ("held_out", "bytes"),
}
_READ = "tokens read at once"
_JUDGED, _JUDGE = "continuation_perplexity", "first model, which judges continuations"
_RENDERED = "chat template around held-out text"
_AUDIT = {"audited": "audited texts", "reference": "reference of the audit", "control": "control of the audit"}
_OF_SCORE = ("value", "low", "high", "n", "ideal", "direction", "undetected")
_COLUMNS = ("run", "model", "score", *_OF_SCORE, "ratio_to_plain", "ratio_low", "ratio_high")


@dataclass(frozen=True)
class Run:
    """What is compared.

    label: Short name, unique among the runs.
    folder: Where its scores.json lies.
    scores: Contents of the scores.json, of the models that are wanted.
    recipe: Section and key of its recipe, joined by a dot -> value; empty for checkpoints scored by themselves.
    processes: That shared out each step of its training; None where that is not known, or changes no step.
    """

    label: str
    folder: Path
    scores: dict[str, Any]
    recipe: dict[str, Any]
    processes: int | None = None

    @property
    def mitigated(self) -> bool:
        """Whether its student was trained with a mitigation, as far as the recipe tells."""
        changes = ("target.augment", "student.remove_directions")
        return self.recipe.get("target.op", "none") != "none" or any(self.recipe.get(key) for key in changes)


def read_runs(paths: Sequence[str]) -> list[Run]:
    """Runs from what a user names.

    Args:
        paths: Each a folder with a scores.json (a run, or what `distill score` wrote), that file itself, or a model in
            such a folder.

    Raises:
        UserError: a path is neither, or its file is damaged.
    """
    named = [Path(path) for path in paths]
    given = list(dict.fromkeys(path.parent if path.name == _SCORES and path.is_file() else path for path in named))
    short = [_short_name(path) for path in given]
    labels = short if len(set(short)) == len(short) else [str(path) for path in given]
    return [_read_run(path, name) for path, name in zip(given, labels, strict=True)]


def _short_name(path: Path) -> str:
    path = path.resolve()
    return path.name if (path / _SCORES).exists() else f"{path.parent.name}/{path.name}"


def _read_run(path: Path, name: str) -> Run:
    folder, models = path, None
    if not (path / _SCORES).exists():
        folder, models = path.resolve().parent, [path.resolve().name]
        if not (folder / _SCORES).exists():
            raise UserError(
                f"{path}: no {_SCORES} here or beside it; give a run's folder, or score the checkpoint first: "
                f"distill score {path}"
            )
    scores = read_scores(folder / _SCORES)
    if models is not None:
        if models[0] not in scores["models"]:
            known = ", ".join(scores["models"])
            raise UserError(f"{path}: {folder / _SCORES} has no model {models[0]}; it has: {known}")
        scores = scores | {"models": {models[0]: scores["models"][models[0]]}, "differences": {}}
    recipe = _recipe(folder / "recipe.yaml")
    is_private = recipe.get("privacy.epsilon") is not None  # steps draw as many documents, whoever shares them out
    return Run(name, folder, scores, recipe, None if is_private else processes_of(folder))


def _recipe(path: Path) -> dict[str, Any]:
    """Section and key -> value of a resolved recipe, without tokens; empty where there is none."""
    if not path.exists():
        return {}
    flat: dict[str, Any] = {}
    for section, value in read_resolved(path).items():
        flat |= {f"{section}.{key}": v for key, v in value.items()} if isinstance(value, dict) else {section: value}
    return {key: value for key, value in flat.items() if not key.endswith("_token") and key != "output_dir"}


# ------------------------------------------------------------------------------------------------------------ tables


def score_records(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """One row for every score of every model, by the names in `_COLUMNS`; `None` for what is undefined."""
    records = []
    for run in runs:
        for model, of_model in run.scores["models"].items():
            to_plain = run.scores["differences"].get(f"{model} - baseline", {})
            for score, entry in of_model.items():
                ratio = to_plain.get(score, {})
                values = {name: entry[name] for name in _OF_SCORE}
                ratios = (ratio.get(name) for name in ("ratio", "ratio_low", "ratio_high"))
                row = {"run": run.label, "model": model, "score": score, **values}
                records.append(row | dict(zip(_COLUMNS[-3:], ratios, strict=True)))
    return records


def write_csv(records: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Rows as CSV. Text that a spreadsheet would take for a formula gets an apostrophe in front."""
    table = io.StringIO(newline="")
    writer = csv.DictWriter(table, _COLUMNS)
    writer.writeheader()
    for record in records:
        writer.writerow({name: harmless(v) if isinstance(v, str) else v for name, v in record.items()})
    write_text(path, table.getvalue())


def harmless(text: str) -> str:
    """Text that no spreadsheet evaluates (OWASP's rule against CSV injection)."""
    return f"'{text}" if re.match(r"[=+\-@\t\r\n＝＋－＠]", text) else text


def differing(runs: Sequence[Run]) -> list[list[str]]:
    """Rows of [what, its value in each run] for whatever of training and measurement is not the same in all runs."""
    keys = dict.fromkeys(key for run in runs for key in run.recipe)
    rows = [[key, *(_shown(run.recipe.get(key)) for run in runs)] for key in keys]
    rows += [["processes, each with blocks of its own", *(_shown(run.processes) for run in runs)]]
    rows += [[what, *(_shown(run.scores["settings"][s].get(k)) for run in runs)] for what, (s, k) in _ALIKE.items()]
    rows += [["decoding", *(_shown(run.scores["settings"]["decoding"]) for run in runs)]]
    rows += [[_READ, *(", ".join(tokens_read(run.scores)) or _shown(None) for run in runs)]]
    return [row for row in rows if len(set(row[1:])) > 1] + _measured_with_others(runs)


def _measured_with_others(runs: Sequence[Run]) -> list[list[str]]:
    """The rows of what was read beside prompts and texts, where two runs are known to have read another."""
    found = []
    differ = templates_differ(run.scores for run in runs)
    for run in runs:
        told = run.scores["settings"].get("measured_with", {})
        found.append(measured_with(run.scores) | {_AUDIT[key]: told[key] for key in _AUDIT if told.get(key)})
        weights = run.scores["settings"].get("weights", {})
        if weights and any(of.get(_JUDGED, {}).get("value") is not None for of in run.scores["models"].values()):
            found[-1][_JUDGE] = next(iter(weights.values()))
        facts = run.scores["settings"].get("models", {}).values()
        rendered = sorted({of_model["conversations"] for of_model in facts if "conversations" in of_model})
        if rendered and differ:
            found[-1][_RENDERED] = ", ".join(map(_shown, rendered))
    names = dict.fromkeys(name for of_run in found for name in of_run)
    return [
        [name, *(_shown(of_run.get(name)) for of_run in found)]
        for name in names
        if len({of_run[name] for of_run in found if name in of_run}) > 1
    ]


def _shown(value: Any) -> str:
    text = "–" if value is None else value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return re.sub(r"\b([0-9a-f]{12})[0-9a-f]{52}\b", r"\1…", text)


def warnings(runs: Sequence[Run]) -> list[str]:
    """What keeps the runs from being compared number by number, and what membership may be instead, a sentence each."""
    others = [row[0] for row in _measured_with_others(runs)]
    unlike = [row[0] for row in differing(runs) if row[0] in (*_ALIKE, "decoding", _READ, *others)]
    found = []
    if unlike:
        found.append(
            f"Not measured alike: {', '.join(unlike)} differ between the runs. Compare the ratios within each run, "
            "not the values across runs."
        )
    headings = {run.label: memory_heading(run.scores) for run in runs}
    found += [f"{name}: {heading}." for name, heading in headings.items() if heading != MEMORY]
    if len(runs) > 1:
        found.append(
            "Only models of one run are paired: between runs, compare intervals, and mind that they do not show what "
            "another training would give."
        )
    return found


def _checkpoints(runs: Sequence[Run]) -> dict[str, Mapping[str, Any]]:
    """ "label: model" -> scores, a model with the same values as an earlier one left out."""
    return checkpoints({run.label: run.scores for run in runs})


def _score_table(runs: Sequence[Run]) -> tuple[list[str], list[list[str]]]:
    rows = _checkpoints(runs)
    metrics = metrics_of({"models": rows, "cards": all_cards(run.scores for run in runs)})
    headings = ["no.", "checkpoint", *_labels(runs, metrics)]
    return headings, [
        [str(number), name, *(cell(of_model.get(metric)) for metric in metrics)]
        for number, (name, of_model) in enumerate(rows.items(), start=1)
    ]


def _labels(runs: Sequence[Run], metrics: Sequence[str]) -> list[str]:
    cards = {"cards": all_cards(run.scores for run in runs)}
    return [label(cards, metric) for metric in metrics]


def _ratio_table(runs: Sequence[Run]) -> tuple[list[str], list[list[str]]]:
    """Of every run with several models, the ratios of the pair that matters most."""
    found = []
    for run in runs:
        pair = main_pair(list(run.scores["models"]))
        if pair:
            found.append((f"{run.label}: {pair[0]} / {pair[1]}", run.scores["differences"].get(" - ".join(pair), {})))
    metrics = list(dict.fromkeys(metric for _, of_pair in found for metric in of_pair))
    return ["pair", *_labels(runs, metrics)], [
        [name, *(ratio_cell(of_pair.get(metric)) for metric in metrics)] for name, of_pair in found
    ]


# ------------------------------------------------------------------------------------------------------------- files


def comparison_markdown(runs: Sequence[Run]) -> str:
    """The comparison as Markdown."""
    lines = ["# Comparison", ""]
    lines += items(f"{run.label}: {headline(run.scores)}" for run in runs)
    lines += items(warnings(runs))
    lines += ["## Scores", "", "Values with 95% intervals in brackets.", "", *table(*_score_table(runs))]
    headings, rows = _ratio_table(runs)
    if rows:
        lines += [
            "## Ratios within each run",
            "",
            "A ratio divides one score's size by the other's, and its interval is paired by prompt or document.",
            "",
            *table(headings, rows),
        ]
    if rows := differing(runs):
        lines += ["## What differs", "", *table(["setting", *(run.label for run in runs)], rows)]
    lines += ["## Limits", "", *items(LIMITS)]
    return "\n".join(lines)


def comparison_page(runs: Sequence[Run]) -> str:
    """The comparison as one HTML file."""
    styles = {
        f"{run.label}: {model}": model_style(model, run.mitigated) for run in runs for model in run.scores["models"]
    }
    shown = [
        (of_model, styles[name], name, str(number))
        for number, (name, of_model) in enumerate(_checkpoints(runs).items(), start=1)
    ]
    files = [run.scores for run in runs]
    cards = {"cards": all_cards(files)}
    cost = cost_of(cards, files)
    return render(
        "comparison.html",
        title="distill: comparison",
        runs=[{"label": run.label, "headline": headline(run.scores)} for run in runs],
        warnings=warnings(runs),
        charts=trade_off_charts(cards, cost, shown),
        cost=label(cards, cost),
        styles=[styles[name] for name in _checkpoints(runs)],
        scores=_score_table(runs),
        ratios=_ratio_table(runs),
        differing=differing(runs),
    )


def write_comparison(runs: Sequence[Run], folder: Path) -> list[Path]:
    """Write `FILES` into a folder, and return their paths.

    Raises:
        UserError: the folder is a run's own, whose report would be lost, or cannot be written.
    """
    if (folder / _SCORES).exists() or (folder / "recipe.yaml").exists():
        raise UserError(f"{folder} holds a run and its report; choose another --output")
    page, markdown, rows = (folder / name for name in FILES)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_text(page, comparison_page(runs))
        write_text(markdown, comparison_markdown(runs))
        write_csv(score_records(runs), rows)
    except OSError as error:
        raise UserError(f"{folder}: cannot be written ({error.strerror}); choose another --output") from None
    return [page, markdown, rows]
