"""Files or a hub data set -> documents, one after the other."""

import bz2
import glob
import gzip
import json
import lzma
import random
import re
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

from distill.base.console import say
from distill.base.errors import UserError, first_line, hub_hint
from distill.base.long_input import open_text, parts, stream_parts
from distill.recipe import CorpusConfig
from distill.text.counterfactual import encodable

_OPENERS: dict[str, Callable[..., Any]] = {".gz": gzip.open, ".xz": lzma.open, ".bz2": bz2.open}
_SENTENCE_END = re.compile(r"(?<=[.!?])[\"'”’)]*\s+")
_ENDS_LIKE_A_TEXT = re.compile(r"[.!?…。！？][\"'”’»)\]]*\s*$")
_LOOKED_AT = 1 << 16  # characters of a text file that tell whether its lines are texts
_MOST = 0.9  # of its lines
_ROWS = 1000  # read at a time
_LONGEST_DOCUMENT = 10_000_000  # characters; a longer one is cut
_LONGEST_ROW = 16_000_000  # characters of a line of JSON, bytes of a cell of parquet: what is read whole


def read_documents(config: CorpusConfig, seed: int) -> Iterator[str]:
    """The documents of a corpus of files or of the hub, in a fixed order, empty ones left out.

    One of more than 10,000,000 characters is cut into several, behind a line or a sentence.

    Args:
        config: The source; `source: teacher` is served by `sample_documents` instead.
        seed: Decides the order when `config.shuffle` is set.

    Raises:
        UserError: a file is missing or broken (with its line), a data set or its column cannot be had, or the whole
            corpus holds no text.
    """
    documents = _file_documents(config, seed) if config.source == "files" else _hub_documents(config, seed)
    if config.document_start:
        documents = _regroup(documents, config.document_start)
    documents = (part for document in documents for part in parts(document, _LONGEST_DOCUMENT))
    if config.passage_chars:
        documents = (p for d in documents for p in passages(d, config.passage_chars))
    documents = (d for d in documents if d.strip())
    if config.shuffle and config.pack == "before_training" and not (config.source == "hub" and config.streaming):
        pool = list(documents)
        random.Random(seed).shuffle(pool)
        documents = iter(pool)
    documents = islice(documents, config.max_documents)
    first = next(documents, None)
    if first is None:
        name = ", ".join(config.files) if config.source == "files" else config.dataset
        raise UserError(f"the corpus {name} holds no text; check its files and its text_column '{config.text_column}'")
    yield first
    yield from documents


def _regroup(rows: Iterable[str], pattern: str) -> Iterator[str]:
    """Join rows, and cut the result before every line that matches; also where it gets too long."""
    begins = re.compile(pattern)
    current: list[str] = []
    size = 0
    for row in rows:
        for line in row.splitlines(keepends=True):
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


def _pieces(line: str, limit: int) -> Iterator[str]:
    if len(line) <= limit:
        if line:
            yield line
        return
    current = ""
    for sentence in _SENTENCE_END.split(line):
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


def corpus_files(config: CorpusConfig) -> list[Path]:
    """The files that the patterns of `config.files` name, in a fixed order.

    Raises:
        UserError: a pattern names nothing, or a folder.
    """
    found = []
    for pattern in config.files:
        for path in map(Path, sorted(glob.glob(pattern, recursive=True)) or [pattern]):
            if not path.exists():
                raise UserError(f"{pattern}: no such corpus file; relative paths start at the current folder")
            if path.is_dir():
                raise UserError(f"{path}: is a folder; give a pattern for the files in it, e.g. {path}/*.txt")
            found.append(path)
    return found


def _file_documents(config: CorpusConfig, seed: int) -> Iterator[str]:
    paths = corpus_files(config)
    if config.shuffle and config.pack == "while_training":
        random.Random(seed).shuffle(paths)
    for path in paths:
        try:
            yield from _one_file(path, config)
        except UserError:
            raise
        except Exception as error:  # damaged files raise many kinds, parquet above all
            raise UserError(f"{path}: cannot be read ({error}); is it complete?") from None


def _one_file(path: Path, config: CorpusConfig) -> Iterator[str]:
    kind = path.with_suffix("").suffix if path.suffix in _OPENERS else path.suffix
    opener = _OPENERS.get(path.suffix, open)
    if kind == ".parquet":
        from pyarrow import parquet

        table = parquet.ParquetFile(path)
        if config.text_column not in table.schema_arrow.names:
            raise _no_column(str(path), config.text_column, table.schema_arrow.names)
        for batch in table.iter_batches(_ROWS, columns=[config.text_column]):
            column = batch.column(0)
            if _longest(column) > _LONGEST_ROW:
                raise _long_row(str(path))
            yield from (_text(value, str(path), config.text_column) for value in column.to_pylist() if value)
    elif kind in (".jsonl", ".json"):
        with open_text(path, opener) as stream:
            lines = iter(partial(stream.readline, _LONGEST_ROW + 1), "")
            for number, line in enumerate(lines, start=1):
                if len(line) > _LONGEST_ROW:
                    raise _long_row(f"{path}, line {number}")
                if line.strip():
                    yield _json_text(line, f"{path}, line {number}", config.text_column)
    elif not (config.document_start or config.passage_chars) and _lines_are_texts(path, opener):
        say(f"{path}: every line ends like a text, and is read as one")
        with open_text(path, opener) as stream:
            for line in stream:
                yield from parts(line.rstrip("\r\n"), _LONGEST_DOCUMENT)
    else:
        with open_text(path, opener) as stream:
            yield from stream_parts(stream, _LONGEST_DOCUMENT)


def _lines_are_texts(path: Path, opener: Callable[..., Any]) -> bool:
    """Whether the lines of a text file are texts of their own, and not those of one: told by how it begins.

    They are where several follow one another without a blank line, and nine of ten end like a sentence. Prose that is
    broken into lines ends most of them elsewhere, and prose with a line for each paragraph parts these by blank lines.
    """
    with open_text(path, opener) as stream:
        lines = stream.read(_LOOKED_AT).splitlines()
    lines = lines[:-1] if sum(map(len, lines)) + len(lines) >= _LOOKED_AT else lines  # the last one may be cut
    ended = sum(bool(_ENDS_LIKE_A_TEXT.search(line)) for line in lines)
    return len(lines) > 1 and all(map(str.strip, lines)) and ended >= _MOST * len(lines)


def _longest(column: Any) -> int:
    """Bytes of the longest text of an arrow column, told before it becomes Python's, which may take more."""
    from pyarrow import compute, types

    if not (types.is_string(column.type) or types.is_large_string(column.type)):
        return 0
    return compute.max(compute.binary_length(column)).as_py() or 0


def _json_text(line: str, where: str, column: str) -> str:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{where}: not valid JSON ({error}); one JSON object a line is expected") from None
    if not isinstance(row, dict) or column not in row:
        raise _no_column(where, column, row if isinstance(row, dict) else [])
    return _text(row[column], where, column)


def _text(value: Any, where: str, column: str) -> str:
    """The text of a row. Half of a surrogate pair, which JSON can hold and no tokenizer reads, is replaced."""
    if not isinstance(value, str):
        raise UserError(f"{where}: '{column}' holds {type(value).__name__}, not text; set text_column")
    return encodable(value)


def _long_row(where: str) -> UserError:
    return UserError(
        f"{where}: a row of more than {_LONGEST_ROW:,} characters, too long to be read whole; make several of it, "
        "or put its text into a .txt file, which may have any length"
    )


def _no_column(where: str, column: str, known: Iterable[str]) -> UserError:
    names = ", ".join(map(str, known)) or "none"
    return UserError(f"{where}: no column '{column}'; its columns are: {names}. Set text_column to one of them")


def _hub_documents(config: CorpusConfig, seed: int) -> Iterator[str]:
    import datasets

    try:
        rows = datasets.load_dataset(
            config.dataset, config.name, split=config.split, revision=config.revision, streaming=config.streaming
        )
    except Exception as error:  # the libraries below raise many kinds, none of them the user's to read in full
        raise UserError(
            f"data set '{config.dataset}' (configuration {config.name}, split {config.split}) cannot be loaded: "
            f"{first_line(error)}; {hub_hint()}"
        ) from None
    if config.shuffle and config.streaming:
        # With a buffer of one row, only the order of the files changes.
        rows = rows.shuffle(seed=seed, buffer_size=1 if config.pack == "while_training" else config.shuffle_buffer)
    elif config.shuffle and config.pack == "while_training":
        rows = rows.shuffle(seed=seed)
    # Not row by row: in a worker of a data loader, that would give only the worker's share of a streamed data set.
    for batch in rows.iter(_ROWS):
        if config.text_column not in batch:
            raise _no_column(f"data set '{config.dataset}'", config.text_column, batch)
        where = f"data set '{config.dataset}'"
        yield from (_text(value or "", where, config.text_column) for value in batch[config.text_column])
