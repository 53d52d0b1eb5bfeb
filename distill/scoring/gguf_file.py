"""A model -> one GGUF file, the format of llama.cpp: weights, tokenizer and chat template together.

llama.cpp's own converter knows many architectures, and tells a tokenizer by a list of those that are known: not one
that was trained with a student. The package `gguf`, which it writes with, is on the package index, the converter is
not. So GPT-2's and Llama's architectures with GPT-2's way to split words are written here, by that package's names for
weights, and for all others the converter is run, where somebody has it.

Layout of the weights: as llama.cpp wants them, `https://github.com/ggml-org/llama.cpp`, `convert_hf_to_gguf.py`.
"""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.pytorch_utils import Conv1D

from distill.base.errors import UserError
from distill.models.architecture import special_tokens

_NORMAL, _CONTROL, _USER_DEFINED, _UNUSED = 1, 3, 4, 5  # kinds of tokens
_OTHERWISE = (
    "llama.cpp's own converter may know it: git clone https://github.com/ggml-org/llama.cpp, then give --converter "
    "llama.cpp/convert_hf_to_gguf.py"
)


def check_gguf(path: str, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """See whether `write_gguf` can write a model.

    Raises:
        UserError: its architecture, its settings or its tokenizer is another; says what to run instead.
    """
    kind, config = model.config.model_type, model.config
    odd = None
    if kind == "llama":
        rope = (getattr(config, "rope_parameters", None) or {}).get("rope_type", "default")
        odd = f"rope {rope}" if rope != "default" else None
        odd = "biases" if config.attention_bias or config.mlp_bias else odd
        odd = odd if config.hidden_act in ("silu", "swish") else f"activation {config.hidden_act}"  # no file tells it
    elif kind == "gpt2":
        plain = config.scale_attn_weights and not config.scale_attn_by_inverse_layer_idx
        odd = None if plain and config.activation_function.startswith("gelu") else "other attention or activation"
    else:
        odd = "that architecture"
    if odd:
        raise UserError(f"{path}: is a {kind} with {odd}, and GGUF is written of plain gpt2 and llama; {_OTHERWISE}")
    if not _splits_as_gpt2(tokenizer):
        raise UserError(f"{path}: its tokenizer splits words in another way than GPT-2's; {_OTHERWISE}")


def _splits_as_gpt2(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether it is a byte-level BPE with GPT-2's expression for words, which llama.cpp calls `gpt-2`."""
    parts = json.loads(tokenizer.backend_tokenizer.to_str())
    before = parts["pre_tokenizer"] or {}
    wanted = {"type": "ByteLevel", "add_prefix_space": False, "use_regex": True}
    return (
        parts["model"]["type"] == "BPE"
        and parts["normalizer"] is None
        and {key: before.get(key) for key in wanted} == wanted
    )


def write_gguf(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, path: Path) -> None:
    """Write a file whose matrices are in 16 bits, and all else in 32.

    Args:
        model: One that `check_gguf` lets pass, in float32.
        tokenizer: Its tokenizer.
        path: The file.
    """
    import gguf

    kind = model.config.model_type
    writer = gguf.GGUFWriter(path, kind)
    writer.add_type("model")
    writer.add_name(Path(model.name_or_path or path).stem)
    (_settings_of_gpt2 if kind == "gpt2" else _settings_of_llama)(writer, model.config)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_F16)
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    _add_tokenizer(writer, tokenizer, model.get_input_embeddings().weight.shape[0])
    architecture = {"gpt2": gguf.MODEL_ARCH.GPT2, "llama": gguf.MODEL_ARCH.LLAMA}[kind]
    names = gguf.get_tensor_name_map(architecture, model.config.num_hidden_layers)
    for name, weight in _weights(model):
        known = names.get_name(name, try_suffixes=(".weight", ".bias"))
        assert known is not None, name  # `check_gguf` lets only plain ones pass
        matrix = weight.dim() > 1 and "position" not in known
        writer.add_tensor(known, weight.numpy().astype(np.float16 if matrix else np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _settings_of_gpt2(writer: Any, config: Any) -> None:
    writer.add_context_length(config.n_positions)
    writer.add_embedding_length(config.n_embd)
    writer.add_block_count(config.n_layer)
    writer.add_feed_forward_length(config.n_inner or 4 * config.n_embd)
    writer.add_head_count(config.n_head)
    writer.add_layer_norm_eps(config.layer_norm_epsilon)


def _settings_of_llama(writer: Any, config: Any) -> None:
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(size)
    writer.add_value_length(size)
    writer.add_rope_dimension_count(size)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)


def _weights(model: PreTrainedModel) -> Iterator[tuple[str, Tensor]]:
    """Name and weights as llama.cpp reads them: a tied head once, linear layers as (out, in), rotated halves woven."""
    transposed = {f"{name}.weight" for name, module in model.named_modules() if isinstance(module, Conv1D)}
    heads = {
        "q_proj": model.config.num_attention_heads,
        "k_proj": getattr(model.config, "num_key_value_heads", 0),
    }
    tied = set(model.all_tied_weights_keys) if model.config.tie_word_embeddings else set()
    for name, weight in model.state_dict().items():
        if name in tied:
            continue
        weight = weight.detach().float().cpu()
        if name in transposed:
            weight = weight.T
        if model.config.model_type == "llama" and (number := heads.get(name.split(".")[-2])):
            # transformers rotates the first half of a head by the second one, llama.cpp each number by its neighbour.
            weight = weight.reshape(number, 2, -1, weight.shape[1]).swapaxes(1, 2).reshape(weight.shape)
        yield name, weight.contiguous()


def _add_tokenizer(writer: Any, tokenizer: PreTrainedTokenizerBase, rows: int) -> None:
    """Tokens by id, of which the head may have more, and merges; the start token stands in front of every text."""
    added = tokenizer.added_tokens_decoder
    names = {number: token for token, number in tokenizer.get_vocab().items()}
    kinds = {number: _CONTROL if token.special else _USER_DEFINED for number, token in added.items()}
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list([names.get(number, f"[PAD{number}]") for number in range(rows)])
    writer.add_token_types([kinds.get(n, _NORMAL if n in names else _UNUSED) for n in range(rows)])
    merges = json.loads(tokenizer.backend_tokenizer.to_str())["model"]["merges"]
    writer.add_token_merges([pair if isinstance(pair, str) else " ".join(pair) for pair in merges])
    start, end = special_tokens(tokenizer)
    writer.add_bos_token_id(start)
    writer.add_eos_token_id(end)
    if tokenizer.pad_token_id is not None:
        writer.add_pad_token_id(tokenizer.pad_token_id)
    if tokenizer.unk_token_id is not None:
        writer.add_unk_token_id(tokenizer.unk_token_id)
    writer.add_add_bos_token(True)
    if getattr(tokenizer, "chat_template", None):
        writer.add_chat_template(tokenizer.chat_template)


def run_converter(converter: Path, folder: Path, path: Path) -> None:
    """Let llama.cpp's `convert_hf_to_gguf.py` write the file.

    Args:
        converter: That script.
        folder: Of the model and its tokenizer.
        path: The file.

    Raises:
        UserError: it failed; gives its last words.
    """
    call = [sys.executable, str(converter), str(folder), "--outfile", str(path), "--outtype", "f16"]
    done = subprocess.run(call, capture_output=True, text=True, errors="replace", check=False)
    if done.returncode or not path.exists():
        last = (done.stderr.strip() or done.stdout.strip() or "it said nothing").splitlines()[-1]
        raise UserError(
            f"--converter {converter}: could not convert the model: {last}; its packages are named in llama.cpp's "
            "requirements.txt"
        )
