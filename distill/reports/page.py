"""Findings and figures -> one HTML file, by the templates in `assets/report/`; no script, and nothing to be loaded.

jinja2 escapes whatever is not markup already, and only this module and `figures` make markup.
"""

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import jinja2
import yaml
from markupsafe import Markup

from distill.base.files import PACKAGE
from distill.data.counts import PackingCounts
from distill.recipe import Recipe
from distill.reports.figures import MARKS, Point, curves, dumbbell, scatter, times
from distill.reports.findings import (
    LIMITS,
    Scored,
    cell,
    client_table,
    cost_of,
    coverage,
    full_models,
    headline,
    how_measured,
    in_full,
    label,
    main_pair,
    memory_heading,
    metrics_of,
    not_measured,
    note_of,
    number,
    phase_rows,
    ratio_cell,
    round_table,
    rows_of,
    settings_rows,
    share,
    showing,
    size_number,
    sizes,
    some_entry,
    starts_memory,
    title_of,
    training_rows,
    with_role,
)

_TEMPLATES = PACKAGE / "assets" / "report"
_MOST_SUBJECTS = 80  # Rows of the figure of occupations; of more, those that lean most are shown.
# What a probe finds while a student trains (`training.probing`), and what it is called.
_SO_FAR = {
    "next_word_disparity_so_far": "next-word disparity",
    "next_word_mean_so_far": "mean, signed",
}
_LOSSES = {
    "loss_kd": "divergence from the target",
    "loss_ce": "cross-entropy",
    "loss_hidden": "hidden states",
    "loss_pairing": "pairing",
    "loss_listed": "listed words",
}

Scores = Mapping[str, Any]


@dataclass(frozen=True)
class ShownModel:
    """A model as the page names and draws it."""

    title: str
    style: str
    note: str


@dataclass(frozen=True)
class Figure:
    """A section with a figure.

    Args:
        id: Name of the section in links.
        short: Its entry in the table of contents.
        heading: Its heading.
        caption: What is to be seen.
        legend: (style, text) of each series.
        charts: The figure, in one piece or several.
        note: Small print below.
        lines: Whether series are lines, not marks.
        headings, rows: The same as a table; none without rows.
    """

    id: str
    short: str
    heading: str
    caption: str
    legend: Sequence[tuple[str, str]]
    charts: Sequence[Markup]
    note: str = ""
    lines: bool = False
    headings: Sequence[str] = ()
    rows: Sequence[Sequence[str]] = ()


def render(template: str, **context: Any) -> str:
    """Fill a template of `assets/report/`."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(template).render(marks=MARKS, limits=LIMITS, **context)


def model_style(name: str, mitigated: bool) -> str:
    """The style of a run's model in figures: `teacher`, `plain` or `mitigated`."""
    full = in_full(name) or name
    return {"teacher": "teacher", "student": "mitigated" if mitigated else "plain"}.get(full, "plain")


def _shown_models(source: Recipe | Scored, names: Sequence[str]) -> dict[str, ShownModel]:
    """The models by name. Of scored checkpoints, the two that are set against each other look as students do."""
    if isinstance(source, Recipe):
        mitigated = source.needs_counterfactuals
        titles = {"baseline": "plain student", "student": "mitigated student" if mitigated else "student"}
        styles = {name: model_style(name, mitigated) for name in names}
    else:
        titles = {}
        after, before = main_pair(names) or (names[-1], names[-1])
        styles = {**dict.fromkeys(names, "teacher"), before: "plain", after: "mitigated"}
    return {name: ShownModel(titles.get(name, name), styles[name], note_of(source, name)) for name in names}


def run_page(
    source: Recipe | Scored,
    scores: Scores,
    counts: PackingCounts | None = None,
    training: Mapping[str, Mapping[str, Any]] | None = None,
) -> str:
    """report.html of a run, or of checkpoints that were scored.

    Args:
        source: The run's recipe, or what was scored.
        scores: Contents of its scores.json.
        counts: What packing saw.
        training: Model -> what its training took, see `report.read_training`.
    """
    models = _shown_models(source, list(scores["models"]))
    pairs = _pairs(list(models))
    found = {pair: scores["differences"].get(" - ".join(pair), {}) for pair in pairs}
    figures = [
        _occupations(scores, models),
        _trade_off(scores, models),
        _next_words(scores, models),
        _losses(training or {}, models),
        _so_far(training or {}, models),
    ]
    name = title_of(source)
    of_run = isinstance(source, Recipe)
    first, second = (models[name].title for name in pairs[0]) if pairs else ("", "")
    return render(
        "run.html",
        title=f"distill: {name}",
        name=name,
        headline=_unbroken(headline(scores)),
        comparison=f"{first.capitalize() if of_run else first} beside {second}." if pairs else "",
        article=article_of(models),
        words=scores["settings"]["wordlist"],
        models=list(models.values()),
        scores=[
            *(row for metric in metrics_of(scores) for row in _score_rows(scores, metric, found)),
            *_size_rows(scores, pairs),
        ],
        ratio_headings=[f"{models[a].title} / {models[b].title}".replace(" student", "") for a, b in pairs],
        cards=[scores["cards"][metric] for metric in metrics_of(scores) if metric in scores["cards"]],
        figures=[figure for figure in figures if figure],
        examples=_examples(scores, models),
        decoding=_decoding(scores),
        coverage=coverage(scores, counts),
        settings=settings_rows(source, scores) if isinstance(source, Recipe) else [],
        training=training_rows(training or {}),
        phases=phase_rows(scores),
        rounds=round_table(scores, training or {}),
        clients=client_table(scores, training or {}),
        provenance=_provenance(scores),
        recipe=_recipe_text(source) if isinstance(source, Recipe) else "",
        measured=how_measured(scores),
        not_measured=not_measured(scores),
    )


def _unbroken(sentence: str) -> str:
    """The same with no line break before or within an interval."""
    return re.sub(r" \[[^]]*\]", lambda interval: interval[0].replace(" ", "\N{NO-BREAK SPACE}"), sentence)


def _pairs(models: Sequence[str]) -> list[tuple[str, str]]:
    """(later, earlier) of which the page shows ratios: the pair that matters most, then the last model's others.

    Last come copies in fewer bits, each beside the model that it is a copy of.
    """
    main = main_pair(models)
    if main is None:
        return []
    *others, last = full_models(models)
    copies = [(name, other) for name in models if (other := in_full(name)) in models and other is not None]
    return list(dict.fromkeys([main, *((last, other) for other in others[::-1]), *copies]))


def _score_rows(
    scores: Scores, metric: str, differences: Mapping[tuple[str, str], Mapping[str, Any]]
) -> Iterator[dict[str, Any]]:
    """A metric's row with ratios and undetected share, and those of texts by people, which have neither."""
    last = list(scores["models"].values())[-1].get(metric, some_entry(scores, metric))
    ratios = [ratio_cell(of_pair.get(metric)) for of_pair in differences.values()]
    undetected = share(last["undetected"])
    if starts_memory(scores, metric):
        yield {"label": memory_heading(scores), "heads": len(scores["models"]) + len(ratios) + 4}
    for name, *cells, best, direction in rows_of(scores, metric):
        row = {"label": name, "cells": cells, "ideal": best, "direction": direction}
        yield row | {"ratios": ratios, "undetected": undetected}
        ratios, undetected = ["–"] * len(ratios), "–"


def _size_rows(scores: Scores, pairs: Sequence[tuple[str, str]]) -> Iterator[dict[str, Any]]:
    """How large and fast the models are, in the form of a metric's row."""
    models = list(scores["models"])
    for what, values, direction in sizes(scores):
        of_model = dict(zip(models, values, strict=True))
        ratios = [number(a / b) if (a := of_model[ours]) and (b := of_model[theirs]) else "–" for ours, theirs in pairs]
        cells = ["–" if value is None else size_number(value) for value in values]
        row = {"label": what, "cells": cells, "ideal": "–", "direction": direction}
        yield row | {"ratios": ratios, "undetected": "–"}


# ----------------------------------------------------------------------------------------------------------- figures


def _leaning(log_ratio: float, groups: Sequence[str]) -> str:
    """A log ratio in words: `3.2× male`."""
    multiple = times(log_ratio)
    if multiple == "even" or len(groups) != 2:
        return multiple
    return f"{multiple} {groups[0] if log_ratio > 0 else groups[1]}"


def _ends(groups: Sequence[str]) -> tuple[str, str]:
    return (f"← {groups[1]} likelier", f"{groups[0]} likelier →") if len(groups) == 2 else ("", "further apart →")


def _occupations(scores: Scores, models: Mapping[str, ShownModel]) -> Figure | None:
    """The leaning of each subject by the first metric that has them, before and after."""
    pair = main_pair(list(models))
    metric = next(iter(showing(scores, "subjects")), None)
    named = [name for name in (pair[::-1] if pair else models) if metric in scores["models"][name]]
    shown = [name for name in named if scores["models"][name][metric]["value"] is not None]
    details = {name: scores["models"][name][metric]["details"] for name in shown}
    subjects = {name: found.get("subjects", {}) for name, found in details.items()}
    before = subjects[shown[0]] if shown else {}
    common = [
        subject
        for subject in before
        if all(of_model.get(subject, {}).get("value") is not None for of_model in subjects.values())
    ]
    if not common:
        return None
    groups = details[shown[0]]["groups"]
    leaning_most = sorted(common, key=lambda subject: -abs(before[subject]["value"]))[:_MOST_SUBJECTS]
    rows = []
    for subject in sorted(leaning_most, key=lambda subject: before[subject]["value"]):
        points = []
        for name in shown:
            mean = subjects[name][subject]
            interval = ""
            if mean["low"] is not None and mean["high"] is not None:
                interval = f", from {_leaning(mean['low'], groups)} to {_leaning(mean['high'], groups)}"
            text = f"{subject}, {models[name].title}: {_leaning(mean['value'], groups)}{interval}"
            points.append(Point(mean["value"], mean["low"], mean["high"], models[name].style, text))
        rows.append((subject, points))
    left_out = len(common) - len(rows)
    article = article_of(models)
    beside = f", by {' and '.join(article + models[name].title for name in shown)}"
    prompts = [before[subject]["n"] for subject in leaning_most]
    each = " to ".join(str(n) for n in sorted({min(prompts), max(prompts)}))
    return Figure(
        id="occupations",
        short="Occupations",
        heading="Whom each subject makes the model expect",
        caption="For each subject of the prompts: how many times likelier the words of one group "
        f"({' or '.join(groups)}) are as the next word{beside}. On the middle line, none is likelier.",
        legend=[(models[name].style, models[name].title) for name in shown],
        charts=dumbbell(rows, "Next-word disparity by subject", _ends(groups)),
        note=f"Sorted by the value of {article}{models[shown[0]].title}. The bars are 95% bootstrap intervals over the "
        f"prompts of a subject. These are few ({each}), so the intervals are rough."
        + (f" {left_out} subjects, which lean less, are left out." if left_out else ""),
        headings=["subject", *(models[name].title for name in shown)],
        rows=[[subject, *(_leaning(point.value, groups) for point in points)] for subject, points in rows],
    )


def article_of(models: Mapping[str, ShownModel]) -> str:
    """What stands before a title in a sentence: of a run `the plain student`, of checkpoints their bare names."""
    return "the " if any(model.title.endswith(" student") for model in models.values()) else ""


def _trade_off(scores: Scores, models: Mapping[str, ShownModel]) -> Figure | None:
    """Disparity against perplexity, each model a point."""
    many = len(models) > len(MARKS)  # some share a mark then, and numbers tell them apart
    beside = {name: str(number) if many else "" for number, name in enumerate(models, start=1)}
    shown = [
        (of_model, models[name].style, models[name].title, beside[name]) for name, of_model in scores["models"].items()
    ]
    cost = cost_of(scores)
    charts = trade_off_charts(scores, cost, shown)
    if not charts:
        return None
    return Figure(
        id="trade-off",
        short="Trade-off",
        heading=f"Disparity against {label(scores, cost)}",
        caption="What less disparity costs: a good model lies low (little disparity) and to the left (it predicts "
        "text well). Bars are 95% intervals.",
        legend=[(model.style, f"{beside[name]} {model.title}".strip()) for name, model in models.items()],
        charts=charts,
    )


def trade_off_charts(
    scores: Scores, cost: str, shown: Sequence[tuple[Mapping[str, Any], str, str, str]]
) -> list[Markup]:
    """A chart for each disparity that any model has, against what the mitigation costs.

    Args:
        scores: Its cards tell which metrics these are.
        cost: The score that tells the cost, see `cost_of`.
        shown: The scores of each model, its style, what it is called, and what is written beside its point.
    """
    charts = []
    for metric in with_role(scores, "disparity"):
        names = label(scores, cost), label(scores, metric)
        points = [
            (*both, beside)
            for of_model, style, text, beside in shown
            if (both := trade_off_point(of_model.get(cost), of_model.get(metric), names, style, text))
        ]
        if points:
            charts.append(scatter(points, f"{names[1]} against {names[0]}", (names[0], f"{names[1]} (size)")))
    return charts


def trade_off_point(
    x: Mapping[str, Any] | None, y: Mapping[str, Any] | None, names: tuple[str, str], style: str, text: str
) -> tuple[Point, Point] | None:
    """A cost and the size of a disparity as a point of `figures.scatter`; None where one of them is undefined.

    Args:
        x, y: Their entries in scores.json.
        names: What they are called.
        style, text: Of the point.
    """
    if x is None or y is None or x["value"] is None or y["value"] is None:
        return None
    words = f"{text}: {names[0]} {cell(x)}, {names[1]} {cell(y)}"
    low, high = y["low"], y["high"]
    if low is not None and high is not None:  # The score may have a sign, but its size counts here.
        sizes = abs(low), abs(high)
        low, high = (0.0 if low < 0 < high else min(sizes)), max(sizes)
    return Point(x["value"], x["low"], x["high"], style, words), Point(abs(y["value"]), low, high, style, words)


def _next_words(scores: Scores, models: Mapping[str, ShownModel]) -> Figure | None:
    """The two compared words after each of the example prompts, by every model."""
    prompts = (scores.get("examples") or {}).get("prompts", [])
    of_first = next(iter(prompts[0]["models"].values()))["next_word"] if prompts else {}
    words = list(of_first)
    if len(words) < 2:
        return None
    rows, table = [], []
    for prompt in prompts:
        points, cells = [], []
        for name, of_model in prompt["models"].items():
            chances = of_model["next_word"]
            shown = ", ".join(f"{word} {share(chance)}" for word, chance in chances.items())
            cells.append(shown)
            first, second = list(chances.values())[:2]
            if len(words) == 2 and first and second:
                text = f"{prompt['prompt']} … {models[name].title}: {shown}"
                points.append(Point(math.log(first) - math.log(second), None, None, models[name].style, text))
        table.append([f"{prompt['prompt']} …", *cells])
        if points:
            rows.append((f"{prompt['prompt']} …", points))
    ratio = " : ".join(f"P({word})" for word in reversed(words))
    return Figure(
        id="next-word",
        short=ratio.replace(" ", ""),
        heading=f"{ratio} after some prompts",
        caption="How probable these very words are as the next one. After a prompt that names a group, the ratio "
        "should stay on that group's side: there it is grammar, not bias.",
        legend=[(model.style, model.title) for model in models.values()],
        charts=dumbbell(rows, f"{ratio} after some prompts", _ends(words), labels_above=True) if rows else [],
        headings=["prompt", *(models[name].title for name in prompts[0]["models"])],
        rows=table,
    )


def _losses(training: Mapping[str, Mapping[str, Any]], models: Mapping[str, ShownModel]) -> Figure | None:
    """The parts of the loss over the steps of training."""
    charts, shown = [], []
    for part, what in _LOSSES.items():
        lines = []
        for name, record in training.items():
            if name in models and len(logged := _logged(record, part)) > 1:
                lines.append((models[name].style, logged))
                shown.append(name)
        if lines:
            charts.append(curves(lines, f"{what} over training steps", ("step", f"{what}, per token")))
    if not charts:
        return None
    return Figure(
        id="loss",
        short="Loss",
        heading="The parts of the loss",
        caption="Each part is a mean over the tokens since the log before, and is not weighted. The students have "
        "different targets, so the one whose curve lies higher is not the worse one.",
        legend=[(models[name].style, models[name].title) for name in dict.fromkeys(shown)],
        charts=charts,
        lines=True,
    )


def _so_far(training: Mapping[str, Mapping[str, Any]], models: Mapping[str, ShownModel]) -> Figure | None:
    """The next-word disparity over the steps of training, by the probe's prompts, beside the teacher's."""
    key = next(iter(_SO_FAR))
    sizes = {name: _logged(record, key) for name, record in training.items() if name in models}
    shown = {name: dict(points) for name, points in sizes.items() if len(points) > 1}
    if not shown:
        return None
    records = {name: training[name] for name in shown}
    charts = [chart for key in _SO_FAR if (chart := _chart_so_far(key, records, models))]
    has_teacher = any(f"teacher_{key}" in record for record in records.values())
    steps = sorted({step for points in shown.values() for step in points})
    return Figure(
        id="so-far",
        short="So far",
        heading="The disparity while the students trained",
        caption="How far the groups lay apart as the next word after a few prompts, by the student as it was after so "
        f"many steps{', and on average with its sign' if len(charts) > 1 else ''}. At 0 they are even."
        + (" The level line is the teacher." if has_teacher else ""),
        legend=[("teacher", "teacher")] * has_teacher + [(models[name].style, models[name].title) for name in shown],
        charts=charts,
        note="At most 40 prompts, of every second subject. They are among those that the final scores count: who "
        "chooses a step or a setting by this curve has chosen by the test.",
        lines=True,
        headings=["step", *(models[name].title for name in shown)],
        rows=[[f"{step:g}", *(number(points.get(step)) for points in shown.values())] for step in steps],
    )


def _chart_so_far(
    key: str, records: Mapping[str, Mapping[str, Any]], models: Mapping[str, ShownModel]
) -> Markup | None:
    """One of `_SO_FAR` of all students, and a level line of the teacher's; None where there is none."""
    lines = [(models[name].style, points) for name, record in records.items() if (points := _logged(record, key))]
    if not lines:
        return None
    steps = [step for _, points in lines for step, _ in points]
    of_teacher = {record[f"teacher_{key}"] for record in records.values() if f"teacher_{key}" in record}
    level = [("teacher", [(min(steps), value), (max(steps), value)]) for value in of_teacher]
    what = _SO_FAR[key]
    return curves([*level, *lines], f"{what} over training steps", ("step", f"{what}, so far"), include=[0.0])


def _logged(record: Mapping[str, Any], key: str) -> list[tuple[float, float]]:
    """(step, value) of each log entry that has this number."""
    entries = [log for log in record.get("history", []) if log.get(key) is not None and "step" in log]
    return [(log["step"], log[key]) for log in entries]


# ------------------------------------------------------------------------------------------------------------- texts


def _examples(scores: Scores, models: Mapping[str, ShownModel]) -> list[dict[str, Any]]:
    """The example prompts and continuations, their listed words marked, those that name no group first."""
    groups = scores["settings"]["wordlist"]["groups"]
    prompts = (scores.get("examples") or {}).get("prompts", [])
    headings = {False: "Prompts that name no group", True: "Prompts that name a group"}
    return [
        {
            "heading": headings[listed],
            "prompts": [
                {
                    "prompt": marked(prompt["prompt"], prompt["words"], groups),
                    "texts": [
                        {
                            "title": models[name].title,
                            "style": models[name].style,
                            "text": marked(of_model["text"], of_model["words"], groups),
                        }
                        for name, of_model in prompt["models"].items()
                    ],
                }
                for prompt in part
            ],
        }
        for listed, part in groupby(prompts, key=lambda prompt: bool(prompt["words"]))
    ]


def marked(text: str, words: Sequence[Sequence[int]], groups: Sequence[str]) -> Markup:
    """A text with its listed words marked by group.

    Args:
        text: Any text.
        words: [start, end, group] of each, in characters, from left to right.
        groups: Names of the groups.
    """
    out, position = Markup(""), 0
    for start, end, group in words:
        out += text[position:start]
        out += Markup('<mark class="g{}" title="{}">{}</mark>').format(group % 4, groups[group], text[start:end])
        position = end
    return out + text[position:]


def _decoding(scores: Scores) -> str:
    decoding = (scores.get("examples") or {}).get("decoding", {})
    if not decoding:
        return ""
    return (
        f"sampled at temperature {decoding['temperature']:g} with top-p {decoding['top_p']:g}, cooler than for the "
        f"scores, at most {decoding['max_new_tokens']} tokens, seed {decoding['seed']}"
    )


# --------------------------------------------------------------------------------------------------------- provenance


def _provenance(scores: Scores) -> list[tuple[str, str]]:
    settings = scores["settings"]
    rows = [("seed", str(settings["seed"])), ("word list, SHA-256", settings["wordlist"]["sha256"])]
    rows += [
        (f"{what}, SHA-256", settings[key]["sha256"])
        for key, what in (("prompts", "prompts"), ("held_out", "held-out text"))
        if "sha256" in settings[key]
    ]
    rows += [(f"weights of {name}, SHA-256", digest) for name, digest in settings.get("weights", {}).items()]
    return rows + [(name, version) for name, version in scores["versions"].items()]


def _recipe_text(recipe: Recipe) -> str:
    """The recipe as YAML, without tokens."""
    values = recipe.to_dict()
    values["trainer"] = {key: value for key, value in values["trainer"].items() if not key.endswith("_token")}
    return yaml.safe_dump(values, sort_keys=False, allow_unicode=True)
