"""A few prompts -> what a model expects next and how it goes on, listed words marked: to look at, not to score.

The prompts are some of those that are scored, which name no group, and a few that do (`prompts/listed.txt`), each with
its counterfactuals. Continuations are sampled cooler than for the scores, because small models ramble otherwise.
"""

from collections.abc import Sequence
from typing import Any

import torch

from distill.metrics import Evaluation
from distill.models.generation import generate
from distill.text.counterfactual import Swapper
from distill.text.prompts import PROMPTS, Prompt, limit_prompts

DECODING: dict[str, Any] = {"samples": 1, "temperature": 0.7, "top_p": 0.9, "top_k": 0}
_NEUTRAL = 6

# [start, end, group] of a listed word, in characters.
Place = list[int]


def example_prompts(prompts: Sequence[Prompt], swapper: Swapper, seed: int) -> list[str]:
    """Some of the prompts, and those that name a group of the word list, with their counterfactuals."""
    neutral = [prompt.text for prompt in limit_prompts(prompts, _NEUTRAL, seed)]
    lines = (PROMPTS / "listed.txt").read_text(encoding="utf-8").splitlines()
    listed = [line for line in lines if not line.startswith("#") and swapper.matches(line)]
    others = ([line, *(view.text for view in swapper.counterfactuals(line))] for line in listed)
    return [*neutral, *(text for texts in others for text in texts)]


def listed_words(text: str, swapper: Swapper, begin: int = 0) -> list[Place]:
    """Listed words at or after `begin`, counted from there; what stands before may tell what a word is."""
    return [[m.start - begin, m.end - begin, m.group] for m in swapper.matches(text) if m.start >= begin]


def examples_of(evaluation: Evaluation, texts: Sequence[str]) -> list[dict[str, Any]]:
    """What one model makes of each prompt.

    Args:
        evaluation: Model, word list and settings; its own prompts play no part.
        texts: The prompts.

    Returns:
        For each prompt `next_word` (label -> probability right after the prompt, one for each group; see
        `compared_tokens`), `text` (the continuation) and `words` (its listed words).
    """
    if not texts:
        return []
    continuations = generate(
        evaluation.model,
        evaluation.tokenizer,
        [evaluation.asked(text) for text in texts],
        max_new_tokens=evaluation.settings.max_new_tokens,
        max_length=evaluation.settings.max_length,
        batch_size=evaluation.settings.batch_size,
        seed=evaluation.seed,
        **DECODING,
    )
    tokens = compared_tokens(evaluation)
    found = []
    for text, (continuation,) in zip(texts, continuations, strict=True):
        # One at a time: how many are shown at once must not show in the last digits.
        ids, _ = evaluation.encode(evaluation.asked(text))
        states = evaluation.states_at([ids], [[len(ids) - 1]])
        probabilities = evaluation.logits(states)[0].double().softmax(dim=-1)
        next_word = {label: float(probabilities[ids].sum()) for label, ids in tokens.items()}
        words = listed_words(text + continuation, evaluation.swapper, len(text))
        found.append({"next_word": next_word, "text": continuation, "words": words})
    return found


def compared_tokens(evaluation: Evaluation) -> dict[str, torch.Tensor]:
    """What is set against each other as the next word, one entry a group: label -> token ids.

    The words of the list's first row (he and she), if each is one token behind a space; else all movable words.
    """
    groups, row = evaluation.group_tokens, list(evaluation.wordlist.rows[0].words)
    encoded = [evaluation.tokenizer(f" {word}", add_special_tokens=False)["input_ids"] for word in row]
    if all(len(ids) == 1 and ids[0] in group for ids, group in zip(encoded, groups, strict=True)):
        groups, labels = [torch.tensor(ids, device=evaluation.model.device) for ids in encoded], row
    else:
        labels = [f"{group} words" for group in evaluation.wordlist.groups]
    return dict(zip(labels, groups, strict=True))
