"""Teachers in fewer bits: what their weights are, against rounding by hand; and what cannot be done with them."""

import importlib.util
import json
from dataclasses import replace

import pytest
import torch
from torch import nn
from toy_trainer import make_trainer, toy_batch
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.pytorch_utils import Conv1D

from distill.base.errors import UserError
from distill.models import quantization
from distill.models.architecture import parameter_count, weight_bytes, weights_hash
from distill.models.generation import generate
from distill.models.loading import load_model, load_teacher, load_tokenizer
from distill.models.quantization import is_quantized, quantize_weights
from distill.models.student import make_student
from distill.objective.chunks import IGNORED
from distill.recipe import LoraConfig, LossConfig, StudentConfig, TargetConfig, TeacherConfig
from distill.scoring import measure
from distill.scoring.measure import Checkpoint, common_context

IDS = torch.arange(24)[None]
bitsandbytes = pytest.mark.skipif(
    importlib.util.find_spec("bitsandbytes") is None, reason="needs bitsandbytes, of the extra quantization"
)
torchao = pytest.mark.skipif(
    importlib.util.find_spec("torchao") is None, reason="needs torchao, of the extra quantization"
)


def logits(model):
    with torch.no_grad():
        return model.eval()(IDS).logits


@pytest.fixture
def folder(toy_model, toy_tokenizer, tmp_path):
    """A function from an architecture to the folder of a model that is large enough to be quantised."""

    def make(architecture="llama"):
        size = {"n_embd": 64} if architecture == "gpt2" else {"hidden_size": 64, "intermediate_size": 128}
        toy_model(architecture, **size).save_pretrained(tmp_path / "model")
        toy_tokenizer.save_pretrained(tmp_path / "model")
        return str(tmp_path / "model")

    return make


# ------------------------------------------------------------------------------------------------------ bitsandbytes


@bitsandbytes
@pytest.mark.parametrize("architecture", ["gpt2", "llama", "gpt_neox"])
@pytest.mark.parametrize("kind", ["int8", "nf4"])
def test_a_teacher_is_quantised_as_it_is_loaded(folder, architecture, kind):
    path = folder(architecture)
    teacher, _ = load_teacher(TeacherConfig(path=path, quantization=kind))
    plain = load_model(path)
    assert is_quantized(teacher) and not is_quantized(plain)
    assert torch.equal(teacher.get_output_embeddings().weight, plain.get_output_embeddings().weight)
    error = (logits(teacher) - logits(plain)).norm() / logits(plain).norm()
    assert 0 < error < (0.05 if kind == "int8" else 0.4)
    assert weights_hash(teacher) == weights_hash(load_teacher(TeacherConfig(path=path, quantization=kind))[0])
    assert weights_hash(teacher) != weights_hash(plain)
    assert not any(weight.requires_grad for weight in teacher.parameters())


@bitsandbytes
def test_int8_is_rounding_by_row(folder):
    """W / max |W| x 127, rounded (Dettmers et al. 2022, equation 3), in a quarter of the bytes."""
    path = folder()
    found = load_teacher(TeacherConfig(path=path, quantization="int8"))[0].model.layers[1].mlp.up_proj.weight
    plain = load_model(path).model.layers[1].mlp.up_proj.weight.detach()
    want = (plain / plain.abs().amax(dim=1, keepdim=True) * 127).round()
    assert found.dtype == torch.int8 and (found.detach().float() - want).abs().max() <= 1
    assert (found.detach().float() == want).float().mean() > 0.97  # the rest is a matter of 16 bits


@bitsandbytes
def test_nf4_has_sixteen_values_in_half_a_byte(folder):
    path = folder()
    layer = load_teacher(TeacherConfig(path=path, quantization="nf4"))[0].model.layers[1].mlp.up_proj
    plain = load_model(path).model.layers[1].mlp.up_proj.weight.detach()
    assert layer.weight.dtype == torch.uint8 and layer.weight.numel() == plain.numel() / 2
    with torch.no_grad():
        values = layer(torch.eye(plain.shape[1])).T  # its weights, as they multiply
    blocks, original = values.reshape(-1, 64), plain.reshape(-1, 64)
    largest = original.abs().amax(dim=1, keepdim=True)
    assert all(len(block.unique()) <= 16 for block in blocks)
    assert ((blocks - original).abs() / largest).max() < 0.17  # half of the widest gap between two of the 16 is 0.152


@bitsandbytes
@pytest.mark.parametrize("kind", ["int8", "nf4"])
def test_the_loss_is_that_of_what_the_teacher_predicts(folder, toy_model, toy_tokenizer, tmp_path, kind):
    """A quantised teacher in the trainer, against a softmax over its logits by its own forward pass."""
    inputs, blocks = toy_batch(toy_tokenizer)
    teacher, _ = load_teacher(TeacherConfig(path=folder(), quantization=kind))
    student = toy_model("gpt2", seed=1)
    trainer = make_trainer(tmp_path / "run", student, teacher, blocks, TargetConfig(augment=True), LossConfig())
    loss = float(trainer.compute_loss(student, inputs).detach())
    there = inputs["labels"] != IGNORED
    keys = {"input_ids": inputs["input_ids"], "position_ids": inputs["position_ids"]}
    with torch.no_grad():
        theirs, ours = (m(**keys, use_cache=False).logits[there].log_softmax(-1) for m in (teacher, student))
    want = float((theirs.exp() * (theirs - ours)).sum(-1).mean())
    assert loss == pytest.approx(want, rel=1e-4)


@bitsandbytes
def test_a_student_takes_no_quantised_weights(folder, toy_tokenizer, tmp_path):
    path = folder()
    teacher, _ = load_teacher(TeacherConfig(path=path, quantization="nf4"))
    for config in (StudentConfig(), StudentConfig(init="teacher", lora=LoraConfig(r=2))):
        with pytest.raises(UserError, match=f"init is {config.init}, but the weights of the teacher t are quantised"):
            make_student(config, teacher, toy_tokenizer, "t")
    make_student(StudentConfig(init="checkpoint", path=path), teacher, toy_tokenizer, "t")
    teacher.save_pretrained(tmp_path / "small")
    toy_tokenizer.save_pretrained(tmp_path / "small")
    assert json.loads((tmp_path / "small" / "config.json").read_text())["quantization_config"]
    again, _ = load_teacher(TeacherConfig(path=str(tmp_path / "small")))  # quantised already
    assert is_quantized(again) and torch.equal(logits(again), logits(teacher))
    with pytest.raises(UserError, match=r"small: is quantised, and such weights cannot be trained"):
        make_student(StudentConfig(init="checkpoint", path=str(tmp_path / "small")), None, toy_tokenizer, None)


def test_packages_that_are_missing_are_one_sentence(folder, monkeypatch):
    path = folder()
    monkeypatch.setattr(quantization, "is_bitsandbytes_available", lambda: False)
    with pytest.raises(UserError, match=r"int8 needs the package bitsandbytes; pip install 'distill\[quantization\]'"):
        load_teacher(TeacherConfig(path=path, quantization="int8"))
    monkeypatch.setattr(quantization, "is_gguf_available", lambda: False)
    with pytest.raises(UserError, match=r"a\.gguf needs the package gguf"):
        load_teacher(TeacherConfig(path=path, gguf_file="a.gguf"))


@pytest.mark.skipif(importlib.util.find_spec("compressed_tensors") is not None, reason="compressed-tensors is there")
def test_a_checkpoint_whose_package_is_missing_is_one_sentence(folder, tmp_path):
    path = folder()
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "compressed-tensors", "format": "naive-quantized"}
    (tmp_path / "model" / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match=r"model: needs a package that is not there: .*compressed"):
        load_model(path)


# ----------------------------------------------------------------------------------------------------------- torchao


def layers_of(model):
    """Name -> weight of every linear layer but the head, (outputs, inputs) as plain numbers."""
    head = model.get_output_embeddings()
    found = {}
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear) and module is not head:
            weight = module.weight.detach()
            found[name] = (
                weight.dequantize() if hasattr(weight, "dequantize") and type(weight) is not torch.Tensor else weight
            )
        elif isinstance(module, Conv1D):
            found[name] = module.weight.detach().T
    return found


def test_the_layers_of_gpt2_compute_the_same_as_linear_ones(toy_model):
    model = toy_model()
    expected, number = logits(model), len(layers_of(model))
    quantization._conv1d_as_linear(model)
    assert not [module for module in model.modules() if isinstance(module, Conv1D)]
    assert len(layers_of(model)) == number == 16
    torch.testing.assert_close(logits(model), expected)


@torchao
@pytest.mark.parametrize("architecture", ["gpt2", "llama", "gpt_neox"])
@pytest.mark.parametrize(("kind", "share", "levels"), [("int8", 32, 127), ("int4", 32, 7), ("int3", 32, 3)])
def test_weights_are_whole_numbers_times_a_scale(toy_model, architecture, kind, share, levels):
    """Off by half a step at most, of the largest in a row (8 bits) or in a group of 32 (fewer): one group here."""
    model = toy_model(architecture)
    plain, head = layers_of(model), model.get_output_embeddings().weight.detach().clone()
    before, expected = weights_hash(model), logits(model)
    quantized = layers_of(quantize_weights(model, kind))
    assert quantized.keys() == plain.keys()
    for name, weight in plain.items():
        groups = weight.reshape(len(weight), -1, share) if kind != "int8" else weight[:, None]
        found = quantized[name].reshape(groups.shape)
        step = groups.abs().amax(dim=-1, keepdim=True) / levels
        assert ((found - groups).abs() <= 0.54 * step).all(), name
        assert max(len(group.unique()) for group in found.flatten(0, 1)) <= 2 * levels + 2
    assert torch.equal(model.get_output_embeddings().weight, head)
    assert 0 < (logits(model) - expected).norm() / expected.norm() < {"int8": 0.02, "int4": 0.2, "int3": 0.4}[kind]
    assert weights_hash(model) != before
    assert weight_bytes(model) < sum(4 * p.numel() for p in model.parameters())
    assert parameter_count(model) == parameter_count(toy_model(architecture))


@torchao
def test_a_model_in_fewer_bits_writes(toy_model, toy_tokenizer):
    model = quantize_weights(toy_model(), "int8")
    assert len(generate(model, toy_tokenizer, ["The nurse"], samples=2, max_new_tokens=4)[0]) == 2


def test_without_torchao_it_is_one_sentence(toy_model, monkeypatch):
    monkeypatch.setattr(quantization, "is_torchao_available", lambda: False)
    with pytest.raises(
        UserError, match=r"scores\.quantize: int4 needs the package torchao; pip install 'distill\[quant"
    ):
        quantize_weights(toy_model(), "int4")


# -------------------------------------------------------------------------------------------------------------- GGUF


GGUF_NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}


def gguf_name(name):
    module, _, kind = name.rpartition(".")
    if module in GGUF_NAMES:
        return f"{GGUF_NAMES[module]}.{kind}"
    _, _, layer, inner = module.split(".", 3)
    return f"blk.{layer}.{GGUF_NAMES[inner]}.{kind}"


@pytest.fixture
def gguf_folder(toy_tokenizer, tmp_path):
    """A function from a GGUF type to (model, folder of its GGUF file and tokenizer), written tensor by tensor."""
    gguf = pytest.importorskip("gguf", reason="needs the extra quantization")

    def make(kind="F32"):
        config = AutoConfig.for_model(
            "qwen2", hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=2,
            num_key_value_heads=2, max_position_embeddings=64, vocab_size=len(toy_tokenizer), tie_word_embeddings=False,
            bos_token_id=0, eos_token_id=0,
        )  # fmt: skip
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config).eval()
        writer = gguf.GGUFWriter(tmp_path / "model.gguf", "qwen2")
        writer.add_name("toy")
        writer.add_context_length(64)
        writer.add_embedding_length(64)
        writer.add_block_count(2)
        writer.add_feed_forward_length(128)
        writer.add_head_count(2)
        writer.add_head_count_kv(2)
        writer.add_layer_norm_rms_eps(config.rms_norm_eps)
        writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
        writer.add_vocab_size(len(toy_tokenizer))
        for name, weight in model.state_dict().items():
            values = weight.numpy()
            if kind != "F32" and weight.dim() == 2 and "proj" in name:
                packed = gguf.quants.quantize(values, gguf.GGMLQuantizationType[kind])
                writer.add_tensor(gguf_name(name), packed, raw_dtype=gguf.GGMLQuantizationType[kind])
                weight.copy_(torch.from_numpy(gguf.quants.dequantize(packed, gguf.GGMLQuantizationType[kind])))
            else:
                writer.add_tensor(gguf_name(name), values)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        toy_tokenizer.save_pretrained(tmp_path)
        return model, str(tmp_path)

    return make


@pytest.mark.parametrize("kind", ["F32", "Q8_0", "Q4_0"])
def test_a_gguf_file_is_read_as_plain_weights(gguf_folder, toy_tokenizer, kind):
    """The truth is the model whose weights were rounded as the file's are."""
    model, path = gguf_folder(kind)
    teacher, tokenizer = load_teacher(TeacherConfig(path=path, gguf_file="model.gguf"))
    torch.testing.assert_close(logits(teacher), logits(model), rtol=1e-5, atol=1e-6)
    assert tokenizer.get_vocab() == toy_tokenizer.get_vocab()
    assert not is_quantized(teacher) and teacher.dtype == torch.float32
    assert "quantization_config" not in teacher.config.to_dict()
    student = make_student(StudentConfig(num_layers=2), teacher, tokenizer, "t")
    torch.testing.assert_close(logits(student), logits(model), rtol=1e-5, atol=1e-6)


def test_a_gguf_file_goes_by_its_path(gguf_folder):
    model, folder = gguf_folder("Q4_0")
    path = f"{folder}/model.gguf"
    torch.testing.assert_close(logits(load_model(path)), logits(model), rtol=1e-5, atol=1e-6)
    assert load_tokenizer(path).get_vocab() == load_tokenizer(folder).get_vocab()
    assert common_context([path]) == 64
    with pytest.raises(UserError, match="no such folder"):
        load_model(f"{folder}/other.gguf")


@pytest.fixture
def gpt2_file(toy_model, toy_tokenizer, tmp_path):
    """A function from settings to (model as its file rounds it, GGUF file), of a GPT-2 with odd sizes and biases."""
    pytest.importorskip("gguf", reason="needs the extra quantization")
    from distill.scoring.gguf_file import write_gguf

    def make(**settings):
        model = toy_model("gpt2", **{"n_positions": 37, "n_inner": 40, **settings})
        torch.manual_seed(1)
        for name, weight in model.named_parameters():
            if weight.dim() == 1:  # zeros and ones, as a model begins: they could go wrong unseen
                weight.data.add_(torch.randn_like(weight) / 10)
            elif "wpe" not in name:
                weight.data.copy_(weight.half())
        (tmp_path / "gguf").mkdir()
        write_gguf(model, toy_tokenizer, tmp_path / "gguf" / "model.gguf")
        return model, tmp_path / "gguf" / "model.gguf"

    return make


@pytest.mark.parametrize("beside", [False, True])
@pytest.mark.parametrize("tied", [False, True])
def test_a_gpt2_in_a_gguf_file_has_its_own_positions(gpt2_file, toy_model, toy_tokenizer, tied, beside, monkeypatch):
    """The truth is the model whose matrices were rounded to 16 bits; what lies beside the file decides nothing."""
    model, path = gpt2_file(tie_word_embeddings=tied)
    if beside:
        toy_model("gpt2", n_positions=50, n_layer=2).config.save_pretrained(path.parent)
        toy_tokenizer.save_pretrained(path.parent)
    of_recipe = load_teacher(TeacherConfig(path=str(path.parent), gguf_file=path.name))[0]
    for read in (load_model(str(path)), of_recipe):
        assert (read.config.n_positions, read.config.n_inner) == (37, 40)
        assert read.config.tie_word_embeddings == tied
        torch.testing.assert_close(logits(read), logits(model), rtol=1e-5, atol=1e-6)
        assert not hasattr(read.config, "n_ctx") and not hasattr(read.config, "feed_forward_length")
    monkeypatch.setattr(measure, "open_model", lambda *_: pytest.fail("it was loaded"))
    in_folder = Checkpoint(TeacherConfig(path=str(path.parent), gguf_file=path.name))
    assert common_context([path]) == common_context([in_folder]) == 37
    assert load_tokenizer(str(path)).get_vocab() == toy_tokenizer.get_vocab()


def test_a_gguf_file_whose_weights_are_not_its_settings_is_told_by_its_name(gpt2_file, toy_model):
    """Not by a config.json, which is not read."""
    import gguf

    _, path = gpt2_file()
    toy_model("gpt2").config.save_pretrained(path.parent)
    (length,) = gguf.GGUFReader(path, "r+").fields["gpt2.context_length"].parts[-1:]
    length[:] = 64
    length.flush()
    wanted = r"model\.gguf: transformer\.wpe\.weight is of shape \(37, 32\) in the file, but \(64, 32\) by the settings"
    with pytest.raises(UserError, match=wanted) as told:
        load_model(str(path))
    assert "config.json" not in str(told.value)


def test_gguf_files_that_cannot_be_had_are_one_sentence(gguf_folder, tmp_path):
    _, path = gguf_folder()
    teacher = TeacherConfig(path=path, gguf_file="other.gguf")
    with pytest.raises(UserError, match=r"holds no other\.gguf; it holds model\.gguf"):
        load_teacher(teacher)
    with pytest.raises(UserError, match=r"is a file; give its folder, and its name in teacher\.gguf_file"):
        load_teacher(replace(teacher, path=f"{path}/model.gguf"))
    with pytest.raises(UserError, match=r"model\.gguf: is a file; give its folder, and in teacher\.gguf_file its name"):
        load_teacher(TeacherConfig(path=f"{path}/model.gguf"))
    (tmp_path / "other.gguf").write_bytes(b"GGUF and no more")
    damaged = r"other\.gguf: no causal language model can be loaded from it: .*; it must be a whole GGUF file$"
    with pytest.raises(UserError, match=damaged) as told:
        load_teacher(teacher)
    assert "\n" not in str(told.value)
    (tmp_path / "tokenizer.json").unlink()
    with pytest.raises(UserError, match=r"model\.gguf: no tokenizer can be loaded from it"):
        load_tokenizer(path, gguf_file="model.gguf")
