"""How fast texts are sampled: the quickstart's corpus from the demo teacher, continuations of prompts by GPT-2 124M.

    python tests/benchmarks/sampling.py                  a table
    python tests/benchmarks/sampling.py --device cuda --json
    python tests/benchmarks/sampling.py --device cuda --promise 42  and whether the batch size changes a text

- demo: documents of 127 tokens behind the start token alone, as the quickstart samples its text.
- gpt2_124m: random weights (of a spread of 0.05, as predictions are else nearly uniform), prompts of 4 to 12 tokens, 40
  new tokens, nucleus 0.9, as BOLD is sampled. Nothing ends a text early but chance, as no weights know an end.

Batches are as large as the product makes them on the device, unless a size is given. Tokens that were written are
counted, those of the end are not; the first batch is a warm-up that does not count. Of several `--repeats`, each with a
seed of its own, the one in the middle is told, and the slowest and fastest beside it. `unsure` is how many tokens a CPU
read again alone, since rounding might decide them; a GPU writes in float64 and reads nothing again. With `--promise N`,
`changed` is how many of N texts are others in batches of 7 than in those of the product.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any
from unittest import mock

import common
import torch
from tokenizers import Tokenizer
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)

from distill.models import generation
from distill.models.generation import generate
from distill.models.loading import load_frozen, load_tokenizer
from distill.models.wide_decoding import MAX_ROWS
from distill.recipe import TeacherConfig

SETTINGS: dict[str, dict[str, Any]] = {
    "demo": {"max_new_tokens": 127},
    "gpt2_124m": {"max_new_tokens": 40, "top_p": 0.9},
}


def model_of(name: str, layers: int) -> PreTrainedModel:
    """The model of a name, ready to sample from; `layers` of GPT-2's."""
    if name == "demo":
        return load_frozen(TeacherConfig(path="demo"))[0]
    torch.manual_seed(0)
    return GPT2LMHeadModel(GPT2Config(n_layer=layers, initializer_range=0.05, bos_token_id=0, eos_token_id=0)).eval()


def tokenizer_of(name: str) -> PreTrainedTokenizerBase:
    """The demo's; for GPT-2 with entries up to its 50,257, so that all of its predictions are sampled from."""
    tokenizer = load_tokenizer("demo")
    if name == "demo":
        return tokenizer
    content = json.loads(tokenizer.backend_tokenizer.to_str())
    vocabulary = content["model"]["vocab"]
    vocabulary |= {f"entry{number}": number for number in range(len(tokenizer), 50_257)}
    longer = Tokenizer.from_str(json.dumps(content))
    return PreTrainedTokenizerFast(
        tokenizer_object=longer, bos_token=tokenizer.bos_token, eos_token=tokenizer.eos_token
    )


def prompts_of(name: str, number: int) -> list[str]:
    """As many prompts as texts are asked for: empty, or of different lengths."""
    if name == "demo":
        return [""] * number
    words = ["The", "head", "of", "the", "council", "said", "in", "the", "morning", "that"]
    return [" ".join(words[: 3 + place % (len(words) - 2)]) for place in range(number)]


@cache
def ready(name: str, layers: int, device: str) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Model and tokenizer, on the device."""
    return model_of(name, layers).to(device), tokenizer_of(name)


def decoding(name: str, options: argparse.Namespace) -> dict[str, Any]:
    """What `generate` is given besides prompts and seed."""
    given = {"samples": 1, "batch_size": options.batch_size, **SETTINGS[name]}
    return given | {"max_new_tokens": options.new_tokens} if options.new_tokens else given


def measure(name: str, options: argparse.Namespace) -> Iterator[common.Record]:
    """Seconds, tokens written in them, and what rounding had to do with it; of all repeats so far, after each."""
    model, tokenizer = ready(name, options.layers, options.device)
    given, prompts = decoding(name, options), prompts_of(name, options.texts)
    asked: list[int] = []
    written: list[int] = []
    runs = []
    with common.autocast(options.device, options.dtype):
        generate(model, tokenizer, prompts[: options.batch_size or MAX_ROWS], **given)
        hook = model.register_forward_pre_hook(
            lambda _, args, kwargs: asked.append(kwargs.get("use_cache") is False and len(kwargs["input_ids"]) == 1),
            with_kwargs=True,
        )
        with mock.patch.object(generation, "count_forward", lambda _, tokens, length: written.append(tokens)):
            for seed in range(1, options.repeats + 1):
                asked.clear(), written.clear()
                start = time.perf_counter()
                generate(model, tokenizer, prompts, seed=seed, **given)
                seconds, tokens = time.perf_counter() - start, sum(written)
                speed = {"tokens_per_second": tokens / seconds, "seconds": seconds, "tokens": tokens}
                runs.append(speed | {"unsure": sum(asked)})
                runs.sort(key=lambda run: run["tokens_per_second"])
                rates = [run["tokens_per_second"] for run in runs]
                most = {"tokens_per_second_range": [rates[0], rates[-1]], "n": len(runs), "texts": len(prompts)}
                yield runs[(len(runs) - 1) // 2] | most
        hook.remove()


def promise(name: str, options: argparse.Namespace) -> Iterator[common.Record]:
    """Whether the batch size changes a text."""
    model, tokenizer = ready(name, options.layers, options.device)
    with common.autocast(options.device, options.dtype):
        prompts = prompts_of(name, options.promise)
        yield {"changed": changed(model, tokenizer, prompts, decoding(name, options)), "compared": len(prompts)}


def changed(model: PreTrainedModel, tokenizer: Any, prompts: list[str], given: dict[str, Any]) -> int:
    """How many texts are others in batches of 7."""
    one, other = (generate(model, tokenizer, prompts, seed=2, **given | {"batch_size": size}) for size in (None, 7))
    return sum(ours != theirs for ours, theirs in zip(one, other, strict=True))


def find(options: argparse.Namespace, then: Callable[[common.Record], None]) -> tuple[common.Record, bool]:
    """Model -> its figures, all speeds first; and whether all came through: one that fails is told on standard error.

    Args:
        options: Of the command line.
        then: Given all that was found, as soon as there is more of it.
    """
    sampling: common.Record = {}
    whole = True
    for part in (measure, *([promise] if options.promise else [])):
        for name in options.models if part is measure else list(sampling):
            try:
                for found in part(name, options):
                    sampling[name] = sampling.get(name, {}) | found
                    then(sampling)
            except Exception as error:  # of whatever kind a card raises
                whole = False
                print(f"{name} is left out: {type(error).__name__}: {error}", file=sys.stderr, flush=True)
    return sampling, whole


def main() -> int:
    """All models, each in this process."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    common.add_save(parser)
    parser.add_argument("--models", nargs="+", choices=list(SETTINGS), default=list(SETTINGS))
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32", help="bfloat16: autocast")
    parser.add_argument("--texts", type=int, default=512)
    parser.add_argument("--repeats", type=int, default=1, help="how often all texts are written")
    parser.add_argument("--batch_size", type=int, help="default: by device, as in the product")
    parser.add_argument("--promise", type=int, metavar="N", help="whether the batch size changes one of N texts")
    parser.add_argument("--new_tokens", type=int, help="instead of each model's own number")
    parser.add_argument("--layers", type=int, default=12, help="of GPT-2")
    options = parser.parse_args()
    setting = {name: getattr(options, name) for name in ("device", "dtype", "texts", "batch_size")}
    setting |= common.machine(options.device)
    sampling, whole = find(options, lambda found: common.save(options.save, {"sampling": found, "setting": setting}))
    if options.json:
        print(json.dumps({"sampling": sampling, "setting": setting}, indent=2))
        return int(not whole)
    rows = [
        [
            name, str(found["texts"]), f"{found['tokens']:,}", f"{found['tokens_per_second']:,.0f}",
            f"{found['unsure']:,}", str(found.get("changed", "-")),
        ]
        for name, found in sampling.items()
    ]  # fmt: skip
    common.print_table(("model", "texts", "tokens", "tokens/s", "unsure", "changed by the batch"), rows)
    return int(not whole)


if __name__ == "__main__":
    sys.exit(main())
