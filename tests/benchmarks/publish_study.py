"""study.json and study-longer.json -> what this repository publishes of its own study.

    python tests/benchmarks/publish_study.py outputs/study/study.json outputs/study-longer/study.json

keeps a study and the one of longer training as `study.json` and `study-longer.json` beside this file, and writes from
these two `study.svg` and what stands between the markers of `STUDY.md` and of the README: figure, claims, tables. A
file that is not given stays as it was published. Tests hold all of it to be what these files give. What the figures
mean is written by hand, outside the markers.
"""

import json
import sys
import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from math import inf
from pathlib import Path
from typing import Any

from distill.base.markdown_text import between_markers
from distill.reports.findings import ROUNDING, cell, number
from distill.study.report import (
    Entry,
    Results,
    Row,
    how_averaged,
    label,
    pareto,
    ratio,
    score_tables,
    scores_of,
    side_effects,
    table,
    value,
    worse,
)
from distill.study.schema import BASELINE, HALVES

REPOSITORY = Path(__file__).resolve().parent.parent.parent
README = REPOSITORY / "README.md"
RESULTS = REPOSITORY / "tests" / "benchmarks" / "study.json"
LONGER = RESULTS.with_name("study-longer.json")
PAGE, FIGURE = RESULTS.with_name("STUDY.md"), RESULTS.with_name("study.svg")
BEGIN, END = "<!-- results -->", "<!-- /results -->"
BEGIN_PROMISE, END_PROMISE = "<!-- promise -->", "<!-- /promise -->"
PROMISED = "expmean-reverse-augment-listed"  # the setting of recipes/quickstart.yaml
BEGIN_LONGER, END_LONGER = "<!-- longer training -->", "<!-- /longer training -->"

AFFORDABLE = {"perplexity": (0.0, 1.05), "neutral_rate_chosen": (0.75, 1.25)}  # ratio to plain
CHOSEN_BY = ("next_word_disparity_chosen", "generation_disparity_chosen")
NUMBER_OF_BEST = 2
DISPARITIES = ("corpus_disparity", "next_word_disparity", "generation_disparity")
README_ROWS = ("teacher", BASELINE, "augment")
FIGURE_ROWS = (*README_ROWS, "two_view_teacher", "mean", "max", "expmean", "swap", "expmean-reverse", "mean-reverse")
README_SCORES = (*DISPARITIES, "fairness_ratio_mean", "neutral_rate", "equivariance_gap", "perplexity")

# Heading -> the scores of a table of STUDY.md; the other scores are in study.json.
TABLES: dict[str, tuple[str, ...]] = {
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
    "What mitigation may break": (
        "agreement_kept",
        "agreement_log_ratio",
        "agreement_winobias_kept",
        "agreement_winobias_log_ratio",
        "minimal_pairs",
        *(f"crows_pairs_{name}" for name in ("race_color", "religion", "nationality", "age", "sexual_orientation")),
        *(f"crows_pairs_{name}" for name in ("disability", "physical_appearance", "socioeconomic")),
        *(f"stereoset_{name}_ss" for name in ("race", "religion", "profession")),
    ),
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


def by_name(results: Results) -> dict[str, Row]:
    """The rows of a study by their names."""
    return {row["name"]: row for row in results["rows"]}


# ------------------------------------------------------------------------------------------------------------- best


def settings(results: Results) -> list[Row]:
    """The rows of the method: students that some operation was used for."""
    teachers = results["settings"]["study"]["teachers"]
    rows = (row for row in results["rows"] if row["name"] not in teachers and row["setting"] is not None)
    return [row for row in rows if row["setting"]["op"] != "none"]


HOW_CHOSEN = (
    "The best settings are those with the least mean of two ratios to plain distillation, of next-word and of "
    "generation disparity, on the chosen half of the occupations. Settings that cost more than 5% in perplexity, or "
    "whose neutral rate on that half is off by more than a quarter, come behind all others. The held-out half plays no "
    "part."
)


def best(results: Results, most: int = NUMBER_OF_BEST) -> list[str]:
    """Names of the settings that mitigate most, best first; see `HOW_CHOSEN`."""

    def order(row: Row) -> tuple[bool, float]:
        ratios = [known(ratio(row, metric), inf) for metric in CHOSEN_BY]
        dear = any(not low <= known(ratio(row, m), 1.0) <= high for m, (low, high) in AFFORDABLE.items())
        return dear, sum(ratios)

    ordered = sorted(settings(results), key=order)
    return [row["name"] for row in ordered[:most] if order(row)[1] < inf]


def known(entry: Entry | None, otherwise: float) -> float:
    """The value of an entry, or another where it has none."""
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
CLAIMS_OF_THE_BEST: dict[str, tuple[str, tuple[float, float]]] = {
    "corpus_disparity": ("corpus disparity lower by 90%", (0.0, 0.1)),
    "next_word_disparity": ("next-word disparity lower by 60%", (0.0, 0.4)),
    "generation_disparity": ("pooled \\|log(M / F)\\| of generations lower by 50%", (0.0, 0.5)),
    "fairness_ratio_mean": ("mean fairness ratio at least 1.5 times as high", (1.5, inf)),
    "perplexity": ("perplexity at most 1.05 times as high", (0.0, 1.05)),
    "neutral_rate": ("neutral rate within 25%", (0.75, 1.25)),
}
EQUAL_PERPLEXITY = (0.0, 1.01)


def claims_of_the_best(results: Results) -> Iterator[Claim]:
    """On all prompts, and where a score is of prompts, on the half of the occupations that chose nothing."""
    for name in best(results):
        row = by_name(results)[name]
        for metric, (text, bounds) in CLAIMS_OF_THE_BEST.items():
            for of in (metric, f"{metric}_held_out"):
                if of in row["metrics"]:
                    yield Claim(text, name, label(results, of), ratio(row, of), bounds)


def claims_of_plain(results: Results) -> Iterator[Claim]:
    """Plain distillation is at least as biased as its teacher."""
    teacher = by_name(results).get("teacher")
    if teacher is not None:
        for metric in DISPARITIES:
            text = "the teacher is no more biased than plain distillation"
            yield Claim(text, "teacher", label(results, metric), ratio(teacher, metric), (0.0, 1.0))


def claims_of_reversal(results: Results) -> Iterator[Claim]:
    """reverse_roles against the same row without it."""
    for pair in results["reverse_roles"]:
        for metric, bounds in {"next_word_disparity": (0.0, 1.0), "perplexity": EQUAL_PERPLEXITY}.items():
            found = pair["metrics"].get(metric, {}).get("ratio")
            text = "less disparity" if metric != "perplexity" else "perplexity at most 1% higher"
            yield Claim(text, f"{pair['row']} / {pair['against']}", label(results, metric), found, bounds)


def claims_table(claims: Iterator[Claim], rows: str) -> list[str]:
    """Markdown lines: one claim a line; `rows` heads the names of what it is about."""
    lines = [f"| claim | {rows} | score | ratio | |", "|---|---|---|---|---|"]
    return lines + [f"| {c.text} | {c.row} | {c.score} | {cell(c.ratio)} | {c.verdict} |" for c in claims]


# ------------------------------------------------------------------------------------------------------------ pages


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
        ("training", steps_of(results["settings"]["trainer"])),
        ("machine", machine_of(machine)),
        ("at a time", f"jobs: {machine['jobs']}, threads of each: {machine['threads']}"),
        ("hours, added up over jobs", ", ".join(hours)),
        ("versions", ", ".join(f"{name} {version}" for name, version in results["versions"].items())),
    ]


def steps_of(trainer: Mapping[str, Any]) -> str:
    """How long a row was trained."""
    blocks = trainer.get("per_device_train_batch_size")
    return f"{trainer.get('max_steps', '–')} steps" + (f" of {blocks} blocks" if blocks else "")


def machine_of(machine: Mapping[str, Any]) -> str:
    """What a study ran on."""
    gpu = f"{machine['gpu']}, " if machine["gpu"] else ""
    return f"{gpu}{machine['cores']} cores, {machine['processor']}"


def page(results: Results) -> str:
    """What STUDY.md holds between its markers: how it was made, the figure, the claims, every table."""
    lines = [
        "## How it was made",
        "",
        *wrapped(
            "All below is made by `python tests/benchmarks/publish_study.py` from [study.json](study.json), that of "
            f"`distill study`. {how_averaged(results)} A score that has a sign keeps it in the tables of values; "
            "ratios are of sizes."
        ),
        "",
        "| | |",
        "|---|---|",
        *(f"| {key} | {told} |" for key, told in made_rows(results)),
        "",
        f"![{ALT}]({FIGURE.name})",
        "",
        *claims_sections(results),
        *benchmark_section(results),
        *beside_what_is_mitigated(results),
        *score_tables(results, TABLES),
    ]
    return "\n".join(lines)


def claims_sections(results: Results) -> list[str]:
    """The claims of STUDY.md, and beside them the operations alone, of which nothing is claimed."""
    chosen = " and ".join(best(results)) or "none, as the disparities were not measured"
    alone = [
        row
        for row in settings(results)
        if row["setting"] | {"op": None} == {"op": None, "augment": False, "reverse_roles": False, "strength": 1.0}
    ]
    return [
        "## The best settings",
        "",
        *wrapped(f"{HOW_CHOSEN} Of {len(settings(results))} settings these are {chosen}."),
        "",
        *claims_table(claims_of_the_best(results), "row"),
        "",
        "## Plain distillation",
        "",
        *claims_table(claims_of_plain(results), "row"),
        "",
        "## Role-reversed predictions",
        "",
        "Each operation with `reverse_roles` against the same without.",
        "",
        *claims_table(claims_of_reversal(results), "rows"),
        "",
        "## The four operations alone",
        "",
        "Without `reverse_roles` and without augmentation, ratio to plain:",
        "",
        *table(results, alone, README_SCORES, ratio),
        "",
    ]


def benchmark_section(results: Results) -> list[str]:
    """The benchmarks of STUDY.md: teacher, plain and the best settings, and how far they are from plain."""
    rows, there = by_name(results), set(scores_of(results))
    shown = [rows[name] for name in ("teacher", BASELINE, *best(results)) if name in rows]
    scores = [score for score in TABLES["Benchmarks"] if score in there]
    others = [row for row in shown if row["against_plain"]]
    return [
        "## Benchmarks, of which nothing was claimed",
        "",
        *table(results, shown, scores, value),
        "",
        "Difference of sizes to plain:",
        "",
        *table(results, others, scores, lambda row, score: row["against_plain"].get(score, {}).get("difference")),
        "",
    ]


def beside_what_is_mitigated(results: Results) -> list[str]:
    """The sections on what got worse, with sentences that are broken into lines."""
    return list(chain.from_iterable(wrapped(x) if x.startswith("- ") else [x] for x in side_effects(results)))


def longer_training(results: Results, longer: Results) -> str:
    """What STUDY.md says between its other markers: rows of the study beside the same ones, trained for longer."""
    told, teachers = dict(made_rows(longer)), longer["settings"]["study"]["teachers"]
    scores = (*README_SCORES, "next_word_spread")

    def beside(names: Iterable[str]) -> list[Row]:
        return [
            {**by_name(study)[name], "name": f"{name}, {study['settings']['trainer']['max_steps']:,} steps"}
            for name in names
            for study in (results, longer)
        ]

    lines = [
        *wrapped(f"By {told['command']} at {told['commit']} ({told['machine']}). {how_averaged(longer)}"),
        "",
        *table(results, beside(name for name in by_name(longer) if name not in teachers), scores, value),
        "",
        f"Ratio to {BASELINE} of the same length; the teacher is the same model in both:",
        "",
        *table(results, beside(name for name in by_name(longer) if name != BASELINE), scores, ratio),
        "",
        f"The claims, after {longer['settings']['trainer']['max_steps']:,} steps:",
        "",
        *claims_table(chain(claims_of_the_best(longer), claims_of_plain(longer)), "row"),
    ]
    return "\n".join(lines)


def wrapped(text: str) -> list[str]:
    """Lines of a paragraph, or of a point of a list."""
    indent = "  " if text.startswith("- ") else ""
    return textwrap.wrap(text, 120, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)


ALT = "Next-word disparity against perplexity of the main rows of the study"


def readme_results(results: Results, longer: Results) -> str:
    """What the README says between its markers: figure, how it was made, one table."""
    made, chosen, rows = results["made"], best(results), by_name(results)
    held_out = [cell(ratio(rows[name], "next_word_disparity_held_out")) for name in chosen]
    told = dict(made_rows(results))
    text = (
        f"Means and 95% intervals over seeds {told['seeds']} and prompts or documents; students have half of "
        f"the teacher's layers and {told['training']}. Last come the best of "
        f"{len(settings(results))} settings, chosen by half of the occupations; on the other half they have "
        f"{' and '.join(held_out) or 'an unknown share'} of {BASELINE}'s next-word disparity. "
        f"{after_longer_training(longer)}By `{made['command']}` at {made['commit']} ({machine_of(made['machine'])}). "
        f"More: [STUDY.md](tests/benchmarks/STUDY.md); rival methods beside this one: "
        "[RIVALS.md](tests/benchmarks/RIVALS.md)."
    )
    shown = [rows[name] for name in dict.fromkeys((*README_ROWS, *chosen)) if name in rows]
    lines = [
        f"![{ALT}]({FIGURE.relative_to(REPOSITORY)})",
        "",
        *wrapped(text),
        "",
        *table(results, shown, README_SCORES, value),
    ]
    return "\n".join(lines)


def promise(results: Results) -> str:
    """The README's first sentence of figures; nothing where they were not measured."""
    if (row := by_name(results).get(PROMISED)) is None:
        return ""
    ratios = [known(ratio(row, score), inf) for score in ("next_word_disparity", "corpus_disparity", "perplexity")]
    if inf in ratios:
        return ""
    prompts, text, perplexity = ratios
    return "\n".join(
        wrapped(
            f"**{1 - prompts:.0%} less gender disparity after prompts and {1 - text:.0%} less in running text, for "
            f"{perplexity - 1:.1%} of perplexity**: a student of half of the teacher's layers beside one that was "
            "distilled without mitigation, on the same text and for as many steps (three seeds of the study "
            f"[below](#results-of-the-study)). {what_it_breaks(results, row)}"
        )
    )


def what_it_breaks(results: Results, row: Row) -> str:
    """A sentence: of a row's scores beside what is mitigated those that are worse than plain's, for sure."""
    judged = [score for score, card in results["cards"].items() if card["side"]]
    told = {label(results, score): low for score in judged if (low := (worse(row, score) or {}).get("low")) is not None}
    names = [name for name, low in told.items() if low > ROUNDING]
    got = f"{len(names)} got worse by more than their interval: {'; '.join(names)}" if names else "none got worse"
    return f"Of {len(told)} scores beside these, {got}."


def figure(results: Results) -> str | None:
    """The study's figure with the rows that matter: the others lie so close that their names would collide."""
    kept = {*FIGURE_ROWS, *best(results)}
    return pareto({**results, "rows": [row for row in results["rows"] if row["name"] in kept]})


def after_longer_training(longer: Results) -> str:
    """A sentence and a space; nothing where no setting was measured."""
    for name in best(longer, most=1):
        row, steps = by_name(longer)[name], longer["settings"]["trainer"]["max_steps"]
        shares = [f"{cell(ratio(row, metric))} of its {label(longer, metric)}" for metric in DISPARITIES[:2]]
        # Intervals of before took the prompts of each seed for others.
        before = " (in the study before, see STUDY.md)" if "within a seed" in longer["settings"]["interval"] else ""
        return f"After {steps:,} steps of both{before}, {name} has {' and '.join(shares)}. "
    return ""


def published(results: Results) -> str:
    """study.json as it is kept with the code: six significant digits, a row a line."""
    kept = rounded(results)
    rows = ",\n".join(json.dumps(row) for row in kept.pop("rows"))
    rest = json.dumps(kept, indent=1)
    return f'{{"rows": [\n{rows}\n],{rest[1:]}\n'


def rounded(content: Any) -> Any:
    """The same JSON with six significant digits of every fraction."""
    if isinstance(content, Mapping):
        return {key: rounded(item) for key, item in content.items()}
    if isinstance(content, list):
        return [rounded(item) for item in content]
    return float(f"{content:.6g}") if isinstance(content, float) else content


def main(arguments: Sequence[str]) -> None:
    """Publish a study, see the head of this module."""
    for path, made in zip((RESULTS, LONGER), arguments, strict=False):
        path.write_text(published(json.loads(Path(made).read_text(encoding="utf-8"))), encoding="utf-8")
    results, longer = (json.loads(path.read_text(encoding="utf-8")) for path in (RESULTS, LONGER))
    FIGURE.write_text(figure(results) or "", encoding="utf-8")
    for path, begin, end, content in (
        (PAGE, BEGIN_LONGER, END_LONGER, longer_training(results, longer)),
        (PAGE, BEGIN, END, page(results)),
        (README, BEGIN_PROMISE, END_PROMISE, promise(results)),
        (README, BEGIN, END, readme_results(results, longer)),
    ):
        path.write_text(between_markers(path.read_text(encoding="utf-8"), begin, end, content), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
