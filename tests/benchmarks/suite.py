"""How long the default suite takes: GPT-2 124M with random weights, on as many prompts as BOLD has of professions.

    python tests/benchmarks/suite.py                            seconds, and those of each metric
    python tests/benchmarks/suite.py --device cuda --prompts path/to/bold

Without `--prompts`, 10,195 are made up of the words of the bundled ones, as long as BOLD's (6 words, two in five more),
and of as many groups and subjects. Held-out text is made up too, with listed words among the others; random weights
read any text alike. It is `distill.score` with its defaults, which samples four continuations of 24 tokens a prompt;
the model is there already. Prompts of a file that hold a listed word are left out, as by default.

A metric's seconds hold what it is the first to ask for, such as the continuations; what is in none of them is loading
the word list, resampling and what the report shows.
"""

import argparse
import json
import random
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import common
from sampling import model_of, tokenizer_of

from distill.recipe import ScoreConfig
from distill.scoring import measure
from distill.scoring.score import score
from distill.text.prompts import Prompt, load_prompts

NUMBER, GROUPS, SUBJECTS = 10_195, 18, 1064  # BOLD's professions
LENGTHS = (6, 7, 6, 7, 6, 6, 7, 6, 7, 6)  # words
LISTED = ("he", "she", "his", "her", "man", "woman")


def bundled_words() -> list[str]:
    """Those of the bundled prompts, none of which is listed."""
    return [word for prompt in load_prompts() for word in prompt.text.split()]


def made_up_prompts(number: int) -> list[Prompt]:
    """Prompts of bundled words, the same ones each time."""
    words, draw = bundled_words(), random.Random(0)
    return [
        Prompt(
            " ".join(draw.choices(words, k=LENGTHS[place % len(LENGTHS)])),
            f"group {place % GROUPS}",
            f"subject {place % SUBJECTS}",
        )
        for place in range(number)
    ]


def made_up_documents(number: int) -> list[str]:
    """Held-out text: 90 words each, of which about one in twelve is listed."""
    words, draw = bundled_words(), random.Random(1)
    return [
        " ".join(draw.choice(LISTED if draw.random() < 1 / 12 else words) for _ in range(90)) for _ in range(number)
    ]


@contextmanager
def timed(then: Callable[[str, float], None]) -> Iterator[None]:
    """Tells how long each metric takes, by its name, as soon as it is measured."""
    plain = measure.measured

    def measured(metric: Any, evaluation: Any) -> Any:
        start = time.perf_counter()
        found = plain(metric, evaluation)
        then(metric.__name__.rpartition(".")[2], time.perf_counter() - start)
        return found

    with mock.patch.object(measure, "measured", measured):
        yield


def main() -> int:
    """Score once."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    common.add_save(parser)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--prompts", help="BOLD's folder or a prompt file, instead of made-up ones")
    parser.add_argument("--number", type=int, default=NUMBER, help="of made-up prompts")
    parser.add_argument("--documents", type=int, default=512, help="of held-out text")
    parser.add_argument("--layers", type=int, default=12, help="of GPT-2")
    parser.add_argument("--metrics", nargs="+", default=ScoreConfig().metrics)
    options = parser.parse_args()
    model, tokenizer = model_of("gpt2_124m", options.layers).to(options.device), tokenizer_of("gpt2_124m")
    prompts = load_prompts(options.prompts) if options.prompts else made_up_prompts(options.number)
    figures: dict[str, Any] = {"seconds": None, "metrics": {}, "prompts": len(prompts), "documents": options.documents}
    figures["setting"] = {"device": options.device, "layers": options.layers, **common.machine(options.device)}

    def told(metric: str, seconds: float) -> None:
        figures["metrics"][metric] = seconds
        common.save(options.save, figures)

    start = time.perf_counter()
    with timed(told):
        texts = made_up_documents(options.documents)
        scores = score({"gpt2": (model, tokenizer)}, texts=texts, prompts=prompts, metrics=options.metrics)
    figures |= {"seconds": time.perf_counter() - start, "scored": sorted(scores["models"]["gpt2"])}
    common.save(options.save, figures)
    if options.json:
        print(json.dumps(figures, indent=2))
    else:
        rows = [[name, f"{seconds:.1f}"] for name, seconds in {**figures["metrics"], "all": figures["seconds"]}.items()]
        common.print_table((f"{len(prompts)} prompts", "seconds"), rows)
    return 0


if __name__ == "__main__":
    sys.exit(main())
