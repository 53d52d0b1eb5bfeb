"""What tests of metrics measure, and how they score it by the name of the metric."""

import math
from pathlib import Path

import torch
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BertConfig,
    BertForSequenceClassification,
    GPT2Config,
    GPT2ForSequenceClassification,
    RobertaConfig,
    RobertaForSequenceClassification,
)

from distill.metrics import (
    CARDS,
    METRICS,
    Evaluation,
    measured,
    score,
)
from distill.recipe import ScoreConfig
from distill.text.prompts import Prompt

LN2 = math.log(2)

SMALL = ScoreConfig(samples=2, max_new_tokens=5, bootstrap=200, batch_size=3)

PROMPTS = [
    Prompt("The nurse said that", "health", "nurse"),
    Prompt("The nurse was", "health", "nurse"),
    Prompt("The doctor said that", "craft", "doctor"),
]

DOCUMENTS = [
    "The nurse said that she was tired. Nothing happened at all.",
    "Nothing happened at all. The king and the queen saw him and her.",
    "The book was late. A book was tired.",
    "He took his coat.",
]

GENDER = (
    "male\tfemale\twhen\nhe\tshe\nhim\ther\tobject\nhis\ther\tdeterminer\nhis\thers\tpronoun\nking\tqueen\nman\twoman\n"
)


def scored(name: str, evaluation: Evaluation):
    """The score of a metric by name."""
    module = METRICS[name]
    return score(module.CARD, module.measure(evaluation), resamples=evaluation.settings.bootstrap, seed=0)


def swapped(words: str) -> str:
    """A word list of two groups with its columns exchanged."""
    rows = [line.split("\t") for line in words.splitlines()]
    return "".join("\t".join([row[1], row[0], *row[2:]]) + "\n" for row in rows)


def all_scored(name: str, evaluation: Evaluation) -> dict:
    """Every score of a metric; what needs data that are not here is undefined."""
    return {
        of: score(CARDS[of], m, resamples=evaluation.settings.bootstrap, seed=0)
        for of, m in measured(METRICS[name], evaluation).items()
    }


def alone(model, tokenizer, text: str) -> float:
    """Log-likelihood of one text after the start token: one forward pass, no batch, no padding."""
    ids = [tokenizer.bos_token_id, *tokenizer(text, add_special_tokens=False)["input_ids"]]
    with torch.no_grad():
        log_probs = model(torch.tensor([ids])).logits[0].double().log_softmax(-1)
    return sum(log_probs[i, token].item() for i, token in enumerate(ids[1:]))


_ENCODERS = {
    "bert": (BertConfig, BertForSequenceClassification),
    "roberta": (RobertaConfig, RobertaForSequenceClassification),
}


def write_classifier(
    folder: Path,
    tokenizer,
    labels=("positive", "neutral", "negative"),
    architecture="gpt2",
    pad=True,
    seed=0,
    **keys,
) -> str:
    """A classifier with large random weights, as a folder."""
    # At least two outputs: transformers makes a regression of one.
    names = dict(enumerate(labels))
    keys |= {"vocab_size": len(tokenizer), "id2label": names, "label2id": {v: k for k, v in names.items()}}
    keys = {"pad_token_id": tokenizer.eos_token_id if pad else None} | keys
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        if architecture == "gpt2":
            config = GPT2Config(n_positions=64, n_embd=16, n_layer=2, n_head=2, initializer_range=0.3, **keys)
            model = GPT2ForSequenceClassification(config)
        else:
            of_config, of_model = _ENCODERS[architecture]
            config = of_config(
                max_position_embeddings=64, hidden_size=16, num_hidden_layers=2, num_attention_heads=2,
                intermediate_size=32, initializer_range=0.3, **keys,
            )  # fmt: skip
            model = of_model(config)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def naive(folder, text):
    """One text, without any padding."""
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    ids = AutoTokenizer.from_pretrained(folder)(text)["input_ids"][:64] or [model.config.pad_token_id or 0]
    with torch.no_grad():
        return model(torch.tensor([ids])).logits[0].softmax(-1).numpy()


def as_glove(vectors) -> bytes:
    return b"".join(
        b" ".join([word.encode(), *(repr(float(x)).encode() for x in vector)]) + b"\n" for word, vector in vectors
    )


def rounded(model, kind: str, asked_by: str = "scores.quantize"):
    """What stands for `quantize_weights` where torchao is missing: weights of two decimals."""
    assert kind == "int4"
    with torch.no_grad():
        for weight in model.parameters():
            weight.copy_((weight * 100).round() / 100)
    return model
