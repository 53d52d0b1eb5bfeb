"""Files and texts that are too long to be held whole: refused before they are decoded, or cut into parts.

A single character beyond U+FFFF makes Python keep every character of a text in four bytes, and parsers copy. So what
bounds the memory is a limit that is looked at while there are only bytes, or never more than a part of the text.
"""

import io
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from distill.base.errors import UserError

MOST_BYTES = 40_000_000  # of a file that is read whole: a word list, prompts, scores
LONGEST_LINE = 100_000  # bytes of a line in a table
_CUTS = ("\n", ". ", " ")  # behind what a text is cut, the first that is found
_READ = 1_000_000  # characters at a time


def read_whole(path: Path) -> bytes:
    """The content of a file.

    Raises:
        OSError: it cannot be read.
        UserError: it is larger than `MOST_BYTES`.
    """
    with path.open("rb") as stream:
        content = stream.read(MOST_BYTES + 1)
    if len(content) > MOST_BYTES:
        raise UserError(f"{path}: larger than {MOST_BYTES // 10**6} MB; is it the right file? Split it if it is")
    return content


def read_table(path: Path) -> bytes:
    """The content of a file of short lines: a word list, a table of prompts.

    Raises:
        OSError: it cannot be read.
        UserError: it is larger than `MOST_BYTES`, or a line is longer than `LONGEST_LINE`.
    """
    content = read_whole(path)
    refuse_long_lines(path, content)
    return content


def refuse_long_lines(path: Path, content: bytes) -> None:
    """Raises UserError, with the line, if one is longer than `LONGEST_LINE`."""
    for number, line in enumerate(io.BytesIO(content), start=1):
        if len(line) > LONGEST_LINE:
            raise UserError(f"{path}, line {number}: longer than {LONGEST_LINE:,} bytes; is it a list?")


def parts(text: str, longest: int) -> Iterator[str]:
    """A text in parts of at most `longest` characters, which joined are the text.

    Each is cut behind a line break in its second half; where there is none behind a sentence, else behind a space, else
    anywhere.
    """
    start = 0
    while len(text) - start > longest:
        middle, end = start + longest // 2, start + longest
        cut = next((at + len(mark) for mark in _CUTS if (at := text.rfind(mark, middle, end)) >= 0), end)
        yield text[start:cut]
        start = cut
    yield text[start:]


def stream_parts(stream: IO[str], longest: int) -> Iterator[str]:
    """`parts` of all that a stream holds, without holding it; nothing for an empty one."""
    rest = ""
    while read := stream.read(_READ):
        *whole, rest = parts(rest + read, longest)
        yield from whole
    if rest:
        yield rest
