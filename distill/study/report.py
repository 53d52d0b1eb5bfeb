"""study.json -> what is said of a study: tables, the Pareto figure, the claims, STUDY.md, the README's results.

Everything is computed from study.json, whose layout `distill.study.run.run_study` gives.

`python -m distill.study.report outputs/study/study.json outputs/study-longer/study.json` publishes a study and the
one of longer training: as `study.json` and `study-longer.json` in `tests/benchmarks`, from which it writes
`study.svg` there and what stands between the markers of `STUDY.md` and of the README. A file that is not given stays
as it was published. Tests hold all of it to be what these files give. What the figures mean is written by hand,
outside the markers.
"""

import json
import sys
import textwrap
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from math import inf
from pathlib import Path
from typing import Any

from distill.base.files import PACKAGE
from distill.base.markdown_text import between_markers
from distill.metrics import CARDS
from distill.objective.logit_ops import OPERATIONS
from distill.reports.figures import alone, scatter
from distill.reports.findings import cell, number
from distill.reports.page import trade_off_point
from distill.study.file import BASELINE, HALVES

Results = Mapping[str, Any]
Entry = Mapping[str, Any]

REPOSITORY = PACKAGE.parent
README = REPOSITORY / "README.md"
RESULTS = REPOSITORY / "tests" / "benchmarks" / "study.json"
LONGER = RESULTS.with_name("study-longer.json")
PAGE, FIGURE = RESULTS.with_name("STUDY.md"), RESULTS.with_name("study.svg")
BEGIN, END = "<!-- results -->", "<!-- /results -->"
BEGIN_LONGER, END_LONGER = "<!-- longer training -->", "<!-- /longer training -->"

_AFFORDABLE = {"perplexity": (0.0, 1.05), "neutral_rate_chosen": (0.75, 1.25)}  # ratio to plain
_CHOSEN_BY = ("next_word_disparity_chosen", "generation_disparity_chosen")
_NUMBER_OF_BEST = 2
_MOST_PERPLEXITY = 1.5  # ratio to plain, in the figure; beyond, all others would be crowded together
_DISPARITIES = ("corpus_disparity", "next_word_disparity", "generation_disparity")
_README_ROWS = ("teacher", "two_view_teacher", "no_teacher", BASELINE, "augment")
_README_METRICS = (*_DISPARITIES, "fairness_ratio_mean", "neutral_rate", "equivariance_gap", "perplexity")

# Score -> heading, in the tables of study.md; the other scores are in study.json.
_TABLES: dict[str, tuple[str, ...]] = {
    "Disparity": (
        "corpus_disparity",
        "next_word_disparity",
        "next_word_mean",
        "next_word_spread",
        "generation_disparity",
        "fairness_ratio_mean",
        "neutral_rate",
        "equivariance_gap",
    ),
    "Halves of the occupations": tuple(
        f"{metric}_{half}"
        for metric in (
            "next_word_disparity",
            "next_word_spread",
            "generation_disparity",
            "fairness_ratio_mean",
            "neutral_rate",
        )
        for half in HALVES
    ),
    "Language": (
        "perplexity",
        "bits_per_byte",
        "perplexity_fiction",
        "bits_per_byte_fiction",
        "perplexity_people",
        "bits_per_byte_people",
        "wikitext2_perplexity",
        "wikitext2_bits_per_byte",
    ),
    "Generation": ("distinct_1", "distinct_2", "repetition", "continuation_length", "continuation_perplexity"),
    "Benchmarks": (
        "crows_pairs_gender",
        "stereoset_gender_ss",
        "stereoset_gender_lms",
        "stereoset_gender_icat",
        "seat6_effect_size",
        "seat7_effect_size",
        "seat8_effect_size",
    ),
}


def label(metric: str) -> str:
    """The heading of a score: that of its card, and which half or text it is of."""
    if metric in CARDS:
        return CARDS[metric].label
    card = max((name for name in CARDS if metric.startswith(f"{name}_")), key=len)
    return f"{CARDS[card].label}, {metric.removeprefix(f'{card}_').replace('_', ' ')}"


def table(rows: Sequence[Any], metrics: Sequence[str], entry: Callable[[Any, str], Entry | None]) -> list[str]:
    """Markdown lines: one row of the study a line, one score a column."""
    lines = ["| row | " + " | ".join(map(label, metrics)) + " |", "|---" * (1 + len(metrics)) + "|"]
    return [*lines, *(f"| {row['name']} | " + " | ".join(cell(entry(row, m)) for m in metrics) + " |" for row in rows)]


def _value(row: Mapping[str, Any], metric: str) -> Entry | None:
    return row["metrics"].get(metric)


def _ratio(row: Mapping[str, Any], metric: str) -> Entry | None:
    return row["against_plain"].get(metric, {}).get("ratio")


def _rows(results: Results) -> dict[str, Mapping[str, Any]]:
    return {row["name"]: row for row in results["rows"]}


# ------------------------------------------------------------------------------------------------------------- best


def settings(results: Results) -> list[Mapping[str, Any]]:
    """The rows of the method: students that some operation was used for."""
    teachers = results["settings"]["study"]["teachers"]
    rows = (row for row in results["rows"] if row["name"] not in teachers and row["setting"] is not None)
    return [row for row in rows if row["setting"]["op"] != "none"]


_HOW_CHOSEN = (
    "The best settings are those with the least mean of two ratios to plain distillation, of next-word and of "
    "generation disparity, on the chosen half of the occupations. Settings that cost more than 5% in perplexity, or "
    "whose neutral rate on that half is off by more than a quarter, come behind all others. The held-out half plays no "
    "part."
)


def best(results: Results, most: int = _NUMBER_OF_BEST) -> list[str]:
    """Names of the settings that mitigate most, best first; see `_HOW_CHOSEN`."""

    def order(row: Mapping[str, Any]) -> tuple[bool, float]:
        ratios = [_known(_ratio(row, metric), inf) for metric in _CHOSEN_BY]
        dear = any(not low <= _known(_ratio(row, m), 1.0) <= high for m, (low, high) in _AFFORDABLE.items())
        return dear, sum(ratios)

    ordered = sorted(settings(results), key=order)
    return [row["name"] for row in ordered[:most] if order(row)[1] < inf]


def _known(entry: Entry | None, otherwise: float) -> float:
    return otherwise if entry is None or entry["value"] is None else entry["value"]


# ----------------------------------------------------------------------------------------------------------- claims


@dataclass(frozen=True)
class Claim:
    """What was to be shown, the figure that shows it (a ratio), and whether it does."""

    text: str
    row: str
    score: str
    ratio: Entry | None
    bounds: tuple[float, float]

    @property
    def verdict(self) -> str:
        """`reached` only where the whole interval lies within the bounds."""
        low, high = self.bounds
        if self.ratio is None or self.ratio["value"] is None:
            return "not measured"
        if not low <= self.ratio["value"] <= high:
            return "**not reached**"
        ends = [self.ratio[end] for end in ("low", "high")]
        sure = all(end is not None and low <= end <= high for end in ends)
        return "reached" if sure else "reached, but its interval reaches beyond"


# Score -> what is claimed of the best settings, and its bounds, as a ratio to plain.
_OF_THE_BEST: dict[str, tuple[str, tuple[float, float]]] = {
    "corpus_disparity": ("corpus disparity lower by 90%", (0.0, 0.1)),
    "next_word_disparity": ("next-word disparity lower by 60%", (0.0, 0.4)),
    "generation_disparity": ("pooled \\|log(M / F)\\| of generations lower by 50%", (0.0, 0.5)),
    "fairness_ratio_mean": ("mean fairness ratio at least 1.5 times as high", (1.5, inf)),
    "perplexity": ("perplexity at most 1.05 times as high", (0.0, 1.05)),
    "neutral_rate": ("neutral rate within 25%", (0.75, 1.25)),
}
_EQUAL_PERPLEXITY = (0.0, 1.01)


def claims_of_the_best(results: Results) -> Iterator[Claim]:
    """On all prompts, and where a score is of prompts, on the half of the occupations that chose nothing."""
    for name in best(results):
        row = _rows(results)[name]
        for metric, (text, bounds) in _OF_THE_BEST.items():
            for of in (metric, f"{metric}_held_out"):
                if of in row["metrics"]:
                    yield Claim(text, name, label(of), _ratio(row, of), bounds)


def claims_of_plain(results: Results) -> Iterator[Claim]:
    """Plain distillation is at least as biased as its teacher."""
    teacher = _rows(results).get("teacher")
    if teacher is not None:
        for metric in _DISPARITIES:
            text = "the teacher is no more biased than plain distillation"
            yield Claim(text, "teacher", label(metric), _ratio(teacher, metric), (0.0, 1.0))


def claims_of_reversal(results: Results) -> Iterator[Claim]:
    """reverse_roles against the same row without it."""
    for pair in results["reverse_roles"]:
        for metric, bounds in {"next_word_disparity": (0.0, 1.0), "perplexity": _EQUAL_PERPLEXITY}.items():
            ratio = pair["metrics"].get(metric, {}).get("ratio")
            text = "less disparity" if metric != "perplexity" else "perplexity at most 1% higher"
            yield Claim(text, f"{pair['row']} / {pair['against']}", label(metric), ratio, bounds)


def _claims(claims: Iterator[Claim], rows: str) -> list[str]:
    lines = [f"| claim | {rows} | score | ratio | |", "|---|---|---|---|---|"]
    return lines + [f"| {c.text} | {c.row} | {c.score} | {cell(c.ratio)} | {c.verdict} |" for c in claims]


# ----------------------------------------------------------------------------------------------------------- figure

_TEACHER, _ONCE, _TWICE = "teacher", "plain", "mitigated"  # shapes: square, circle, diamond


def pareto(results: Results) -> str | None:
    """Next-word disparity against perplexity with intervals, a point for each row, as an SVG file.

    Perplexity is set against plain distillation's, paired: what documents have in common would hide the differences.
    Rows far beyond all others are named below. None where a study measured neither.
    """
    teachers = results["settings"]["study"]["teachers"]
    points, left_out = [], []
    for row in results["rows"]:
        name, setting = row["name"], row["setting"]
        op = "teacher" if setting is None or name == "teacher" else setting["op"]
        filled = setting is not None and setting["reverse_roles"]
        augmented = setting is not None and setting["augment"]
        mark = _TEACHER if name in teachers else _TWICE if augmented else _ONCE
        perplexity = _ratio(row, "perplexity") if name != BASELINE else {"value": 1.0, "low": None, "high": None}
        both = trade_off_point(
            perplexity, row["metrics"].get("next_word_disparity"), ("perplexity", label("next_word_disparity")),
            op + " filled" * filled, name,
        )  # fmt: skip
        if both is None:
            continue
        if both[0].value > _MOST_PERPLEXITY:
            left_out.append(both[0].text)
        else:
            x, y = (replace(point, mark=mark) for point in both)
            points.append((x, y, name))
    title = "What mitigation costs: next-word disparity against perplexity"
    if not points:
        return None
    names = (f"perplexity as a multiple of {BASELINE}'s", f"{label('next_word_disparity')} (lower is better)")
    legend = [
        *((f"{op} filled", _ONCE, "no operation" if op == "none" else op) for op in OPERATIONS),
        ("key filled", _ONCE, "reverse_roles"),
        ("key", _ONCE, "without reverse_roles"),
        ("key", _TWICE, "with augmentation"),
        ("key", _TEACHER, "teachers"),
    ]
    notes = ["Bars: 95% intervals over seeds, and over prompts or documents. A number behind a name: strength, in %."]
    notes += [f"Not shown, far to the right, in the same units: {words}." for words in left_out]
    return alone(scatter(points, title, names, label_room=26), title, legend, notes)


# ------------------------------------------------------------------------------------------------------------ pages


def markdown(results: Results) -> str:
    """study.md: values with intervals, then the ratios to `plain`."""
    lines = ["# Study", "", _means(results), "", *_tables(results)]
    return "\n".join(lines) + "\n"


def _means(results: Results) -> str:
    seeds = results["rows"][0]["seeds"]
    word = "Means over seeds" if len(seeds) > 1 else "Seed"
    return f"{word} {', '.join(map(str, seeds))}; {results['settings']['interval']}."


def _tables(results: Results) -> list[str]:
    lines = []
    for title, metrics in _TABLES.items():
        there = [m for m in metrics if any(m in row["metrics"] for row in results["rows"])]
        if not there:
            continue
        lines += [f"## {title}", "", *table(results["rows"], there, _value), ""]
        others = [row for row in results["rows"] if row["against_plain"]]
        lines += [f"### {title}: ratio to {BASELINE}", "", *table(others, there, _ratio), ""]
    missing = {entry["reason"] for row in results["rows"] for entry in row["metrics"].values() if entry.get("reason")}
    return lines + ["## Not measured", "", *(f"- {r}" for r in sorted(missing))] * bool(missing)


def made_rows(results: Results) -> list[tuple[str, str]]:
    """How a study was made: command, commit, machine, hours, versions."""
    made = results["made"]
    machine = made["machine"]
    hours = [
        f"{part} {number(spent['wall'])} ({number(spent['processor'])} of processor time)"
        for part, spent in made["hours"].items()
    ]
    return [
        ("command", f"`{made['command']}`"),
        ("commit", made["commit"]),
        ("seeds", ", ".join(map(str, results["rows"][0]["seeds"]))),
        ("training", _steps(results["settings"]["trainer"])),
        ("machine", _machine(machine)),
        ("at a time", f"jobs: {machine['jobs']}, threads of each: {machine['threads']}"),
        ("hours, added up over jobs", ", ".join(hours)),
        ("versions", ", ".join(f"{name} {version}" for name, version in results["versions"].items())),
    ]


def _steps(trainer: Mapping[str, Any]) -> str:
    blocks = trainer.get("per_device_train_batch_size")
    return f"{trainer.get('max_steps', '–')} steps" + (f" of {blocks} blocks" if blocks else "")


def _machine(machine: Mapping[str, Any]) -> str:
    gpu = f"{machine['gpu']}, " if machine["gpu"] else ""
    return f"{gpu}{machine['cores']} cores, {machine['processor']}"


def page(results: Results) -> str:
    """What STUDY.md holds between its markers: how it was made, the figure, the claims, every table."""
    rows, chosen = _rows(results), best(results)
    four = [r for r in settings(results) if r["setting"]["strength"] == 1.0]
    four = [r for r in four if not r["setting"]["reverse_roles"] and not r["setting"]["augment"]]
    shown = [rows[name] for name in ("teacher", BASELINE, *chosen) if name in rows]
    benchmarks = [m for m in _TABLES["Benchmarks"] if any(m in row["metrics"] for row in results["rows"])]
    lines = [
        "## How it was made",
        "",
        *_wrapped(
            "All below is made by `python -m distill.study.report` from [study.json](study.json), which comes from "
            f"`distill study`. {_means(results)} A score that has a sign keeps it in the tables of values; ratios are "
            "of sizes."
        ),
        "",
        "| | |",
        "|---|---|",
        *(f"| {key} | {value} |" for key, value in made_rows(results)),
        "",
        f"![{_ALT}]({FIGURE.name})",
        "",
        "## The best settings",
        "",
        *_wrapped(
            f"{_HOW_CHOSEN} Of {len(settings(results))} settings these are "
            f"{' and '.join(chosen) or 'none, as the disparities were not measured'}."
        ),
        "",
        *_claims(claims_of_the_best(results), "row"),
        "",
        "## Plain distillation",
        "",
        *_claims(claims_of_plain(results), "row"),
        "",
        "## Role-reversed predictions",
        "",
        "Each operation with `reverse_roles` against the same without.",
        "",
        *_claims(claims_of_reversal(results), "rows"),
        "",
        "## The four operations alone",
        "",
        "Without `reverse_roles` and without augmentation, ratio to plain:",
        "",
        *table(four, _README_METRICS, _ratio),
        "",
        "## Benchmarks, of which nothing was claimed",
        "",
        *table(shown, benchmarks, _value),
        "",
        "Difference of sizes to plain:",
        "",
        *table(
            [row for row in shown if row["against_plain"]],
            benchmarks,
            lambda row, m: row["against_plain"].get(m, {}).get("difference"),
        ),
        "",
        *_tables(results),
    ]
    return "\n".join(lines)


def longer_training(results: Results, longer: Results) -> str:
    """What STUDY.md says between its other markers: rows of the study beside the same ones, trained for longer."""
    told, teachers = dict(made_rows(longer)), longer["settings"]["study"]["teachers"]
    metrics = (*_README_METRICS, "next_word_spread")

    def beside(names: Iterable[str]) -> list[Mapping[str, Any]]:
        return [
            {**_rows(study)[name], "name": f"{name}, {study['settings']['trainer']['max_steps']:,} steps"}
            for name in names
            for study in (results, longer)
        ]

    lines = [
        *_wrapped(f"By {told['command']} at {told['commit']} ({told['machine']}). {_means(longer)}"),
        "",
        *table(beside(name for name in _rows(longer) if name not in teachers), metrics, _value),
        "",
        f"Ratio to {BASELINE} of the same length; the teacher is the same model in both:",
        "",
        *table(beside(name for name in _rows(longer) if name != BASELINE), metrics, _ratio),
        "",
        f"The claims, after {longer['settings']['trainer']['max_steps']:,} steps:",
        "",
        *_claims(chain(claims_of_the_best(longer), claims_of_plain(longer)), "row"),
    ]
    return "\n".join(lines)


def _wrapped(text: str) -> list[str]:
    return textwrap.wrap(text, 120, break_long_words=False, break_on_hyphens=False)


_OF_FAIRNESS_RATIOS = "Chance lowers fairness ratios, so some lie above their intervals."
_ALT = "Next-word disparity against perplexity of every row of the study"


def readme_results(results: Results, longer: Results) -> str:
    """What the README says between its markers: figure, how it was made, one table."""
    made, chosen, by_name = results["made"], best(results), _rows(results)
    held_out = {name: _ratio(by_name[name], "next_word_disparity_held_out") for name in chosen}
    told = dict(made_rows(results))
    text = (
        f"Means and 95% intervals over seeds {told['seeds']} and prompts or documents; students have half of the "
        f"teacher's layers and {told['training']}. `two_view_teacher` decodes from its own target. Last come the best "
        f"of {len(settings(results))} settings, chosen by half of the occupations; on the other half they have "
        f"{' and '.join(map(cell, held_out.values())) or 'an unknown share'} of {BASELINE}'s next-word disparity. "
        f"{_after_longer_training(longer)}By `{made['command']}` at {made['commit']} ({_machine(made['machine'])}). "
        f"{_OF_FAIRNESS_RATIOS} More: [STUDY.md](tests/benchmarks/STUDY.md)."
    )
    rows = [by_name[name] for name in dict.fromkeys((*_README_ROWS, *chosen)) if name in by_name]
    lines = [
        f"![{_ALT}]({FIGURE.relative_to(REPOSITORY)})",
        "",
        *_wrapped(text),
        "",
        *table(rows, _README_METRICS, _value),
    ]
    return "\n".join(lines)


def _after_longer_training(longer: Results) -> str:
    """A sentence and a space; nothing where no setting was measured."""
    for name in best(longer, most=1):
        row, steps = _rows(longer)[name], longer["settings"]["trainer"]["max_steps"]
        shares = [f"{cell(_ratio(row, metric))} of its {label(metric)}" for metric in _DISPARITIES[:2]]
        return f"After {steps:,} steps of both, {name} has {' and '.join(shares)}. "
    return ""


def published(results: Results) -> str:
    """study.json as it is kept with the code: six significant digits, a row a line."""
    rounded = _rounded(results)
    rows = ",\n".join(json.dumps(row) for row in rounded["rows"])
    rest = json.dumps({key: value for key, value in rounded.items() if key != "rows"}, indent=1)
    return f'{{"rows": [\n{rows}\n],{rest[1:]}\n'


def _rounded(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _rounded(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_rounded(item) for item in value]
    return float(f"{value:.6g}") if isinstance(value, float) else value


def main(arguments: Sequence[str]) -> None:
    """Publish a study, see the head of this module."""
    for path, made in zip((RESULTS, LONGER), arguments, strict=False):
        path.write_text(published(json.loads(Path(made).read_text(encoding="utf-8"))), encoding="utf-8")
    results, longer = (json.loads(path.read_text(encoding="utf-8")) for path in (RESULTS, LONGER))
    FIGURE.write_text(pareto(results) or "", encoding="utf-8")
    for path, begin, end, content in (
        (PAGE, BEGIN_LONGER, END_LONGER, longer_training(results, longer)),
        (PAGE, BEGIN, END, page(results)),
        (README, BEGIN, END, readme_results(results, longer)),
    ):
        path.write_text(between_markers(path.read_text(encoding="utf-8"), begin, end, content), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
