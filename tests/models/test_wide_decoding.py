"""What a GPU does to write texts, done by a CPU: in float64, thousands side by side, the past in one place."""

import gc
import weakref

import pytest
import torch
from architectures import toy
from as_on_gpu import write_as_on_gpu
from interpreted import run_interpreted
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import GPT2Config, GPT2LMHeadModel

from distill.models import generation, wide_decoding
from distill.models.generation import generate
from distill.models.probe import behaviour, made_up_ids
from distill.models.wide_decoding import cache_argument, cache_for, in_double, pass_factor, rows_at_once

TEXTS = ["The nurse said that", "A", "The king saw her and the", "The doctor"]
SHAPES = [{}, {"top_p": 0.9}, {"top_k": 5, "temperature": 0.7}, {"top_k": 40, "top_p": 0.8, "temperature": 1.3}]


def texts_of(model, tokenizer, **given):
    return generate(model, tokenizer, TEXTS, **{"samples": 8, "max_new_tokens": 12, "seed": 5} | given)


def odd_model(toy_tokenizer, layers=2, **keys):
    """A GPT-2 whose vocabulary is odd and larger than the tokenizer's."""
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=len(toy_tokenizer) | 1, n_positions=64, n_embd=32, n_layer=layers, n_head=2,
        initializer_range=0.3, bos_token_id=0, eos_token_id=0, **keys,
    )  # fmt: skip
    return GPT2LMHeadModel(config).eval()


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_a_gpu_writes_the_texts_of_a_cpu_in_batches_of_any_size(toy_tokenizer, monkeypatch, shape):
    model = odd_model(toy_tokenizer)
    expected = texts_of(model, toy_tokenizer, **shape)
    assert len({text for samples in expected for text in samples}) > 28
    write_as_on_gpu(monkeypatch)
    written = []
    plain = wide_decoding.in_double
    monkeypatch.setattr(generation, "in_double", lambda model: written.append(plain(model)) or written[-1])
    for batch_size in (None, 1, 3, 64):
        assert texts_of(model, toy_tokenizer, batch_size=batch_size, **shape) == expected
    assert [one.dtype for one in written] == [torch.float64] * 4
    assert model.dtype == torch.float32 and model.lm_head.out_features % 64


def test_noise_in_float32_that_depends_on_the_batch_changes_no_text(toy_tokenizer, monkeypatch):
    model = odd_model(toy_tokenizer)

    def disturb(module, args, output):
        if output.logits.dtype == torch.float32:
            generator = torch.Generator().manual_seed(len(output.logits))
            output.logits = output.logits + 3e-4 * torch.randn(output.logits.shape, generator=generator)
        return output

    behaviour(model)  # tried without the noise
    model.register_forward_hook(disturb)
    write_as_on_gpu(monkeypatch)
    found = [texts_of(model, toy_tokenizer, samples=30, batch_size=size, top_p=0.9) for size in (3, 7, 64)]
    assert found[0] == found[1] == found[2]
    monkeypatch.setattr(wide_decoding, "fast_in_double", lambda device: False)
    other = [texts_of(model, toy_tokenizer, samples=30, batch_size=size, top_p=0.9) for size in (7, 64)]
    assert other[0] != other[1]  # or else the noise would show nothing


# A cache of sliding windows, some beside whole ones, of states, both beside each other; texts that may not be padded;
# experts, which have no float64.
@pytest.mark.parametrize(
    "name", ["llama", "gemma2", "gemma3_text", "mamba", "lfm2", "bamba", "bart", "git", "mixtral", "bloom"]
)
def test_models_of_many_kinds_write_the_same_texts(toy_tokenizer, monkeypatch, name):
    model = toy(name, vocab_size=512)
    expected = texts_of(model, toy_tokenizer, samples=2)
    write_as_on_gpu(monkeypatch)
    for batch_size in (None, 3):
        assert texts_of(model, toy_tokenizer, samples=2, batch_size=batch_size) == expected


class _Formats(TorchDispatchMode):
    """Which formats the results of sums and products had."""

    def __init__(self):
        super().__init__()
        self.seen = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        found = func(*args, **(kwargs or {}))
        if any(name in str(func) for name in ("mm", "mean", "sum", "softmax", "norm", "tanh", "silu", "pow")):
            self.seen |= {one.dtype for one in (found if isinstance(found, tuple) else (found,))}
        return found


@pytest.mark.parametrize("name", ["gpt2", "llama", "gemma2", "gpt_neox", "qwen3", "olmo2", "phi3"])
def test_nothing_is_summed_in_float32(name, monkeypatch):
    """Norms and softmax of many models go to float32 and back, whatever they are given."""
    write_as_on_gpu(monkeypatch)
    model = toy(name)
    twin = in_double(model)
    ids = made_up_ids(model, 3, 9)
    with torch.no_grad(), _Formats() as formats:
        logits = twin(input_ids=ids).logits
    assert formats.seen == {torch.float64}
    with torch.no_grad():
        expected = model(input_ids=ids).logits
    torch.testing.assert_close(logits[..., : expected.shape[-1]].float(), expected, atol=1e-4, rtol=1e-3)
    if name == "llama":
        with torch.no_grad(), _Formats() as formats:
            model.double()(input_ids=ids)
        assert torch.float32 in formats.seen


def test_a_copy_that_has_written_is_let_go_at_once(toy_tokenizer, monkeypatch):
    write_as_on_gpu(monkeypatch)
    twin = in_double(odd_model(toy_tokenizer))
    last = weakref.ref(twin)
    gc.disable()
    try:
        del twin
        assert last() is None
    finally:
        gc.enable()


def attention_by_kernel(device: str) -> None:
    """The kernel against torch: heads that share keys, parts of a longer cache, masks, one piece or more."""
    generator = torch.Generator().manual_seed(0)
    shapes = [
        (3, 4, 4, 64, 7, 20),
        (2, 6, 2, 24, 70, 70),
        (2, 2, 2, 80, 33, 40),
        (1, 1, 1, 8, 1, 5),
        (3, 4, 1, 16, 32, 64),
    ]
    for rows, heads, of_keys, width, length, room in shapes:
        query = torch.randn(1, rows, heads, width, generator=generator).double().transpose(0, 2).transpose(0, 1)
        past = [torch.randn(rows, of_keys, room, width, generator=generator).double()[:, :, :length] for _ in range(2)]
        shown = torch.rand(rows, 1, 1, length, generator=generator) > 0.4
        shown[..., -1] = True
        nothing = shown.clone()
        nothing[0] = False  # as a row of padding has it
        for mask in (None, shown, nothing, shown[:1]):
            expected = wide_decoding._attention(query, *past, mask, scale=0.3, enable_gqa=True)
            assert wide_decoding._is_of_one_token(query, *past, mask)
            asked = (None if x is None else x.to(device) for x in (query, *past, mask))
            found = wide_decoding._attention_of_one_token(*asked, 0.3).cpu()
            torch.testing.assert_close(found, expected, rtol=1e-13, atol=1e-14)
            if mask is None:
                continue
            packed = query.reshape(rows, of_keys, -1, width)  # heads that share keys as so many queries
            assert wide_decoding._is_of_one_token(packed, *past, mask)
            asked = (x.to(device) for x in (packed, *past, mask))
            found = wide_decoding._attention_of_one_token(*asked, 0.3).cpu()
            torch.testing.assert_close(found, expected.view(packed.shape), rtol=1e-13, atol=1e-14)


def test_the_kernel_of_one_token_attends_as_torch_does_in_tritons_interpreter():
    run_interpreted(attention_by_kernel)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_the_kernel_of_one_token_attends_as_torch_does_on_a_gpu():
    pytest.importorskip("triton")
    attention_by_kernel("cuda")


def test_what_the_kernel_of_one_token_is_not_for(toy_tokenizer, monkeypatch):
    """Several tokens, a mask of numbers or of heads; and a model that writes asks it for each token but the first."""
    one, past = torch.zeros(2, 4, 1, 8).double(), torch.zeros(2, 4, 5, 8).double()
    of_one = wide_decoding._is_of_one_token
    assert of_one(one, past, past, None) and not of_one(past, past, past, None)
    assert not of_one(one, past, past[..., :4], None) and not of_one(one, past, past, torch.zeros(2, 1, 1, 5))
    assert not of_one(one, past, past, torch.ones(2, 4, 1, 5, dtype=torch.bool))
    assert not of_one(one, past, past, torch.ones(2, 1, 1, 6, dtype=torch.bool))
    assert not of_one(one.float(), past.float(), past.float(), None)
    asked = []
    monkeypatch.setattr(wide_decoding, "_is_of_one_token", lambda *given: asked.append(of_one(*given)))
    write_as_on_gpu(monkeypatch)
    texts_of(odd_model(toy_tokenizer), toy_tokenizer, max_new_tokens=6)
    assert sum(asked) >= 2 * 5  # of two layers


def test_who_writes_in_its_own_format(toy_tokenizer, monkeypatch):
    model = odd_model(toy_tokenizer)
    write_as_on_gpu(monkeypatch)
    assert in_double(model) is not None
    with torch.autocast("cpu", torch.bfloat16):
        assert in_double(model) is None
    assert in_double(odd_model(toy_tokenizer).bfloat16()) is None
    bytes_of_copy = 8 * sum(weight.numel() for weight in model.parameters())
    for memory, fits in ((11 * bytes_of_copy, True), (9 * bytes_of_copy, False)):
        monkeypatch.setattr(wide_decoding, "total_memory", lambda device, memory=memory: memory)
        assert (in_double(model) is not None) == fits
    write_as_on_gpu(monkeypatch)
    monkeypatch.setattr(wide_decoding, "fast_in_double", lambda device: False)
    assert in_double(model) is None
    write_as_on_gpu(monkeypatch)
    model.forward = model.forward
    assert in_double(model) is None


def test_models_in_16_bits_are_written_with_in_their_own_format_and_read_once(toy_tokenizer, monkeypatch):
    model = odd_model(toy_tokenizer).bfloat16()
    write_as_on_gpu(monkeypatch)
    calls = []
    model.register_forward_hook(lambda *_: calls.append(1))
    texts_of(model, toy_tokenizer, max_new_tokens=6)  # tells what the model does
    calls.clear()
    texts = texts_of(model, toy_tokenizer, max_new_tokens=6)
    assert len({text for samples in texts for text in samples}) > 15
    assert len(calls) <= 7


def test_a_cache_has_the_name_that_the_model_gives_it():
    """transformers 5.24 calls it `cache`; code that comes with a model may know the older name alone, or neither."""

    class Newer(torch.nn.Module):
        def forward(self, input_ids, cache=None): ...

    class Older(torch.nn.Module):
        def forward(self, input_ids, past_key_values=None): ...

    class Without(torch.nn.Module):
        def forward(self, input_ids): ...

    assert [cache_argument(kind()) for kind in (Newer, Older, Without)] == ["cache", "past_key_values", None]


def test_the_cache_keeps_its_place(toy_tokenizer):
    model = odd_model(toy_tokenizer)
    ids = made_up_ids(model, 2, 10)
    cache = cache_for(model, 9)
    places = []
    with torch.no_grad():
        for first, last in ((0, 4), (4, 5), (5, 9), (9, 10)):  # the last is more than was said
            logits = model(input_ids=ids[:, first:last], **{cache_argument(model): cache}).logits
            places.append(cache.layers[0].keys.data_ptr())
            assert cache.get_seq_length() == last
            expected = model(input_ids=ids[:, :last], use_cache=False).logits[:, first:]
            torch.testing.assert_close(logits, expected)
    assert places[0] == places[1] == places[2] != places[3]


def test_samples_of_a_prompt_read_it_once(toy_tokenizer, monkeypatch):
    model = odd_model(toy_tokenizer)
    behaviour(model)
    write_as_on_gpu(monkeypatch)
    monkeypatch.setattr(generation, "in_double", lambda model: None)
    shapes = []
    model.register_forward_pre_hook(
        lambda _, args, kwargs: shapes.append(tuple(kwargs["input_ids"].shape)), with_kwargs=True
    )
    longest = 1 + max(len(ids) for ids in toy_tokenizer(TEXTS)["input_ids"])
    texts_of(model, toy_tokenizer, samples=8, max_new_tokens=3)
    assert shapes == [(4, longest - 1), (32, 1), (32, 1), (32, 1)]
    shapes.clear()
    texts_of(model, toy_tokenizer, samples=1, max_new_tokens=3)
    assert shapes == [(4, longest), (4, 1), (4, 1)]


def test_rows_by_model_and_memory(toy_tokenizer, monkeypatch):
    large = GPT2Config()
    with torch.device("meta"):
        model = GPT2LMHeadModel(large).double()
    found = {}
    for gib in (4, 24, 80):
        write_as_on_gpu(monkeypatch, gib * 2**30)
        found[gib] = rows_at_once(model, 51, 11)
        assert 1 <= rows_at_once(model, 1024, 1000) < found[gib]
        assert rows_at_once(odd_model(toy_tokenizer), 20, 8) == wide_decoding.MAX_ROWS
    assert found[4] < found[24] < found[80] == 4096
    cache = 2 * 12 * 768 * 51 * 8  # bytes of a row, by hand
    assert found[24] * cache < 0.6 * 24 * 2**30 < 2 * found[24] * (cache + 51 * 8 * 50257)


def test_batches_are_as_large_as_their_longest_text_allows(toy_tokenizer, monkeypatch):
    write_as_on_gpu(monkeypatch)
    monkeypatch.setattr(generation, "rows_at_once", lambda model, length, before: 60 // before)
    sizes = []
    plain = generation._continue_at_once

    def watched(writer, before, *given):
        sizes.append((len(before), max(map(len, before))))
        return plain(writer, before, *given)

    monkeypatch.setattr(generation, "_continue_at_once", watched)
    texts_of(odd_model(toy_tokenizer), toy_tokenizer, max_new_tokens=2)
    assert sum(number for number, _ in sizes) == 32
    assert all(number <= 60 // longest for number, longest in sizes)
    assert 1 < len(sizes) < 8


def test_a_batch_is_halved_where_memory_is_short(toy_tokenizer, monkeypatch):
    model = odd_model(toy_tokenizer)
    write_as_on_gpu(monkeypatch)
    expected = texts_of(model, toy_tokenizer)
    plain, sizes, most = generation._continue_at_once, [], 12

    def short_of_memory(writer, before, uniforms, rooms):
        if len(before) > most:
            raise torch.cuda.OutOfMemoryError("no memory")
        sizes.append(len(before))
        return plain(writer, before, uniforms, rooms)

    monkeypatch.setattr(generation, "_continue_at_once", short_of_memory)
    assert texts_of(model, toy_tokenizer) == expected
    assert sizes == [8] * 4
    most = 0
    with pytest.raises(torch.cuda.OutOfMemoryError):
        texts_of(model, toy_tokenizer)


def test_a_pass_reads_more_by_the_cards_whole_memory(monkeypatch):
    assert pass_factor(torch.device("cpu")) == 1
    for gib, factor in ((6, 1), (8, 2), (16, 4), (24, 4), (40, 8), (79.2, 16), (141, 32)):
        monkeypatch.setattr(wide_decoding, "total_memory", lambda device, gib=gib: int(gib * 2**30))
        assert pass_factor(torch.device("cuda")) == factor


def test_one_seed_a_prompt_gives_what_it_gives_alone(toy_tokenizer):
    model = odd_model(toy_tokenizer)
    together = texts_of(model, toy_tokenizer, seed=[3, 4, 5, 6])
    for text, seed, samples in zip(TEXTS, (3, 4, 5, 6), together, strict=True):
        assert generate(model, toy_tokenizer, [text], samples=8, max_new_tokens=12, seed=seed) == [samples]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_the_batch_size_changes_no_text_on_a_gpu(toy_tokenizer, shape):
    model = odd_model(toy_tokenizer, layers=6)
    on_cpu = texts_of(model, toy_tokenizer, samples=100, max_new_tokens=40, **shape)
    model.to("cuda")
    if in_double(model) is None:
        pytest.skip("the card is slow in float64")
    found = [
        texts_of(model, toy_tokenizer, samples=100, max_new_tokens=40, batch_size=size, **shape)
        for size in (None, 7, 64)
    ]
    assert found[0] == found[1] == found[2]
    pairs = [pair for of_texts in zip(found[0], on_cpu, strict=True) for pair in zip(*of_texts, strict=True)]
    assert sum(ours == theirs for ours, theirs in pairs) >= 396  # a CPU reads once more in float32
