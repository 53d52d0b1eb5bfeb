"""Rows with a column of text in, rows with its counterfactuals out: whatever else they hold stays.

1. A file with rows (see `row_files`) or a saved data set -> its rows                                  (`read_rows`)
2. A row and the counterfactual of its text -> the row as it is written                                (`row_form`)
3. A data set of the library `datasets` -> one with every row and its counterfactual                   (`swap_dataset`)
"""

import csv
import hashlib
import io
import json
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from itertools import accumulate
from math import isfinite, isnan
from pathlib import Path
from typing import Any

from distill.base.console import say
from distill.base.errors import UserError, first_line, hub_hint
from distill.base.files import write_folder
from distill.base.long_input import encodable
from distill.base.row_files import (
    TABS_VERSION,
    cell,
    check_readable,
    damage_told,
    is_prose,
    is_saved,
    is_unquoted,
    table_delimiter,
    table_header,
    whole_rows,
)
from distill.text.conversations import BETWEEN, read_messages, stored_messages
from distill.text.counterfactual import Counterfactual, Swapper
from distill.text.wordlist import WordList, load_wordlist

Row = dict[str, Any]

_HINT = "Name one of them by --text_column"
_TYPES_OF = 1000  # rows tell the types of a data set's columns, and the first one that holds anything in a column
_JSON_SCALARS = (str, int, type(None))
_told: set[tuple[str, str]] = set()  # files and columns of which it was said that NaN in them becomes null


def holds_rows(path: Path) -> bool:
    """Whether a file or folder is read row by row, by its name, instead of line by line.

    Raises:
        UserError: it is there, and of a form that is not read.
    """
    if path.is_dir() and not is_saved(path):
        raise UserError(f"{path}: cannot be read (a folder without a saved data set); give a file")
    if path.exists():
        check_readable(path)
    return path.exists() and not is_prose(path)


# ----------------------------------------------------------------------------------------------------------- reading


def read_rows(path: Path, split: str | None = None) -> Iterator[Row]:
    """The rows of a file or of a data set that `save_to_disk` wrote.

    Args:
        path: One that `holds_rows`.
        split: Of a saved data set that has several.

    Raises:
        UserError: it cannot be read, or a row (told by its number) is none.
    """
    with damage_told(path):
        for _, row in whole_rows(path, split):
            yield dict(row)


def text_of(row: Row, column: str, number: int, name: str | Path) -> str:
    """The text in a column of a row, of messages that of their contents; "" where it is null.

    Raises:
        UserError: there is no such column, or it holds neither text nor messages.
    """
    value = cell(row, column, f"{name}, row {number}", _HINT)
    if value is not None and not isinstance(value, str | list):
        kind = type(value).__name__
        raise UserError(f"{name}, row {number}: '{column}' holds {kind}, not text; name another by --text_column")
    messages = _messages(value)
    if messages is None:
        return encodable(value) if isinstance(value, str) else ""
    read_messages(messages, f"{name}, row {number}, '{column}'")  # refuses what is none
    return BETWEEN.join(encodable(message["content"]) for message in messages)


def _messages(value: Any) -> list[Any] | None:
    """The messages in a cell: a list, or JSON that holds one; None of any other text."""
    return value if isinstance(value, list) else stored_messages(value) if isinstance(value, str) else None


def for_json(row: Row, number: int, name: str) -> Row:
    """A row that JSON can hold, with null in the place of NaN, which tables have for what is missing; that is said.

    Raises:
        UserError: a column holds what JSON has no form for.
    """
    return {column: _for_json(value, str(column), number, name) for column, value in row.items()}


def _for_json(value: Any, column: str, number: int, name: str) -> Any:
    if isinstance(value, _JSON_SCALARS):
        return value
    if isinstance(value, list):
        return [_for_json(inner, column, number, name) for inner in value]
    if isinstance(value, dict):
        return {key: _for_json(inner, column, number, name) for key, inner in value.items()}
    if isinstance(value, float) and isfinite(value):
        return value
    if isinstance(value, float) and isnan(value):
        if (name, column) not in _told:
            _told.add((name, column))
            say(f"{name}: NaN in '{column}' is written as null, because JSON has no NaN")
        return None
    what = str(value) if isinstance(value, float) else type(value).__name__
    raise UserError(
        f"{name}, row {number}: '{column}' holds {what}, which JSON cannot; leave the column out, or keep it by "
        f"distill swap --dataset {name} --to FOLDER"
    )


# ----------------------------------------------------------------------------------------------------------- writing


def row_form(path: Path, column: str) -> Callable[[tuple[str, Row], Counterfactual], str]:
    """What makes of a row, and the counterfactual of its text, a line: as in the file, or JSON where that is binary."""
    if (delimiter := table_delimiter(path)) is not None:
        return partial(_as_table_row, column, delimiter, is_unquoted(path))
    return partial(_as_object, column)


def head_of(path: Path, row: Row | None, column: str) -> str:
    """The line of column names that stands above the rows of a table, the first of them given; "" of another file.

    Raises:
        UserError: there is no row, and no such column either.
    """
    if (delimiter := table_delimiter(path)) is None:
        return ""
    names = [*row] if row is not None else table_header(path)
    if not names:
        return ""
    cell(dict.fromkeys(names), column, str(path), _HINT)
    return _joined(names, delimiter, is_unquoted(path))


def _swapped(row: Row, column: str, counterfactual: Counterfactual) -> Row:
    value = cell(row, column, "")
    if value is None:
        return row
    messages = _messages(value)
    new: Any = counterfactual.text if messages is None else _swapped_messages(messages, counterfactual)
    if messages is not None and isinstance(value, str):
        new = json.dumps(new, ensure_ascii=False)
    return _with(row, [column] if column in row else column.split("."), new)


def _swapped_messages(messages: list[Row], counterfactual: Counterfactual) -> list[Row]:
    """Messages with the edits that lie inside one of them; roles and all else stay."""
    contents = [encodable(message["content"]) for message in messages]
    starts = [0, *accumulate(len(content) + len(BETWEEN) for content in contents)]
    swapped = []
    for message, content, start in zip(messages, contents, starts, strict=False):
        pieces, at = [], 0
        for span in counterfactual.spans:
            if start <= span.start and span.end <= start + len(content):
                pieces += [content[at : span.start - start], counterfactual.text[span.cf_start : span.cf_end]]
                at = span.end - start
        swapped.append({**message, "content": "".join([*pieces, content[at:]])})
    return swapped


def _with(row: Row, keys: list[str], value: Any) -> Row:
    return {**row, keys[0]: _with(row[keys[0]], keys[1:], value) if len(keys) > 1 else value}


def _as_object(column: str, line: tuple[str, Row], counterfactual: Counterfactual) -> str:
    row = _swapped(line[1], column, counterfactual)
    text = json.dumps(row, ensure_ascii=False)
    # Half of a surrogate pair in another column is no UTF-8.
    return (text if encodable(text) == text else json.dumps(row)) + "\n"


def _as_table_row(
    column: str, delimiter: str, plain: bool, line: tuple[str, Row], counterfactual: Counterfactual
) -> str:
    return _joined([*_swapped(line[1], column, counterfactual).values()], delimiter, plain)


def _joined(cells: list[Any], delimiter: str, plain: bool) -> str:
    if plain:  # no cell holds a tab or the end of a line, and no edit brings one
        return delimiter.join(cell or "" for cell in cells) + "\n"
    out = io.StringIO()
    # Until Python 3.13, cells are quoted for the characters of the line's end alone: with "\n", none that holds "\r".
    csv.writer(out, delimiter=delimiter, lineterminator="\r\n").writerow(cells)
    return out.getvalue().removesuffix("\r\n") + "\n"


# ---------------------------------------------------------------------------------------------------------- data sets


def swap_dataset(
    dataset: Any, column: str, wordlist: WordList | Swapper | str | Path, *, shift: int = 1, num_proc: int | None = None
) -> Any:
    """A data set with each of its rows, and behind each that holds a listed word its counterfactual.

    >>> from datasets import Dataset
    >>> letters = Dataset.from_dict({"text": ["The king wrote.", "It rained."]})
    >>> pairs = swap_dataset(letters, "text", "english_gender")
    >>> pairs["text"][:], pairs["pair_id"][:], pairs["view"][:]
    (['The king wrote.', 'The queen wrote.', 'It rained.'], [0, 0, 1], [0, 1, 0])

    Args:
        dataset: A `datasets.Dataset`, or a `DatasetDict`, of which every split is swapped.
        column: Holds the text; what else a row holds stays.
        wordlist: A word list, its name or path, or a `Swapper`.
        shift: How many groups further on, 1 to K - 1.
        num_proc: Processes. A data set that lies on disk is swapped in as many pieces, and those that are finished are
            found again by a later call.

    Returns:
        The same columns and three more: `pair_id` (the number of the row that it was), `view` (0: the text, 1: its
        counterfactual), `spans` (start and end of each edit in the text and in the counterfactual, in characters; empty
        for a text). Of messages that a cell holds as JSON, their contents are swapped, and are the text of the spans,
        with a blank line between them.

    Raises:
        UserError: there is no such column, or it holds no text; the word list cannot be read, or has no such shift.
    """
    import datasets  # its import takes seconds

    swapper = _swapper(wordlist, shift)
    if isinstance(dataset, datasets.DatasetDict):
        swapped = partial(swap_dataset, column=column, wordlist=swapper, shift=shift, num_proc=num_proc)
        return datasets.DatasetDict({name: swapped(part) for name, part in dataset.items()})
    if not isinstance(dataset, datasets.Dataset):
        raise UserError(
            f"the data set is a {type(dataset).__name__}; a datasets.Dataset or DatasetDict is expected, as of "
            "datasets.Dataset.from_list"
        )
    if column not in dataset.column_names:
        known = ", ".join(dataset.column_names)
        raise UserError(f"the data set has no column '{column}'; its columns are: {known}")
    taken = {"pair_id", "view", "spans"} & set(dataset.column_names)
    if taken:
        raise UserError(f"the data set has a column '{min(taken)}' already; rename it, or swap the original")
    if getattr(dataset.features[column], "dtype", None) not in ("string", "large_string"):
        raise UserError(f"the column '{column}' holds no text; name another")
    decisive = "\n".join((dataset._fingerprint, column, str(shift), swapper.cache_key))
    integer = datasets.Value("int64")
    more = {"pair_id": integer, "view": integer, "spans": datasets.Sequence(datasets.Sequence(integer))}
    return dataset.map(
        partial(_pairs, column, swapper, shift),
        batched=True,
        with_indices=True,
        remove_columns=dataset.column_names,
        features=datasets.Features({**dataset.features, **more}),
        num_proc=num_proc,
        new_fingerprint=hashlib.sha256(decisive.encode()).hexdigest()[:32],  # by what decides, and no pickled object
        desc="swapping",
    )


def swap_saved(source: str, column: str, swapper: Swapper, shift: int, num_proc: int, folder: Path) -> str:
    """`swap_dataset` of a data set by its file, folder or hub id, saved into a folder that appears whole.

    Returns:
        What was made, in a line.

    Raises:
        UserError: it cannot be had, or the folder is not empty; see `swap_dataset` for the rest.
    """
    import datasets

    if folder.exists() and any(folder.iterdir()):
        raise UserError(f"{folder} is not empty; choose another --to, or remove that folder")
    try:
        if Path(source).is_file():
            found = _dataset_of(Path(source))
        else:
            found = datasets.load_from_disk(source) if Path(source).is_dir() else datasets.load_dataset(source)
    except UserError:
        raise
    except Exception as error:  # the libraries below raise many kinds
        if Path(source).is_file():
            reason = first_line(error.__cause__ if isinstance(error.__cause__, Exception) else error)
            raise UserError(
                f"{source}: no data set can be made of it ({reason}); is every column of one kind?"
            ) from None
        raise UserError(f"data set '{source}' cannot be loaded: {first_line(error)}; {hub_hint()}") from None
    made = swap_dataset(found, column, swapper, shift=shift, num_proc=num_proc if num_proc > 1 else None)
    write_folder(folder, lambda partial: made.save_to_disk(str(partial)))
    parts = made.values() if isinstance(made, datasets.DatasetDict) else [made]
    views = [sum(part["view"]) for part in parts]
    return f"{sum(map(len, parts)) - sum(views):,} rows, {sum(views):,} of them with a counterfactual, in {folder}"


def _dataset_of(path: Path) -> Any:
    """The rows of a file as a data set. One that was made of the same file before is found again."""
    import datasets

    if not holds_rows(path):
        raise UserError(f"{path}: has no rows, which --dataset needs; swap its lines by distill swap {path}")
    if path.suffix.lower() == ".parquet":
        return datasets.Dataset.from_parquet(str(path))
    columns: dict[str, None] = {}  # in the order in which they appear
    known: set[str] = set()  # of which a row has told what they hold
    typical: list[Row] = []
    for number, row in enumerate(read_rows(path)):  # a mistake is told before the library wraps it
        columns.update(dict.fromkeys(row))
        new = {column for column, value in row.items() if value not in (None, [], {})} - known
        known |= new
        if new or number < _TYPES_OF:
            typical.append(row)
    if not columns:
        raise UserError(f"{path}: holds no rows; is it the right file?")
    stamp = path.stat()
    read_by = f" {TABS_VERSION}" if table_delimiter(path) == "\t" else ""
    state = {"path": path.resolve(), "columns": columns, "changed": f"{stamp.st_size} {stamp.st_mtime_ns}{read_by}"}
    # By itself, the library takes a column that is empty in its first rows for one that holds nothing.
    features = datasets.Dataset.from_dict({name: [row.get(name) for row in typical] for name in columns}).features
    return datasets.Dataset.from_generator(_rows_of, features=features, gen_kwargs=state)


def _rows_of(path: Path, columns: Mapping[str, None], changed: str) -> Iterator[Row]:
    """`read_rows` for the library, which tells by the arguments whether it has made this before. It wants all columns
    in every row."""
    del changed
    for row in read_rows(path):
        yield {column: row.get(column) for column in columns}


def _swapper(wordlist: WordList | Swapper | str | Path, shift: int) -> Swapper:
    if not isinstance(wordlist, Swapper):
        wordlist = Swapper(load_wordlist(wordlist) if isinstance(wordlist, str | Path) else wordlist)
    groups = wordlist.wordlist.num_groups
    if not 1 <= shift < groups:
        raise UserError(
            f"shift is {shift}, but the list {wordlist.wordlist.name} has {groups} groups; give 1 to {groups - 1}"
        )
    return wordlist


def _pairs(
    column: str, swapper: Swapper, shift: int, batch: Mapping[str, list[Any]], indices: list[int]
) -> dict[str, list[Any]]:
    """Rows of a batch and their counterfactuals, in columns."""
    out: dict[str, list[Any]] = {name: [] for name in (*batch, "pair_id", "view", "spans")}
    for place, index in enumerate(indices):
        row = {name: values[place] for name, values in batch.items()}
        views: list[tuple[Row, int, list[list[int]]]] = [(row, 0, [])]
        swapped = swapper.swap(text_of(row, column, index + 1, "the data set"), shift)
        if swapped.spans:
            views.append((_swapped(row, column, swapped), 1, [list(span) for span in swapped.spans]))
        for of_view, view, spans in views:
            for name, value in (of_view | {"pair_id": index, "view": view, "spans": spans}).items():
                out[name].append(value)
    return out
