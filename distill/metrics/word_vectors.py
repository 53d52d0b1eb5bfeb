"""Vectors of chosen words from a file of any size: word2vec's text and binary formats, and GloVe's text.

    word2vec text      a line "N D", then N lines "word number ... number" with D numbers each
    GloVe              the same without the first line
    word2vec binary    the line "N D", then N times the word, a space, and D little-endian float32; some writers put a
                       line feed before the next word

All three may be compressed with gzip (.gz). The file is read once from end to end and only the wanted words are kept,
so that memory does not grow with the file.
"""

import gzip
import re
import zlib
from collections.abc import Callable, Collection, Container, Iterable, Iterator
from contextlib import contextmanager
from itertools import chain, islice
from pathlib import Path
from typing import BinaryIO, cast

import numpy as np

from distill.base.errors import UserError

_CHUNK = 2**20  # Bytes read at a time.
_LONGEST_WORD = 2**12  # Bytes.
_REPORT_EVERY = 100_000  # Vectors.
_FIRST = 10  # Vectors that are looked at beforehand.
_PLAIN = re.compile(rb"\S+[\t ][\t -~]*")  # A word and something in ASCII: numbers in digits, never float32.

Record = tuple[bytes, np.ndarray | None]


def read_word_vectors(
    path: str | Path, words: Collection[str], progress: Callable[[int], None] | None = None
) -> dict[str, np.ndarray]:
    """The vectors of some words.

    Args:
        path: A file of word vectors; which of the formats it has is seen from its content.
        words: The words that are wanted, spelt as in the file.
        progress: Called with the number of vectors passed, now and then.

    Returns:
        Word -> (D,) float32 for those of the words that the file holds; of a word that stands there twice, the first.

    Raises:
        UserError: there is no such file, or it is cut off, or what it says of a wanted word is malformed; names the
            file and the line (in a binary file the number of the vector).
    """
    path = Path(path)
    wanted = frozenset(word.encode() for word in words)
    found: dict[str, np.ndarray] = {}
    with _opened(path) as file:
        for number, (word, vector) in enumerate(_vectors(path, file, wanted), start=1):
            if vector is not None:
                found.setdefault(word.decode(), vector)
            if progress and number % _REPORT_EVERY == 0:
                progress(number)
    return found


class _AllWords(Container[bytes]):
    """Holds every word."""

    def __contains__(self, word: object) -> bool:
        return True


def check_word_vectors(path: str | Path) -> None:
    """Read the head of a file of word vectors and the first of them, as if all of these were wanted.

    Raises:
        UserError: see `read_word_vectors`.
    """
    path = Path(path)
    with _opened(path) as file:
        for _ in islice(_vectors(path, file, _AllWords()), _FIRST):
            pass


@contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    """The file's bytes, decompressed. Raises UserError where they cannot be read."""
    try:
        with cast(BinaryIO, gzip.open(path) if path.suffix == ".gz" else path.open("rb")) as file:
            yield file
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise UserError(f"{path}: cannot be decompressed ({error}); download it again") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); give a file of word vectors") from None


def _vectors(path: Path, file: BinaryIO, wanted: Container[bytes]) -> Iterator[Record]:
    """Every word of the file, and the vector of a wanted one, else None."""
    lines = _lines(path, file)
    _, first = next(lines, (1, b""))
    cells = first.split()
    if first.startswith(b"\x80"):
        raise UserError(
            f"{path}: is a Python pickle, which is not read; let gensim write the vectors with "
            "save_word2vec_format(path, binary=True)"
        )
    if len(cells) != 2 or not all(cell.isdigit() for cell in cells):
        if len(cells) < 2 or _numbers(cells[1:]) is None:
            raise UserError(
                f"{path}, line 1: neither 'N D' nor a word and its numbers; give word vectors in the text or binary "
                "format of word2vec, or in GloVe's"
            )
        yield from _text(path, chain([(1, first)], lines), wanted, len(cells) - 1)
        return
    number, dimensions = map(int, cells)
    if not number or not dimensions:
        raise UserError(
            f"{path}, line 1: promises {number} vectors of {dimensions} numbers; give a file that holds some"
        )
    sample = file.read(_CHUNK).partition(b"\n")[0].rstrip(b"\r")
    file.seek(len(first))
    if not (_PLAIN.fullmatch(sample) and len(sample.split()) > dimensions):
        yield from _binary(path, file, wanted, number, dimensions)
        return
    passed = 0
    for record in _text(path, lines, wanted, dimensions):
        passed += 1
        yield record
    if passed != number:
        raise UserError(f"{path}, line 1: promises {number} vectors, but {passed} follow; download the file again")


def _lines(path: Path, file: BinaryIO) -> Iterator[tuple[int, bytes]]:
    number = 0
    while line := file.readline(_CHUNK):
        number += 1
        if len(line) == _CHUNK:
            raise UserError(f"{path}, line {number}: longer than {_CHUNK} bytes; this is no file of word vectors")
        yield number, line


def _text(
    path: Path, lines: Iterable[tuple[int, bytes]], wanted: Container[bytes], dimensions: int
) -> Iterator[Record]:
    for number, line in lines:
        if line.isspace():
            continue
        word, _, rest = line.partition(b" ")
        vector = None
        if word in wanted:
            vector = _numbers(rest.split())
            # GloVe's largest file has phrases, which hold spaces: "at home 0.1 ... 0.2" says nothing about "at".
            phrase = vector is None and _numbers(rest.split()[-dimensions:]) is not None
            if not phrase and (vector is None or len(vector) != dimensions):
                raise UserError(
                    f"{path}, line {number}: '{_shown(word)}' needs {dimensions} finite numbers behind it; "
                    "download the file again"
                )
        yield word, vector


def _binary(path: Path, file: BinaryIO, wanted: Container[bytes], number: int, dimensions: int) -> Iterator[Record]:
    size = 4 * dimensions
    buffer, place = b"", 0
    for passed in range(number):
        # More than the longest record, so that a word never stands across the end of the buffer.
        while len(buffer) - place < _LONGEST_WORD + size and (more := file.read(_CHUNK)):
            buffer, place = buffer[place:] + more, 0
        space = buffer.find(b" ", place, place + _LONGEST_WORD)
        end = space + 1 + size
        if space < 0 or end > len(buffer):
            raise UserError(
                f"{path}, vector {passed + 1}: malformed or cut off, of {number} vectors that line 1 promises; "
                "download the file again"
            )
        word, vector = buffer[place:space].lstrip(b"\n"), None
        if word in wanted:
            vector = np.frombuffer(buffer, "<f4", dimensions, offset=space + 1).astype(np.float32)
            if not np.isfinite(vector).all():
                raise UserError(f"{path}, vector {passed + 1}: '{_shown(word)}' has numbers that are not finite")
        yield word, vector
        place = end


def _shown(word: bytes) -> str:
    """For messages: a word that is looked at beforehand need not be UTF-8."""
    return word.decode(errors="replace")


def _numbers(cells: list[bytes]) -> np.ndarray | None:
    """The finite numbers that these are, or None."""
    try:
        numbers = np.array([float(cell) for cell in cells], dtype=np.float32)
    except ValueError:
        return None
    return numbers if np.isfinite(numbers).all() else None
