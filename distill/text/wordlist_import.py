"""Word lists as others publish them -> one of ours, with every fault reported and what was done about it.

1. Parallel files (aligned by line), a table (one row of words a line) or JSON are read  -> entries, one word a group.
2. Words are written as our format has them (lower case, NFC, spaces for underscores)    -> clean entries.
3. Repeated and mirrored entries are folded                                              -> distinct entries.
4. Every word is put into one group, and entries whose columns are crossed are turned    -> rows.
5. Words with several counterparts get roles (pronouns) or one-way rows                  -> a list without conflicts.
6. The file is written beside its place, checked as any list is, and moved there.
"""

import json
import os
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import zip_longest
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from distill.base.errors import UserError, suggestion
from distill.base.integrity import partial_of
from distill.base.long_input import LONGEST_LINE, decoded, read_whole, refuse_long_lines
from distill.text.wordlist import LIKE_IN_LIST, ONE_WAY, WHEN, is_word_character, load_wordlist, wordlist_mistakes

FORMATS = ("auto", "parallel", "tab", "json")
FAULTS = {
    "columns": "not one word for each group",
    "blank": "a blank",
    "no word": "something that is no word",
    "characters": "characters that the format refuses",
    "same word": "the same word for two groups",
    "order": "columns in another order than the groups",
    "crossed": "columns crossed in one row",
    "both groups": "a word in two groups",
    "several counterparts": "a word with several counterparts",
}

# What our format writes otherwise, or not at all.
_REWRITTEN = LIKE_IN_LIST | {ord("_"): " "}
_PRONOUN_ROLES = {("his", "her"): "determiner", ("him", "her"): "object", ("his", "hers"): "pronoun"}
_MALE, _FEMALE = "male", "female"
_BLANKS = b"\xef\xbb\xbf \t\r\n"  # before the first character of a file: a byte-order mark, white space


@dataclass(frozen=True)
class Fault:
    """Something wrong in a source.

    where: file and line, counted from 1; in JSON, file and entry.
    kind: a key of `FAULTS`.
    what: the fault; done: what the import did about it.
    """

    where: str
    kind: str
    what: str
    done: str


@dataclass(frozen=True)
class ImportedList:
    """A written list, and what was met on the way.

    Attributes:
        path: The file.
        groups: Its groups.
        sources: Names of the files it was made from.
        source_format: `parallel`, `tab` or `json`.
        entries: Entries of the sources that had a word for every group.
        rows: Rows written; of them, `with_role` have a role and `one_way` are one-way.
        repeated: Entries that repeat an earlier one; mirrored: those that repeat it in the other direction.
        faults: In the order in which they were met.
    """

    path: Path
    groups: tuple[str, ...]
    sources: tuple[str, ...]
    source_format: str
    entries: int
    rows: int
    with_role: int
    one_way: int
    repeated: int
    mirrored: int
    faults: tuple[Fault, ...]


@dataclass(frozen=True)
class _Entry:
    """Words that a source has side by side.

    source: index of the file; 0 for parallel files.
    columns: 1: the columns are the groups in order; -1: they come in the other order; 0: the pair is listed in both.
    """

    where: str
    source: int
    words: tuple[str, ...]
    columns: int = 1


@dataclass(frozen=True)
class _NewRow:
    words: tuple[str, ...]
    role: str | None = None
    one_way: bool = False


def import_wordlist(
    sources: Sequence[str | Path],
    out: str | Path,
    groups: Sequence[str] = (_MALE, _FEMALE),
    source_format: str = "auto",
    key: str | None = None,
    force: bool = False,
) -> ImportedList:
    """Make a word list of ours from published ones.

    With two groups the columns may be crossed in single rows, or pairs be listed in both directions: a word's group is
    that of the bundled list of English gender words where the groups are male and female, then that of most rows it is
    linked with, then of the first. With more groups the columns are taken as they are. Of a word's counterparts, one
    that the bundled list has too holds both ways, else the first; the others are one-way or left out.

    Args:
        sources: One file for each group, aligned by line (`parallel`); or files of rows, one word a column, separated
            by tabs, commas or spaces (`tab`); or JSON files with a list of such rows, an object of word -> word, or an
            object of several such lists (`json`). UTF-8.
        out: The file to write.
        groups: Names of the groups, in the order of the columns or files.
        source_format: One of `FORMATS`; `auto` finds out.
        key: Which list of a JSON object of several.
        force: Replace an existing file.

    Raises:
        UserError: a source cannot be read or understood, no row is left, a group has no proper name, or `out` exists
            or cannot be written.
    """
    groups = _group_names(groups)
    paths, out = [Path(source) for source in sources], Path(out)
    _check_out(out, paths, force)
    faults: list[Fault] = []
    source_format, raw = _read_sources(paths, groups, source_format, key, faults)
    entries = list(_clean(raw, faults))
    distinct, repeated, mirrored = _fold(entries)
    english = _English(groups)
    if len(groups) == 2:
        columns_of = [", ".join(map(str, paths))] if source_format == "parallel" else list(map(str, paths))
        sided = _two_sided(distinct, groups, columns_of, english, faults)
    else:
        sided = _first_sided(distinct, groups, faults)
    rows = _without_conflicts(sided, groups, english, faults)
    if not rows:
        raise _no_row(paths, groups, faults)
    names = tuple(path.name for path in paths)
    _write(out, groups, rows, names)
    return ImportedList(
        out,
        groups,
        names,
        source_format,
        len(entries),
        len(rows),
        sum(row.role is not None for row in rows),
        sum(row.one_way for row in rows),
        repeated,
        mirrored,
        tuple(faults),
    )


def _no_row(paths: Sequence[Path], groups: Sequence[str], faults: Sequence[Fault]) -> UserError:
    why = f" ({faults[0].where}: {faults[0].what})" if faults else ""
    what = f"{', '.join(map(str, paths))}: no row of {len(groups)} different words found{why}"
    return UserError(f"{what}; see distill wordlist import --help for the formats")


def import_dict(imported: ImportedList) -> dict[str, Any]:
    """The result as JSON has it."""
    return {**asdict(imported), "path": str(imported.path)}


def print_import(imported: ImportedList, console: Console | None = None) -> None:
    """What was written, the kinds of faults, and each fault in a line of its own."""
    console = console or Console()

    def line(text: str) -> None:
        console.print(Text(text), soft_wrap=True)

    for fault in imported.faults:
        line(f"{fault.where}: {fault.what}; {fault.done}")
    if imported.faults:
        table = Table(box=SIMPLE_HEAD)
        table.add_column("faults in the sources")
        table.add_column("times", justify="right")
        times = Counter(fault.kind for fault in imported.faults)
        for kind, meaning in FAULTS.items():
            if times[kind]:
                table.add_row(Text(meaning), f"{times[kind]:,}")
        console.print(table)
    line(
        f"{imported.path}: {imported.rows:,} rows ({', '.join(imported.groups)}) from {imported.entries:,} entries; "
        f"{imported.with_role:,} with a role, {imported.one_way:,} one-way; {imported.repeated:,} repeated entries and "
        f"{imported.mirrored:,} in the other direction folded"
    )
    line(
        "Next: put the licence of the source into it, and '# language: en' if it is English; then run: "
        f"distill wordlist check {imported.path}"
    )


def _group_names(groups: Sequence[str]) -> tuple[str, ...]:
    names = tuple(unicodedata.normalize("NFC", " ".join(name.split())) for name in groups)
    if len(names) < 2:
        raise UserError(f"option --groups is {','.join(names)!r}; name two groups or more: male,female")
    for position, name in enumerate(names):
        if not name or "," in name or not all(map(str.isprintable, name)) or name.startswith("#"):
            raise UserError(f"option --groups has the name {name!r}; a name is a word, and commas stand between them")
        if name.lower() == WHEN:
            raise UserError(f"option --groups has the name {name!r}, which our format keeps for its last column")
        if name in names[:position]:
            raise UserError(f"option --groups names {name!r} twice; every group has a name of its own")
    return names


def _check_out(out: Path, paths: list[Path], force: bool) -> None:
    if os.path.isdir(out):
        raise UserError(f"{out} is a folder; give the name of a file with --out")
    if os.path.exists(out):
        if any(os.path.exists(path) and path.samefile(out) for path in paths):
            raise UserError(f"{out} is one of the sources; give another file with --out")
        if not force:
            raise UserError(f"{out} exists; give another file with --out, or --force to replace it")


# ---------------------------------------------------------------------------------------------------------- reading


@dataclass(frozen=True)
class _Raw:
    """The cells of an entry as the source has them; what they are besides text (a number in JSON) is None.

    places: file and line (or entry) of each cell.
    """

    places: tuple[str, ...]
    source: int
    cells: tuple[str | None, ...]


def _read_sources(
    paths: list[Path], groups: tuple[str, ...], source_format: str, key: str | None, faults: list[Fault]
) -> tuple[str, list[_Raw]]:
    """The format, and the entries of all sources that have a cell for every group."""
    if source_format not in FORMATS:
        raise UserError(f"option --format is {source_format!r}; {suggestion(source_format, FORMATS)}")
    if not paths:
        raise UserError("a source is missing; name one or more files")
    texts = [_read(path) for path in paths]
    kinds = [_kind(path, text) for path, text in zip(paths, texts, strict=True)]
    if source_format == "auto":
        if set(kinds) == {"words"}:
            if len(paths) == 1:
                raise UserError(
                    f"{paths[0]}: it has one word a line; name a file for each of {', '.join(groups)}, or one with "
                    "the words side by side"
                )
            source_format = "parallel"
        elif len(set(kinds)) == 1:
            source_format = kinds[0]
        else:
            told = ", ".join(f"{path} looks like {kind}" for path, kind in zip(paths, kinds, strict=True))
            raise UserError(f"the sources are of several formats ({told}); import them one by one, or give --format")
    if key is not None and source_format != "json":
        raise UserError(f"option --key is for JSON, but the sources are {source_format}; leave it out")
    if source_format == "parallel":
        if len(paths) != len(groups):
            raise UserError(
                f"{len(paths)} parallel files for {len(groups)} groups ({', '.join(groups)}); name one file for each"
            )
        return source_format, list(_parallel(paths, texts, faults))
    found = []
    for source, (path, text) in enumerate(zip(paths, texts, strict=True)):
        for where, cells in _json(path, text, key) if source_format == "json" else _table(path, text):
            if any(len(cell) > LONGEST_LINE for cell in cells if cell is not None):
                raise UserError(f"{where}: a word longer than {LONGEST_LINE:,} characters; is it a list?")
            if len(cells) == len(groups):
                found.append(_Raw((where,) * len(cells), source, cells))
            else:
                shown = " ".join(repr(cell) for cell in cells if cell is not None)
                what = f"{len(cells)} of {len(groups)} words: {shown}"
                faults.append(Fault(where, "columns", what, "left out"))
    return source_format, found


def _read(path: Path) -> str:
    try:
        content = read_whole(path)
    except (FileNotFoundError, NotADirectoryError, ValueError):  # ValueError: a NUL byte in the path
        raise UserError(f"{str(path)!r}: no such source; relative paths start at the current folder") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); give a text file") from None
    if path.suffix.lower() != ".json" and content.lstrip(_BLANKS)[:1] not in (b"[", b"{"):
        refuse_long_lines(path, content)  # JSON may have all of its entries in one
    return decoded(content, path)


def _lines(text: str) -> list[str]:
    """Lines without their ends; the last line needs none."""
    lines = [line.rstrip("\r") for line in text.split("\n")]
    return lines if lines[-1] else lines[:-1]


def _kind(path: Path, text: str) -> str:
    """`json`, `tab` (several words a line) or `words` (one word a line)."""
    if path.suffix.lower() == ".json" or text.lstrip()[:1] in ("[", "{"):
        return "json"
    return "words" if _separator(text) is None else "tab"


def _separator(text: str) -> str | None:
    """What stands between the columns of most lines: a tab, a comma, or a space; None for a single column."""
    lines = [line.strip() for line in _lines(text) if line.strip() and not line.lstrip().startswith("#")]
    for separator in ("\t", ",", " "):
        if lines and 2 * sum(separator in line for line in lines) > len(lines):
            return separator
    return None


def _parallel(paths: list[Path], texts: list[str], faults: list[Fault]) -> Iterator[_Raw]:
    for number, cells in enumerate(zip_longest(*map(_lines, texts)), start=1):
        places = tuple(f"{path}, line {number}" for path in paths)
        if None in cells:
            column = next(index for index, cell in enumerate(cells) if cell is not None)
            what = f"{paths[cells.index(None)]} ends before this line, so {cells[column]!r} has no partner"
            faults.append(Fault(places[column], "columns", what, "left out"))
        else:
            yield _Raw(places, 0, cells)


def _table(path: Path, text: str) -> Iterator[tuple[str, tuple[str | None, ...]]]:
    separator = _separator(text)
    for number, line in enumerate(_lines(text), start=1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        cells = line.strip().split(None if separator == " " else separator)
        yield f"{path}, line {number}", tuple(cell.strip().strip('"') for cell in cells)


def _json(path: Path, text: str, key: str | None) -> Iterator[tuple[str, tuple[str | None, ...]]]:
    try:
        # An object as its pairs: a key may occur twice, and none shall be lost.
        content = json.loads(text, object_pairs_hook=_Object)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: not valid JSON ({error}); a list of rows or an object of words is expected") from None
    if isinstance(content, _Object) and content and all(isinstance(value, list) for _, value in content):
        lists = dict(content)
        if key is None and len(lists) > 1:
            raise UserError(f"{path}: it holds {len(lists)} lists; choose one with --key ({', '.join(lists)})")
        if key is not None and key not in lists:
            raise UserError(f"{path}: it has no list {key!r}; {suggestion(key, lists)}")
        content = lists[key] if key is not None else next(iter(lists.values()))
    elif key is not None:
        raise UserError(f"{path}: it is no object of several lists, so there is no {key!r}; leave --key out")
    if not isinstance(content, list):
        raise UserError(f"{path}: a list of rows or an object of words is expected, not {type(content).__name__}")
    for number, row in enumerate(content, start=1):
        cells = row if isinstance(row, list | tuple) and not isinstance(row, _Object) else [row]
        yield f"{path}, entry {number}", tuple(cell if isinstance(cell, str) else None for cell in cells)


class _Object(list):
    """The (key, value) pairs of a JSON object."""


# --------------------------------------------------------------------------------------------------------- cleaning


def _clean(raw: Iterable[_Raw], faults: list[Fault]) -> Iterator[_Entry]:
    """Entries in our spelling; those without a word for every group are left out."""
    for entry in raw:
        words = tuple("" if cell is None else _word(cell) for cell in entry.cells)
        if "" in words:
            column = words.index("")
            cell = entry.cells[column]
            if cell is not None and not cell.strip():
                fault = Fault(entry.places[column], "blank", f"word {column + 1} is blank", "left out")
            else:
                what = f"word {column + 1} is no text" if cell is None else f"{cell!r} has no letter or digit"
                fault = Fault(entry.places[column], "no word", what, "left out")
            faults.append(fault)
            continue
        for place, cell, word in zip(entry.places, entry.cells, words, strict=True):
            if cell is not None and word != _spelling(cell):
                what = f"{cell.strip()!r} has characters that no word may begin or end with, or control characters"
                faults.append(Fault(place, "characters", what, f"written {word!r}"))
        if len(set(words)) < len(words):
            twice = next(word for word in words if words.count(word) > 1)
            faults.append(Fault(entry.places[0], "same word", f"{twice!r} stands for two groups", "left out"))
            continue
        yield _Entry(entry.places[0], entry.source, words)


def _spelling(cell: str) -> str:
    """Lower case, NFC, one space between words, straight apostrophes and plain hyphens."""
    cell = unicodedata.normalize("NFC", cell).lower().translate(_REWRITTEN)
    return unicodedata.normalize("NFC", " ".join(cell.split()))


def _word(cell: str) -> str:
    """The spelling without what our format refuses; empty if nothing is left."""
    word = "".join(c for c in _spelling(cell) if unicodedata.category(c) not in ("Cc", "Cs"))
    begin, end = 0, len(word)
    while begin < end and not is_word_character(word[begin]):
        begin += 1
    while begin < end and not is_word_character(word[end - 1]):
        end -= 1
    word = _spelling(word[begin:end])
    return word if any(map(str.isalnum, word)) else ""


def _fold(entries: Iterable[_Entry]) -> tuple[list[_Entry], int, int]:
    """The distinct entries in order of their first; how many repeat one, and how many in the other direction."""
    seen: dict[tuple[str, ...], _Entry] = {}
    directions: Counter[tuple[str, ...]] = Counter()
    repeated = mirrored = 0
    for entry in entries:
        if entry.words in seen:
            repeated += 1
        elif len(entry.words) == 2 and entry.words[::-1] in seen:
            mirrored += 1
            directions[entry.words[::-1]] -= 1
            continue
        else:
            seen[entry.words] = entry
        directions[entry.words] += 1
    folded = []
    for words, entry in seen.items():
        net = directions[words]
        folded.append(replace(entry, columns=(net > 0) - (net < 0)))
    return folded, repeated, mirrored


# ----------------------------------------------------------------------------------------------------------- groups


class _English:
    """What the bundled list of English gender words knows; nothing for groups other than male and female."""

    def __init__(self, groups: tuple[str, ...]) -> None:
        self._side_of: dict[str, int] = {}
        self._pairs: set[frozenset[str]] = set()
        names = [group.lower() for group in groups]
        self._female = names.index(_FEMALE) if sorted(names) == [_FEMALE, _MALE] else None
        if self._female is not None:
            for row in load_wordlist("english_gender+none").rows:
                words = [word.replace("-", " ") for word in row.words]
                self._side_of |= {words[0]: 1 - self._female, words[1]: self._female}
                if row.when is None and not row.one_way:
                    self._pairs.add(frozenset(words))

    def side(self, word: str) -> int | None:
        """The index of a word's group, if it is known."""
        if self._female is not None and word.endswith(("woman", "women")):
            return self._female
        return self._side_of.get(word.replace("-", " "))

    def has(self, words: tuple[str, ...]) -> bool:
        """Whether two words are each other's counterparts whatever their role."""
        return frozenset(word.replace("-", " ") for word in words) in self._pairs


class _Sides:
    """Words of which it is known whether they are in the same group of two, or in different ones: union-find.

    `FIXED` stands for the first group.
    """

    FIXED = ""

    def __init__(self) -> None:
        self._parent: dict[str, tuple[str, int]] = {}

    def find(self, word: str) -> tuple[str, int]:
        """The representative of all words that it is linked with, and its side relative to that: 0 or 1."""
        chain, side = [word], 0
        while (link := self._parent.get(chain[-1])) is not None:
            chain.append(link[0])
            side ^= link[1]
        root, from_here = chain[-1], side
        for member in chain[:-1]:  # shorten the way for the next search
            step = self._parent[member][1]
            self._parent[member] = (root, from_here)
            from_here ^= step
        return root, side

    def link(self, first: str, second: str, differ: int) -> bool:
        """Put two words on the same side (0) or on different ones (1); false if that contradicts what is known."""
        (a, side_a), (b, side_b) = self.find(first), self.find(second)
        if a == b:
            return side_a ^ side_b == differ
        if b == self.FIXED:
            a, b = b, a
        self._parent[b] = (a, side_a ^ side_b ^ differ)
        return True


def _two_sided(
    entries: list[_Entry], groups: tuple[str, ...], columns_of: list[str], english: _English, faults: list[Fault]
) -> list[_Entry]:
    """The entries with every word in one of two groups; the first word of each is in the first group.

    columns_of: by source, the file or files that are its columns.
    """
    sides = _Sides()
    for entry in entries:
        for word in entry.words:
            side = english.side(word)
            if side is not None:
                sides.link(_Sides.FIXED, word, side)
    consistent = []
    for entry in entries:
        first, second = entry.words
        if sides.link(first, second, 1):
            consistent.append(entry)
        else:
            first, second = map(repr, entry.words)
            what = f"{first} and {second} are in the same group by earlier rows or in english_gender"
            faults.append(Fault(entry.where, "both groups", what, "left out"))

    in_order: Counter[int] = Counter()  # by source, entries in the order of the groups less those in the other order
    for entry in consistent:
        root, side = sides.find(entry.words[0])
        if root == _Sides.FIXED:
            in_order[entry.source] += -entry.columns if side else entry.columns
    reversed_sources = {source for source, balance in in_order.items() if balance < 0}
    for source in sorted(reversed_sources):
        what = f"most rows have the groups in the order {', '.join(reversed(groups))}"
        faults.append(Fault(columns_of[source], "order", what, "all of it read in this order"))

    def as_listed(entry: _Entry) -> int:
        return -entry.columns if entry.source in reversed_sources else entry.columns

    votes: dict[str, int] = defaultdict(int)
    firsts: dict[str, int] = {}
    for entry in consistent:
        root, side = sides.find(entry.words[0])
        votes[root] += -as_listed(entry) if side else as_listed(entry)
        firsts.setdefault(root, side ^ (entry.source in reversed_sources))
    turned = {root: vote < 0 if vote else bool(firsts[root]) for root, vote in votes.items()}
    turned[_Sides.FIXED] = False

    sided = []
    for entry in consistent:
        root, side = sides.find(entry.words[0])
        crossed = bool(side) != turned[root]
        words = entry.words[::-1] if crossed else entry.words
        if as_listed(entry) and crossed != (as_listed(entry) < 0):
            what = f"the columns are crossed: {words[1]!r} is in group {groups[1]!r}, {words[0]!r} in {groups[0]!r}"
            faults.append(Fault(entry.where, "crossed", what, "turned round"))
        sided.append(replace(entry, words=words))
    return sided


def _first_sided(entries: list[_Entry], groups: tuple[str, ...], faults: list[Fault]) -> list[_Entry]:
    """The entries of which no word stands in another group in an earlier one."""
    first: dict[str, tuple[int, _Entry]] = {}
    kept = []
    for entry in entries:
        for group, word in enumerate(entry.words):
            other, earlier = first.get(word, (group, entry))
            if other != group:
                what = f"{word!r} is in group {groups[group]!r} here and in {groups[other]!r} at {earlier.where}"
                faults.append(Fault(entry.where, "both groups", what, "left out"))
                break
        else:
            for group, word in enumerate(entry.words):
                first.setdefault(word, (group, entry))
            kept.append(entry)
    return kept


# -------------------------------------------------------------------------------------------------------- conflicts


def _without_conflicts(
    entries: list[_Entry], groups: tuple[str, ...], english: _English, faults: list[Fault]
) -> list[_NewRow]:
    """Rows in which a word has one counterpart a role, and others in one-way rows only."""
    names = [group.lower() for group in groups]
    rows: dict[int, _NewRow] = {}
    partners: dict[str, tuple[str, ...]] = {}  # word -> its first row that holds both ways
    rest = []
    for number, entry in enumerate(entries):
        pair = tuple(entry.words[names.index(name)] for name in (_MALE, _FEMALE) if name in names)
        if pair in _PRONOUN_ROLES:
            rows[number] = _NewRow(entry.words, _PRONOUN_ROLES[pair])
            for word in entry.words:
                partners.setdefault(word, entry.words)
        elif pair == ("him", "hers"):
            what = "'him' and 'hers' never stand for each other"
            faults.append(Fault(entry.where, "several counterparts", what, "left out"))
        else:
            rest.append((number, entry))

    # Of several counterparts, a known one holds both ways, else the first: published lists come in no telling order,
    # and a misspelling or an odd pair may stand before the usual one. One-way rows are for words without other rows.
    further = []
    for number, entry in sorted(rest, key=lambda item: not english.has(item[1].words)):
        if any(word in partners for word in entry.words):
            further.append((number, entry))
        else:
            rows[number] = _NewRow(entry.words)
            partners |= dict.fromkeys(entry.words, entry.words)

    has_row = set(partners)
    for number, entry in sorted(further, key=lambda item: item[0]):
        taken = next(word for word in entry.words if word in partners)
        other = " / ".join(repr(word) for word in partners[taken] if word != taken)
        what = f"{taken!r} has the counterpart {other} already"
        new = [word for word in entry.words if word not in has_row]
        if new:
            rows[number] = _NewRow(entry.words, one_way=True)
            has_row.update(new)
            done = f"kept one-way, for {' and '.join(map(repr, new))}"
        else:
            done = "left out, as all of its words have rows already"
        faults.append(Fault(entry.where, "several counterparts", what, done))
    return [rows[number] for number in sorted(rows)]


# ---------------------------------------------------------------------------------------------------------- writing


def _write(out: Path, groups: tuple[str, ...], rows: list[_NewRow], sources: Sequence[str]) -> None:
    """Write the list so that a file appears only whole and only if it loads."""
    lines = [
        f"# name: {_printable(out.stem)}",
        f"# description: {len(rows)} rows, imported with distill wordlist import",
        "# licence: see source",
        f"# source: {_printable(', '.join(sources))}",
        f"# groups: {', '.join(groups)}",
        "#",
        "# Put the licence of the source, its address and its version above before you pass this list on, and",
        "# '# language: en' if its words are English: the rules for English are for lists that say so.",
        "\t".join((*groups, WHEN)),
    ]
    for row in rows:
        marks = " ".join(filter(None, (row.role, ONE_WAY if row.one_way else None)))
        lines.append("\t".join((*row.words, marks)).rstrip("\t"))
    partial = partial_of(out)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        try:
            partial.write_text("\n".join(lines) + "\n", encoding="utf-8", newline="\n")
            if mistakes := wordlist_mistakes(partial):
                raise UserError(f"{', '.join(sources)}: cannot be made into a list: {mistakes[0]}")
            os.replace(partial, out)
        finally:
            partial.unlink(missing_ok=True)
    except (OSError, ValueError) as error:  # ValueError: a NUL byte in the path
        reason = error.strerror if isinstance(error, OSError) else error
        raise UserError(f"{str(out)!r}: cannot be written ({reason}); give another file with --out") from None


def _printable(text: str) -> str:
    return "".join(character if character.isprintable() else "?" for character in text)
