"""A word list -> what is wrong or suspicious in it, how its words resolve, and what it covers of a text or a tokenizer.

1. Every mistake of the file(s): a list with one is not looked at further                      -> mistakes.
2. Rows that are allowed but look wrong: number, spelling, group, pair, one-way without effect -> suspicions.
3. Words with several counterparts, and when each of them holds                                -> choices, one-way rows.
4. With a text: what of it is swapped, which rows never are, which gendered words are missing  -> `Coverage`.
5. With a tokenizer: which words are one token, and which rows can be moved                    -> `TokenCoverage`.
"""

import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from distill.base.console import counter
from distill.recipe import CorpusConfig
from distill.text.counterfactual import Swapper
from distill.text.documents import read_documents
from distill.text.role_map import token_roles
from distill.text.wordlist import (
    CAPITALISED,
    LIKE_IN_LIST,
    ROLES,
    Row,
    WordList,
    capitalised,
    load_wordlist,
    wordlist_mistakes,
)

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_REFERENCE = "english_gender"
_REFERENCE_FILES = "english_gender+english_occupation_forms+none"
_REFERENCE_GROUPS = ("male", "female")
_TOP = 20  # rows and words that a table in the terminal shows

_WORD = re.compile(r"\w+(?:['’]\w+)*")


@dataclass(frozen=True)
class Suspicion:
    """A row that is allowed but looks wrong; where: file and line."""

    where: str
    reason: str
    hint: str

    def __str__(self) -> str:
        return f"{self.where}: {self.reason}; {self.hint}"


@dataclass(frozen=True)
class Option:
    """One of a word's several counterparts.

    when: the role in which it holds, None for "otherwise".
    counterparts: its words in the other groups, in the order of the groups.
    example: a phrase with the word, and the same phrase with each counterpart.
    """

    when: str | None
    counterparts: tuple[str, ...]
    example: str


@dataclass(frozen=True)
class Choice:
    """A word with several counterparts."""

    word: str
    group: str
    options: tuple[Option, ...]


@dataclass(frozen=True)
class OneWay:
    """A row for words without any other row.

    holds_for: those words; none if the row has no effect.
    """

    words: tuple[str, ...]
    when: str | None
    holds_for: tuple[str, ...]


@dataclass(frozen=True)
class RowHits:
    """How often the words of a row were swapped by it."""

    words: tuple[str, ...]
    when: str | None
    hits: int


@dataclass(frozen=True)
class Missing:
    """A word that English has for one of the groups, that the text holds and that the list does not.

    counterparts: as the bundled list pairs it.
    """

    word: str
    group: str
    hits: int
    counterparts: tuple[str, ...]


@dataclass(frozen=True)
class Coverage:
    """What the list swaps of a text.

    Attributes:
        documents: Documents read.
        documents_with_hit: Of them, those in which a word is swapped.
        words: Words of the text: letters, digits and the apostrophes within.
        hits: Swapped words and phrases; by group in `hits_by_group`.
        skipped_sentences: Sentences that the list leaves alone.
        rows: Rows of the list by hits, most first; those that never hit have 0. Rows of the same words in several roles
            share their hits.
        missing: By frequency; None where it was not checked, for the list's groups are not male and female, or it is of
            another language than English.
    """

    documents: int
    documents_with_hit: int
    words: int
    hits: int
    hits_by_group: dict[str, int]
    skipped_sentences: int
    rows: tuple[RowHits, ...]
    missing: tuple[Missing, ...] | None

    @property
    def hits_per_thousand_words(self) -> float:
        """0 for a text without words."""
        return 1000 * self.hits / self.words if self.words else 0.0


@dataclass(frozen=True)
class TokenCoverage:
    """What the list is in tokens.

    Attributes:
        tokenizer: What it is called.
        words: Listed words.
        one_token: Of them, those that are one token behind a space (" word").
        one_token_capitalised: Those that are one token capitalised and without a space ("Word").
        rows: Rows of the list.
        movable_rows: Of them, those of which every word has a form whose probability can be moved (`role_map`).
        unmovable: Words that have none.
    """

    tokenizer: str
    words: int
    one_token: int
    one_token_capitalised: int
    rows: int
    movable_rows: int
    unmovable: tuple[str, ...]


@dataclass(frozen=True)
class WordListCheck:
    """Everything that was found about a list; with mistakes, only they.

    roles: role (`always` for none) -> rows; one-way rows are among them.
    language: as a file of the list names it; "" where none does.
    """

    name: str
    mistakes: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()
    rows: int = 0
    words_by_group: dict[str, int] = field(default_factory=dict)
    roles: dict[str, int] = field(default_factory=dict)
    protected: int = 0
    skip: int = 0
    choices: tuple[Choice, ...] = ()
    one_way: tuple[OneWay, ...] = ()
    suspicions: tuple[Suspicion, ...] = ()
    coverage: Coverage | None = None
    tokens: TokenCoverage | None = None
    language: str = ""


def check_wordlist(
    name_or_path: str | Path,
    text: Sequence[str] = (),
    tokenizer: "tuple[str, PreTrainedTokenizerBase] | None" = None,
    text_column: str = "text",
) -> WordListCheck:
    """Check a word list, and what it covers.

    A text is read document by document: the memory that it takes grows with the longest of them, not their number.

    Args:
        name_or_path: As `load_wordlist` takes it.
        text: Files or glob patterns, as `corpus.files` of a recipe.
        tokenizer: What it is called, and the tokenizer itself.
        text_column: Column or JSON key that holds the text.

    Raises:
        UserError: a file is missing or no text. Mistakes in the list are in the result.
    """
    name = str(name_or_path)
    if mistakes := wordlist_mistakes(name):
        return WordListCheck(name, tuple(mistakes))
    wordlist = load_wordlist(name)
    groups = wordlist.groups
    roles = Counter(row.when or "always" for row in wordlist.rows)
    words = Counter(groups[group] for group in wordlist.group_of.values())
    one_way = tuple(OneWay(row.words, row.when, _only_one_way(row, wordlist)) for row in wordlist.rows if row.one_way)
    return WordListCheck(
        name,
        (),
        groups,
        len(wordlist.rows),
        {group: words[group] for group in groups},
        {role: roles[role] for role in ("always", *ROLES) if roles[role]},
        len(wordlist.protected),
        len(wordlist.skip),
        tuple(_choices(wordlist)),
        one_way,
        tuple(_suspicions(wordlist)),
        _coverage(wordlist, text, text_column) if text else None,
        _token_coverage(wordlist, *tokenizer) if tokenizer else None,
        wordlist.metadata.get("language", ""),
    )


def check_dict(check: WordListCheck) -> dict[str, Any]:
    """The result as JSON has it."""
    content = asdict(check)
    if check.coverage is not None:
        content["coverage"]["hits_per_thousand_words"] = check.coverage.hits_per_thousand_words
    return content


# ------------------------------------------------------------------------------------------------- several counterparts

_EXAMPLES = {
    "determiner": "{} book",
    "object": "saw {}",
    "pronoun": "the book is {}",
    "title": "{} Smith",
    "name": "{} said",
}


def _choices(wordlist: WordList) -> Iterator[Choice]:
    for word, group in wordlist.group_of.items():
        options = _options(word, wordlist)
        if len(options) > 1:
            told = tuple(Option(role, others, _example(role, word, others)) for others, role in options)
            yield Choice(word, wordlist.groups[group], told)


def _options(word: str, wordlist: WordList) -> list[tuple[tuple[str, ...], str | None]]:
    """(its words in the other groups, in the order of the groups; role) of every row that swaps the word."""
    group = wordlist.group_of[word]
    shifts = [(other - group) % wordlist.num_groups for other in range(wordlist.num_groups) if other != group]
    by_row = zip(*(wordlist.counterparts(word, shift) for shift in shifts), strict=True)
    return [(tuple(other for other, _ in row), row[0][1]) for row in by_row]


def _example(role: str | None, word: str, counterparts: tuple[str, ...]) -> str:
    template = _EXAMPLES.get(role or "", "{}")
    words = (word, *counterparts)
    if role in CAPITALISED:
        words = tuple(map(capitalised, words))
    return " → ".join(map(template.format, words))


def _only_one_way(row: Row, wordlist: WordList) -> tuple[str, ...]:
    """The words of a one-way row that it swaps."""
    return tuple(
        word
        for word in row.words
        if (tuple(other for other in row.words if other != word), row.when) in _options(word, wordlist)
    )


# ----------------------------------------------------------------------------------------------------------- suspicions

_JUNK = re.compile(r'[_,;:|()\[\]{}<>"=*+?!]')
# Shorter words are too often one letter apart without a mistake: mom and mum, lad and lass.
_MIN_LETTERS = 5


def _suspicions(wordlist: WordList) -> Iterator[Suspicion]:
    """Row by row; the rules for English are left out where the list's `language` is another."""
    english = wordlist.language in ("", "en")
    reference = load_wordlist(_REFERENCE_FILES)
    known = _KnownWords(wordlist, reference)
    checks = (known.crossed, _Number(wordlist).differs, _Spelling(wordlist, reference).is_odd, known.paired_otherwise)
    for row in wordlist.rows:
        where = f"{row.file}, line {row.line}"
        for word in row.words:
            if found := _JUNK.search(word):
                hint = "write the word as texts have it, with spaces"
                yield Suspicion(where, f"{word!r} has the character {found[0]!r}", hint)
        if row.one_way and not _only_one_way(row, wordlist):
            reason = f"the one-way row {' / '.join(row.words)} has no effect, as each of its words has another row"
            yield Suspicion(where, reason, "delete it, or take one-way off and give the rows roles")
        if english and row.when != "name" and not row.generic:
            told = next(filter(None, (check(row) for check in checks)), None)
            if told is not None:
                yield Suspicion(where, *told)


_Told = tuple[str, str] | None  # a reason and a hint


class _KnownWords:
    """Words of the bundled list that stand in another group here, or beside a word that is another's counterpart."""

    def __init__(self, wordlist: WordList, reference: WordList) -> None:
        self._reference = reference
        self._groups = {
            group.lower(): column for column, group in enumerate(wordlist.groups) if group.lower() in reference.groups
        }

    def crossed(self, row: Row) -> _Told:
        for group, column in self._groups.items():
            word = row.words[column]
            known = self._reference.group_of.get(word)
            named = None if known is None else self._reference.groups[known]
            if word.endswith(("woman", "women")):
                named = "female"
            if named is not None and named != group:
                return f"{word!r} is in group {group!r}, but it is {named}", "are the columns of this row crossed?"
        return None

    def paired_otherwise(self, row: Row) -> _Told:
        words = [row.words[column] for column in self._groups.values()]
        if len(words) < 2 or not all(word in self._reference.group_of for word in words):
            return None
        theirs = [_paired(word, self._reference) for word in words]
        if words[0] in theirs[1] or words[1] in theirs[0]:
            return None
        told = " and ".join(f"{word!r} with {' or '.join(t)}" for word, t in zip(words, theirs, strict=True))
        return f"{words[0]!r} stands beside {words[1]!r}, but {_REFERENCE} pairs {told}", "is it what you mean?"


class _Number:
    """Plurals beside singulars, as far as the list itself shows which is which: it has both forms in one group."""

    def __init__(self, wordlist: WordList) -> None:
        self._singular_of = {}
        for word, group in wordlist.group_of.items():
            for singular in _singulars(word):
                if wordlist.group_of.get(singular) == group:
                    self._singular_of[word] = singular
        self._singulars = frozenset(self._singular_of.values())
        self._pairs = {frozenset(row.words) for row in wordlist.rows}

    def differs(self, row: Row) -> _Told:
        if row.when not in (None, "title"):
            return None  # hers is no plural of her
        plurals = [word for word in row.words if self._is_plural(word)]
        singulars = [word for word in row.words if self._is_singular(word) and word not in plurals]
        hint = "pair words of the same number"
        if plurals and singulars:
            return f"{plurals[0]!r} is a plural and {singulars[0]!r} is not", hint
        for plural in plurals if len(row.words) == 2 else ():
            (other,) = (word for word in row.words if word != plural)
            singular = self._singular_of.get(plural)
            if singular and frozenset((singular, other)) in self._pairs:
                return f"{other!r} stands for {plural!r} and for {singular!r}", hint
        return None

    def _is_plural(self, word: str) -> bool:
        return word in self._singular_of or word == "men" or word.endswith("women")

    def _is_singular(self, word: str) -> bool:
        return word in self._singulars or word.endswith("man")


def _singulars(word: str) -> Iterator[str]:
    """What a word may be the regular plural of."""
    if word.endswith("men"):
        yield f"{word[:-3]}man"
    if word.endswith("s") and not word.endswith("ss"):
        yield word[:-1]
        if word.endswith("es"):
            yield word[:-2]
        if word.endswith("ies"):
            yield f"{word[:-3]}y"
        if word.endswith("ves"):
            yield from (f"{word[:-3]}f", f"{word[:-3]}fe")


class _Spelling:
    """Words that are one letter from another word in the same place, and that the bundled list does not have.

    The same place: both words stand for the same one, here or in the bundled list (mentleman and gentleman for lady),
    or the bundled list has a pair of which one word is a letter away and the other begins alike (adultress and
    adultor; adulteress and adulterer).
    """

    def __init__(self, wordlist: WordList, reference: WordList) -> None:
        self._wordlist, self._reference = wordlist, reference
        self._order = {word: place for place, word in enumerate(wordlist.words)}
        self._partners: dict[str, set[str]] = defaultdict(set)
        for row in (*self._reference.rows, *wordlist.rows):
            if row.generic:
                continue
            for word in row.words:
                self._partners[word].update(row.words)

    def is_odd(self, row: Row) -> _Told:
        for word in row.words:
            if word not in self._reference.group_of:
                for other in row.words:
                    if other != word and (near := self._near(word, other)):
                        hint = "correct it, or leave it if both are meant"
                        return f"{word!r} looks like a misspelling of {near!r}", hint
        return None

    def _near(self, word: str, other: str) -> str | None:
        """A word that may be meant instead of one that stands beside `other`."""
        group = self._wordlist.group_of[word]
        for candidate in sorted(self._partners[other] - {word, other}):
            earlier = candidate in self._reference.group_of or self._order[candidate] < self._order[word]
            same_group = self._wordlist.group_of.get(candidate, group) == group
            if earlier and same_group and _one_letter_apart(word, candidate):
                return candidate
        if other in self._reference.group_of or word.endswith(("man", "men")):
            return None  # lineman and linesman are two words
        name = self._wordlist.groups[group].lower()
        for candidate, known in self._reference.group_of.items():
            if self._reference.groups[known] == name and _one_letter_apart(word, candidate):
                partners = self._partners[candidate] - {candidate}
                if any(partner[: _MIN_LETTERS - 1] == other[: _MIN_LETTERS - 1] for partner in partners):
                    return candidate
        return None


def _one_letter_apart(word: str, other: str) -> bool:
    """One letter more, less or other, or two neighbours exchanged; not another form or spelling of the same word.

    Words alone: of phrases, him or her is another than his or her.
    """
    if min(len(word), len(other)) < _MIN_LETTERS or not (word + other).replace("-", "").isalpha():
        return False
    if _plain(word) == _plain(other) or other in _singulars(word) or word in _singulars(other):
        return False
    if f"{word}h" == other or f"{other}h" == word:  # maharaja and maharajah, as with other words from other scripts
        return False
    start = 0
    while word[start : start + 1] == other[start : start + 1] != "":
        start += 1
    a, b = word[start:], other[start:]
    while a and b and a[-1] == b[-1]:
        a, b = a[:-1], b[:-1]
    return max(len(a), len(b)) == 1 or (len(a) == 2 and a == b[::-1])


def _plain(word: str) -> str:
    """Without accents and hyphens."""
    return "".join(c for c in unicodedata.normalize("NFD", word) if c.isalnum())


# ------------------------------------------------------------------------------------------------------------- coverage


def _coverage(wordlist: WordList, text: Sequence[str], text_column: str) -> Coverage:
    swapper = Swapper(wordlist, skip="sentence")  # what a list covers is counted beside what it skips
    reference = _reference_swapper(wordlist)
    progress = counter(f"check {wordlist.name}", "documents")
    documents = with_hit = words = skipped = 0
    # Texts write a word in few ways: counting as it is written takes little memory, and needs no search for its row.
    written: Counter[tuple[str, ...]] = Counter()
    uncovered: Counter[str] = Counter()
    for document in read_documents(CorpusConfig(source="files", files=list(text), text_column=text_column), seed=0):
        views = swapper.counterfactuals(document)
        # By place: an article or a possessive may be edited in one view and stay in another.
        edits = [{span[:2]: view.text[span.cf_start : span.cf_end] for span in view.spans} for view in views]
        for start, end in set.intersection(*map(set, edits)):
            written[(document[start:end], *(edit[start, end] for edit in edits))] += 1
        if reference is not None:
            uncovered.update(match.word for match in reference.matches(document))
        documents += 1
        with_hit += bool(views[0].spans)
        words += sum(1 for _ in _WORD.finditer(document))
        skipped += views[0].skipped
        progress(documents)

    group_of = {_key(word): group for word, group in wordlist.group_of.items()}
    hits_by_group = dict.fromkeys(wordlist.groups, 0)
    hits_of: Counter[tuple[str, ...]] = Counter()
    for forms, times in written.items():
        keys = [_key(form) for form in forms]
        if keys[0] not in group_of:  # an article or a possessive that follows a word's form
            continue
        group = group_of[keys[0]]
        hits_by_group[wordlist.groups[group]] += times
        # Counterfactual k holds the word of group g + k.
        hits_of[tuple(keys[(place - group) % wordlist.num_groups] for place in range(wordlist.num_groups))] += times
    rows = [RowHits(row.words, row.when, hits_of[tuple(map(_key, row.words))]) for row in wordlist.rows]
    rows.sort(key=lambda row: -row.hits)
    missing = None
    if reference is not None:
        missing = tuple(
            Missing(
                word,
                reference.wordlist.groups[reference.wordlist.group_of[word]],
                hits,
                _paired(word, reference.wordlist),
            )
            for word, hits in sorted(uncovered.items(), key=lambda item: (-item[1], item[0]))
            if word not in wordlist.group_of
        )
    hits = sum(hits_by_group.values())
    return Coverage(documents, with_hit, words, hits, hits_by_group, skipped, tuple(rows), missing)


def _reference_swapper(wordlist: WordList) -> Swapper | None:
    """Finds the English words for the list's groups, where they are male and female (and perhaps more)."""
    is_english = wordlist.language in ("", "en")
    if not is_english or not set(_REFERENCE_GROUPS) <= {group.lower() for group in wordlist.groups}:
        return None
    return Swapper(load_wordlist(f"{_REFERENCE}+none"))


def _paired(word: str, reference: WordList) -> tuple[str, ...]:
    """A word's counterparts in a list of two groups, each once."""
    return tuple(dict.fromkeys(other for other, _ in reference.counterparts(word, 1)))


def _key(written: str) -> str:
    """The same for all ways to write a word."""
    # In capitals first: ı becomes I, which is i in lower case.
    capitals = unicodedata.normalize("NFC", written).upper()
    return unicodedata.normalize("NFC", capitals.casefold()).translate(LIKE_IN_LIST)


# --------------------------------------------------------------------------------------------------------------- tokens


def _token_coverage(wordlist: WordList, name: str, tokenizer: "PreTrainedTokenizerBase") -> TokenCoverage:
    def one_token(before: Sequence[str], surface: str) -> bool:
        """Whether the surface is one token behind any of these contexts: at the start of a text it may get a space."""
        for context in before:
            ids = tokenizer(context, add_special_tokens=False)["input_ids"]
            both = tokenizer(context + surface, add_special_tokens=False)["input_ids"]
            if both and both[:-1] == ids and both[-1] != tokenizer.unk_token_id:
                return True
        return False

    words = wordlist.words
    roles = token_roles(wordlist, tokenizer, 1 + max(tokenizer.get_vocab().values(), default=0))
    unmovable = frozenset(roles.unmovable)
    return TokenCoverage(
        name,
        len(words),
        sum(one_token(("a", ",", "x"), f" {word}") for word in words),
        sum(one_token(("\n", '"', "("), capitalised(word)) for word in words),
        len(wordlist.rows),
        sum(unmovable.isdisjoint(row.words) for row in wordlist.rows),
        roles.unmovable,
    )


# ------------------------------------------------------------------------------------------------------------- terminal


def print_check(check: WordListCheck, console: Console | None = None) -> None:
    """The result as tables; a line for every mistake and every warning."""
    console = console or Console()

    def line(text: str) -> None:
        console.print(Text(text), soft_wrap=True)

    def table(title: str, headings: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        line(title)  # as the title of the table, it would be broken to the table's width
        made = Table(box=SIMPLE_HEAD)
        for heading in headings:
            made.add_column(heading.lstrip("#"), justify="right" if heading.startswith("#") else "left")
        for row in rows:
            made.add_row(*map(Text, row))
        console.print(made)

    for mistake in check.mistakes:
        line(mistake)
    if check.mistakes:
        line(f"{check.name}: {_times(len(check.mistakes), 'mistake')}")
        return
    rows: list[tuple[str, ...]] = [("language", check.language or "not named"), ("rows", f"{check.rows:,}")]
    rows += [(f"words, {group}", f"{number:,}") for group, number in check.words_by_group.items()]
    rows += [(f"rows, {role}", f"{number:,}") for role, number in check.roles.items()]
    rows += [("rows, one-way", f"{len(check.one_way):,}")] if check.one_way else []
    rows += [("protected phrases", f"{check.protected:,}")] if check.protected else []
    rows += [("words that skip a sentence", f"{check.skip:,}")] if check.skip else []
    table(check.name, ("", "#number"), rows)
    if not check.language:
        line("The rules for English (man the desk, an earl) are off; a comment '# language: en' turns them on.")
    if check.choices:
        rows = [
            (choice.word, option.when or "otherwise", " / ".join(option.counterparts), option.example)
            for choice in check.choices
            for option in choice.options
        ]
        table("Words with several counterparts", ("word", "when", "counterpart", "example"), rows)
    if check.one_way:
        rows = [(" / ".join(row.words), row.when or "", ", ".join(row.holds_for) or "none") for row in check.one_way]
        table("One-way rows", ("row", "when", "for"), rows)
    if check.coverage is not None:
        _print_coverage(check.coverage, table, line)
    if check.tokens is not None:
        tokens = check.tokens
        rows = [
            ('one token, " word"', f"{tokens.one_token:,} of {tokens.words:,} words"),
            ('one token, "Word"', f"{tokens.one_token_capitalised:,} of {tokens.words:,} words"),
            ("movable in every group", f"{tokens.movable_rows:,} of {tokens.rows:,} rows"),
        ]
        table(f"Tokens of {tokens.tokenizer}", ("", "#number"), rows)
        if tokens.unmovable:
            line(_some(f"{_times(len(tokens.unmovable), 'word')} cannot be moved", tokens.unmovable))
    for suspicion in check.suspicions:
        line(f"warning: {suspicion}")
    line(f"{check.name}: {_times(0, 'mistake')}, {_times(len(check.suspicions), 'warning')}")


def _print_coverage(coverage: Coverage, table: Callable[..., None], line: Callable[[str], None]) -> None:
    share = coverage.documents_with_hit / coverage.documents
    rows: list[tuple[str, ...]] = [
        ("documents", f"{coverage.documents:,}"),
        ("documents with a hit", f"{coverage.documents_with_hit:,} ({share:.1%})"),
        ("words", f"{coverage.words:,}"),
        ("hits", f"{coverage.hits:,}"),
        *((f"hits, {group}", f"{hits:,}") for group, hits in coverage.hits_by_group.items()),
        ("hits per 1,000 words", f"{coverage.hits_per_thousand_words:.1f}"),
        ("sentences skipped", f"{coverage.skipped_sentences:,}"),
    ]
    table("Coverage of the text", ("", "#number"), rows)
    hit = [row for row in coverage.rows if row.hits]
    if hit:
        rows = [(" / ".join(row.words), row.when or "", f"{row.hits:,}") for row in hit[:_TOP]]
        table("Rows by hits", ("row", "when", "#hits"), rows)
    never = [" / ".join(row.words) for row in coverage.rows if not row.hits]
    if never:
        line(_some(f"{_times(len(never), 'row')} never hit", never))
    if coverage.missing is None:
        line("Missing words were not looked for: that needs an English list with groups named male and female.")
    elif coverage.missing:
        rows = [(m.word, m.group, " / ".join(m.counterparts), f"{m.hits:,}") for m in coverage.missing[:_TOP]]
        title = f"{_times(len(coverage.missing), 'gendered word')} of the text not in the list, by frequency"
        table(title, ("word", "group", "counterpart", "#hits"), rows)
    else:
        line(f"No word of {_REFERENCE} that the text holds is missing.")


def _some(what: str, names: Sequence[str]) -> str:
    more = f" and {len(names) - _TOP:,} more" if len(names) > _TOP else ""
    return f"{what}: {', '.join(names[:_TOP])}{more}"


def _times(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}" if number else f"no {what}s"
