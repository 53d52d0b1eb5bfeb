"""Lines of text -> their counterfactuals, in order, in one process or in several.

Lines are handed out in chunks, and only a few chunks are on their way at a time: memory does not grow with the input.
What is made of a counterfactual is made where it is found: sending all of its spans takes longer than finding them.
"""

import json
import multiprocessing
import sys
from codecs import getincrementaldecoder
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import IO, Any

from distill.base.errors import UserError
from distill.base.long_input import parts
from distill.text.counterfactual import Counterfactual, Swapper

_CHUNK_CHARACTERS = 1 << 18
_CHUNKS_AHEAD = 4  # of each process

Render = Callable[[str, Counterfactual], Any]


def whole(line: str, counterfactual: Counterfactual) -> Counterfactual:
    """The counterfactual itself."""
    return counterfactual


def as_text(line: str, counterfactual: Counterfactual) -> str:
    """Its text."""
    return counterfactual.text


def as_json(line: str, counterfactual: Counterfactual) -> str:
    """An object with both texts, the spans and the number of skipped sentences."""
    return json.dumps(
        {
            "text": line,
            "counterfactual": counterfactual.text,
            "spans": counterfactual.spans,
            "skipped": counterfactual.skipped,
        }
    )


def swap_lines(
    lines: Iterable[str], swapper: Swapper, shift: int = 1, num_proc: int = 1, render: Render = whole
) -> Iterator[Any]:
    """What `render` makes of every line and its counterfactual, in the order of the lines.

    Args:
        lines: Texts, each a document of its own.
        swapper: The word list's swapper; with several processes it is sent to each of them.
        shift: How many groups further on, 1 to K - 1.
        num_proc: Processes.
        render: A function of a module, such as `as_text`.
    """
    if num_proc == 1:
        for line in lines:
            yield render(line, swapper.swap(line, shift))
        return
    with multiprocessing.get_context("spawn").Pool(num_proc, _keep, (swapper, shift, render)) as pool:
        pending: deque = deque()
        for chunk in _chunks(lines):
            pending.append(pool.apply_async(_swap_chunk, (chunk,)))
            if len(pending) > num_proc * _CHUNKS_AHEAD:
                yield from pending.popleft().get()
        for result in pending:
            yield from result.get()


def _chunks(lines: Iterable[str]) -> Iterator[list[str]]:
    chunk: list[str] = []
    size = 0
    for line in lines:
        chunk.append(line)
        size += len(line)
        if size >= _CHUNK_CHARACTERS:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk


_state: dict[str, tuple[Swapper, int, Render]] = {}


def _keep(swapper: Swapper, shift: int, render: Render) -> None:
    """What every process needs once: compiling a list takes a moment."""
    _state["here"] = swapper, shift, render


def _swap_chunk(lines: list[str]) -> list[Any]:
    swapper, shift, render = _state["here"]
    return [render(line, swapper.swap(line, shift)) for line in lines]


# A line of text without its ending, the ending, and what was made of its counterfactual.
_Swapped = Iterator[tuple[str, str, Any]]


def write_as_text(swapped: _Swapped) -> None:
    out = sys.stdout.buffer
    for _, ending, text in swapped:
        out.write((text + ending).encode())
        if sys.stdout.isatty():  # somebody may be typing the lines, and waits for each
            out.flush()
    out.flush()


def write_as_json(swapped: _Swapped) -> None:
    for _, _, content in swapped:
        print(content)
    sys.stdout.flush()


def show(swapped: _Swapped) -> None:
    from rich.console import Console

    from distill.base.highlight import marked, side_by_side

    console = Console()
    lines = edited = 0
    table = side_by_side(["text", "counterfactual"])
    for text, _, counterfactual in swapped:
        lines += 1
        if counterfactual.spans:
            edited += 1
            table.add_row(
                marked(text, [(s.start, s.end, 0) for s in counterfactual.spans], console.color_system is not None),
                marked(
                    counterfactual.text,
                    [(s.cf_start, s.cf_end, 1) for s in counterfactual.spans],
                    console.color_system is not None,
                ),
            )
            if edited % _ROWS_SHOWN == 0:
                console.print(table)
                table = side_by_side(["text", "counterfactual"])
    if table.row_count:
        console.print(table)
    console.print(f"{edited} of {lines} lines edited")


_ROWS_SHOWN = 100  # rows of a table; a table is laid out in memory


_LONGEST_PART = 1_000_000  # characters that are swapped at once; each listed word among them takes some 100 bytes


def lines_of(name: str) -> Iterator[tuple[str, str]]:
    """The lines of a file, or of standard input for `-`: text and line ending."""
    if name == "-":
        yield from _decoded(sys.stdin.buffer, "standard input")
        return
    try:
        with Path(name).open("rb") as stream:
            yield from _decoded(stream, name)
    except OSError as error:
        raise UserError(
            f"{name}: cannot be read ({error.strerror}); give a text file, or - for standard input"
        ) from None


def _decoded(stream: IO[bytes], name: str) -> Iterator[tuple[str, str]]:
    """Text and ending of every line; of a line that is too long, of each of its parts."""
    decoder = getincrementaldecoder("utf-8")()
    number, rest, ends = 1, "", True
    while (read := stream.readline(_LONGEST_PART)) or not ends:
        ends = len(read) < _LONGEST_PART or read.endswith(b"\n")
        try:
            line = rest + decoder.decode(read, ends)
        except UnicodeDecodeError as error:
            byte = error.object[error.start]
            raise UserError(f"{name}, line {number}: byte 0x{byte:02x} is not UTF-8; convert the text first") from None
        found = [line] if ends and len(line) <= _LONGEST_PART else list(parts(line, _LONGEST_PART))
        rest = "" if ends else found.pop()
        for part in found:
            text = part.rstrip("\r\n")
            yield text, part[len(text) :]
        number += ends
