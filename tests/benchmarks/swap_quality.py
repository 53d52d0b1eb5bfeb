"""How right the counterfactuals are, beside a public tool and two baselines; written to SWAP.md beside this file.

    python tests/benchmarks/swap_quality.py [--data DIR] [--cases FILE] [--gender-bender PYTHON] [--limit N]

1. Blank and recover: every his and him of a text becomes her, and the swap says which it was. What the text had is the
   truth. "His or her", which blanking makes undecidable, is left out. The weights of the roles come from the training
   halves of people and fiction and from GAP's development set, which is seen text therefore; see --weights.
2. There and back: a text swapped twice; counted are the his, him, her and hers that come back.
3. Endings: sentences that end in him, with something else than a full stop behind, swapped there and back.
4. Cases: inputs, and what a careful reader writes.

`--gender-bender` is the Python of an environment of its own that has gender-bender 0.1.3, spaCy 2.3 and its small
English model of 2.2; the tool reads a word at a time, so it gets the first N texts of each set only.
"""

import argparse
import json
import lzma
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from distill.text.counterfactual import Swapper
from distill.text.roles import Ambiguity, PronounModel
from distill.text.wordlist import load_wordlist

_SHARED = Path(__file__).resolve().parents[3] / "shared"
DATA = Path(os.environ.get("DISTILL_DATA", _SHARED / "data"))
TABLE = Path(__file__).with_name("SWAP.md")
SETS = {
    "GAP": "gap/gap-development.tsv",
    "BOLD": "bold/wikipedia",
    "people": "corpus/wikipedia_people.validation.jsonl.xz",
    "fiction": "corpus/gutenberg_fiction.validation.jsonl.xz",
    "HateXplain": "hatexplain/train.json",
}
ENDINGS = {
    "a full stop": ".",
    "nothing": "",
    "an emoji": " 😍",
    "<br />": "<br />",
    "a line break and lower case": "\nthen we talked",
    '" lol"': " lol",
    '" rn"': " rn",
    '" tbh"': " tbh",
    '" tomorrow"': " tomorrow",
}
_HIS_OR_HER = re.compile(r"\b(?:his|him)(?: or |/)hers?\b|\bhers?(?: or |/)(?:his|him)\b", re.IGNORECASE)
_HIS_OR_HIM = re.compile(r"\bhi[sm]\b", re.IGNORECASE)
_PRONOUN = re.compile(r"\b(?:his|him|hers?)\b", re.IGNORECASE)
_ENDS_IN_HIM = re.compile(r"[^.!?\n]*\bhim(?=[.!?])")

Swap = Callable[[Sequence[str]], list[str]]


# ------------------------------------------------------------------------------------------------------------- texts


def read(path: Path) -> Iterator[str]:
    """The texts of a data set, in its order."""
    if path.is_dir():
        for file in ("gender_wiki.json", "profession_wiki.json"):
            for subjects in json.loads((path / file).read_text(encoding="utf-8")).values():
                for texts in subjects.values():
                    yield from texts
    elif path.suffix == ".tsv":
        yield from (line.split("\t")[1] for line in path.read_text(encoding="utf-8").splitlines()[1:])
    elif path.suffix == ".json":
        yield from (text for text, _ in json.loads(path.read_text(encoding="utf-8")))
    else:
        with lzma.open(path, "rt", encoding="utf-8") as lines:
            yield from (json.loads(line)["text"] for line in lines)


def read_cases(path: Path) -> list[tuple[str, str]]:
    r"""The rows of a table of an input and what a careful reader writes; \n is a line break."""
    lines = path.read_text(encoding="utf-8").splitlines()
    rows = [line.replace("\\n", "\n").split("\t") for line in lines if line and not line.startswith("#")]
    return [(text, expected) for text, expected in rows]


# ---------------------------------------------------------------------------------------------------------- measures


class Blanked(NamedTuple):
    """A text in which every his and him is her; truth: the number of the word -> what it was, if it can be told."""

    text: str
    truth: dict[int, str]


_WORD = re.compile(r"\w+(?:['’-]\w+)*")


def blank(text: str) -> Blanked:
    """Blank a text."""
    undecidable = [match.span() for match in _HIS_OR_HER.finditer(text)]
    truth, pieces, position = {}, [], 0
    for number, word in enumerate(_WORD.finditer(text)):
        if not _HIS_OR_HIM.fullmatch(word[0]):
            continue
        if not any(start <= word.start() < end for start, end in undecidable):
            truth[number] = word[0].lower()
        her = "her" if word[0].islower() else "HER" if word[0].isupper() else "Her"
        pieces += (text[position : word.start()], her)
        position = word.end()
    return Blanked("".join((*pieces, text[position:])), truth)


def recovered(swap: Swap, texts: Sequence[str]) -> dict[str, Any]:
    """Numbers of his and him that were swapped, the share that comes back, and of each the share that does not.

    left: how many were not swapped there: their sentence is one to skip, or they are no words there.
    """
    blanked = [of for of in map(blank, texts) if of.truth]
    right = {"his": 0, "him": 0}
    total = {"his": 0, "him": 0}
    left = 0
    for of, edited in zip(blanked, swap([of.text for of in blanked]), strict=True):
        words = _WORD.findall(edited.lower())
        for number, word in of.truth.items():
            found = words[number] if number < len(words) else ""
            if found not in ("his", "him"):  # not swapped: in a sentence to skip, or no word here
                left += 1
                continue
            total[word] += 1
            right[word] += found == word
    n = sum(total.values())
    return {
        "n": n,
        "right": sum(right.values()) / max(1, n),
        **{f"{word} n": count for word, count in total.items()},
        **{f"{word} lost": (total[word] - right[word]) / max(1, total[word]) for word in total},
        "left": left,
    }


def there_and_back(swap: Swap, texts: Sequence[str]) -> dict[str, Any]:
    """The share of his, him, her and hers that come back when a text is swapped twice."""
    texts = [text for text in texts if _PRONOUN.search(text)]
    right = total = 0
    for text, twice in zip(texts, swap(swap(texts)), strict=True):
        words = _WORD.findall(twice.lower())
        for number, word in enumerate(_WORD.findall(text.lower())):
            if _PRONOUN.fullmatch(word):
                total += 1
                right += number < len(words) and words[number] == word
    return {"n": total, "right": right / max(1, total)}


def ending_sentences(texts: Sequence[str]) -> list[str]:
    """The sentences that end in him, up to and with it."""
    return [match[0].strip() for text in texts for match in _ENDS_IN_HIM.finditer(text)]


def endings_lost(swap: Swap, sentences: Sequence[str]) -> dict[str, float]:
    """By ending: the share of sentences in which him does not come back from there."""
    lost = {}
    for name, ending in ENDINGS.items():
        twice = swap(swap([sentence + ending for sentence in sentences]))
        lost[name] = sum(not of.endswith("him" + ending) for of in twice) / len(sentences)
    lowered = [sentence.lower() + "\n" for sentence in sentences]
    lost["lower case, a line break"] = sum(not of.endswith("him\n") for of in swap(swap(lowered))) / len(sentences)
    return lost


# -------------------------------------------------------------------------------------------------------- contenders


class Always:
    """The first baseline: always his, never hers."""

    version = "always"

    def __call__(self, text: str, ambiguities: Sequence[Ambiguity]) -> list[int]:
        return [
            ambiguity.roles.index("determiner") if "determiner" in ambiguity.roles else 0 for ambiguity in ambiguities
        ]


_FUNCTION_WORDS = frozenset(
    [
        "a",
        "an",
        "the",
        "and",
        "or",
        "but",
        "if",
        "to",
        "of",
        "in",
        "on",
        "at",
        "by",
        "for",
        "from",
        "with",
        "as",
        "than",
        "that",
        "when",
        "where",
        "while",
        "who",
        "is",
        "was",
        "are",
        "were",
        "be",
        "been",
        "has",
        "had",
        "have",
        "did",
        "do",
        "does",
        "will",
        "would",
        "can",
        "could",
        "may",
        "might",
        "must",
        "shall",
        "should",
        "not",
        "i",
        "he",
        "she",
        "it",
        "we",
        "you",
        "they",
    ]
)


class NextWord:
    """The second baseline: the next word alone. Before a word that opens a noun phrase his, else him or hers."""

    version = "next word"

    def __call__(self, text: str, ambiguities: Sequence[Ambiguity]) -> list[int]:
        chosen = []
        for _, end, roles in ambiguities:
            word = re.match(r"\s+([^\W\d_]+)", text[end : end + 40])
            opens = word is not None and word[1].lower() not in _FUNCTION_WORDS
            wanted = ("determiner",) if opens else ("object", "pronoun")
            chosen.append(next((roles.index(role) for role in wanted if role in roles), 0))
        return chosen


def ours(swapper: Swapper) -> Swap:
    """A swapper on many texts."""
    return lambda texts: [swapper.swap(text).text for text in texts]


_CHILD = """
import json, sys, warnings
warnings.filterwarnings("ignore")
import en_core_web_sm, spacy
spacy.load = lambda name: en_core_web_sm.load()
from gender_bender import gender_bend
print(json.dumps([gender_bend(text) for text in json.load(sys.stdin)]))
"""


def gender_bender(python: str) -> Swap:
    """The public tool, in its own environment."""

    def swap(texts: Sequence[str]) -> list[str]:
        command = [python, "-W", "ignore", "-c", _CHILD]
        done = subprocess.run(command, input=json.dumps(list(texts)), capture_output=True, text=True, check=True)
        return json.loads(done.stdout.splitlines()[-1])

    return swap


# ------------------------------------------------------------------------------------------------------------ report


def measure(swap: Swap, texts: dict[str, list[str]], cases: Sequence[tuple[str, str]]) -> dict[str, Any]:
    """Everything that is measured of one contender."""
    sentences = [s for name in ("GAP", "people", "fiction") for s in ending_sentences(texts.get(name, ()))]
    found = swap([text for text, _ in cases])
    return {
        "recovered": {name: recovered(swap, of_set) for name, of_set in texts.items()},
        "there_and_back": {name: there_and_back(swap, of_set) for name, of_set in texts.items()},
        "endings": {"n": len(sentences), **endings_lost(swap, sentences)} if sentences else {},
        "cases": {
            "n": len(cases),
            "right": sum(got == expected for got, (_, expected) in zip(found, cases, strict=True)),
        },
    }


def report(results: dict[str, dict[str, Any]]) -> str:
    """The tables, as Markdown; a contender's first column is what it is compared with."""
    first = next(iter(results.values()))
    lines: list[str] = []

    def table(title: str, heading: str, keys: Sequence[str], cell: Callable[[dict[str, Any], str], str]) -> None:
        lines.extend(("", f"## {title}", "", f"| {heading} | {' | '.join(results)} |", "|---|" + "---|" * len(results)))
        lines.extend(f"| {key} | {' | '.join(cell(of, key) for of in results.values())} |" for key in keys)

    def share(of_measure: str, value: str, count: str = "n") -> Callable[[dict[str, Any], str], str]:
        def cell(of: dict[str, Any], key: str) -> str:
            found = of[of_measure].get(key)
            return f"{found[value]:.1%} of {found[count]:,}" if found and found[count] else "-"

        return cell

    sets = list(first["recovered"])
    table("His and him, blanked to her and recovered", "right", sets, share("recovered", "right"))
    table("Him that did not come back", "lost", sets, share("recovered", "him lost", "him n"))
    table("There and back: his, him, her, hers", "right", sets, share("there_and_back", "right"))
    endings = [name for name in first["endings"] if name != "n"]
    title = "Sentences that end in him, with something behind, there and back"

    def wrong(of: dict[str, Any], key: str) -> str:
        return f"{of['endings'][key]:.1%} of {of['endings']['n']:,}" if of["endings"] else "-"

    table(title, "wrong", endings, wrong)
    table("Cases", "", ["right"], lambda of, key: f"{of['cases'][key]} of {of['cases']['n']}")
    return "\n".join(lines).lstrip("\n") + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=DATA, help="the folder of the data sets; default: DISTILL_DATA")
    parser.add_argument("--cases", type=Path, help="default: cases/swap.tsv beside the data")
    parser.add_argument("--wordlist", default="english_gender")
    parser.add_argument("--gender-bender", metavar="PYTHON", help="of the environment that has the tool")
    parser.add_argument("--limit", type=int, default=150, help="texts of each set that gender-bender gets")
    parser.add_argument(
        "--weights", type=Path, help="of train_pronoun_roles.py --half: GAP is that half that they did not see"
    )
    parser.add_argument("--only", action="store_true", help="our own swap alone, printed, nothing written")
    options = parser.parse_args()
    wordlist = load_wordlist(options.wordlist)
    texts = {
        name: [line for text in read(options.data / path) for line in text.split("\n") if line.strip()]
        for name, path in SETS.items()
        if (options.data / path).exists()
    }
    model = PronounModel(options.weights) if options.weights else None
    if model:
        texts["GAP"] = texts["GAP"][1::2]
    cases = read_cases(options.cases or options.data.parent / "cases" / "swap.tsv")
    results = {"distill": measure(ours(Swapper(wordlist, model)), texts, cases)}
    if not options.only:
        for name, resolver in (("always his", Always()), ("next word alone", NextWord())):
            results[name] = measure(ours(Swapper(wordlist, resolver)), texts, cases)
    if options.gender_bender:
        some = {name: of_set[: options.limit] for name, of_set in texts.items()}
        results["gender-bender 0.1.3"] = measure(gender_bender(options.gender_bender), some, cases)
    tables = report(results)
    print(tables)
    if not options.only:
        head, mark, _ = TABLE.read_text(encoding="utf-8").partition("<!-- tables -->\n")
        TABLE.write_text(head + mark + tables, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
