"""Prompts -> continuations, batched and seeded.

    load_prompts(...)            names, files or BOLD        -> list[Prompt]
    without_listed_words(...)    prompts that tell no group  -> list[Prompt], how many were left out
    generate(...)                model, prompts              -> samples per prompt, continuation only

Sampling is inverse-transform sampling from uniform numbers drawn before anything is generated: number (p, s, t) decides
token t of sample s of prompt p. So a text does not depend on its neighbours, and two models that are compared get the
same numbers, which makes their differences less noisy (common random numbers). Rounding differs with the shape of a
batch: where it might decide between two tokens, the text is read once more alone, so that the batch size changes
nothing.
"""

from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from itertools import takewhile
from typing import Any

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
    special_tokens,
    vocab_size,
)
from distill.models.matrix_rate import count_forward
from distill.models.probe import behaviour

# More than float32 changes with the shape of a batch: logits were seen to change by 2e-5, partial sums of probabilities
# by some 1e-7. A wider margin for these costs time: every token with less probability is then near two boundaries.
_LOGIT_ROUNDING = 1e-4
_SUM_ROUNDING = 1e-6

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
        model: Reads a row alone where rounding might decide.
        uniforms: (B, T) in [0, 1), one per row and new token.
        lengths: For each row the tokens of its prompt.
        width: Tokens before the first new one, padding included.
        vocab: How many tokens there are; rows of the head behind them are padding, which no text can hold.
        temperature, top_k, top_p: applied in this order, as `generate` does.
    """

    def __init__(
        self, model: Any, uniforms: Tensor, lengths: Sequence[int], width: int, vocab: int, temperature: float,
        top_k: int, top_p: float,
    ) -> None:  # fmt: skip
        self.model, self.uniforms, self.lengths, self.width, self.vocab = model, uniforms, lengths, width, vocab
        self.temperature, self.top_k, self.top_p = temperature, top_k, top_p

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        uniform = self.uniforms[:, input_ids.shape[1] - self.width]
        chosen, sure = self._draw(scores[:, : self.vocab], uniform)
        for row in (~sure).nonzero()[:, 0].tolist():
            ids = input_ids[row : row + 1, self.width - self.lengths[row] :]
            alone = self.model(input_ids=ids, use_cache=False).logits[:, -1]
            chosen[row], _ = self._draw(alone[:, : self.vocab], uniform[row : row + 1])
        return torch.full_like(scores, -torch.inf).scatter_(1, chosen, 0.0)

    def _draw(self, scores: Tensor, uniform: Tensor) -> tuple[Tensor, Tensor]:
        """(B, V) scores and (B,) uniform numbers -> (B, 1) token ids, and (B,) whether rounding can not change them.

        The tokens keep the order of the vocabulary: sorted by probability, near ones would change places by rounding.
        """
        scores = scores.float() / self.temperature
        sure = torch.ones_like(uniform, dtype=torch.bool)
        margin = torch.full_like(uniform, _SUM_ROUNDING)
        if 0 < self.top_k < scores.shape[1]:
            best = scores.topk(self.top_k + 1, dim=1).values
            sure = best[:, -2] - best[:, -1] > _LOGIT_ROUNDING
            scores = scores.masked_fill(scores < best[:, -2:-1], -torch.inf)
        probabilities = scores.softmax(dim=1)
        if self.top_p < 1:
            ordered, order = probabilities.sort(dim=1, descending=True)
            before = ordered.cumsum(dim=1, dtype=torch.float64) - ordered
            kept = before < self.top_p
            number = kept.sum(dim=1, keepdim=True)
            last, next_one = (ordered.gather(1, (number - k).clamp(max=ordered.shape[1] - 1)) for k in (1, 0))
            # Tokens that rounding might keep or drop: their mass moves the places of all the others.
            alike = _LOGIT_ROUNDING * last
            tied = (last - next_one <= alike) & ((ordered - last).abs() <= alike)
            margin = margin + (ordered * (tied | ((before - self.top_p).abs() <= _SUM_ROUNDING))).sum(dim=1)
            probabilities = probabilities * torch.zeros_like(kept).scatter_(1, order, kept)
        # In float32, sums over a large vocabulary would not resolve its rare tokens.
        cumulative = probabilities.cumsum(dim=1, dtype=torch.float64)
        total = cumulative[:, -1:]
        near = torch.stack([uniform, uniform - margin, uniform + margin], dim=1)
        place = torch.searchsorted(cumulative, near * total, right=True)
        # Rounding may leave the last partial sums equal to the total: never step onto a token without probability.
        place = torch.minimum(place, (cumulative < total).sum(dim=1, keepdim=True))
        return place[:, :1], sure & (place == place[:, :1]).all(dim=1)


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
    batch_size: int = 64,
    seed: int = 0,
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
        batch_size: Texts generated side by side; it changes the speed and not the texts (for a model in float32).
        seed: Seed of the sampling.
        progress: Called with (texts done, texts in all) after each batch.

    Returns:
        For each prompt its `samples` continuations, without the prompt and without special tokens.

    Raises:
        UserError: a prompt and its continuation do not fit into the model's context, or a setting is out of range.
    """
    _check_sampling(temperature, top_p)
    encoded = _encode(tokenizer, prompts, special_tokens(tokenizer)[0])
    _require_room(own_context(model.config), prompts, encoded, max_new_tokens, max_length)
    uniforms = np.random.default_rng(seed).random((len(prompts), samples, max_new_tokens))
    # Neighbours of one length need no padding, and padding costs time.
    jobs = sorted(((p, s) for p in range(len(prompts)) for s in range(samples)), key=lambda job: len(encoded[job[0]]))
    texts = [[""] * samples for _ in prompts]
    config, pads = _decoding(model, tokenizer, max_new_tokens)
    done, shape = 0, (vocab_size(tokenizer), temperature, top_k, top_p)
    with decoding_with(model, config):
        for batch in _batches(jobs, [len(encoded[p]) for p, _ in jobs], batch_size, pads):
            before = [encoded[p] for p, _ in batch]
            drawn = torch.from_numpy(uniforms[tuple(zip(*batch, strict=True))]).to(model.device)
            rooms = [_room(len(ids), max_new_tokens, max_length) for ids in before]
            new = _continue(model, before, drawn, config, shape, rooms)
            for (p, s), text in zip(batch, _decode(tokenizer, before, new), strict=True):
                texts[p][s] = text
            done += len(batch)
            count_forward(model, sum(map(len, new)), max(map(len, before)) + max_new_tokens)
            if progress:
                progress(done, len(jobs))
    return texts


def _decoding(model: Any, tokenizer: Any, max_new_tokens: int) -> tuple[GenerationConfig, bool]:
    """How a model is read on, whose scores leave one token each, and whether a text may be padded for it."""
    start, end = special_tokens(tokenizer)
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else end
    tokens = {"bos_token_id": start, "eos_token_id": end_tokens(model, tokenizer), "pad_token_id": pad}
    does = behaviour(model)
    config = GenerationConfig(max_new_tokens=max_new_tokens, do_sample=False, use_cache=does.caches, **tokens)
    return config, does.pads_left


def _batches(
    jobs: Sequence[tuple[int, int]], lengths: Sequence[int], size: int, pads: bool
) -> Iterator[Sequence[tuple[int, int]]]:
    """Runs of jobs, which are sorted by length; all of one length for a model that no text may be padded for."""
    first = 0
    while first < len(jobs):
        last = min(first + size, len(jobs))
        if not pads:
            last = min(last, bisect_right(lengths, lengths[first]))
        yield jobs[first:last]
        first = last


def _check_sampling(temperature: float, top_p: float) -> None:
    if not temperature > 0:  # nor a number that is none
        raise UserError(f"temperature must be above 0, not {temperature}; for nearly greedy decoding take top_k=1")
    if not 0 < top_p <= 1:
        raise UserError(f"top_p must be above 0 and at most 1, not {top_p}; 1 keeps the whole distribution")


def _continue(
    model: Any,
    before: list[list[int]],
    uniforms: Tensor,
    config: GenerationConfig,
    shape: tuple[int, float, int, float],
    rooms: Sequence[int],
) -> list[list[int]]:
    """The tokens that follow each of B beginnings, up to the first end token.

    Args:
        model: As `generate` takes it.
        before: B lists of token ids.
        uniforms: (B, N) the random numbers of their next N tokens.
        config: Tokens to pad with and to end at.
        shape: Number of tokens that there are, temperature, top_k and top_p.
        rooms: How many of the N tokens are wanted at most, of each.
    """
    width = max(map(len, before))
    rows = [[config.pad_token_id] * (width - len(ids)) + ids for ids in before]
    mask = [[0] * (width - len(ids)) + [1] * len(ids) for ids in before]
    sampler = _InverseTransformSampler(model, uniforms, [len(ids) for ids in before], width, *shape)
    output = model.generate(
        input_ids=torch.tensor(rows, device=model.device),
        attention_mask=torch.tensor(mask, device=model.device),
        logits_processor=LogitsProcessorList([sampler]),
        max_new_tokens=max(rooms),
    )
    ends = set(config.eos_token_id)
    written = [row[:room] for row, room in zip(output[:, width:].tolist(), rooms, strict=True)]
    return [list(takewhile(lambda token: token not in ends, row)) for row in written]


def _encode(tokenizer: Any, texts: Sequence[str], start: int) -> list[list[int]]:
    """Token ids behind the start token, or from the special token on with which a text begins itself."""
    encoded = tokenizer(list(texts), add_special_tokens=False)["input_ids"] if texts else []
    return [ids if begins_itself(text, tokenizer) else [start, *ids] for text, ids in zip(texts, encoded, strict=True)]


def _decode(tokenizer: Any, before: list[list[int]], new: list[list[int]]) -> list[str]:
    """Text of the new tokens. Decoded behind their prompt, because some decoders drop a text's first space."""
    settings = {"skip_special_tokens": True, "clean_up_tokenization_spaces": False}
    prefixes = tokenizer.batch_decode(before, **settings)
    wholes = tokenizer.batch_decode([a + b for a, b in zip(before, new, strict=True)], **settings)
    alone = tokenizer.batch_decode(new, **settings)
    return [
        whole.removeprefix(prefix) if whole.startswith(prefix) else text
        for prefix, whole, text in zip(prefixes, wholes, alone, strict=True)
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
        encoded = _encode(tokenizer, prompts, special_tokens(tokenizer)[0])
        _require_room(limit, prompts, encoded, max_new_tokens, max_length, name)


def _require_room(
    limit: int | None,
    prompts: Sequence[str],
    encoded: list[list[int]],
    max_new_tokens: int,
    max_length: int | None,
    name: str = "",
) -> None:
    longest = max(range(len(encoded)), key=lambda p: len(encoded[p]), default=None)
    if longest is None:
        return
    length = len(encoded[longest])
    if (room := _room(length, max_new_tokens, max_length)) < 1:
        raise UserError(
            f"the prompt '{prompts[longest][:60]}' ({length} tokens with the start token) leaves nothing of max_length "
            f"{max_length}; raise it"
        )
    if limit is None or length + room <= limit:
        return
    whose = f"context of {name}," if name else "model's context of"
    raise UserError(
        f"the prompt '{prompts[longest][:60]}' ({len(encoded[longest])} tokens with the start token) and "
        f"max_new_tokens {max_new_tokens} exceed the {whose} {limit} tokens; lower max_new_tokens"
    )
