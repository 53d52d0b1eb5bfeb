"""Load the teacher, make the student. The only file that knows architectures."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from distill.base.errors import UserError, first_line, hub_hint
from distill.base.files import DEMO_TEACHER
from distill.models.architecture import check_head, check_vocabulary, set_attention
from distill.recipe import TeacherConfig

_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")


def load_tokenizer(path: str, trust_remote_code: bool = False, **hub: Any) -> PreTrainedTokenizerBase:
    """The fast tokenizer of a folder or hub id.

    Args:
        path: `demo`, a folder or a hub id.
        trust_remote_code: Run code that comes with it.
        hub: `revision`.

    Raises:
        UserError: there is none, it is a slow one, which gives no character offsets, or it brings code of its own.
    """
    path = _resolve(path)
    files = ("tokenizer.json", "vocab.json", "tokenizer.model", "spiece.model", "vocab.txt")
    if Path(path).is_dir() and not any((Path(path) / name).exists() for name in files):
        # transformers would make an empty one up.
        raise UserError(f"{path}: holds no tokenizer; a file tokenizer.json is expected beside the model")
    try:
        tokenizer = AutoTokenizer.from_pretrained(path, trust_remote_code=trust_remote_code, **hub)
    except Exception as error:  # damaged files raise many kinds
        _refuse_remote_code(path, error)
        raise UserError(f"{path}: no tokenizer can be loaded from it: {_reason(path, error)}") from None
    if not tokenizer.is_fast:
        raise UserError(f"{path}: its tokenizer gives no character offsets; a fast one (tokenizer.json) is needed")
    return tokenizer


def load_model(
    path: str, dtype: str = "float32", trust_remote_code: bool = False, allow_pickle: bool = False, **hub: Any
) -> PreTrainedModel:
    """A causal language model of a folder or hub id, in eval mode, from safetensors.

    Args:
        path: `demo`, a folder or a hub id.
        dtype: Number format of the weights.
        trust_remote_code: Run code that comes with it.
        allow_pickle: Take a pickle where there are no safetensors. torch then still reads nothing but tensors from it.
        hub: `revision`.

    Raises:
        UserError: the folder is missing or has no weights, the hub id cannot be had (offline, misspelt, private), or it
            brings code of its own or a pickle that was not allowed.
    """
    path = _resolve(path)
    _check_folder(path, allow_pickle)
    try:
        model = AutoModelForCausalLM.from_pretrained(
            path,
            dtype=getattr(torch, dtype),
            use_safetensors=None if allow_pickle else True,
            trust_remote_code=trust_remote_code,
            **hub,
        )
    except Exception as error:  # damaged files raise many kinds
        _refuse_remote_code(path, error)
        raise UserError(f"{path}: no causal language model can be loaded from it: {_reason(path, error)}") from None
    return model.eval()


def load_teacher(config: TeacherConfig) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The frozen teacher and its tokenizer.

    Raises:
        UserError: see `load_model` and `load_tokenizer`.
    """
    assert config.path is not None  # nothing is loaded without a teacher
    hub = {"revision": config.revision} if config.revision else {}
    model = load_model(config.path, config.dtype, config.trust_remote_code, config.allow_pickle, **hub)
    set_attention(model, config.attention, "teacher.attention")
    tokenizer = load_tokenizer(config.path, config.trust_remote_code, **hub)
    model.requires_grad_(False)
    check_vocabulary(config.path, tokenizer, config.path, model)
    check_head(config.path, model)
    return model, tokenizer


def labelled(checkpoints: Sequence[str]) -> dict[str, str]:
    """Label -> checkpoint: the last part of its path where that tells them apart, else all of it."""
    short = {Path(checkpoint).name: checkpoint for checkpoint in checkpoints}
    return short if len(short) == len(set(checkpoints)) else {checkpoint: checkpoint for checkpoint in checkpoints}


def _resolve(path: str) -> str:
    return str(DEMO_TEACHER) if path == "demo" else path


def _refuse_remote_code(path: str, error: Exception) -> None:
    """Raises UserError if the error is that of a model or tokenizer whose code was not trusted."""
    if "trust_remote_code" in str(error):
        raise UserError(
            f"{path}: comes with code of its own, which is not run; read that code, and if you trust its source, set "
            "teacher.trust_remote_code (student.trust_remote_code for a student) to true"
        ) from None


def _check_folder(path: str, allow_pickle: bool) -> None:
    folder = Path(path)
    looks_local = path.startswith((".", "/", "~")) or path.count("/") > 1
    if not folder.exists():
        if looks_local:
            raise UserError(f"{path}: no such folder; give a model folder, a hub id or 'demo'")
        return
    if not (folder / "config.json").exists():
        raise UserError(f"{path}: holds no config.json; it is not the folder of a transformers model")
    pickles = _pickles_in_place_of_weights(folder)
    if not pickles and not any(folder.glob("*.safetensors")):
        raise UserError(f"{path}: holds no weights; a file model.safetensors is expected beside config.json")
    if pickles and not allow_pickle:
        raise UserError(
            f"{path}: its weights are a pickle ({pickles[0]}), which is not loaded; convert it to safetensors, or "
            "set teacher.allow_pickle (student.allow_pickle for a student) to true if you trust its source"
        )


def _pickles_in_place_of_weights(folder: Path) -> list[str]:
    """Pickles where there are no safetensors, or that the index of the safetensors names as parts of them."""
    index = folder / "model.safetensors.index.json"
    if index.exists():
        try:
            parts = json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()
        except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
            raise UserError(f"{index}: is damaged; download the model again") from None
        return [str(part) for part in parts if not str(part).endswith(".safetensors")]
    if any(folder.glob("*.safetensors")):
        return []
    return sorted(file.name for ending in _PICKLES for file in folder.glob(f"*{ending}"))


def _reason(path: str, error: Exception) -> str:
    hint = "it must be a whole folder of a transformers model" if Path(path).is_dir() else hub_hint()
    return f"{first_line(error)}; {hint}"
