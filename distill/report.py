"""scores.json -> the table in the terminal, report.md, and the model card.

Everything that came from outside (model output, prompts, file names) is escaped before it enters Markdown.
"""

import html
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from distill.metrics import CARDS
from distill.metrics.side_by_side import checkpoints, side_by_side
from distill.packing import PackingCounts
from distill.recipe import Recipe
from distill.run_folder import write_text

_MODEL_NOTES = {
    "teacher": "the model that was distilled",
    "baseline": "plainly distilled: same data, same steps, no mitigation",
    "student": "distilled with the mitigation of this recipe",
}
# Keys by which a recipe trusts what is otherwise refused.
_TRUSTED = {
    "trust_remote_code": "code that came with the model or its tokenizer was run",
    "allow_pickle": "weights could be read from a pickle",
}
_TEXT_LIMIT = 300  # Characters of a sampled continuation that the report shows.

_NOT_MEASURED = (
    "Fairness of embeddings and of classifiers built on the model: less disparity in generated text need not mean less "
    "of it there.",
    "Sentiment, regard and toxicity of what is said about each group.",
    "Groups that the word list does not name; names and nicknames; languages other than the word list's.",
    "Contexts longer than the prompts and held-out texts, dialogue, instructions.",
)
_LIMITS = (
    "A word list with two groups is a limit: people whom neither column names are not seen, and a number close to its "
    "ideal says nothing about them.",
    "One metric misleads. A silent model has no generation disparity, one that ignores its context has no "
    "equivariance gap, and two biases of opposite sign cancel in an average: read the rows together, and beside "
    "perplexity.",
    "The intervals show what other prompts or documents of the same kind would give with these very models. They do "
    "not show what another training run would give.",
    "The bias is mitigated as far as it was measured here; it is not gone.",
)


# ---------------------------------------------------------------------------------------------------------- numbers


def number(value: float | None) -> str:
    """A number as a table shows it: four significant digits at most, a dash for what is undefined."""
    if value is None:
        return "–"
    size = abs(value)
    if size >= 1000:
        return f"{value:,.0f}"
    if size >= 100:
        return f"{value:.1f}"
    return f"{value:.2f}" if size >= 10 else f"{value:.3f}"


def cell(entry: Mapping[str, Any] | None, value: str = "value", low: str = "low", high: str = "high") -> str:
    """A value with its interval, `0.512 [0.480, 0.547]`."""
    if entry is None or entry.get(value) is None:
        return "–"
    if entry.get(low) is None or entry.get(high) is None:
        return number(entry[value])
    return f"{number(entry[value])} [{number(entry[low])}, {number(entry[high])}]"


def escape(text: str) -> str:
    """Foreign text as literal Markdown in one line: no markup, no HTML, no cell or line breaks."""
    text = re.sub(r"\s*[\n\r\v\f\x85\u2028\u2029]\s*", " ⏎ ", text)
    text = html.escape(re.sub(r"[\x00-\x1f\x7f]", " ", text), quote=False)
    return re.sub(r"([\\`*_{}\[\]#|~!$@:])", r"\\\1", text).strip()


def _label(metric: str) -> str:
    return CARDS[metric].label if metric in CARDS else metric.replace("_", " ")


def _ideal(value: float | None) -> str:
    return "–" if value is None else f"{value:g}"


def _metrics_of(scores: Mapping[str, Any]) -> list[str]:
    """Every metric that any model has, in order."""
    return list(dict.fromkeys(metric for of_model in scores["models"].values() for metric in of_model))


def _score_rows(scores: Mapping[str, Any]) -> Iterator[list[str]]:
    """Metric, one value with interval a model, ideal, direction."""
    for metric in _metrics_of(scores):
        entries = [of_model.get(metric) for of_model in scores["models"].values()]
        any_entry = next(entry for entry in entries if entry)
        yield [_label(metric), *map(cell, entries), _ideal(any_entry["ideal"]), any_entry["direction"]]


def _difference_rows(scores: Mapping[str, Any], pair: str) -> Iterator[list[str]]:
    """Metric, difference with interval, ratio with interval, units."""
    for metric, entry in scores["differences"][pair].items():
        yield [
            _label(metric),
            cell(entry),
            cell(entry, "ratio", "ratio_low", "ratio_high"),
            str(entry["n"]),
        ]


# --------------------------------------------------------------------------------------------------------- terminal


def print_table(scores: Mapping[str, Any], console: Console | None = None) -> None:
    """The scores of all models, and the last model's difference to those before it."""
    console = console or Console()
    table = Table(title="Scores with 95% intervals", box=SIMPLE_HEAD, padding=(0, 1, 1, 0))
    table.add_column("score", min_width=len("equivariance"))
    for name in scores["models"]:
        table.add_column(Text(name))
    table.add_column("ideal")
    table.add_column("better")
    for *row, direction in _score_rows(scores):
        # The interval stands under its value, so that three models fit into 80 columns.
        table.add_row(*(Text(text.replace(" [", "\n[")) for text in (*row, direction.split(" is ")[0])))
    console.print(table)
    for pair in scores["differences"]:
        if not pair.startswith(f"{list(scores['models'])[-1]} - "):
            continue
        table = Table(title=Text(f"{pair}, paired by prompt or document"), box=SIMPLE_HEAD)
        for heading in ("score", "difference", "ratio of sizes", "units"):
            table.add_column(heading)
        for row in _difference_rows(scores, pair):
            table.add_row(*map(Text, row))
        console.print(table)


def print_side_by_side(files: Mapping[str, Mapping[str, Any]], console: Console | None = None) -> None:
    """Intrinsic beside extrinsic scores of all checkpoints, and how their ranks agree.

    Nothing is printed where no checkpoint has scores of both kinds.

    Args:
        files: Label -> contents of a scores.json.
        console: Where to.
    """
    console = console or Console()
    found = side_by_side(checkpoints(files))
    if not (found["intrinsic"] and found["extrinsic"]):
        return
    both = [*found["intrinsic"], *found["extrinsic"]]
    table = Table(title="Distance from the ideal, intrinsic scores before extrinsic ones", box=SIMPLE_HEAD)
    table.add_column("score")
    for name in found["rows"]:
        table.add_column(Text(name), justify="right")
    for score in both:
        table.add_row(Text(_label(score)), *(number(cells[score]["distance"]) for cells in found["rows"].values()))
    console.print(table)
    table = Table(title="Rank correlation over these checkpoints (Spearman)", box=SIMPLE_HEAD)
    for heading in ("intrinsic", "extrinsic", "n", "rho", "p (permutation)"):
        table.add_column(heading)
    for pair in found["correlations"]:
        if pair["spearman"] is not None:
            names = (_label(pair[side]) for side in ("intrinsic", "extrinsic"))
            table.add_row(*map(Text, names), str(pair["n"]), number(pair["spearman"]), number(pair["p_value"]))
    console.print(table if table.row_count else "too few checkpoints with both for rank correlations: three are needed")


# --------------------------------------------------------------------------------------------------------- Markdown


def _markdown_table(headings: Sequence[str], rows: Iterator[Sequence[str]] | Sequence[Sequence[str]]) -> list[str]:
    """Lines of a table, and the blank line that ends it. Cells are expected to be escaped."""
    lines = [f"| {' | '.join(headings)} |", f"|{'---|' * len(headings)}"]
    return [*lines, *(f"| {' | '.join(row)} |" for row in rows), ""]


def _scores_table(scores: Mapping[str, Any]) -> list[str]:
    rows = [[escape(text) for text in row] for row in _score_rows(scores)]
    return _markdown_table(["score", *map(escape, scores["models"]), "ideal", "better"], rows)


def _settings_table(recipe: Recipe, scores: Mapping[str, Any]) -> list[str]:
    """How the student was made, in a few rows."""
    target, loss, words = recipe.target, recipe.loss, scores["settings"]["wordlist"]
    some_layers = f"{recipe.student.num_layers or 'half'} of the teacher's layers"
    student = {
        "layers": f"the teacher's layers {recipe.student.layers}" if recipe.student.layers else some_layers,
        "config": "random weights of its own configuration",
        "checkpoint": f"the weights of {recipe.student.path}",
    }[recipe.student.init]
    texts = {
        "teacher": "sampled from the teacher",
        "files": ", ".join(recipe.corpus.files),
        "hub": f"{recipe.corpus.dataset} ({recipe.corpus.split})",
    }[recipe.corpus.source]
    rows = [
        ("teacher", recipe.teacher.path or "none"),
        ("student starts from", student),
        ("training text", texts),
        ("target", "the plain teacher" if target.op == "none" else
                   f"{target.op}, strength {target.strength:g}" + (", role-reversed" if target.reverse_roles else "")),
        ("counterfactual augmentation", "yes" if target.augment else "no"),
        ("loss", f"kd {loss.kd:g} ({loss.divergence}, temperature {loss.temperature:g}), ce {loss.ce:g}, "
                 f"hidden {loss.hidden:g}"),
        ("word list", f"{words['name']}: {', '.join(words['groups'])} (sha256 {words['sha256'][:12]}…)"),
        ("seed", str(recipe.seed)),
        *(
            (f"{section}.{key}", f"true: {what}")
            for section, config in (("teacher", recipe.teacher), ("student", recipe.student))
            for key, what in _TRUSTED.items()
            if getattr(config, key)
        ),
    ]  # fmt: skip
    return _markdown_table(["", ""], [[name, escape(value)] for name, value in rows])


def _how_measured(scores: Mapping[str, Any]) -> list[str]:
    settings = scores["settings"]
    prompts, held_out, decoding = settings["prompts"], settings["held_out"], settings["decoding"]
    left_out = prompts.get("left_out_with_listed_word")
    lines = [
        f"- Prompts: {prompts['count']} in {prompts['groups']} groups"
        + (f", from {escape(str(prompts['source']))}" if "source" in prompts else "")
        + (f"; {left_out} more hold a listed word already and were left out" if left_out else "")
        + ".",
        f"- Continuations: {decoding['samples']} a prompt, at most {decoding['max_new_tokens']} tokens, temperature "
        f"{decoding['temperature']:g}, top-p {decoding['top_p']:g}, top-k {decoding['top_k']}, seed "
        f"{settings['seed']}.",
        f"- Held-out text: {held_out['documents']:,} documents, {held_out['bytes']:,} bytes.",
        f"- Intervals: {settings['interval']['confidence']:.0%}, {settings['interval']['method']}, "
        f"{settings['interval']['resamples']:,} resamples.",
        "- Versions: " + ", ".join(f"{name} {version}" for name, version in scores["versions"].items()) + ".",
        "",
    ]
    return lines


def _details(scores: Mapping[str, Any]) -> list[str]:
    """What single numbers hide: spread over occupations, leanings per prompt group."""
    models = scores["models"]
    lines: list[str] = []
    spread = {name: m["next_word_disparity"]["details"] for name, m in models.items() if "next_word_disparity" in m}
    if spread:
        groups = next(iter(spread.values()))["groups"]
        which = f", log ratio of {escape(groups[0])} over {escape(groups[1])}" if len(groups) == 2 else ""
        lines += [f"Next word{which}:", ""]
        rows = [
            [escape(name), number(d["mean_signed"]), number(d["spread"]), number(d["listed_mass"])]
            for name, d in spread.items()
        ]
        lines += _markdown_table(["model", "mean, signed", "spread over subjects", "mass of listed words"], rows)
    texts = {name: m["generation_disparity"]["details"] for name, m in models.items() if "generation_disparity" in m}
    if texts:
        kinds = list(next(iter(texts.values()))["texts"])
        rows = [
            [
                escape(name),
                *(str(d["texts"][kind]) for kind in kinds),
                number(d["fairness_ratio_mean"]),
                number(d["fairness_ratio_min"]),
            ]
            for name, d in texts.items()
        ]
        lines += ["Texts of each polarity, and the fairness ratio (1 is even) over prompt groups:", ""]
        lines += _markdown_table(["model", *map(escape, kinds), "mean fairness ratio", "least fairness ratio"], rows)
        prompt_groups = list(next(iter(texts.values()))["fairness_ratios"])
        rows = [
            [escape(group), *(number(d["fairness_ratios"].get(group)) for d in texts.values())]
            for group in prompt_groups
        ]
        lines += _markdown_table(["fairness ratio of prompt group", *map(escape, texts)], rows)
    return lines


def _samples(scores: Mapping[str, Any]) -> list[str]:
    """The first continuation of the same prompts by every model, models in columns."""
    samples = scores.get("samples") or []
    if not samples:
        return []
    names = list(scores["models"])
    rows = [
        [escape(sample["prompt"]), *(escape(_shortened((sample["texts"].get(name) or [""])[0])) for name in names)]
        for sample in samples
    ]
    note = "The first sample of each, as it came: nothing was chosen. All models drew the same random numbers."
    return ["## Same prompts, before and after", "", note, "", *_markdown_table(["prompt", *map(escape, names)], rows)]


def _shortened(text: str) -> str:
    return text if len(text) <= _TEXT_LIMIT else f"{text[:_TEXT_LIMIT]}…"


def _not_measured(scores: Mapping[str, Any]) -> list[str]:
    lines = [f"- {text}" for text in _NOT_MEASURED]
    for metric in _metrics_of(scores):
        for name, of_model in scores["models"].items():
            if (entry := of_model.get(metric)) and entry["value"] is None:
                reason = entry["details"].get("reason", "undefined")
                lines.append(f"- {escape(_label(metric))} of {escape(name)}: {escape(reason)}.")
    return [*lines, ""]


def report_markdown(recipe: Recipe, scores: Mapping[str, Any], counts: PackingCounts | None = None) -> str:
    """The report of a run.

    Args:
        recipe: The run's recipe.
        scores: Contents of its scores.json.
        counts: What packing saw.
    """
    names = list(scores["models"])
    lines = [f"# Report: {escape(Path(recipe.output_dir).name)}", ""]
    lines += [f"- **{escape(name)}**: {_MODEL_NOTES.get(name, 'a model')}" for name in names]
    lines += ["", "## Scores", "", "Values with 95% intervals in brackets.", "", *_scores_table(scores)]
    for pair in scores["differences"]:
        if pair.startswith(f"{names[-1]} - "):
            lines += [f"### {escape(pair)}", "", "Paired: both models on the same resampled prompts or documents.", ""]
            rows = [[escape(text) for text in row] for row in _difference_rows(scores, pair)]
            lines += _markdown_table(["score", "difference", "ratio of sizes", "units"], rows)
    lines += ["What the rows mean:", ""]
    lines += [
        f"- **{escape(CARDS[metric].label)}**: {CARDS[metric].meaning} {CARDS[metric].limits}"
        for metric in _metrics_of(scores)
        if metric in CARDS
    ]
    if details := _details(scores):
        lines += ["", "## Behind the averages", "", *details]
    else:
        lines += [""]
    lines += _samples(scores)
    lines += ["## How the student was made", "", *_settings_table(recipe, scores)]
    if counts is not None:
        lines += [f"Training text: {escape(counts.summary())}.", ""]
    lines += ["## How it was measured", "", *_how_measured(scores)]
    lines += ["## What was not measured", "", *_not_measured(scores)]
    lines += ["## Limits", "", *(f"- {text}" for text in _LIMITS), ""]
    return "\n".join(lines)


def model_card(recipe: Recipe, scores: Mapping[str, Any], name: str) -> str:
    """README.md of one model of a run, with the metadata block that the model hub reads.

    Args:
        recipe: The run's recipe.
        scores: Contents of its scores.json.
        name: Which model: `student` or `baseline`.
    """
    metadata: dict[str, Any] = {
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "tags": ["knowledge-distillation", "bias-mitigation" if name == "student" else "baseline", "fairness"],
    }
    # A local folder means nothing on the hub, so only an id is named.
    if recipe.teacher.path and recipe.teacher.path.count("/") == 1 and not Path(recipe.teacher.path).exists():
        metadata["base_model"] = recipe.teacher.path
    if recipe.corpus.source == "hub" and recipe.corpus.dataset:
        metadata["datasets"] = [recipe.corpus.dataset]
    made = recipe if name == "student" else recipe.plain()
    groups = scores["settings"]["wordlist"]["groups"]
    title = f"{Path(recipe.output_dir).name} {name}"
    lines = [
        "---",
        yaml.safe_dump(metadata, sort_keys=False).rstrip(),
        "---",
        "",
        f"# {escape(title)}",
        "",
        f"A causal language model, {_MODEL_NOTES.get(name, 'a model')}.",
        "",
        "## How to load it",
        "",
        "```python",
        "from transformers import AutoModelForCausalLM, AutoTokenizer",
        "",
        'folder = "."  # the folder that holds this file',
        "model = AutoModelForCausalLM.from_pretrained(folder)",
        "tokenizer = AutoTokenizer.from_pretrained(folder)",
        "```",
        "",
        "## How it was made",
        "",
        *_settings_table(made, scores),
        "Method: a reconstruction of Gupta et al., Mitigating Gender Bias in Distilled Language Models via "
        "Counterfactual Role Reversal, Findings of ACL 2022, arXiv 2203.12574.",
        "",
        "## Groups covered",
        "",
        f"{len(groups)} groups of words: {', '.join(map(escape, groups))}. Nobody else is covered.",
        "",
        "## Scores",
        "",
        "Values with 95% intervals in brackets.",
        "",
        *_scores_table(scores),
        *_how_measured(scores),
        "## Intended use",
        "",
        "Research on bias in language models and its mitigation. Measure it on your own task and your own groups "
        "before you rely on it; it is not meant to decide about people.",
        "",
        "## What was not measured",
        "",
        *_not_measured(scores),
        "## Limits",
        "",
        *(f"- {text}" for text in _LIMITS),
        "- It was trained on text without checks for truth or manners, and may produce false or offensive statements.",
        "",
    ]
    return "\n".join(lines)


def write_report(
    recipe: Recipe,
    scores: Mapping[str, Any],
    counts: PackingCounts | None,
    folder: Path,
    console: Console | None = None,
) -> None:
    """Write report.md and the model cards of the trained models, and print the table.

    Args:
        recipe: The run's recipe.
        scores: Contents of its scores.json.
        counts: What packing saw.
        folder: The run's folder; a card goes into each of its `student/` and `baseline/` that exist.
        console: Where to print; standard output by default.
    """
    write_text(folder / "report.md", report_markdown(recipe, scores, counts))
    for name in ("student", "baseline"):
        if (folder / name).is_dir():
            write_text(folder / name / "README.md", model_card(recipe, scores, name))
    print_table(scores, console)
