"""A teacher's layers, a configuration or a checkpoint -> the student and its tokenizer."""

import copy
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)

from distill.base.console import say
from distill.base.errors import UserError, first_line, suggestion
from distill.base.files import is_finished, write_folder
from distill.models.adapters import add_adapter, sharing
from distill.models.architecture import (
    check_head,
    check_vocabulary,
    decoder_layers,
    divides_weights,
    end_tokens,
    evaluating,
    is_sharded,
    keep_weights_whole,
    number_of_layers,
    set_attention,
    special_tokens,
    vocab_size,
)
from distill.models.generation import sound_settings
from distill.models.loading import load_model, load_tokenizer
from distill.models.probe import behaviour, made_up_ids
from distill.models.quantization import is_quantized
from distill.recipe import StudentConfig

_END_OF_TEXT = "<|endoftext|>"


_TOKENIZER_DOCUMENTS = 50_000  # enough to learn the merges of a small vocabulary from


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


def student_tokenizer(config: StudentConfig) -> PreTrainedTokenizerBase:
    """The tokenizer that a student without a teacher names.

    Raises:
        UserError: it names none, or see `load_tokenizer`.
    """
    path = config.tokenizer or config.path
    if path is None:
        raise UserError("student.tokenizer is missing; without a teacher, name a folder or hub id, or train")
    return load_tokenizer(path, config.trust_remote_code)


def corpus_tokenizer(
    config: StudentConfig, documents: Callable[[], Iterable[str]], corpus_key: str, cache_dir: Path
) -> PreTrainedTokenizerBase:
    """A tokenizer trained on the corpus, for `student.tokenizer: train`, and kept in the cache."""
    folder = cache_dir / f"tokenizer-{corpus_key}-{config.vocab_size}"
    if not is_finished(folder):
        tokenizer = train_tokenizer(islice(documents(), _TOKENIZER_DOCUMENTS), config.vocab_size)
        if not is_finished(folder):  # another run with the same cache may have been quicker
            write_folder(folder, tokenizer.save_pretrained)
    return load_tokenizer(str(folder))


def make_student(
    config: StudentConfig, teacher: PreTrainedModel | None, tokenizer: PreTrainedTokenizerBase, teacher_name: str | None
) -> PreTrainedModel:
    """The student, float32 and trainable; with an adapter, that alone, over a base in its own number format.

    Args:
        config: Where its weights come from.
        teacher: Needed for `init: layers`; checked against the student's vocabulary otherwise.
        tokenizer: The tokenizer that both share.
        teacher_name: For messages.

    Raises:
        UserError: layers that the teacher does not have, an unknown architecture or key, or another vocabulary, be it
            that of `config.tokenizer`.
    """
    if teacher is not None and is_quantized(teacher) and config.init in ("layers", "teacher"):
        raise UserError(
            f"student.init is {config.init}, but the weights of the teacher {teacher_name} are quantised and cannot be "
            "trained; set init to checkpoint or config, or take a teacher that is not quantised"
        )
    if teacher is not None and divides_weights(teacher) and config.init in ("layers", "teacher"):
        raise UserError(
            f"student.init is {config.init}, but in float16 the teacher {teacher_name} (RWKV) holds the weights of its "
            "upper layers divided; set teacher.dtype to float32 or bfloat16"
        )
    if teacher is not None and config.tokenizer is not None:
        # The student reads the teacher's tokens: a tokenizer of its own may be named, but has to give the same.
        own = load_tokenizer(config.tokenizer, config.trust_remote_code)
        _same_tokens(own, config.tokenizer, tokenizer, teacher_name)
    if config.init == "layers":
        student = student_from_layers(teacher, chosen_layers(config, teacher))
        name = f"student of {teacher_name}"
    elif config.init == "teacher":
        assert teacher is not None  # `check_recipe` asks for one
        student, name = sharing(teacher), f"student of {teacher_name}"
    elif config.init == "config":
        student, name = _student_from_config(config, tokenizer), "student.config"
    else:
        assert config.path is not None  # `check_recipe` asks for it
        trusted: dict[str, Any] = {"trust_remote_code": config.trust_remote_code}
        student, name = load_model(config.path, allow_pickle=config.allow_pickle, **trusted), config.path
        if teacher is not None:
            _same_tokens(load_tokenizer(config.path, **trusted), config.path, tokenizer, teacher_name)
    if is_quantized(student):
        raise UserError(f"{name}: is quantised, and such weights cannot be trained; give the model as it was before")
    check_vocabulary(tokenizer.name_or_path, tokenizer, name, student)
    keep_weights_whole(student)
    set_attention(student, config.attention, "student.attention")
    behaviour(student, name)
    check_head(name, student)
    _settle_generation(student, teacher, tokenizer)
    if config.lora.r:
        add_adapter(student, config.lora)
        return student
    return student.requires_grad_(True)


def _settle_generation(
    student: PreTrainedModel, teacher: PreTrainedModel | None, tokenizer: PreTrainedTokenizerBase
) -> None:
    """Let the student's own generation settings be ones that can be saved, and its texts end where its teacher's do."""
    settings, left_out = sound_settings(student.generation_config)
    if left_out:
        say(f"the student's generation_config cannot hold {', '.join(left_out)}, which its other settings leave idle")
    start, end = special_tokens(tokenizer)
    ends = dict.fromkeys(i for model in (student, teacher) if model for i in end_tokens(model, tokenizer))
    settings.bos_token_id, settings.eos_token_id = start, list(ends) if len(ends) > 1 else end
    if settings.pad_token_id is None:
        settings.pad_token_id = end
    student.generation_config = settings


def _student_from_config(config: StudentConfig, tokenizer: PreTrainedTokenizerBase) -> PreTrainedModel:
    own = dict(config.config)
    model_type = own.pop("model_type")
    start, end = special_tokens(tokenizer)
    # A class's own padding token is an ordinary one of this tokenizer, or none: its row would be zeros for ever.
    special = {"bos_token_id": start, "eos_token_id": end, "pad_token_id": None}
    keys = {"vocab_size": vocab_size(tokenizer), **special, **own}
    try:
        model_config = AutoConfig.for_model(model_type, **keys)
        default = type(model_config)()
    except Exception as error:  # of the libraries that look at the keys
        hint = (
            "; models of this type need a pad_token_id, such as the end token's" if "pad_token_id" in str(error) else ""
        )
        raise UserError(f"student.config: {first_line(error)}{hint if 'pad_token_id' not in own else ''}") from None
    if unknown := [key for key in own if not hasattr(default, key)]:
        known = sorted(default.to_dict())
        raise UserError(f"student.config: {model_type} has no key '{unknown[0]}'; {suggestion(unknown[0], known)}")
    try:
        return AutoModelForCausalLM.from_config(model_config, dtype=torch.float32, trust_remote_code=False)
    except Exception as error:  # models fail in many ways
        raise UserError(
            f"student.config: no causal language model of the type {model_type} can be made of these keys: "
            f"{first_line(error)}"
        ) from None


def chosen_layers(config: StudentConfig, teacher: PreTrainedModel) -> list[int]:
    """The teacher's layers that the student keeps, by default half of them, spread from the first to the last.

    For 12 to 6 that is 0, 2, 4, 7, 9, 11, the choice of DistilBERT and DistilGPT2 (Sanh et al. 2019).

    Raises:
        UserError: an index or a number of layers that the teacher does not have.
    """
    depth = number_of_layers(teacher.config)
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
    """A copy of the teacher that keeps only `layers`, float32; every other weight is the teacher's.

    Raises:
        UserError: the layers cannot be told apart, or a model of the teacher's kind does not answer as they do.
    """
    name, modules = decoder_layers(teacher)
    config = copy.deepcopy(teacher.config)
    # What the weights are, whatever the configuration says of them.
    config.tie_word_embeddings = teacher.get_output_embeddings().weight is teacher.get_input_embeddings().weight
    # Code that came with the teacher runs already if the recipe trusts it.
    trusted = type(teacher).__module__.startswith("transformers_modules.")
    weights = {}
    for key, value in teacher.state_dict().items():
        if isinstance(value, DTensor):
            value = value.full_tensor()
        if not key.startswith(f"{name}."):
            weights[key] = value
            continue
        index, _, rest = key.removeprefix(f"{name}.").partition(".")
        weights |= {f"{name}.{new}.{rest}": value for new, old in enumerate(layers) if old == int(index)}
    kind = type(teacher).__name__
    try:
        text_config = config.get_text_config(decoder=True)
        for key, value in _settings_of_layers(text_config, layers).items():
            setattr(text_config, key, value)
        # As it would be read again from what is saved of it.
        config = type(config).from_dict(config.to_dict())
        attention = {"attn_implementation": teacher.config._attn_implementation}
        student = AutoModelForCausalLM.from_config(config, dtype=torch.float32, trust_remote_code=trusted, **attention)
        parted = {
            key: _of_layers(weights[key], weight.shape, layers, len(modules))
            for key, weight in student.state_dict().items()
            if key in weights and weight.shape != weights[key].shape
        }
        student.load_state_dict(weights | parted)
        student.tie_weights()
        alike = is_sharded(teacher) or _answer_alike(student, teacher, layers, in_place=bool(parted))
    except Exception as error:  # models fail in many ways
        # torch heads its list of weights that do not fit with a line that says nothing.
        reason = first_line(ValueError(str(error).rpartition("state_dict for ")[2].partition(":\n")[2] or error))
        raise UserError(
            f"student.init: layers: no {kind} can be made of the layers {layers} alone ({reason}); choose "
            "others with student.layers, or use init: checkpoint with a student of your own"
        ) from None
    if not alike:
        raise UserError(
            f"student.init: layers: a {kind} of the layers {layers} does not answer as these layers of the teacher do, "
            "because its configuration tells layers apart by their number; choose others with student.layers, or use "
            "init: checkpoint with a student of your own"
        )
    student.generation_config = copy.deepcopy(teacher.generation_config)
    return student


def _of_layers(weight: Tensor, shape: Sequence[int], layers: Sequence[int], depth: int) -> Tensor:
    """Of a weight outside the layers that holds a block for each of them, side by side, the blocks of some.

    Gemma 3n and 4 look every token up in a table of its own for each layer. A weight of another kind is left as it is.

    Args:
        weight: The teacher's.
        shape: That of the student's.
        layers: Which of the teacher's layers the student has.
        depth: How many the teacher has.
    """
    differ = [d for d, (ours, wanted) in enumerate(zip(weight.shape, shape, strict=False)) if ours != wanted]
    if weight.dim() != len(shape) or len(differ) != 1:
        return weight
    (d,) = differ
    if weight.shape[d] * len(layers) != shape[d] * depth:
        return weight
    blocks = weight.unflatten(d, (depth, -1))
    return blocks.index_select(d, torch.tensor(layers, device=weight.device)).flatten(d, d + 1)


# Settings that list layers by their numbers.
_LISTS_OF_LAYERS = ("mlp_only_layers", "moe_layers", "attn_layer_indices", "full_attn_idxs", "global_attn_idx")


def _settings_of_layers(config: Any, layers: Sequence[int]) -> dict[str, Any]:
    """The settings of a configuration that go by layer, for some of its layers."""
    depth = number_of_layers(config)
    settings: dict[str, Any] = {"num_hidden_layers": len(layers)}
    for key, value in config.to_dict().items():
        if key == "per_layer_config":  # number of a layer -> keys that are otherwise there (Gemma 4)
            settings[key] = {new: value[str(old)] for new, old in enumerate(layers) if str(old) in value}
        elif key not in vars(config):
            continue
        elif key in _LISTS_OF_LAYERS and isinstance(value, list):
            settings[key] = [new for new, old in enumerate(layers) if old in value]
        elif isinstance(value, list) and len(value) == depth:
            settings[key] = [value[old] for old in layers]
    if hasattr(config, "decoder_layers"):  # BART, whose num_hidden_layers are those of an encoder
        settings["decoder_layers"] = len(layers)
    if hasattr(config, "attention_types"):  # GPT-Neo, which counts the same kinds in runs
        settings["attention_types"] = [[[config.attention_layers[old]], 1] for old in layers]
    if hasattr(config, "decoder_sparse_step"):  # Qwen: every so-manieth layer has experts
        step, dense = config.decoder_sparse_step, getattr(config, "mlp_only_layers", None) or []
        settings["decoder_sparse_step"] = 1
        settings["mlp_only_layers"] = [
            new for new, old in enumerate(layers) if old in dense or config.num_experts == 0 or (old + 1) % step
        ]
    if getattr(config, "num_kv_shared_layers", None):  # Gemma 3n: the last layers have keys and values of earlier ones
        settings["num_kv_shared_layers"] = sum(old >= depth - config.num_kv_shared_layers for old in layers)
    if hasattr(config, "first_k_dense_replace"):  # DeepSeek: the first layers have none
        settings["first_k_dense_replace"] = sum(old < config.first_k_dense_replace for old in layers)
    return settings


def _answer_alike(student: PreTrainedModel, teacher: PreTrainedModel, layers: Sequence[int], in_place: bool) -> bool:
    """Whether the student answers as the teacher does when only these of its layers run, on a few tokens.

    `in_place`: the teacher's layers keep their numbers, by which its other weights know them.
    """
    ids = made_up_ids(teacher, 2, 7)
    with torch.no_grad(), evaluating(student), evaluating(teacher):
        ours = student(input_ids=ids, use_cache=False).logits
        with _others_idle(teacher, layers) if in_place else _only_layers(teacher, layers):
            theirs = teacher(input_ids=ids.to(teacher.device), use_cache=False).logits.to(ours)
    tolerance = 1e-3 if teacher.dtype.itemsize >= 4 else 1e-1
    return bool((ours - theirs).norm() <= tolerance * theirs.norm())


@contextmanager
def _only_layers(model: PreTrainedModel, layers: Sequence[int]) -> Iterator[None]:
    """A model of which only some layers run; behind it, it is whole again."""
    name, modules = decoder_layers(model)
    if list(layers) == list(range(len(modules))):
        yield
        return
    parent, _, attribute = name.rpartition(".")
    held = {id(m.config): m.config for m in model.modules() if hasattr(getattr(m, "config", None), "num_hidden_layers")}
    before = {id(config): dict(vars(config)) for config in held.values()}
    try:
        for config in held.values():
            if number_of_layers(config) == len(modules):
                for key, value in _settings_of_layers(config, layers).items():
                    setattr(config, key, value)
        setattr(model.get_submodule(parent), attribute, nn.ModuleList(modules[old] for old in layers))
        yield
    finally:
        setattr(model.get_submodule(parent), attribute, modules)
        for config in held.values():
            vars(config).clear()
            vars(config).update(before[id(config)])


@contextmanager
def _others_idle(model: PreTrainedModel, layers: Sequence[int]) -> Iterator[None]:
    """A model whose other layers give on what they get; behind it, all work again."""
    others = [layer for number, layer in enumerate(decoder_layers(model)[1]) if number not in layers]
    try:
        for layer in others:
            layer.forward = lambda states, *_, **__: states
        yield
    finally:
        for layer in others:
            vars(layer).pop("forward", None)


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
