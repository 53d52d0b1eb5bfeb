"""study.json of `recipes/study/rivals.yaml` -> the tables of RIVALS.md, and the figure beside it.

    python tests/benchmarks/rivals.py outputs/study-rivals/study.json

prints how it was made, the tables, and what each row made worse, and writes `rivals.svg` beside this file. What they
mean is written by hand.
"""

import json
import sys
from pathlib import Path

from distill.reports.findings import cell
from distill.study.report import (
    Results,
    Row,
    cost_cells,
    how_averaged,
    lines_of,
    pareto,
    scores_of,
    side_effects,
    table,
    value,
)
from distill.study.schema import BASELINE

FIGURE = Path(__file__).with_name("rivals.svg")
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
SIDE = ("crows_pairs_", "stereoset_", "bbq_")


def main_table(results: Results) -> list[str]:
    """Markdown lines: disparity, agreement, perplexity as a multiple of plain's, and costs, a row each."""
    headings = ["row", *SCORES.values(), "perplexity, to plain", "training, s", "a step, s", "a token, ms"]
    return lines_of(headings, ([row["name"], *_cells(row)] for row in results["rows"]))


def _cells(row: Row) -> list[str]:
    ratio = row["against_plain"].get("perplexity", {}).get("ratio")
    to_plain = "1" if row["name"] == BASELINE else cell(ratio)
    return [*(cell(row["metrics"].get(score)) for score in SCORES), to_plain, *cost_cells(row)]


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


def main(path: str) -> None:
    """Print the tables and draw the figure."""
    results = json.loads(Path(path).read_text(encoding="utf-8"))
    made = results["made"]
    print(f"By `{made['command']}` at {made['commit']} ({made['machine']}). {how_averaged(results)}\n")
    print("\n".join([*main_table(results), "", *side_effects(results), *side_tables(results)]))
    if (figure := pareto(results)) is not None:
        FIGURE.write_text(figure, encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1])
