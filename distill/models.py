"""Load the teacher, make the student. The only file that knows architectures."""

import copy
import hashlib
import json
from collections.abc import Callable, Iterable
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)

from distill.errors import UserError, hub_hint, suggestion
from distill.recipe import StudentConfig, TeacherConfig
from distill.run_folder import is_finished, write_folder

DEMO_TEACHER = Path(__file__).parent / "assets" / "demo-teacher"
_END_OF_TEXT = "<|endoftext|>"
_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")
_TOKENIZER_DOCUMENTS = 50_000  # enough to learn the merges of a small vocabulary from


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
    _set_attention(model, config.attention, "teacher.attention")
    tokenizer = load_tokenizer(config.path, config.trust_remote_code, **hub)
    model.requires_grad_(False)
    _check_vocabulary(config.path, tokenizer, config.path, model)
    _check_head(config.path, model)
    return model, tokenizer


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
    return f"{_first_line(error)}; {hint}"


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")


def special_tokens(tokenizer: PreTrainedTokenizerBase) -> tuple[int, int]:
    """(start, end): the token every document begins with and the one that follows its last.

    The start is the tokenizer's bos, else its eos (as GPT-2 was trained); the end is its eos, else its bos.

    Raises:
        UserError: the tokenizer has neither.
    """
    bos, eos = tokenizer.bos_token_id, tokenizer.eos_token_id
    if bos is None and eos is None:
        raise UserError(f"{tokenizer.name_or_path}: its tokenizer has neither a bos nor an eos token; add one of them")
    return (bos if bos is not None else eos), (eos if eos is not None else bos)


def train_tokenizer(documents: Iterable[str], vocab_size: int) -> PreTrainedTokenizerBase:
    """A byte-level BPE tokenizer in the manner of GPT-2 (Radford et al. 2019), one token for start and end.

    Args:
        documents: Text to learn the merges from.
        vocab_size: Entries, the 256 bytes and the special token included.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[_END_OF_TEXT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(documents, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=backend, bos_token=_END_OF_TEXT, eos_token=_END_OF_TEXT)


def student_tokenizer(
    config: StudentConfig, documents: Callable[[], Iterable[str]], corpus_key: str, cache_dir: Path
) -> PreTrainedTokenizerBase:
    """The tokenizer of a student without a teacher: loaded, or trained on the corpus and kept in the cache."""
    if config.tokenizer != "train":
        path = config.tokenizer or config.path
        if path is None:
            raise UserError("student.tokenizer is missing; without a teacher, name a folder or hub id, or train")
        return load_tokenizer(path, config.trust_remote_code)
    folder = cache_dir / f"tokenizer-{corpus_key}-{config.vocab_size}"
    if not is_finished(folder):
        tokenizer = train_tokenizer(islice(documents(), _TOKENIZER_DOCUMENTS), config.vocab_size)
        if not is_finished(folder):  # another run with the same cache may have been quicker
            write_folder(folder, tokenizer.save_pretrained)
    return load_tokenizer(str(folder))


def make_student(
    config: StudentConfig, teacher: PreTrainedModel | None, tokenizer: PreTrainedTokenizerBase, teacher_name: str | None
) -> PreTrainedModel:
    """The student, float32 and trainable.

    Args:
        config: Where its weights come from.
        teacher: Needed for `init: layers`; checked against the student's vocabulary otherwise.
        tokenizer: The tokenizer that both share.
        teacher_name: For messages.

    Raises:
        UserError: layers that the teacher does not have, an unknown architecture or key, or another vocabulary.
    """
    if config.init == "layers":
        student = student_from_layers(teacher, chosen_layers(config, teacher))
        name = f"student of {teacher_name}"
    elif config.init == "config":
        student, name = _student_from_config(config, tokenizer), "student.config"
    else:
        assert config.path is not None  # `check_recipe` asks for it
        trusted: dict[str, Any] = {"trust_remote_code": config.trust_remote_code}
        student, name = load_model(config.path, allow_pickle=config.allow_pickle, **trusted), config.path
        if teacher is not None:
            _same_tokens(load_tokenizer(config.path, **trusted), config.path, tokenizer, teacher_name)
    _check_vocabulary(tokenizer.name_or_path, tokenizer, name, student)
    if teacher is not None:
        ours, theirs = _vocab_rows(student), _vocab_rows(teacher)
        if ours != theirs:
            raise UserError(
                f"vocabularies differ: teacher {teacher_name} has {theirs} entries, student {name} has {ours}; "
                "a student must share its teacher's tokenizer"
            )
    _set_attention(student, config.attention, "student.attention")
    _check_head(name, student)
    start, end = special_tokens(tokenizer)
    student.generation_config.bos_token_id, student.generation_config.eos_token_id = start, end
    if student.generation_config.pad_token_id is None:
        student.generation_config.pad_token_id = end
    return student.requires_grad_(True)


def _set_attention(model: PreTrainedModel, name: str | None, key: str) -> None:
    if name is None:
        return
    try:
        model.set_attn_implementation(name)
    except (ValueError, ImportError, OSError) as error:
        raise UserError(f"{key}: {name}: {_first_line(error)}; sdpa and eager need no further package") from None
    if model.config._attn_implementation != name:
        raise UserError(f"{key}: {type(model).__name__} has no '{name}'; leave the key out for its own choice")


def _student_from_config(config: StudentConfig, tokenizer: PreTrainedTokenizerBase) -> PreTrainedModel:
    keys = dict(config.config)
    model_type = keys.pop("model_type")
    start, end = special_tokens(tokenizer)
    keys = {"vocab_size": len(tokenizer), "bos_token_id": start, "eos_token_id": end, **keys}
    try:
        model_config = AutoConfig.for_model(model_type, **keys)
    except (ValueError, TypeError) as error:
        raise UserError(f"student.config: {_first_line(error)}") from None
    unknown = [key for key in keys if not hasattr(type(model_config)(), key)]
    if unknown:
        known = sorted(type(model_config)().to_dict())
        raise UserError(f"student.config: {model_type} has no key '{unknown[0]}'; {suggestion(unknown[0], known)}")
    return AutoModelForCausalLM.from_config(model_config, dtype=torch.float32, trust_remote_code=False)


def decoder_layers(model: PreTrainedModel) -> tuple[str, nn.ModuleList]:
    """(name, list) of the model's transformer layers: its one ModuleList as long as the configuration says.

    Raises:
        UserError: there is no such list, or more than one.
    """
    depth = model.config.get_text_config().num_hidden_layers
    found = [(n, m) for n, m in model.named_modules() if isinstance(m, nn.ModuleList) and len(m) == depth]
    outermost = [(n, m) for n, m in found if not any(n.startswith(f"{other}.") for other, _ in found if other != n)]
    if len(outermost) != 1:
        raise UserError(
            f"{type(model).__name__}: its {depth} layers cannot be told apart from other lists; "
            "use student.init: checkpoint with a student of your own"
        )
    return outermost[0]


def shard_layers(model: PreTrainedModel) -> None:
    """Share the weights of a model's layers among all processes, in place; each is whole only while it runs (FSDP2).

    Whatever stands outside the layers (embeddings, last norm, output head) stays whole in every process, so that
    `head` may be read at any time. All processes must run the model equally often.
    """
    mesh = init_device_mesh(model.device.type, (torch.distributed.get_world_size(),))
    layers = decoder_layers(model)[1]
    outside = set(model.parameters()) - set(layers.parameters())
    for layer in layers:
        fully_shard(layer, mesh=mesh)
    fully_shard(model.base_model, mesh=mesh, ignored_params=outside)


def is_sharded(model: PreTrainedModel) -> bool:
    """Whether `shard_layers` has been here."""
    return isinstance(model.base_model, FSDPModule)


def chosen_layers(config: StudentConfig, teacher: PreTrainedModel) -> list[int]:
    """The teacher's layers that the student keeps, by default half of them, spread from the first to the last.

    For 12 to 6 that is 0, 2, 4, 7, 9, 11, the choice of DistilBERT and DistilGPT2 (Sanh et al. 2019).

    Raises:
        UserError: an index or a number of layers that the teacher does not have.
    """
    depth = teacher.config.get_text_config().num_hidden_layers
    if config.layers is not None:
        wrong = [i for i in config.layers if not 0 <= i < depth]
        if wrong or not config.layers:
            raise UserError(f"student.layers: {wrong or 'empty'}; the teacher's layers are 0 to {depth - 1}")
        return list(config.layers)
    keep = config.num_layers if config.num_layers is not None else max(1, depth // 2)
    if not 1 <= keep <= depth:
        raise UserError(f"student.num_layers is {keep}, but the teacher has {depth} layers; give 1 to {depth}")
    return [0] if keep == 1 else [round(i * (depth - 1) / (keep - 1)) for i in range(keep)]


def student_from_layers(teacher: PreTrainedModel, layers: list[int]) -> PreTrainedModel:
    """A copy of the teacher that keeps only `layers`; every other weight is the teacher's."""
    name, _ = decoder_layers(teacher)
    config = copy.deepcopy(teacher.config)
    text_config = config.get_text_config()
    depth = text_config.num_hidden_layers
    for key, value in text_config.to_dict().items():
        # Per-layer settings (attention patterns, say) have one entry for each layer.
        if isinstance(value, list) and len(value) == depth and hasattr(text_config, key):
            setattr(text_config, key, [value[i] for i in layers])
    text_config.num_hidden_layers = len(layers)
    # Code that came with the teacher runs already if the recipe trusts it.
    trusted = type(teacher).__module__.startswith("transformers_modules.")
    student = AutoModelForCausalLM.from_config(config, dtype=torch.float32, trust_remote_code=trusted)
    position = {old: new for new, old in enumerate(layers)} if len(set(layers)) == len(layers) else None
    weights = {}
    for key, value in teacher.state_dict().items():
        if isinstance(value, DTensor):
            value = value.full_tensor()
        if not key.startswith(f"{name}."):
            weights[key] = value
            continue
        index, _, rest = key.removeprefix(f"{name}.").partition(".")
        targets = (
            [position[int(index)]]
            if position and int(index) in position
            else [new for new, old in enumerate(layers) if old == int(index)]
        )
        for new in targets:
            weights[f"{name}.{new}.{rest}"] = value
    student.load_state_dict(weights)
    student.tie_weights()
    student.generation_config = copy.deepcopy(teacher.generation_config)
    return student


def _vocab_rows(model: PreTrainedModel) -> int:
    return model.get_output_embeddings().weight.shape[0]


def _check_vocabulary(
    tokenizer_name: str, tokenizer: PreTrainedTokenizerBase, name: str, model: PreTrainedModel
) -> None:
    if len(tokenizer) > _vocab_rows(model):
        raise UserError(
            f"vocabularies differ: tokenizer {tokenizer_name} has {len(tokenizer)} entries, model {name} has only "
            f"{_vocab_rows(model)}; use the tokenizer that the model was trained with"
        )


def _same_tokens(
    ours: PreTrainedTokenizerBase, our_name: str, theirs: PreTrainedTokenizerBase, their_name: str | None
) -> None:
    left, right = ours.get_vocab(), theirs.get_vocab()
    if left != right:
        differ = sum(left.get(token) != index for token, index in right.items())
        raise UserError(
            f"tokenizers differ: teacher {their_name} has {len(right)} entries, student {our_name} has {len(left)}, "
            f"and {differ} of the teacher's stand elsewhere; a student must share its teacher's tokenizer"
        )


def hidden_states(
    model: PreTrainedModel, input_ids: Tensor, position_ids: Tensor, embedded: Tensor | None = None
) -> Tensor:
    """Last hidden states, as the output head sees them.

    No attention mask is given: positions that restart at 0 tell transformers that several documents share a row, and
    each token then attends to its own document alone.

    Args:
        input_ids: (B, T) token ids.
        position_ids: (B, T) positions counted from the start of each document.
        embedded: (B, T, D) the input embeddings of the ids, where the caller has made them already.

    Returns:
        (B, T, D) hidden states.
    """
    words = {"input_ids": input_ids} if embedded is None else {"inputs_embeds": embedded}
    return model.base_model(**words, position_ids=position_ids, use_cache=False).last_hidden_state


def head(model: PreTrainedModel) -> tuple[Tensor, Tensor | None]:
    """Weight (V, D) and bias (V,) or None of the output head."""
    module = model.get_output_embeddings()
    return module.weight, getattr(module, "bias", None)


@torch.no_grad()
def _check_head(name: str, model: PreTrainedModel) -> None:
    """The loss projects hidden states itself, which is right only for a linear head: make sure, on a few tokens."""
    was_training = model.training
    model.eval()
    ids = torch.arange(4, device=model.device)[None] % _vocab_rows(model)
    positions = torch.arange(4, device=model.device)[None]
    weight, bias = head(model)
    ours = nn.functional.linear(hidden_states(model, ids, positions), weight, bias).float()
    theirs = model(input_ids=ids, position_ids=positions, use_cache=False).logits.float()
    model.train(was_training)
    tolerance = 1e-3 if weight.dtype == torch.float32 else 5e-2
    if not torch.allclose(ours, theirs, rtol=tolerance, atol=tolerance):
        raise UserError(
            f"{name}: its logits ({type(model).__name__}) are not a linear function of its last hidden states "
            "(soft-capped or scaled logits?); such a model cannot be distilled yet"
        )


def parameter_count(model: PreTrainedModel) -> int:
    """Number of weights, tied ones counted once."""
    return sum(p.numel() for p in model.parameters())


def weights_hash(model: PreTrainedModel) -> str:
    """SHA-256 over names and values of all weights."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
