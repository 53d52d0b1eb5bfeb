"""scores.json -> the model card of each trained model.

A card is made to be published: it names hub ids, and of local files no more than the last part of their path.
"""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import EvalResult, ModelCard, ModelCardData, hf_hub_download
from huggingface_hub.errors import HTTPError

from distill.base.files import DEMO_TEACHER, write_text
from distill.base.markdown_text import escape, items, table
from distill.recipe import CorpusConfig, Recipe, TeacherConfig
from distill.reports.findings import (
    LIMITS,
    how_measured,
    is_hub_id,
    label,
    memory_heading,
    metrics_of,
    model_note,
    not_measured,
    rows_of,
    settings_rows,
    share,
    some_entry,
    source_name,
    starts_memory,
)
from distill.reports.privacy_notes import guarantee, not_covered

_UNKNOWN_LICENCE = "unknown"  # as the hub calls it


def model_card(recipe: Recipe, scores: Mapping[str, Any], name: str, own_code: bool = False) -> str:
    """README.md of one model of a run, with the metadata block that the model hub reads.

    Args:
        recipe: The run's recipe.
        scores: Contents of its scores.json.
        name: Which model: `student` or `baseline`.
        own_code: Whether code comes with it, without which it cannot be loaded.
    """
    metadata = card_metadata(recipe, scores, name)
    made = recipe if name == "student" else recipe.plain()
    words = scores["settings"]["wordlist"]
    lines = [
        f"# {escape(metadata.model_name or '')}",
        "",
        f"A causal language model, {model_note(name, recipe.needs_counterfactuals)}.",
        "",
        _HOW_TO_LOAD.format(trust=", trust_remote_code=True" if own_code else ""),
        *([_OWN_CODE, ""] if own_code else []),
        "## How it was made",
        "",
        *table(["", ""], [*settings_rows(made, scores, published=True), *_hashes(scores, name)]),
        "Method: a reconstruction of Gupta et al., Mitigating Gender Bias in Distilled Language Models via "
        "Counterfactual Role Reversal, Findings of ACL 2022, arXiv 2203.12574.",
        "",
        *([_LICENCE_UNKNOWN, ""] if metadata.license == _UNKNOWN_LICENCE else []),
        *_privacy(recipe, scores),
        "## Groups covered",
        "",
        f"{len(words['groups'])} groups of words: {', '.join(map(escape, words['groups']))}. Nobody else is covered.",
        "",
        "## Scores",
        "",
        "Values with 95% intervals in brackets. Undetected is the share of observations about which a score could say "
        "nothing.",
        "",
        *table(["score", *scores["models"], "undetected here", "ideal", "better"], _card_rows(scores, name)),
        *items(how_measured(scores, published=True)),
        "## Intended use",
        "",
        "Research on bias in language models and its mitigation. Measure it on your own task and your own groups "
        "before you rely on it; it is not meant to decide about people.",
        "",
        "## What was not measured",
        "",
        *items(not_measured(scores)),
        "## Limits",
        "",
        *items(
            (*LIMITS, "It was trained on text without checks for truth or manners, and may produce false or offensive "
                      "statements.")
        ),
    ]  # fmt: skip
    return f"---\n{metadata.to_yaml()}\n---\n\n" + "\n".join(lines)


_HOW_TO_LOAD = """\
## How to load it

```python
from transformers import AutoModelForCausalLM, AutoTokenizer

folder = "."  # the folder that holds this file, or the id of its repository on the hub
model = AutoModelForCausalLM.from_pretrained(folder{trust})
tokenizer = AutoTokenizer.from_pretrained(folder{trust})
```

Every training text began with the tokenizer's start token; put it in front of a prompt.
"""
_OWN_CODE = "It comes with code of its own: read it before you trust it."
_LICENCE_UNKNOWN = (
    "Its licence is not known: the teacher's card was not at hand, or names none. The licences of the teacher and of "
    "the training text decide; look them up before you share this model."
)


def card_metadata(recipe: Recipe, scores: Mapping[str, Any], name: str) -> ModelCardData:
    """The metadata of a card, in the terms of the hub.

    The licence and the language are the teacher's, from its own card; where that cannot be read, the licence is
    `unknown`. A score without a value is left out.
    """
    title = f"{Path(recipe.output_dir).name} {name}"
    teacher = _teacher_metadata(recipe.teacher)
    of_model = scores["models"].get(name, {})
    found = (_eval_result(recipe, scores, metric, entry) for metric, entry in of_model.items())
    results = [result for result in found if result is not None]
    mitigated = name == "student" and recipe.needs_counterfactuals
    return ModelCardData(
        base_model=recipe.teacher.path if _is_hub_teacher(recipe.teacher) else None,
        datasets=[named] if (named := _hub_dataset(recipe.corpus)) else None,
        language=teacher.get("language"),
        library_name="transformers",
        **_licence(teacher),
        metrics=[result.metric_type for result in results] or None,
        model_name=title,
        pipeline_tag="text-generation",
        tags=["knowledge-distillation", "bias-mitigation" if mitigated else "baseline", "fairness"],
        eval_results=results or None,
    )


def _eval_result(recipe: Recipe, scores: Mapping[str, Any], metric: str, entry: Mapping[str, Any]) -> EvalResult | None:
    """A score as the hub's model index has it; None where it is undefined."""
    if entry["value"] is None:
        return None
    unit = entry["details"].get("unit")
    if unit == "prompt":
        source = source_name(scores["settings"]["prompts"].get("source") or "prompts")
        data = (source, f"prompts: {source}")
    elif unit == "document":
        hub = _hub_dataset(recipe.held_out)
        data = (hub or "held-out-text", hub or "held-out text")
    else:
        data = (metric, label(scores, metric))
    return EvalResult(
        task_type="text-generation",
        dataset_type=_hub_type(data[0]),
        dataset_name=data[1],
        metric_type=metric,
        metric_name=label(scores, metric),
        metric_value=entry["value"],
    )


def _licence(teacher: Mapping[str, Any]) -> dict[str, Any]:
    """The teacher's, as the hub takes it: one that is no id of the hub's is told as another one's name."""
    licence = teacher.get("license") or _UNKNOWN_LICENCE
    name = teacher.get("license_name")
    if not re.fullmatch(r"[a-z0-9][a-z0-9.+-]*", licence):
        licence, name = "other", re.sub(r"[^a-z0-9.]+", "-", (name or licence).lower()).strip("-.")
    return {"license": licence, "license_name": name or None, "license_link": teacher.get("license_link")}


def _hub_dataset(config: CorpusConfig) -> str | None:
    """The hub's id of a text; of a local folder, and of all others, None."""
    return config.dataset if config.source == "hub" and config.dataset and is_hub_id(config.dataset) else None


def _hub_type(name: str) -> str:
    """A name as the hub takes the type of a data set: [owner/]name of few characters."""
    owner, slash, last = name.partition("/")
    parts = [owner, last] if slash and is_hub_id(name) else [name]
    return "/".join(re.sub(r"[^\w.-]+", "-", part, flags=re.ASCII).strip("-.") or "data" for part in parts)


def _is_hub_teacher(teacher: TeacherConfig) -> bool:
    return teacher.path is not None and teacher.path not in ("", "demo") and is_hub_id(teacher.path)


def _teacher_metadata(teacher: TeacherConfig) -> dict[str, Any]:
    """The strings of the teacher's card; empty where there is no card that can be read."""
    if not teacher.path:
        return {}
    folder = DEMO_TEACHER if teacher.path == "demo" else Path(teacher.path)
    try:
        path = folder / "README.md"
        if _is_hub_teacher(teacher):
            path = Path(hf_hub_download(teacher.path, "README.md", revision=teacher.revision))
        metadata = ModelCard.load(path).data.to_dict()
    except (OSError, ValueError, HTTPError, yaml.YAMLError):  # no card, no network, or one that is not valid
        return {}
    told = {key: value for key, value in metadata.items() if isinstance(value, str)}
    if not re.fullmatch(
        r"[a-z]{2,3}(-\w+)*|multilingual|code", told.get("language", "")
    ):  # in words, which the hub refuses
        told.pop("language", None)
    return told


def _privacy(recipe: Recipe, scores: Mapping[str, Any]) -> list[str]:
    """The sections of a private student; none of another."""
    if not (facts := scores.get("privacy")):
        return []
    return [
        "## Privacy of the training text",
        "",
        *items(guarantee(recipe, facts)),
        "### What epsilon does not cover",
        "",
        *items(not_covered(recipe)),
    ]


def _hashes(scores: Mapping[str, Any], name: str) -> list[tuple[str, str]]:
    settings = scores["settings"]
    rows = [("word list, SHA-256", settings["wordlist"]["sha256"])]
    if name in settings.get("weights", {}):
        rows.append(("weights, SHA-256", settings["weights"][name]))
    return rows


def _card_rows(scores: Mapping[str, Any], name: str) -> list[list[str]]:
    """Metric, one value with interval a model, the undetected share of this model, ideal, direction."""
    rows = []
    for metric in metrics_of(scores):
        if starts_memory(scores, metric):
            rows.append([memory_heading(scores), *[""] * len(scores["models"]), "", "", ""])
        undetected = scores["models"].get(name, {}).get(metric, some_entry(scores, metric))["undetected"]
        *cells, best, direction = next(rows_of(scores, metric))
        rows.append([*cells, share(undetected), best, direction])
    return rows


def write_cards(recipe: Recipe, scores: Mapping[str, Any], folder: Path) -> None:
    """Write README.md of each trained model of a run.

    Args:
        recipe: The run's recipe.
        scores: Contents of its scores.json.
        folder: The run's folder; a card goes into each of its `student/` and `baseline/` that exist.
    """
    for name in ("student", "baseline"):
        if (folder / name).is_dir():
            card = model_card(recipe, scores, name, _brings_code(folder / name))
            write_text(folder / name / "README.md", card)


def _brings_code(model: Path) -> bool:
    files = (model / name for name in ("config.json", "tokenizer_config.json"))
    return any(json.loads(file.read_text(encoding="utf-8")).get("auto_map") for file in files if file.is_file())
