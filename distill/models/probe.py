"""How a model treats packed documents, later tokens and padding: tried on a few tokens, as it is loaded.

What a model of transformers does when positions restart within a row, or when the padding stands on the left, is
written nowhere that a program could read, and a wrong guess shows in no error: the numbers are wrong. So it is tried.

    causal      a token changes nothing before it; a model that is not causal is refused
    packs       of two documents in one row, the second is read as if it stood alone; else each gets a row of its own
    caches      what it keeps while it generates changes nothing; else each token is predicted from all of the text
    pads_left   padding on the left, under an attention mask, changes nothing, with that cache too; else texts are
                generated in batches of equal length

Whether one thing changes another is asked of two rows of one batch that differ in it alone, so that rounding, which
differs with the shape of a batch, hides nothing and looks like nothing.
"""

import inspect
import re
from collections.abc import Mapping
from dataclasses import dataclass
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from transformers import GenerationConfig, PreTrainedModel

from distill.base.console import say
from distill.base.errors import UserError, first_line
from distill.models.architecture import (
    decoding_with,
    evaluating,
    hidden_states,
    own_context,
    vocab_rows,
    without_warnings,
)

# Distances between outputs, as shares of their norm, by the bytes of a number. Two rows of a batch that should be equal
# are, to the bit, in nearly every model. Experts are multiplied in groups whose size changes, and with it the rounding:
# what later tokens change before them tells how much.
_ROUNDING = {4: 1e-4, 2: 1e-2}
_ROUNDING_OF_OTHER_BATCH = {4: 1e-3, 2: 1e-1}


@dataclass(frozen=True)
class Behaviour:
    """What a causal model does: see the head of this file."""

    packs: bool
    pads_left: bool
    caches: bool


_known: WeakKeyDictionary[PreTrainedModel, tuple[str, Behaviour]] = WeakKeyDictionary()  # under which attention


def behaviour(model: PreTrainedModel, name: str | None = None) -> Behaviour:
    """Try a model once, on a few tokens; again only when its attention is another.

    Args:
        model: A language model of transformers. One without a head of its own, the two-view teacher, is taken at its
            word: it makes its logits, and takes padding out, by itself.
        name: For the message; its class where there is none.

    Raises:
        UserError: it is not causal, or it cannot even read a few tokens.
    """
    if not isinstance(model, PreTrainedModel) or model.get_output_embeddings() is None:
        return Behaviour(packs=False, pads_left=True, caches=True)
    attention = model.config._attn_implementation
    known, found = _known.get(model, (None, None))
    if found is None or known != attention:
        name, kind = name or type(model).__name__, type(model).__name__
        try:
            with without_warnings():
                causal, found = _try(model)
        except Exception as error:  # models fail in many ways
            raise UserError(f"{name}: cannot read a few tokens ({kind}): {first_line(error)}") from None
        if not causal:
            raise UserError(
                f"{name}: is no causal language model ({kind}): later tokens change what it predicts before them; give "
                "one that predicts each token from those before it, such as GPT-2"
            )
        _known[model] = attention, found
    return found


@torch.no_grad()
def reads_alike(model: PreTrainedModel, other: PreTrainedModel) -> bool:
    """Whether another makes the same predictions of a few tokens, behind padding too, but for rounding."""
    limit = own_context(model.config) or 16
    ids = made_up_ids(model, 2, max(1, min(12, limit))).to(model.device)
    mask = torch.ones_like(ids)
    if behaviour(model).pads_left:
        mask[1, : ids.shape[1] // 2] = 0
    try:
        with without_warnings(), evaluating(model), evaluating(other):
            ours, theirs = (_masked(one, ids, mask) for one in (model, other))
    except Exception:  # models fail in many ways
        return False
    read = mask.bool()
    return near(ours[read], theirs[read][..., : ours.shape[-1]])


def any_mixes(block_length: int, *models: PreTrainedModel | None) -> bool:
    """Whether one of the models that are there would read the documents that share a row as one; says which.

    A model whose attention looks at a limited number of tokens (index_topk, windows, chunks) is tried on a row of full
    length too, if such a row is longer than that.
    """
    mixing = [
        type(model).__name__
        for model in models
        if model is not None
        and (not behaviour(model).packs or (_has_limits_below(model, block_length) and not _packs(model, block_length)))
    ]
    if mixing:
        say(f"{mixing[0]} would mix documents that share a row, so that each document gets a row of its own")
    return bool(mixing)


@torch.no_grad()
def _try(model: PreTrainedModel) -> tuple[bool, Behaviour]:
    """Whether the model is causal, and what it does if so."""
    limit = own_context(model.config) or 16
    text, one, other = _made_up_texts(model, max(1, min(7, limit // 2)), max(1, min(5, limit // 2)))
    before, length = len(one), len(one) + len(text)
    positions = torch.arange(length, device=model.device).expand(2, length)

    # The text first: what follows it must not matter.
    ids = _rows(model, (text, one), (text, other))
    with evaluating(model):
        logits = model(input_ids=ids, use_cache=False).logits[:, : len(text)]
        alone = hidden_states(model, ids, positions)[:, : len(text)]

    # The text last, as a document of its own behind another.
    ids = _rows(model, (one, text), (other, text))
    packed = _packed(model, ids, before)

    # The text last, behind padding.
    mask = (positions >= before).long()
    with evaluating(model):
        padded = _masked(model, ids, mask)[:, before:]

    if not logits.isfinite().all():
        odd = [name for name, weight in model.named_parameters() if not weight.isfinite().all()]
        raise ValueError(f"its predictions are not finite; {odd[0] if odd else 'no weight'} holds NaN or infinity")
    rounding = _distance(logits[0], logits[1])

    def undisturbed(outputs: Tensor) -> bool:
        return _distance(outputs[0], outputs[1]) <= 1e-6 + 4 * rounding

    causal = rounding <= _of_format(_ROUNDING, logits)
    packs = undisturbed(packed) and near(packed, alone)
    caches = _caches(model, ids[:, :-1], torch.ones_like(mask[:, :-1]))
    pads = undisturbed(padded) and near(padded, logits)
    if pads and caches and len(text) > 1:  # what is kept of a padded text: GIT then takes its first tokens for padding
        pads = _caches(model, ids[:, :-1], mask[:, :-1])
    return causal, Behaviour(packs, pads, caches)


def _masked(model: PreTrainedModel, ids: Tensor, mask: Tensor) -> Tensor:
    """(B, T, V) logits of (B, T) rows under a mask, with the positions that `generate` gives."""
    counted = {"position_ids": (mask.cumsum(1) - 1).clamp(min=0)} if _names_positions(model) else {}
    return model(input_ids=ids, attention_mask=mask, use_cache=False, **counted).logits


def _packed(model: PreTrainedModel, ids: Tensor, before: int) -> Tensor:
    """(2, T - before, D) hidden states of the last document of (2, T) rows, which begins at `before`."""
    positions = torch.arange(ids.shape[1], device=model.device).expand(ids.shape)
    restarted = (positions - before).where(positions >= before, positions)
    with evaluating(model):
        return hidden_states(model, ids, restarted)[:, before:]


_LIMITS = re.compile(r"topk|window|chunk|block_size|sparse")


def _has_limits_below(model: PreTrainedModel, length: int) -> bool:
    settings = model.config.get_text_config(decoder=True).to_dict()
    return any(_LIMITS.search(key) and type(value) is int and 1 < value < length for key, value in settings.items())


@torch.no_grad()
def _packs(model: PreTrainedModel, length: int) -> bool:
    """Whether the second half of a row of this length is read as if it stood alone, whatever the first one is."""
    half = length // 2
    text, one, other = _made_up_texts(model, half, half)
    ids = _rows(model, (one, text), (other, text))
    with without_warnings():
        packed, alone = _packed(model, ids, half), _packed(model, ids[:, half:], 0)
    return _distance(packed[0], packed[1]) <= _of_format(_ROUNDING, packed) and near(packed, alone)


def _caches(model: PreTrainedModel, ids: Tensor, mask: Tensor) -> bool:
    """Whether the second token that the model generates behind (2, T) rows is predicted as without a cache."""
    config = GenerationConfig(
        max_new_tokens=2, do_sample=False, eos_token_id=None, pad_token_id=0, output_logits=True,
        return_dict_in_generate=True,
    )  # fmt: skip
    try:
        with decoding_with(model, config):
            found = model.generate(input_ids=ids, attention_mask=mask)
            plain = _masked(model, found.sequences[:, :-1], torch.cat([mask, mask[:, -1:]], dim=1))[:, -1:]
    except Exception:  # models fail in many ways, recurrent ones above all
        return False
    return near(found.logits[1][:, None], plain)


def _made_up_texts(model: PreTrainedModel, long: int, short: int) -> tuple[Tensor, Tensor, Tensor]:
    """A text of so many tokens, and two shorter ones that are different everywhere."""
    text, one = made_up_ids(model, long + short).split([long, short])
    low, high = _plain_ids(model)
    return text, one, low + (one - low + 1) % max(2, high - low)


def made_up_ids(model: PreTrainedModel, *shape: int) -> Tensor:
    """Random token ids, the same ones each time, none of them special."""
    return torch.randint(*_plain_ids(model), shape, generator=torch.Generator().manual_seed(0))


def _plain_ids(model: PreTrainedModel) -> tuple[int, int]:
    """[low, high): between the special tokens at the beginning of a vocabulary and those at its end."""
    rows = vocab_rows(model)
    return rows // 8, max(rows // 2, 2)


def _rows(model: PreTrainedModel, *rows: tuple[Tensor, Tensor]) -> Tensor:
    """(B, T) token ids: a row is two texts, one behind the other."""
    return torch.stack([torch.cat(row) for row in rows]).to(model.device)


def _names_positions(model: PreTrainedModel) -> bool:
    """Whether `generate` would tell the model positions."""
    return "position_ids" in inspect.signature(model.forward).parameters


def near(outputs: Tensor, expected: Tensor) -> bool:
    """Whether two batches gave the same (..., D) outputs, but for what rounding makes of another shape."""
    return _distance(outputs, expected) <= _of_format(_ROUNDING_OF_OTHER_BATCH, outputs)


def _of_format(distances: Mapping[int, float], outputs: Tensor) -> float:
    """The one of these distances that is for the outputs' number format."""
    return distances[min(4, outputs.dtype.itemsize)]


def _distance(ours: Tensor, theirs: Tensor) -> float:
    """The largest distance between outputs (..., D) of one position, as a share of their norm."""
    norm = theirs.float().norm(dim=-1).clamp(min=1e-12)
    return ((ours.float() - theirs.float()).norm(dim=-1) / norm).max().item()
