"""What large inputs cost: processor time and resident memory, each part in a process of its own.

    swap      `distill swap` of a corpus
    pack      the same corpus swapped, tokenised and packed into blocks
    read      those blocks, one epoch through the collator, as training reads them
    stream    the same corpus packed while it is read, one epoch, as training with `pack: while_training` reads it
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
import statistics
import sys
import tempfile
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
STEPS_BETWEEN_LOOKS = 100  # at what is resident


# ---------------------------------------------------------------------------------------------------------- inputs


def made_up_documents() -> Iterator[str]:
    """Documents of about 3 kB without end, one word in twelve a listed one."""
    from distill.text.prompts import load_prompts
    from distill.text.wordlist import load_wordlist

    rng = random.Random(0)
    prompts = [prompt.text for prompt in load_prompts()]
    words = load_wordlist("english_gender").words
    words = [*words[:6] * 40, *words]
    pool = [
        f"{rng.choice(prompts)} {rng.choice(words)} saw the house by the river, and nobody answered."
        for _ in range(SENTENCES)
    ]
    while True:
        yield " ".join(rng.choices(pool, k=SENTENCES_PER_DOCUMENT))


def write_corpus(path: Path, size: int) -> None:
    """JSON lines of at least `size` bytes."""
    written, documents = 0, made_up_documents()
    with path.open("w", encoding="utf-8") as stream:
        while written < size:
            written += stream.write(json.dumps({"text": next(documents)}) + "\n")


def write_wordlist(path: Path, rows: int) -> None:
    """A list of made-up words, the rows of the bundled English list first."""
    from distill.text.wordlist import load_wordlist

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


def _inputs(options: argparse.Namespace) -> tuple[Any, Any, Any]:
    """The corpus, the demo teacher's tokenizer, and the swapper of the bundled list."""
    from distill.data.corpus import open_corpus
    from distill.models.loading import load_tokenizer
    from distill.recipe import CorpusConfig
    from distill.text.counterfactual import Swapper
    from distill.text.wordlist import load_wordlist

    config = CorpusConfig(source="files", files=[str(options.corpus)])
    corpus = open_corpus(config, 0, options.cache)
    return corpus, load_tokenizer("demo"), Swapper(load_wordlist("english_gender"))


def _packed(options: argparse.Namespace) -> Any:
    from distill.data.packing import packed_blocks

    begun = time.monotonic()

    def progress(done: int) -> None:
        if done % 5000 == 0:
            print(f"{done} documents, {time.monotonic() - begun:.0f} s", file=sys.stderr, flush=True)

    return packed_blocks(*_inputs(options), 128, options.cache, progress)


def pack(options: argparse.Namespace) -> Figures:
    """The corpus into blocks of 128 tokens, with the demo teacher's tokenizer and the bundled list."""
    figures: Figures = {"bytes": options.corpus.stat().st_size}
    with _watched(figures):
        _, counts = _packed(options)
    return figures | {"tokens": counts.tokens, "blocks": counts.blocks}


def read(options: argparse.Namespace) -> Figures:
    """One epoch over the packed blocks in random order, eight a batch."""
    import torch

    from distill.data.batches import Collator

    blocks, counts = _packed(options)
    torch.manual_seed(0)
    loader = torch.utils.data.DataLoader(blocks, batch_size=8, shuffle=True, collate_fn=Collator(2, True))
    figures: Figures = {"tokens": counts.tokens, "blocks": len(blocks)}
    with _watched(figures):
        for _ in loader:
            pass
    return figures


def stream(options: argparse.Namespace) -> Figures:
    """One epoch of the corpus through the loader of a training that packs while it runs, eight blocks a batch."""
    from distill.data.batches import Collator
    from distill.data.stream import BlockStream, StreamLoader
    from distill.recipe import Recipe
    from distill.training.arguments import training_arguments

    segment = Recipe().corpus.shuffle_buffer
    blocks = BlockStream(*_inputs(options), 128, segment, 0, options.cache / "packed.json")
    arguments = training_arguments(Recipe(trainer={"use_cpu": True}), options.cache)
    blocks.start(arguments, None)
    figures: Figures = {"bytes": options.corpus.stat().st_size, "segment_documents": segment}
    with _watched(figures):
        for number, _ in enumerate(StreamLoader(blocks, Collator(2, True), 8, arguments), start=1):
            place = blocks.places[0]
            if place.epoch > 0:
                break
            counts = place.counts
            if number % 10_000 == 0:
                print(f"{counts.documents} documents", file=sys.stderr, flush=True)
    return figures | {"tokens": counts.tokens, "blocks": counts.blocks}


def wordlist(options: argparse.Namespace) -> Figures:
    """Seconds to load a list of many rows, and MB/s of swapping with it and with the bundled list, by turns."""
    from distill.text.counterfactual import Swapper
    from distill.text.wordlist import load_wordlist

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "many.tsv")
        write_wordlist(path, options.rows)
        begun = time.process_time()
        many = load_wordlist(path)
        loading = time.process_time() - begun
    texts = [text for _, text in zip(range(1_000), made_up_documents(), strict=False)]
    bundled = load_wordlist("english_gender+none")
    begun = time.process_time()
    swappers = {"bundled": Swapper(bundled), "many": Swapper(many)}
    compiling = time.process_time() - begun
    seconds: dict[str, list[float]] = {name: [] for name in swappers}
    for _ in range(5):
        for name, swapper in swappers.items():
            begun = time.process_time()
            for text in texts:
                swapper.swap(text)
            seconds[name].append(time.process_time() - begun)
    megabytes = sum(map(len, texts)) / 1e6
    speed = {name: megabytes / statistics.median(of) for name, of in seconds.items()}
    return {
        "rows": len(many.rows),
        "loading": loading,
        "compiling": compiling,
        "mb_per_s": speed,
        "share_of_speed": speed["many"] / speed["bundled"],
        "resident": peak_memory(),
    }


def _toy_model() -> tuple[Any, Any]:
    """A random model of two narrow layers with the demo teacher's tokenizer, and that tokenizer."""
    import torch

    from distill.models.loading import load_tokenizer
    from distill.models.student import make_student
    from distill.recipe import StudentConfig

    torch.manual_seed(0)
    tokenizer = load_tokenizer("demo")
    keys = {"model_type": "gpt2", "n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 64}
    return make_student(StudentConfig(init="config", config=keys), None, tokenizer, None).eval(), tokenizer


def prompts(options: argparse.Namespace) -> Figures:
    """Next-word disparity after every prompt, and one continuation of four tokens of each; memory of each by itself."""
    from distill.recipe import ScoreConfig
    from distill.scoring.score import score_models
    from distill.text.prompts import load_prompts
    from distill.text.wordlist import load_wordlist

    rng = random.Random(0)
    subjects = list({prompt.subject for prompt in load_prompts()})
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "prompts.tsv")
        lines = [f"all\t{n}\tThe {rng.choice(subjects)} no. {n} said that" for n in range(options.count)]
        path.write_text("group\tsubject\tprompt\n" + "\n".join(lines) + "\n", encoding="utf-8")
        loaded = load_prompts(path)
    model = _toy_model()
    figures: Figures = {"prompts": len(loaded), "resident_before": status_bytes("VmRSS")}
    for metric in ("next_word_disparity", "generation_disparity"):
        of_metric: Figures = {}
        with _watched(of_metric):
            score_models(
                {"student": model},
                wordlist=load_wordlist("english_gender"),
                documents=[],
                prompts=loaded,
                settings=ScoreConfig(metrics=[metric], samples=1, max_new_tokens=4, bootstrap=200, batch_size=512),
            )
        figures[metric] = of_metric
    return figures | {"resident": peak_memory()}


def steps(options: argparse.Namespace) -> Figures:
    """Resident memory again and again in many optimizer steps on one small block each."""
    import torch
    from transformers import TrainerCallback

    from distill.data.batches import Collator
    from distill.data.counts import PackingCounts
    from distill.data.packing import pack as packed
    from distill.recipe import LossConfig, Recipe, TargetConfig
    from distill.text.counterfactual import Swapper
    from distill.text.wordlist import load_wordlist
    from distill.training.arguments import loss_settings, training_arguments
    from distill.training.student_loss import attach_loss
    from distill.training.trainer import DistillationTrainer

    student, tokenizer = _toy_model()
    teacher, _ = _toy_model()
    swapper = Swapper(load_wordlist("english_gender"))
    texts = [text for _, text in zip(range(20), made_up_documents(), strict=False)]
    blocks = list(packed(texts, tokenizer, swapper, 16, PackingCounts()))
    recipe = Recipe(
        target=TargetConfig(op="mean", augment=True),
        loss=LossConfig(),
        trainer={"use_cpu": True, "max_steps": options.count, "per_device_train_batch_size": 1, "disable_tqdm": True}
        | {"save_strategy": "no", "logging_steps": 100},
    )
    resident: list[int] = []

    class Watch(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            if state.global_step % STEPS_BETWEEN_LOOKS == 0:
                resident.append(status_bytes("VmRSS"))

    attach_loss(student)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        trainer = DistillationTrainer(
            model=student,
            args=training_arguments(recipe, Path(folder)),
            train_dataset=blocks,
            data_collator=Collator(2, augment=True),
            teacher=teacher,
            settings=loss_settings(recipe),
            role_maps=None,
            callbacks=[Watch()],
        )
        figures: Figures = {}
        with redirect_stdout(sys.stderr), _watched(figures):
            trainer.train()
    return figures | {"steps": options.count, f"resident_every_{STEPS_BETWEEN_LOOKS}": resident}


PARTS: dict[str, Callable[[argparse.Namespace], Figures]] = {
    "swap": swap, "pack": pack, "read": read, "stream": stream,
    "wordlist": wordlist, "prompts": prompts, "steps": steps,
}  # fmt: skip


def measured(name: str, **options: Any) -> Figures:
    """The figures of one part, from a process of its own.

    Args:
        name: One of `PARTS`.
        options: `corpus` and `cache` (paths), `rows` or `count`, as the part needs them.
    """
    return run_alone(__file__, name, [f"--{key}={value}" for key, value in options.items()], threads=1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=int, default=1000, help="size of the corpus")
    parser.add_argument("--rows", type=int, default=50_000, help="rows of the word list")
    parser.add_argument("--count", type=int, help="prompts (default: 200,000) or steps (10,000)")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--corpus", type=Path, help=argparse.SUPPRESS)  # in the process that measures
    parser.add_argument("--cache", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--threads", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--only", choices=PARTS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.only:
        print(json.dumps(PARTS[options.only](options)))
        return
    counts = {"prompts": options.count or 200_000, "steps": options.count or 10_000}
    with tempfile.TemporaryDirectory() as folder:
        corpus = Path(folder, "corpus.jsonl")
        of_corpus = {"swap", "pack", "read", "stream"}
        if of_corpus & set(options.parts):
            write_corpus(corpus, options.megabytes * 10**6)
        for name in options.parts:
            given = {"corpus": corpus, "cache": folder} if name in of_corpus else {}
            given |= {"rows": options.rows} if name == "wordlist" else {}
            given |= {"count": counts[name]} if name in counts else {}
            print(json.dumps({name: measured(name, **given)}), flush=True)


if __name__ == "__main__":
    main()
