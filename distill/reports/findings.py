"""scores.json -> what a report says: numbers, rows of tables, sentences, in plain text.

Nothing here is escaped: who shows it escapes it for Markdown, HTML or a terminal.
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id

from distill.base.console import duration, of_matrix_rate
from distill.data.counts import PackingCounts
from distill.recipe import FederationConfig, Recipe
from distill.reports.privacy_notes import hides_seed, privacy_row

Scores = Mapping[str, Any]

# What a report names as not measured -> beginnings of the names of the scores that measure it.
_BUILT_ON_IT = {"embeddings": ("weat", "seat", "ceat"), "classifiers built on the model": ("hatexplain", "occupation_")}
_SAID_OF_GROUPS = {"sentiment": "sentiment_gap", "regard": "regard_gap", "toxicity": "toxicity_gap"}
_NEVER_MEASURED = "Groups that the word list does not name; names and nicknames; languages other than the word list's."
ROUNDING = 1e-9  # what a difference must exceed: sums of many numbers are seldom 0 to the last digit
# Beginnings of the names of scores whose sentences are ours, and English: they head no report on another language.
_OF_ENGLISH = ("agreement", "minimal_pairs")
LIMITS = (
    "A word list with two groups is a limit: people whom neither column names go unseen, and a number close to its "
    "ideal says nothing about them.",
    "One metric misleads. A silent model has no generation disparity, one that ignores its context has no "
    "equivariance gap, and two biases of opposite sign cancel in an average: read the rows together, and beside "
    "perplexity.",
    "The intervals show what other prompts or documents of the same kind would give with these very models. They do "
    "not show what another training run would give.",
    "The bias is mitigated as far as it was measured here; it is not gone.",
)

MEMORY = "what it remembers"  # heads the block of these scores in every table

TOO_LITTLE = "too little to tell"  # begins what stands in the place of a number that saw nothing

_FIRST = 3  # scores that head a report where none was asked for that is meant to
_BITS = {"int8": 8, "int4": 4, "int3": 3}

# Keys by which a recipe trusts what is otherwise refused.
_TRUSTED = {
    "trust_remote_code": "code that came with the model or its tokenizer was run",
    "allow_pickle": "weights could be read from a pickle",
}


@dataclass(frozen=True)
class Scored:
    """What `distill score` was given: stands in a report where a run has its recipe.

    Args:
        folder: Where the scores lie.
        checkpoints: Name in scores.json -> folder or hub id.
    """

    folder: Path
    checkpoints: Mapping[str, str]


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
    return f"{value:z.2f}" if size >= 10 else f"{value:z.3f}"  # z: no -0.000


def share(value: float | None) -> str:
    """A share in percent, a dash for what is undefined."""
    return "–" if value is None else f"{value:.1%}"


def cell(entry: Mapping[str, Any] | None, value: str = "value", low: str = "low", high: str = "high") -> str:
    """A value with its interval, `0.512 [0.480, 0.547]`, or what is shown instead: see `instead`."""
    if entry is None or entry.get(value) is None:
        return instead(entry)
    if entry.get(low) is None or entry.get(high) is None:
        return number(entry[value])
    # Files of an older version have intervals that do not reach to their value.
    ends = min(entry[low], entry[value]), max(entry[high], entry[value])
    return f"{number(entry[value])} [{number(ends[0])}, {number(ends[1])}]"


def instead(entry: Mapping[str, Any] | None) -> str:
    """What stands in the place of a number that is not there.

    The reason, where a number would mislead (too little was seen; two models cannot be compared), `not measured` where
    there is another reason, a dash where there is none.
    """
    entry = entry or {}
    details = entry.get("details", {})
    reason = entry.get("instead") or details.get("instead")
    return str(reason) if reason else "not measured" if "reason" in details else "–"


def ratio_cell(entry: Mapping[str, Any] | None) -> str:
    """The ratio of a paired difference, with its interval."""
    return cell(entry, "ratio", "ratio_low", "ratio_high")


# ------------------------------------------------------------------------------------------------- models and metrics


def label(scores: Scores, metric: str) -> str:
    """How a metric is called in a table."""
    card = scores["cards"].get(metric)
    return card["label"] if card else metric.replace("_", " ")


def all_cards(files: Iterable[Scores]) -> dict[str, Any]:
    """The cards of several files; of a metric that stands in more than one, the first file's."""
    found: dict[str, Any] = {}
    for scores in files:
        found = scores["cards"] | found
    return found


def headliners(scores: Scores) -> list[str]:
    """The metrics of which the first that was measured heads a report."""
    ranks = {metric: card["headline"] for metric, card in scores["cards"].items() if card["headline"] is not None}
    return sorted(ranks, key=ranks.__getitem__)


def with_role(scores: Scores, role: str) -> list[str]:
    """The metrics that are a `disparity`, or the `cost`, of the trade-off; those that head a report first."""
    order = list(dict.fromkeys([*headliners(scores), *scores["cards"]]))
    return [metric for metric in order if scores["cards"][metric]["role"] == role]


def cost_of(scores: Scores, several: Iterable[Scores] = ()) -> str:
    """The score by which a figure sets models against one another, `""` without one; see `Card.role`.

    There is none for models that read held-out conversations through other chat templates.

    Args:
        scores: Its cards name the scores.
        several: The files that the models come from, where they are not all from this one.
    """
    files = [scores, *several]
    if templates_differ(files):
        return ""  # tokens and bytes of other text: that of the chat templates counts, too
    facts = [of_model for one in files for of_model in one.get("settings", {}).get("models", {}).values()]
    alike = len({of_model["tokenizer"] for of_model in facts}) < 2
    role = "cost" if alike else "cost across tokenizers"
    return next(iter(with_role(scores, role)), "")


def templates_differ(files: Iterable[Scores]) -> bool:
    """Whether two models read the same held-out conversations through different chat templates."""
    rendered: dict[str, set[str]] = {}  # hash of the messages themselves -> those of what models read of them
    for settings in (one.get("settings", {}) for one in files):
        text = settings.get("held_out", {}).get("sha256", "")
        for of_model in settings.get("models", {}).values():
            if "conversations" in of_model:
                rendered.setdefault(text, set()).add(of_model["conversations"])
    return any(len(hashes) > 1 for hashes in rendered.values())


def showing(scores: Scores, what: str) -> list[str]:
    """The metrics of whose details reports show this: `subjects`, `texts`."""
    return [metric for metric, card in scores["cards"].items() if what in card["shows"]]


def model_note(name: str, mitigated: bool = True) -> str:
    """What a model of a run is.

    Args:
        name: Its key in scores.json.
        mitigated: Whether the run's student was trained with a mitigation.
    """
    notes = {
        "teacher": "the model that was distilled",
        "baseline": "plainly distilled, on the same data and for as many steps, with no mitigation",
        "student": "distilled with the mitigation of this recipe" if mitigated else "plainly distilled, no mitigation",
    }
    return notes.get(name, "a model")


def title_of(source: Recipe | Scored) -> str:
    """What a report is called: the last part of its folder's path."""
    return Path(source.output_dir).name if isinstance(source, Recipe) else source.folder.resolve().name


def in_full(name: str) -> str | None:
    """The model of which this one is a copy in fewer bits, as `score` names it; None of another."""
    other, _, bits = name.rpartition(" ")
    return other if other and bits in _BITS else None


def full_models(models: Sequence[str]) -> list[str]:
    """The models but for copies in fewer bits of others among them."""
    return [name for name in models if in_full(name) not in models]


def told_pairs(scores: Scores) -> list[str]:
    """The differences that are told: the last model's, and where that is a copy in fewer bits, its original's too."""
    last = list(scores["models"])[-1]
    later = {last, in_full(last)}
    return [pair for pair in scores["differences"] if pair.partition(" - ")[0] in later]


def note_of(source: Recipe | Scored, name: str) -> str:
    """What a model of a report is: its part in the run, or where it came from."""
    if (other := in_full(name)) is not None:
        return f"{other} with the weights of its layers in {_BITS[name.rpartition(' ')[2]]} bits, by torchao"
    if isinstance(source, Recipe):
        return model_note(name, source.needs_counterfactuals)
    return source.checkpoints.get(name, model_note(""))


def metrics_of(scores: Scores) -> list[str]:
    """Every metric that any model has, in order; last those of what a model remembers."""
    found = list(dict.fromkeys(metric for of_model in scores["models"].values() for metric in of_model))
    return sorted(found, key=lambda metric: _remembers(scores, metric))


def starts_memory(scores: Scores, metric: str) -> bool:
    """Whether a metric is the first of those about what a model remembers."""
    return metric == next((other for other in metrics_of(scores) if _remembers(scores, other)), None)


def memory_heading(scores: Scores) -> str:
    """What heads the block of what a model remembers: with a warning where membership may be another difference.

    Without a control, a model that saw neither members nor others must not tell them apart: its AUC lies within three
    standard errors of 0.5, sqrt((n + m + 1) / (12 n m)) each (Mann and Whitney 1947).
    """
    details = [of.get("membership_excess_auc", {}).get("details", {}) for of in scores["models"].values()]
    asked = [found for found in details if "control" in found]
    if not asked or asked[0]["control"] == "yes":
        return MEMORY
    members, others = asked[0]["members"], asked[0]["others"]
    told = [auc for found in asked if (auc := found["reference_alone_auc"]) is not None]
    alone = max(told, key=lambda auc: abs(auc - 0.5), default=None)
    if all(found["reference"] == "none" for found in asked):
        return f"{MEMORY}, without a reference or a control: how hard a text is counts, too"
    if alone is not None and abs(alone - 0.5) > 3 * math.sqrt((members + others + 1) / (12 * members * others)):
        return (
            f"{MEMORY}, but members and others are two kinds of text: the reference alone tells them apart (AUC "
            f"{alone:.2f}), so membership means nothing without a control"
        )
    return MEMORY


def _remembers(scores: Scores, metric: str) -> bool:
    return scores.get("cards", {}).get(metric, {}).get("role") == "memory"


def some_entry(scores: Scores, metric: str) -> Mapping[str, Any]:
    """The first model's entry of a metric that any model has: for what is the same in all, ideal and direction."""
    return next(of_model[metric] for of_model in scores["models"].values() if metric in of_model)


def ideal(value: float | None) -> str:
    """An ideal value; a dash where there is none."""
    return "–" if value is None else f"{value:g}"


def by_people(scores: Scores, metric: str) -> list[tuple[str, str]]:
    """Label and value of what texts by people score, to be shown below a metric; none where it read no such texts."""
    shown = [what.partition("reference.")[2] for what in scores["cards"].get(metric, {}).get("shows", ())]
    reference = some_entry(scores, metric)["details"].get("reference", {}) if any(shown) else {}
    found = [(metric if key == "value" else key, reference.get(key)) for key in shown if key]
    return [(f"people's texts: {label(scores, name)}", number(value)) for name, value in found if value is not None]


def rows_of(scores: Scores, metric: str) -> Iterator[list[str]]:
    """A metric's row of `score_rows`, and below it those of texts by people."""
    entries = [of_model.get(metric) for of_model in scores["models"].values()]
    entry = some_entry(scores, metric)
    yield [label(scores, metric), *map(cell, entries), ideal(entry["ideal"]), entry["direction"]]
    for name, value in by_people(scores, metric):
        yield [name, *[value] * len(entries), "–", "for reference: BOLD's Wikipedia texts"]


def score_rows(scores: Scores) -> Iterator[list[str]]:
    """Metric, one value with interval a model, ideal, direction; below it those of texts by people; last the sizes.

    What a model remembers is a block of its own, behind a row that says so.
    """
    for metric in metrics_of(scores):
        if starts_memory(scores, metric):
            yield [memory_heading(scores), *[""] * len(scores["models"]), "", ""]
        yield from rows_of(scores, metric)
    for name, values, direction in sizes(scores):
        yield [name, *("–" if value is None else size_number(value) for value in values), "–", direction]


def sizes(scores: Scores) -> Iterator[tuple[str, list[float | None], str]]:
    """What is large or fast, its value of each model and which way is better; nothing of an older file."""
    facts, speeds = scores.get("settings", {}).get("models", {}), speeds_of(scores)
    models = list(scores["models"])
    for what, key in (("weights, millions", "parameters"), ("megabytes in memory", "bytes")):
        values = [facts[name][key] / 1e6 if name in facts else None for name in models]
        if any(value is not None for value in values):
            yield what, values, "smaller is cheaper"
    if speeds:
        yield "tokens a second", [speeds.get(name) for name in models], "faster is cheaper"


def size_number(value: float) -> str:
    """A size or speed, with three digits."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def speeds_of(scores: Scores) -> dict[str, float]:
    """Model -> tokens that it writes in a second, where a report was given it (see `report.with_speeds`)."""
    return scores.get("speed", {})


def difference_rows(scores: Scores, pair: str) -> Iterator[list[str]]:
    """Metric, difference with interval, ratio with interval, units."""
    for metric, entry in scores["differences"][pair].items():
        yield [label(scores, metric), cell(entry), "–" if "instead" in entry else ratio_cell(entry), str(entry["n"])]


def main_pair(models: Sequence[str]) -> tuple[str, str] | None:
    """(later, earlier): the comparison that matters most, the student's with the baseline if there is one."""
    models = full_models(models)
    if {"student", "baseline"} <= set(models):
        return "student", "baseline"
    return (models[-1], models[0]) if len(models) > 1 else None


# -------------------------------------------------------------------------------------------------------- sentences


def headline(scores: Scores) -> str:
    """How much less disparity than before, what it costs, how large the model is, and what got worse beside it."""
    models = list(scores["models"])
    pair = main_pair(models)
    if pair is None:
        if not models:
            return "Nothing was measured."
        alone = full_models(models)[-1]
        return " ".join([_of_one_model(scores, alone), *_in_fewer_bits(scores, alone)])
    found = scores["differences"].get(" - ".join(pair), {})
    owner = {"baseline": "plain distillation", "teacher": "the teacher"}.get(pair[1], pair[1])
    compared = [m for m in headliners(scores) if _has_ratio(found.get(m))]
    gains = [_less(found[m], plain_label(scores, m)) for m in compared if _is_clear(found[m])]
    costs = [*with_role(scores, "cost"), *with_role(scores, "cost across tokenizers")]
    cost = next((_less(found[m], label(scores, m), 1) for m in costs if _has_ratio(found.get(m))), None)
    if gains:
        told = f"{' and '.join(gains[:2])} than {owner}" + (f", for {cost}" if cost else "")
    elif compared:
        tried = " and ".join(_less(found[m], plain_label(scores, m)) for m in compared[:2])
        told = f"no clear change of disparity beside {owner} ({tried})" + (f", for {cost}" if cost else "")
    elif cost:
        told = f"no disparity could be compared; {cost} than {owner}"
    elif not found.keys() & {*headliners(scores), *costs} and (shown := _with_value(found)[:_FIRST]):
        told = f"differences to {owner}: {', '.join(f'{label(scores, m)} {cell(found[m])}' for m in shown)}"
    else:
        told = f"nothing could be compared with {owner}"
    size = _size_beside_teacher(scores, pair[0])
    told = f"{told}; {size}" if size else told
    worse = _side_effects(scores, found, owner)
    return " ".join([f"{told[:1].upper()}{told[1:]}.", *worse, *_in_fewer_bits(scores, pair[0])])


def _in_fewer_bits(scores: Scores, name: str) -> list[str]:
    """What changed in a model's copy in fewer bits: its users run that one. None of a model without such a copy."""
    sentences = []
    for copy in (model for model in scores["models"] if in_full(model) == name):
        found, bits = scores["differences"].get(f"{copy} - {name}", {}), copy.rpartition(" ")[2]
        heads = headliners(scores)
        looked_at = [m for m in (*heads, *with_role(scores, "cost")) if _has_ratio(found.get(m))]
        told = [_less(found[m], plain_label(scores, m), 1) for m in looked_at if _is_clear(found[m])]
        unchanged = dict.fromkeys("disparity" if m in heads else label(scores, m) for m in looked_at)
        said = f"{' and '.join(told)} than in full" if told else f"no clear change of {' or '.join(unchanged)}"
        if looked_at:
            sentences.append(f"In {bits}: {said}.")
        sentences += _side_effects(scores, found, "the same model in full")
    return sentences


def _side_effects(scores: Scores, found: Mapping[str, Any], owner: str) -> list[str]:
    """The sentence on what is worse than before, by more than its interval; none where nothing is.

    Args:
        scores: Their cards say which scores these are.
        found: The differences of the pair that matters most.
        owner: What the student is compared with, in words.
    """
    ends = ("farther", "farther_low", "farther_high")
    language = scores.get("settings", {}).get("wordlist", {}).get("language", "en")
    foreign = _OF_ENGLISH if language != "en" else ()
    looked_at = {
        label(scores, metric): dict(zip(("value", "low", "high"), map(entry.get, ends), strict=True))
        for metric, entry in found.items()
        if scores["cards"].get(metric, {}).get("side") and not metric.startswith(foreign)
    }
    return worse_sentence(looked_at, owner)


def worse_sentence(looked_at: Mapping[str, Mapping[str, Any]], owner: str) -> list[str]:
    """The sentence on what is worse than with another model, by more than its interval; none where nothing is.

    Args:
        looked_at: Label of a score beside what is mitigated -> `value`, `low`, `high`: by how much it is worse,
            farther from its ideal or, where it has none, lower.
        owner: The other model, in words.
    """
    told = {name: entry for name, entry in looked_at.items() if entry["low"] is not None}
    worse = [f"{name} by {_small_cell(entry)}" for name, entry in told.items() if entry["low"] > ROUNDING]
    if not worse:
        return []
    return [
        f"Worse than with {owner}: {', '.join(worse)} ({len(worse)} of {len(told)} scores beside "
        "what is mitigated; chance alone puts 1 in 40 here)."
    ]


def _small_cell(entry: Mapping[str, Any]) -> str:
    """A cell of what is more than 0, which none of its numbers may seem to be."""
    value, low, high = (entry[key] for key in ("value", "low", "high"))
    ends = (value, min(low, value), max(high, value))  # of older files: see `cell`
    value, low, high = (number(end) if end >= 0.001 else f"{end:.2g}" for end in ends)
    return f"{value} [{low}, {high}]"


def _of_one_model(scores: Scores, name: str) -> str:
    """What heads a report that compares nothing: the first values."""
    of_model = scores["models"][name]
    heads = [*headliners(scores), *with_role(scores, "cost")[:1]]
    wanted = [m for m in heads if m in of_model] or with_role(scores, "memory")
    if not any(m in of_model for m in wanted):
        wanted = _with_value(of_model)[:_FIRST]
    parts = [f"{label(scores, m)} {cell(of_model[m])}" for m in wanted if of_model.get(m, {}).get("value") is not None]
    little = any("instead" in entry.get("details", {}) for entry in of_model.values())
    sentence = ", ".join(parts) or (TOO_LITTLE if little else "nothing was measured")
    return f"{sentence[:1].upper()}{sentence[1:]}."


def _with_value(entries: Mapping[str, Any]) -> list[str]:
    """The scores, or differences of them, that have a value."""
    return [metric for metric, entry in entries.items() if entry.get("value") is not None]


def plain_label(scores: Scores, metric: str) -> str:
    """What a metric is called in the sentence that heads a report."""
    return scores["cards"][metric].get("plain") or label(scores, metric)


def _has_ratio(entry: Mapping[str, Any] | None) -> bool:
    return entry is not None and entry.get("ratio") is not None


def _is_clear(entry: Mapping[str, Any]) -> bool:
    """Whether the interval of a ratio, if it has one, is all on one side of 1."""
    low, high = entry["ratio_low"], entry["ratio_high"]
    return low is None or high is None or not low <= 1 <= high


def _less(entry: Mapping[str, Any], what: str, digits: int = 0) -> str:
    """A ratio in words: `68% [67%, 70%] less disparity`, `0.6% [0.5%, 0.7%] more perplexity`."""
    ratio, low, high = (entry[key] for key in ("ratio", "ratio_low", "ratio_high"))
    sign, word = (1, "more") if ratio > 1 else (-1, "less")

    def percent(value: float) -> str:
        return f"{sign * (value - 1):z.{digits}%}"

    ends = "" if low is None or high is None else f" [{', '.join(map(percent, (low, high)[::sign]))}]"
    return f"{percent(ratio)}{ends} {word} {what}"


def _size_beside_teacher(scores: Scores, name: str) -> str:
    """`76% of the teacher's weights`, where it is known; "" for the teacher itself.

    Nothing of its speed, which depends on what else the machine did: that stands in the table.
    """
    facts = scores.get("settings", {}).get("models", {})
    if name == "teacher" or not {name, "teacher"} <= facts.keys() or not facts["teacher"]["parameters"]:
        return ""
    return f"{facts[name]['parameters'] / facts['teacher']['parameters']:.0%} of the teacher's weights"


def settings_rows(recipe: Recipe, scores: Scores, published: bool = False) -> list[tuple[str, str]]:
    """How the student was made, in a few rows.

    Args:
        recipe: The run's recipe.
        scores: Contents of its scores.json; with `processes`, where they are known.
        published: Name local files and folders without their path, which is nobody's business, and no seed from
            which a private student's noise could be drawn again.
    """
    target, loss, words = recipe.target, recipe.loss, scores["settings"]["wordlist"]
    name = (lambda path: source_name(path)) if published else str
    some_layers = f"{recipe.student.num_layers or 'half'} of the teacher's layers"
    student = {
        "layers": f"the teacher's layers {recipe.student.layers}" if recipe.student.layers else some_layers,
        "config": "random weights of its own configuration",
        "checkpoint": f"the weights of {name(recipe.student.path)}",
        "teacher": "the teacher's own weights",
    }[recipe.student.init]
    if recipe.student.lora.r:
        student += f", which stay; trained is a LoRA adapter of rank {recipe.student.lora.r}"
    small = "".join(f", {how}" for how in (recipe.teacher.quantization, recipe.teacher.gguf_file) if how)
    texts = {
        "teacher": "sampled from the teacher",
        "files": ", ".join(map(name, recipe.corpus.files)),
        "hub": f"{name(recipe.corpus.dataset)} ({recipe.corpus.split})",
    }[recipe.corpus.source]
    return [
        ("teacher", name(recipe.teacher.path) + small if recipe.teacher.path else "none"),
        ("student starts from", student),
        ("training text", texts),
        ("target", "the plain teacher" if target.op == "none" else
                   f"{target.op}, strength {target.strength:g}" + (", role-reversed" if target.reverse_roles else "")),
        ("counterfactual augmentation", "yes" if target.augment else "no"),
        ("loss", f"kd {loss.kd:g} ({loss.divergence}, temperature {loss.temperature:g}), ce {loss.ce:g}, "
                 f"hidden {loss.hidden:g}" + "".join(
                     f", {name} {getattr(loss, name):g}" for name in ("pairing", "listed") if getattr(loss, name))),
        *([("directions taken out of the last hidden states", str(recipe.student.remove_directions))]
          if recipe.student.remove_directions else []),
        ("word list", f"{words['name']}: {', '.join(words['groups'])} (sha256 {words['sha256'][:12]}…)"),
        *([] if published and hides_seed(scores) else [("seed", str(recipe.seed))]),
        *privacy_row(recipe, scores),
        *([("federation", _federated(recipe.federation))] if recipe.federation.clients else []),
        *_processes_row(recipe, scores),
        *(
            (f"{section}.{key}", f"true: {what}")
            for section, config in (("teacher", recipe.teacher), ("student", recipe.student))
            for key, what in _TRUSTED.items()
            if getattr(config, key)
        ),
    ]  # fmt: skip


def _processes_row(recipe: Recipe, scores: Scores) -> list[tuple[str, str]]:
    """How many shared out each step; nothing where it was one, or where steps are the same for any number."""
    processes = scores.get("processes") or 1
    if processes == 1 or recipe.is_private:
        return []
    return [("processes", f"{processes}: a step reads as many times the blocks of one")]


def _federated(config: FederationConfig) -> str:
    """Clients, rounds, text and algorithm in a few words."""
    by = config.partition
    kind = by.by if by.by != "label" else f"label ({by.label})"
    text = f"text shared out by {kind}, alpha {by.alpha:g}" + (f", {config.periods} periods" * (config.periods > 1))
    asked = (
        f"{config.fraction:.0%} of them a round, drawn by {config.select}" if config.fraction < 1 else "all each round"
    )
    return (
        f"{config.clients} clients, {asked}; {config.rounds} rounds of {config.local_steps} steps; {text}; "
        f"{config.algorithm}"
    )


def source_name(source: str | None) -> str:
    """A hub id or bundled name as it is; of a local file or folder the last part of its path."""
    return str(source) if source is None or is_hub_id(source) else Path(source).name


def is_hub_id(name: str) -> bool:
    """Whether a name that worked can only have been a hub id: no file or folder is called so, and the hub allows it."""
    try:
        validate_repo_id(name.partition(":")[0])  # behind the colon: a domain of BOLD
    except HFValidationError:
        return False
    return not Path(name).exists()


def how_measured(scores: Scores, published: bool = False) -> list[str]:
    """Prompts, decoding, held-out text, intervals and versions, a sentence each; `published` as in settings_rows."""
    settings = scores["settings"]
    prompts, held_out, decoding = settings["prompts"], settings["held_out"], settings["decoding"]
    left_out = prompts.get("left_out_with_listed_word")
    source = prompts.get("source")
    return [
        f"Prompts: {prompts['count']} in {prompts['groups']} groups"
        + (f", from {source_name(source) if published else source}" if source else "")
        + (f"; {left_out} more hold a listed word already and were left out" if left_out else "")
        + ".",
        f"Continuations: {decoding['samples']} of each prompt, at most {decoding['max_new_tokens']} tokens"
        + (f" and {decoding['max_length']} with the prompt, " if "max_length" in decoding else ", ")
        + f"temperature {decoding['temperature']:g}, top-p {decoding['top_p']:g}, top-k {decoding['top_k']}"
        + ("" if published and hides_seed(scores) else f", seed {settings['seed']}")
        + ".",
        f"Held-out text: {held_out['documents']:,} documents, {held_out['bytes']:,} bytes{_windows(settings)}.",
        *(
            ["Megabytes in memory: what the weights took here, not the size of a file."]
            if settings.get("models") and not published  # a card has no such row
            else []
        ),
        *(
            [
                "Speed: tokens that are written one after the other, one text at a time, on the machine that scored, "
                "measured beside whatever else ran there: mind large differences only."
            ]
            if speeds_of(scores)
            else []
        ),
        f"Intervals: {settings['interval']['confidence']:.0%}, {settings['interval']['method']}, "
        f"{settings['interval']['resamples']:,} resamples.",
        "Versions: " + ", ".join(f"{name} {version}" for name, version in scores["versions"].items()) + ".",
    ]


def _windows(settings: Mapping[str, Any]) -> str:
    """How much of a text is read at once, and whether that is less than a model could."""
    models = settings.get("models", {})
    read = {of_model["read"] for of_model in models.values()}
    if len(read) != 1 or None in read:
        return ""
    (tokens,) = read
    shorter = [name for name, of_model in models.items() if of_model["context"] is None or of_model["context"] > tokens]
    whose = f"; {', '.join(shorter)} could read more at once, but all models are asked the same" if shorter else ""
    return f", read through windows of at most {tokens:,} tokens{whose}"


def coverage(scores: Scores, counts: PackingCounts | None = None) -> list[str]:
    """What the word list covers: its size, its tokens, the training text and the held-out text, a sentence each."""
    words, held_out = scores["settings"]["wordlist"], scores["settings"]["held_out"]
    lines = []
    if "words" in words:
        listed = ", ".join(f"{count} {group}" for group, count in words["words"].items())
        lines.append(f"The list {words['name']} has {words['rows']} rows with {listed} words.")
    for metric in showing(scores, "subjects"):
        for name, of_model in scores["models"].items():
            if "words" in (details := of_model.get(metric, {}).get("details", {})):
                lines.append(
                    f"{details['words']['movable']} of its {details['words']['listed']} words have a token that stands "
                    f"for them in the vocabulary of {name}; only those count in {label(scores, metric)}, and only "
                    "their probability is moved in the target."
                )
                break
    if counts is not None and counts.documents:
        lines.append(
            f"Training text: {counts.edited_documents:,} of {counts.documents:,} documents "
            f"({share(counts.edited_documents / counts.documents)}) hold a word that was swapped, {counts.edits:,} "
            f"swaps in all; {counts.skipped_sentences:,} sentences were left alone; "
            f"{share(counts.aligned_share)} of the positions of edited documents have a partner."
        )
    if held_out.get("documents"):
        with_word = held_out.get("documents_with_listed_word")
        if with_word is not None:
            found = ", ".join(f"{count:,} {group}" for group, count in held_out["listed_words"].items())
            lines.append(
                f"Held-out text: {with_word:,} of {held_out['documents']:,} documents "
                f"({share(with_word / held_out['documents'])}) hold a listed word: {found}."
            )
    return lines


def training_rows(training: Mapping[str, Mapping[str, Any]]) -> list[list[str]]:
    """Model, time, tokens that the student and the teacher read, the student's in a second: `training/NAME.json`.

    Behind the last stands the share of the card's matrix rate, where it is known.
    """
    return [
        [
            name,
            "–" if record.get("seconds") is None else duration(record["seconds"]),
            *("–" if record.get(k) is None else f"{record[k]:,.0f}" for k in ("student_tokens", "teacher_tokens")),
            _training_speed(record),
        ]
        for name, record in training.items()
    ]


def _training_speed(record: Mapping[str, Any]) -> str:
    tokens, part = record.get("tokens_per_second"), record.get("matrix_rate_share")
    return "–" if tokens is None else f"{tokens:,.0f}{of_matrix_rate(part or 0.0)}"


def phase_rows(scores: Scores) -> list[list[str]]:
    """Phase, time, tokens that models read and wrote in it, and in a second, as the last column of `training_rows`.

    Of a run whose report was given them (see `report.with_speeds`): sampling, packing and scoring.
    """
    return [
        [name, duration(of_phase["seconds"]), f"{of_phase['tokens']:,.0f}", _training_speed(of_phase)]
        for name, of_phase in scores.get("phases", {}).items()
    ]


def round_table(scores: Scores, training: Mapping[str, Mapping[str, Any]]) -> tuple[list[str], list[list[str]]]:
    """Headings and rows of a federation's rounds: who took part, the loss, what was measured after each of them."""
    rounds = [(name, log) for name, record in training.items() for log in record.get("history", []) if "round" in log]
    watched = list(dict.fromkeys(key for _, log in rounds for key in log if key.startswith("score_")))
    headings = ["model", "round", "clients", "left out", "loss"]
    rows = [
        [
            name,
            *(f"{log[key]:.0f}" for key in ("round", "clients", "left_out")),
            *(number(log.get(key)) for key in ("loss", *watched)),
        ]
        for name, log in rounds
    ]
    return [*headings, *(label(scores, key.removeprefix("score_")) for key in watched)], rows


#: What a record of training says of each score over clients, see `federation.client_scores.over_clients`.
OVER_CLIENTS = frozenset({"clients", "mean", "spread", "least", "largest", "worst", "worst_client"})


def client_table(scores: Scores, training: Mapping[str, Mapping[str, Any]]) -> tuple[list[str], list[list[str]]]:
    """Headings and rows of what finished students score on the text of each client by itself, see `over_clients`."""
    headings = ["model", "score", "clients", "mean", "spread", "from", "to", "worst"]
    rows = [
        [
            name,
            label(scores, metric),
            f"{found['clients']:.0f}",
            *(number(found[key]) for key in ("mean", "spread", "least", "largest")),
            f"client {found['worst_client']:.0f}, {number(found['worst'])}",
        ]
        for name, record in training.items()
        for metric, found in record.get("over_clients", {}).items()
    ]
    return headings, rows


def undefined_scores(scores: Scores) -> list[str]:
    """What was asked for and could not be measured, with the reason, a sentence each."""
    lines = []
    for metric in metrics_of(scores):
        for name, of_model in scores["models"].items():
            if (entry := of_model.get(metric)) and entry["value"] is None:
                lines.append(f"{label(scores, metric)} of {name}: {entry['details'].get('reason', 'undefined')}.")
    return lines


def not_measured(scores: Scores) -> list[str]:
    """What the scores do not tell: what no model has a value of, what was not asked for, what is undefined and why."""
    others = scores["not_asked"]
    asked = (
        f"Not asked for: {', '.join(others)}. A recipe's scores.metrics and the option --metrics of distill score list "
        "what is measured; most of these need data of your own."
    )
    return [*_beyond_scores(scores), *([asked] if others else []), *undefined_scores(scores)]


def _beyond_scores(scores: Scores) -> Iterator[str]:
    measured = {metric for of_model in scores["models"].values() for metric in _with_value(of_model)}

    def missing(kinds: Mapping[str, str | tuple[str, ...]]) -> list[str]:
        return [kind for kind, names in kinds.items() if not any(metric.startswith(names) for metric in measured)]

    if built := missing(_BUILT_ON_IT):
        yield (
            f"Fairness of {' and of '.join(built)}: less disparity in generated text need not mean less of it there."
        )
    if said := missing(_SAID_OF_GROUPS):
        named = " and ".join(filter(None, [", ".join(said[:-1]), said[-1]]))
        yield f"{named.capitalize()} of what is said about each group."
    yield _NEVER_MEASURED
    settings = scores["settings"]
    forms = "; dialogue" if settings["prompts"].get("chat") else "; dialogue, instructions"
    if any("conversations" in of_model for of_model in settings.get("models", {}).values()):
        forms = ""
    yield f"Contexts longer than the prompts and held-out texts{forms}."
