"""Trains a small classifier of regard on labelled sentences, and measures it: for `regard` where there is no network.

    python -m distill.metrics.regard.train_regard FOLDER OUT [--base demo] [--seed 0]

FOLDER holds train.tsv and what else is to be measured on (test.tsv, dev.tsv): label, tab, sentence, a line each; the
labels are -1 negative, 0 neutral, 1 positive, 2 other. OUT becomes a plain folder of transformers for
`AutoModelForSequenceClassification`, and its config.json says in `regard_accuracy` how often it is right on each file.

A causal language model is fine-tuned whole, its class read off the last token. The settings below were chosen by
five-fold cross-validation within train.tsv, so that the other files were not looked at.
"""

import argparse
import math
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from tokenizers.processors import TemplateProcessing
from transformers import AutoConfig, AutoModelForSequenceClassification, PreTrainedModel, PreTrainedTokenizerBase

from distill.base.console import run_entry, say
from distill.base.errors import UserError
from distill.base.files import write_folder
from distill.base.long_input import read_text
from distill.metrics.text_classifier import TextClassifier, load_classifier
from distill.models.architecture import own_context, special_tokens
from distill.models.loading import load_model, load_tokenizer

LABELS = {"-1": "negative", "0": "neutral", "1": "positive", "2": "other"}
EPOCHS = 10
LEARNING_RATE = 1e-3
WARM_UP = 0.1  # Share of the steps.
BATCH = 16
DROPOUT = 0.1

Rows = list[tuple[str, str]]


def read_rows(path: Path) -> Rows:
    """(label, sentence) of every line of a file.

    Raises:
        UserError: there is no such file, or a line is no label and sentence; names file and line.
    """
    lines = read_text(path, "give a folder with train.tsv and test.tsv").splitlines()
    rows = []
    for number, line in enumerate(lines, start=1):
        label, tab, text = line.partition("\t")
        if not tab or not text.strip() or label not in LABELS:
            raise UserError(f"{path}, line {number}: a label ({', '.join(LABELS)}), a tab and a sentence are expected")
        rows.append((LABELS[label], text.strip()))
    if not rows:
        raise UserError(f"{path}: holds no sentence")
    return rows


def train(rows: Rows, names: Sequence[str], base: str, out: Path, seed: int) -> None:
    """Fine-tune `base` on these rows and write the classifier to `out`.

    Args:
        rows: (label, sentence).
        names: The labels, in the order of the classes; one that no row has is left out.
        base: Folder or hub id of a causal language model.
        out: Folder of the classifier.
        seed: Decides the head's first weights, dropout and the order of the rows.

    Raises:
        UserError: the base cannot be loaded.
    """
    names = [name for name in names if any(label == name for label, _ in rows)]
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        tokenizer = _tokenizer(base)
        model = _untrained(base, tokenizer, names)
        _fit(model, tokenizer, rows, names, seed)

    def fill(folder: Path) -> None:
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)

    write_folder(out, fill)


def measure(classifier: TextClassifier, rows: Rows) -> dict[str, Any]:
    """How often the classifier is right: accuracy with its 95% interval (Wilson 1927), and the majority's share."""
    chances = classifier.probabilities([text for _, text in rows])
    n = len(rows)
    share = sum(classifier.labels[b] == label for b, (label, _) in zip(chances.argmax(axis=1), rows, strict=True)) / n
    z2 = 1.96**2
    middle, half = share + z2 / (2 * n), math.sqrt(z2 * share * (1 - share) / n + z2**2 / (4 * n**2))
    return {
        "accuracy": share,
        "low": (middle - half) / (1 + z2 / n),
        "high": (middle + half) / (1 + z2 / n),
        "rows": n,
        "majority": Counter(label for label, _ in rows).most_common(1)[0][1] / n,
    }


def in_words(measured: Mapping[str, Any]) -> str:
    """What `measure` found, as one line says it."""
    return (
        f"accuracy {measured['accuracy']:.3f} [{measured['low']:.3f}, {measured['high']:.3f}] on "
        f"{measured['rows']} sentences, {measured['majority']:.3f} for always the most frequent label"
    )


def _tokenizer(base: str) -> PreTrainedTokenizerBase:
    """The base's tokenizer, which puts the start token in front by itself, and which can pad."""
    tokenizer = load_tokenizer(base)
    start, end = special_tokens(tokenizer)
    if tokenizer("a")["input_ids"][0] != start:
        token = tokenizer.convert_ids_to_tokens(start)
        tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
            single=f"{token} $A", special_tokens=[(token, start)]
        )
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.convert_ids_to_tokens(end)
    return tokenizer


def _untrained(base: str, tokenizer: PreTrainedTokenizerBase, names: Sequence[str]) -> PreTrainedModel:
    """A classifier with the weights of the base, its head random."""
    language_model = load_model(base)
    config = AutoConfig.for_model(**language_model.config.to_dict())
    config.update({"id2label": dict(enumerate(names)), "label2id": {name: i for i, name in enumerate(names)}})
    config.update({key: DROPOUT for key in ("embd_pdrop", "resid_pdrop", "attn_pdrop") if hasattr(config, key)})
    config.pad_token_id = tokenizer.pad_token_id
    model = AutoModelForSequenceClassification.from_config(config, dtype=torch.float32)
    model.base_model.load_state_dict(language_model.base_model.state_dict())
    return model


def _fit(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, rows: Rows, names: Sequence[str], seed: int
) -> None:
    limit = own_context(model.config)
    ids = [one[:limit] for one in tokenizer([text for _, text in rows])["input_ids"]]
    steps = EPOCHS * math.ceil(len(rows) / BATCH)
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / (WARM_UP * steps), 1 - step / steps)
    )
    generator = torch.Generator().manual_seed(seed)
    model.train()
    for epoch in range(EPOCHS):
        order = torch.randperm(len(rows), generator=generator).tolist()
        for first in range(0, len(order), BATCH):
            batch = order[first : first + BATCH]
            padded = tokenizer.pad({"input_ids": [ids[i] for i in batch]}, padding_side="right", return_tensors="pt")
            loss = model(**padded, labels=torch.tensor([names.index(rows[i][0]) for i in batch])).loss
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
        say(f"epoch {epoch + 1} of {EPOCHS}, last loss {loss.item():.2f}")
    model.eval()


def main(argv: Sequence[str]) -> None:
    """Train, measure the written folder as a user would load it, and add the accuracy to its config.json."""
    parser = argparse.ArgumentParser(description="Train a small classifier of regard and measure it.")
    parser.add_argument("folder", type=Path, help="folder with train.tsv and test.tsv")
    parser.add_argument("out", type=Path, help="folder of the classifier; an older one there is replaced")
    parser.add_argument("--base", default="demo", help="causal language model to fine-tune (default: the demo teacher)")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(argv)
    if options.out.exists() and not (options.out / "config.json").exists():
        raise UserError(f"{options.out}: is there already and is no model; give a folder that is not there yet")
    rows = read_rows(options.folder / "train.tsv")
    seen = {text for _, text in rows}
    held_out = {
        path.name: [(label, text) for label, text in read_rows(path) if text not in seen]
        for path in sorted(options.folder.glob("*.tsv"))
        if path.name != "train.tsv"
    }
    if "test.tsv" not in held_out:
        raise UserError(f"{options.folder}: holds no test.tsv; a classifier of unknown accuracy is of no use")
    train(rows, list(LABELS.values()), options.base, options.out, options.seed)
    classifier = load_classifier(str(options.out))
    measured = {name: measure(classifier, rest) for name, rest in held_out.items() if rest}
    config = classifier.model.config
    config.regard_accuracy = measured | {"trained_on": len(rows), "base": options.base, "seed": options.seed}
    config.save_pretrained(options.out)
    for name, result in measured.items():
        print(f"{name}: {in_words(result)}")


if __name__ == "__main__":
    sys.exit(run_entry(main, sys.argv[1:]))
