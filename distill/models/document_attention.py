"""Attention within the documents that share a row, on a GPU: by their lengths, not by a mask.

transformers makes a (B, 1, T, T) mask of positions that restart, for which attention takes its slow kernels, and asks
the GPU whether there is more than one document in a row, for which the processor waits in every pass. Who makes the
batch knows where its documents begin: `Documents` says so, and `attending_to` has a model's layers heed it.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, sdpa_mask
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

_NAME = "distill_documents"
_ALIKE = 3e-2  # share of the norm, for 16 bits


@dataclass(frozen=True)
class Documents:
    """Where the documents of B rows of T tokens begin. It goes to a device as the tensors of a batch do.

    Attributes:
        starts: (D + 1,) int32, in the B T tokens one after another; the last is B T.
        per_row: How many of the D documents each row holds.
        length: T.
    """

    starts: Tensor
    per_row: tuple[int, ...]
    length: int

    @classmethod
    def of(cls, position_ids: np.ndarray) -> "Documents":
        """Of (B, T) positions, which go on by one within a document."""
        begins = np.ones(position_ids.shape, dtype=bool)
        begins[:, 1:] = np.diff(position_ids, axis=1) != 1
        starts = np.append(np.flatnonzero(begins), begins.size).astype(np.int32)
        return cls(torch.from_numpy(starts), tuple(begins.sum(axis=1).tolist()), position_ids.shape[1])

    def first(self, rows: int) -> "Documents":
        """Those of the first rows."""
        per_row = self.per_row[:rows]
        return Documents(self.starts[: sum(per_row) + 1], per_row, self.length)

    @property
    def alone(self) -> bool:
        """Whether each has a row of its own."""
        return len(self.per_row) == len(self.starts) - 1

    def to(self, device: torch.device | str, non_blocking: bool = False) -> "Documents":
        """The same on a device."""
        return Documents(self.starts.to(device, non_blocking=non_blocking), self.per_row, self.length)

    def pin_memory(self) -> "Documents":
        """The same in memory that a GPU copies from while the processor goes on."""
        return Documents(self.starts.pin_memory(), self.per_row, self.length)


def _attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    cu_seq_lens_q: Tensor | None = None,
    max_length_q: int | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """As transformers calls it: (B, H, T, E) queries, keys and values -> (B, T, H, E)."""
    if max_length_q is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, dropout, scaling, **kwargs)
    # Rotary positions leave queries and keys in float32 under autocast, which does not reach the kernel in `_within`.
    form = _of_products(value)
    query, key, value = (x.to(form) for x in (query, key, value))
    if cu_seq_lens_q is None:
        grouped = key.shape[1] != query.shape[1]
        read = F.scaled_dot_product_attention(
            query, key, value, dropout_p=dropout, is_causal=True, scale=scaling, enable_gqa=grouped
        )
        return read.transpose(1, 2), None
    groups = query.shape[1] // key.shape[1]
    if groups > 1:
        key, value = (x.repeat_interleave(groups, dim=1) for x in (key, value))
    query, key, value = (x.transpose(1, 2) for x in (query, key, value))
    tokens = (x.flatten(0, 1) for x in (query, key, value))
    read = _within(*tokens, starts=cu_seq_lens_q, longest=max_length_q, dropout=dropout, scale=scaling)
    return read.view(query.shape), None


def _within(
    query: Tensor, key: Tensor, value: Tensor, *, starts: Tensor, longest: int, dropout: float, scale: float | None
) -> Tensor:
    """Causal attention of (N, H, E) tokens within documents (N, H, E), by the kernel behind torch's varlen_attn.

    That function itself knows no dropout.
    """
    bounds = (starts, starts, longest, longest)
    read: Tensor = torch.ops.aten._flash_attention_forward(
        query, key, value, *bounds, dropout, True, False, scale=scale
    )[0]
    return read


ALL_ATTENTION_FUNCTIONS.register(_NAME, _attention)
ALL_MASK_ATTENTION_FUNCTIONS.register(_NAME, sdpa_mask)


@contextmanager
def attending_to(decoder: nn.Module, documents: Documents | None) -> Iterator[dict[str, Any]]:
    """What to give to a decoder's forward, inside, so that it reads these documents; nothing where it cannot so.

    Args:
        decoder: A model without its head.
        documents: Of the rows that it is about to read; None: it finds out by itself.
    """
    if documents is None or not _heeds(decoder):
        yield {}
        return
    starts = documents.starts
    if not documents.alone and _format(decoder, starts.device).itemsize > 2:  # the kernel knows 16 bits alone
        yield {}
        return
    bounds = {} if documents.alone else {"cu_seq_lens_q": starts, "cu_seq_lens_k": starts}
    lengths = {"max_length_q": documents.length, "max_length_k": documents.length}
    # A mask of four dimensions is handed through as it is, and nothing else is asked.
    mask = torch.ones((1, 1, 1, 1), dtype=torch.bool, device=starts.device)
    config: Any = decoder.config
    before = config._attn_implementation
    config._attn_implementation = _NAME
    try:
        yield {"attention_mask": mask, **bounds, **lengths}
    finally:
        config._attn_implementation = before


_tried: WeakKeyDictionary[nn.Module, bool] = WeakKeyDictionary()


def _heeds(decoder: nn.Module) -> bool:
    config: Any = decoder.config
    if not _tried.get(decoder, False) or config._attn_implementation != "sdpa":
        return False
    # Layers whose activations are computed again in the backward pass would not be told again.
    return not any(getattr(module, "gradient_checkpointing", False) for module in decoder.modules())


def _format(decoder: nn.Module, device: torch.device) -> torch.dtype:
    """That of its attention on a device."""
    return _of_products(next(decoder.parameters()).new_empty(0, device=device))


def _of_products(of: Tensor) -> torch.dtype:
    """The format of products with a tensor: autocast's, or its own."""
    device = of.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else of.dtype


@torch.no_grad()
def try_documents(decoder: Any) -> bool:
    """Try a decoder once on a few tokens: whether it reads documents by their lengths as it does by a mask.

    It does not where it has another kind of attention (windows, caps, positions in the mask), or its layers are not
    told. Under the autocast of later; on a GPU alone.
    """
    device = next(decoder.parameters()).device
    lengths = ((5, 7, 4), (8, 2, 6))
    limit = getattr(decoder.config, "max_position_embeddings", None)
    if _has_windows(decoder.config) or (limit is not None and limit < 8):
        return False
    positions = np.stack([np.concatenate([np.arange(length) for length in of_row]) for of_row in lengths])
    ids = torch.arange(32, device=device).view(2, 16) % len(decoder.get_input_embeddings().weight)
    training, _tried[decoder] = decoder.training, True
    decoder.eval()
    try:
        by_mask, by_length = (
            _read(decoder, ids, torch.from_numpy(positions).to(device), documents)
            for documents in (None, Documents.of(positions).to(device))
        )
        alike = (by_mask - by_length).norm() <= _ALIKE * by_mask.norm()
        _tried[decoder] = bool(alike)
    except Exception:  # models fail in many ways; they read masks then
        _tried[decoder] = False
    finally:
        decoder.train(training)
    return _tried[decoder]


def _has_windows(config: Any) -> bool:
    """Whether a token sees only those that are near: so few as are tried are all near."""
    kinds = {*(getattr(config, "layer_types", None) or ()), "full_attention"}
    sizes = (getattr(config, name, None) for name in ("sliding_window", "attention_chunk_size", "window_size"))
    return len(kinds) > 1 or any(size is not None for size in sizes)


def _read(decoder: nn.Module, ids: Tensor, positions: Tensor, documents: Documents | None) -> Tensor:
    with attending_to(decoder, documents) as given:
        if documents is not None and not given:
            raise ValueError("it is read by a mask")
        read: Tensor = decoder(input_ids=ids, position_ids=positions, use_cache=False, **given).last_hidden_state
        return read.float()
