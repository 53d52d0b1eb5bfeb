"""What a loaded model is made of: layers, head, hidden states, special tokens. How settings list layers: student.py."""

import gc
import hashlib
import inspect
import json
from collections.abc import Callable, Container, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import cache, lru_cache
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from transformers import GenerationConfig, PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase
from transformers.activations import ACT2FN, NewGELUActivation
from transformers.utils import logging

from distill.base.console import say, warn
from distill.base.errors import UserError, first_line
from distill.models.document_attention import Documents, attending_to
from distill.objective.kd_loss import ModelView
from distill.text.role_map import tokens_without_row


def fuse_activations(model: nn.Module) -> None:
    """Put torch's GELU in the place of GPT-2's, in place: the same function, but for rounding.

    GPT-2's is written out in eight operations, and training keeps the results of four of them. In a step of a 6-layer
    student with a 12-layer teacher that is a fifteenth of the time and a tenth of the memory. Weights and configuration
    do not change.
    """
    for module in list(model.modules()):
        for name, child in module.named_children():
            if type(child) is NewGELUActivation:
                setattr(module, name, ACT2FN["gelu_pytorch_tanh"])


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


def tokenizer_hash(tokenizer: PreTrainedTokenizerBase) -> str:
    """Hash of all that decides which tokens a text becomes, its special tokens and its chat template included."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    content = backend.to_str() if backend is not None else json.dumps(tokenizer.get_vocab(), sort_keys=True)
    parts = (content, repr(tokenizer.special_tokens_map), str(getattr(tokenizer, "chat_template", None)))
    return hashlib.sha256("\n".join(parts).encode("utf-8", "surrogatepass")).hexdigest()


def begins_itself(text: str, tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether a text begins with a special token, as chat templates render it: no start token is put before it.

    Where a tokenizer has no bos, its chat template's first token may be one that it has no name for (`<|im_start|>`).
    One that stands for what is unknown begins no text, unless it is the start or the end too, as GPT-2's.
    """
    special = tokenizer.all_special_tokens
    if tokenizer.bos_token is None:
        special = _marked_special(tokenizer, len(tokenizer))
    ordinary = {tokenizer.unk_token} - {tokenizer.bos_token, tokenizer.eos_token}
    return any(text.startswith(token) for token in special if token not in ordinary)


@lru_cache(maxsize=8)
def _marked_special(tokenizer: PreTrainedTokenizerBase, size: int) -> list[str]:
    """Special tokens, with a name or without; `size` tells one to which tokens were added since."""
    unnamed = (token.content for token in tokenizer.added_tokens_decoder.values() if token.special)
    return [*tokenizer.all_special_tokens, *unnamed]


def end_tokens(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """The tokens at which a model's text ends: the tokenizer's own first, then the model's others.

    Instruct models have several in their generation settings (`<|eot_id|>` and `<|end_of_text|>`, say). One that the
    tokenizer does not hold as special is left out: models without such settings get their class's default, which is
    some word in another tokenizer.
    """
    end = special_tokens(tokenizer)[1]
    own = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
    others: list[Any] = list(own) if isinstance(own, list | tuple) else [own]
    special = {*tokenizer.all_special_ids, *(i for i, token in tokenizer.added_tokens_decoder.items() if token.special)}
    return list(dict.fromkeys([end, *(i for i in others if i in special)]))


def set_attention(model: PreTrainedModel, name: str | None, key: str) -> None:
    """Let a model take an implementation of attention, in place; None leaves its own.

    Args:
        model: Changed.
        name: As transformers has it: `sdpa`, `eager` ...
        key: The key that asks for it, for messages.

    Raises:
        UserError: the model does not have it, or its package is missing.
    """
    if name is None:
        return
    try:
        model.set_attn_implementation(name)
    except (ValueError, ImportError, OSError) as error:
        raise UserError(f"{key}: {name}: {first_line(error)}; sdpa and eager need no further package") from None
    if model.config._attn_implementation != name:
        raise UserError(f"{key}: {type(model).__name__} has no '{name}'; leave the key out for its own choice")


def number_of_layers(config: PretrainedConfig) -> int:
    """Transformer layers of the decoder; BART's num_hidden_layers are those of an encoder."""
    config = config.get_text_config(decoder=True)
    return getattr(config, "decoder_layers", None) or config.num_hidden_layers


def decoder_layers(model: PreTrainedModel) -> tuple[str, nn.ModuleList]:
    """(name, list) of the model's transformer layers: its one ModuleList as long as the configuration says.

    Raises:
        UserError: there is no such list, or more than one.
    """
    depth = number_of_layers(model.config)
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


def is_plain(model: PreTrainedModel) -> bool:
    """Whether a model's weights are parameters in float32 and nothing else, and its `forward` is its class's."""
    weights = model.parameters()
    return "forward" not in vars(model) and all(type(w) is nn.Parameter and w.dtype == torch.float32 for w in weights)


def vocab_rows(model: PreTrainedModel) -> int:
    """How many rows the output head has: one a token, and what it may be padded with behind them."""
    return model.get_output_embeddings().weight.shape[0]


def vocab_size(tokenizer: PreTrainedTokenizerBase, *models: PreTrainedModel | None) -> int:
    """V, one more than the tokenizer's largest token id; with models, no more than the rows of each one's head."""
    return min([max(tokenizer.get_vocab().values()) + 1, *(vocab_rows(model) for model in models if model)])


def check_vocabulary(
    tokenizer_name: str, tokenizer: PreTrainedTokenizerBase, name: str, model: PreTrainedModel
) -> None:
    """Raises UserError, which names tokenizer and model, where a token has no row in the model's head."""
    if tokens_without_row(tokenizer, vocab_rows(model)):
        raise UserError(
            f"vocabularies differ: tokenizer {tokenizer_name} has {vocab_size(tokenizer)} entries, model {name} has "
            f"only {vocab_rows(model)}; use the tokenizer that the model was trained with"
        )


def require_rows(largest: int, tokenizer: PreTrainedTokenizerBase, rows: int, where: str) -> None:
    """Refuse a text that holds a special token which the model has no row for, see `tokens_without_row`.

    Args:
        largest: Its largest token id.
        tokenizer: For the message.
        rows: Of the model's head.
        where: What holds it.

    Raises:
        UserError: names the token.
    """
    if largest >= rows:
        token = tokenizer.convert_ids_to_tokens(largest)
        raise UserError(
            f"{where} holds {token}, a special token that a model of text alone does not know; leave it out"
        )


def hidden_states(
    model: PreTrainedModel,
    input_ids: Tensor,
    position_ids: Tensor,
    embedded: Tensor | None = None,
    documents: Documents | None = None,
) -> Tensor:
    """Last hidden states, as the output head sees them.

    No attention mask is given: positions that restart at 0 tell transformers that several documents share a row, and
    each token then attends to its own document alone. Not every model heeds that: see probe.py.

    Args:
        input_ids: (B, T) token ids.
        position_ids: (B, T) positions counted from the start of each document.
        embedded: (B, T, D) the input embeddings of the ids, where the caller has made them already.
        documents: What the positions say, where the caller knows it: a model that `try_documents` has found to heed
            them reads faster then.

    Returns:
        (B, T, D) hidden states.
    """
    inputs = {"input_ids": input_ids} if embedded is None else {"inputs_embeds": embedded}
    decoder = backbone(model)
    if _takes_positions(type(decoder).forward):
        inputs["position_ids"] = position_ids
    with attending_to(decoder, documents) as given:
        return decoder(**inputs, **given, use_cache=False).last_hidden_state


def backbone(model: PreTrainedModel) -> nn.Module:
    """The model without its head. Llama 4 names a part of the multimodal model as that, which a text model lacks."""
    return model.base_model if model.base_model is not model else getattr(model, "model", model)


@cache
def _takes_positions(forward: Callable[..., Any]) -> bool:
    parameters = inspect.signature(forward).parameters.values()
    return any(p.name == "position_ids" or p.kind is p.VAR_KEYWORD for p in parameters)


# ------------------------------------------------------------------------------------------------------------- head


class Head(NamedTuple):
    """The output head: logits = cap * tanh(scale * (W h + b) / cap), without a cap scale * (W h + b)."""

    weight: Tensor  # (R, D)
    bias: Tensor | None  # (R,)
    scale: float
    cap: float | None


# The names that configurations have for these two numbers. Some models multiply by the scale and some divide.
_SCALES = ("logit_scale", "logits_scaling", "lm_head_multiplier")
_CAPS = ("final_logit_softcapping", "logits_soft_cap", "output_logit_soft_cap")

_shapes: WeakKeyDictionary[PreTrainedModel, tuple[float, float | None]] = WeakKeyDictionary()  # of heads that were read


def head(model: PreTrainedModel) -> Head:
    """The output head of a model. How it shapes its logits is read once, by `check_head`."""
    if model not in _shapes:
        check_head(type(model).__name__, model)
    module = model.get_output_embeddings()
    return Head(module.weight, getattr(module, "bias", None), *_shapes[model])


def tell_own_head(model: PreTrainedModel) -> None:
    """Let a model whose output head is a matrix of its own say so of itself, in place.

    A file may hold such a head under a configuration that calls it the embedding, and an adapter may bring one. What is
    copied or saved by what the model says would lose it.
    """
    configs = (model.config, model.config.get_text_config(decoder=True))
    if not model.all_tied_weights_keys and not any(getattr(c, "tie_word_embeddings", False) for c in configs):
        return
    module = model.get_output_embeddings()
    if module is None or module.weight is model.get_input_embeddings().weight:
        return
    for config in configs:
        config.tie_word_embeddings = False
    model.all_tied_weights_keys = model.get_expanded_tied_weights_keys(all_submodels=True)


def keep_weights_whole(model: PreTrainedModel) -> None:
    """Let RWKV leave its weights as they are, in place; it predicts the same, and what is saved of it says so too.

    In eval mode it divides those of its upper layers in memory, for the sake of float16, in which it goes on to do so.
    Whoever copies, shares or saves its weights would have others than those of its file.
    """
    if divides_weights(model) and model.dtype != torch.float16:
        model.config.rescale_every = 0


def divides_weights(model: PreTrainedModel) -> bool:
    """Whether a model's weights are others in eval mode than in its file: see `keep_weights_whole`."""
    return model.config.model_type == "rwkv" and 0 < model.config.rescale_every < number_of_layers(model.config)


def view_of(model: PreTrainedModel, hidden: Tensor, vocab: int | None = None) -> ModelView:
    """(..., D) hidden states beside the head of their model, as the loss takes them; `vocab` as there."""
    weight, bias, scale, cap = head(model)
    return ModelView(hidden.flatten(0, -2), weight, bias, scale, cap, vocab)


def project(model: PreTrainedModel, hidden: Tensor) -> Tensor:
    """(..., D) hidden states -> (..., R) logits, those that the model itself makes of them."""
    weight, bias, scale, cap = head(model)
    logits = nn.functional.linear(hidden, weight, bias)
    logits = logits if scale == 1 else logits * scale
    return logits if cap is None else cap * torch.tanh(logits / cap)


def check_head(name: str, model: PreTrainedModel) -> None:
    """Make sure that a model's logits are what `Head` says of them: the loss makes them from hidden states itself.

    The model reads a few tokens, and its head is given random numbers in their place: small ones, which tell the scale,
    and such large ones that a cap shows.

    Raises:
        UserError: they are not.
    """
    try:
        shape = _head_shape(model)
    except Exception as error:  # models fail in many ways
        raise UserError(f"{name}: cannot read a few tokens ({type(model).__name__}): {first_line(error)}") from None
    if shape is None and (own := _layer_before_head(model)):
        raise UserError(
            f"{name}: a layer of its own ({own}) stands between its last hidden states and its output head "
            f"({type(model).__name__}), and the loss, which reads the head alone, would leave it out; such a model "
            "cannot be distilled"
        )
    if shape is None:
        raise UserError(
            f"{name}: its logits ({type(model).__name__}) are not a linear function of its last hidden states, scaled "
            "and soft-capped as its configuration says; such a model cannot be distilled"
        )
    _shapes[model] = shape


def _layer_before_head(model: PreTrainedModel) -> str | None:
    """The first module with weights that belongs neither to the model's layers nor to its head, as BERT's transform."""
    parts = (part for part in (backbone(model), model.get_output_embeddings()) if part is not None)
    inside = {id(weight) for part in parts for weight in part.parameters()}
    outside = (
        name
        for name, module in model.named_modules()
        if any(weight.dim() > 1 and id(weight) not in inside for weight in module.parameters(recurse=False))
    )
    return next(outside, None)


@torch.no_grad()
def _head_shape(model: PreTrainedModel) -> tuple[float, float | None] | None:
    """(scale, cap) of the head; None if there is more to it."""
    module = model.get_output_embeddings()
    if module is None:
        return None
    weight, bias = module.weight, getattr(module, "bias", None)
    ids = torch.arange(8, device=model.device).view(2, 4) % len(weight)
    noise = torch.randn(2, 4, weight.shape[1], generator=torch.Generator().manual_seed(0)).to(weight)
    spread = nn.functional.linear(noise, weight).float().std().clamp(min=1e-6)  # of the logits of `noise`
    cap = _number(model, _CAPS)
    with evaluating(model):
        hidden = hidden_states(model, ids, torch.arange(4, device=model.device).expand(2, 4))
        seen, _ = _pass_through_head(model, ids)
        before = None if seen is None else _factor(model, hidden, seen)
        small = (noise.float() / spread * 0.01 * (cap or 1)).to(weight)
        behind = _factor(model, nn.functional.linear(small, weight, bias), _pass_through_head(model, ids, small)[1])
        if before is None or behind is None or (before != 1 and bias is not None):
            return None
        large = (noise.float() / spread / behind * 3 * (cap or 10)).to(weight)
        ours = nn.functional.linear(large, weight, bias).float() * behind
        ours = ours if cap is None else cap * torch.tanh(ours / cap)
        return (before * behind, cap) if _alike(ours, _pass_through_head(model, ids, large)[1]) else None


def _pass_through_head(
    model: PreTrainedModel, ids: Tensor, given: Tensor | None = None
) -> tuple[Tensor | None, Tensor]:
    """What the head got, None if it was not called, and the logits; `given` is put in the place of what it got."""
    seen: list[Tensor] = []

    def look(module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...] | None:
        seen.append(args[0])
        return None if given is None else (given, *args[1:])

    hook = model.get_output_embeddings().register_forward_pre_hook(look)
    try:
        logits = model(input_ids=ids, use_cache=False).logits
    finally:
        hook.remove()
    return seen[0] if seen else None, logits


def _factor(model: PreTrainedModel, of: Tensor, to: Tensor) -> float | None:
    """The number that takes one tensor to the other: 1 or one from the configuration; None if none does."""
    number = _number(model, _SCALES)
    candidates = [1.0] if not number else [1.0, number, 1 / number]
    return next((c for c in candidates if _alike(of.float() * c, to)), None)


def _alike(ours: Tensor, theirs: Tensor) -> bool:
    if ours.shape != theirs.shape:
        return False
    tolerance = 1e-3 if theirs.dtype.itemsize >= 4 else 3e-2
    return bool((ours.float() - theirs.float()).norm() <= tolerance * theirs.float().norm() + 1e-12)


def _number(model: PreTrainedModel, names: Sequence[str]) -> float | None:
    """The first number that a configuration has under one of these names."""
    configs = (model.config, model.config.get_text_config(decoder=True))
    found = (getattr(config, name, None) for config in configs for name in names)
    return next((float(number) for number in found if number is not None), None)


def own_context(config: PretrainedConfig) -> int | None:
    """Positions of a model by its configuration, in tokens; `None` where it names no limit."""
    config = config.get_text_config(decoder=True)
    named = (getattr(config, name, None) for name in ("max_position_embeddings", "max_seq_len"))  # the latter is MPT's
    limit = next((number for number in named if number is not None), None)
    return limit if limit is None or limit > 0 else None  # XLNet's is -1


def position_limit(model: PreTrainedModel) -> tuple[int | None, bool]:
    """The longest input that a model's configuration names, and whether a longer one would break it.

    It breaks where positions are looked up in a table (learned, or made beforehand) that ends there. Rotary and linear
    positions go on, beyond what the model was trained with. None: there is no limit.
    """
    limit = own_context(model.config)
    if limit is None or model.config.model_type == "mpt":  # which makes its table in every pass
        return limit, limit is not None
    words = model.get_input_embeddings()
    tables = [module.weight for module in model.modules() if isinstance(module, nn.Embedding) and module is not words]
    for module in model.modules():
        if not hasattr(module, "make_weights"):  # XGLM's table grows
            tables += [table for table in module.buffers(recurse=False) if table.dim() == 2]
    # Some architectures keep the first two rows of the table for padding.
    return limit, any(limit <= len(table) <= limit + 2 for table in tables)


def turns_otherwise_from(config: PretrainedConfig) -> int | None:
    """From how many tokens on a model turns its positions otherwise (longrope), those before too; None: never.

    It is the same for all rows of a batch, by its longest one: short documents are read otherwise beside long ones.
    """
    rope = getattr(config.get_text_config(decoder=True), "rope_parameters", None) or {}
    return rope.get("original_max_position_embeddings") if rope.get("rope_type") == "longrope" else None


def least(*limits: int | None) -> int | None:
    """The smallest of some limits; `None` stands for no limit."""
    return min((limit for limit in limits if limit is not None), default=None)


def scored_context(config: PretrainedConfig) -> int | None:
    """`own_context`, no longer than a model reads each row of a batch as it would alone: see `turns_otherwise_from`."""
    return least(own_context(config), turns_otherwise_from(config))


def check_block_length(block_length: int, name: str, model: PreTrainedModel) -> None:
    """Refuse blocks that are longer than the model's positions; warn where it would go on beyond what it has learned.

    Raises:
        UserError: names both lengths.
    """
    short = turns_otherwise_from(model.config)
    if short is not None and block_length > short:
        raise UserError(
            f"block_length is {block_length}, but {name} turns its positions otherwise from {short} tokens on "
            f"(longrope); lower it to {short}"
        )
    limit, breaks = position_limit(model)
    if limit is None or block_length <= limit:
        return
    if breaks:
        raise UserError(f"block_length is {block_length}, but {name} has only {limit} positions; lower it to that")
    warn(
        f"block_length is {block_length}, but {name} was made for {limit} tokens, and may predict badly beyond them; "
        f"set block_length to {limit} or less"
    )


def default_device() -> str:
    """Where a model is put that nobody puts elsewhere."""
    return "cuda" if torch.cuda.is_available() else "cpu"


@contextmanager
def lent_to_gpu(model: Any) -> Iterator[None]:
    """Inside, a model that waits in the processor's memory is on the GPU, if there is one and it has room.

    Afterwards the GPU is as free as before: others may be waiting for it, of other processes too. A model that is on a
    device already stays there, and so does whatever is no model of transformers.
    """
    lent = isinstance(model, PreTrainedModel) and model.device.type == "cpu" != default_device()
    if lent:
        try:
            model.to(default_device())
        except Exception as error:  # memory; or a format that cannot be moved, of which each library tells in its way
            say(f"the teacher stays on the processor for this, as the GPU cannot take it ({first_line(error)})")
            lent = False
        if not lent:  # behind the error, which holds what was moved last
            _back_from_gpu(model)
    try:
        yield
    finally:
        if lent:
            _back_from_gpu(model)


def _back_from_gpu(model: PreTrainedModel) -> None:
    with suppress(Exception):  # what cannot be moved has not been
        model.to("cpu")
    gc.collect()
    torch.cuda.empty_cache()


@contextmanager
def without_warnings() -> Iterator[None]:
    """Silence what transformers says of what is looked after here.

    Its table of missing weights says that this may be ignored; a model that is tried on a few tokens is reminded of
    lengths that nobody asked for.
    """
    level = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(level)


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """The model in eval mode, without dropout; behind it in the mode in which it came."""
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)


@contextmanager
def decoding_with(model: Any, config: GenerationConfig) -> Iterator[None]:
    """Let a model decode with these settings alone, not with those of its checkpoint (penalties, beams, forced tokens).

    `generate` fills what a caller leaves open from them, and every model must be measured with the same decoding.
    """
    own = model.generation_config
    model.generation_config = config
    try:
        with evaluating(model):
            yield
    finally:
        model.generation_config = own


def parameter_count(model: PreTrainedModel) -> int:
    """Number of weights, tied ones counted once."""
    return sum(p.numel() for p in model.parameters())


def weight_bytes(model: PreTrainedModel) -> int:
    """Bytes of the weights as they are in memory, those of quantised ones with their scales; shared ones once."""
    parts = [part for parameter in model.parameters() for part in _plain_parts(parameter.detach())]
    return sum(part.numel() * part.element_size() for part in {part.data_ptr(): part for part in parts}.values())


def _plain_parts(tensor: Tensor) -> list[Tensor]:
    """The tensors that a quantised one is made of; a plain one itself."""
    if type(tensor) is Tensor or not hasattr(tensor, "__tensor_flatten__"):
        return [tensor]
    names, _ = tensor.__tensor_flatten__()
    return [part for name in names for part in _plain_parts(getattr(tensor, name))]


def weights_hash(model: PreTrainedModel, left_out: Container[str] = ()) -> str:
    """SHA-256 over names and values of all weights but those whose names are left out."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        if name in left_out:
            continue
        digest.update(name.encode())
        for part in _plain_parts(tensor.detach()):
            digest.update(part.cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


# What a configuration says of where the model came from and how it runs, and not of what it predicts.
_UNDECISIVE = ("_name_or_path", "transformers_version", "architectures", "dtype", "torch_dtype", "use_cache")


def model_hash(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase | None, weights: str | None = None) -> str:
    """Hash of all that decides what a model predicts for a text and where its own end: weights, settings, tokenizer.

    The same weights are another model with another number of heads, or another base of their rotary positions.
    `weights`: their `weights_hash`, where it is known already.
    """
    config = getattr(model, "config", None)
    settings = config.to_dict() if config is not None else {}
    kept = {key: value for key, value in settings.items() if key not in _UNDECISIVE}
    parts = [weights or weights_hash(model), json.dumps(kept, sort_keys=True, default=str)]
    if tokenizer is not None:
        ends = end_tokens(model, tokenizer)
        parts += [tokenizer_hash(tokenizer), *([str(ends)] if len(ends) > 1 else [])]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()
