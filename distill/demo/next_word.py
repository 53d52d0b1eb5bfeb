"""A prompt -> what each model expects next: the groups' words as shares, the ratio in words, the likeliest tokens."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from distill.base.errors import UserError
from distill.base.long_input import encodable
from distill.demo.loaded import Loaded, Model
from distill.metrics.log_ratio import log_ratio
from distill.models.architecture import vocab_size
from distill.reports.figures import times
from distill.text.counterfactual import Swapper
from distill.text.prompts import DEFAULT_PROMPTS, load_prompts

MOST_CHARACTERS = 2000  # of a prompt
LIKELIEST = 10
_PLACE = "…"  # where the subject of a prompt stands in its template


@dataclass(frozen=True)
class Token:
    """One of the likeliest next tokens; `group` is the index of its group, None for a token that is not listed."""

    text: str
    probability: float
    group: int | None


@dataclass(frozen=True)
class NextWord:
    """What one model expects after a prompt.

    Args:
        title: What the model is called.
        masses: Probability of each group's listed words together.
        said: The log ratio of these in words: `4 times likelier male`.
        compared: The words that stand for the groups (he, she) and their probabilities; empty where they are several
            tokens.
        compared_said: The log ratio of these in words.
        likeliest: The ten likeliest tokens, the likeliest first.
    """

    title: str
    masses: tuple[float, ...]
    said: str
    compared: tuple[tuple[str, float], ...]
    compared_said: str
    likeliest: tuple[Token, ...]


def checked_prompt(text: str) -> str:
    """A prompt as it is given to models: without white space at its end, see `load_prompts`.

    Raises:
        UserError: it is empty or too long.
    """
    prompt = encodable(text).rstrip()
    if not prompt:
        raise UserError("there is no prompt yet: type the beginning of a text, or choose one")
    if len(prompt) > MOST_CHARACTERS:
        raise UserError(
            f"the prompt has {len(prompt):,} characters, and at most {MOST_CHARACTERS:,} are taken; shorten it"
        )
    return prompt


def next_words(loaded: Loaded, text: str, strength: float) -> list[NextWord]:
    """What every model expects after a prompt, and last what the target of that strength does.

    Args:
        loaded: The models.
        text: The prompt.
        strength: Of the target, 0 to 1.

    Raises:
        UserError: the prompt is empty or too long.
    """
    prompt = checked_prompt(text)
    if not 0 <= strength <= 1:
        raise UserError(f"the strength is {strength}, but must be from 0 to 1")
    with loaded.turns.taken():
        found = [expected(one, one.source.title, one.log_probabilities(prompt), prompt) for one in loaded.models]
        target = loaded.target.log_probabilities(prompt, strength)
        title = f"target, strength {strength:g}"
        return [*found, expected(loaded.target.teacher, title, target, prompt)]


def expected(model: Model, title: str, log_probabilities: Tensor, prompt: str) -> NextWord:
    """What stands in log-probabilities (V,) of the next token.

    Args:
        model: Whose tokens these are.
        title: What is expected by.
        log_probabilities: Of each token.
        prompt: The text before it.
    """
    groups = model.evaluation.wordlist.groups
    logs = np.array([_log_mass(log_probabilities, ids) for ids in model.evaluation.group_tokens])
    words = {label: _log_mass(log_probabilities, ids) for label, ids in model.compared.items()}
    by_name = "" if list(words) == [f"{group} words" for group in groups] else said(list(words.values()), list(words))
    return NextWord(
        title,
        tuple(np.exp(logs).tolist()),
        said(logs.tolist(), groups),
        tuple((label, math.exp(log)) for label, log in words.items()) if by_name else (),
        by_name,
        _likeliest(model, log_probabilities, prompt),
    )


def said(logs: Sequence[float], names: Sequence[str]) -> str:
    """A log ratio with its sign in words: `4 times likelier he`; of more than two, the likeliest beside the next.

    Args:
        logs: Logs of the probabilities, -inf for none.
        names: What they are of.
    """
    order = sorted(range(len(logs)), key=lambda i: -logs[i])
    first, second = order[:2]
    if not math.isfinite(logs[first]):
        return "none of them expected"
    ratio = float(log_ratio(np.array([logs[first], logs[second]])))
    multiple = times(ratio)
    if multiple == "even":
        return "even" if len(logs) == 2 else f"{names[first]} and {names[second]} even"
    behind = "" if len(logs) == 2 else f" than {names[second]}"
    return f"{multiple.removesuffix('×')} times likelier {names[first]}{behind}"


def choices(source: str) -> dict[str, dict[str, str]]:
    """Subject (an occupation) -> its prompts by their templates, with `…` where the subject stands.

    Args:
        source: As `load_prompts` takes it; where that cannot be had, the bundled occupations.
    """
    try:
        prompts = load_prompts(source)
    except UserError:
        prompts = load_prompts(DEFAULT_PROMPTS)
    found: dict[str, dict[str, str]] = {}
    for prompt in prompts:
        template = prompt.text.replace(prompt.subject, _PLACE) if prompt.subject else prompt.text
        found.setdefault(prompt.subject, {})[template] = prompt.text
    return found


def _log_mass(log_probabilities: Tensor, ids: Tensor) -> float:
    inside = ids.cpu()[ids.cpu() < len(log_probabilities)]
    return float(log_probabilities[inside].logsumexp(dim=0)) if len(inside) else -math.inf


def _likeliest(model: Model, log_probabilities: Tensor, prompt: str) -> tuple[Token, ...]:
    tokenizer, swapper = model.evaluation.tokenizer, model.evaluation.swapper
    groups = [set(ids.tolist()) for ids in model.evaluation.group_tokens]
    best = log_probabilities[: vocab_size(tokenizer)].topk(LIKELIEST)
    found = []
    texts = [_decoded(tokenizer, i) for i in best.indices.tolist()]
    for index, log, text in zip(best.indices.tolist(), best.values.tolist(), texts, strict=True):
        group = next((g for g, ids in enumerate(groups) if index in ids), None)
        found.append(Token(_visible(text), math.exp(log), _listed(prompt, text, swapper) if group is None else group))
    return tuple(found)


def _decoded(tokenizer: Any, token: int) -> str:
    """A token's text, with the space that it begins with: behind another word, as some decoders drop a text's first."""
    settings = {"clean_up_tokenization_spaces": False}
    word = tokenizer("a", add_special_tokens=False)["input_ids"]
    before, whole = (tokenizer.decode(ids, **settings) for ids in (word, [*word, token]))
    return whole.removeprefix(before) if whole.startswith(before) else tokenizer.decode([token], **settings)


def _listed(prompt: str, text: str, swapper: Swapper) -> int | None:
    """The group of a token that is a listed word behind its prompt."""
    whole = prompt + text
    return next((m.group for m in swapper.matches(whole) if m.end == len(whole) and m.start >= len(prompt)), None)


def _visible(text: str) -> str:
    """A token as a reader sees it: a word without the space before it; what goes on with a word behind dots."""
    if not text.strip():
        return {" ": "space", "": "(nothing)", "\n": "new line"}.get(text, repr(text))
    return text.strip() if text[0].isspace() or not text[0].isalnum() else f"…{text}"
