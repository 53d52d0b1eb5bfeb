"""study.json of `recipes/study/rivals.yaml` -> what RIVALS.md shows of it: tables, figure, what each row made worse.

    python tests/benchmarks/rivals.py STUDY.json MORE.json ANSWERS.json

keeps the studies as `rivals.json`, `rivals-more.json` (rows that came later) and `rivals-answers.json` (StereoSet and
BBQ, which take hours, of the rows that can be asked in that time) beside this file, draws `rivals.svg`, and writes what
stands between the markers of RIVALS.md. Files that are not given stay as they were published. What the figures mean is
written by hand.
"""

import json
import math
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from publish_study import beside_what_is_mitigated, by_name, machine_of, published, wrapped

from distill.base.markdown_text import between_markers
from distill.metrics import METRICS, cards
from distill.reports.findings import ROUNDING, cell
from distill.study.report import (
    Entry,
    Results,
    Row,
    cost_cells,
    how_averaged,
    lines_of,
    pareto,
    ratio,
    scores_of,
    table,
    value,
    worse,
)
from distill.study.schema import BASELINE

PAGE = Path(__file__).with_name("RIVALS.md")
FIGURE = PAGE.with_name("rivals.svg")
STUDIES = tuple(PAGE.with_name(f"rivals{part}.json") for part in ("", "-more", "-answers"))
BEGIN, END = "<!-- results -->", "<!-- /results -->"
ALT = "Next-word disparity against perplexity of the rivals"
# The columns of the table: what is mitigated, what may break, what it costs.
SCORES = {
    "next_word_disparity": "next-word disparity",
    "next_word_mean": "mean",
    "next_word_spread": "spread",
    "corpus_disparity": "corpus disparity",
    "equivariance_gap": "equivariance gap",
    "agreement_kept": "agreement kept",
    "agreement_log_ratio": "its log ratio",
}
RATIOS = {
    "next_word_disparity_chosen": "disparity, to plain, half that chooses",
    "next_word_disparity_held_out": "the other half",
    "perplexity": "perplexity, to plain",
}
WORSE = "worse than plain"
SIDE = ("crows_pairs_", "stereoset_", "bbq_")


def main_table(results: Results) -> list[str]:
    """Markdown lines: disparity, agreement, side effects, perplexity to plain's, and costs, a row each."""
    headings = ["row", *SCORES.values(), *RATIOS.values(), WORSE, "training, s", "a step, s", "a token, ms"]
    cards = results.get("cards", {})
    side = [score for score, card in cards.items() if card.get("side")]
    return lines_of(headings, ([row["name"], *_cells(row, side)] for row in results["rows"]))


def _cells(row: Row, side: Sequence[str]) -> list[str]:
    ratios = ["1" if row["name"] == BASELINE else cell(ratio(row, score)) for score in RATIOS]
    return [*(cell(row["metrics"].get(score)) for score in SCORES), *ratios, _worse(row, side), *cost_cells(row)]


def _worse(row: Row, side: Sequence[str]) -> str:
    """How many of the scores beside what is mitigated are worse than plain's, by more than their interval."""
    lows = [found["low"] for score in side if (found := worse(row, score)) and found["low"] is not None]
    return f"{sum(low > ROUNDING for low in lows)} of {len(lows)}" if lows else "–"


def side_tables(results: Results) -> list[str]:
    """Markdown lines: for each benchmark the types of bias that were measured, a row each."""
    lines: list[str] = []
    first = results["rows"][0]["metrics"]
    measured = [score for score in scores_of(results) if first[score]["value"] is not None]
    for benchmark in SIDE:
        scores = [score for score in measured if score.startswith(benchmark)]
        if scores:
            lines += ["", *table(results, results["rows"], scores, value)]
    return lines


def joined(studies: Sequence[Results]) -> Results:
    """One study with the rows and the scores of several: a row has what the first that measured a score found."""
    first, *others = studies
    rows, cards = by_name(first), dict(first["cards"])
    for study in others:
        for name, row in by_name(study).items():
            known = rows.get(name, row)
            rows[name] = {**known, **{key: {**row[key], **known[key]} for key in ("metrics", "against_plain")}}
        cards = {**study["cards"], **cards}
    files = [study["settings"]["study"] for study in reversed(studies)]
    named = {
        key: {name: keys for file in files for name, keys in file[key].items()} for key in ("teachers", "students")
    }
    settings = {**first["settings"], "study": {**first["settings"]["study"], **named}}
    return {**first, "rows": list(rows.values()), "cards": cards, "settings": settings}


def judged(results: Results) -> Results:
    """A study with all scores beside what is mitigated that there are today: since it was made, those that have no
    ideal are judged as well, by how much lower they are. That is the paired difference of sizes, which the study has.
    """
    since = [
        card.name
        for metric in METRICS.values()
        for card in cards(metric)
        if card.name in results["cards"] and card.aim == math.inf and not results["cards"][card.name]["side"]
    ]
    told = {score: {**results["cards"][score], "side": True} for score in since}
    rows = [{**row, "against_plain": {**row["against_plain"], **_lower(row, since)}} for row in results["rows"]]
    return {**results, "cards": {**results["cards"], **told}, "rows": rows}


def _lower(row: Row, scores: Iterable[str]) -> dict[str, Any]:
    """What was found of a row's scores beside plain's, with by how much they are lower as `farther`."""
    beside = {score: found for score in scores if (found := row["against_plain"].get(score))}
    return {score: {**found, "farther": _negated(found["difference"])} for score, found in beside.items()}


def _negated(entry: Entry) -> Entry:
    """Minus a value, with its interval."""
    ends = {"value": "value", "low": "high", "high": "low"}
    return {**entry, **{end: None if (x := entry[other]) is None else -x for end, other in ends.items()}}


def page(studies: Sequence[Results]) -> str:
    """What RIVALS.md holds between its markers."""
    results, more, answers = studies
    made = [
        f"`{told['command']}` at {told['commit']} ({machine_of(told['machine'])}, jobs: {told['machine']['jobs']})"
        for told in (study["made"] for study in studies)
    ]
    later = [row["name"] for row in more["rows"] if row["name"] not in by_name(results)]
    told = f"By {made[0]}; {' and '.join(later)} by {made[1]}; StereoSet and BBQ by {made[2]}. {how_averaged(results)}"
    both = joined(studies)
    lines = [*main_table(both), "", f"![{ALT}]({FIGURE.name})", "", *beside_what_is_mitigated(both)]
    return "\n".join([*wrapped(told), "", *lines, *side_tables(joined((results, more))), *side_tables(answers)])


def main(arguments: Sequence[str]) -> None:
    """Publish the studies, see the head of this module."""
    for path, made in zip(STUDIES, arguments, strict=False):
        path.write_text(published(json.loads(Path(made).read_text(encoding="utf-8"))), encoding="utf-8")
    studies = [judged(json.loads(path.read_text(encoding="utf-8"))) for path in STUDIES]
    FIGURE.write_text(pareto(joined(studies)) or "", encoding="utf-8")
    text = between_markers(PAGE.read_text(encoding="utf-8"), BEGIN, END, page(studies))
    PAGE.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
