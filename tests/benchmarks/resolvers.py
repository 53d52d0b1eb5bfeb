"""How often each resolver tells his from him: both are blanked to her in real text, and recovered.

    python tests/benchmarks/resolvers.py [--data DIR] [--resolver SPEC ...] [--alone] [--limit N] [--json]

The texts are BOLD's originals from Wikipedia and the validation files of Wikipedia's pages on people and of English
fiction. The weights of `log_linear` were not learned from them; a language model may well have read them all. "His or
her", which blanking makes undecidable, is left out and counted. Recall and precision are those of him; time is
processor time.

    --resolver log_linear teacher:demo teacher:FOLDER spacy:en_core_web_sm
"""

import argparse
import json
import os
import re
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from common import machine, print_table

from distill.base.errors import UserError
from distill.models.resolvers import LanguageModelResolver, load_resolver
from distill.text.roles import Ambiguity, Resolver
from distill.wordlists.train_pronoun_roles import documents, examples

DATA = Path(os.environ.get("DISTILL_DATA", Path(__file__).resolve().parents[3] / "shared" / "data"))
SETS = {
    "BOLD gender": "bold/wikipedia/gender_wiki.json",
    "BOLD professions": "bold/wikipedia/profession_wiki.json",
    "people": "corpus/wikipedia_people.validation.jsonl.xz",
    "fiction": "corpus/gutenberg_fiction.validation.jsonl.xz",
}
ROLES = ("determiner", "object")
_HIS_OR_HIM = re.compile(r"\bhi[sm]\b", re.IGNORECASE)


class Blanked(NamedTuple):
    """A text in which every his and him is her.

    ambiguities: those that can be told apart; roles: of each the index that the text had; left_out: how many cannot.
    """

    text: str
    ambiguities: list[Ambiguity]
    roles: list[int]
    left_out: int


def read(path: Path) -> Iterator[str]:
    """The texts of a file of BOLD, {group: {subject: [text, ...]}}, or of JSON lines."""
    if path.suffix != ".json":
        yield from documents(path)
        return
    for subjects in json.loads(path.read_text(encoding="utf-8")).values():
        for texts in subjects.values():
            yield from texts


def blank(text: str) -> Blanked:
    """Blank a text."""
    roles = {start: role for start, _, pair, role in examples(text) if pair == 0}
    pieces, ambiguities, position, length = [], [], 0, 0
    words = list(_HIS_OR_HIM.finditer(text))
    for word in words:
        her = "her" if word[0].islower() else "HER" if word[0].isupper() else "Her"
        pieces += (text[position : word.start()], her)
        length += word.start() - position
        if word.start() in roles:
            ambiguities.append(Ambiguity(length, length + 3, ROLES))
        position, length = word.end(), length + 3
    return Blanked("".join((*pieces, text[position:])), ambiguities, list(roles.values()), len(words) - len(roles))


def thinned(texts: Sequence[Blanked], limit: int | None) -> list[Blanked]:
    """At most `limit` pronouns, evenly spaced."""
    total = sum(len(text.roles) for text in texts)
    kept = set(range(total)) if limit is None or limit >= total else {i * total // limit for i in range(limit)}
    chosen, first = [], 0
    for text in texts:
        here = [i for i in range(len(text.roles)) if first + i in kept]
        first += len(text.roles)
        ambiguities, roles = [text.ambiguities[i] for i in here], [text.roles[i] for i in here]
        chosen.append(text._replace(ambiguities=ambiguities, roles=roles))
    return chosen


def measure(resolver: Resolver, texts: Sequence[Blanked]) -> dict[str, Any]:
    """Accuracy, recall and precision of him, number of pronouns and of those left out, seconds per 1,000."""
    asked = [(text.text, text.ambiguities) for text in texts if text.roles]
    truth = [role for text in texts for role in text.roles]
    start = time.process_time()
    answers = resolver.resolve(asked) if hasattr(resolver, "resolve") else [resolver(*text) for text in asked]
    seconds = time.process_time() - start
    found = [role for roles in answers for role in roles]
    both = sum(one == other == 1 for one, other in zip(found, truth, strict=True))
    return {
        "n": len(truth),
        "left_out": sum(text.left_out for text in texts),
        "accuracy": sum(one == other for one, other in zip(found, truth, strict=True)) / len(truth),
        "recall": both / max(1, sum(truth)),
        "precision": both / max(1, sum(found)),
        "seconds_per_1000": seconds / len(truth) * 1000,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=DATA, help="the folder of the data sets; default: DISTILL_DATA")
    parser.add_argument("--resolver", nargs="+", default=["log_linear", "teacher:demo"], metavar="SPEC")
    parser.add_argument("--alone", action="store_true", help="language models without the log-linear model's help")
    parser.add_argument("--limit", type=int, metavar="N", help="at most N pronouns of each text, evenly spaced")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    options = parser.parse_args()
    texts = {}
    for name, path in SETS.items():
        if (options.data / path).exists():
            texts[name] = thinned([blank(text) for text in read(options.data / path)], options.limit)
        else:
            print(f"not found: {options.data / path}; {name} is left out", file=sys.stderr)
    results: dict[str, dict[str, Any]] = {}
    for spec in options.resolver:
        try:
            resolver = load_resolver(spec)
        except UserError as error:
            print(f"resolvers.py: {error}", file=sys.stderr)
            return 2
        if options.alone and isinstance(resolver, LanguageModelResolver):
            resolver.alone = True
        results[spec] = {}
        for name, of_set in texts.items():
            results[spec][name] = measure(resolver, of_set)
            print(f"{spec}, {name}: {results[spec][name]}", file=sys.stderr, flush=True)
    if options.json:
        print(json.dumps({"resolvers": results, **machine()}, indent=2))
        return 0
    header = ("resolver", "text", "n", "left out", "accuracy", "recall of him", "precision", "s / 1,000")
    rows = []
    for spec, of_spec in results.items():
        for name, r in of_spec.items():
            shares = (f"{r[key]:.2%}" for key in ("accuracy", "recall", "precision"))
            rows.append((spec, name, f"{r['n']:,}", str(r["left_out"]), *shares, f"{r['seconds_per_1000']:.2f}"))
    print_table(header, rows)
    return 0


if __name__ == "__main__":
    sys.exit(main())
