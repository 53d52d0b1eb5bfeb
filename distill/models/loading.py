"""A folder or hub id -> model and tokenizer, whole, or one sentence that says what is wrong with it."""

import copy
import json
import re
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import HfApi, constants, try_to_load_from_cache
from huggingface_hub.errors import HfHubHTTPError, RepositoryNotFoundError
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import cached_file

from distill.base.console import say
from distill.base.errors import UserError, first_line, hub_hint
from distill.base.files import DEMO_TEACHER
from distill.models.adapters import adapter_folder, base_of, merged, require_peft
from distill.models.architecture import (
    check_head,
    check_vocabulary,
    keep_weights_whole,
    set_attention,
    tell_own_head,
    without_warnings,
)
from distill.models.probe import behaviour
from distill.models.quantization import check_quantized, forget_gguf, gguf_config, gguf_loading, quantized_loading
from distill.recipe import TeacherConfig

_SECONDS_TO_ANSWER = 10.0  # for the hub
_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")
_TAKE_PICKLE = (
    "convert it to safetensors, or set teacher.allow_pickle (student.allow_pickle for a student) to true if you trust "
    "its source"
)
# Causal masks and the number that fills them, which older versions of transformers wrote beside the weights of these.
_OLD_MASK = re.compile(r"\.(attn|attention)\.(bias|masked_bias|causal_mask)$")
_WITH_OLD_MASKS = ("codegen", "gpt2", "gpt_neo", "gptj", "openai-gpt")


def load_tokenizer(
    path: str, trust_remote_code: bool = False, gguf_file: str | None = None, **hub: Any
) -> PreTrainedTokenizerBase:
    """The fast tokenizer of a folder or hub id; of an adapter without one, that of its base.

    Args:
        path: `demo`, a folder, a hub id or a GGUF file.
        trust_remote_code: Run code that comes with it.
        gguf_file: Read from this file, unless the folder has a tokenizer beside it.
        hub: `revision`.

    Raises:
        UserError: there is none, it is a slow one, which gives no character offsets, or it brings code of its own.
    """
    path, gguf_file = _placed(path, gguf_file)
    files = ("tokenizer.json", "vocab.json", "tokenizer.model", "spiece.model", "vocab.txt")
    beside = any((Path(path) / name).exists() for name in files)
    from_file = {"gguf_file": gguf_file} if gguf_file and not beside else {}
    if Path(path).is_dir() and not beside and not gguf_file:
        if adapter := adapter_folder(path):
            return _tokenizer_of_base(adapter, trust_remote_code)
        # transformers would make an empty one up.
        raise UserError(f"{path}: holds no tokenizer; a file tokenizer.json is expected beside the model")
    try:
        tokenizer = AutoTokenizer.from_pretrained(path, trust_remote_code=trust_remote_code, **from_file, **hub)
    except Exception as error:  # damaged files raise many kinds
        _refuse_remote_code(path, error)
        if not Path(path).exists() and (adapter := adapter_folder(path, **hub)):
            return _tokenizer_of_base(adapter, trust_remote_code)
        read = str(Path(path, gguf_file)) if from_file and gguf_file else path
        raise UserError(f"{read}: no tokenizer can be loaded from it: {_reason(read, error)}") from None
    if not tokenizer.is_fast:
        raise UserError(f"{path}: its tokenizer gives no character offsets; a fast one (tokenizer.json) is needed")
    return tokenizer


def _tokenizer_of_base(adapter: Path, trust_remote_code: bool) -> PreTrainedTokenizerBase:
    base, of_base = base_of(adapter)
    return load_tokenizer(base, trust_remote_code, **of_base)


def load_model(
    path: str, dtype: str = "float32", trust_remote_code: bool = False, allow_pickle: bool = False, **hub: Any
) -> PreTrainedModel:
    """A causal language model of a folder or hub id, in eval mode, from safetensors.

    Where that is an adapter, it is merged into its base, see `adapters.merged`.

    Args:
        path: `demo`, a folder, a hub id or a GGUF file.
        dtype: Number format of the weights.
        trust_remote_code: Run code that comes with it.
        allow_pickle: Take a pickle where there are no safetensors. torch then still reads nothing but tensors from it.
        hub: `revision`; `quantization` and `gguf_file` as in a recipe.

    Raises:
        UserError: the folder is missing or has no weights, the hub id cannot be had (offline, misspelt, private), it
            brings code of its own or a pickle that was not allowed, its weights are not those of its configuration, or
            it is not causal.
    """
    folder, file = gguf_in(path)
    model = _read_model(folder, dtype, trust_remote_code, allow_pickle, **({"gguf_file": file} if file else {}) | hub)
    behaviour(model, path)
    return model


def load_config(
    path: str, trust_remote_code: bool = False, gguf_file: str | None = None, **hub: Any
) -> PretrainedConfig:
    """The configuration of a model, without its weights; of an adapter, that of its base.

    Args:
        path: `demo`, a folder, a hub id or a GGUF file.
        trust_remote_code: Run code that comes with it.
        gguf_file: Read from this file in `path`.
        hub: `revision`.

    Raises:
        Exception: of many kinds, for code that is not trusted, or a mistake: whoever loads the model tells.
    """
    path, gguf_file = _placed(path, gguf_file)
    if gguf_file:
        return gguf_config(path, gguf_file, **hub)
    if adapter := adapter_folder(path, **hub):
        base, of_base = base_of(adapter)
        return load_config(base, trust_remote_code, **of_base)
    # Left open, transformers would ask the user whether to run the code.
    return AutoConfig.from_pretrained(path, trust_remote_code=trust_remote_code, **hub)


def in_format(model: PreTrainedModel, dtype: torch.dtype) -> PreTrainedModel:
    """A copy of a model in another number format, as if it had been loaded in that one.

    It is made anew, so that buffers that are in no file (rotary frequencies, masks) have the format that the model's
    class gives them; what transformers keeps in float32 whatever it is asked for stays so.
    """
    with torch.device(model.device):
        other = type(model)._from_config(copy.deepcopy(model.config), dtype=dtype)
    kept = [re.compile(rf"(^|\.){part}($|\.)") for part in model._keep_in_fp32_modules_strict or ()]
    tensors = model.state_dict()
    for name, twin in other.state_dict(keep_vars=True).items():
        if any(part.search(name) for part in kept):
            twin.data = twin.data.to(tensors[name].dtype)
    other.load_state_dict(tensors)
    for buffer, twin in zip(model.buffers(), other.buffers(), strict=True):
        twin.data.copy_(buffer)
    return other.train(model.training)


def _placed(path: str, gguf_file: str | None) -> tuple[str, str | None]:
    """The folder or hub id of a model, and the GGUF file there, which the path may lead to itself.

    Raises:
        UserError: see `model_source`.
    """
    path, gguf_file = (path, gguf_file) if gguf_file else gguf_in(path)
    return model_source(path), gguf_file


def gguf_in(path: str) -> tuple[str, str | None]:
    """The folder and the name of a GGUF file; of another path itself and None."""
    file = Path(path)
    return (str(file.parent), file.name) if file.suffix == ".gguf" and file.is_file() else (path, None)


def _read_model(
    path: str,
    dtype: str,
    trust_remote_code: bool,
    allow_pickle: bool,
    quantization: str | None = None,
    gguf_file: str | None = None,
    **hub: Any,
) -> PreTrainedModel:
    """See `load_model`."""
    path = model_source(path)
    if adapter := adapter_folder(path, **hub):
        if quantization or gguf_file:
            raise UserError(
                f"{path}: is an adapter, which is merged into its base, and quantised weights cannot take it; leave "
                "teacher.quantization and gguf_file out, or merge it yourself"
            )
        base, of_base = base_of(adapter)
        require_peft(path)
        model = merged(load_model(base, dtype, trust_remote_code, allow_pickle, **of_base), adapter)
        tell_own_head(model)  # it may bring one
        return model.eval()
    number_format = getattr(torch, dtype)
    read = str(Path(path, gguf_file)) if gguf_file else path
    if gguf_file:
        small = gguf_loading(path, gguf_file)
    else:
        _check_folder(path, allow_pickle)
        small = quantized_loading(quantization, number_format)
    try:
        with without_warnings():
            if gguf_file:  # else transformers reads one that may be of other shapes than the weights
                small["config"] = gguf_config(path, gguf_file, **hub)
            model, report = AutoModelForCausalLM.from_pretrained(
                path,
                dtype=number_format,
                use_safetensors=None if allow_pickle or gguf_file else True,
                trust_remote_code=trust_remote_code,
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # told below, with the others
                **small,
                **hub,
            )
    except Exception as error:  # damaged files raise many kinds
        _refuse_remote_code(path, error)
        if "use_safetensors" in str(error):  # of a hub id; see `_check_folder` for folders
            raise UserError(f"{path}: holds no safetensors, and a pickle is not loaded; {_TAKE_PICKLE}") from None
        if isinstance(error, ImportError):
            raise UserError(f"{path}: needs a package that is not there: {first_line(error)}") from None
        raise UserError(f"{read}: no causal language model can be loaded from it: {_reason(read, error)}") from None
    _require_its_weights(read, model, report, gguf_file is not None)
    if quantization:
        check_quantized(path, model)
    if gguf_file:
        forget_gguf(model)
    tell_own_head(model)
    keep_weights_whole(model)
    model.config._commit_hash = commit_of(path, **hub)  # newer versions of transformers do not keep it
    return model.eval()


def check_weights(path: str, allow_pickle: bool = False) -> None:
    """Make sure that the folder of a model, or of an adapter over one, holds weights that may be loaded.

    A hub id, `demo` and a GGUF file are left to what loads them.

    Raises:
        UserError: it holds no configuration, no weights, or a pickle that was not allowed.
    """
    path, file = _placed(path, None)
    if file is not None or not Path(path).exists():
        return
    if adapter := adapter_folder(path):
        check_weights(base_of(adapter)[0], allow_pickle)
    else:
        _check_folder(path, allow_pickle)


def commit_of(path: str, revision: str | None = None) -> str | None:
    """The commit of a hub id, by the hub or where that is not there by its cache: of what is loaded; None for a folder.

    Args:
        path: A folder or hub id.
        revision: Branch, tag or commit; None: the main one.
    """
    if Path(path).exists():
        return None
    try:
        found = cached_file(path, "config.json", revision=revision)
    except Exception:  # of whatever library the hub's client asks with: told when it is loaded
        return None
    commit = re.search(r"/snapshots/([0-9a-f]{40})/", Path(found).as_posix()) if found else None
    return commit[1] if commit else None


def load_teacher(config: TeacherConfig) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The frozen teacher and its tokenizer.

    Raises:
        UserError: see `load_frozen`; or the loss cannot read its output head.
    """
    model, tokenizer = load_frozen(config)
    check_head(str(config.path), model)
    return model, tokenizer


def load_frozen(config: TeacherConfig) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """`load_configured`, of a model that knows all tokens of its tokenizer.

    Raises:
        UserError: see there; or the tokenizer has more tokens than the model.
    """
    model, tokenizer = load_configured(config)
    check_vocabulary(str(config.path), tokenizer, str(config.path), model)
    return model, tokenizer


def load_configured(config: TeacherConfig) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A model that only predicts, loaded as the recipe of a teacher says, and its tokenizer.

    Raises:
        UserError: see `load_model` and `load_tokenizer`.
    """
    assert config.path is not None  # nothing is loaded without a teacher
    small = {"quantization": config.quantization, "gguf_file": config.gguf_file}
    model = _read_model(
        config.path, config.loaded_in, config.trust_remote_code, config.allow_pickle, **small, **config.hub
    )
    set_attention(model, config.attention, "teacher.attention")
    behaviour(model, config.path)  # may differ with the attention
    tokenizer = load_tokenizer(config.path, config.trust_remote_code, config.gguf_file, **config.hub)
    model.requires_grad_(False)
    return model, tokenizer


def labelled(checkpoints: Sequence[str]) -> dict[str, str]:
    """Label -> checkpoint: the last part of its path where that tells them apart, else all of it."""
    short = {Path(checkpoint).name: checkpoint for checkpoint in checkpoints}
    return short if len(short) == len(set(checkpoints)) else {checkpoint: checkpoint for checkpoint in checkpoints}


def _require_its_weights(path: str, model: PreTrainedModel, report: Mapping[str, Any], in_gguf: bool) -> None:
    """Refuse weights that are not the model's: transformers would make up what is missing, at random.

    Args:
        path: For the message.
        model: As it was loaded.
        report: What `from_pretrained` says of it: names of weights that are missing, left over, or of another shape.
        in_gguf: The path is that of a GGUF file, which holds the configuration too.

    Raises:
        UserError: names the first such weight.
    """
    missing, left_over = sorted(report["missing_keys"]), sorted(report["unexpected_keys"])
    if model.config.model_type in _WITH_OLD_MASKS:
        left_over = [name for name in left_over if not _OLD_MASK.search(name)]
    other_shapes = sorted(report["mismatched_keys"])
    kind = type(model).__name__
    again = (
        "Convert the model to GGUF again"
        if in_gguf
        else "Save the model again with save_pretrained, under the names that it has without wrappers "
        "(torch.compile, DDP)"
    )
    if missing:
        found = f"; it holds others, {left_over[0]} first" if left_over else ""
        raise UserError(
            f"{path}: {len(missing)} of the weights of a {kind} are missing, {missing[0]} first{found}; they would be "
            f"random numbers. {again}"
        )
    if other_shapes:
        name, in_file, wanted = other_shapes[0]
        shapes = f"{name} is of shape {tuple(in_file)} in the file, but {tuple(wanted)} by"
        if in_gguf:
            raise UserError(f"{path}: {shapes} the settings in that file. {again}")
        raise UserError(f"{path}: {shapes} config.json; the two are not of one model")
    if left_over:
        other = (
            "its settings are another model's"
            if in_gguf
            else "it is the folder of another kind of model, or its config.json is another model's"
        )
        raise UserError(
            f"{path}: holds {len(left_over)} weights that a {kind} does not have, {left_over[0]} first; {other}"
        )


def model_source(path: str) -> str:
    """The folder or hub id that `path` names. Raises UserError where it can be neither."""
    if path == "demo":
        return str(DEMO_TEACHER)
    if not Path(path).exists():
        if not re.fullmatch(r"[\w-][\w.-]*(/[\w.-]+)?", path, re.ASCII):
            raise UserError(f"{path}: no such folder; give a model folder, a hub id or 'demo'")
        if not constants.HF_HUB_OFFLINE:
            _look_for(path)
    return path


@cache
def _look_for(name: str) -> None:
    """Ask the hub once for a model: transformers asks for one file after the other, and each of them for a minute.

    Raises:
        UserError: it is in no cache, and there is none of that name, or the hub does not answer.
    """
    files = ("config.json", "adapter_config.json", "tokenizer.json")
    if any(isinstance(try_to_load_from_cache(name, file), str) for file in files):
        return
    say(f"{name}: no such folder here; looking for it on the model hub")
    try:
        HfApi().model_info(name, timeout=_SECONDS_TO_ANSWER)
    except RepositoryNotFoundError:
        raise UserError(
            f"{name}: neither a folder here nor a model of the hub; check the name, and log in with `hf auth login` "
            "if it is a private one"
        ) from None
    except HfHubHTTPError:
        return  # the hub is there, and says more of each file
    except Exception as error:  # of whatever library the hub's client asks with
        raise UserError(
            f"{name}: no such folder, and the model hub does not answer ({first_line(error)}); {hub_hint()}"
        ) from None


def _refuse_remote_code(path: str, error: Exception) -> None:
    """Raises UserError if the error is that of a model or tokenizer whose code was not trusted."""
    if "trust_remote_code" in str(error):
        raise UserError(
            f"{path}: comes with code of its own, which is not run; read that code, and if you trust its source, set "
            "teacher.trust_remote_code (student.trust_remote_code for a student) to true; the "
            "other commands have the option --trust_remote_code"
        ) from None


def _check_folder(path: str, allow_pickle: bool) -> None:
    folder = Path(path)
    if not folder.exists():
        return
    if folder.is_file():
        raise UserError(f"{path}: is a file; give its folder, and in teacher.gguf_file its name if it is GGUF")
    if any((folder / name).exists() for name in ("adapter_config.json", "adapter_model.safetensors")):
        raise UserError(
            f"{path}: holds an adapter beside a model; put the adapter into a folder of its own "
            "to have both loaded, or merge it into its base with peft's merge_and_unload, save that, and give its "
            "folder"
        )
    if not (folder / "config.json").exists():
        of_run = folder / "student"
        if (of_run / "config.json").exists():
            raise UserError(f"{path}: holds no config.json; a run lies there: give {of_run}")
        raise UserError(f"{path}: holds no config.json; it is not the folder of a transformers model")
    pickles = _pickles_in_place_of_weights(folder)
    if not pickles and not any(folder.glob("*.safetensors")):
        if gguf := sorted(folder.glob("*.gguf")):
            raise UserError(f"{path}: its weights are in a GGUF file; give {gguf[0]}, or name it in teacher.gguf_file")
        raise UserError(f"{path}: holds no weights; a file model.safetensors is expected beside config.json")
    if pickles and not allow_pickle:
        raise UserError(f"{path}: its weights are a pickle ({pickles[0]}), which is not loaded; {_TAKE_PICKLE}")


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
    said = first_line(error)
    if Path(path).is_file():
        return f"{said}; it must be a whole GGUF file"
    if Path(path).is_dir():
        return f"{said}; it must be a whole folder of a transformers model"
    return f"there is no such folder, and of the model hub: {said}; {hub_hint()}"
