"""How fast a model writes: tokens a second, one text at a time, on the machine that scores it.

It depends on the clock and on what else the machine does, so it stands beside scores.json, in `speed.json`, with the
weights that it was measured of (`scores_file.read_speeds`); what was measured there before is not measured again.
"""

import statistics
import time
from typing import Any

import torch
from transformers import GenerationConfig

from distill.models.architecture import evaluating, special_tokens

_TOKENS = 32  # that are written each time
_TIMES = 5
_SECONDS = 5.0  # after which a slow model is not asked again


def tokens_per_second(model: Any, tokenizer: Any) -> float:
    """Tokens that a model writes in a second, one after the other, behind the start token: the median of a few times.

    Args:
        model: A causal language model with `generate`.
        tokenizer: Its tokenizer.
    """
    start, _ = special_tokens(tokenizer)
    ids = torch.tensor([[start]], device=model.device)
    context = getattr(model.config.get_text_config(decoder=True), "max_position_embeddings", None)
    new = min(_TOKENS, (context or _TOKENS + 1) - 1)
    # No end token: every model writes as much.
    config = GenerationConfig(max_new_tokens=new, do_sample=False, pad_token_id=start, eos_token_id=None)
    own, model.generation_config = model.generation_config, config
    rates: list[float] = []
    try:
        with evaluating(model), torch.inference_mode():
            begun = time.monotonic()
            while (len(rates) <= _TIMES and time.monotonic() - begun < _SECONDS) or len(rates) < 2:
                before = time.monotonic()
                written = model.generate(input_ids=ids, attention_mask=torch.ones_like(ids)).shape[1] - 1
                rates.append(written / (time.monotonic() - before))  # the ids are on their way back: it has waited
    finally:
        model.generation_config = own
    return statistics.median(rates[1:])  # the first warms up
