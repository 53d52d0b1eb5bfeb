"""Toy models of many architectures of transformers: the keys that make them small."""

from typing import Any

import torch
import transformers
from packaging.version import Version
from transformers import CONFIG_MAPPING, AutoConfig, AutoModelForCausalLM, PreTrainedModel

_PLAIN = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
}
_HEADS_ALIKE = {key: value for key, value in _PLAIN.items() if key != "num_key_value_heads"}
_BY_DIM = {"n_embd": 32, "n_layer": 4, "n_head": 4}
_EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
_SPECIAL = {"pad_token_id": 0}  # where the default lies behind a toy vocabulary

_PER_LAYER = {  # embeddings for each layer; keys and values of its own in each, which large ones do not have
    "head_dim": 8, "sliding_window": 16, "hidden_size_per_layer_input": 8,
    "vocab_size_per_layer_input": 512, "num_kv_shared_layers": 0,
    "layer_types": ["sliding_attention", "full_attention"] * 2, **_SPECIAL,
}  # fmt: skip

#: Model type -> keys of its configuration.
ARCHITECTURES = {
    "apertus": _PLAIN,
    "arcee": _PLAIN,
    "bamba": {
        **_PLAIN, "mamba_n_heads": 4, "mamba_d_head": 16, "mamba_d_state": 8, "attn_layer_indices": [1, 3],
        "mamba_n_groups": 1, "mamba_chunk_size": 16,
    },
    "bart": {
        "d_model": 32, "decoder_layers": 4, "encoder_layers": 4, "decoder_attention_heads": 4,
        "encoder_attention_heads": 4, "decoder_ffn_dim": 64, "encoder_ffn_dim": 64, "max_position_embeddings": 64,
    },
    "bert": {**_HEADS_ALIKE, "is_decoder": False},
    "biogpt": {**_HEADS_ALIKE, "pad_token_id": 1},
    "bitnet": _PLAIN,
    "bloom": {"hidden_size": 32, "n_layer": 4, "n_head": 4},
    "codegen": {**_BY_DIM, "n_positions": 64, "rotary_dim": 4},
    "cohere": {**_PLAIN, "logit_scale": 0.25, **_SPECIAL},
    "cohere2": {**_PLAIN, "logit_scale": 0.25, **_SPECIAL},
    "ctrl": {"n_embd": 32, "n_layer": 4, "n_head": 4, "dff": 64, "n_positions": 64},
    "deepseek_v3": {
        **_PLAIN, "moe_intermediate_size": 32, "n_routed_experts": 4, "num_experts_per_tok": 2, "n_group": 2,
        "topk_group": 1, "kv_lora_rank": 8, "q_lora_rank": 8, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8,
        "v_head_dim": 8, "first_k_dense_replace": 1, "num_key_value_heads": 4,
    },
    "deepseek_v32": {
        **_PLAIN, "moe_intermediate_size": 32, "n_routed_experts": 4, "num_experts_per_tok": 2, "n_group": 2,
        "topk_group": 1, "kv_lora_rank": 8, "q_lora_rank": 8, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8,
        "v_head_dim": 8, "first_k_dense_replace": 1, "index_topk": 64,
        "index_n_heads": 2, "index_head_dim": 16, "num_key_value_heads": 4,
    },
    "ernie4_5": _PLAIN,
    "exaone4": _PLAIN,
    "falcon": {"hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 4, "alibi": True},
    "falcon_h1": {
        **_PLAIN, "mamba_d_ssm": 32, "mamba_n_heads": 4, "mamba_d_head": 8, "mamba_d_state": 8, "mamba_chunk_size": 16,
        "lm_head_multiplier": 0.5,
    },
    "gemma": {**_PLAIN, "head_dim": 8, **_SPECIAL},
    "gemma2": {**_PLAIN, "head_dim": 8, "final_logit_softcapping": 2.0, **_SPECIAL},
    "gemma3_text": {**_PLAIN, "head_dim": 8, "sliding_window": 16, **_SPECIAL},
    "gemma3n_text": {
        **_PLAIN, **_PER_LAYER, "intermediate_size": [64] * 4, "laurel_rank": 4, "altup_num_inputs": 2,
        "activation_sparsity_pattern": [0.5, 0.0, 0.0, 0.0],
        "pad_token_id": None,  # a start token that is padding too is all zeros, of which its norm has no gradient
    },
    "gemma4_text": {**_PLAIN, **_PER_LAYER, "global_head_dim": 16},
    "git": {
        **_HEADS_ALIKE, **_SPECIAL,
        "vision_config": {
            "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 1,
            "image_size": 28, "patch_size": 14,
        },
    },
    "glm4": {**_PLAIN, "head_dim": 8, **_SPECIAL},
    "gpt2": {**_BY_DIM, "n_positions": 64},
    "gpt_bigcode": {**_BY_DIM, "n_positions": 64},
    "gpt_neo": {
        "hidden_size": 32, "num_layers": 4, "num_heads": 4, "attention_types": [[["global", "local"], 2]],
        "max_position_embeddings": 64, "window_size": 16,
    },
    "gpt_neox": _HEADS_ALIKE,
    "gpt_oss": {**_PLAIN, "head_dim": 8, "num_local_experts": 4, "num_experts_per_tok": 2, **_SPECIAL},
    "gptj": {**_BY_DIM, "n_positions": 64, "rotary_dim": 4},
    "granite": {**_PLAIN, "logits_scaling": 4.0, "residual_multiplier": 0.5},
    "granitemoe": {**_PLAIN, "num_local_experts": 4, "logits_scaling": 4.0},
    "helium": {**_PLAIN, "head_dim": 8},
    "jamba": {
        **_PLAIN, "num_experts": 4, "attn_layer_period": 2, "attn_layer_offset": 1, "expert_layer_period": 2,
        "expert_layer_offset": 1, "mamba_d_state": 8, "use_mamba_kernels": False,
    },
    "lfm2": {**_PLAIN, "layer_types": ["conv", "full_attention"] * 2, "block_multiple_of": 8},
    "llama4_text": {
        **_PLAIN, "head_dim": 8, "intermediate_size_mlp": 64, "num_local_experts": 2, "interleave_moe_layer_step": 2,
        **_SPECIAL,
    },
    "llama": _PLAIN,
    "mamba": {"hidden_size": 32, "num_hidden_layers": 4, "state_size": 8},
    "mamba2": {"hidden_size": 32, "num_hidden_layers": 4, "state_size": 8, "num_heads": 4, "head_dim": 16,
               "n_groups": 1, "chunk_size": 16},
    "minicpm3": {
        **_PLAIN, "num_key_value_heads": 4, "kv_lora_rank": 8, "q_lora_rank": 8, "qk_rope_head_dim": 8,
        "qk_nope_head_dim": 8, "v_head_dim": 8,
    },
    "mistral": {**_PLAIN, "sliding_window": 16},
    "mixtral": {**_PLAIN, "num_local_experts": 4},
    "mpt": {"d_model": 32, "n_layers": 4, "n_heads": 4, "max_seq_len": 64},
    "nanochat": {**_PLAIN, "final_logit_softcapping": 2.0},
    "nemotron": _PLAIN,
    "olmo2": _PLAIN,
    "olmoe": {**_PLAIN, "num_experts": 4, "num_experts_per_tok": 2},
    "openai-gpt": {**_BY_DIM, "n_positions": 64},
    "opt": {
        "hidden_size": 32, "ffn_dim": 64, "num_hidden_layers": 4, "num_attention_heads": 4,
        "max_position_embeddings": 64, "word_embed_proj_dim": 32, "pad_token_id": 1,
    },
    "phi": _PLAIN,
    "phi3": {**_PLAIN, **_SPECIAL},
    "qwen2": _PLAIN,
    "qwen2_moe": {**_PLAIN, **_EXPERTS, "shared_expert_intermediate_size": 32, "decoder_sparse_step": 2},
    "qwen3": {**_PLAIN, "head_dim": 8},
    "qwen3_moe": {**_PLAIN, **_EXPERTS, "head_dim": 8},
    "qwen3_next": {
        **_PLAIN, **_EXPERTS, "head_dim": 8, "shared_expert_intermediate_size": 32, "linear_num_key_heads": 2,
        "linear_num_value_heads": 4, "linear_key_head_dim": 8, "linear_value_head_dim": 8,
        "layer_types": ["linear_attention", "full_attention"] * 2,
    },
    "recurrent_gemma": {
        "hidden_size": 32, "intermediate_size": 96, "num_hidden_layers": 3, "num_attention_heads": 4,
        "lru_width": 32, "attention_window_size": 64, "logits_soft_cap": 2.0, "head_dim": 8, **_SPECIAL,
    },
    "roberta": {**_HEADS_ALIKE, "is_decoder": False, "pad_token_id": 1},
    "rwkv": {"hidden_size": 32, "num_hidden_layers": 4, "attention_hidden_size": 32, "context_length": 64},
    "smollm3": {**_PLAIN, "no_rope_layer_interval": 2, **_SPECIAL},
    "stablelm": _PLAIN,
    "starcoder2": {**_PLAIN, "sliding_window": 16},
    "xglm": {"d_model": 32, "num_layers": 4, "attention_heads": 4, "ffn_dim": 64, "max_position_embeddings": 64},
    "xlnet": {"d_model": 32, "n_layer": 4, "n_head": 4, "d_inner": 64},
    "xlstm": {"hidden_size": 32, "num_hidden_layers": 4, "num_heads": 4, "chunk_size": 16, "qk_dim_factor": 0.5},
}  # fmt: skip

#: Those that read both ways, whatever class transformers has for them.
# Older versions of transformers lack some.
ARCHITECTURES = {name: keys for name, keys in ARCHITECTURES.items() if name in CONFIG_MAPPING}
NOT_CAUSAL = {"bert", "roberta", "xlnet"}
CAUSAL = ARCHITECTURES.keys() - NOT_CAUSAL

#: Those that read two documents of one row as one text, positions that restart or not: with the states of a recurrence,
#: by positions of their own (ALiBi, learned), or because they do not look at positions for it.
MIXING = {
    "bamba", "bart", "biogpt", "bloom", "falcon", "falcon_h1", "gpt_oss", "jamba", "lfm2", "mamba", "mamba2", "mpt",
    "openai-gpt", "opt", "qwen3_next", "recurrent_gemma", "rwkv", "xglm", "xlstm",
}  # fmt: skip
if Version(transformers.__version__) >= Version("5.24"):
    MIXING.discard("falcon")  # mended there

#: Those whose layers are told apart by their number in a way that the configuration of fewer layers cannot tell: a
#: pattern (Jamba), or a factor that goes with the number of layers (MiniCPM 3).
NO_LAYERS = {"jamba", "minicpm3", "xlstm"}


def toy(name: str, vocab_size: int = 300, seed: int = 0, **keys: Any) -> PreTrainedModel:
    """A small random model in float32, in eval mode."""
    config = AutoConfig.for_model(
        name, **{"vocab_size": vocab_size, "bos_token_id": 0, "eos_token_id": 0, **ARCHITECTURES[name], **keys}
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    return model
