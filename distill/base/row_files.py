"""Files and folders of data sets -> what one column of their rows holds, a row at a time.

    .jsonl, .ndjson             a JSON object a line
    .json                       the same, or an array of objects
    .csv, .tsv                  a header, then a row for each record; cells in quotes may hold line breaks
                                (of a .tsv without quoting see `is_unquoted`: a row a line, marks are marks)
    .parquet                    columns
    a folder of save_to_disk    a data set of the `datasets` library, or several splits of one
    .txt, .md, no ending        prose: read by `prose`, as it has no rows

In any letter case; all but the last three also compressed (.gz, .xz, .bz2).
"""

import bz2
import csv
import gzip
import json
import lzma
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache, partial
from itertools import chain, count
from pathlib import Path
from typing import IO, Any

from distill.base.console import say
from distill.base.errors import UserError, first_line
from distill.base.json_objects import KeyTwiceError, unique_keys
from distill.base.long_input import open_text, parts, stream_parts

Row = tuple[str, Any]  # where it stands, for messages; what the column holds, None where that is nothing

_OPENERS: dict[str, Callable[..., Any]] = {".gz": gzip.open, ".xz": lzma.open, ".bz2": bz2.open}
_PROSE = ("", ".txt", ".text", ".md")
_LINES = (".jsonl", ".ndjson")
_TABLES = {".csv": ",", ".tsv": "\t"}
_SAVED = ("dataset_dict.json", "state.json")  # what save_to_disk puts into its folder: of several splits, of one
_ROWS = 1000  # read at a time
_CHUNK = 1_000_000  # characters of an array that are read at a time
LINES_VERSION = 2  # raise it whenever the lines of the same file may be texts that were none, or the other way round
_ENDS_LIKE_A_TEXT = re.compile(r"[.!?…。！？।۔؟][\s\"'”’“»)\]]*$")  # also in tokens, as in: he said . "
_LOOKED_AT = 1 << 16  # characters of a text file that tell whether its lines are texts
_MOST = 0.9  # of its lines
_END_MARKS = ("<|endoftext|>", "<|end_of_text|>")
_SPACE = re.compile(r"\s*")
_WRITTEN_CELL = re.compile(r'[^"]*|"[^"]*(?:""[^"]*)*"')  # as a csv writer writes it
_OPENED_CELL = re.compile(r'"[^"]*(?:""[^"]*)*')  # that goes on in the next line
TABS_VERSION = 2  # raise it whenever the same .tsv may give other rows
_told: set[str] = set()  # tables of which it was said that a row stands on several lines
_JSON_TYPE = "arrow.json"
COLUMN_HINT = "Set text_column to one of them"
LONGEST_ROW = 16_000_000  # characters of a line of JSON, bytes of a cell of parquet: what is read whole


def check_readable(path: Path) -> None:
    """Raises UserError for a folder that is no saved data set, and for a file of a form that is not read."""
    if path.is_dir():
        if not is_saved(path):
            raise UserError(
                f"{path}: is a folder, and not one that save_to_disk made; give a pattern for the files in it, "
                f"e.g. {path}/*.txt"
            )
    elif (kind := _kind(path)) not in (*_PROSE, *_LINES, *_TABLES, ".json", ".parquet"):
        raise UserError(
            f"{path}: files that end in '{kind}' are not read, because they may be anything; name it .txt if it is "
            "prose, or give .jsonl, .json, .csv, .tsv, .parquet (.txt and rows also as .gz, .xz or .bz2), or a folder "
            "of save_to_disk"
        )


@contextmanager
def damage_told(path: Path) -> Iterator[None]:
    """Turn what reading a damaged file raises into a UserError: it is of many kinds, that of parquet above all."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"{path}: cannot be read ({error}); is it complete?") from None


def is_saved(folder: Path) -> bool:
    """Whether save_to_disk made the folder."""
    return any((folder / name).exists() for name in _SAVED)


def is_prose(path: Path) -> bool:
    """Whether a file that can be read is text without rows."""
    return not path.is_dir() and _kind(path) in _PROSE


def prose(path: Path, longest: int) -> Iterator[str]:
    """The text of a file, in parts of at most `longest` characters (see `long_input.parts`)."""
    with open_text(path, opener_of(path)) as stream:
        yield from stream_parts(stream, longest)


def prose_lines(path: Path, longest: int) -> Iterator[str]:
    """The lines of a file, in parts of at most `longest` characters."""
    with open_text(path, opener_of(path)) as stream:
        for line in stream:
            yield from parts(line.rstrip("\r\n"), longest)


def lines_are_texts(path: Path) -> bool:
    """Whether the lines of a text file are texts of their own, and not those of one: told by how it begins.

    They are where several follow one another without a blank line, and nine of ten end like a sentence. Prose that is
    broken into lines ends most of them elsewhere, and prose with a line for each paragraph parts these by blank lines.
    """
    with open_text(path, opener_of(path)) as stream:
        lines = stream.read(_LOOKED_AT).splitlines()
    lines = lines[:-1] if sum(map(len, lines)) + len(lines) >= _LOOKED_AT else lines  # the last one may be cut
    ended = sum(bool(_ENDS_LIKE_A_TEXT.search(line)) for line in lines)
    return len(lines) > 1 and all(map(str.strip, lines)) and ended >= _MOST * len(lines)


def end_mark(path: Path) -> str | None:
    """The end token of a tokenizer that the beginning of a text file holds, as between the texts of TinyStories."""
    with open_text(path, opener_of(path)) as stream:
        begins = stream.read(_LOOKED_AT)
    return next((mark for mark in _END_MARKS if mark in begins), None)


def file_rows(path: Path, column: str, split: str) -> Iterator[Row]:
    """What a column holds in each row of a file, or of a folder of save_to_disk.

    Args:
        path: One that `check_readable` lets pass and that is no prose.
        column: Its name; `a.b` is what stands under b in a, where no column has that very name.
        split: Of a folder that holds several.

    Raises:
        UserError: there is no such column or split, or a row is malformed or too long.
    """
    if path.is_dir():
        yield from batch_rows(_saved(path, split).iter(_ROWS), column, str(path))
        return
    if _kind(path) == ".parquet":
        yield from _parquet_rows(path, column)
        return
    for where, row in _text_rows(path):
        yield where, cell(row, column, where)


def whole_rows(path: Path, split: str | None) -> Iterator[tuple[str, Mapping]]:
    """Where each row stands, and all of its columns; see `file_rows`.

    Args:
        path: One that `check_readable` lets pass and that is no prose.
        split: Of a folder that holds several; None where it must hold one only.
    """
    if path.is_dir():
        yield from ((str(path), row) for row in _saved(path, split))
    elif _kind(path) == ".parquet":
        yield from _whole_parquet_rows(path)
    else:
        yield from _text_rows(path)


def table_header(path: Path) -> list[str]:
    """The names of the columns of a .csv or .tsv."""
    with open_text(path, opener_of(path)) as stream:
        return _header(_table_reader(stream, _TABLES[_kind(path)], is_unquoted(path)), path)


def table_delimiter(path: Path) -> str | None:
    """What parts the cells of a .csv or .tsv; None of another file."""
    return None if path.is_dir() else _TABLES.get(_kind(path))


def is_unquoted(path: Path) -> bool:
    """Whether a .tsv is read and written a row a line, with quotation marks that are characters like any other.

    It is where each of its lines has as many tabs as the header, and one of them is what no csv writer writes: these
    put a cell with a quotation mark into such marks, and double its own. Of a last line without an end nothing is told,
    as it may be cut. A pipe, which can be read once only, counts as quoted.
    """
    if path.is_dir() or _TABLES.get(_kind(path)) != "\t" or not path.is_file():
        return False
    stamp = path.stat()
    return _is_unquoted(path, (stamp.st_size, stamp.st_mtime_ns))


@lru_cache(maxsize=1024)
def _is_unquoted(path: Path, changed: tuple[int, int]) -> bool:
    del changed
    with open_text(path, opener_of(path)) as stream:
        lines = iter(partial(stream.readline, LONGEST_ROW + 2), "")
        tabs = next(lines, "").count("\t")
        unlike = opened = False  # a line that no csv writer writes; a cell that goes on from line to line
        for line in lines:
            row = line.rstrip("\r\n")
            if len(row) > LONGEST_ROW or (row and row.count("\t") != tabs):
                return False
            if unlike or '"' not in row:
                continue
            cells = ['"' + row] if opened else row.split("\t")
            if all(map(_WRITTEN_CELL.fullmatch, cells)):
                opened = False
            elif tabs == 0 and _OPENED_CELL.fullmatch(cells[0]):  # of several columns, its last line would lack tabs
                opened = True
            else:
                unlike = line != row
    if unlike:
        say(f"{path}: read a row a line, its quotation marks as they stand, as they are not those of a csv writer")
    return unlike


def _text_rows(path: Path) -> Iterator[tuple[str, Mapping]]:
    kind = _kind(path)
    with open_text(path, opener_of(path)) as stream:
        if kind in _TABLES:
            yield from _table(stream, path, _TABLES[kind], is_unquoted(path))
            return
        # Many files called .json hold an object a line.
        number, begins = 1, stream.readline(LONGEST_ROW + 1) if kind == ".json" else ""
        while begins and not begins.strip() and len(begins) <= LONGEST_ROW:
            number, begins = number + 1, stream.readline(LONGEST_ROW + 1)
        if begins.lstrip().startswith("["):
            yield from _array(chain([begins], iter(partial(stream.read, _CHUNK), "")), path)
        else:
            yield from _lines(begins, number, stream, path)


def batch_rows(batches: Iterable[Mapping[str, list]], column: str, where: str) -> Iterator[Row]:
    """`file_rows` of batches: column -> the values of some rows."""
    for batch in batches:
        top = column if column in batch else column.partition(".")[0]
        if top not in batch:
            raise _no_column(where, column, batch)
        yield from ((where, cell({top: value}, column, where)) for value in batch[top])


def _kind(path: Path) -> str:
    """The ending that tells a file's form, behind which it may be compressed."""
    return uncompressed(path).suffix.lower()


def uncompressed(path: Path) -> Path:
    """The path without the ending that tells how it is compressed, if it has one."""
    return path.with_suffix("") if path.suffix.lower() in _OPENERS else path


def opener_of(path: Path) -> Callable[..., Any]:
    """`open`, or what opens a compressed file as it."""
    return _OPENERS.get(path.suffix.lower(), open)


def _saved(path: Path, split: str | None) -> Any:
    import datasets

    try:
        found = datasets.load_from_disk(str(path)).with_format(None)  # one that was saved hides columns, or makes NaN
    except Exception as error:  # damaged folders raise many kinds
        raise UserError(f"{path}: no data set can be loaded from it: {first_line(error)}; save it again") from None
    if not isinstance(found, datasets.DatasetDict):
        return found
    if split is None and len(found) > 1:
        raise UserError(
            f"{path}: holds the splits {', '.join(found)}; name one by --split, or swap all of them by --dataset and "
            "--to"
        )
    split = next(iter(found), None) if split is None else split
    if split not in found:
        raise UserError(f"{path}: holds no split '{split}', but {', '.join(found)}; set split to one of them")
    return found[split]


# ------------------------------------------------------------------------------------------------------------- JSON


def _lines(begins: str, first: int, stream: IO[str], path: Path) -> Iterator[tuple[str, Mapping]]:
    """The objects of lines of JSON from that number on, of which one has been read already where it is not empty."""
    read = iter(partial(stream.readline, LONGEST_ROW + 1), "")
    for number, line in enumerate(chain([begins] if begins else [], read), start=first):
        where = f"{path}, line {number}"
        if len(line) > LONGEST_ROW:
            raise _long_row(where)
        if not line.strip():
            continue
        try:
            row = json.loads(line, object_pairs_hook=unique_keys)
        except KeyTwiceError as error:
            raise UserError(f"{where}: {error}") from None
        except (ValueError, RecursionError) as error:
            if isinstance(error, json.JSONDecodeError) and line.lstrip()[0] == "{" and error.pos >= len(line.rstrip()):
                raise UserError(
                    f"{where}: not valid JSON by itself; put an object that stands on several lines on one, or, in a "
                    ".json file, put [ and ] around all objects and commas between them"
                ) from None
            raise UserError(f"{where}: not valid JSON ({error}); one JSON object a line is expected") from None
        yield where, _object(row, where, "one JSON object a line")


def _array(chunks: Iterator[str], path: Path) -> Iterator[tuple[str, Mapping]]:
    """The objects of an array, of which no more than one and a chunk are held."""
    decode = json.JSONDecoder(object_pairs_hook=unique_keys).raw_decode
    text, at = next(chunks), 0  # what has been read; how far it has been given
    for number in count(1):
        where = f"{path}, row {number}"
        while True:
            mark = _after_space(text, at)
            begins = _after_space(text, mark + 1)
            if text[mark : mark + 1] == "]" or (number == 1 and text[begins : begins + 1] == "]"):
                _refuse_more(text[text.index("]", mark) + 1 :], chunks, path)
                return
            try:
                if text[mark : mark + 1] not in ("", "[" if number == 1 else ","):
                    raise UserError(f"{where}: not valid JSON (a comma is missing before it)")
                row, at = decode(text, begins)
                break
            except KeyTwiceError as error:
                raise UserError(f"{where}: {error}") from None
            except (ValueError, RecursionError) as error:
                if len(text) - at > LONGEST_ROW:
                    raise _long_row(where) from None
                if (more := next(chunks, None)) is None:
                    raise UserError(f"{where}: not valid JSON ({error}); is the file complete?") from None
                text, at = text[at:] + more, 0
        yield where, _object(row, where, "an array of objects")


def _refuse_more(text: str, chunks: Iterator[str], path: Path) -> None:
    """Raises UserError where something stands behind an array."""
    for chunk in chain([text], chunks):
        if more := chunk.strip():
            raise UserError(f"{path}: not valid JSON ('{more[:20]}' stands behind the array); one array is expected")


def _after_space(text: str, at: int) -> int:
    found = _SPACE.match(text, at)
    return found.end() if found else at


def _object(row: Any, where: str, expected: str) -> Mapping:
    if not isinstance(row, Mapping):
        raise UserError(f"{where}: holds a {type(row).__name__}; {expected} is expected")
    return row


# ----------------------------------------------------------------------------------------------------------- tables


def _table(stream: IO[str], path: Path, delimiter: str, plain: bool) -> Iterator[tuple[str, Mapping]]:
    """The rows of a table in text, by the names in its header; an empty cell holds nothing."""
    held: list[int] = []  # how many delimiters each line of a row has
    reader = _table_reader(stream, delimiter, plain, held if delimiter == "\t" else None)
    line = 1
    try:
        header = _header(reader, path)
        line = reader.line_num + 1
        held.clear()
        for cells in reader:
            if len(held) > 1:
                _look_at_lines(held, len(header) - 1, path, line)
            held.clear()
            if cells and len(cells) != len(header):
                raise UserError(f"{path}, line {line}: has {len(cells)} cells, but the header {len(header)}")
            if cells:
                yield f"{path}, line {line}", dict(zip(header, (cell or None for cell in cells), strict=True))
            line = reader.line_num + 1
    except csv.Error as error:
        if "field larger" in str(error):
            raise _long_row(f"{path}, line {line}") from None
        tabs = ", or, if none are meant, that each line has as many tabs as the header" if delimiter == "\t" else ""
        raise UserError(f"{path}, line {line}: not a table ({error}); check its quotes{tabs}") from None


def _look_at_lines(held: list[int], tabs: int, path: Path, line: int) -> None:
    """Tells that a cell goes on from line to line. Raises UserError where these look like rows of their own."""
    last = line + len(held) - 1
    if tabs == 0:
        if str(path) not in _told:
            _told.add(str(path))
            say(f"{path}, lines {line} to {last}: one row, because a quotation mark opens it; others may be like it")
    elif held[0] == held[-1] == tabs:
        raise UserError(
            f"{path}, line {line}: a quotation mark opens a cell that ends in line {last}, but both lines have the "
            "tabs of a whole row; see that each line has as many tabs as the header, or, if it is one cell, give the "
            "table as .csv"
        )


def _table_reader(stream: IO[str], delimiter: str, plain: bool, held: list[int] | None = None) -> Any:
    csv.field_size_limit(LONGEST_ROW)
    # No longer line is read: what is cut there is a field too long, or one that it makes so.
    lines = iter(partial(stream.readline, LONGEST_ROW + 2), "")
    if held is not None:
        lines = _counted(lines, delimiter, held)
    return csv.reader(lines, delimiter=delimiter, strict=True, quoting=csv.QUOTE_NONE if plain else csv.QUOTE_MINIMAL)


def _counted(lines: Iterator[str], delimiter: str, held: list[int]) -> Iterator[str]:
    for line in lines:
        held.append(line.count(delimiter))
        yield line


def _header(reader: Iterator[list[str]], path: Path) -> list[str]:
    header = next(reader, [])
    _refuse_twins(header, f"{path}, line 1")
    return header


def _refuse_twins(names: list[str], where: str) -> None:
    """Raises UserError where two columns have one name: a row could keep only one of them."""
    if twins := [name for name, times in Counter(names).items() if times > 1]:
        called = f"are called '{twins[0]}'" if twins[0] else "have no name"
        raise UserError(f"{where}: several columns {called}; give each a name of its own")


def _whole_parquet_rows(path: Path) -> Iterator[tuple[str, Mapping]]:
    from pyarrow import parquet

    table = parquet.ParquetFile(path)
    _refuse_twins(table.schema_arrow.names, str(path))
    for batch in table.iter_batches(_ROWS):
        if any(_longest(column) > LONGEST_ROW for column in batch.columns):
            raise _long_row(str(path))
        columns = [_values(column) for column in batch.columns]
        yield from ((str(path), dict(zip(batch.schema.names, row, strict=True))) for row in zip(*columns, strict=True))


def _parquet_rows(path: Path, column: str) -> Iterator[Row]:
    from pyarrow import parquet

    table = parquet.ParquetFile(path)
    names = table.schema_arrow.names
    top = column if column in names else column.partition(".")[0]
    if top not in names:
        raise _no_column(str(path), column, names)
    for batch in table.iter_batches(_ROWS, columns=[column]):
        if top not in batch.schema.names:
            raise _no_column(str(path), column, names)
        values = batch.column(batch.schema.names.index(top))
        if _longest(values) > LONGEST_ROW:
            raise _long_row(str(path))
        yield from ((str(path), cell({top: value}, column, str(path))) for value in _values(values))


def _values(column: Any) -> list[Any]:
    """Of an arrow column. What `datasets` keeps as JSON, as messages whose keys differ, becomes what it stands for."""
    values = column.to_pylist()
    return [_from_json(value, column.type) for value in values] if _JSON_TYPE in str(column.type) else values


def _from_json(value: Any, kind: Any) -> Any:
    from pyarrow import types

    if value is None:
        return None
    if getattr(kind, "extension_name", None) == _JSON_TYPE:
        return json.loads(value)
    if types.is_struct(kind):
        return {field.name: _from_json(value[field.name], field.type) for field in kind}
    if types.is_list(kind) or types.is_large_list(kind):
        return [_from_json(inner, kind.value_type) for inner in value]
    return value


def _longest(column: Any) -> int:
    """Bytes of the longest text of an arrow column, told before it becomes Python's, which may take more."""
    from pyarrow import BaseExtensionType, compute, types

    kind = column.type
    if isinstance(kind, BaseExtensionType):
        return _longest(column.storage)
    if types.is_string(kind) or types.is_large_string(kind):
        return compute.max(compute.binary_length(column)).as_py() or 0
    if types.is_struct(kind):
        return max(map(_longest, column.flatten()), default=0)
    if types.is_list(kind) or types.is_large_list(kind):
        return _longest(column.flatten())
    return 0


# ---------------------------------------------------------------------------------------------------------- columns


def cell(row: Mapping, column: str, where: str, hint: str = COLUMN_HINT) -> Any:
    """What stands in a column, or under `a.b` in the b of a.

    Raises:
        UserError: there is no such column; it ends with the hint.
    """
    if column in row:
        return row[column]
    value: Any = row
    for key in column.split("."):
        if value is None:
            return None
        if not isinstance(value, Mapping) or key not in value:
            raise _no_column(where, column, _names(row), hint)
        value = value[key]
    return value


def _names(row: Mapping) -> Iterator[str]:
    for name, value in row.items():
        yield from (f"{name}.{inner}" for inner in value) if isinstance(value, Mapping) else [str(name)]


def _no_column(where: str, column: str, known: Iterable[str], hint: str = COLUMN_HINT) -> UserError:
    names = ", ".join(known) or "none"
    return UserError(f"{where}: no column '{column}'; its columns are: {names}. {hint}")


def _long_row(where: str) -> UserError:
    return UserError(
        f"{where}: a row of more than {LONGEST_ROW:,} characters, too long to be read whole; make several of it, "
        "or put its text into a .txt file, which may have any length"
    )
