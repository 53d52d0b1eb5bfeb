"""A classifier of texts from a folder or the hub, for the metrics that let one judge continuations."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForSequenceClassification, PreTrainedModel, PreTrainedTokenizerBase

from distill.base.errors import UserError, first_line
from distill.models.architecture import own_context, without_warnings
from distill.models.loading import load_tokenizer
from distill.models.wide_decoding import pass_factor

# Given to a classifier at one time, `pass_factor` times as much on a GPU. Not by a setting: rounding differs with the
# rows of a batch.
_MAX_ROWS = 64
_MAX_TOKENS = 2**13  # Padding included.


@dataclass(frozen=True)
class TextClassifier:
    """A model that gives each text a probability for each label.

    Args:
        name: The folder or hub id that it came from.
        model: A sequence classifier of transformers, in eval mode.
        tokenizer: Its tokenizer.
        labels: Its labels in the order of its outputs, in lower case, words joined by `_`.
    """

    name: str
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    labels: tuple[str, ...]

    def probabilities(self, texts: Sequence[str], progress: Callable[[int, int], None] | None = None) -> np.ndarray:
        """Probability of every label for every text; (N, C) float64.

        The labels exclude one another, unless the classifier says that several may hold or has a single one. Texts
        longer than it can read are cut on the right. A text without tokens is given to it as a padding token.
        """
        pad = self.model.config.get_text_config().pad_token_id
        factor = pass_factor(self.model.device)
        # Without a padding token it cannot tell where a text ends.
        rows, pad = (1, 0) if pad is None else (factor * _MAX_ROWS, pad)
        limit = min(_positions(self.model) or 10**6, self.tokenizer.model_max_length)
        ids = self.tokenizer(list(texts), truncation=True, max_length=limit)["input_ids"] if texts else []
        ids = [one or [pad] for one in ids]
        order = sorted(range(len(ids)), key=lambda i: -len(ids[i]))
        found = np.zeros((len(ids), len(self.labels)))
        done = 0
        while done < len(order):
            width = len(ids[order[done]])
            batch = order[done : done + max(1, min(rows, factor * _MAX_TOKENS // width))]
            found[batch] = self._batch([ids[i] for i in batch], width, pad)
            done += len(batch)
            if progress:
                progress(done, len(order))
        return found

    @torch.inference_mode()
    def _batch(self, ids: list[list[int]], width: int, pad: int) -> np.ndarray:
        device = self.model.device
        rows = torch.tensor([row + [pad] * (width - len(row)) for row in ids], device=device)
        mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in ids], device=device)
        logits = self.model(input_ids=rows, attention_mask=mask).logits.double().cpu()
        several = self.model.config.problem_type == "multi_label_classification" or len(self.labels) == 1
        return (logits.sigmoid() if several else logits.softmax(dim=-1)).numpy()


def load_classifier(path: str, device: Any = "cpu") -> TextClassifier:
    """The classifier of a folder or hub id, from safetensors.

    Raises:
        UserError: the folder is missing, the hub id cannot be had, or what is there is no classifier.
    """
    if path.startswith((".", "/", "~")) and not Path(path).is_dir():
        raise UserError(f"{path}: no such folder; give the folder or hub id of a classifier of texts")
    try:
        with without_warnings():
            model, report = AutoModelForSequenceClassification.from_pretrained(
                path, use_safetensors=True, trust_remote_code=False, dtype=torch.float32, output_loading_info=True
            )
    except Exception as error:  # damaged files raise many kinds
        raise UserError(
            f"{path}: no classifier of texts can be loaded from it: {first_line(error)}; give a folder with "
            "config.json and model.safetensors, or the id of a hub model"
        ) from None
    if report["missing_keys"]:
        missing = ", ".join(sorted(report["missing_keys"])[:3])
        raise UserError(f"{path}: holds no trained classifier ({missing} would be random); give one that is")
    tokenizer = load_tokenizer(path)
    config, pad = model.config.get_text_config(), tokenizer.pad_token_id
    if config.pad_token_id is None and pad is not None and pad < config.vocab_size:
        config.pad_token_id = pad  # or else transformers, which finds a text's end by it, refuses several texts at once
    labels = tuple(_plain(model.config.id2label[number]) for number in range(model.config.num_labels))
    return TextClassifier(path, model.eval().to(device), tokenizer, labels)


def _positions(model: PreTrainedModel) -> int | None:
    """How many tokens of a text have a position; `None` where there is no limit.

    Models like RoBERTa, whose table of positions has a row for padding, count from the one behind it: the rows up to it
    are no text's.
    """
    for name, module in model.named_modules():
        if name.endswith(".position_embeddings") and getattr(module, "padding_idx", None) is not None:
            return module.num_embeddings - module.padding_idx - 1
    return own_context(model.config)


def _plain(label: str) -> str:
    return "_".join(str(label).lower().replace("-", " ").replace("_", " ").split())
