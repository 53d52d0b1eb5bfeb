"""Files or a hub data set -> documents, one after the other: texts, or conversations as lists of messages."""

import glob
import random
import re
from array import array
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

from distill.base.bundled import at_hand
from distill.base.console import say, warn
from distill.base.errors import UserError, first_line, hub_hint, storage_error
from distill.base.long_input import encodable, parts
from distill.base.row_files import (
    Row,
    batch_rows,
    cell,
    check_readable,
    damage_told,
    end_mark,
    file_rows,
    is_prose,
    lines_are_texts,
    prose,
    prose_lines,
    uncompressed,
    whole_rows,
)
from distill.recipe import CorpusConfig
from distill.text.conversations import Messages, read_messages, stored_messages


class Labelled(str):
    """A document, or a passage of one, with the label that its row or file gives it."""

    label: str | None

    def __new__(cls, text: str, label: str | None) -> "Labelled":
        made = super().__new__(cls, text)
        made.label = label
        return made

    def __getnewargs__(self) -> tuple:  # what pickle calls `__new__` with
        return str(self), self.label


def label_of(document: str) -> str | None:
    """What `corpus.label` says of a document, also of a conversation; None where it says nothing."""
    return getattr(getattr(document, "messages", document), "label", None)


def _like(document: str, pieces: Iterable[str]) -> Iterable[str]:
    """The pieces of a document, each with its label."""
    label = label_of(document)
    return pieces if label is None else (Labelled(piece, label) for piece in pieces)


CUTS_VERSION = 2  # raise it whenever the same text may be cut otherwise
_SENTENCE_END = re.compile(r"[.!?][\"'”’)\]]*(\s+)")
OF_FILE = "file"  # as corpus.label: a document's label is the name of its file
_ROWS = 1000  # read at a time
_LONGEST_DOCUMENT = 10_000_000  # characters; a longer one is cut
_told: set[str] = set()  # sources of which it was said that some of their rows are empty; what else was said


def read_documents(config: CorpusConfig, seed: int) -> Iterator[str]:
    """The documents of a corpus of files or of the hub, in a fixed order, empty ones left out.

    One of more than 10,000,000 characters is cut into several, behind a line or a sentence. A conversation is a
    `Messages`, and is never cut here.

    Args:
        config: The source; `source: teacher` is served by `data.corpus.open_corpus` instead.
        seed: Decides the order when `config.shuffle` is set.

    Raises:
        UserError: a file is missing or broken (with its line), a data set or its column cannot be had, or the whole
            corpus holds no text.
    """
    documents = _unshuffled(config, seed)
    if config.shuffle and config.pack == "before_training" and not (config.source == "hub" and config.streaming):
        documents = _shuffled(partial(_unshuffled, config, seed), config.max_documents, seed)
    documents = islice(documents, config.max_documents)
    first = next(documents, None)
    if first is None:
        name = ", ".join(config.files) if config.source == "files" else config.dataset
        raise UserError(f"the corpus {name} holds no text; check its files and its text_column '{config.text_column}'")
    yield first
    yield from documents


def _unshuffled(config: CorpusConfig, seed: int) -> Iterator[str]:
    """All documents, in the order of the source; `shuffle` may have changed that of its files and rows."""
    documents = _file_documents(config, seed) if config.source == "files" else _hub_documents(config, seed)
    if config.document_start or config.passage_chars:
        documents = map(_cuttable, documents)
    if config.document_start:
        documents = _regroup(documents, config.document_start)
    documents = (
        part
        for document in documents
        for part in (
            [document] if isinstance(document, Messages) else _like(document, parts(document, _LONGEST_DOCUMENT))
        )
    )
    if config.passage_chars:
        documents = (p for d in documents for p in _like(d, passages(d, config.passage_chars)))
    return (d for d in documents if d.strip())


def _shuffled(read: Callable[[], Iterator[str]], most: int | None, seed: int) -> Iterator[str]:
    """Documents in random order, the first `most` of them. Where there are more, they are read twice, and those alone
    are held that are given."""
    documents = read()
    pool = list(islice(documents, most))
    if left := sum(1 for _ in documents):
        # How the places of a list are shuffled depends on their number alone.
        order = array("q", range(len(pool) + left))
        pool.clear()
        random.Random(seed).shuffle(order)
        places = {number: place for place, number in enumerate(order[:most])}
        kept = {places[number]: document for number, document in enumerate(read()) if number in places}
        yield from (kept[place] for place in sorted(kept))
        return
    random.Random(seed).shuffle(pool)
    yield from pool


def _cuttable(document: str) -> str:
    if isinstance(document, Messages):
        raise UserError(
            "passage_chars and document_start cut texts, but the corpus holds conversations; leave them out"
        )
    return document


def _regroup(rows: Iterable[str], pattern: str) -> Iterator[str]:
    """Join rows, and cut the result before every line that matches; also where it gets too long."""
    begins = re.compile(pattern)
    current: list[str] = []
    size = 0
    for row in rows:
        for line in re.findall(r"[^\n]*\n|[^\n]+", row):
            if current and (size > _LONGEST_DOCUMENT or begins.search(line.rstrip("\r\n"))):
                yield "".join(current)
                current, size = [], 0
            current.append(line if line.endswith("\n") else line + "\n")
            size += len(line)
    if current:
        yield "".join(current)


def passages(document: str, limit: int) -> Iterator[str]:
    """Split a document at line ends into passages of at most `limit` characters.

    Lines are joined while they fit. A line that is too long by itself is split at sentence ends, and a sentence that
    is still too long at white space (or, without any, at the limit).

    Args:
        document: Text with paragraphs separated by line breaks.
        limit: Longest passage, in characters.
    """
    current = ""
    for line in document.splitlines():
        for piece in _pieces(line.strip(), limit):
            if current and len(current) + 1 + len(piece) > limit:
                yield current
                current = ""
            current = f"{current}\n{piece}" if current else piece
    if current:
        yield current


def _sentences(line: str) -> Iterator[str]:
    """Each with the quotation marks and brackets that close it."""
    begin = 0
    for end in _SENTENCE_END.finditer(line):
        yield line[begin : end.start(1)]
        begin = end.end()
    yield line[begin:]


def _pieces(line: str, limit: int) -> Iterator[str]:
    if len(line) <= limit:
        if line:
            yield line
        return
    current = ""
    for sentence in _sentences(line):
        while len(sentence) > limit:
            if current:
                yield current
                current = ""
            cut = sentence.rfind(" ", 1, limit + 1)
            cut = cut if cut > 0 else limit
            yield sentence[:cut]
            sentence = sentence[cut:].lstrip()
        if current and len(current) + 1 + len(sentence) > limit:
            yield current
            current = ""
        current = f"{current} {sentence}" if current else sentence
    if current:
        yield current


def check_files(*configs: CorpusConfig) -> None:
    """Find the files of all texts, before one of them is sampled, which may take hours.

    Raises:
        UserError: see `corpus_files`.
    """
    for config in configs:
        if config.source == "files":
            corpus_files(config)


def corpus_files(config: CorpusConfig) -> list[Path]:
    """The files, and folders of save_to_disk, that the patterns of `config.files` name, in a fixed order.

    One that is named several times, also by links, is there once; that is said. A file that lies beside a compressed
    one of its name is warned of.

    Raises:
        UserError: a pattern names nothing, or something that is not read.
    """
    found: dict[Path, Path] = {}  # what it is -> as it is named first
    for pattern in config.files:
        for path in [Path(name) for name in sorted(glob.glob(pattern, recursive=True))] or [at_hand(pattern)]:
            if not path.exists():
                raise UserError(f"{pattern}: no such corpus file; relative paths start at the current folder")
            check_readable(path)
            known = found.setdefault(path.resolve(), path)
            if known is not path:
                _tell_once(say, f"{path}: read once, though files names it several times; copy it to count it twice")
    _warn_of_twins(found.values())
    return list(found.values())


def _warn_of_twins(paths: Iterable[Path]) -> None:
    first: dict[Path, Path] = {}
    for path in paths:
        known = first.setdefault(uncompressed(path), path)
        if known is not path:
            _tell_once(warn, f"{known} and {path} are both read; if they hold the same text, it counts twice")


def _tell_once(tell: Callable[[str], None], what: str) -> None:
    if what not in _told:
        _told.add(what)
        tell(what)


def _file_documents(config: CorpusConfig, seed: int) -> Iterator[str]:
    paths = corpus_files(config)
    if config.shuffle and config.pack == "while_training":
        random.Random(seed).shuffle(paths)
    for path in paths:
        with damage_told(path):
            yield from _of_file(path, config)


def _of_file(path: Path, config: CorpusConfig) -> Iterator[str]:
    if config.label == OF_FILE:
        for document in _of_file(path, replace(config, label=None)):
            yield _with_label(document, path.name)
        return
    if is_prose(path) and path.is_file() and (mark := end_mark(path)):
        what = "is read as text and ends no document, though tokenizers may take it for an end token"
        _tell_once(warn, f"{path}: {mark} in it {what}; give the texts between as rows of a .jsonl")
    if config.label:
        yield from _labelled(path, config.label, config)
    elif is_prose(path) and not (config.document_start or config.passage_chars) and lines_are_texts(path):
        say(f"{path}: every line ends like a text, and is read as one")
        yield from prose_lines(path, _LONGEST_DOCUMENT)
    elif is_prose(path):
        yield from prose(path, _LONGEST_DOCUMENT)
    else:
        yield from _of_rows(file_rows(path, config.text_column, config.split), config, str(path))


def _labelled(path: Path, column: str, config: CorpusConfig) -> Iterator[str]:
    """The documents of a file of rows, each with the label that stands in a column."""
    if is_prose(path):
        raise UserError(f"{path}: has no column '{column}' (corpus.label); give rows, or set corpus.label to file")
    empty = 0
    try:
        for where, row in whole_rows(path, config.split):
            value = cell(row, config.text_column, where)
            if value is None or value == []:
                empty += 1
                continue
            label = cell(row, column, where, "Set corpus.label to one of them")
            yield _with_label(_document(value, where, config.text_column), "" if label is None else str(label))
    finally:
        _tell_empty(empty, str(path), config)


def _with_label(document: str, label: str) -> str:
    if isinstance(document, Messages):
        document.label = label
        return document
    return Labelled(document, label)


def _hub_documents(config: CorpusConfig, seed: int) -> Iterator[str]:
    import datasets

    try:
        rows = datasets.load_dataset(
            config.dataset, config.name, split=config.split, revision=config.revision, streaming=config.streaming
        )
    except Exception as error:  # the libraries below raise many kinds, none of them the user's to read in full
        raise not_loaded(config, error) from None
    if config.shuffle and config.streaming:
        # With a buffer of one row, only the order of the files changes.
        rows = rows.shuffle(seed=seed, buffer_size=1 if config.pack == "while_training" else config.shuffle_buffer)
    elif config.shuffle and config.pack == "while_training":
        rows = rows.shuffle(seed=seed)
    where = f"data set '{config.dataset}'"
    # Not row by row: in a worker of a data loader, that would give only the worker's share of a streamed data set.
    try:
        yield from _of_rows(batch_rows(rows.iter(_ROWS), config.text_column, where), config, where)
    except UserError:
        raise
    except Exception as error:  # the network is gone, or a part of it is damaged or has other columns
        raise storage_error(error) or UserError(
            f"{where}: cannot be read on ({first_line(error)}); check the network and the data set, and give the same "
            "command again"
        ) from None


def not_loaded(config: CorpusConfig, error: Exception) -> UserError:
    """The sentence for a data set of the hub that cannot be had."""
    return UserError(
        f"data set '{config.dataset}' (configuration {config.name}, split {config.split}) cannot be loaded: "
        f"{first_line(error)}; {hub_hint()}"
    )


def _of_rows(rows: Iterable[Row], config: CorpusConfig, source: str) -> Iterator[str]:
    """The documents of rows. One that holds nothing is no reason to refuse a corpus; how many there were is said."""
    empty = 0
    try:
        for where, value in rows:
            if value is None or value == []:
                empty += 1
                continue
            yield _document(value, where, config.text_column)
    finally:
        _tell_empty(empty, source, config)


def _tell_empty(empty: int, source: str, config: CorpusConfig) -> None:
    if empty and source not in _told:
        _told.add(source)
        say(f"{source}: {empty:,} rows hold no '{config.text_column}' and are left out")


def _document(value: Any, where: str, column: str) -> str:
    if isinstance(value, str) and (messages := stored_messages(value)) is not None:
        value = messages
    if isinstance(value, str):
        # Half of a surrogate pair, which JSON can hold and no tokenizer reads, is replaced.
        return encodable(value.removeprefix("\ufeff"))
    if isinstance(value, list):
        return read_messages(value, f"{where}, '{column}'")
    raise UserError(
        f"{where}: '{column}' holds {type(value).__name__}, not text nor a list of messages; set text_column"
    )
