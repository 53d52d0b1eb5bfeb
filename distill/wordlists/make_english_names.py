"""Makes `english_names.tsv`: male and female first names, paired so that the two of a pair are about as common.

    python distill/wordlists/make_english_names.py us_first_names_1930_2015.csv fiction.jsonl.xz people.jsonl.xz

The first file holds births by name (name, female_births, male_births); the others are JSON lines (also .xz) with the
document in the field "text". The list that is shipped comes from the US Social Security counts of 1930 to 2015 (names
with at least 20,000 births), 185 books of English fiction (Project Gutenberg) and the lead sections of 4,164 Wikipedia
articles on people. Needs scipy; takes less than a minute, and the same files give the same list. It prints how close
the pairs are.

1. Left out: names of which fewer than 95% of the births are of one sex (of twenty people of a listed name, at most one
   is taken for the other; at 90%, where Kim's kind begins, two); words of `english_gender` (earl, guy); and names whose
   other reading no context tells apart (`LEFT_OUT`).
2. `ambiguous`: names that the corpora also show as a common word, a surname or a place, by the shares below, and
   `ALSO_SOMETHING_ELSE`.
3. Pairs, after Maudslay et al. 2019 ("It's All in the Name: Mitigating Gender Bias with Name-Based Counterfactual Data
   Substitution"): the bipartite matching with the least sum of Euclidean distances in log10 of the births and in the
   share of one sex, each divided by its standard deviation over the listed names, so that neither outweighs the other.
   There are more women's names than men's. So that those left over are ones that texts hold least, a pair gains
   `KNOWN` for every tenfold of the documents that hold its names. A row is ambiguous if one of its names is: a pair of
   which only one is costs `MIXED`, gains nothing, and comes about only where one side runs out of ambiguous names.
"""

import argparse
import csv
import json
import lzma
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import scipy.optimize

from distill.text.wordlist import load_wordlist

OUTPUT = Path(__file__).resolve().with_name("english_names.tsv")


def _words(words: str) -> frozenset[str]:
    return frozenset(words.split())


ONE_SIDED = 0.95
# In standard deviations, as the distances are.
KNOWN = 1.0
MIXED = 4.0

# A name is ambiguous where at least this share, and at least that number, of its occurrences are ...
IN_LOWER_CASE = (0.1, 5)  # ... the word in lower case: rose
AS_PLACE = (0.1, 5)  # ... behind in, from, near or into, and no other capitalised word follows: in Florence
WITH_NUMBER = (0.1, 5)  # ... beside a number: April 12
WITH_ARTICLE = (0.2, 5)  # ... behind the, a or an, and no other capitalised word follows: an Oscar
AS_SURNAME = (0.3, 5)  # ... of the documents that hold the name: behind a first name, an initial, Mr., Mrs. or Dr.

# What the corpora are too old or too small to show: places, other words and names, surnames first of all.
ALSO_SOMETHING_ELSE = _words("""
    alberta austin carolina cheyenne dixie georgia hudson lorraine madison mariana orlando regina savanna savannah troy
    victoria weston
    gene mercedes norman oscar paisley scarlett sienna
    brady bryant dawson donovan kendrick nelson nolan preston reid sheldon winston
    """)
# Names of what is no person, but stand where a person's name may (Asia Minor, Roman Catholic, Heaven forbid); titles
# and parts of names (Don Carlos, Van Gogh, Sammy Davis Junior); and one of which one bearer comes before all others.
LEFT_OUT = _words("""
    asia christian genesis heaven india israel kenya roman sierra
    don junior van
    jesus
    """)

_TOKEN = re.compile(r"\w+(?:['’]\w+)*|[^\w\s]|\n")
_POSSESSIVE = re.compile(r"['’]s$")
_TITLES = frozenset({"Mr", "Mrs", "Dr"})
_BEFORE_PLACE = frozenset({"in", "from", "near", "into"})
_ARTICLES = frozenset({"the", "a", "an"})


@dataclass(frozen=True)
class Name:
    """A first name (lower case): births, the share of them that are of its own sex, and whether it is female."""

    name: str
    births: int
    share: float
    female: bool


def read_births(path: Path) -> list[Name]:
    """All names of the table, in its order."""
    names = []
    with path.open(encoding="utf-8", newline="") as rows:
        for row in csv.DictReader(rows):
            female, male = int(row["female_births"]), int(row["male_births"])
            births = female + male
            names.append(Name(row["name"].lower(), births, max(female, male) / births, female > male))
    return names


def documents(path: Path) -> Iterator[str]:
    """The texts of a file of JSON lines."""
    with lzma.open(path, "rt", encoding="utf-8") if path.suffix == ".xz" else path.open(encoding="utf-8") as lines:
        for line in lines:
            yield json.loads(line)["text"]


class Uses:
    """How texts use the names: counters by name.

    lower, capital: occurrences in lower case and capitalised; place, number, article: of the capitalised, those that
    look like one; documents, surname: documents that hold the name capitalised, and as a surname.
    """

    def __init__(self, names: Iterable[Name]) -> None:
        self.is_female = {name.name: name.female for name in names}
        self.lower: Counter[str] = Counter()
        self.capital: Counter[str] = Counter()
        self.documents: Counter[str] = Counter()
        self.place: Counter[str] = Counter()
        self.number: Counter[str] = Counter()
        self.article: Counter[str] = Counter()
        self.surname: Counter[str] = Counter()

    def add(self, text: str) -> None:
        """Counts one document."""
        tokens = ["\n", "\n", *(_POSSESSIVE.sub("", token) for token in _TOKEN.findall(text)), "\n"]
        seen, surnames = set(), set()
        for index in range(2, len(tokens) - 1):
            token, name = tokens[index], tokens[index].lower()
            if name not in self.is_female:
                continue
            if token == name:
                self.lower[name] += 1
            if token != name.capitalize():
                continue
            before_last, before, after = tokens[index - 2], tokens[index - 1], tokens[index + 1]
            seen.add(name)
            self.capital[name] += 1
            self.number[name] += before[0].isdigit() or after[0].isdigit()
            if after[0].isupper() and after != "I":
                continue
            self.place[name] += before in _BEFORE_PLACE
            self.article[name] += before in _ARTICLES
            if self._ends_in_surname(name, before_last, before):
                surnames.add(name)
        self.documents.update(seen)
        self.surname.update(surnames)

    def _ends_in_surname(self, name: str, before_last: str, before: str) -> bool:
        """Whether what stands before makes the name a surname; a woman's name behind another (Mary Ann) is none."""
        if before == ".":
            return before_last in _TITLES or (len(before_last) == 1 and before_last.isupper())
        if before in _TITLES:
            return True
        is_first_name = before.istitle() and before.lower() in self.is_female and before.lower() not in LEFT_OUT
        return is_first_name and not (self.is_female[name] and self.is_female[before.lower()])

    def is_ambiguous(self, name: str) -> bool:
        """Whether the name is often something else in these texts, or known to be."""
        capital, all_documents = self.capital[name], self.documents[name]
        return name in ALSO_SOMETHING_ELSE or any(
            part >= least and part >= share * whole
            for part, whole, (share, least) in (
                (self.lower[name], self.lower[name] + capital, IN_LOWER_CASE),
                (self.place[name], capital, AS_PLACE),
                (self.number[name], capital, WITH_NUMBER),
                (self.article[name], capital, WITH_ARTICLE),
                (self.surname[name], all_documents, AS_SURNAME),
            )
        )


def choose(names: Iterable[Name]) -> list[Name]:
    """The names that can be listed: one-sided, and no word or name of anything else that no context tells apart."""
    taken = {*load_wordlist("english_gender").words, *LEFT_OUT}
    return [name for name in names if name.share >= ONE_SIDED and name.name not in taken]


def match(names: list[Name], ambiguous: set[str], documents: Mapping[str, int]) -> list[tuple[Name, Name]]:
    """Pairs (male, female) with the least sum of costs, the most common men's names first.

    documents: in how many texts a name occurs.
    """
    points = np.array([(np.log10(name.births), name.share) for name in names])
    points /= points.std(axis=0)
    gain = KNOWN * np.log10([1 + documents[name.name] for name in names])
    mark = np.array([name.name in ambiguous for name in names])
    female = np.array([name.female for name in names])
    cost = np.linalg.norm(points[~female, None] - points[None, female], axis=-1)
    mixed = mark[~female, None] != mark[None, female]
    cost += np.where(mixed, MIXED, -gain[~female, None] - gain[None, female])
    men, women = ([name for name in names if name.female == sex] for sex in (False, True))
    pairs = [(men[row], women[column]) for row, column in zip(*scipy.optimize.linear_sum_assignment(cost), strict=True)]
    return sorted(pairs, key=lambda pair: (-pair[0].births, pair[0].name))


def table(pairs: list[tuple[Name, Name]], ambiguous: set[str]) -> str:
    """The word list's text."""
    lines = [
        "# name: english_names",
        "# description: first names of men and women in the US, paired by how common and how one-sided they are",
        "# licence: Apache-2.0",
        "# version: 1",
        "# language: en",
        "# source: US Social Security counts of births by first name, 1930 to 2015 (public domain)",
        "# made-by: make_english_names.py, which says how; do not edit by hand",
        "# groups: male, female",
        "male\tfemale\twhen",
    ]
    for male, female in pairs:
        when = "name ambiguous" if {male.name, female.name} & ambiguous else "name"
        lines.append(f"{male.name}\t{female.name}\t{when}")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("births", type=Path, help="CSV with the columns name, female_births, male_births")
    parser.add_argument("corpora", nargs="+", type=Path)
    parser.add_argument("--output", type=Path, default=OUTPUT)
    options = parser.parse_args()
    all_names = read_births(options.births)
    uses = Uses(all_names)
    for path in options.corpora:
        for text in documents(path):
            uses.add(text)
    names = choose(all_names)
    ambiguous = {name.name for name in names if uses.is_ambiguous(name.name)}
    pairs = match(names, ambiguous, uses.documents)
    options.output.write_text(table(pairs, ambiguous), encoding="utf-8")
    ratios = np.array([max(m.births, f.births) / min(m.births, f.births) for m, f in pairs])
    differences = np.array([abs(m.share - f.share) for m, f in pairs])
    births = sum(name.births for pair in pairs for name in pair) / sum(name.births for name in all_names)
    print(
        f"{len(all_names)} names, {len(names)} can be listed, {len(pairs)} pairs with {births:.1%} of the births; "
        f"{sum(bool({m.name, f.name} & ambiguous) for m, f in pairs)} ambiguous, "
        f"{sum((m.name in ambiguous) != (f.name in ambiguous) for m, f in pairs)} of them in one name only"
    )
    print(
        f"within a pair: ratio of births median {np.median(ratios):.2f}, 9 of 10 below {np.quantile(ratios, 0.9):.2f}; "
        f"difference in the share of one sex median {np.median(differences):.4f}, 9 of 10 below "
        f"{np.quantile(differences, 0.9):.4f}"
    )


if __name__ == "__main__":
    main()
