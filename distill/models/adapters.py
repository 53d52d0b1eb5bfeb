"""LoRA by peft (the extra `lora`): a base with an adapter is loaded, a student's adapter is made, saved and merged.

Whatever is loaded is merged into its base in memory, so that all that follows sees a plain model: its head, its layers,
its hash. Only the student in training has an adapter beside its base, whose weights stay as they are and may be the
teacher's own in memory.

Source: Hu et al. 2021, LoRA, arXiv 2106.09685.
"""

import copy
import json
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D
from transformers.utils import cached_file, is_peft_available

from distill.base.errors import UserError, first_line, suggestion
from distill.base.integrity import file_hash
from distill.models.quantization import is_quantized
from distill.recipe import LoraConfig

_SETTINGS, _WEIGHTS = "adapter_config.json", "adapter_model.safetensors"


def require_peft(asked_by: str) -> None:
    """Raises UserError where the package that adapters need is missing."""
    if not is_peft_available():
        raise UserError(f"{asked_by}: adapters need the package peft; pip install 'distill[lora]'")


# ---------------------------------------------------------------------------------------------------------- loading


def adapter_folder(path: str, **hub: Any) -> Path | None:
    """The folder of an adapter, fetched where `path` is a hub id; None where it holds none, or a model beside it.

    Args:
        path: A folder or hub id.
        hub: `revision`.

    Raises:
        UserError: its weights are a pickle, or missing.
    """
    if Path(path).exists():
        folder = Path(path)
        if not (folder / _SETTINGS).exists() or (folder / "config.json").exists():
            return None
    else:
        quiet = {"_raise_exceptions_for_missing_entries": False, "_raise_exceptions_for_connection_errors": False}
        found = _cached(path, _SETTINGS, **quiet, **hub)
        if found is None or _cached(path, "config.json", **quiet, **hub):
            return None
        folder = Path(found).parent
        _cached(path, _WEIGHTS, **quiet, **hub)
    if not (folder / _WEIGHTS).exists():
        raise UserError(f"{path}: holds {_SETTINGS}, but no {_WEIGHTS}; save the adapter again with save_pretrained")
    if others := sorted(file.name for file in folder.glob("*.safetensors") if file.name != _WEIGHTS):
        raise UserError(f"{path}: holds {others[0]} beside an adapter; put the adapter into a folder of its own")
    return folder


def _cached(path: str, name: str, **hub: Any) -> str | None:
    try:
        return cached_file(path, name, **hub)
    except OSError:  # no such repository, or none that can be had: told when the model itself is loaded
        return None


def base_of(folder: Path) -> tuple[str, dict[str, str]]:
    """The folder or hub id of the model that an adapter was made for, and its `revision`, where that is told.

    A relative folder counts from where the command runs, as to peft, else from the adapter's own folder.

    Raises:
        UserError: the adapter's settings name none, or one that is not there.
    """
    try:
        settings = json.loads((folder / _SETTINGS).read_text(encoding="utf-8"))
        base, revision = settings.get("base_model_name_or_path"), settings.get("revision")
    except (OSError, ValueError, AttributeError):
        raise UserError(f"{folder / _SETTINGS}: is damaged; save the adapter again") from None
    if not isinstance(base, str) or not base:
        raise UserError(f"{folder / _SETTINGS}: names no base_model_name_or_path; add the model that it adapts")
    for place in (Path(base), folder / base):
        if place.exists():
            if place.resolve() == folder.resolve():
                raise UserError(f"{folder / _SETTINGS}: names its own folder as its base; name another model")
            return str(place), {}
    if base.startswith((".", "/", "~")) or base.count("/") > 1:
        raise UserError(f"{folder}: is an adapter of {base}, which is not there; set its base_model_name_or_path")
    return base, {"revision": revision} if revision else {}


def merged(base: PreTrainedModel, folder: Path) -> PreTrainedModel:
    """The base with an adapter merged into its weights.

    Args:
        base: The model that the adapter was made for; changed in place.
        folder: Of the adapter.

    Raises:
        UserError: peft is missing, the adapter does not fit, is of a kind that cannot be merged, or lacks weights.
    """
    require_peft(str(folder))
    if is_quantized(base):
        raise UserError(
            f"{folder}: is an adapter of {base.name_or_path}, which is quantised and cannot take it; merge it"
        )
    from peft import PeftModel, get_peft_model_state_dict
    from peft.tuners.tuners_utils import BaseTunerLayer
    from safetensors import safe_open

    try:
        with warnings.catch_warnings(action="ignore"):  # weights that are missing are told below
            model = PeftModel.from_pretrained(base, str(folder))
            with safe_open(folder / _WEIGHTS, "pt") as weights:
                there = set(weights.keys())
            wanted = set(get_peft_model_state_dict(model))
            for module in (base.get_output_embeddings(), base.get_input_embeddings()):
                if isinstance(module, BaseTunerLayer):  # what is merged into a tied matrix would be in both
                    layer = module.get_base_layer()
                    layer.weight = nn.Parameter(layer.weight.detach().clone())
            whole = model.merge_and_unload()
    except Exception as error:  # peft raises many kinds
        raise UserError(
            f"{folder}: its adapter cannot be merged into {base.name_or_path}: {first_line(error)}; it must be a LoRA "
            "adapter, or another that peft can merge, of just that model"
        ) from None
    if odd := sorted(wanted - there) or sorted(there - wanted):
        lacks = "lacks" if wanted - there else "holds others than"
        raise UserError(
            f"{folder}: {lacks} weights of an adapter of {base.name_or_path}, {odd[0]} first; save it again"
        )
    whole.requires_grad_(True)
    whole.adapter_merged_from = str(folder)
    return whole


# --------------------------------------------------------------------------------------------------------- training


def adapter_hash(model: PreTrainedModel) -> str | None:
    """SHA-256 of the file of the adapter that `merged` has put into a model; None of another model.

    The merged weights themselves come from a product, whose last digits another machine may have otherwise.
    """
    folder = getattr(model, "adapter_merged_from", None)
    return file_hash(Path(folder) / _WEIGHTS) if folder else None


def sharing(model: PreTrainedModel) -> PreTrainedModel:
    """A second model with the very weights of this one: the same memory, modules of its own."""
    shared: dict[int, Any] = {id(weight): weight for weight in model.parameters()}
    return copy.deepcopy(model, shared)


def has_adapter(model: nn.Module) -> bool:
    """Whether `add_adapter` has been here."""
    return bool(getattr(model, "_hf_peft_config_loaded", False))


def add_adapter(student: PreTrainedModel, settings: LoraConfig) -> None:
    """Give a student an adapter, in place: nothing else of it is trainable then, and it predicts as before.

    Args:
        student: The base.
        settings: `student.lora` of a recipe.

    Raises:
        UserError: peft is missing; layers are named that are not there, or the embeddings or the output head, whose
            weights the loss reads; or the base could not be found again when the adapter is loaded.
    """
    require_peft("student.lora")
    from peft import LoraConfig as PeftLoraConfig
    from peft.tuners.tuners_utils import BaseTunerLayer

    merged_from = getattr(student, "adapter_merged_from", None)
    if merged_from and not settings.merge:
        raise UserError(
            f"student.lora: its base is itself made with an adapter ({merged_from}), so that no folder holds it; set "
            "student.lora.merge to true, or save the merged base and name its folder"
        )
    targets = settings.targets if settings.targets is not None else "all-linear"
    asked = PeftLoraConfig(
        r=settings.r,
        lora_alpha=settings.alpha if settings.alpha is not None else 2 * settings.r,
        lora_dropout=settings.dropout,
        target_modules=targets,
        fan_in_fan_out=any(isinstance(module, Conv1D) for module in student.modules()),
        task_type="CAUSAL_LM",
    )
    layers = [name for name, module in student.named_modules() if isinstance(module, _ADAPTABLE)]
    names = {name.rpartition(".")[2] for name in layers}
    # As peft does: a layer's whole name, or the end of it.
    if unknown := [t for t in settings.targets or [] if not any(f".{name}".endswith(f".{t}") for name in layers)]:
        raise UserError(f"student.lora.targets: no layer is called '{unknown[0]}'; {suggestion(unknown[0], names)}")
    try:
        with warnings.catch_warnings(action="ignore"):  # of layers that both kinds of linear modules could be meant by
            student.add_adapter(asked)
    except (ValueError, TypeError, NotImplementedError) as error:
        raise UserError(f"student.lora: {first_line(error)}; see student.lora.targets") from None
    for weight in student.parameters():
        if weight.requires_grad:  # made in the base's number format; 16 bits would lose small updates
            weight.data = weight.data.float()
    for module in (student.get_output_embeddings(), student.get_input_embeddings()):
        if isinstance(module, BaseTunerLayer):
            raise UserError(
                "student.lora.targets: names the embeddings or the output head, whose weights the loss reads; leave "
                "them out"
            )


_ADAPTABLE = (nn.Linear, Conv1D, nn.Embedding)


def trainable_state(model: nn.Module) -> dict[str, torch.Tensor]:
    """Name -> weight of what is trained: all that a checkpoint of an adapter needs."""
    return {name: weight.detach() for name, weight in model.named_parameters() if weight.requires_grad}


# ----------------------------------------------------------------------------------------------------------- saving


def save_adapter(student: PreTrainedModel, folder: Path, dtype: torch.dtype, merge: bool, left_out: str = "") -> None:
    """Write a trained student, as an adapter or with it merged into a copy of its base.

    An adapter names its base by an absolute folder, or by hub id and commit, so that it loads from anywhere.

    Args:
        student: With an adapter; stays as it is.
        folder: To write into.
        dtype: Number format of the file.
        merge: Write a whole model that needs no peft.
        left_out: Name of a module beside the model's own, which training alone needs.
    """
    if merge:
        whole = _merged_copy(student).to(dtype)
        whole._modules.pop(left_out, None)
        whole.save_pretrained(folder)
        return
    settings = next(iter(student.peft_config.values()))
    base = student.config._name_or_path
    settings.base_model_name_or_path = str(Path(base).resolve()) if Path(base).exists() else base
    settings.revision = getattr(student.config, "_commit_hash", None)
    settings.inference_mode = True
    state = {name: weight.to(dtype) for name, weight in trainable_state(student).items() if "lora_" in name}
    # peft looks whether the base's vocabulary was changed, which it never is here.
    with warnings.catch_warnings(action="ignore"):
        student.save_pretrained(folder, state_dict=state)


def _merged_copy(student: PreTrainedModel) -> PreTrainedModel:
    """On the processor, as a plain model of its class."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    on_processor: dict[int, Any] = {  # in float32, so that the sum is rounded once
        id(weight): nn.Parameter(weight.detach().cpu().to(torch.float32, copy=True), requires_grad=False)
        for weight in student.parameters()
    }
    forward = student.__dict__.pop("forward", None)  # the one with the loss, which belongs to the student alone
    whole = copy.deepcopy(student, on_processor)
    if forward is not None:
        student.forward = forward
    for name, module in list(whole.named_modules()):
        if isinstance(module, BaseTunerLayer):
            module.merge()
            parent, _, own = name.rpartition(".")
            setattr(whole.get_submodule(parent), own, module.get_base_layer())
    del whole.peft_config
    whole._hf_peft_config_loaded = False
    return whole
