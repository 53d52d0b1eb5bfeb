"""What a model is made of: layers, head, hidden states, special tokens. The only file that knows architectures."""

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.activations import ACT2FN, NewGELUActivation

from distill.base.console import warn
from distill.base.errors import UserError, first_line


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
    """Whether a text begins with a special token, as chat templates render it: no start token is put before it."""
    return any(text.startswith(token) for token in tokenizer.all_special_tokens if token != tokenizer.unk_token)


def set_attention(model: PreTrainedModel, name: str | None, key: str) -> None:
    if name is None:
        return
    try:
        model.set_attn_implementation(name)
    except (ValueError, ImportError, OSError) as error:
        raise UserError(f"{key}: {name}: {first_line(error)}; sdpa and eager need no further package") from None
    if model.config._attn_implementation != name:
        raise UserError(f"{key}: {type(model).__name__} has no '{name}'; leave the key out for its own choice")


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


def vocab_rows(model: PreTrainedModel) -> int:
    return model.get_output_embeddings().weight.shape[0]


def check_vocabulary(
    tokenizer_name: str, tokenizer: PreTrainedTokenizerBase, name: str, model: PreTrainedModel
) -> None:
    if len(tokenizer) > vocab_rows(model):
        raise UserError(
            f"vocabularies differ: tokenizer {tokenizer_name} has {len(tokenizer)} entries, model {name} has only "
            f"{vocab_rows(model)}; use the tokenizer that the model was trained with"
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
def check_head(name: str, model: PreTrainedModel) -> None:
    """The loss projects hidden states itself, which is right only for a linear head: make sure, on a few tokens."""
    ids = torch.arange(4, device=model.device)[None] % vocab_rows(model)
    positions = torch.arange(4, device=model.device)[None]
    weight, bias = head(model)
    with evaluating(model):
        ours = nn.functional.linear(hidden_states(model, ids, positions), weight, bias).float()
        theirs = model(input_ids=ids, position_ids=positions, use_cache=False).logits.float()
    tolerance = 1e-3 if weight.dtype == torch.float32 else 5e-2
    if not torch.allclose(ours, theirs, rtol=tolerance, atol=tolerance):
        raise UserError(
            f"{name}: its logits ({type(model).__name__}) are not a linear function of its last hidden states "
            "(soft-capped or scaled logits?); such a model cannot be distilled yet"
        )


def position_limit(model: PreTrainedModel) -> tuple[int | None, bool]:
    """The longest input that a model's configuration names, and whether a longer one would break it.

    It breaks where positions are looked up in a table (learned, or made beforehand) that ends there. Rotary and linear
    positions go on, beyond what the model was trained with. None: there is no limit.
    """
    limit = getattr(model.config.get_text_config(decoder=True), "max_position_embeddings", None)
    if limit is None:
        return None, False
    words = model.get_input_embeddings()
    tables = [module.weight for module in model.modules() if isinstance(module, nn.Embedding) and module is not words]
    for module in model.modules():
        if not hasattr(module, "make_weights"):  # XGLM's table grows
            tables += [table for table in module.buffers(recurse=False) if table.dim() == 2]
    # Some architectures keep the first two rows of the table for padding.
    return limit, any(limit <= len(table) <= limit + 2 for table in tables)


def check_block_length(block_length: int, name: str, model: PreTrainedModel) -> None:
    """Refuse blocks that are longer than the model's positions; warn where it would go on beyond what it has learned.

    Raises:
        UserError: names both lengths.
    """
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
def evaluating(model: nn.Module) -> Iterator[None]:
    """The model in eval mode, without dropout; behind it in the mode in which it came."""
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)


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


# What a configuration says of where the model came from and how it runs, and not of what it predicts.
_UNDECISIVE = ("_name_or_path", "transformers_version", "architectures", "dtype", "torch_dtype", "use_cache")


def model_hash(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase | None, weights: str | None = None) -> str:
    """Hash of all that decides what a model predicts for a text: weights, configuration and tokenizer.

    The same weights are another model with another number of heads, or another base of their rotary positions.
    `weights`: their `weights_hash`, where it is known already.
    """
    config = getattr(model, "config", None)
    settings = config.to_dict() if config is not None else {}
    kept = {key: value for key, value in settings.items() if key not in _UNDECISIVE}
    parts = [weights or weights_hash(model), json.dumps(kept, sort_keys=True, default=str)]
    parts += [tokenizer_hash(tokenizer)] if tokenizer is not None else []
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()
