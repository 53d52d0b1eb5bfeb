"""study.json -> what every study shows: tables with intervals, study.md, and the Pareto figure as SVG.

All of it is computed from study.json, whose layout `distill.study.run.run_study` gives. What a score is called, and
whether it is a disparity or a cost, is told by the cards there; an older file without them has its scores' names for
headings, and no figure.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from textwrap import wrap
from typing import Any

from distill.reports.figures import Point, alone, pareto_front, scatter
from distill.reports.findings import MEMORY, cell, number, worse_sentence
from distill.reports.page import trade_off_point
from distill.study.against import comparable
from distill.study.schema import BASELINE, HALVES

Results = Mapping[str, Any]
Row = Mapping[str, Any]
Entry = Mapping[str, Any]

_HIGHEST_COST = 1.5  # ratio to plain, in the figure; beyond, all others would be crowded together
_NOTE_LENGTH = 120  # letters that fit below the figure
_WORSE = "Below 0 where a score is better; worse is farther from its ideal or, where it has none, lower."
_REMEMBERS = MEMORY.capitalize()
_UNTRAINED, _ONCE, _TWICE = "teacher", "plain", "mitigated"  # shapes: square, circle, diamond


# ----------------------------------------------------------------------------------------------------------- scores


def part_of(results: Results, score: str) -> str:
    """The half of the occupations or the text of the study that a score is of; "" for all prompts and held-out text."""
    if score in results.get("cards", {}):
        return ""
    parts = (*HALVES, *results["settings"]["study"]["texts"])
    return max((part for part in parts if score.endswith(f"_{part}")), key=len, default="")


def label(results: Results, score: str) -> str:
    """The heading of a score: that of its card, and which half or text it is of."""
    part = part_of(results, score)
    name = score.removesuffix(f"_{part}")
    card = results.get("cards", {}).get(name)
    heading = card["label"] if card else name.replace("_", " ")
    return f"{heading}, {part.replace('_', ' ')}" if part else heading


def scores_of(results: Results) -> list[str]:
    """Every score that any row has, in order."""
    return list(dict.fromkeys(score for row in results["rows"] for score in row["metrics"]))


def score_groups(results: Results) -> dict[str, list[str]]:
    """Heading -> the scores of a table: first those that head a report or make its trade-off, last those of texts.

    What a model remembers is a table of its own.
    """
    cards = results.get("cards", {})
    groups: dict[str, list[str]] = {}
    for score in scores_of(results):
        part, card = part_of(results, score), cards.get(score, {})
        if part:
            heading = "Halves of the occupations" if part in HALVES else f"Text: {part}"
        elif card.get("role") == "memory":
            heading = _REMEMBERS
        elif cards and card.get("headline") is None and card.get("role") not in ("disparity", "cost"):
            heading = "Other scores"
        else:
            heading = "Scores"
        groups.setdefault(heading, []).append(score)
    order = ("Scores", "Other scores", _REMEMBERS, "Halves of the occupations")
    return {heading: groups[heading] for heading in dict.fromkeys((*order, *groups)) if heading in groups}


def trade_off(results: Results) -> tuple[str, str] | None:
    """(cost, disparity): the scores of the figure, the disparity that comes first in a report; None without them."""
    cards = results.get("cards", {})
    costs = [score for score, card in cards.items() if card.get("role") == "cost"]
    disparities = [score for score, card in cards.items() if card.get("role") == "disparity"]
    first = min(disparities, key=lambda score: cards[score].get("headline") or len(cards), default=None)
    return (costs[0], first) if costs and first else None


# ----------------------------------------------------------------------------------------------------------- tables


def value(row: Row, score: str) -> Entry | None:
    """A row's score."""
    return row["metrics"].get(score)


def ratio(row: Row, score: str) -> Entry | None:
    """A row's score as a multiple of that of the row it is set against."""
    return _beside(row).get(score, {}).get("ratio")


def worse(row: Row, score: str) -> Entry | None:
    """By how much a row's score is worse than that of the row it is set against: farther from its ideal or, where it
    has none, lower; below 0 where it is better.
    """
    return _beside(row).get(score, {}).get("farther")


def against(row: Row) -> str | None:
    """The name of the row that a row is set against; None of `plain`, and of another one that is set against none."""
    if "against" in row:
        name: str | None = row["against"]["row"]
        return name
    return BASELINE if row["name"] != BASELINE else None


def _beside(row: Row) -> Mapping[str, Any]:
    """What was found of a row's scores beside those of the row it is set against."""
    found: Mapping[str, Any] = row["against"]["metrics"] if "against" in row else row["against_plain"]
    return found


def _compared(results: Results) -> dict[str, list[Row]]:
    """Name of a row -> those that are set against it, `plain` first."""
    found: dict[str, list[Row]] = {BASELINE: []}
    for row in results["rows"]:
        if (other := against(row)) is not None and _beside(row):
            found.setdefault(other, []).append(row)
    return {other: rows for other, rows in found.items() if rows} or found


def lines_of(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Markdown lines of a table whose cells are Markdown already: nothing is escaped."""
    lines = ["| " + " | ".join(headings) + " |", "|---" * len(headings) + "|"]
    return [*lines, *("| " + " | ".join(row) + " |" for row in rows)]


def table(
    results: Results, rows: Iterable[Row], scores: Sequence[str], entry: Callable[[Row, str], Entry | None]
) -> list[str]:
    """Markdown lines: one row of the study a line, one score a column.

    Args:
        results: Names the scores.
        rows: Those of `results`, or others in their form.
        scores: The columns.
        entry: What is shown of a row and a score: `value`, `ratio`.
    """
    headings = ["row", *(label(results, s) for s in scores)]
    return lines_of(headings, ([row["name"], *(cell(entry(row, s)) for s in scores)] for row in rows))


def score_tables(results: Results, groups: Mapping[str, Sequence[str]]) -> list[str]:
    """Markdown lines: for each group of scores the values and the ratios to `plain`, and to others that rows are set
    against, then what was not measured.

    Of 52 and 51, where 50 is ideal, a ratio would say nothing: such scores are left to `side_effects`.

    Args:
        results: The study.
        groups: Heading -> scores; those that no row has are left out.
    """
    lines: list[str] = []
    there = set(scores_of(results))
    by_distance = [s for s in _judged_by_distance(results) if results["cards"][s]["ideal"] is not None]
    compared = _compared(results)
    for heading, group in groups.items():
        if scores := [score for score in group if score in there]:
            lines += [f"## {heading}", "", *table(results, results["rows"], scores, value), ""]
            by_ratio = [score for score in scores if score not in by_distance]
            for other, rows in compared.items() if by_ratio else ():
                lines += [f"### {heading}: ratio to {other}", "", *table(results, rows, by_ratio, ratio), ""]
    missing = {entry["reason"] for row in results["rows"] for entry in row["metrics"].values() if entry.get("reason")}
    return lines + ["## Not measured", "", *(f"- {reason}" for reason in sorted(missing))] * bool(missing)


def side_effects(results: Results) -> list[str]:
    """Markdown lines: of the scores beside what is mitigated, how much worse a row's are than those of the row it is
    set against, and for each row the sentence on those that are so by more than their interval; none without such
    scores, nor of a study.json from before they were told.
    """
    shown = _judged_by_distance(results)
    if not shown:
        return []
    lines, compared = ["## Beside what is mitigated", ""], _compared(results)
    for other, rows in compared.items():
        for row in rows:
            looked_at = {label(results, score): entry for score in shown if (entry := worse(row, score)) is not None}
            told = sum(entry["low"] is not None for entry in looked_at.values())
            none = f"None of {told} scores is worse by more than its interval."
            said = worse_sentence(looked_at, other) or [none if told else "Not compared."]
            lines += [f"- {row['name']}: {' '.join(said)}"]
    lines += [""]
    for other, rows in compared.items():
        lines += [f"### How much worse than {other}", "", _WORSE, ""]
        lines += [*table(results, rows, shown, worse), ""]
    return lines


def _judged_by_distance(results: Results) -> list[str]:
    """The scores beside what is mitigated that a study compares by how far they lie from what is best."""
    side = [score for score, card in results.get("cards", {}).items() if card.get("side")]
    rows = results["rows"]
    return [score for score in side if any((worse(row, score) or {}).get("value") is not None for row in rows)]


def how_averaged(results: Results) -> str:
    """A sentence: over which seeds values are means, and what the intervals are."""
    seeds = results["rows"][0]["seeds"]
    word = "Means over seeds" if len(seeds) > 1 else "Seed"
    return f"{word} {', '.join(map(str, seeds))}; {results['settings']['interval']}."


def set_against(rows: Iterable[Row]) -> str:
    """A sentence: which rows are set against another one than `plain`; empty of rows without such."""
    named: dict[str | None, list[str]] = {}
    for row in rows:
        if "against" in row:
            named.setdefault(against(row), []).append(row["name"])
    told = [f"against {other or 'none'}: {', '.join(names)}" for other, names in named.items()]
    return f"Rows are set against {BASELINE}, but {'; '.join(told)}." if told else ""


def privacy_table(results: Results) -> list[str]:
    """Markdown lines: the epsilon of each row and the time of its steps; none of a study without private rows."""
    rows = [row for row in results["rows"] if "epsilon" in row]
    if not rows:
        return []
    cells = (
        [row["name"], "none" if row["epsilon"] is None else f"{row['epsilon']:g}", number(row["step_seconds"])]
        for row in rows
    )
    return ["## Privacy", "", *lines_of(["row", "epsilon", "seconds a step"], cells), ""]


def cost_table(results: Results) -> list[str]:
    """Markdown lines: what each row takes; none of a study that did not ask."""
    rows = [row for row in results["rows"] if "costs" in row]
    if not rows:
        return []
    headings = ["row", "training, s", "a step, s", "a token, ms"]
    return ["## Costs", "", *lines_of(headings, ([row["name"], *cost_cells(row)] for row in rows)), ""]


def cost_cells(row: Row) -> list[str]:
    """What a row takes: seconds of its training and of a step, milliseconds of a token."""
    training, step, token = (row["costs"][f"{name}_seconds"] for name in ("training", "step", "token"))
    return [number(training), number(step), number(None if token is None else 1000 * token)]


def markdown(results: Results) -> str:
    """study.md: what a row may have made worse, values with intervals, and the ratios to what rows are set against."""
    lines = ["# Study", "", how_averaged(results), ""]
    lines += [told, ""] if (told := set_against(results["rows"])) else []
    lines += [*privacy_table(results), *cost_table(results)]
    lines += [*side_effects(results), *score_tables(results, score_groups(results))]
    return "\n".join(lines) + "\n"


# ----------------------------------------------------------------------------------------------------------- figure


def pareto(results: Results) -> str | None:
    """A disparity against its cost with intervals, a point for each row, as an SVG file.

    The cost is set against plain distillation's, or another row's that a row names, paired: what documents have in
    common would hide the differences.
    Rows far beyond all others are named below. None where a study measured neither.
    """
    if (scores := trade_off(results)) is None:
        return None
    cost, disparity = (label(results, score) for score in scores)
    points = {row["name"]: point for row in results["rows"] if (point := _point(results, row, scores))}
    left_out = {name: x.text for name, (x, _) in points.items() if x.value > _HIGHEST_COST}
    shown = [row for row in results["rows"] if row["name"] in points.keys() - left_out.keys()]
    if not shown:
        return None
    title = f"What mitigation costs: {disparity} against {cost}"
    others = set_against(shown)
    owner = "that of the row that each is set against" if others else f"{BASELINE}'s"
    names = (f"{cost} as a multiple of {owner}", f"{disparity} (lower is better)")
    students_first = sorted(shown, key=lambda row: row["name"] in results["settings"]["study"]["teachers"])
    operations = dict.fromkeys(row["setting"]["op"] for row in students_first if row["setting"] is not None)
    legend = [
        *((f"{op} filled", _ONCE, "no operation" if op == "none" else op) for op in operations),
        *[("no-teacher", _ONCE, "without a teacher")] * any(_learns_without_a_teacher(results, row) for row in shown),
        ("key filled", _ONCE, "reverse_roles"),
        ("key", _ONCE, "without reverse_roles"),
        ("key", _TWICE, "with augmentation"),
        ("key", _UNTRAINED, "no training of its own"),
    ]
    students = results["settings"]["study"].get("students", {})
    weaker = any(keys.get("target", {}).get("strength", 1) != 1 for keys in students.values())
    strength = " A number behind a name: strength, in %." if weaker else ""
    notes = [f"Bars: 95% intervals over seeds, and over prompts or documents.{strength}"]
    notes += wrap(others, _NOTE_LENGTH)
    notes += [f"Not shown, far to the right, in the same units: {words}." for words in left_out.values()]
    drawn = [(*points[row["name"]], row["name"]) for row in shown]
    front = pareto_front((x.value, y.value) for x, y, name in drawn if name in students)
    notes += ["Dotted: from each student that no other one beats in both to the next."] * (len(front) > 1)
    return alone(scatter(drawn, title, names, _label_room(drawn), front), title, legend, notes)


def _point(results: Results, row: Row, scores: tuple[str, str]) -> tuple[Point, Point] | None:
    """A row in the figure: colour tells its operation, shape and filling tell the rest of its setting."""
    cost, disparity = scores
    name, setting = row["name"], row["setting"]
    study = results["settings"]["study"]
    teacher, untaught = name in study["teachers"], _learns_without_a_teacher(results, row)
    if setting is None:
        style = "no-teacher" if untaught else "teacher"
    else:
        style = "teacher" if teacher and setting["op"] == "none" else setting["op"]
        style += " filled" * setting["reverse_roles"]
    target = study["students"][name].get("target", {}) if untaught else setting
    mark = _UNTRAINED if teacher else _TWICE if target is not None and target.get("augment") else _ONCE
    costs = ratio(row, cost) if against(row) is not None else {"value": 1.0, "low": None, "high": None}
    names = label(results, cost), label(results, disparity)
    both = trade_off_point(costs, row["metrics"].get(disparity), names, style, name)
    if both is None:
        return None
    x, y = (replace(point, mark=mark) for point in both)
    return x, y


def _learns_without_a_teacher(results: Results, row: Row) -> bool:
    """Whether a row is a student that learns from text alone."""
    return row["setting"] is None and row["name"] in results["settings"]["study"].get("students", {})


def _label_room(points: Sequence[tuple[Point, Point, str]]) -> float:
    """Percent of the width that the names of points take, in a figure that is looked at by itself."""
    return max(26.0, 3.5 + 0.85 * max((len(name) for _, _, name in points), default=0))


def against_epsilon(results: Results) -> str | None:
    """A disparity against 1 / epsilon, a point for each private row and for the same setting without, as an SVG file.

    None of a study without private rows, or without a disparity.
    """
    private = [row for row in results["rows"] if row.get("epsilon") is not None]
    scores = trade_off(results)
    if not private or scores is None:
        return None
    settings = [row["setting"] for row in private]
    # The first row of a setting is the setting itself; others may have another teacher, or other text.
    without = [next((r for r in results["rows"] if _is_without(r, row)), None) for row in private]
    shown = {row["name"]: row for row in [*without, *private] if row is not None}
    disparity = label(results, scores[1])
    drawn = []
    for name, row in shown.items():
        entry, epsilon = row["metrics"].get(scores[1]), row["epsilon"]
        if entry is None or entry["value"] is None:
            continue
        x, words = (0.0, "no privacy") if epsilon is None else (1 / epsilon, f"epsilon {epsilon:g}")
        op = row["setting"]["op"] if row["setting"] is not None else "none"
        style = f"{op} filled"
        text = f"{name}, {words}: {disparity} {cell(entry)}"
        across = Point(x, None, None, style, text, _ONCE)
        drawn.append((across, replace(across, value=entry["value"], low=entry["low"], high=entry["high"]), name))
    if not drawn:
        return None
    title = f"What privacy does to {disparity}"
    names = ("1 / epsilon: 0 is no privacy, 1 is strict", f"{disparity} (lower is better)")
    operations = dict.fromkeys(setting["op"] if setting is not None else "none" for setting in settings)
    legend = [(f"{op} filled", _ONCE, "no mitigation" if op == "none" else op) for op in operations]
    notes = ["Bars: 95% intervals over seeds and prompts. Epsilon is of each student by itself."]
    return alone(scatter(drawn, title, names, label_room=_label_room(drawn)), title, legend, notes)


def _is_without(row: Row, private: Row) -> bool:
    """Whether a row is a private one's setting without privacy, and of the same models, as far as `against` tells."""
    if "epsilon" not in row or row["epsilon"] is not None or row["setting"] != private["setting"]:
        return False
    return comparable(row["name"], against(row), private["name"], against(private))
