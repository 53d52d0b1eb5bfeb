"""Documents by their lengths: what the positions say, and that attention keeps to them."""

import gc
import weakref

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from architectures import toy
from device_questions import Operations
from hypothesis import given
from hypothesis import strategies as st
from transformers.masking_utils import find_packed_sequence_indices

from distill.models import document_attention
from distill.models.architecture import backbone, hidden_states
from distill.models.document_attention import Documents, try_documents

ROWS = st.lists(st.lists(st.integers(1, 6), min_size=1, max_size=4), min_size=1, max_size=3)


def positions_of(rows: list[list[int]]) -> np.ndarray:
    """(B, T) positions of documents of such lengths, the last of a row drawn out to the longest row."""
    longest = max(map(sum, rows))
    filled = [[*row[:-1], row[-1] + longest - sum(row)] for row in rows]
    return np.stack([np.concatenate([np.arange(length) for length in row]) for row in filled])


@given(ROWS)
def test_documents_are_those_that_transformers_finds(rows):
    positions = positions_of(rows)
    documents = Documents.of(positions)
    assert documents.per_row == tuple(map(len, rows)) and documents.length == positions.shape[1]
    packed = find_packed_sequence_indices(torch.from_numpy(positions))
    expected = torch.zeros(positions.shape, dtype=torch.int64) if packed is None else packed
    starts = documents.starts.tolist()
    assert starts[0] == 0 and starts[-1] == positions.size
    assert starts.count(positions.size) == len(starts) - sum(documents.per_row)  # empty ones, at the end
    found = np.repeat(np.arange(len(starts) - 1), np.diff(starts)).reshape(positions.shape)
    for row, other in zip(found, expected, strict=True):
        assert (row - row[0] == other.numpy()).all()
    assert documents.alone == (packed is None)
    again = Documents.of(positions[::-1])
    turned = documents.of_rows(np.arange(len(rows))[::-1])
    assert torch.equal(turned.starts, again.starts) and (turned.per_row, turned.length) == (again.per_row, again.length)
    assert turned.starts.dtype == again.starts.dtype and isinstance(turned.per_row[0], int)
    first, of_one_row = documents.first(1), Documents.of(positions[:1])
    assert torch.equal(first.starts, of_one_row.starts) and first.per_row == of_one_row.per_row == (len(rows[0]),)


def test_few_sizes_tell_of_any_number_of_documents():
    """Each would be a CUDA graph of its own."""
    sizes = {len(Documents.of(positions_of([[2] * 20, [1] * number + [40 - number]])).starts) for number in range(40)}
    assert sizes == {33, 65}


def naive(query, key, value, *, starts, longest, dropout, scale):
    """Document by document; the kernel of a GPU in its place."""
    assert dropout == 0 and longest >= starts.diff().max()
    parts = [
        F.scaled_dot_product_attention(
            *(x[begin:end].transpose(0, 1) for x in (query, key, value)), is_causal=True, scale=scale, enable_gqa=True
        ).transpose(0, 1)
        for begin, end in zip(starts[:-1].tolist(), starts[1:].tolist(), strict=True)
    ]
    return torch.cat(parts)


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
@pytest.mark.parametrize("rows", [[[4, 8], [3, 2, 7]], [[12], [12]]])
def test_in_32_bits_a_model_reads_the_same_bits_and_asks_the_device_nothing(kind, rows):
    model = toy(kind, num_key_value_heads=2) if kind == "llama" else toy(kind)
    positions = positions_of(rows)
    ids = torch.randint(10, 60, positions.shape, generator=torch.Generator().manual_seed(0))
    documents, positions = Documents.of(positions), torch.from_numpy(positions)
    with Operations() as by_itself:
        expected = hidden_states(model, ids, positions, documents=documents)
    assert try_documents(backbone(model))
    with Operations() as told:
        found = hidden_states(model, ids, positions, documents=documents)
    assert torch.equal(found, expected)
    assert by_itself.questions == ["_local_scalar_dense"] and not told.questions


@given(ROWS)
def test_the_mask_is_that_of_a_loop_over_tokens(rows):
    lengths = [[*row[:-1], row[-1] + max(map(sum, rows)) - sum(row)] for row in rows]
    mask = Documents.of(positions_of(rows)).mask()
    numbers = [[n for n, length in enumerate(row) for _ in range(length)] for row in lengths]
    expected = [[[i >= j and row[i] == row[j] for j in range(len(row))] for i in range(len(row))] for row in numbers]
    assert mask.squeeze(1).tolist() == expected


@pytest.fixture
def by_length(monkeypatch):
    """As on a GPU in 16 bits, by the naive computation in float32."""
    monkeypatch.setattr(document_attention, "_within", naive)
    monkeypatch.setattr(document_attention, "_format", lambda decoder, device: torch.bfloat16)


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
@pytest.mark.parametrize("rows", [[[4, 8], [3, 2, 7]], [[12], [12]]])
def test_a_model_reads_documents_by_length_as_by_mask(by_length, kind, rows):
    model = toy(kind)
    positions = positions_of(rows)
    ids = torch.randint(10, 60, positions.shape, generator=torch.Generator().manual_seed(0))
    documents, positions = Documents.of(positions), torch.from_numpy(positions)
    expected = hidden_states(model, ids, positions)
    assert torch.equal(hidden_states(model, ids, positions, documents=documents), expected)  # it was not tried
    calls = []
    attention = document_attention._attention
    document_attention.ALL_ATTENTION_FUNCTIONS.register(
        document_attention._NAME, lambda *args, **kwargs: calls.append(1) or attention(*args, **kwargs)
    )
    try:
        assert try_documents(backbone(model))
        del calls[:]
        found = hidden_states(model, ids, positions, documents=documents)
    finally:
        document_attention.ALL_ATTENTION_FUNCTIONS.register(document_attention._NAME, attention)
    assert calls  # each layer was there
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    assert model.config._attn_implementation == "sdpa"


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_under_autocast_the_kernel_gets_one_format_of_16_bits(monkeypatch, kind):
    """Rotary positions are in float32, and so are the queries and keys that they turn; it takes 16 bits alone."""
    formats = []

    def within(query, key, value, **told):
        formats.append({x.dtype for x in (query, key, value)})
        return naive(*(x.float() for x in (query, key, value)), **told).to(query.dtype)

    monkeypatch.setattr(document_attention, "_within", within)
    model = toy(kind)
    with torch.autocast("cpu", torch.bfloat16):
        assert try_documents(backbone(model))
    assert formats and all(of_call == {torch.bfloat16} for of_call in formats)
    assert model.dtype == torch.float32


def test_a_model_that_reads_otherwise_is_left_to_its_mask(by_length, monkeypatch):
    model = toy("gpt2")
    monkeypatch.setattr(document_attention, "_within", lambda q, k, v, **_: naive(q, k, v.flip(0), **_))
    assert not try_documents(backbone(model))
    monkeypatch.setattr(document_attention, "_within", lambda *_, **__: 1 / 0)
    assert not try_documents(backbone(model))
    monkeypatch.setattr(document_attention, "_within", naive)
    monkeypatch.setattr(document_attention, "sdpa_attention_forward", lambda *_, **__: 1 / 0)  # of a document a row
    assert not try_documents(backbone(model))
    assert model.config._attn_implementation == "sdpa"


def test_a_model_with_windows_is_left_to_its_mask(by_length):
    """Which the few tokens that are tried would not show."""
    assert not try_documents(backbone(toy("mistral", sliding_window=4096)))
    assert try_documents(backbone(toy("mistral", sliding_window=None)))


@pytest.mark.parametrize("kind", ["bert", "opt"])
def test_in_32_bits_a_model_that_reads_otherwise_is_left_to_itself(kind):
    """One sees later tokens; the other wants a mask of its own."""
    assert not try_documents(backbone(toy(kind)))


def test_activations_that_are_computed_again_are_computed_alike(by_length):
    """In the backward pass, where no layer is told of documents; the mask that it gets then is there without asking."""
    model, positions = (
        toy("gpt2", resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0).train(),
        positions_of([[4, 8], [3, 2, 7]]),
    )
    documents, ids = Documents.of(positions), torch.randint(10, 60, positions.shape)
    assert try_documents(backbone(model))
    gradients = []
    for again in (False, True, False):
        model.zero_grad()
        which = "enable" if again else "disable"
        set_it = f"activation_checkpointing_{which}"  # gradient_ in older versions
        (getattr(model, set_it, None) or getattr(model, f"gradient_checkpointing_{which}"))()
        assert document_attention._computes_again(backbone(model)) == again
        torch.manual_seed(0)
        with Operations() as done:
            hidden_states(model, ids, torch.from_numpy(positions), documents=documents).square().sum().backward()
        assert not (again and done.questions)
        gradients.append([p.grad.clone() for p in model.parameters() if p.grad is not None])
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(gradients[0], gradients[2], rtol=0, atol=0)


def test_what_was_tried_keeps_no_model_alive():
    model = toy("gpt2")
    assert try_documents(backbone(model))
    kept = weakref.ref(backbone(model))
    del model
    gc.collect()
    assert kept() is None


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("dropout", [0.0, 0.5])
@pytest.mark.parametrize("empty", [0, 4])
def test_the_kernel_of_a_gpu_keeps_to_the_documents(dropout, empty):
    generator = torch.Generator("cuda").manual_seed(0)
    query, key, value = torch.randn(3, 40, 4, 64, device="cuda", dtype=torch.bfloat16, generator=generator).unbind()
    starts = torch.tensor([0, 7, 8, 25, 40, *[40] * empty], dtype=torch.int32, device="cuda")
    arguments = {"starts": starts, "longest": 20, "dropout": dropout, "scale": 0.125}
    found = document_attention._within(query, key, value, **arguments)
    if not dropout:
        expected = naive(query, key, value, **arguments)
        torch.testing.assert_close(found.float(), expected.float(), rtol=2e-2, atol=2e-2)
    key[8:25] = 0
    again = document_attention._within(query, key, value, **arguments)
    changed = (again != found).flatten(1).any(dim=1) if not dropout else None
    assert changed is None or (not changed[:8].any() and changed[9:25].any() and not changed[25:].any())


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_empty_documents_change_no_gradient_of_the_kernel_of_a_gpu():
    generator = torch.Generator("cuda").manual_seed(0)
    told, upstream = torch.randn(2, 3, 40, 4, 64, device="cuda", dtype=torch.bfloat16, generator=generator).unbind()
    gradients = []
    for attend, empty in ((document_attention._within, 0), (document_attention._within, 4), (naive, 0)):
        read = told.detach().clone().requires_grad_()
        starts = torch.tensor([0, 7, 8, 25, 40, *[40] * empty], dtype=torch.int32, device="cuda")
        query, key, value = read.unbind()
        attend(query, key, value, starts=starts, longest=20, dropout=0.0, scale=0.125).backward(upstream[0])
        gradients.append(read.grad)
    assert torch.equal(gradients[0], gradients[1])
    torch.testing.assert_close(gradients[1].float(), gradients[2].float(), rtol=5e-2, atol=5e-2)
