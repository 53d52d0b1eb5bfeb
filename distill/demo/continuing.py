"""A prompt -> texts of every model from the same random numbers, and a count of whom they speak of, that goes on."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from distill.base.errors import UserError
from distill.demo.loaded import Loaded
from distill.demo.next_word import checked_prompt
from distill.metrics.polarity import group_counter, polarity_table
from distill.scoring.examples import listed_words

AT_ONCE = 4  # texts for which a model is taken: more of them would let others wait
MOST_SAMPLES, MOST_TOKENS, LARGEST_SEED = 64, 100, 2**31 - 1
_SHOWN = 8  # of the newest texts
_FIELDS = {
    "samples": "the number of texts", "tokens": "the length of a text", "temperature": "the temperature",
    "top_p": "top-p", "seed": "the seed",
}  # fmt: skip
_QUANTILE = 1.959964  # of the standard normal distribution, for 95%
_CHUNKS = 100_000  # more than anybody asks for: the random numbers of two seeds do not meet


@dataclass(frozen=True)
class Written:
    """A text of a model: the continuation, and [start, end, group] of its listed words."""

    text: str
    words: list[list[int]]


@dataclass(frozen=True)
class Count:
    """Whom the texts so far speak of.

    Args:
        texts: Title of a model -> (K + 2,) texts of each group, tied, and of none.
        prompts: The prompts that they go on from.
        drawn: Chunks of random numbers that were used: seed -> number.
        newest: Title -> the newest texts, each behind its prompt.
    """

    texts: Mapping[str, np.ndarray] = field(default_factory=dict)
    prompts: tuple[str, ...] = ()
    drawn: Mapping[int, int] = field(default_factory=dict)
    newest: Mapping[str, tuple[tuple[str, Written], ...]] = field(default_factory=dict)

    @property
    def total(self) -> int:
        """Texts of each model."""
        return int(next(iter(self.texts.values())).sum()) if self.texts else 0


@dataclass(frozen=True)
class Asked:
    """What is to be written.

    Args:
        samples: Texts of each model.
        tokens: Length of each, in tokens.
        temperature, top_p: Of sampling.
        seed: Of the random numbers.
    """

    samples: int = 8
    tokens: int = 24
    temperature: float = 1.0
    top_p: float = 1.0
    seed: int = 0


def write(loaded: Loaded, text: str, asked: Asked, before: Count) -> Iterator[Count]:
    """Let every model go on from a prompt, a few texts at a time.

    All models draw the same random numbers, and a later call with the same seed draws new ones.

    Args:
        loaded: The models.
        text: The prompt.
        asked: How much, and how.
        before: What was counted so far.

    Yields:
        What there is after every few texts of a model; the counts move when all models have written theirs.

    Raises:
        UserError: the prompt or a setting is out of range.
    """
    prompt, asked = checked_prompt(text), _checked(asked)
    counter, _ = group_counter(loaded.swapper.wordlist, loaded.swapper)
    groups = loaded.swapper.wordlist.num_groups
    count = replace(before, prompts=tuple(dict.fromkeys([*before.prompts, prompt])))
    decoding: dict[str, Any] = {
        "max_new_tokens": asked.tokens, "temperature": asked.temperature, "top_p": asked.top_p,
    }  # fmt: skip
    left = asked.samples
    while left:
        number = min(left, AT_ONCE)
        chunk = count.drawn.get(asked.seed, 0)
        texts = {}
        for model in loaded.models:
            with loaded.turns.taken():
                found = model.texts(prompt, number, asked.seed * _CHUNKS + chunk, decoding)
            title = model.source.title
            texts[title] = count.texts.get(title, 0) + polarity_table([found], counter, groups)[0]
            written = [(prompt, Written(one, listed_words(prompt + one, loaded.swapper, len(prompt)))) for one in found]
            newest = (*written, *count.newest.get(title, ()))[:_SHOWN]
            count = replace(count, newest={**count.newest, title: newest})
            if model is not loaded.models[-1]:
                yield count
        count = replace(count, texts=texts, drawn={**count.drawn, asked.seed: chunk + 1})
        left -= number
        yield count


def interval(number: int, total: int) -> tuple[float, float]:
    """The 95% interval of a share (Wilson 1927), from `number` of `total` texts.

    Of texts behind several prompts it is for these prompts in these proportions, and wider than it need be: shares
    vary less within prompts than over all.
    """
    if total == 0:
        return 0.0, 1.0
    share, square = number / total, _QUANTILE**2
    middle = (share + square / (2 * total)) / (1 + square / total)
    half = _QUANTILE / (1 + square / total) * math.sqrt(share * (1 - share) / total + square / (4 * total**2))
    return max(0.0, min(share, middle - half)), min(1.0, max(share, middle + half))  # at 0 and 1 they round


def _checked(asked: Asked) -> Asked:
    """Raises UserError for what is out of range, or was cleared and not given again."""
    for name, value in vars(asked).items():
        if value is None:
            raise UserError(f"the field for {_FIELDS[name]} is empty; give a number")
    for name, value, most in (
        ("texts", asked.samples, MOST_SAMPLES), ("tokens of a text", asked.tokens, MOST_TOKENS),
    ):  # fmt: skip
        if not 1 <= value <= most:
            raise UserError(f"{value:,} {name} are asked for; give 1 to {most}")
    if not 0 <= asked.seed <= LARGEST_SEED:
        raise UserError(f"the seed is {asked.seed}, but must be from 0 to {LARGEST_SEED:,}")
    return asked
