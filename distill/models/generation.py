"""Prompts -> continuations, batched and seeded.

    load_prompts(...)            names, files or BOLD        -> list[Prompt]
    without_listed_words(...)    prompts that tell no group  -> list[Prompt], how many were left out
    generate(...)                model, prompts              -> samples per prompt, continuation only

Sampling is inverse-transform sampling from uniform numbers drawn before anything is generated: number (p, s, t) decides
token t of sample s of prompt p. So a text does not depend on its neighbours, and two models that are compared get the
same numbers, which makes their differences less noisy (common random numbers).

Rounding differs with the shape of a batch, and might decide between two tokens. The batch size changes no text

    on a CPU    for models in float32: where rounding might decide, the text is read once more alone
    on a GPU    for models in float32 that are written with in float64, see wide_decoding.py, which says which these are

Of other models on a GPU, and of those in 16 bits anywhere, a text may differ with the batch size; with the default one,
which the card's size decides, the same machine writes the same text.
"""

from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from itertools import takewhile
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList

from distill.base.errors import UserError
from distill.models.architecture import (
    begins_itself,
    decoding_with,
    end_tokens,
    own_context,
    require_rows,
    special_tokens,
    vocab_size,
)
from distill.models.matrix_rate import count_forward
from distill.models.probe import behaviour
from distill.models.sampler import Shape, draw, draw_wide
from distill.models.wide_decoding import cache_argument, cache_for, in_double, on_gpu, read_once, rows_at_once

Progress = Callable[[int, int], None]


def sound_settings(settings: GenerationConfig) -> tuple[GenerationConfig, list[str]]:
    """Generation settings that may be saved, and the names of those left out because they contradict the others.

    transformers loads what it refuses to save: a `temperature` without `do_sample`, beams that are not there.
    """
    given = settings.to_diff_dict()
    sound, left_out = GenerationConfig(), []
    # Those that others depend on come first.
    for name in sorted(given, key=lambda name: name not in ("do_sample", "num_beams", "return_dict_in_generate")):
        before = getattr(sound, name, None)
        setattr(sound, name, getattr(settings, name, given[name]))
        try:
            sound.validate(strict=True)
        except (ValueError, TypeError):
            setattr(sound, name, before)
            left_out.append(name)
    return sound, left_out


class _InverseTransformSampler(LogitsProcessor):
    """Leaves one finite score per row: that of the token on which the row's uniform number falls.

    Args:
        uniforms: (B, T) in [0, 1), one per row and new token.
        lengths: For each row the tokens of its prompt.
        width: Tokens before the first new one, padding included.
        shape: What is sampled from.
        model: Reads a row alone where rounding might decide; None: nobody does, and many rows are drawn at once.
    """

    def __init__(
        self, uniforms: Tensor, lengths: Sequence[int], width: int, shape: Shape, model: Any | None
    ) -> None:  # fmt: skip
        self.uniforms, self.lengths, self.width, self.shape, self.model = uniforms, lengths, width, shape, model

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        uniform = self.uniforms[:, input_ids.shape[1] - self.width]
        if self.model is None:
            return _only(scores, draw_wide(scores, uniform, self.shape))
        chosen, sure = draw(scores, uniform, self.shape)
        for row in (~sure).nonzero()[:, 0].tolist():
            ids = input_ids[row : row + 1, self.width - self.lengths[row] :]
            alone = self.model(input_ids=ids, use_cache=False).logits[:, -1]
            chosen[row], _ = draw(alone, uniform[row : row + 1], self.shape)
        return _only(scores, chosen)


def _only(scores: Tensor, chosen: Tensor) -> Tensor:
    """Scores (B, R) in which nothing but the chosen tokens (B, 1) can be."""
    return torch.full_like(scores, -torch.inf).scatter_(1, chosen, 0.0)


@torch.inference_mode()
def generate(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[str],
    *,
    samples: int,
    max_new_tokens: int,
    temperature: float = 1.0,
    top_p: float = 1.0,
    top_k: int = 0,
    max_length: int | None = None,
    batch_size: int | None = None,
    seed: int | Sequence[int] = 0,
    progress: Progress | None = None,
) -> list[list[str]]:
    """Sample continuations.

    Args:
        model: A causal language model with `generate`; its own generation settings play no part.
        tokenizer: Its tokenizer; one without a pad token (GPT-2's) will do.
        prompts: Texts to continue; each after the start token, unless it begins with a special token, as templates do.
        samples: Continuations per prompt.
        max_new_tokens: Tokens at which a continuation is cut off; one of `end_tokens` ends it earlier.
        temperature: Softmax temperature, above 0.
        top_p: Nucleus of sampling, as a probability; 1 keeps all.
        top_k: Sample among this many most likely tokens; 0: all.
        max_length: Tokens, the start token among them, at which prompt and continuation are cut off; None: nowhere.
        batch_size: Texts generated side by side; it changes the speed and not the texts, see the head of this file.
            None: 64 on a CPU, on a GPU as many as the card takes, up to 4,096.
        seed: Seed of the sampling; or one for each prompt, which then gets what it would get alone with that seed.
        progress: Called with (texts done, texts in all) after each batch.

    Returns:
        For each prompt its `samples` continuations, without the prompt and without special tokens.

    Raises:
        UserError: a prompt and its continuation do not fit into the model's context, or a setting is out of range.
    """
    _check_sampling(temperature, top_p, top_k)
    vocab = min(vocab_size(tokenizer), model.config.get_text_config(decoder=True).vocab_size)
    encoded = _encode(tokenizer, prompts, vocab)
    _require_room(own_context(model.config), prompts, encoded, max_new_tokens, max_length)
    uniforms = _uniforms(seed, (len(prompts), samples, max_new_tokens))
    # Neighbours of one length need no padding, and padding costs time.
    jobs = sorted(((p, s) for p in range(len(prompts)) for s in range(samples)), key=lambda job: len(encoded[job[0]]))
    texts = [[""] * samples for _ in prompts]
    writer = _writer(model, tokenizer, Shape(vocab, temperature, top_k, top_p), max_new_tokens)
    done = 0
    with decoding_with(writer.model, writer.config):
        for batch in _batches(jobs, [len(encoded[p]) for p, _ in jobs], writer, batch_size):
            before = [encoded[p] for p, _ in batch]
            drawn = torch.from_numpy(uniforms[tuple(zip(*batch, strict=True))]).to(model.device)
            new = _continue(writer, before, drawn, [_room(len(ids), max_new_tokens, max_length) for ids in before])
            for (p, s), text in zip(batch, _decode(tokenizer, before, new), strict=True):
                texts[p][s] = text
            done += len(batch)
            count_forward(model, sum(map(len, new)), max(map(len, before)) + max_new_tokens)
            if progress:
                progress(done, len(jobs))
    return texts


class _Writer(NamedTuple):
    """Who writes, and how.

    model: The model, or its float64 copy.
    config: Tokens to pad with and to end at, the longest continuation.
    shape: What is sampled from.
    pads: Whether texts of several lengths may stand in a batch.
    wide: Whether thousands of rows are written side by side, on a GPU.
    """

    model: Any
    config: GenerationConfig
    shape: Shape
    pads: bool
    wide: bool

    def rows(self, before: int) -> int:
        """How many texts behind so many tokens may stand in a batch."""
        return rows_at_once(self.model, before + self.config.max_new_tokens, before) if self.wide else 64


def _writer(model: Any, tokenizer: Any, shape: Shape, max_new_tokens: int) -> _Writer:
    """How a model is read on, whose scores leave one token each."""
    start, end = special_tokens(tokenizer)
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else end
    tokens = {"bos_token_id": start, "eos_token_id": end_tokens(model, tokenizer), "pad_token_id": pad}
    does, wide = behaviour(model), on_gpu(model)
    config = GenerationConfig(max_new_tokens=max_new_tokens, do_sample=False, use_cache=does.caches, **tokens)
    return _Writer((wide and in_double(model)) or model, config, shape, does.pads_left, wide)


def _uniforms(seed: int | Sequence[int], sizes: tuple[int, int, int]) -> np.ndarray:
    """(prompts, samples, tokens) numbers in [0, 1). Raises UserError for a seed below 0."""
    if (least := min(seed, default=0) if isinstance(seed, Sequence) else seed) < 0:
        raise UserError(f"seed must be at least 0, not {least}")
    if isinstance(seed, Sequence):
        return np.stack([np.random.default_rng(one).random(sizes[1:]) for one in seed])
    return np.random.default_rng(seed).random(sizes)


def _batches(
    jobs: Sequence[tuple[int, int]], lengths: Sequence[int], writer: _Writer, size: int | None
) -> Iterator[Sequence[tuple[int, int]]]:
    """Runs of jobs, which are sorted by length; all of one length for a model that no text may be padded for."""
    first = 0
    while first < len(jobs):
        last = min(first + (size or writer.rows(lengths[first])), len(jobs))
        if size is None:  # the longest decides
            last = min(last, first + writer.rows(lengths[last - 1]))
        if not writer.pads:
            last = min(last, bisect_right(lengths, lengths[first]))
        yield jobs[first:last]
        first = last


def _check_sampling(temperature: float, top_p: float, top_k: int) -> None:
    if not temperature > 0:  # nor a number that is none
        raise UserError(f"temperature must be above 0, not {temperature}; for nearly greedy decoding take top_k=1")
    if not 0 < top_p <= 1:
        raise UserError(f"top_p must be above 0 and at most 1, not {top_p}; 1 keeps the whole distribution")
    if top_k < 0:
        raise UserError(f"top_k must be at least 0, not {top_k}; 0 keeps all tokens")


def _continue(writer: _Writer, before: list[list[int]], uniforms: Tensor, rooms: list[int]) -> list[list[int]]:
    """The tokens that follow each of B beginnings, up to the first end token; in halves where memory is short.

    Args:
        writer: Who writes.
        before: B lists of token ids.
        uniforms: (B, N) the random numbers of their next N tokens.
        rooms: How many of the N tokens are wanted at most, of each.
    """
    try:
        return _continue_at_once(writer, before, uniforms, rooms)
    except torch.cuda.OutOfMemoryError:  # others may use the card too
        if len(before) == 1:
            raise
    half = len(before) // 2
    first = _continue(writer, before[:half], uniforms[:half], rooms[:half])
    return first + _continue(writer, before[half:], uniforms[half:], rooms[half:])


def _continue_at_once(writer: _Writer, before: list[list[int]], uniforms: Tensor, rooms: list[int]) -> list[list[int]]:
    """As `_continue`, in one batch."""
    model, config, width = writer.model, writer.config, max(map(len, before))
    rows = [[config.pad_token_id] * (width - len(ids)) + ids for ids in before]
    mask = [[0] * (width - len(ids)) + [1] * len(ids) for ids in before]
    rereading = None if writer.wide else model
    sampler = _InverseTransformSampler(uniforms, [len(ids) for ids in before], width, writer.shape, rereading)
    given = {
        "input_ids": torch.tensor(rows, device=model.device),
        "attention_mask": torch.tensor(mask, device=model.device),
    }
    if writer.wide and config.use_cache and (cache := cache_for(model, width + max(rooms))):
        given[str(cache_argument(model))] = cache
        read_once(model, cache, before, given["input_ids"], given["attention_mask"])
    output = model.generate(**given, logits_processor=LogitsProcessorList([sampler]), max_new_tokens=max(rooms))
    ends = set(config.eos_token_id)
    written = [row[:room] for row, room in zip(output[:, width:].tolist(), rooms, strict=True)]
    return [list(takewhile(lambda token: token not in ends, row)) for row in written]


def _encode(tokenizer: Any, texts: Sequence[str], vocab: int | None = None) -> list[list[int]]:
    """Token ids behind the start token, or from the special token on with which a text begins itself.

    With `vocab`, what the model predicts, a token beyond that is refused.
    """
    start = special_tokens(tokenizer)[0]
    encoded = tokenizer(list(texts), add_special_tokens=False)["input_ids"] if texts else []
    if vocab is not None:
        for text, ids in zip(texts, encoded, strict=True):
            require_rows(max(ids, default=0), tokenizer, vocab, f"the prompt '{text[:40]}'")
    return [ids if begins_itself(text, tokenizer) else [start, *ids] for text, ids in zip(texts, encoded, strict=True)]


def _decode(tokenizer: Any, before: list[list[int]], new: list[list[int]]) -> list[str]:
    """Text of the new tokens. Decoded behind their prompt, because some decoders drop a text's first space."""
    settings = {"skip_special_tokens": True, "clean_up_tokenization_spaces": False}
    distinct = list(dict.fromkeys(map(tuple, before)))  # of many samples a prompt, one
    prefixes = dict(zip(distinct, tokenizer.batch_decode(list(map(list, distinct)), **settings), strict=True))
    wholes = tokenizer.batch_decode([a + b for a, b in zip(before, new, strict=True)], **settings)
    return [
        whole.removeprefix(prefix) if whole.startswith(prefix) else tokenizer.decode(ids, **settings)
        for prefix, whole, ids in zip((prefixes[tuple(ids)] for ids in before), wholes, new, strict=True)
    ]


def _room(length: int, max_new_tokens: int, max_length: int | None) -> int:
    """How many tokens may follow a prompt of that many."""
    return max_new_tokens if max_length is None else min(max_new_tokens, max_length - length)


def check_context(
    limit: int | None,
    tokenizer: Any,
    prompts: Sequence[str],
    max_new_tokens: int,
    name: str = "",
    max_length: int | None = None,
) -> None:
    """Whether prompts and what is written behind them fit into a model's context.

    Args:
        limit: The context in tokens, see `own_context`; None: there is no limit.
        tokenizer: The model's.
        prompts: As the model is given them.
        max_new_tokens: Length of a continuation, in tokens.
        name: Of the model, for the message.
        max_length: As `generate` takes it.

    Raises:
        UserError: names the longest prompt.
    """
    if limit is not None or max_length is not None:
        _require_room(limit, prompts, _encode(tokenizer, prompts), max_new_tokens, max_length, name)


def check_prompts(limit: int | None, tokenizer: Any, prompts: Sequence[str], name: str) -> None:
    """Raises UserError, which names the prompt, if the longest one alone exceeds the context of the model so named."""
    if limit is None or not prompts:
        return
    length, prompt = _longest(prompts, _encode(tokenizer, prompts))
    if length > limit:
        raise UserError(f"{prompt} is longer than the context of {name}, {limit} tokens; shorten it")


def _longest(prompts: Sequence[str], encoded: list[list[int]]) -> tuple[int, str]:
    """Tokens of the longest prompt, and what it is called in a message."""
    place = max(range(len(encoded)), key=lambda p: len(encoded[p]))
    length = len(encoded[place])
    return length, f"the prompt '{prompts[place][:60]}' ({length} tokens with the start token)"


def _require_room(
    limit: int | None,
    prompts: Sequence[str],
    encoded: list[list[int]],
    max_new_tokens: int,
    max_length: int | None,
    name: str = "",
) -> None:
    if not encoded:
        return
    length, prompt = _longest(prompts, encoded)
    if (room := _room(length, max_new_tokens, max_length)) < 1:
        raise UserError(f"{prompt} leaves nothing of max_length {max_length}; raise it")
    if limit is None or length + room <= limit:
        return
    whose = f"context of {name}," if name else "model's context of"
    if length >= limit:
        raise UserError(f"{prompt} leaves no room in the {whose} {limit} tokens; shorten it")
    raise UserError(
        f"{prompt} and max_new_tokens {max_new_tokens} exceed the {whose} {limit} tokens; lower max_new_tokens"
    )
