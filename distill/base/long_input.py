"""Text from files: whole where it is short, else in parts; what is no UTF-8 is named with its line and byte.

A single character beyond U+FFFF makes Python keep every character of a text in four bytes, and parsers copy. So what
bounds the memory is a limit that is looked at while there are only bytes, or never more than a part of the text.
"""

import io
import zlib
from codecs import BOM_UTF16_BE, BOM_UTF16_LE, getincrementaldecoder
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from lzma import LZMAError
from pathlib import Path
from typing import IO, Any

from distill.base.errors import UserError

MOST_BYTES = 40_000_000  # of a file that is read whole: a word list, prompts, scores
LONGEST_LINE = 100_000  # bytes of a line in a table
_CUTS = ("\n", ". ", " ")  # behind what a text is cut, the first that is found
_READ = 1_000_000  # characters at a time


# ------------------------------------------------------------------------------------------------------- whole files


def read_text(path: Path, hint: str = "a UTF-8 text file is expected", longest_line: int | None = None) -> str:
    """The text of a file, without a byte-order mark, with \\n at the end of every line, whatever stood there.

    Args:
        path: The file.
        hint: What to give instead, where it cannot be read.
        longest_line: In bytes; None: of any length.

    Raises:
        UserError: it cannot be read, is larger than `MOST_BYTES`, has too long a line, or is not UTF-8.
    """
    try:
        content = read_whole(path)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); {hint}") from None
    if longest_line is not None:
        refuse_long_lines(path, content, longest_line)
    return decoded(content, path).replace("\r\n", "\n").replace("\r", "\n")


def decoded(content: bytes, name: str | Path) -> str:
    """The text that UTF-8 bytes hold, without a byte-order mark.

    Raises:
        UserError: they are no UTF-8; tells the line and the byte.
    """
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise _not_utf8(name, error) from None


def encodable(text: str) -> str:
    """The text, character for character, as UTF-8 can write it: a lone surrogate becomes a question mark."""
    if text.isascii():
        return text
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode(errors="replace").decode()
    return text


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


def refuse_long_lines(path: Path, content: bytes, longest: int = LONGEST_LINE) -> None:
    """Raises UserError, with the line, if one is longer than so many bytes."""
    for number, line in enumerate(io.BytesIO(content), start=1):
        if len(line) > longest:
            raise UserError(f"{path}, line {number}: longer than {longest:,} bytes; is it a list?")


# ----------------------------------------------------------------------------------------------------------- streams


@contextmanager
def open_text(path: Path, opener: Callable[..., Any] = open) -> Iterator[IO[str]]:
    """A stream of a file's text, without a byte-order mark, with the line ends that it has.

    Args:
        path: The file.
        opener: `open`, or the one of a module that decompresses (`gzip.open`).

    Raises:
        OSError: it cannot be opened.
        UserError: what is read of it within the context is not UTF-8, or not what its name says it is compressed with.
    """
    try:
        with opener(path, "rt", encoding="utf-8-sig", newline="") as stream:
            yield stream
    except UnicodeDecodeError:  # tells a place in the bytes that were read last
        raise _first_mistake(path, opener) from None
    except (OSError, EOFError, LZMAError, zlib.error) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        told = " ".join(str(error).split()).rstrip(".")
        raise UserError(
            f"{path}: cannot be decompressed ({told}); is it whole, and compressed as its name says?"
        ) from None


def _first_mistake(path: Path, opener: Callable[..., Any]) -> UserError:
    decoder, line = getincrementaldecoder("utf-8")(), 1
    with opener(path, "rb") as stream:
        while True:
            content = stream.read(_READ)
            try:
                decoder.decode(content, final=not content)
            except UnicodeDecodeError as error:
                return _not_utf8(path, error, line)
            if not content:
                return UserError(f"{path}: changed while it was read; start again")
            line += content.count(b"\n")


def _not_utf8(name: str | Path, error: UnicodeDecodeError, line: int = 1) -> UserError:
    """The sentence for bytes that begin in that line of a file."""
    content, at = error.object, error.start
    if line == 1 and at == 0 and content[:2] in (BOM_UTF16_LE, BOM_UTF16_BE):
        return UserError(f"{name}, line 1: the file is UTF-16; save it as UTF-8")
    line += content.count(b"\n", 0, at)
    return UserError(f"{name}, line {line}: byte 0x{content[at]:02x} is not UTF-8; save it as UTF-8")


def lines_in_parts(stream: IO[bytes], name: str, longest: int) -> Iterator[tuple[str, str]]:
    """Text and ending of every line; of one that is longer than `longest` characters, of each of its parts.

    Args:
        stream: UTF-8 bytes, of which no more than a part is held; a byte-order mark before them is left out.
        name: What it is, to be told of a mistake.
        longest: Of a part, in characters; a part is cut as by `parts`.

    Raises:
        UserError: a line is not UTF-8.
    """
    decoder = getincrementaldecoder("utf-8-sig")()
    number, rest, ends = 1, "", True
    while (read := stream.readline(longest)) or not ends:
        ends = len(read) < longest or read.endswith(b"\n")
        try:
            line = rest + decoder.decode(read, ends)
        except UnicodeDecodeError as error:
            raise _not_utf8(name, error, number) from None
        found = [line] if ends and len(line) <= longest else list(parts(line, longest))
        rest = "" if ends else found.pop()
        for part in found:
            text = part.rstrip("\r\n")
            yield text, part[len(text) :]
        number += ends


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
