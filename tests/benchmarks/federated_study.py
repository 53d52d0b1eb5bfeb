"""Outputs of the federated studies -> the tables of FEDERATED.md, and the figure beside it.

    python tests/benchmarks/federated_study.py people=outputs/study-federated fiction=outputs/study-federated-fiction

reads study.json, what each run kept of its rounds, and clients.json of `federated_clients.py` where it is there; prints
the tables of each study and writes `federated.svg` beside this file. What they mean is written by hand.
"""

import json
import statistics
import sys
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

from markupsafe import Markup

from distill.reports.figures import alone, curves
from distill.reports.findings import cell, number
from distill.study.report import Results, how_averaged, lines_of

FIGURE = Path(__file__).with_name("federated.svg")
SCORES = {
    "next_word_disparity": "next-word disparity",
    "corpus_disparity": "corpus disparity",
    "equivariance_gap": "equivariance gap",
    "perplexity": "perplexity",
}
WATCHED = {"next_word_disparity": "next-word disparity", "perplexity": "perplexity"}
CENTRALISED = "centralised"
SHOWN_ROUNDS = (1, 2, 4, 8, 12)
# Rows of the figure -> their styles.
CURVES = {"uniform-plain": "none", "uniform": "expmean", "activity": "mean", "prox": "max", "opt": "swap"}
_HEIGHT = 250  # of a panel


def score_table(results: Results) -> list[str]:
    """Markdown lines: the scores of each row, and how many times those of the row in one place they are."""
    places = {row["name"]: row["metrics"] for row in results["rows"]}
    rows = []
    for name, metrics in places.items():
        ratios = [_ratio(metrics, places.get(CENTRALISED, {}), score) for score in WATCHED]
        rows.append([name, *(cell(metrics.get(s)) for s in SCORES), *ratios])
    return lines_of(["row", *SCORES.values(), "disparity, to one place", "perplexity, to one place"], rows)


def _ratio(metrics: dict[str, Any], others: dict[str, Any], score: str) -> str:
    ours, theirs = (of.get(score, {}).get("value") for of in (metrics, others))
    return f"{ours / theirs:.2f}" if ours is not None and theirs else "–"


Rounds = dict[str, list[dict[str, float]]]  # row -> of each round, the means over seeds


def rounds_of(folder: Path, results: Results) -> Rounds:
    """What was watched after each round, and how many tokens were trained on and megabytes sent back until then.

    Rows that were not watched are left out.
    """
    kept: Rounds = {}
    for row in results["rows"]:
        paths = [folder / "runs" / f"{row['name']}-{seed}" / "federation" / "student.json" for seed in row["seeds"]]
        seeds = [_entries(json.loads(path.read_text(encoding="utf-8"))) for path in paths if path.exists()]
        if len(seeds) == len(paths) and WATCHED.keys() <= seeds[0][-1].keys():
            kept[row["name"]] = [_means(of_round) for of_round in zip(*seeds, strict=True)]
    return kept


def _entries(records: Sequence[dict[str, Any]]) -> list[dict[str, float]]:
    tokens, sent = (list(accumulate(record[what] for record in records)) for what in ("tokens", "bytes"))
    return [
        {**record["scores"], "round": float(record["round"]), "tokens": read / 1e3, "megabytes": way / 1e6}
        for record, read, way in zip(records, tokens, sent, strict=True)
    ]


def _means(entries: Sequence[dict[str, float]]) -> dict[str, float]:
    return {name: statistics.fmean(entry[name] for entry in entries) for name in entries[0]}


def round_table(rounds: Rounds) -> list[str]:
    """Markdown lines: what was watched after some rounds, and what was read and sent back until the last one."""
    shown = [r for r in SHOWN_ROUNDS if r <= max(map(len, rounds.values()), default=0)]
    headings = [f"{words} after {r}" for words in ("disparity", "perplexity") for r in shown]
    rows = []
    for row, of_row in rounds.items():
        watched = [number(of_row[r - 1][score]) for score in WATCHED for r in shown]
        ends = (f"{of_row[-1][what]:,.0f}" for what in ("tokens", "megabytes"))
        rows.append([row, *watched, *ends])
    return lines_of(["row", *headings, "thousand tokens", "MB sent"], rows)


def client_table(found: Sequence[dict[str, Any]]) -> list[str]:
    """Markdown lines: for each deal and row, disparity and perplexity over clients, means over seeds."""
    rows = []
    kept: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for entry in found:
        kept.setdefault((entry["deal"], entry["row"]), []).append(entry["over"])
    for (deal, row), seeds in kept.items():
        disparity, perplexity = (
            [
                number(statistics.fmean(take(over[score][key]) for over in seeds))
                for key, take in (("mean", float), ("spread", float), ("worst", worst))
            ]
            for score, worst in (("corpus_disparity", abs), ("perplexity", float))
        )
        rows.append([deal, row, *disparity, *perplexity])
    of_scores = ["mean disparity", "spread", "worst", "mean perplexity", "spread", "worst"]
    return lines_of(["clients", "row", *of_scores], rows)


def figure(studies: dict[str, tuple[Results, Rounds]]) -> str:
    """Disparity and perplexity against rounds and against tokens, for each study, as an SVG file."""
    panels = []
    for name, (results, rounds) in studies.items():
        in_one_place = next(row for row in results["rows"] if row["name"] == CENTRALISED)["metrics"]
        for across, unit in (("round", "round"), ("tokens", "thousand tokens that clients trained on")):
            for score, words in WATCHED.items():
                lines = [
                    (style, [(entry[across], entry[score]) for entry in rounds[row]])
                    for row, style in CURVES.items()
                    if row in rounds
                ]
                places = [x for _, points in lines for x, _ in points]
                level = in_one_place[score]["value"]
                lines.append(("teacher", [(min(places), level), (max(places), level)]))
                panels.append(curves(lines, f"{words} over {name}", (unit, f"{words}, {name}"), [level]))
    panel = '<svg x="{}%" y="{}" width="49%" height="{}">{}</svg>'
    drawn = [
        Markup(panel).format(51 * (place % 2), place // 2 * _HEIGHT, _HEIGHT, figure)
        for place, figure in enumerate(panels)
    ]
    height = _HEIGHT * len(panels) // 2
    whole = Markup('<svg width="100%" height="{}">{}</svg>').format(height, Markup("").join(drawn))
    legend = [(f"curve {style}", "line", row) for row, style in CURVES.items()]
    legend.append(("curve teacher", "line", f"{CENTRALISED}, at its end"))
    notes = ["Means over seeds. 16 clients, half of them a round, alpha 0.1. Only uniform-plain is not mitigated."]
    return alone(whole, "Does mitigation survive federation?", legend, notes)


def main(*given: str) -> None:
    """Print the tables and draw the figure."""
    studies = {}
    for argument in given:
        name, _, path = argument.partition("=")
        folder = Path(path)
        results = json.loads((folder / "study.json").read_text(encoding="utf-8"))
        studies[name] = results, rounds_of(folder, results)
        made = results["made"]
        print(f"\n## {name}\n\nBy `{made['command']}` at {made['commit']} ({made['machine']}).", how_averaged(results))
        print("", *score_table(results), "", *round_table(studies[name][1]), sep="\n")
        if (clients := folder / "clients.json").exists():
            print("", *client_table(json.loads(clients.read_text(encoding="utf-8"))), sep="\n")
    FIGURE.write_text(figure(studies), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
