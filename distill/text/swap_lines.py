"""Lines of text in, their counterfactuals out, in order, in one process or in several (`distill swap`).

1. A file or standard input is read line by line, and a very long line in parts       -> `Line`     (`read_lines`)
2. Lines are swapped, several chunks of them at a time where there are processes, and
   what is printed of a counterfactual is made where it is found: to send all of its
   spans to another process would take longer than to find them                       -> `Swapped`  (`swap_lines`)
   Files with rows (.jsonl, .csv, .parquet ...) are read row by row, by one column   -> `swap_rows`
3. The result goes to standard output: as text that keeps every other byte, as JSON,
   or as a table of the edited lines                                                   `FORMS`      (`swap_file`)

Only a few chunks are on their way at a time: memory does not grow with the input.
"""

import json
import signal
import sys
import zlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from itertools import chain
from lzma import LZMAError
from pathlib import Path
from typing import Any, NamedTuple

from distill.base.errors import UserError
from distill.base.long_input import lines_in_parts
from distill.base.row_files import opener_of, table_delimiter
from distill.text.counterfactual import Counterfactual, Swapper
from distill.text.swap_rows import for_json, head_of, holds_rows, read_rows, row_form, text_of

_LONGEST_PART = 1_000_000  # characters that are swapped at once; each listed word among them takes some 100 bytes
_CHUNK_CHARACTERS = 1 << 18
_CHUNKS_AHEAD = 4  # of each process
_ROWS_SHOWN = 100  # of a table, which is laid out in memory

# A line's text, and its ending ("" behind a part, and at the end of a file); of a row its text and the row.
Line = tuple[str, Any]
Swapped = Any  # what a form makes of a line and its counterfactual
Render = Callable[[Line, Counterfactual], Swapped]


def swap_file(
    name: str,
    swapper: Swapper,
    shift: int,
    num_proc: int,
    form: str,
    text_column: str | None = None,
    split: str | None = None,
) -> None:
    """Write the counterfactual of every line of a file, or of every row, to standard output.

    Args:
        name: The file, or a saved data set; - for standard input. What `swap_rows.holds_rows` is read row by row.
        swapper: The word list's swapper.
        shift: How many groups further on, 1 to K - 1.
        num_proc: Processes.
        form: One of `FORMS`.
        text_column: Of rows, the column that holds the text; `text` where it is None.
        split: Of a saved data set that has several, the one to swap.

    Raises:
        UserError: the file cannot be read, or is not UTF-8, or has no such column; of rows before anything is written.
    """
    render, write = FORMS[form]
    path = Path(name)
    if split is not None and not path.is_dir():
        raise UserError(f"option --split: {name} has no splits, as a folder of save_to_disk may; leave it out")
    if name == "-" or not holds_rows(path):
        if text_column is not None and (name == "-" or path.exists()):
            raise UserError(f"option --text_column: {name} has no columns, it is read line by line; leave it out")
        write(swap_lines(read_lines(name), swapper, shift, num_proc, render))
        return
    column = text_column or "text"
    read = partial(_row_lines, path, split, column, form == "text" and table_delimiter(path) is None)
    if path.is_file() or path.is_dir():  # and no pipe, which can be read only once
        deque(read(), maxlen=0)
    lines = read()
    first = next(lines, None)
    if form == "text":
        render = row_form(path, column)
        write([head_of(path, first and first[1], column)])
    write(swap_lines(lines if first is None else chain([first], lines), swapper, shift, num_proc, render))


def _row_lines(path: Path, split: str | None, column: str, to_json: bool) -> Iterator[Line]:
    """The text of every row, and the row as it can be written."""
    for number, row in enumerate(read_rows(path, split), start=1):
        yield text_of(row, column, number, path), for_json(row, number, str(path)) if to_json else row


# ----------------------------------------------------------------------------------------------------------- reading


def read_lines(name: str) -> Iterator[Line]:
    """The lines of a file, or of standard input for `-`; a very long one in parts, each a line without an ending.

    Raises:
        UserError: it cannot be read, or is not UTF-8.
    """
    if name == "-":
        yield from lines_in_parts(sys.stdin.buffer, "standard input", _LONGEST_PART)
        return
    try:
        with opener_of(Path(name))(name, "rb") as stream:
            yield from lines_in_parts(stream, name, _LONGEST_PART)
    except (OSError, EOFError, LZMAError, zlib.error) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"{name}: cannot be read ({reason}); give a text file, or - for standard input") from None


# ---------------------------------------------------------------------------------------------------------- swapping


def swap_lines(lines: Iterable[Line], swapper: Swapper, shift: int, num_proc: int, render: Render) -> Iterator[Swapped]:
    """What `render` makes of every line and its counterfactual, in the order of the lines.

    Args:
        lines: Each a document of its own.
        swapper: The word list's swapper; with several processes it is sent to each of them.
        shift: How many groups further on, 1 to K - 1.
        num_proc: Processes.
        render: A function of a module, such as `as_text`.
    """
    if num_proc == 1:
        for line in lines:
            yield render(line, swapper.swap(line[0], shift))
        return
    import multiprocessing

    with ExitStack() as stack:
        with _interrupts_wait():
            started = multiprocessing.get_context("spawn").Pool(num_proc, _keep, (swapper, shift, render))
            pool = stack.enter_context(started)
        pending: deque = deque()
        for chunk in _chunks(lines):
            pending.append(pool.apply_async(_swap_chunk, (chunk,)))
            if len(pending) > num_proc * _CHUNKS_AHEAD:
                yield from pending.popleft().get()
        for result in pending:
            yield from result.get()


def _chunks(lines: Iterable[Line]) -> Iterator[list[Line]]:
    chunk: list[Line] = []
    size = 0
    for line in lines:
        chunk.append(line)
        size += len(line[0])
        if size >= _CHUNK_CHARACTERS:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk


_kept: dict[str, tuple[Swapper, int, Render]] = {}


@contextmanager
def _interrupts_wait() -> Iterator[None]:
    """Ctrl-C goes to all processes, and those that are started inside never hear of it: who started them ends them.

    One that it stopped as it starts would tell so, or leave a pool behind that waits for it.
    """
    from multiprocessing import resource_tracker

    resource_tracker.ensure_running()  # or starting it would let signals through again
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _keep(swapper: Swapper, shift: int, render: Render) -> None:
    """What every process needs once: compiling a list takes a moment."""
    _kept["here"] = swapper, shift, render


def _swap_chunk(lines: list[Line]) -> list[Swapped]:
    swapper, shift, render = _kept["here"]
    return [render(line, swapper.swap(line[0], shift)) for line in lines]


# ----------------------------------------------------------------------------------------------------------- writing


def as_text(line: Line, counterfactual: Counterfactual) -> str:
    """The counterfactual's text, with the ending of the line."""
    return counterfactual.text + line[1]


def write_text(swapped: Iterable[str]) -> None:
    """Texts with their endings, as they are."""
    out = sys.stdout.buffer
    for text in swapped:
        out.write(text.encode())
        if sys.stdout.isatty():  # somebody may be typing the lines, and waits for each
            out.flush()
    out.flush()


def as_json(line: Line, counterfactual: Counterfactual) -> str:
    """An object with both texts, the spans and the number of skipped sentences."""
    return json.dumps(
        {
            "text": line[0],
            "counterfactual": counterfactual.text,
            "spans": counterfactual.spans,
            "skipped": counterfactual.skipped,
        }
    )


def write_json(swapped: Iterable[str]) -> None:
    """One object a line."""
    for content in swapped:
        print(content)
    sys.stdout.flush()


def as_pair(line: Line, counterfactual: Counterfactual) -> tuple[str, Counterfactual]:
    """The line's text, and its counterfactual."""
    return line[0], counterfactual


def write_table(swapped: Iterable[tuple[str, Counterfactual]]) -> None:
    """The edited lines side by side, the edits marked, and how many lines were edited."""
    from rich.console import Console

    from distill.base.highlight import marked, side_by_side

    console = Console()
    colours = console.color_system is not None
    headings = ("text", "counterfactual")
    lines = edited = skipped = no_prose = 0
    table = side_by_side(headings)
    for text, counterfactual in swapped:
        lines += 1
        skipped += counterfactual.skipped
        no_prose += counterfactual.no_prose
        if not counterfactual.spans:
            continue
        edited += 1
        table.add_row(
            marked(text, [(span.start, span.end, 0) for span in counterfactual.spans], colours),
            marked(counterfactual.text, [(span.cf_start, span.cf_end, 1) for span in counterfactual.spans], colours),
        )
        if edited % _ROWS_SHOWN == 0:
            console.print(table)
            table = side_by_side(headings)
    if table.row_count:
        console.print(table)
    left = f"; {skipped} sentences with a word to skip" if skipped else ""
    left += f"; {no_prose} words in links, tags or code left alone" if no_prose else ""
    console.print(f"{edited} of {lines} lines edited{left}")


class Form(NamedTuple):
    """A way to print counterfactuals: what is made of each, and what writes all of them, one after the other."""

    render: Render
    write: Callable[[Iterable[Any]], None]


FORMS = {"text": Form(as_text, write_text), "json": Form(as_json, write_json), "table": Form(as_pair, write_table)}
