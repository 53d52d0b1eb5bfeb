"""What a GPU needs to write thousands of texts side by side: how many fit, where their past is kept, a float64 copy.

    rows_at_once(...)   how many texts fit: by the model and the card's memory, not by what is free of it
    in_double(...)      a float32 model in float64, so that rounding decides no token; None where that does not pay
    cache_for(...)      keys and values in memory that is there from the first token on
    pass_factor(...)    how much is read at once where nothing is written

In float64 a batch of another shape changes logits by some 1e-13, and rounding them to float32 hides that: a text is the
same in every batch. The cards of data centres multiply matrices in float64 as fast as in float32. Cards that do not,
models whose copy would take more than a tenth of the card, and such as are quantised, sharded or in 16 bits write in
their own format, where rounding, which differs with the shape of a batch, may decide between two tokens.
"""

import copy
import inspect
from collections.abc import Callable, Sequence
from typing import Any
from weakref import WeakMethod

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, pad, scaled_dot_product_attention
from torch.overrides import TorchFunctionMode
from transformers import DynamicCache, PretrainedConfig, PreTrainedModel
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from distill.models.architecture import fuse_activations, is_plain, number_of_layers
from distill.models.probe import reads_alike
from distill.models.sampler import BLOCK

try:
    import triton
    import triton.language as tl

    from distill.objective.kernels import works
except ImportError:
    triton = None

MAX_ROWS = 4096  # from here on more rows at a time are hardly faster
_SHARE_OF_BATCH = 0.6  # of the card's memory
_SHARE_OF_COPY = 0.1

# Compute capabilities of cards whose rate in float64 is at least half of that in float32.
_FAST_IN_DOUBLE = {(6, 0), (7, 0), (8, 0), (9, 0), (10, 0)}


def on_gpu(model: Any) -> bool:
    """Whether texts are written by the thousand: on a GPU, by a model that makes its predictions from a head.

    Models that change another's predictions as they are made read every text anew at each token.
    """
    if not isinstance(model, PreTrainedModel) or model.device.type != "cuda":
        return False
    return model.get_output_embeddings() is not None


def total_memory(device: torch.device) -> int:
    """Bytes of the card, used or not: the same number on each day."""
    return torch.cuda.get_device_properties(device).total_memory


def fast_in_double(device: torch.device) -> bool:
    """Whether the card multiplies float64 about as fast as float32."""
    return torch.cuda.get_device_capability(device) in _FAST_IN_DOUBLE


def rows_at_once(model: PreTrainedModel, length: int, before: int) -> int:
    """How many texts a card takes side by side, at least one and at most `MAX_ROWS`.

    Args:
        model: As it will write, in float64 if it does.
        length: Tokens of a text when it is done, those before it included.
        before: Tokens that are read first, at once.
    """
    config = model.config.get_text_config(decoder=True)
    width, size = config.hidden_size, model.dtype.itemsize
    heads = _number(config, "num_attention_heads", 1)
    shared = _number(config, "num_key_value_heads", heads)
    per_head = _number(config, "head_dim", -(-width // heads))
    cache = 2 * number_of_layers(config) * shared * per_head * length
    reading = before * (20 * width + 3 * heads * before)
    kept = 1 if "logits_to_keep" in inspect.signature(model.forward).parameters else before
    logits = config.vocab_size * (kept + 1)
    scratch = 24 * config.vocab_size  # the sampler's, in float32
    row = size * (cache + reading + logits) + scratch
    return max(1, min(MAX_ROWS, int(_SHARE_OF_BATCH * total_memory(model.device)) // row))


def _number(config: PretrainedConfig, name: str, default: int) -> int:
    """A number of a configuration, the default where it has none, or another one in each layer."""
    try:
        return getattr(config, name, None) or default
    except Exception:  # transformers' own kind for the latter
        return default


def pass_factor(device: torch.device) -> int:
    """How many times as much as a CPU a device reads at once where a score is made of texts that are there.

    By the card's whole memory, so that the same machine gives the same file: 16 with 64 to 128 GiB, 4 with 16 to 32.
    """
    return 1 if device.type != "cuda" else 2 ** max(0, total_memory(device).bit_length() - 33)


def cache_argument(model: torch.nn.Module) -> str | None:
    """How a model's forward, and what it gives, call a cache of keys and values; None for one that takes none.

    `cache` since transformers 5.24, where the older `past_key_values` ends with 5.40. Models whose code comes with them
    may keep the older name.
    """
    takes = inspect.signature(model.forward).parameters
    return next((name for name in ("cache", "past_key_values") if name in takes), None)


def cache_for(model: PreTrainedModel, length: int) -> DynamicCache | None:
    """A cache of keys and values for texts of so many tokens; None for a model that keeps a past of another kind.

    It is transformers' own, but copies nothing of what it has when it grows.
    """
    if model.config.is_encoder_decoder or cache_argument(model) is None:
        return None
    cache: Any = DynamicCache(config=model.config)
    cache.layers = [_GrowingLayer(length) if type(layer) is DynamicLayer else layer for layer in cache.layers]
    return cache if any(type(layer) is _GrowingLayer for layer in cache.layers) else None


class _GrowingLayer(DynamicLayer):
    """Gives what is filled of two tensors of full length."""

    def __init__(self, length: int) -> None:
        super().__init__()
        self._length = length
        self._whole: list[Tensor] = []
        self.keys: Any
        self.values: Any

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """As there."""
        seen = self.get_seq_length()
        self.dtype, self.device, self.is_initialized = key_states.dtype, key_states.device, True
        end = seen + key_states.shape[-2]
        if not self._whole or end > self._whole[0].shape[-2]:
            room = max(self._length, end)
            self._whole = [new.new_empty(*new.shape[:2], room, new.shape[3]) for new in (key_states, value_states)]
            for whole, old in zip(self._whole, (self.keys, self.values), strict=True):
                if seen:
                    whole[:, :, :seen] = old
        for whole, new in zip(self._whole, (key_states, value_states), strict=True):
            whole[:, :, seen:end] = new
        self.keys, self.values = (whole[:, :, :end] for whole in self._whole)
        return self.keys, self.values

    def batch_select_indices(self, indices: Tensor) -> None:
        """As there; what was of other rows is let go at once."""
        super().batch_select_indices(indices)
        self._whole = []


def read_once(model: PreTrainedModel, cache: Any, before: Sequence[Sequence[int]], ids: Tensor, mask: Tensor) -> None:
    """Fill a cache with all but the last token of (B, T) rows, where most are alike: each different one is read once.

    Not of a model that keeps states beside keys and values: those cannot be handed on to other rows.

    Args:
        model: Whose cache it is.
        cache: As `cache_for` gives it.
        before: The rows without padding.
        ids, mask: The rows and their attention mask.
    """
    first: dict[tuple[int, ...], int] = {}  # where each different one stands
    for place, row in enumerate(before):
        first.setdefault(tuple(row), place)
    keys_and_values = all(type(layer) in (_GrowingLayer, DynamicSlidingWindowLayer) for layer in cache.layers)
    if not keys_and_values or ids.shape[1] == 1 or 2 * len(first) > len(before):
        return
    numbers = {row: number for number, row in enumerate(first)}
    places = list(first.values())
    given: dict[str, Any] = {"input_ids": ids[places, :-1], "attention_mask": mask[places, :-1]}
    takes = inspect.signature(model.forward).parameters
    if "position_ids" in takes:
        given["position_ids"] = (given["attention_mask"].cumsum(1) - 1).clamp(min=0)
    if "logits_to_keep" in takes:
        given["logits_to_keep"] = 1
    given[str(cache_argument(model))] = cache
    model(**given, use_cache=True)
    cache.batch_select_indices(torch.tensor([numbers[tuple(row)] for row in before], device=ids.device))


# ----------------------------------------------------------------------------------------------------------- float64


def in_double(model: PreTrainedModel) -> PreTrainedModel | None:
    """A copy of a float32 model that computes in float64 throughout, to write with; None where there is none.

    A model of that kind is one whose weights are plain and in float32, and whose `forward` is its class's, on a card
    that is fast in float64 and large enough.
    """
    if not is_plain(model) or torch.is_autocast_enabled(model.device.type) or not fast_in_double(model.device):
        return None
    if 8 * sum(weight.numel() for weight in model.parameters()) > _SHARE_OF_COPY * total_memory(model.device):
        return None
    twin = copy.deepcopy(model).double().eval().requires_grad_(False)
    fuse_activations(twin)
    _align_head(twin)
    twin.forward = _doubled(twin.forward)
    return twin if reads_alike(model, twin) else None


def _align_head(model: PreTrainedModel) -> None:
    """Give the head rows up to a multiple of `BLOCK`, as products and sampler want them; no text can hold these."""
    head = model.get_output_embeddings()
    if type(head) is not nn.Linear or not (missing := -head.out_features % BLOCK):
        return
    longer = nn.Linear(head.in_features, head.out_features + missing, head.bias is not None, device="meta")
    longer.weight = nn.Parameter(pad(head.weight, (0, 0, 0, missing)), requires_grad=False)
    if head.bias is not None:
        longer.bias = nn.Parameter(pad(head.bias, (0, missing)), requires_grad=False)
    model.set_output_embeddings(longer)


def _doubled(forward: Any) -> Callable[..., Any]:
    """A model's method in float64; `generate` looks at what it takes.

    It does not hold the model, of which it becomes a part: a copy of billions of bytes would wait for the garbage
    collector.
    """
    method = WeakMethod(forward)

    def doubled(*args: Any, **kwargs: Any) -> Any:
        with _Double():
            return method()(*args, **kwargs)  # type: ignore[misc]  # it is called by the model itself

    doubled.__signature__ = inspect.signature(forward)  # type: ignore[attr-defined]
    return doubled


class _Double(TorchFunctionMode):
    """Whatever a model would do in float32, norms and softmax of many do, is done in float64."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Called instead of each function of torch."""
        if func is scaled_dot_product_attention:
            func = _attention
        elif func is Tensor.float:
            func = Tensor.double
        elif func is torch.addmm and not kwargs:
            func = _product_and_bias
        elif func is linear:
            func = _linear
        args = tuple(torch.float64 if arg is torch.float32 else arg for arg in args)
        given = {name: torch.float64 if arg is torch.float32 else arg for name, arg in (kwargs or {}).items()}
        return func(*args, **given)


# Of a product with a bias in float64, cuBLAS takes a kernel of half the rate of that without (30 of 60 TFLOP/s on an
# H200): to add the bias afterwards costs less.


def _product_and_bias(bias: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """`addmm`."""
    return torch.mm(a, b).add_(bias)


def _linear(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """`linear`, whose parameters may be given by name."""
    return linear(input, weight) if bias is None else linear(input, weight).add_(bias)


def _attention(
    query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None, dropout_p: float = 0.0,
    is_causal: bool = False, scale: float | None = None, enable_gqa: bool = False,
) -> Tensor:  # fmt: skip
    """`scaled_dot_product_attention` in float64. Torch's own scales all keys anew at each token."""
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    of_one = not is_causal and _is_of_one_token(query, key, value, attn_mask)
    if of_one and triton is not None and query.is_cuda and works(query.device):
        return _attention_of_one_token(query, key, value, attn_mask, scale)
    if enable_gqa:
        key, value = (states.repeat_interleave(query.shape[1] // states.shape[1], dim=1) for states in (key, value))
    scores = (query * scale) @ key.transpose(-2, -1)
    if is_causal:
        attn_mask = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).tril()
    if attn_mask is not None and attn_mask.dtype == torch.bool:
        # Not infinity: a row of padding looks at nothing, and would become NaN.
        scores = scores.masked_fill(~attn_mask, torch.finfo(scores.dtype).min)
    elif attn_mask is not None:
        scores = scores + attn_mask
    return scores.softmax(dim=-1) @ value


def _is_of_one_token(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> bool:
    """Whether each text has one query a head, and a mask that says no more than which of its keys count.

    transformers may give the heads that share keys as so many queries; the mask tells these from more tokens.
    """
    if query.dim() != 4 or query.dtype != torch.float64 or key.shape != value.shape or len(key) != len(query):
        return False
    if not query.stride(3) == key.stride(3) == value.stride(3) == 1:
        return False
    if mask is None:
        return query.shape[2] == 1
    packed = query.shape[2] == 1 or query.shape[1] == key.shape[1]
    return packed and mask.dtype == torch.bool and mask.shape[1:] == (1, 1, key.shape[2])


if triton is not None:
    # One kernel for texts of any length, not one for each kind.
    @triton.jit(do_not_specialize=["length", "mask_row"], do_not_specialize_on_alignment=["mask"])
    def _one_token_kernel(
        query, key, value, mask, out, scale, length, width, heads, of_a_key, query_row, query_head,
        key_row, key_head, key_token, value_row, value_head, value_token, mask_row, mask_token,
        MASKED: tl.constexpr, TOKENS: tl.constexpr, WIDTH: tl.constexpr,
    ):  # fmt: skip
        """A head of a text: keys and values are read once, so many tokens at a time, with a running softmax."""
        row, head = (tl.program_id(0) // heads).to(tl.int64), tl.program_id(0) % heads
        key += row * key_row + head // of_a_key * key_head
        value += row * value_row + head // of_a_key * value_head
        lanes = tl.arange(0, WIDTH)
        there = lanes < width
        asked = tl.load(query + row * query_row + head * query_head + lanes, mask=there, other=0.0) * tl.load(scale)
        top, total = tl.full((), -float("inf"), tl.float64), tl.zeros((), tl.float64)
        found = tl.zeros((WIDTH,), tl.float64)
        for first in range(0, length, TOKENS):
            tokens = first + tl.arange(0, TOKENS)
            real = tokens < length
            read = real[:, None] & there[None, :]
            keys = tl.load(key + tokens[:, None] * key_token + lanes[None, :], mask=read, other=0.0)
            scores = tl.sum(keys * asked[None, :], 1)
            if MASKED:
                counts = tl.load(mask + row * mask_row + tokens * mask_token, mask=real, other=0)
                scores = tl.where(counts != 0, scores, -1.7976931348623157e308)  # as below, no infinity
            scores = tl.where(real, scores, -float("inf"))
            most = tl.maximum(top, tl.max(scores, 0))
            shares = tl.exp(scores - most)
            values = tl.load(value + tokens[:, None] * value_token + lanes[None, :], mask=read, other=0.0)
            kept = tl.exp(top - most)
            found = found * kept + tl.sum(values * shares[:, None], 0)
            total, top = total * kept + tl.sum(shares, 0), most
        tl.store(out + tl.program_id(0).to(tl.int64) * width + lanes, found / total, mask=there)


def _attention_of_one_token(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scale: float, tokens: int = 32
) -> Tensor:
    """`_attention` of one query a head and text, in one kernel: two products and a softmax read all twice."""
    out = torch.empty(query.shape, dtype=query.dtype, device=query.device)
    query = query.flatten(1, 2)
    rows, heads, width = query.shape
    length = key.shape[2]
    seen = query if mask is None else mask.view(torch.uint8)[:, 0, 0].expand(rows, length)
    # As a plain number it would become a float32.
    factor = torch.full((1,), scale, dtype=query.dtype, device=query.device)
    with torch.cuda.device_of(query):
        _one_token_kernel[(rows * heads,)](
            query, key, value, seen, out, factor, length, width, heads, heads // key.shape[1], *query.stride()[:2],
            *key.stride()[:3], *value.stride()[:3], *(seen.stride() if mask is not None else (0, 0)),
            MASKED=mask is not None, TOKENS=tokens, WIDTH=triton.next_power_of_2(width), num_warps=4,
        )  # fmt: skip
    return out
