"""What large inputs cost: processor time and resident memory, each part in a process of its own.

    swap      `distill swap` of a corpus
    pack      the same corpus swapped, tokenised and packed into blocks
    read      those blocks, one epoch through the collator, as training reads them
    wordlist  a list of many rows: how long it takes to load, and how fast it swaps beside the bundled one
    prompts   next-word disparity and continuations of many prompts, with a toy model
    steps     training for many tiny steps: what is resident along the way

The corpus is made of the bundled prompts and listed words. Resident memory is what Linux calls VmRSS; of it, anonymous
memory cannot be given back while the process lives, and pages of mapped files can.
"""

import argparse
import json
import os
import random
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))

from common import peak_memory, run_alone, status_bytes

Figures = dict[str, Any]

SENTENCES = 20_000  # different ones in the corpus
SENTENCES_PER_DOCUMENT = 40
MIB = 2**20


# ---------------------------------------------------------------------------------------------------------- inputs


def write_corpus(path: Path, size: int) -> None:
    """JSON lines of at least `size` bytes, documents of about 3 kB, one word in twelve a listed one."""
    from distill.generation import load_prompts
    from distill.wordlist import load_wordlist

    rng = random.Random(0)
    prompts = [prompt.text for prompt in load_prompts()]
    words = load_wordlist("english_gender").words
    words = [*words[:6] * 40, *words]
    pool = [
        f"{rng.choice(prompts)} {rng.choice(words)} saw the house by the river, and nobody answered."
        for _ in range(SENTENCES)
    ]
    written = 0
    with path.open("w", encoding="utf-8") as stream:
        while written < size:
            text = " ".join(rng.choices(pool, k=SENTENCES_PER_DOCUMENT))
            written += stream.write(json.dumps({"text": text}) + "\n")


def write_wordlist(path: Path, rows: int) -> None:
    """A list of made-up words, the rows of the bundled English list first."""
    from distill.wordlist import load_wordlist

    known = load_wordlist("english_gender+none")
    lines = ["male\tfemale\twhen"]
    for row in known.rows[:rows]:
        marks = [row.when or "-", *["one-way"] * row.one_way]
        lines.append("\t".join((*row.words, " ".join(marks))))
    lines += [f"{_made_up(2 * n)}\t{_made_up(2 * n + 1)}\t-" for n in range(rows - len(lines) + 1)]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


_SYLLABLES = [first + vowel for first in "bdfgklmnprstvz" for vowel in "aeiou"]


def _made_up(number: int) -> str:
    """A word of four syllables or more; another one for every number."""
    word = "xy"
    for _ in range(3):
        number, syllable = divmod(number, len(_SYLLABLES))
        word += _SYLLABLES[syllable]
    return word + (str(number) if number else "")


# ----------------------------------------------------------------------------------------------------------- parts


@contextmanager
def _watched(figures: Figures) -> Iterator[None]:
    """Processor seconds of the block, the process's highest resident set so far, and its highest anonymous part."""
    anonymous, stop = [status_bytes("RssAnon")], threading.Event()

    def watch() -> None:
        while not stop.wait(0.2):
            anonymous[0] = max(anonymous[0], status_bytes("RssAnon"))

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    begun = time.process_time()
    yield
    figures["seconds"] = time.process_time() - begun
    stop.set()
    thread.join()
    figures |= {"resident": peak_memory(), "anonymous": anonymous[0]}


def swap(options: argparse.Namespace) -> Figures:
    """`distill swap` of the corpus, written to nowhere."""
    from distill.cli import main

    figures: Figures = {"bytes": options.corpus.stat().st_size}
    with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere), _watched(figures):
        assert main(["swap", str(options.corpus)]) == 0
    return figures


def _packed(options: argparse.Namespace) -> Any:
    from distill.corpus import open_corpus
    from distill.counterfactual import Swapper
    from distill.models import load_tokenizer
    from distill.packing import packed_blocks
    from distill.recipe import CorpusConfig
    from distill.wordlist import load_wordlist

    config = CorpusConfig(source="files", files=[str(options.corpus)])
    corpus = open_corpus(config, 0, options.cache)
    swapper = Swapper(load_wordlist("english_gender"))
    begun = time.monotonic()

    def progress(done: int) -> None:
        if done % 5000 == 0:
            print(f"{done} documents, {time.monotonic() - begun:.0f} s", file=sys.stderr, flush=True)

    return packed_blocks(corpus, load_tokenizer("demo"), swapper, 128, options.cache, progress)


def pack(options: argparse.Namespace) -> Figures:
    """The corpus into blocks of 128 tokens, with the demo teacher's tokenizer and the bundled list."""
    figures: Figures = {"bytes": options.corpus.stat().st_size}
    with _watched(figures):
        _, counts = _packed(options)
    return figures | {"tokens": counts.tokens, "blocks": counts.blocks}


def read(options: argparse.Namespace) -> Figures:
    """One epoch over the packed blocks in random order, eight a batch."""
    import torch

    from distill.packing import Collator

    blocks, counts = _packed(options)
    torch.manual_seed(0)
    loader = torch.utils.data.DataLoader(blocks, batch_size=8, shuffle=True, collate_fn=Collator(2, True))
    figures: Figures = {"tokens": counts.tokens, "blocks": len(blocks)}
    with _watched(figures):
        for _ in loader:
            pass
    return figures


PARTS: dict[str, Callable[[argparse.Namespace], Figures]] = {"swap": swap, "pack": pack, "read": read}


def measured(name: str, options: argparse.Namespace) -> Figures:
    """The figures of one part, from a process of its own."""
    given = [f"--{key}={value}" for key, value in vars(options).items() if key not in ("only", "json", "threads")]
    return run_alone(__file__, name, given, threads=1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=int, default=1000, help="size of the corpus")
    parser.add_argument("--corpus", type=Path)
    parser.add_argument("--cache", type=Path)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--only", choices=PARTS)
    options = parser.parse_args()
    print(json.dumps(PARTS[options.only](options)))


if __name__ == "__main__":
    main()
