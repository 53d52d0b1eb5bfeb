"""GGUF files: read back by transformers and by gguf's own reader; what llama.cpp wants of each weight, by hand."""

import json
from pathlib import Path

import numpy as np
import pytest

from distill.base.errors import UserError
from distill.models.loading import load_tokenizer
from distill.scoring.gguf_file import check_gguf, run_converter, write_gguf

gguf = pytest.importorskip("gguf", reason="needs the extra quantization")


def written(model, tokenizer, folder):
    """The file's tensors by name, and its settings."""
    check_gguf("here", model, tokenizer)
    write_gguf(model, tokenizer, folder / "model.gguf")
    reader = gguf.GGUFReader(folder / "model.gguf")
    tensors = {tensor.name: np.array(tensor.data, dtype=np.float32) for tensor in reader.tensors}
    return tensors, {name: field.contents() for name, field in reader.fields.items()}


def test_a_gpt2_as_llama_cpp_reads_it(toy_model, toy_tokenizer, tmp_path):
    model = toy_model("gpt2")
    tensors, settings = written(model, toy_tokenizer, tmp_path)
    assert len(tensors) == 4 * 12 + 2 + 2  # the tied head is not written twice
    block = model.transformer.h[1]
    assert np.allclose(tensors["blk.1.attn_qkv.weight"], block.attn.c_attn.weight.detach().T, atol=1e-3)
    assert np.allclose(tensors["blk.1.ffn_down.weight"], block.mlp.c_proj.weight.detach().T, atol=1e-3)
    assert np.array_equal(tensors["position_embd.weight"], model.transformer.wpe.weight.detach())  # 32 bits
    assert settings["general.architecture"] == settings["tokenizer.ggml.model"] == "gpt2"
    assert (settings["gpt2.block_count"], settings["gpt2.context_length"]) == (4, 64)
    assert settings["gpt2.feed_forward_length"] == 4 * 32 and settings["tokenizer.ggml.add_bos_token"]


def test_a_llama_as_llama_cpp_reads_it(toy_model, toy_tokenizer, tmp_path):
    """With fewer heads for keys; the numbers of a head that are rotated together stand side by side."""
    rope = {"rope_type": "default", "rope_theta": 500.0}
    model = toy_model("llama", num_key_value_heads=1, rope_parameters=rope, rms_norm_eps=1e-2)
    tensors, settings = written(model, toy_tokenizer, tmp_path)
    attention = model.model.layers[0].self_attn
    for name, weight, heads in (("attn_q", attention.q_proj.weight, 2), ("attn_k", attention.k_proj.weight, 1)):
        want, size = weight.detach().clone(), 16
        for head in range(heads):
            for number in range(size // 2):
                first = head * size
                want[first + 2 * number] = weight[first + number]
                want[first + 2 * number + 1] = weight[first + size // 2 + number]
        assert np.allclose(tensors[f"blk.0.{name}.weight"], want.detach(), atol=1e-3)
    assert np.allclose(tensors["blk.0.attn_v.weight"], attention.v_proj.weight.detach(), atol=1e-3)
    assert settings["llama.attention.head_count_kv"] == 1 and settings["llama.rope.dimension_count"] == 16
    assert settings["llama.rope.freq_base"] == 500 and settings[
        "llama.attention.layer_norm_rms_epsilon"
    ] == pytest.approx(0.01)
    assert settings["llama.vocab_size"] == model.config.vocab_size
    assert "output.weight" in tensors  # not tied


def test_the_tokenizer_in_the_file_is_the_models(toy_model, toy_tokenizer, tmp_path):
    _, settings = written(toy_model("llama", vocab_size=len(toy_tokenizer) + 5), toy_tokenizer, tmp_path)
    names, kinds = settings["tokenizer.ggml.tokens"], settings["tokenizer.ggml.token_type"]
    assert len(names) == len(kinds) == len(toy_tokenizer) + 5 and kinds[-1] == 5
    assert {names[i] for i, kind in enumerate(kinds) if kind == 3} == set(toy_tokenizer.all_special_tokens)
    alone = load_tokenizer(str(tmp_path), gguf_file="model.gguf")
    for text in ("The nurse said that she's late.\n 'Tis  42 dogs", '"Über" naïve', "<|endoftext|>He and she"):
        want, got = (t(text, add_special_tokens=False)["input_ids"] for t in (toy_tokenizer, alone))
        assert got == want
    assert alone.bos_token_id == toy_tokenizer.bos_token_id


def test_what_cannot_be_written_says_what_to_run_instead(toy_model, toy_tokenizer, tmp_path):
    instead = r"; llama\.cpp's own converter may know it: git clone https://.*, then give --converter llama\.cpp/conv"
    for model, words in (
        (toy_model("gpt_neox"), "is a gpt_neox with that architecture"),
        (toy_model("llama", attention_bias=True), "is a llama with biases"),
        (toy_model("llama", hidden_act="gelu"), "is a llama with activation gelu"),
        (toy_model("gpt2", activation_function="relu"), "is a gpt2 with other attention or activation"),
    ):
        with pytest.raises(UserError, match=f"^here: {words}.*{instead}"):
            check_gguf("here", model, toy_tokenizer)
    parts = json.loads(toy_tokenizer.backend_tokenizer.to_str())
    parts["pre_tokenizer"]["use_regex"] = False
    other = type(toy_tokenizer.backend_tokenizer).from_str(json.dumps(parts))
    odd = type("Odd", (), {"backend_tokenizer": other})()
    with pytest.raises(UserError, match=f"^here: its tokenizer splits words in another way.*{instead}"):
        check_gguf("here", toy_model("gpt2"), odd)


def test_a_converter_writes_the_file_or_tells_why_not(tmp_path):
    script = tmp_path / "convert_hf_to_gguf.py"
    script.write_text(
        "import sys\n"
        "folder, _, out, _, kind = sys.argv[1:]\n"
        "if folder == 'odd': sys.exit('BPE pre-tokenizer was not recognized')\n"
        "open(out, 'w').write(f'{folder} {kind}')\n",
        encoding="utf-8",
    )
    run_converter(script, Path("model"), tmp_path / "x.gguf")
    assert (tmp_path / "x.gguf").read_text() == "model f16"
    with pytest.raises(
        UserError, match=r"convert_hf_to_gguf\.py: could not .*: BPE pre-tokenizer was not recognized; its"
    ):
        run_converter(script, Path("odd"), tmp_path / "y.gguf")
