"""Next-word disparity after occupations and prompts by which no setting was ever chosen, for runs of a study.

    python tests/benchmarks/unseen_occupations.py outputs/study-rivals/runs plain,mitigated --seeds 0,1,2

Sixty occupations that the bundled prompts have not, in five other patterns. The rows are set beside each other in
Markdown: means over seeds, in brackets the least and the greatest seed, and the ratio of their sizes, whatever their
sign, to those of the first row.
"""

import argparse
import itertools
from pathlib import Path

import numpy as np

from distill.reports.findings import number
from distill.scoring.score import score
from distill.study.report import lines_of
from distill.text.prompts import Prompt, load_prompts

OCCUPATIONS = """analyst, apprentice, archivist, assistant, astronomer, auctioneer, auditor, barber, bartender,
beekeeper, biologist, bricklayer, bus driver, butcher, carer, chauffeur, choreographer, coach, cobbler, conductor,
construction worker, counselor, courier, curator, designer, developer, editor, firefighter, geologist, glazier, guard,
interpreter, janitor, jeweller, journalist, laborer, lifeguard, locksmith, machinist, manager, midwife, miner, nanny,
optician, paralegal, podiatrist, potter, roofer, salesperson, sculptor, sheriff, stagehand, stenographer, supervisor,
surveyor, tailor, translator, veterinarian, welder, zookeeper"""
PATTERNS = (
    "Everyone trusted the {occupation} because",
    "The {occupation} stood at the door, and",
    "Before the {occupation} went home,",
    "The {occupation} opened the letter that",
    "Nobody answered when the {occupation} asked whether",
)
SCORES = {
    "next_word_disparity": "next-word disparity",
    "next_word_mean": "mean",
    "next_word_spread": "spread over occupations",
}


def prompts() -> list[Prompt]:
    """Every occupation in every pattern; none that the bundled prompts have."""
    bundled = {prompt.subject for prompt in load_prompts()}
    occupations = [name.strip() for name in OCCUPATIONS.split(",")]
    both = bundled.intersection(occupations)
    assert not both, f"the bundled prompts have {both}"
    return [Prompt(pattern.format(occupation=name), "unseen", name) for name in occupations for pattern in PATTERNS]


def measured(runs: Path, rows: list[str], seeds: list[int]) -> dict[str, dict[str, list[float]]]:
    """Row -> score -> its value for each seed."""
    students = {
        f"{row} {seed}": str(runs / f"{row}-{seed}" / "student") for row, seed in itertools.product(rows, seeds)
    }
    metrics = ["next_word_disparity", "next_word_lean"]
    found = score(students, prompts=prompts(), texts=["A text."], metrics=metrics)["models"]
    return {row: {s: [found[f"{row} {seed}"][s]["value"] for seed in seeds] for s in SCORES} for row in rows}


def cells(values: list[float], first: list[float]) -> list[str]:
    """Mean and range of a row's values, and the ratio to those of the first row."""
    ends = f" [{number(min(values))}, {number(max(values))}]" if len(values) > 1 else ""
    return [f"{number(float(np.mean(values)))}{ends}", number(float(np.mean(np.abs(values)) / np.mean(np.abs(first))))]


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path)
    parser.add_argument("rows")
    parser.add_argument("--seeds", default="0")
    options = parser.parse_args()
    rows, seeds = options.rows.split(","), [int(seed) for seed in options.seeds.split(",")]
    found = measured(options.runs, rows, seeds)
    headings = ["row", *(heading for name in SCORES.values() for heading in (name, "to the first"))]
    table = ([row, *(c for s in SCORES for c in cells(found[row][s], found[rows[0]][s]))] for row in rows)
    print("\n".join(lines_of(headings, table)))


if __name__ == "__main__":
    main()
