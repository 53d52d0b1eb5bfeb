"""Samples of edits to be read by hand; SWAP.md says what was found in them.

    python tests/benchmarks/swap_samples.py edits --seed 20 [--data DIR]
    python tests/benchmarks/swap_samples.py names --seed 6 [--data DIR]

edits: one edit each of 100 texts of sets that the engine was not tuned on. names: 100 swapped first names of GAP's
development set, and how many of the full names that it labels are swapped. With PYTHONPATH naming another checkout,
the engine of that one is read.
"""

import argparse
import json
import lzma
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from swap_quality import DATA

from distill.text.counterfactual import Counterfactual, Span, Swapper
from distill.text.wordlist import load_wordlist

#: Data set -> how many edits of it are drawn.
EDITS = {"winobias": 10, "bbq": 15, "stereoset": 20, "crows_pairs": 15, "regard": 10, "wikitext2": 30}
NAMES = 100
GAP = "gap/gap-development.tsv"


def strings(of: Any) -> Iterator[str]:
    """Every text of several words in what a JSON file holds."""
    if isinstance(of, str):
        if " " in of:
            yield of
    elif isinstance(of, dict | list):
        for value in of.values() if isinstance(of, dict) else of:
            yield from strings(value)


def read(path: Path) -> list[str]:
    """The texts of a file: strings of JSON, contexts of BBQ, or lines, without the numbers that WinoBias gives them."""
    with lzma.open(path, "rt", encoding="utf-8") if path.suffix == ".xz" else path.open(encoding="utf-8") as stream:
        content = stream.read()
    if path.suffix == ".json":
        return list(strings(json.loads(content)))
    if path.suffixes[-2:] == [".jsonl", ".xz"]:  # BBQ
        return [json.loads(line)["context"] for line in content.splitlines()]
    lines = content.splitlines()
    return [line.split(" ", 1)[1] for line in lines] if path.suffix == ".dev" else lines


def shown(text: str, found: Counterfactual, span: Span, before: int = 70, after: int = 60) -> str:
    """An edit in the counterfactual: what stood there > what stands there, in brackets."""
    start, end = span.cf_start, span.cf_end
    edit = f"[{text[span.start : span.end]}>{found.text[start:end]}]"
    return f"{found.text[max(0, start - before) : start]}{edit}{found.text[end : end + after]}".replace("\n", "\\n")


def sampled_edits(data: Path, seed: int) -> Iterator[str]:
    """One edit each of some texts of every set."""
    rng, swapper = random.Random(seed), Swapper(load_wordlist("english_gender"))
    for name, wanted in EDITS.items():
        paths = [path for path in sorted((data / name).iterdir()) if path.suffix and "occupations" not in path.name]
        texts = sorted({text for path in paths for text in read(path)})
        rng.shuffle(texts)
        edited = ((text, found) for text in texts if (found := swapper.swap(text)).spans)
        for (text, found), _ in zip(edited, range(wanted), strict=False):
            yield f"{name}: {shown(text, found, rng.choice(found.spans))}"


def sampled_names(data: Path, seed: int) -> Iterator[str]:
    """Swapped first names, and the count of swapped full names."""
    wordlist = load_wordlist("english_gender+english_names")
    swapper = Swapper(wordlist)
    names = {word for row in wordlist.rows if row.when == "name" for word in row.words}
    mentions, full, swapped = [], 0, 0
    for line in (data / GAP).read_text(encoding="utf-8").splitlines()[1:]:
        cells = line.split("\t")
        text, found = cells[1], swapper.swap(cells[1])
        for span in found.spans:
            written = text[span.start : span.end]
            if written.lower() in names and written[0].isupper():
                mentions.append((text, found, span))
        for name, offset in ((cells[4], int(cells[5])), (cells[7], int(cells[8]))):
            full += " " in name
            swapped += " " in name and any(span.start <= offset < span.end for span in found.spans)
    random.Random(seed).shuffle(mentions)
    yield from (shown(*mention) for mention in mentions[:NAMES])
    yield f"{len(mentions):,} names swapped; {swapped:,} of {full:,} full names ({swapped / full:.1%})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sample", choices=("edits", "names"))
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--data", type=Path, default=DATA, help="the folder of the data sets; default: DISTILL_DATA")
    options = parser.parse_args()
    sample = sampled_edits if options.sample == "edits" else sampled_names
    for number, line in enumerate(sample(options.data, options.seed), 1):
        print(number, line)


if __name__ == "__main__":
    main()
