"""Rows with a column of text in, rows with its counterfactuals out: whatever else they hold stays.

1. A file with rows (.jsonl, .ndjson, .json, .csv, .tsv, .parquet) or a saved data set -> its rows     (`read_rows`)
2. A row and the counterfactual of its text -> the row as it is written                                (`row_form`)
3. A data set of the library `datasets` -> one with every row and its counterfactual                   (`swap_dataset`)
"""

import csv
import hashlib
import io
import json
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from distill.base.errors import UserError, first_line, hub_hint
from distill.base.files import write_folder
from distill.base.long_input import open_text, read_text
from distill.text.counterfactual import Counterfactual, Swapper, encodable

JSON_LINES, TABLES = (".jsonl", ".ndjson"), {".csv": ",", ".tsv": "\t"}
_ROWS = 1000  # read at a time

Row = dict[str, Any]


def holds_rows(path: Path) -> bool:
    """Whether a file or folder is read row by row, by its name, instead of line by line."""
    return path.suffix.lower() in (*JSON_LINES, *TABLES, ".json", ".parquet") or path.is_dir()


# ----------------------------------------------------------------------------------------------------------- reading


def read_rows(path: Path) -> Iterator[Row]:
    """The rows of a file or of a data set that `save_to_disk` wrote.

    Raises:
        UserError: it cannot be read, or a row (told by its number) is none.
    """
    kind = path.suffix.lower()
    try:
        if path.is_dir():
            yield from _saved(path)
        elif kind in TABLES:
            with open_text(path) as stream:
                yield from csv.DictReader(stream, delimiter=TABLES[kind], restkey="", strict=True)
        elif kind == ".parquet":
            from pyarrow import parquet

            for batch in parquet.ParquetFile(path).iter_batches(_ROWS):
                yield from batch.to_pylist()
        elif kind == ".json":
            yield from _json_array(path)
        else:
            with open_text(path) as stream:
                for number, line in enumerate(stream, start=1):
                    if line.strip():
                        yield _object(line, f"{path}, line {number}")
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error}); is it complete?") from None
    except (csv.Error, ValueError) as error:
        raise UserError(f"{path}: cannot be read ({error}); is it complete?") from None


def _saved(path: Path) -> Iterator[Row]:
    import datasets  # its import takes seconds

    try:
        found = datasets.load_from_disk(str(path))
    except FileNotFoundError:
        raise UserError(f"{path}: cannot be read (a folder without a saved data set); give a file") from None
    for part in found.values() if isinstance(found, datasets.DatasetDict) else (found,):
        yield from part


def _object(text: str, where: str) -> Row:
    try:
        row = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{where}: not valid JSON ({error}); one JSON object a line is expected") from None
    if not isinstance(row, dict):
        raise UserError(f"{where}: holds a {type(row).__name__}; one JSON object a line is expected")
    return row


def _json_array(path: Path) -> Iterator[Row]:
    text = read_text(path)
    if not text.lstrip().startswith("["):
        lines = enumerate(text.split("\n"), start=1)
        yield from (_object(line, f"{path}, line {number}") for number, line in lines if line.strip())
        return
    for number, row in enumerate(json.loads(text), start=1):
        if not isinstance(row, dict):
            raise UserError(f"{path}, element {number}: holds a {type(row).__name__}; an array of objects is expected")
        yield row


def text_of(row: Row, column: str, number: int, name: str | Path) -> str:
    """The text in a column of a row; "" where it is null.

    Raises:
        UserError: there is no such column, or it holds no text.
    """
    if column not in row:
        known = ", ".join(map(str, row)) or "none"
        raise UserError(
            f"{name}, row {number}: no column '{column}'; its columns are: {known}. Name one of them by --text_column"
        )
    if row[column] is not None and not isinstance(row[column], str):
        kind = type(row[column]).__name__
        raise UserError(f"{name}, row {number}: '{column}' holds {kind}, not text; name another by --text_column")
    return encodable(row[column] or "")


# ----------------------------------------------------------------------------------------------------------- writing


def row_form(path: Path, column: str) -> Callable[[tuple[str, Row], Counterfactual], str]:
    """What makes of a row, and the counterfactual of its text, a line: as in the file, or JSON where that is binary."""
    if (delimiter := TABLES.get(path.suffix.lower())) is not None:
        return partial(_as_table_row, column, delimiter)
    return partial(_as_object, column)


def head_of(path: Path, row: Row) -> str:
    """The line of column names that stands above the rows of a table; "" of another file."""
    delimiter = TABLES.get(path.suffix.lower())
    return "" if delimiter is None else _joined([*row], delimiter)


def _swapped(row: Row, column: str, counterfactual: Counterfactual) -> Row:
    return row if row[column] is None else {**row, column: counterfactual.text}


def _as_object(column: str, line: tuple[str, Row], counterfactual: Counterfactual) -> str:
    row = _swapped(line[1], column, counterfactual)
    text = json.dumps(row, ensure_ascii=False, default=str)
    # Half of a surrogate pair in another column is no UTF-8.
    return (text if encodable(text) == text else json.dumps(row, default=str)) + "\n"


def _as_table_row(column: str, delimiter: str, line: tuple[str, Row], counterfactual: Counterfactual) -> str:
    return _joined([*_swapped(line[1], column, counterfactual).values()], delimiter)


def _joined(cells: list[Any], delimiter: str) -> str:
    out = io.StringIO()
    csv.writer(out, delimiter=delimiter, lineterminator="\n").writerow(cells)
    return out.getvalue()


# ---------------------------------------------------------------------------------------------------------- data sets


def swap_dataset(dataset: Any, column: str, wordlist: Any, *, shift: int = 1, num_proc: int | None = None) -> Any:
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
        for a text).

    Raises:
        UserError: there is no such column, or it holds no text; the word list cannot be read, or has no such shift.
    """
    import datasets  # its import takes seconds

    swapper = _swapper(wordlist, shift)
    if isinstance(dataset, datasets.DatasetDict):
        swapped = partial(swap_dataset, column=column, wordlist=swapper, shift=shift, num_proc=num_proc)
        return datasets.DatasetDict({name: swapped(part) for name, part in dataset.items()})
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
    """`swap_dataset` of a data set by its folder or hub id, saved into a folder that appears whole.

    Returns:
        What was made, in a line.

    Raises:
        UserError: it cannot be had, or the folder is not empty; see `swap_dataset` for the rest.
    """
    import datasets

    if folder.exists() and any(folder.iterdir()):
        raise UserError(f"{folder} is not empty; choose another --to")
    try:
        found = datasets.load_from_disk(source) if Path(source).is_dir() else datasets.load_dataset(source)
    except Exception as error:  # the libraries below raise many kinds
        raise UserError(f"data set '{source}' cannot be loaded: {first_line(error)}; {hub_hint()}") from None
    made = swap_dataset(found, column, swapper, shift=shift, num_proc=num_proc if num_proc > 1 else None)
    write_folder(folder, lambda partial: made.save_to_disk(str(partial)))
    parts = made.values() if isinstance(made, datasets.DatasetDict) else [made]
    views = [sum(part["view"]) for part in parts]
    return f"{sum(map(len, parts)) - sum(views):,} rows, {sum(views):,} of them with a counterfactual, in {folder}"


def _swapper(wordlist: Any, shift: int) -> Swapper:
    from distill.text.wordlist import load_wordlist

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
        swapped = swapper.swap(row[column] or "", shift)
        if swapped.spans:
            views.append(({**row, column: swapped.text}, 1, [list(span) for span in swapped.spans]))
        for of_view, view, spans in views:
            for name, value in (of_view | {"pair_id": index, "view": view, "spans": spans}).items():
                out[name].append(value)
    return out
