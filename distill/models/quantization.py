"""Models in fewer bits: teachers quantised as they are loaded (bitsandbytes), stored so, or read from a GGUF file; and
any model as its users will run it, with the weights of its layers in 8, 4 or 3 bits (torchao).

A quantised model only predicts. What a GGUF file holds is turned into plain weights when it is read, and may be used
like any other model's.

Sources: Dettmers et al. 2022, LLM.int8(), arXiv 2208.07339; Dettmers et al. 2023, QLoRA (nf4), arXiv 2305.14314.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import nn
from transformers import AutoConfig, BitsAndBytesConfig, PretrainedConfig, PreTrainedModel
from transformers.pytorch_utils import Conv1D
from transformers.utils import is_bitsandbytes_available, is_gguf_available, is_torchao_available

from distill.base.errors import UserError
from distill.recipe import WeightBits


def quantized_loading(quantization: str | None, dtype: torch.dtype) -> dict[str, Any]:
    """What `from_pretrained` takes to quantise the linear layers of a model, all but its output head.

    Args:
        quantization: `int8`, `nf4` or None.
        dtype: Number format of everything else, and of what is computed.

    Raises:
        UserError: bitsandbytes is missing.
    """
    if quantization is None:
        return {}
    if not is_bitsandbytes_available():
        raise UserError(
            f"teacher.quantization: {quantization} needs the package bitsandbytes; pip install 'distill[quantization]'"
        )
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # it says at every layer that it multiplies in 16 bits
    asked = (
        BitsAndBytesConfig(load_in_8bit=True)
        if quantization == "int8"
        else BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=dtype)
    )
    device = torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else torch.device("cpu")
    return {"quantization_config": asked, "device_map": {"": device}}


def check_quantized(path: str, model: PreTrainedModel) -> None:
    """Raises UserError if a model that was to be quantised as it was loaded has no layer that could be."""
    head = model.get_output_embeddings()
    layers = [m for m in model.modules() if isinstance(m, nn.Linear | Conv1D) and m is not head]
    if all(type(m) in (nn.Linear, Conv1D) for m in layers):  # those that are quantised have classes of their own
        raise UserError(f"teacher.quantization: none of the layers of {path} can be quantised; leave the key out")


def is_quantized(model: PreTrainedModel) -> bool:
    """Whether a model's weights are quantised: as it was loaded, or in its file."""
    return getattr(model, "hf_quantizer", None) is not None


_GROUP = 32  # Weights that share a scale in 4 or 3 bits, as in the files of llama.cpp.


def require_torchao(asked_by: str, kind: WeightBits) -> None:
    """Raises UserError where torchao is missing: so soon that nothing is trained or scored before.

    Args:
        asked_by: The key or option that asks for fewer bits, for the message.
        kind: What it asks for.
    """
    if not is_torchao_available():
        raise UserError(f"{asked_by}: {kind} needs the package torchao; pip install 'distill[quantization]'")


def quantize_weights(model: PreTrainedModel, kind: WeightBits, asked_by: str = "scores.quantize") -> PreTrainedModel:
    """Put the weights of a model's linear layers into fewer bits, in place, all but its output head; and return it.

    Weight-only: each weight is a whole number times a scale, and multiplies in the number format of what comes in.
    `int8`: a scale for each output, `int4` and `int3`: for each 32 weights of it, or for the output where that is no
    multiple; these are kept in a byte each where there is no kernel for them, which changes no value.

    Args:
        model: What is changed.
        kind: How many bits.
        asked_by: The key or option that asks for it, for messages.

    Raises:
        UserError: torchao is missing, the model is quantised already, or has no linear layer.
    """
    require_torchao(asked_by, kind)
    if is_quantized(model):
        raise UserError(f"{asked_by}: {kind} is asked for a model that is in fewer bits already; leave the key out")
    with quiet_logs():  # it tells of kernels that this machine has no use for
        from torchao.quantization import Int8WeightOnlyConfig, IntxWeightOnlyConfig, PerAxis, PerGroup, quantize_

    head = model.get_output_embeddings()
    _conv1d_as_linear(model)
    layers = [module for module in model.modules() if isinstance(module, nn.Linear) and module is not head]
    chosen = {id(layer) for layer in layers}
    if not layers:
        raise UserError(f"{asked_by}: {type(model).__name__} has no linear layer to quantise; leave the key out")
    if kind == "int8":
        quantize_(model, Int8WeightOnlyConfig(), lambda module, _: id(module) in chosen)
        return model
    for layer in layers:
        whole = layer.in_features % _GROUP == 0
        granularity = PerGroup(_GROUP) if whole else PerAxis(0)
        quantize_(layer, IntxWeightOnlyConfig(getattr(torch, kind), granularity))
    return model


def _conv1d_as_linear(model: PreTrainedModel) -> None:
    """Let the layers of GPT-2 be linear ones, which compute the same from a transposed weight."""
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, Conv1D):
                linear = nn.Linear(child.nx, child.nf, device="meta")
                linear.weight = nn.Parameter(child.weight.detach().T.contiguous(), requires_grad=False)
                linear.bias = child.bias
                setattr(module, name, linear)


@contextmanager
def quiet_logs() -> Iterator[None]:
    """No log below an error, of whatever logger."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)


def gguf_loading(path: str, file: str) -> dict[str, Any]:
    """What `from_pretrained` takes to read a GGUF file of a folder or hub id.

    Raises:
        UserError: gguf is missing, or the file (that of a hub id shows later).
    """
    _require_gguf(path, file)
    # Newer versions leave the weights packed where they have kernels for that, in the head too.
    settings = getattr(transformers, "GgufConfig", None)
    return {"gguf_file": file} | ({"quantization_config": settings(dequantize=True)} if settings else {})


def gguf_config(path: str, file: str, **hub: Any) -> PretrainedConfig:
    """The configuration of the model in a GGUF file, from the file alone.

    transformers calls two settings of a GPT-2 by names that its class does not have, and leaves that class's own
    values in their place: 1,024 positions, an inner layer four times as wide. The file has both.

    Args:
        path: A folder or hub id.
        file: Its name there.
        hub: `revision`.
    """
    config = AutoConfig.from_pretrained(path, gguf_file=file, **hub)
    if config.model_type == "gpt2":
        for name, own in (("n_ctx", "n_positions"), ("feed_forward_length", "n_inner")):
            if (value := vars(config).pop(name, None)) is not None:
                setattr(config, own, value)
    return config


def forget_gguf(model: PreTrainedModel) -> None:
    """Let a model that was read from a GGUF file be what its weights are: plain."""
    vars(model.config).pop("quantization_config", None)
    for name in ("hf_quantizer", "is_quantized", "quantization_method"):
        vars(model).pop(name, None)


def _require_gguf(path: str, file: str) -> None:
    if not is_gguf_available():
        raise UserError(f"teacher.gguf_file: {file} needs the package gguf; pip install 'distill[quantization]'")
    folder = Path(path)
    if folder.is_file():
        raise UserError(
            f"teacher.path: {path} is a file; give its folder, and its name in teacher.gguf_file if it is GGUF"
        )
    if folder.is_dir() and not (folder / file).is_file():
        there = sorted(p.name for p in folder.glob("*.gguf"))
        raise UserError(f"teacher.gguf_file: {folder} holds no {file}; it holds {', '.join(there) or 'no GGUF file'}")
