"""What models do with packed documents, later tokens and padding, over many architectures."""

import pytest
import torch
from architectures import ARCHITECTURES, CAUSAL, MIXING, NOT_CAUSAL, toy
from transformers import GenerationConfig

from distill.base.errors import UserError
from distill.models.architecture import hidden_states
from distill.models.probe import Behaviour, any_mixes, behaviour

PADS_NOT = {"bart", "git", "recurrent_gemma", "rwkv", "xlstm"}
# As transformers 5.23 keeps their states: wrong ones, or of shapes and number formats at which it stops.
CACHES_NOT = {"rwkv", "xlstm"}
CACHES_NOT_IN_HALF = {"mamba", "mamba2", "recurrent_gemma"}


@pytest.mark.parametrize("name", sorted(CAUSAL))
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_is_found_does_not_depend_on_the_number_format(name, dtype):
    found = behaviour(toy(name).to(dtype))
    caches_not = CACHES_NOT if dtype == torch.float32 else CACHES_NOT | CACHES_NOT_IN_HALF
    assert found == Behaviour(name not in MIXING, name not in PADS_NOT, name not in caches_not)


@pytest.mark.parametrize("name", sorted(NOT_CAUSAL))
def test_a_model_that_looks_ahead_is_refused(name):
    with pytest.raises(UserError, match=r"^some/model: is no causal language model"):
        behaviour(toy(name), "some/model")


def divergence(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    """Mean KL in nats a token."""
    log_p, log_q = ours.log_softmax(-1), theirs.log_softmax(-1)
    return (log_p.exp() * (log_p - log_q)).sum(-1).mean().item()


@pytest.mark.parametrize("name", sorted(CAUSAL))
def test_who_packs_gives_each_document_what_it_gives_it_alone(name):
    """Longer texts than those of the probe, other tokens, and weights of another scale."""
    model = toy(name, seed=1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.mul_(4)
    first, second = (torch.randint(0, 300, (1, n), generator=torch.Generator().manual_seed(n)) for n in (21, 17))
    positions = [torch.arange(ids.shape[1])[None] for ids in (first, second)]
    with torch.no_grad():
        together = hidden_states(model, torch.cat([first, second], 1), torch.cat(positions, 1))[:, 21:]
        alone = hidden_states(model, second, positions[1])
        leak = divergence(*(model.get_output_embeddings()(h) for h in (alone, together)))
    assert (leak < 1e-6) == behaviour(model).packs == (name not in MIXING)


@pytest.mark.parametrize("name", sorted(CAUSAL))
def test_who_pads_on_the_left_generates_alike_alone_and_beside_longer_texts(name):
    """With the cache of keys and values, or of states, that `generate` of transformers keeps."""
    model = toy(name, seed=2)
    if not behaviour(model).pads_left:
        pytest.skip("texts of other lengths are never put beside each other")
    ids = torch.randint(30, 150, (1, 6), generator=torch.Generator().manual_seed(0))
    longer = torch.randint(30, 150, (1, 11), generator=torch.Generator().manual_seed(1))
    settings = GenerationConfig(
        max_new_tokens=5, do_sample=False, pad_token_id=0, eos_token_id=299, output_logits=True,
        return_dict_in_generate=True,
    )  # fmt: skip
    padded = torch.cat([torch.zeros(1, 5, dtype=torch.long), ids], 1)
    mask = (torch.arange(11) >= 5).long()[None]
    model.generation_config = settings
    alone = model.generate(ids, attention_mask=torch.ones_like(ids))
    beside = model.generate(torch.cat([padded, longer]), attention_mask=torch.cat([mask, torch.ones_like(mask)]))
    for ours, theirs in zip(beside.logits, alone.logits, strict=True):
        torch.testing.assert_close(ours[:1], theirs, atol=1e-4, rtol=1e-3)


def test_a_model_is_tried_once_and_again_under_another_attention(monkeypatch):
    model = toy("llama")
    calls = []
    plain = model.base_model.forward
    monkeypatch.setattr(model.base_model, "forward", lambda *a, **k: calls.append(1) or plain(*a, **k))
    behaviour(model)
    tried = len(calls)
    behaviour(model)
    assert len(calls) == tried > 0
    model.set_attn_implementation("eager")
    behaviour(model)
    assert len(calls) == 2 * tried


@pytest.mark.parametrize("limit", [2, 8])
def test_models_with_a_short_context_are_tried_too(limit):
    assert behaviour(toy("gpt2", n_positions=limit)).pads_left


@pytest.mark.parametrize(("length", "mixes"), [(8, False), (48, True)])
def test_a_model_that_looks_at_few_tokens_of_a_row_is_tried_on_whole_rows(length, mixes, capsys):
    """It chooses the tokens that it looks at before it leaves out those of other documents."""
    keys = {"index_topk": 8, "index_n_heads": 2, "index_head_dim": 16, "num_key_value_heads": 4}
    model = toy("deepseek_v32", **keys)
    assert any_mixes(length, model) == mixes
    assert ("would mix documents" in capsys.readouterr().err) == mixes


def test_weights_that_are_no_numbers_are_named():
    model = toy("gpt2")
    with torch.no_grad():
        model.transformer.h[2].mlp.c_fc.weight[0, 0] = float("nan")
    with pytest.raises(UserError, match=r"not finite; transformer\.h\.2\.mlp\.c_fc\.weight"):
        behaviour(model)


def test_what_cannot_read_is_one_sentence():
    model = toy("gpt2")
    del model.transformer.ln_f
    with pytest.raises(UserError, match=r"^mine: cannot read a few tokens \(GPT2LMHeadModel\): .*ln_f"):
        behaviour(model, "mine")


def test_the_catalogue_is_large_enough():
    assert len(ARCHITECTURES) >= 24
