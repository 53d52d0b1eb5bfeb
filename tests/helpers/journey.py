"""What a model of one architecture goes through here, from its folder to its scores; and its row in recipes/README.

`python tests/helpers/journey.py` writes the table there.
"""

import json
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import train_toy
from architectures import ARCHITECTURES, toy
from shared import REPOSITORY

from distill.base.errors import UserError
from distill.base.markdown_text import between_markers
from distill.models.architecture import head, number_of_layers
from distill.models.loading import load_model
from distill.models.probe import behaviour
from distill.models.student import student_from_layers

#: Those of whose layers a student takes all here, because others are refused.
ALL_LAYERS = {"minicpm3", "xlstm"}

RECIPE: dict[str, Any] = {
    "corpus": {"source": "files"},
    "held_out": {"source": "files", "shuffle": False},
    "block_length": 48,
    "baseline": False,
    "student": {"layers": [0, 1]},
    "trainer": {"max_steps": 4, "per_device_train_batch_size": 8, "save_steps": 2, "use_cpu": True, "logging_steps": 2},
    "scores": {"samples": 1, "max_new_tokens": 4, "bootstrap": 20, "metrics": ["perplexity", "next_word_disparity"]},
}


@dataclass(frozen=True)
class Row:
    """One line of the table.

    class_name: transformers' class.
    rows: What a row of a batch holds.
    layers: Which layers a student can be made of.
    logits: How the head shapes them.
    refused: The sentence with which the model is refused; nothing else is filled in then.
    """

    name: str
    class_name: str
    rows: str = ""
    layers: str = ""
    logits: str = ""
    refused: str = ""


def row(name: str, model: Any) -> Row:
    """What an architecture is found to do, at toy size.

    Args:
        name: Of the catalogue.
        model: See `loaded`.
    """
    if isinstance(model, str):
        return Row(name, type(toy(name)).__name__, refused=model)
    shape = head(model)
    logits = "plain" if shape.scale == 1 else "scaled"
    return Row(
        name,
        type(model).__name__,
        rows="packed" if behaviour(model).packs else "one document",
        layers=_layers(model),
        logits=logits if shape.cap is None else "soft-capped",
    )


def loaded(name: str, folder: Path) -> Any:
    """A toy model by the way of a folder; or the sentence with which it is refused."""
    toy(name).save_pretrained(folder)
    try:
        return load_model(str(folder))
    except UserError as error:
        return str(error).removeprefix(f"{folder}: ")


def _layers(model: Any) -> str:
    depth = number_of_layers(model.config)
    for name, layers in {"any": (1, depth - 1), "with the first": range(2), "all": range(depth)}.items():
        try:
            student_from_layers(model, list(layers))
        except UserError:
            continue
        return name
    return "none"


def markdown(rows: list[Row]) -> str:
    """The table, and behind it the models that are refused."""
    lines = ["| architecture | a row of a batch holds | layers for `init: layers` | logits |", "|---|---|---|---|"]
    lines += [f"| {r.name} (`{r.class_name}`) | {r.rows} | {r.layers} | {r.logits} |" for r in rows if not r.refused]
    lines += ["", "| refused | with the sentence |", "|---|---|"]
    lines += [f"| {r.name} (`{r.class_name}`) | {r.refused} |" for r in rows if r.refused]
    return "\n".join(lines) + "\n"


def teacher_folder(name: str, folder: Path) -> str:
    """A toy teacher with its tokenizer on disk."""
    tokenizer = train_toy.language()[0]
    keys = {"bos_token_id": 0, "eos_token_id": 0}
    if ARCHITECTURES[name].get("pad_token_id") is not None:
        keys["pad_token_id"] = 0
    model = toy(name, vocab_size=len(tokenizer), **keys)
    # So large that what a layer does shows in the logits.
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.mul_(3)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def text_file(folder: Path) -> str:
    """The toy documents as a corpus."""
    path = folder / "text.jsonl"
    lines = (json.dumps({"text": text}) for text in train_toy.toy_documents())
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return str(path)


README = REPOSITORY / "recipes" / "README.md"
BEGIN, END = "<!-- architectures: made by python tests/helpers/journey.py -->", "<!-- /architectures -->"


def table(folder: Path) -> str:
    """The table of the whole catalogue; models are saved in the folder on the way."""
    return markdown([row(name, loaded(name, folder / name)) for name in sorted(ARCHITECTURES)])


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        text = README.read_text(encoding="utf-8")
        README.write_text(between_markers(text, BEGIN, END, table(Path(folder))), encoding="utf-8")
