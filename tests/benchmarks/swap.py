"""How fast the counterfactual engine is, beside the two ways in which it is mostly done.

    python tests/benchmarks/swap.py [--text FILE] [--json]

Contenders, on the same list and the same text, in alternating runs; CPU time, medians:

- ours, with the roles of pronouns (her: his or him) told apart, and without.
- nested_loop: every word of the text is compared with every pair of the list.
- alternation: one regular expression that joins all the words of the list.

The two know no roles and take the first counterpart of every word. Where a word is edited by us (roles off) and by the
alternation, the edits must agree; the share of words that only one of them edits is printed.

Then: what swapping and aligning costs beside tokenising both texts, throughput with several processes, and the peak
memory of `distill swap` on an input and on one ten times as long.
"""

import argparse
import gc
import json
import lzma
import os
import random
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from distill.models.loading import load_tokenizer
from distill.text.alignment import mask_inside, to_original, token_ends
from distill.text.counterfactual import Swapper
from distill.text.prompts import load_prompts
from distill.text.roles import Ambiguity
from distill.text.wordlist import WordList, load_wordlist

PASSAGE = 4000  # characters of a document
OTHERS = ("nested_loop", "alternation")


class FirstRole:
    """No role rules: the first counterpart of every word."""

    version = "first"

    def __call__(self, text: str, ambiguities: Sequence[Ambiguity]) -> list[int]:
        return [0] * len(ambiguities)


def first_counterparts(wordlist: WordList) -> dict[str, str]:
    return {word: next(other for other, role in wordlist.counterparts(word, 1)) for word in wordlist.words}


def in_case_of(word: str, written: str) -> str:
    if written.isupper() and len(written) > 1:
        return word.upper()
    return word[:1].upper() + word[1:] if written[:1].isupper() else word


def nested_loop(wordlist: WordList) -> Callable[[str], str]:
    """For each word, for each pair."""
    pairs = list(first_counterparts(wordlist).items())
    words = re.compile(r"(\W+)")

    def swap(text: str) -> str:
        pieces = words.split(text)
        for index in range(0, len(pieces), 2):
            word = pieces[index].lower()
            for one, other in pairs:
                if word == one:
                    pieces[index] = in_case_of(other, pieces[index])
                    break
        return "".join(pieces)

    return swap


def alternation(wordlist: WordList) -> Callable[[str], str]:
    """One big regular expression, longest words first."""
    counterparts = first_counterparts(wordlist)
    longest_first = sorted(counterparts, key=len, reverse=True)
    pattern = re.compile(rf"\b(?:{'|'.join(map(re.escape, longest_first))})\b", re.IGNORECASE)

    def replace(match: re.Match) -> str:
        return in_case_of(counterparts[match[0].lower()], match[0])

    def swap(text: str) -> str:
        return pattern.sub(replace, text)

    swap.pattern = pattern
    return swap


def fiction(characters: int) -> str | None:
    """Held-out fiction, where the real data are."""
    root = Path(os.environ.get("DISTILL_DATA", Path(__file__).resolve().parents[3] / "shared" / "data"))
    path = root / "corpus" / "gutenberg_fiction.validation.jsonl.xz"
    if not path.exists():
        return None
    text = ""
    with lzma.open(path, "rt", encoding="utf-8") as lines:
        for line in lines:
            text += json.loads(line)["text"] + "\n"
            if len(text) >= characters:
                return text[:characters]
    return text


def made_up(characters: int, wordlist: WordList) -> str:
    """Sentences of the bundled prompts, about one word in twelve a listed one."""
    rng = random.Random(0)
    prompts = [prompt.text for prompt in load_prompts()]
    words = [*wordlist.words[:6] * 40, *wordlist.words]
    sentences = []
    size = 0
    while size < characters:
        sentence = f"{rng.choice(prompts)} {rng.choice(words)} saw the house by the river, and nobody answered. "
        sentences.append(sentence)
        size += len(sentence)
    return "".join(sentences)[:characters]


def agreement(ours: Swapper, expression: re.Pattern, documents: Sequence[str]) -> dict[str, float]:
    """Edits that both make, and the share of all edits that only one makes; raises where an edit differs."""
    both = only_ours = only_theirs = 0
    for text in documents:
        mine = {(span.start, span.end) for span in ours.swap(text).spans}
        theirs = {match.span() for match in expression.finditer(text)}
        both += len(mine & theirs)
        only_ours += len(mine - theirs)
        only_theirs += len(theirs - mine)
    edits = both + only_ours + only_theirs
    assert both > 0.9 * edits, (both, only_ours, only_theirs)
    return {"edits": edits, "only_ours": only_ours / edits, "only_alternation": only_theirs / edits}


def cpu_seconds(work: Callable[[], object]) -> float:
    begun = time.process_time()
    work()
    return time.process_time() - begun


def throughput(documents: Sequence[str], wordlist: WordList, repeats: int, say: Callable[[str], None]) -> dict:
    """MB/s of every contender and the ratios, from medians of alternating runs."""
    contenders: dict[str, Callable[[str], object]] = {
        "roles_on": Swapper(wordlist).swap,
        "roles_off": Swapper(wordlist, FirstRole()).swap,
        "nested_loop": nested_loop(wordlist),
        "alternation": alternation(wordlist),
    }
    megabytes = sum(len(text.encode()) for text in documents) / 1e6
    gc.collect()
    gc.freeze()  # what the imports hold; else one pass or another waits while all of it is looked through
    first = cpu_seconds(lambda: [Swapper(wordlist).swap(text) for text in documents[:1]])
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for run in range(repeats):
        for name, swap in contenders.items():
            seconds[name].append(cpu_seconds(lambda swap=swap: list(map(swap, documents))))
        say(f"run {run + 1} of {repeats}")
    median = {name: statistics.median(of) for name, of in seconds.items()}
    return {
        "ratios": {
            "throughput": {name: median[name] / median["roles_on"] for name in OTHERS},
            "throughput_roles_off": {name: median[name] / median["roles_off"] for name in OTHERS},
        },
        "mb_per_s": {name: megabytes / of for name, of in median.items()},
        "first_pass_mb_per_s": {name: megabytes / of[0] for name, of in seconds.items()},
        "seconds_to_compile_the_list": first,
        "agreement": agreement(Swapper(wordlist, FirstRole()), contenders["alternation"].pattern, documents),
    }


def beside_tokenising(documents: Sequence[str], wordlist: WordList, repeats: int) -> dict[str, float]:
    """CPU seconds a MB of swapping, aligning and tokenising both texts, and the share."""
    tokenizer = load_tokenizer("demo")
    swapper = Swapper(wordlist)

    def tokenise(texts: Sequence[str]) -> list:
        return [
            tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)["offset_mapping"]
            for text in texts
        ]

    def align(views: list) -> None:
        for counterfactual, original, other in views:
            mask_inside(token_ends(original), counterfactual.spans)
            to_original(token_ends(other), counterfactual.spans)

    seconds: dict[str, list[float]] = {"swap": [], "align": [], "tokenise": []}
    for _ in range(repeats):
        counterfactuals = list(map(swapper.swap, documents))
        seconds["swap"].append(cpu_seconds(lambda: list(map(swapper.swap, documents))))
        offsets: list = []
        seconds["tokenise"].append(
            cpu_seconds(
                lambda offsets=offsets, counterfactuals=counterfactuals: offsets.extend(
                    (tokenise(documents), tokenise([c.text for c in counterfactuals]))
                )
            )
        )
        views = list(zip(counterfactuals, *offsets, strict=True))
        seconds["align"].append(cpu_seconds(lambda views=views: align(views)))
    median = {name: statistics.median(of) for name, of in seconds.items()}
    return {**median, "share": (median["swap"] + median["align"]) / median["tokenise"]}


def in_processes(documents: Sequence[str], counts: Sequence[int], copies: int) -> dict[str, float]:
    """MB/s of `distill swap` in wall time by number of processes, without the time that it takes to start."""
    lines = [text.replace("\n", " ") + "\n" for text in documents]
    megabytes = sum(len(line.encode()) for line in lines) / 1e6
    program = "import sys; from distill.cli import main; sys.exit(main(sys.argv[1:]))"
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "input.txt")
        for count in counts:
            seconds = []
            for times in (1, copies + 1):
                path.write_text("".join(lines * times), encoding="utf-8")
                command = [sys.executable, "-c", program, "swap", str(path), "--num_proc", str(count)]
                begun = time.perf_counter()
                subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
                seconds.append(time.perf_counter() - begun)
            found[str(count)] = copies * megabytes / (seconds[1] - seconds[0])
    return found


def peak_memory(documents: Sequence[str], copies: int) -> float:
    """MiB at most resident in `distill swap` of the documents, that many times over. Linux only."""
    # Not ru_maxrss, which a process inherits from the one that started it.
    program = (
        "import re, sys; from distill.cli import main; code = main(['swap', sys.argv[1]]); "
        "print(re.search('VmHWM:(.*)kB', open('/proc/self/status').read())[1], file=sys.stderr); sys.exit(code)"
    )
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "input.txt")
        with path.open("w", encoding="utf-8") as stream:
            for _ in range(copies):
                stream.writelines(text.replace("\n", " ") + "\n" for text in documents)
        done = subprocess.run(
            [sys.executable, "-c", program, str(path)], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, check=True
        )
    return int(done.stderr.split()[-1]) / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--text", type=Path, help="UTF-8 text; default: held-out fiction, or made-up sentences")
    parser.add_argument("--wordlist", default="english_gender")
    parser.add_argument("--characters", type=int, default=1_000_000)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--num_proc", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    options = parser.parse_args()
    console = Console(stderr=True)
    wordlist = load_wordlist(options.wordlist)
    if options.text:
        text, source = options.text.read_text(encoding="utf-8")[: options.characters], options.text.name
    elif text := fiction(options.characters):
        source = "held-out fiction"
    else:
        text, source = made_up(options.characters, wordlist), "made-up sentences"
    documents = [text[at : at + PASSAGE] for at in range(0, len(text), PASSAGE)]
    figures = {
        "text": {"source": source, "bytes": len(text.encode()), "documents": len(documents)},
        "wordlist": {"name": wordlist.name, "rows": len(wordlist.rows), "sha256": wordlist.sha256},
        "repeats": options.repeats,
        **throughput(documents, wordlist, options.repeats, console.print),
        "beside_tokenising": beside_tokenising(documents, wordlist, options.repeats),
        "num_proc_mb_per_s": in_processes(documents, options.num_proc, copies=40),
        "peak_memory_mib": {f"{copies}x": peak_memory(documents, copies) for copies in (1, 10)},
    }
    if options.json:
        print(json.dumps(figures))
        return
    ratios, rates = figures["ratios"], figures["mb_per_s"]
    table = Table(title=f"{wordlist.name}, {len(text.encode()) / 1e6:.1f} MB of {source}, {options.repeats} runs")
    for heading in ("contender", "MB/s", "roles on is faster by", "roles off is faster by"):
        table.add_column(heading, justify="left" if heading == "contender" else "right")
    for name, rate in rates.items():
        by = (f"{ratios[key][name]:.1f}" if name in ratios[key] else "" for key in ratios)
        table.add_row(name, f"{rate:.2f}", *by)
    out = Console()
    out.print(table)
    share, memory = figures["beside_tokenising"]["share"], figures["peak_memory_mib"]
    out.print(f"swapping and aligning: {share:.1%} of the time to tokenise both texts")
    out.print("MB/s by processes: " + ", ".join(f"{n}: {r:.1f}" for n, r in figures["num_proc_mb_per_s"].items()))
    out.print("peak memory, MiB: " + ", ".join(f"{n} the input: {m:.0f}" for n, m in memory.items()))


if __name__ == "__main__":
    main()
