"""How fast models write: tokens a second, one text at a time, on the machine that scores them.

It depends on the clock and on what else the machine does, so it stands beside scores.json, in `speed.json`, with the
weights that it was measured of (`scores_file.read_speeds`). What else runs shall not be taken for a model's slowness:
on a CPU the processor's time counts, models are asked in turns, and the fastest of a few times is theirs. A GPU, which
writes so little at a time that its clock stays where it is, is asked in one turn, and less often.
"""

import time
from collections.abc import Mapping
from typing import Any

import torch
from transformers import GenerationConfig

from distill.models.architecture import decoding_with, default_device, own_context, special_tokens
from distill.models.probe import behaviour
from distill.scoring.measure import ModelSource, open_model

_TOKENS = 32  # that are written each time
_TIMES, _TIMES_ON_GPU = 8, 3  # at most, of one turn; the first on a GPU is that in which libraries choose their kernels
_SECONDS = 3.0  # after which a slow model's turn ends
_TURNS = 3  # on a CPU
_LARGE = 2e9  # bytes of a model that is loaded once only


def measured_speeds(
    models: Mapping[str, ModelSource], settings: Mapping[str, Any], known: Mapping[str, Mapping[str, Any]]
) -> dict[str, dict[str, Any]]:
    """Model -> `weights` (their SHA-256) and `tokens_per_second`; measured anew, all together, where one is not known.

    Args:
        models: Name -> where the model comes from; one is in memory at a time.
        settings: Those of their scores.json.
        known: What an earlier call returned.
    """
    weights, facts = settings["weights"], settings["models"]
    if all(known.get(name, {}).get("weights") == weights[name] for name in models):
        return {name: dict(known[name]) for name in models}
    best, device = dict.fromkeys(models, 0.0), default_device()
    once = device != "cpu" or any(facts[name]["bytes"] > _LARGE for name in models)
    for _ in range(1 if once else _TURNS):
        for name, source in models.items():
            best[name] = max(best[name], tokens_per_second(*open_model(source, device)))
    return {name: {"weights": weights[name], "tokens_per_second": rate} for name, rate in best.items()}


def _seconds(device: str) -> float:
    """A clock; on a CPU that of its threads, of which each is taken to be busy all the time."""
    return time.process_time() / torch.get_num_threads() if device == "cpu" else time.monotonic()


def tokens_per_second(model: Any, tokenizer: Any) -> float:
    """Tokens that a model writes in a second, one after the other, behind the start token: the fastest of a few times.

    Args:
        model: A causal language model with `generate`.
        tokenizer: Its tokenizer.
    """
    start, _ = special_tokens(tokenizer)
    ids = torch.tensor([[start]], device=model.device)
    context = own_context(model.config)
    new = min(_TOKENS, (context or _TOKENS + 1) - 1)
    # No end token: every model writes as much.
    caches = behaviour(model).caches
    config = GenerationConfig(
        max_new_tokens=new, do_sample=False, pad_token_id=start, eos_token_id=None, use_cache=caches
    )
    times = _TIMES if model.device.type == "cpu" else _TIMES_ON_GPU
    rates: list[float] = []
    with decoding_with(model, config), torch.inference_mode():
        begun = time.monotonic()
        while len(rates) < 2 or (len(rates) < times and time.monotonic() - begun < _SECONDS):
            before = _seconds(model.device.type)
            written = model.generate(input_ids=ids, attention_mask=torch.ones_like(ids)).shape[1] - 1
            rates.append(written / (_seconds(model.device.type) - before))  # the ids are there: it has waited
    return max(rates)
