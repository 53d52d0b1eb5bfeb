"""Hidden states, heads and activations of several architectures."""

import copy

import pytest
import torch
from architectures import ARCHITECTURES, CAUSAL, toy
from chat_templates import chat_tokenizer
from shared import TOY_ARCHITECTURES
from transformers import AddedToken, AutoConfig, AutoModelForCausalLM, BloomConfig, GPT2Config, XLNetConfig
from transformers.activations import NewGELUActivation

from distill.base.errors import UserError
from distill.metrics.evaluation import evaluation_from
from distill.models.architecture import (
    begins_itself,
    check_block_length,
    default_device,
    evaluating,
    fuse_activations,
    head,
    hidden_states,
    lent_to_gpu,
    model_hash,
    own_context,
    position_limit,
    project,
    tokenizer_hash,
    view_of,
)
from distill.models.loading import load_teacher
from distill.models.student import make_student
from distill.objective import kd_loss
from distill.recipe import StudentConfig, TeacherConfig

every_architecture = pytest.mark.parametrize("architecture", list(TOY_ARCHITECTURES))


@every_architecture
def test_packed_documents_do_not_see_each_other(toy_model, architecture):
    """Two documents in one row, told apart by positions alone, give the hidden states that each gives by itself."""
    model = toy_model(architecture)
    generator = torch.Generator().manual_seed(0)
    first, second = (torch.randint(0, 300, (1, n), generator=generator) for n in (7, 9))
    with torch.no_grad():
        together = hidden_states(
            model, torch.cat([first, second], 1), torch.cat([torch.arange(7), torch.arange(9)])[None]
        )
        alone = [hidden_states(model, ids, torch.arange(ids.shape[1])[None]) for ids in (first, second)]
    torch.testing.assert_close(together, torch.cat(alone, 1), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", sorted(CAUSAL))
def test_head_and_hidden_states_give_the_logits(name):
    """Those of the model itself, with its scale and at a size at which its cap shows."""
    model = toy(name)
    ids = torch.arange(24).view(2, 12) + 30
    with torch.no_grad():
        hidden = hidden_states(model, ids, torch.arange(12).expand(2, 12))
        torch.testing.assert_close(
            project(model, hidden), model(input_ids=ids, use_cache=False).logits, atol=1e-5, rtol=1e-4
        )
        view = view_of(model, hidden)
        ours = kd_loss.naive_logits(view, torch.arange(24)).view(2, 12, -1)
        torch.testing.assert_close(ours, project(model, hidden), atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize(
    ("name", "keys", "scale", "cap"),
    [
        ("gpt2", {}, 1, None),
        ("gemma2", {"final_logit_softcapping": 0.5}, 1, 0.5),
        ("gemma2", {"final_logit_softcapping": None}, 1, None),
        ("gemma3_text", {"final_logit_softcapping": 3.0}, 1, 3),
        ("recurrent_gemma", {"logits_soft_cap": 4.0}, 1, 4),
        ("cohere", {"logit_scale": 0.0625}, 0.0625, None),  # multiplies
        ("granite", {"logits_scaling": 8.0}, 0.125, None),  # divides
        ("falcon_h1", {"lm_head_multiplier": 2.0}, 2, None),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_scale_and_cap_are_read_from_the_model(name, keys, scale, cap, dtype):
    read = head(toy(name, **keys).to(dtype))
    assert (read.scale, read.cap) == (scale, cap)


def refusal(function, *arguments) -> str:
    with pytest.raises(UserError) as refused:
        function(*arguments)
    return str(refused.value)


def test_a_configuration_may_name_no_limit():
    assert own_context(GPT2Config(n_positions=7)) == 7
    assert own_context(XLNetConfig()) is None  # it says -1
    assert own_context(BloomConfig()) is None


def test_a_head_that_the_loss_cannot_reproduce_is_refused(toy_tokenizer):
    """BERT's has a layer of its own before the product; as a decoder it is causal, so that nothing else is wrong."""
    config = {"model_type": "bert", **ARCHITECTURES["bert"], "is_decoder": True}
    student = StudentConfig(init="config", config=config)
    told = refusal(make_student, student, None, toy_tokenizer, None)
    assert "a layer of its own (cls.predictions.transform.dense) stands between" in told


def test_a_layer_before_the_head_that_changes_the_size_is_told_too(toy_tokenizer):
    config = {"model_type": "electra", **ARCHITECTURES["bert"], "is_decoder": True, "embedding_size": 16}
    told = refusal(make_student, StudentConfig(init="config", config=config), None, toy_tokenizer, None)
    assert "a layer of its own (generator_predictions.dense) stands between" in told


def test_a_cap_that_no_configuration_tells_of_is_seen():
    model = toy("llama")
    plain = model.lm_head.forward
    model.lm_head.forward = lambda hidden: 5 * torch.tanh(plain(hidden) / 5)
    with torch.no_grad():  # at the size of the model's own logits it would not show
        hidden = hidden_states(model, torch.arange(8)[None], torch.arange(8)[None])
        torch.testing.assert_close(plain(hidden), model.lm_head(hidden), atol=1e-3, rtol=1e-2)
    assert "not a linear function" in refusal(head, model)


def activations(model) -> list[str]:
    return [type(module).__name__ for module in model.modules() if "GELU" in type(module).__name__]


def test_the_activation_of_gpt2_is_replaced_by_an_equal_one(toy_model):
    model = toy_model("gpt2", seed=1)
    ids = torch.arange(1, 61).view(2, 30)
    results = []
    before = model.config.to_dict()
    for _ in range(2):
        loss = model(input_ids=ids, labels=ids).loss
        gradients = torch.autograd.grad(loss, list(model.parameters()))
        results.append((loss.detach(), *gradients))
        fuse_activations(model)
    torch.testing.assert_close(*results, rtol=1e-4, atol=1e-6)
    assert NewGELUActivation.__name__ not in activations(model) and len(activations(model)) == 4
    assert model.config.to_dict() == before
    assert list(toy_model("gpt2").state_dict()) == list(model.state_dict())


def test_other_activations_are_left_alone(toy_model):
    for architecture in set(TOY_ARCHITECTURES) - {"gpt2"}:
        model = toy_model(architecture)
        before = [type(module) for module in model.modules()]
        fuse_activations(model)
        assert [type(module) for module in model.modules()] == before


def test_documents_of_a_block_do_not_see_each_other_under_any_attention():
    teacher, tokenizer = load_teacher(TeacherConfig(attention="eager"))
    assert teacher.config._attn_implementation == "eager"
    first, second = (
        torch.tensor([tokenizer(t)["input_ids"]]) for t in ("The nurse said that", "his old book was lost")
    )
    ids = torch.cat([first, second], dim=1)
    positions = torch.cat([torch.arange(first.shape[1]), torch.arange(second.shape[1])])[None]
    for attention, used in ((None, "eager"), ("sdpa", "sdpa")):
        student = make_student(StudentConfig(attention=attention), teacher, tokenizer, "demo")
        assert student.config._attn_implementation == used
        with torch.no_grad():
            packed = hidden_states(student, ids, positions)
            alone = [hidden_states(student, part, torch.arange(part.shape[1])[None]) for part in (first, second)]
        torch.testing.assert_close(packed, torch.cat(alone, dim=1), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("training", [True, False])
def test_a_model_is_evaluated_and_given_back_as_it_came(training):
    model = torch.nn.Sequential(torch.nn.Dropout(0.5)).train(training)
    with evaluating(model):
        assert not model.training and not model[0].training
    assert model.training == model[0].training == training
    with pytest.raises(KeyError), evaluating(model):
        raise KeyError
    assert model.training == training


@pytest.mark.parametrize(("there", "expected"), [(True, "cuda"), (False, "cpu")])
def test_a_gpu_is_used_where_there_is_one(there, expected, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: there)
    assert default_device() == expected


# -------------------------------------------------------------------------------------------------------- positions

# Learned tables, tables made beforehand, a table that grows, rotary and linear positions.
POSITIONS = {
    "gpt2": {"n_positions": 24, "n_embd": 16, "n_layer": 1, "n_head": 2},
    "opt": {"max_position_embeddings": 24, "hidden_size": 16, "ffn_dim": 16, "num_hidden_layers": 1,
            "num_attention_heads": 2, "word_embed_proj_dim": 16},
    "biogpt": {"max_position_embeddings": 24, "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1,
               "num_attention_heads": 2},
    "gptj": {"n_positions": 24, "n_embd": 16, "n_layer": 1, "n_head": 2, "rotary_dim": 4},
    "xglm": {"max_position_embeddings": 24, "d_model": 16, "ffn_dim": 16, "num_layers": 1, "attention_heads": 2},
    "llama": {"max_position_embeddings": 24, "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1,
              "num_attention_heads": 2},
    "gpt_neox": {"max_position_embeddings": 24, "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1,
                 "num_attention_heads": 2},
    "mpt": {"max_seq_len": 24, "d_model": 16, "n_layers": 1, "n_heads": 2},
    "bloom": {"hidden_size": 16, "n_layer": 1, "n_head": 2},
}  # fmt: skip


@pytest.mark.parametrize("architecture", POSITIONS)
def test_blocks_longer_than_a_models_positions_are_refused_where_they_would_break_it(architecture, capsys):
    """The truth: what the model itself does with one token more."""
    config = AutoConfig.for_model(architecture, vocab_size=50, **POSITIONS[architecture])
    model = AutoModelForCausalLM.from_config(config).eval()

    def runs(length: int) -> bool:
        try:
            with torch.no_grad():
                hidden_states(model, torch.ones(1, length, dtype=torch.long), torch.arange(length)[None])
        except (IndexError, RuntimeError):
            return False
        return True

    limit, breaks = position_limit(model)
    assert limit == (None if architecture == "bloom" else 24)
    assert runs(24) and runs(25) is not breaks
    check_block_length(24, "m", model)
    assert not capsys.readouterr().err
    if breaks:
        with pytest.raises(UserError, match="block_length is 25, but m has only 24 positions"):
            check_block_length(25, "m", model)
    else:
        check_block_length(25, "m", model)
        assert ("m was made for 24 tokens" in capsys.readouterr().err) == (limit is not None)


# ------------------------------------------------------------------------------------------- special tokens and hashes


def test_a_text_begins_itself_only_with_a_special_token(toy_tokenizer):
    tokenizer = chat_tokenizer(toy_tokenizer, "chatml")
    assert begins_itself("<|turn|>user", tokenizer) and begins_itself(tokenizer.bos_token, tokenizer)
    assert not any(begins_itself(text, tokenizer) for text in ("", "she", " <|turn|>", "<|other|>"))
    # One that the tokenizer has no name for counts where there is no bos.
    tokenizer.add_tokens([AddedToken("<|other|>", special=True), AddedToken("<|word|>")])
    assert not begins_itself("<|other|>user", tokenizer)
    tokenizer.bos_token = None
    assert begins_itself("<|other|>user", tokenizer) and not begins_itself("<|word|>user", tokenizer)


def test_a_start_token_that_is_the_unknown_one_too_is_not_put_before_a_text_that_has_it(toy_tokenizer):
    """As OLMo 2's, whose template writes it; `<unk>` alone, which texts such as WikiText's begin with, is no start."""
    tokenizer = chat_tokenizer(toy_tokenizer, "headers")
    tokenizer.unk_token = tokenizer.bos_token
    assert tokenizer.bos_token == tokenizer.eos_token == tokenizer.unk_token
    text = tokenizer.apply_chat_template([{"role": "user", "content": "Is she in?"}], tokenize=False)
    evaluation = evaluation_from(model=toy("gpt2", vocab_size=400), tokenizer=tokenizer, documents=[text])
    assert evaluation.encode(text)[0] == tokenizer.apply_chat_template(
        [{"role": "user", "content": "Is she in?"}], return_dict=False
    )
    assert evaluation.encode("She is.")[0] == [tokenizer.bos_token_id, *tokenizer("She is.")["input_ids"]]
    tokenizer.add_special_tokens({"unk_token": "<unk>"})
    assert not begins_itself("<unk> is in", tokenizer) and begins_itself(text, tokenizer)


def test_hashes_know_whatever_decides_a_prediction(toy_model, toy_tokenizer):
    """Heads and rotary base are in no weight; merges and templates in no vocabulary."""
    model = toy_model("llama")
    other = copy.deepcopy(model)
    assert model_hash(model, toy_tokenizer) == model_hash(other, toy_tokenizer)
    other.config.rope_parameters = {**other.config.rope_parameters, "rope_theta": 500.0}
    assert model_hash(model, toy_tokenizer) != model_hash(other, toy_tokenizer)
    one, two = (chat_tokenizer(toy_tokenizer, name) for name in ("chatml", "headers"))
    assert one.get_vocab() == two.get_vocab()
    assert len({tokenizer_hash(tokenizer) for tokenizer in (one, two, toy_tokenizer)}) == 3


@pytest.fixture
def moves(monkeypatch, toy_model):
    """A model on a machine that has a GPU, and where it was sent to."""
    model, sent = toy_model(), []
    monkeypatch.setattr("distill.models.architecture.default_device", lambda: "cuda")
    monkeypatch.setattr(model, "to", sent.append, raising=False)
    return model, sent


def test_a_model_is_lent_to_the_gpu_and_comes_back(moves):
    model, sent = moves
    with lent_to_gpu(model):
        assert sent == ["cuda"]
    assert sent == ["cuda", "cpu"]
    with pytest.raises(KeyError), lent_to_gpu(model):
        raise KeyError
    assert sent == ["cuda", "cpu"] * 2


def test_a_gpu_that_has_no_room_is_not_needed(moves, monkeypatch, capsys):
    model, sent = moves

    def full(device):
        sent.append(device)
        if device == "cuda":
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB")

    monkeypatch.setattr(model, "to", full)
    with lent_to_gpu(model):
        assert sent == ["cuda", "cpu"]
    assert sent == ["cuda", "cpu"]  # nothing of it is left there
    assert "stays on the processor for this, as the GPU cannot take it (CUDA out of memory" in capsys.readouterr().err


def test_what_is_no_model_is_not_lent_nor_is_one_without_a_gpu(monkeypatch, toy_model):
    model = toy_model()
    monkeypatch.setattr(model, "to", None, raising=False)
    with lent_to_gpu(model), lent_to_gpu(None), lent_to_gpu("teacher"):
        pass
