"""Attention within the documents that share a row, on a GPU, which is asked nothing.

transformers makes a (B, 1, T, T) mask of positions that restart, for which attention takes its slow kernels, and asks
the GPU whether there is more than one document in a row, for which the processor waits in every pass. Who makes the
batch knows where its documents begin: `Documents` says so, and `attending_to` has a model's layers heed it: in 16 bits
by their lengths, without a mask; else by the same mask, made without the question.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary, ref

import numpy as np
import torch
from torch import Tensor, nn
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, sdpa_mask
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from distill.objective.kd_loss import format_of_products
from distill.objective.transfer import copied_to

_NAME = "distill_documents"
_ALIKE, _ALIKE_IN_32_BITS = 3e-2, 1e-3  # shares of the norm


@dataclass(frozen=True)
class Documents:
    """Where the documents of B rows of T tokens begin. It goes to a device as the tensors of a batch do.

    Attributes:
        starts: (D + 1,) int32, in the B T tokens one after another; the last is B T. Empty documents at the end fill
            them up to a power of two: of compiled models, a CUDA graph is recorded for each D.
        per_row: How many documents each row holds, without the empty ones.
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
        return cls(_filled(torch.from_numpy(starts)), tuple(begins.sum(axis=1).tolist()), position_ids.shape[1])

    def first(self, rows: int) -> "Documents":
        """Those of the first rows."""
        per_row = self.per_row[:rows]
        return Documents(_filled(self.starts[: sum(per_row) + 1]), per_row, self.length)

    def of_rows(self, rows: np.ndarray) -> "Documents":
        """Those of some rows, (M,) int64 on the CPU."""
        per_row, begins = np.array(self.per_row), np.cumsum(self.per_row) - self.per_row
        kept = np.concatenate([np.arange(begins[row], begins[row] + per_row[row]) for row in rows])
        lengths = self.starts.diff()[copied_to(torch.from_numpy(kept), self.starts.device)]
        starts = torch.cat([lengths.new_zeros(1), lengths.cumsum(0, dtype=torch.int32)])
        return Documents(_filled(starts), tuple(per_row[rows].tolist()), self.length)

    @property
    def alone(self) -> bool:
        """Whether each has a row of its own."""
        return all(number == 1 for number in self.per_row)

    def mask(self) -> Tensor:
        """(B, 1, T, T) bool, true where a token may read another: itself and those before it in its document.

        As transformers has it. Its shape is known beforehand, so that no device is asked.
        """
        places = torch.arange(len(self.per_row) * self.length, dtype=torch.int32, device=self.starts.device)
        numbers = torch.searchsorted(self.starts, places, right=True).view(-1, self.length)
        return (numbers[:, :, None] == numbers[:, None, :]).tril().unsqueeze(1)

    def to(self, device: torch.device | str, non_blocking: bool = False) -> "Documents":
        """The same on a device."""
        return Documents(self.starts.to(device, non_blocking=non_blocking), self.per_row, self.length)

    def pin_memory(self) -> "Documents":
        """The same in memory that a GPU copies from while the processor goes on."""
        return Documents(self.starts.pin_memory(), self.per_row, self.length)


def _filled(starts: Tensor) -> Tensor:
    """(D + 1,) starts with empty documents behind, so that D is a power of two."""
    documents = len(starts) - 1
    return torch.cat([starts, starts[-1:].expand((1 << (documents - 1).bit_length()) - documents)])


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
    form = format_of_products(value)
    query, key, value = (x.to(form) for x in (query, key, value))
    if cu_seq_lens_q is None:
        return sdpa_attention_forward(module, query, key, value, None, dropout, scaling, **kwargs)
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
    if _computes_again(decoder):
        yield {} if documents.alone else {"attention_mask": documents.mask()}
        return
    if not documents.alone and _format(decoder, starts.device).itemsize > 2:  # the kernel knows 16 bits alone
        yield {"attention_mask": documents.mask()}
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


#: Decoders that heed what they are told, and which of their modules may be set to compute again, at any time: all of
#: hundreds would be looked through in every pass.
_tried: WeakKeyDictionary[nn.Module, list[ref[nn.Module]]] = WeakKeyDictionary()


def _heeds(decoder: nn.Module) -> bool:
    config: Any = decoder.config
    return decoder in _tried and config._attn_implementation == "sdpa"


def _computes_again(decoder: nn.Module) -> bool:
    """Whether layers are run again in the backward pass: they get their mask again, but are not told again."""
    return any(getattr(module(), "gradient_checkpointing", False) for module in _tried[decoder])


def _format(decoder: nn.Module, device: torch.device) -> torch.dtype:
    """That of its attention on a device."""
    return format_of_products(next(decoder.parameters()).new_empty(0, device=device))


@torch.no_grad()
def try_documents(decoder: Any) -> bool:
    """Try a decoder once on a few tokens: whether it reads documents as it is told as it does when it finds them.

    It does not where it has another kind of attention (windows, caps, positions in the mask), or its layers are not
    told. Under the autocast of later; on a GPU alone.
    """
    limit = getattr(decoder.config, "max_position_embeddings", None)
    if _has_windows(decoder.config) or (limit is not None and limit < 8):
        return False
    training = decoder.training
    _tried[decoder] = [ref(module) for module in decoder.modules() if hasattr(module, "gradient_checkpointing")]
    decoder.eval()
    try:
        alike = all(_reads_alike(decoder, rows) for rows in (((5, 7, 4), (8, 2, 6)), ((8,), (8,))))
    except Exception:  # models fail in many ways; they read masks then
        alike = False
    finally:
        decoder.train(training)
    if not alike:
        del _tried[decoder]
    return alike


def _reads_alike(decoder: Any, rows: Sequence[Sequence[int]]) -> bool:
    """Whether a decoder reads rows of documents of such lengths as it is told as it does when it finds them."""
    device = next(decoder.parameters()).device
    positions = np.stack([np.concatenate([np.arange(length) for length in of_row]) for of_row in rows])
    ids = torch.arange(positions.size, device=device).view(positions.shape)
    ids = ids % len(decoder.get_input_embeddings().weight)
    found, told = (
        _read(decoder, ids, torch.from_numpy(positions).to(device), documents)
        for documents in (None, Documents.of(positions).to(device))
    )
    tolerance = _ALIKE if _format(decoder, device).itemsize <= 2 else _ALIKE_IN_32_BITS
    return bool((found - told).norm() <= tolerance * found.norm())


def _has_windows(config: Any) -> bool:
    """Whether a token sees only those that are near: so few as are tried are all near."""
    kinds = {*(getattr(config, "layer_types", None) or ()), "full_attention"}
    sizes = (getattr(config, name, None) for name in ("sliding_window", "attention_chunk_size", "window_size"))
    return len(kinds) > 1 or any(size is not None for size in sizes)


def _read(decoder: nn.Module, ids: Tensor, positions: Tensor, documents: Documents | None) -> Tensor:
    with attending_to(decoder, documents) as given:
        if documents is not None and not given:
            raise ValueError("it was not told")
        read: Tensor = decoder(input_ids=ids, position_ids=positions, use_cache=False, **given).last_hidden_state
        return read.float()
