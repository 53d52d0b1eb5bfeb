"""Word-list files -> groups, rows of counterparts and their roles; every mistake is reported with its line number.

The format is a UTF-8 table with tab-separated columns. The header names the groups, every further line is one row of
words that play the same role, one word a group. A last column named `when` may say in which role a row holds (`ROLES`),
for words with more than one counterpart, and carry marks (`MARKS`):

    # licence: Apache-2.0
    male    female  when
    man     woman
    his     her     determiner
    him     her     object
    mr      mrs
    mr      ms      one-way

Lines that begin with `#` are comments; those above the header that read `# key: value` become metadata.

A header of the single word `protected` or `skip` makes the file a list of phrases, one a line: what is never touched,
and what leaves its document, or its sentence, alone. A list is made of one or more such files:
`english_gender+english_names+mine.tsv`.
"""

import hashlib
import json
import os
import re
import unicodedata
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from distill.base.bundled import at_hand
from distill.base.errors import UserError, suggestion
from distill.base.files import PACKAGE
from distill.base.long_input import decoded, read_whole, refuse_long_lines

WHEN = "when"
ALWAYS = "-"
ONE_WAY = "one-way"
GENERIC = "generic"
AMBIGUOUS = "ambiguous"
ROLES = {
    "determiner": "possessive determiner, before a noun: her book",
    "object": "object of a verb or a preposition: saw her",
    "pronoun": "possessive pronoun, standing alone: the book is his",
    "title": "title, before a name or after my: Lady Anne, my lady",
    "name": "first name: John, but not Mr. John or John Street",
}
MARKS = {
    ONE_WAY: "only for the words that have no other row",
    GENERIC: "the first group's word is used of everybody and stays, the others become it: actress becomes actor",
    AMBIGUOUS: "a name that is also a common word, a surname or a place: only where the context says first name",
}
CAPITALISED = ("title", "name")  # the roles of words that are swapped only where they are capitalised
KNOWN_WHEN = (*ROLES, *MARKS, ALWAYS)
PROTECTED = "protected"
SKIP = "skip"
ALONE = "none"  # a part of this name keeps a list from bringing its companions along

#: The apostrophe and the hyphen that stand in a list for all that a text, or a word processor, writes in their place.
LIKE_IN_LIST = str.maketrans({"’": "'", "‐": "-", "‑": "-"})

_BUNDLED = PACKAGE / "wordlists"
_METADATA = re.compile(r"#\s*([A-Za-z][\w-]*):\s+(\S.*)")
_LANGUAGE = re.compile(r"[A-Za-z]{2,3}(?:[-_][A-Za-z0-9]+)*")
# Characters that join the letters around them into one word although they are neither letters nor marks: soft hyphen,
# zero-width non-joiner and joiner, word joiner.
_JOINERS = "\u00ad\u200c\u200d\u2060"
# Marks that signs bear, and no letter: the text and the emoji form (\u2764\ufe0f), the keycap (1\ufe0f\u20e3).
_OF_SIGNS = "\ufe0e\ufe0f\u20e3"


@dataclass(frozen=True)
class Row:
    """Words that play the same role, one a group.

    words: lower case, NFC, with straight apostrophes and plain hyphens, in the order of the groups.
    when: the role in which the row holds (a key of `ROLES`), or None for always; beside rows of the same word that have
        a role, None is "otherwise".
    line: line number in the file, from 1.
    one_way: a word of this row that has a row without this mark too keeps that row's counterparts, and only the others
        are swapped by this one (ms becomes mr, mr becomes mrs).
    ambiguous: a first name that counts only where the context says that it is one (see `MARKS`).
    generic: the first group's word is used of everybody: it is not listed by this row, and the others become it.
        Another row of the same words without the mark goes before.
    file: the file that holds the row.
    """

    words: tuple[str, ...]
    when: str | None
    line: int
    one_way: bool = False
    ambiguous: bool = False
    file: str = field(default="", compare=False)
    generic: bool = False

    @property
    def listed(self) -> tuple[tuple[int, str], ...]:
        """(group, word) of the words that the row swaps."""
        return tuple(enumerate(self.words))[1 if self.generic else 0 :]


@dataclass(frozen=True)
class WordList:
    """A checked word list.

    name: as it was asked for, each file by its stem.
    protected: phrases that are never touched. One in lower case stands for every letter case, one with capitals for
        itself, as it is written or all in capitals.
    skip: words and phrases, in every letter case, whose document or sentence is left alone (see `Swapper`).
    sha256: covers groups, rows and phrases, not comments: two lists with the same content have the same hash.
    metadata: of the first file with rows; its language is that of the first of them that names one.
    """

    name: str
    groups: tuple[str, ...]
    rows: tuple[Row, ...]
    sha256: str
    metadata: dict[str, str] = field(default_factory=dict)
    protected: tuple[str, ...] = ()
    skip: tuple[str, ...] = ()

    @property
    def num_groups(self) -> int:
        return len(self.groups)

    @property
    def language(self) -> str:
        """Of the header `# language: es-MX`: "es"; "" where no file names one."""
        code = re.split(r"[-_]", self.metadata.get("language", "").strip().lower())[0]
        return "en" if code == "eng" else code

    @cached_property
    def group_of(self) -> dict[str, int]:
        """Every listed word (lower case) and the index of its group."""
        return {word: group for row in self.rows for group, word in row.listed}

    @property
    def words(self) -> tuple[str, ...]:
        """All listed words, each once, in the order of the file."""
        return tuple(self.group_of)

    @cached_property
    def _counterparts(self) -> dict[str, list[tuple[tuple[str, ...], str | None]]]:
        """Word -> (words, role) of every row that swaps it."""
        rows_of: dict[str, list[Row]] = {}
        for row in self.rows:
            for _, word in row.listed:
                rows_of.setdefault(word, []).append(row)
        counterparts = {}
        for word, rows in rows_of.items():
            by_role: dict[str | None, tuple[str, ...]] = {}
            for row in [row for row in rows if not (row.one_way or row.generic)] or rows:
                by_role.setdefault(row.when, row.words)
            counterparts[word] = [(words, role) for role, words in by_role.items()]
        return counterparts

    def counterparts(self, word: str, shift: int) -> tuple[tuple[str, str | None], ...]:
        """Every (counterpart, role) of a lower-case word in the group `shift` further on, in row order.

        The role is None where the counterpart holds always, or where no other role does. An unlisted word has none.
        """
        if word not in self.group_of:
            return ()
        group = (self.group_of[word] + shift) % self.num_groups
        return tuple((words[group], role) for words, role in self._counterparts[word])


def bundled_wordlists() -> dict[str, Path]:
    """The lists that come with the package: name -> file."""
    return {path.stem: path for path in sorted(_BUNDLED.glob("*.tsv"))}


def load_wordlist(name_or_path: str | Path) -> WordList:
    """Reads and checks a word list.

    name_or_path: a bundled name (`english_gender`), the path of a file of your own, or several of them joined by `+`.
        A bundled name wins over a file of the same name; write `./english_gender` for the file. A file whose metadata
        names companions (`# with: english_protected`) brings them along, unless `none` is among the parts.

    >>> wordlist = load_wordlist("english_gender")
    >>> wordlist.groups, wordlist.num_groups
    (('male', 'female'), 2)
    >>> wordlist.counterparts("king", shift=1)
    (('queen', None),)

    Raises UserError, with file, line and a hint, for the first mistake in the list.
    """
    wordlist, mistakes = _load(str(name_or_path))
    if mistakes:
        raise mistakes[0]
    return wordlist


def wordlist_mistakes(name_or_path: str | Path) -> list[str]:
    """Every mistake of a word list, each with file, line, reason and hint; none for a sound one.

    Raises UserError where a file is missing or is no text.
    """
    return list(dict.fromkeys(map(str, _load(str(name_or_path))[1])))


def files_of(path: Path, with_companions: bool = True) -> list[Path]:
    """A file of a list, and the companions beside it that it names, and they in turn; of these, no bundled ones.

    Raises:
        UserError: one cannot be read, or is named with a folder.
    """
    bundled = {file.resolve() for file in bundled_wordlists().values()}
    _, *companions = (part.path for part in _parts([path], with_companions, []))
    return [path, *(file for file in companions if file.resolve() not in bundled)]


def capitalised(word: str) -> str:
    """With a capital at its beginning; the rest stays as it is."""
    return word[:1].upper() + word[1:]


def is_word_character(character: str) -> bool:
    """Whether a character can be part of a word: letters, digits, underscore, combining marks, invisible joiners.

    The marks that make a sign an emoji or a keycap are none.
    """
    if character.isalnum() or character == "_" or character in _JOINERS:
        return True
    return unicodedata.category(character).startswith("M") and character not in _OF_SIGNS


def _read(path: Path, bundled: dict[str, Path]) -> str:
    """The file's text without byte-order mark; raises UserError where it is missing, too long, or no UTF-8 text."""
    try:
        content = read_whole(path)
    except (FileNotFoundError, NotADirectoryError, ValueError):  # ValueError: a NUL byte in the path
        raise UserError(
            f"word list {str(path)!r} not found: it is neither a file nor a bundled list; "
            f"{suggestion(path.stem, bundled)}"
        ) from None
    except IsADirectoryError:
        raise UserError(f"word list {path} is a folder; name a TSV file in it") from None
    except OSError as error:
        raise UserError(
            f"word list {path} cannot be read: {error.strerror}; check the path and its permissions"
        ) from None
    refuse_long_lines(path, content)
    text = decoded(content, path)
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        raise UserError(f"{path}, line {line}: a NUL byte; a word list is a plain UTF-8 text file")
    return text


@dataclass
class _Part:
    """One file of a list; `phrases` if its header is PROTECTED or SKIP, else rows."""

    path: Path
    metadata: dict[str, str] = field(default_factory=dict)
    groups: tuple[str, ...] = ()
    rows: list[Row] = field(default_factory=list)
    phrases: list[str] = field(default_factory=list)

    @property
    def kind(self) -> str | None:
        """PROTECTED, SKIP, or None for rows."""
        return self.groups[0] if len(self.groups) == 1 else None


def names_in(spec: str, folder: Path = Path()) -> list[str]:
    """What a + joins in the name of a list; the whole is one where, seen from a folder, a file is called so."""
    return [spec] if os.path.exists(folder / spec) else spec.split("+")


def _load(spec: str) -> tuple[WordList, list[UserError]]:
    """A list from all of its files, and every mistake in them; the list is of use only where there is none."""
    bundled = bundled_wordlists()
    names = names_in(spec)
    paths = [bundled.get(name) or at_hand(name) for name in names if name != ALONE]
    if not paths or "" in names:
        raise UserError(f"word list {spec!r} has a part without a name; {suggestion(spec, bundled)}")
    mistakes: list[UserError] = []
    parts = _parts(paths, ALONE not in names, mistakes)
    tables = [part for part in parts if part.kind is None]
    if not tables and not mistakes:
        mistakes.append(
            UserError(f"{parts[0].path}: it holds phrases only; join it to a list of words: english_gender+{spec}")
        )
    conflicts = _Conflicts(tables[0].groups if tables else ())
    rows: list[Row] = []
    plain = {row.words for part in tables for row in part.rows if not row.generic}
    for part in tables:
        if part.groups and part.groups != tables[0].groups:
            mistakes.append(
                UserError(
                    f"{part.path}: its groups are {', '.join(part.groups)}, but those of {tables[0].path} are "
                    f"{', '.join(tables[0].groups)}; files that are joined must have the same, in the same order"
                )
            )
            continue
        for row in part.rows:
            if row.generic and row.words in plain:
                continue
            try:
                conflicts.add(row)
                rows.append(row)
            except UserError as mistake:
                mistakes.append(mistake)
    phrases = {
        kind: tuple(dict.fromkeys(phrase for part in parts if part.kind == kind for phrase in part.phrases))
        for kind in (PROTECTED, SKIP)
    }
    groups = tables[0].groups if tables else ()
    decisive = (groups, [_decisive(row) for row in rows], list(phrases.values()))
    digest = hashlib.sha256(json.dumps(decisive, ensure_ascii=True).encode()).hexdigest()
    name = "+".join(name if name in bundled or name == ALONE else Path(name).stem for name in names)
    return WordList(name, groups, tuple(rows), digest, _metadata(tables), phrases[PROTECTED], phrases[SKIP]), mistakes


def _parts(paths: list[Path], with_companions: bool, mistakes: list[UserError]) -> list[_Part]:
    """Each file once, followed by the companions that it names; mistakes in what they hold are added to the others."""
    bundled = bundled_wordlists()
    parts: list[_Part] = []
    for path in paths:  # grows: companions follow
        content = _read(path, bundled)
        if path.resolve() in {part.path.resolve() for part in parts}:
            continue
        part = _parse(content, path, mistakes)
        parts.append(part)
        if with_companions and "with" in part.metadata:
            for name in part.metadata["with"].split(","):
                name = name.strip()
                if name in ("", ".", "..") or Path(name).name != name:
                    raise UserError(
                        f"{path}: the comment '# with:' names {name!r}; a companion is a bundled list or a file beside "
                        "this one, named without a folder"
                    )
                paths.append(bundled.get(name) or path.parent / name)
    return parts


def _metadata(tables: list[_Part]) -> dict[str, str]:
    """Of the first file with rows; what is joined to a list of a language is of that language, in any order."""
    languages = [part.metadata["language"] for part in tables if "language" in part.metadata]
    return (tables[0].metadata if tables else {}) | ({"language": languages[0]} if languages else {})


def _decisive(row: Row) -> list:
    """What of a row enters the hash of the list."""
    return [*row.words, row.when, row.one_way, row.ambiguous, *((GENERIC,) if row.generic else ())]


def _parse(text: str, path: Path, mistakes: list[UserError]) -> _Part:
    """Lines -> rows or phrases, each seen by itself; what cannot be read is added to the mistakes."""
    part = _Part(path)
    has_when = False
    no_language = None
    first_line: dict[str, int] = {}
    spellings: dict[tuple[str, ...], list[str]] = {}
    for line, content in enumerate(text.split("\n"), start=1):
        content = content.rstrip("\r")
        if not content.strip():
            continue
        if content.lstrip().startswith("#"):
            comment = _METADATA.fullmatch(content.strip())
            if comment and not part.groups:
                part.metadata[comment[1].lower()] = comment[2]
                if comment[1].lower() == "language" and not _LANGUAGE.fullmatch(comment[2]):
                    told = f"the language is {comment[2]!r}, but must be a code, such as en or es-MX"
                    no_language = UserError(f"{path}, line {line}: {told}")
            continue
        cells = [unicodedata.normalize("NFC", " ".join(cell.split())) for cell in content.split("\t")]
        try:
            if not part.groups:
                part.groups, has_when = _header(cells, part.metadata, path, line)
                if no_language and part.kind is None:  # that of phrases says nothing
                    mistakes.append(no_language)
                continue
            written, cells = cells, [cell.translate(LIKE_IN_LIST) for cell in cells]
            if spellings.setdefault(tuple(cells), written) != written:
                continue  # a line of before, with another apostrophe or hyphen
            if part.kind is None:
                part.rows.append(_row(cells, part.groups, has_when, path, line))
            else:
                phrase = _phrase(cells, path, line)
                if first_line.setdefault(phrase, line) != line:
                    raise UserError(
                        f"{path}, line {line}: {phrase!r} repeats line {first_line[phrase]}; delete one of the two"
                    )
                part.phrases.append(phrase)
        except UserError as mistake:
            mistakes.append(mistake)
            if not part.groups:  # without a header, no line can be judged
                return part
    if not part.groups:
        mistakes.append(
            UserError(f"{path}: the word list is empty; its first line names the groups, tab-separated: male, female")
        )
    elif not part.rows and not part.phrases and not mistakes:
        what = (
            f"row; add one row of counterparts a line, one word for each of {', '.join(part.groups)}"
            if part.kind is None
            else "phrase; add one a line"
        )
        mistakes.append(UserError(f"{path}: the word list has a header but no {what}"))
    return part


def _header(cells: list[str], metadata: dict[str, str], path: Path, line: int) -> tuple[tuple[str, ...], bool]:
    """The group names (or the one kind of phrases) and whether there is a `when` column."""
    where = f"{path}, line {line}"
    if len(cells) == 1 and cells[0].lower() in (PROTECTED, SKIP):
        return (cells[0].lower(),), False
    has_when = cells[-1].lower() == WHEN
    groups = tuple(cells[:-1] if has_when else cells)
    if WHEN in (group.lower() for group in groups):
        raise UserError(
            f"{where}: the column {WHEN!r} must be the last and occur once; move it to the end of the header"
        )
    if "" in groups:
        raise UserError(f"{where}: column {groups.index('') + 1} of the header has no name; name every group")
    if len(groups) < 2:
        hint = " (columns are separated by tabs, this line has spaces)" if " " in "".join(groups) else ""
        raise UserError(
            f"{where}: the header names {len(groups) or 'no'} group{hint}; a word list needs at least two groups"
        )
    for position, group in enumerate(groups):
        if group in groups[:position]:
            raise UserError(f"{where}: group {group!r} is named twice; every group is one column")
    if "groups" in metadata:
        declared = tuple(name.strip() for name in metadata["groups"].split(","))
        for group in groups:
            if group not in declared:
                raise UserError(
                    f"{where}: unknown group {group!r}, which the comment '# groups:' does not name; "
                    f"{suggestion(group, declared)}"
                )
        for group in declared:
            if group not in groups:
                raise UserError(f"{where}: group {group!r} of the comment '# groups:' has no column in the header")
    return groups, has_when


def _row(cells: list[str], groups: tuple[str, ...], has_when: bool, path: Path, line: int) -> Row:
    """One checked row, seen by itself."""
    where = f"{path}, line {line}"
    expected = len(groups)
    when = ""
    if has_when and len(cells) == expected + 1:  # an editor may have stripped the tab before an empty last cell
        when = cells.pop().lower()
    if len(cells) != expected:
        hint = f"one word for each of {', '.join(groups)}"
        if len(cells) == 1:
            hint = "columns are separated by tabs, and this line has none"
        elif not has_when and cells[-1].lower() in KNOWN_WHEN:
            hint = f"for roles, add a last column {WHEN!r} to the header"
        raise UserError(f"{where}: the row has {len(cells)} of {expected} words ({cells[0]!r} ...); {hint}")
    marks = when.replace(",", " ").split()
    for mark in marks:
        if mark not in KNOWN_WHEN:
            raise UserError(f"{where}: unknown role {mark!r}; {suggestion(mark, (*ROLES, *MARKS))}")
    roles = [mark for mark in marks if mark in ROLES]
    if len(roles) > 1:
        raise UserError(f"{where}: the row has {len(roles)} roles ({', '.join(roles)}); write one row for each")
    if AMBIGUOUS in marks and "name" not in roles:
        raise UserError(f"{where}: {AMBIGUOUS!r} is a mark of names; write 'name {AMBIGUOUS}', or leave it out")
    if GENERIC in marks and (len(marks) > 1):
        raise UserError(
            f"{where}: {GENERIC!r} stands alone; leave {marks[0] if marks[0] != GENERIC else marks[1]!r} out"
        )
    words = tuple(cell.lower() for cell in cells)
    for group, word in zip(groups, words, strict=True):
        if not word:
            raise UserError(f"{where}: the word of group {group!r} is empty; fill it in or delete the row")
        if not (is_word_character(word[0]) and is_word_character(word[-1])):
            raise UserError(f"{where}: {word!r} must begin and end with a letter or digit; leave punctuation out")
    return Row(
        words, roles[0] if roles else None, line, ONE_WAY in marks, AMBIGUOUS in marks, str(path), GENERIC in marks
    )


def _phrase(cells: list[str], path: Path, line: int) -> str:
    """One checked phrase."""
    where = f"{path}, line {line}"
    if len(cells) > 1:
        raise UserError(f"{where}: the line has {len(cells)} columns, but a phrase is one; delete the tab")
    phrase = cells[0]
    if not (is_word_character(phrase[0]) and is_word_character(phrase[-1])):
        raise UserError(f"{where}: {phrase!r} must begin and end with a letter or digit; leave punctuation out")
    return phrase


class _Conflicts:
    """What only several rows show together: words in two groups, duplicates, pairs that no role tells apart."""

    def __init__(self, groups: tuple[str, ...]) -> None:
        self._groups = groups
        self._first_use: dict[str, tuple[int, Row]] = {}
        self._rows_of: dict[str, list[Row]] = {}
        self._same: dict[tuple[tuple[str, ...], str | None], Row] = {}

    def add(self, row: Row) -> None:
        """Raises UserError where the row contradicts an earlier one."""
        where = f"{row.file}, line {row.line}"
        for group, word in enumerate(row.words):
            other, earlier = self._first_use.setdefault(word, (group, row))
            if other != group:
                raise UserError(
                    f"{where}: {word!r} is in group {self._groups[group]!r} and, on {_line(earlier, row)}, in group "
                    f"{self._groups[other]!r}; a word belongs to one group"
                )
        same = self._same.setdefault((row.words, row.when), row)
        if same is not row:
            raise UserError(
                f"{where}: the row {' / '.join(row.words)} repeats {_line(same, row)}; delete one of the two"
            )
        for _, word in row.listed:
            for earlier in self._rows_of.get(word, ()):
                weak = row.one_way or earlier.one_way or row.generic != earlier.generic
                if row.when == earlier.when and not weak:
                    raise UserError(
                        f"{where}: {word!r} is paired here with {_others(row, word)} and on {_line(earlier, row)} with "
                        f"{_others(earlier, word)}; give the two rows different roles in the last column {WHEN!r} "
                        f"({', '.join(ROLES)}), mark one {ONE_WAY!r}, or delete one"
                    )
            self._rows_of.setdefault(word, []).append(row)


def _line(earlier: Row, row: Row) -> str:
    """Where the earlier row stands, as told beside the other."""
    return f"line {earlier.line}" + (f" of {earlier.file}" if earlier.file != row.file else "")


def _others(row: Row, word: str) -> str:
    return " / ".join(repr(other) for other in row.words if other != word)
