"""Text from files: what is no UTF-8 or too long is named; parts, joined, are the text."""

import bz2
import gzip
import io
import lzma
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distill.base import long_input
from distill.base.errors import UserError
from distill.base.long_input import decoded, lines_in_parts, open_text, parts, read_text, stream_parts

OPENERS = {"x.txt": open, "x.txt.gz": gzip.open, "x.txt.xz": lzma.open, "x.txt.bz2": bz2.open}


# ------------------------------------------------------------------------------------------------------------- UTF-8


def first_mistake(content: bytes) -> tuple[int, int] | None:
    """Line and byte of the first byte that begins no character, found character by character."""
    line, at = 1, 0
    while at < len(content):
        for size in (1, 2, 3, 4):
            try:
                content[at : at + size].decode("utf-8")
            except UnicodeDecodeError:
                continue
            line += content[at : at + size] == b"\n"
            at += size
            break
        else:
            return line, content[at]
    return None


MISTAKES = st.lists(
    st.sampled_from(
        [b"he", b"\n", b"\r\n", b"\xc3\xa9", b"\xf0\x9f\x91\xa9", b"\xff", b"\xe9", b"\xf0\x9f", b"\xed\xa0\x80"]
    ),
    min_size=1,
    max_size=12,
).map(lambda pieces: b"a" + b"".join(pieces))


@settings(max_examples=200)
@given(content=MISTAKES, chunk=st.integers(1, 9))
def test_the_first_byte_that_is_no_utf8_is_named_however_a_text_is_read(content, chunk, tmp_path_factory):
    path = tmp_path_factory.getbasetemp() / "mistakes.txt"
    path.write_bytes(content)

    def streamed() -> str:
        with pytest.MonkeyPatch.context() as patch, open_text(path) as stream:
            patch.setattr(long_input, "_READ", chunk)
            return "".join(iter(lambda: stream.read(chunk), ""))

    def in_parts() -> str:
        with path.open("rb") as stream:
            return "".join(text + ending for text, ending in lines_in_parts(stream, str(path), 8))

    readers = {"decoded": lambda: decoded(content, path), "open_text": streamed, "lines_in_parts": in_parts}
    mistake = first_mistake(content)
    for name, read in readers.items():
        if mistake is None:
            assert read() == content.decode(), name
            continue
        line, byte = mistake
        with pytest.raises(UserError) as error:
            read()
        assert str(error.value) == f"{path}, line {line}: byte 0x{byte:02x} is not UTF-8; save it as UTF-8", name


@pytest.mark.parametrize("name", OPENERS)
def test_a_stream_of_any_kind_is_text_with_its_line_ends_or_a_mistake_with_its_line(name, tmp_path):
    path = tmp_path / name
    for content, wanted in ((b"one\r\ntwo\n", "one\r\ntwo\n"), (b"one\r\ncaf\xe9\n", None)):
        with OPENERS[name](path, "wb") as stream:
            stream.write(content)
        if wanted:
            with open_text(path, OPENERS[name]) as stream:
                assert stream.read() == wanted
        else:
            wanted = f"{name}, line 2: byte 0xe9 is not UTF-8"
            with pytest.raises(UserError, match=wanted), open_text(path, OPENERS[name]) as stream:
                stream.read()


def test_a_mistake_far_behind_in_a_file_is_named_by_its_own_line(tmp_path):
    (tmp_path / "x.txt").write_bytes(b"a line of text\n" * 200_000 + b"caf\xe9\n")  # more than is read at a time
    with pytest.raises(UserError, match=r"x\.txt, line 200001: byte 0xe9"), open_text(tmp_path / "x.txt") as stream:
        for _ in stream:
            pass


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be"])
def test_utf16_is_recognised_by_its_mark(encoding, tmp_path):
    text = "he\nshe\n" if encoding == "utf-16" else "\ufeffhe\nshe\n"
    (tmp_path / "x").write_bytes(text.encode(encoding))
    with pytest.raises(UserError, match="x, line 1: the file is UTF-16; save it as UTF-8"):
        read_text(tmp_path / "x")
    with pytest.raises(UserError, match="line 1: the file is UTF-16"), open_text(tmp_path / "x") as stream:
        stream.read()


# ------------------------------------------------------------------------------------------------------- whole files


def test_a_whole_file_has_plain_line_ends_and_no_mark(tmp_path):
    (tmp_path / "x").write_bytes(b"\xef\xbb\xbfone\r\ntwo\rthree\n")
    assert read_text(tmp_path / "x") == "one\ntwo\nthree\n"


def test_behind_a_byte_order_mark_the_byte_is_still_the_right_one():
    with pytest.raises(UserError, match="x, line 2: byte 0xe9 is"):
        decoded(b"\xef\xbb\xbfone\ncaf\xe9", "x")


def test_what_cannot_be_read_comes_with_a_hint(tmp_path):
    with pytest.raises(UserError, match=r"nothing: cannot be read \(No such file or directory\); give a list"):
        read_text(tmp_path / "nothing", "give a list")
    with pytest.raises(UserError, match=r"cannot be read \(Is a directory\); a UTF-8 text file is expected"):
        read_text(tmp_path)


def test_sizes_are_looked_at_before_the_bytes_are_decoded(tmp_path, monkeypatch):
    (tmp_path / "x").write_bytes(b"short\n" + b"\xff" * 30)
    with pytest.raises(UserError, match="x, line 2: longer than 20 bytes; is it a list"):
        read_text(tmp_path / "x", longest_line=20)
    monkeypatch.setattr(long_input, "MOST_BYTES", 35)
    with pytest.raises(UserError, match="x: larger than"):
        read_text(tmp_path / "x")


# ------------------------------------------------------------------------------------------------------------- parts


@given(st.text(alphabet="ab .\n\u00e9\U0001f469", max_size=200), st.integers(2, 30))
def test_parts_are_the_text_and_cut_behind_lines_before_sentences_before_words(text, longest):
    found = list(parts(text, longest))
    assert "".join(found) == text
    assert list(stream_parts(io.StringIO(text, newline=""), longest)) == [part for part in found if part]
    for part, following in pairwise(found):
        assert longest // 2 < len(part) <= longest
        second_half = (part + following)[longest // 2 : longest]
        mark = next((mark for mark in ("\n", ". ", " ") if mark in second_half), "")
        assert part.endswith(mark)
        assert mark or len(part) == longest


@settings(max_examples=50, deadline=None)
@given(text=st.text(alphabet="heking .\r\n\u00e9\U0001f469", max_size=300), longest=st.integers(4, 40))
def test_a_long_line_is_swapped_in_parts_and_every_other_byte_stays(text, longest):
    """With parts longer than the text, the lines are what Python reads."""
    content = text.encode()
    found = list(lines_in_parts(io.BytesIO(content), "x", longest))
    assert "".join(part + ending for part, ending in found).encode() == content
    assert all(len(part) <= longest for part, _ in found)
    lines = [line.decode() for line in io.BytesIO(content)]
    assert [part + ending for part, ending in lines_in_parts(io.BytesIO(content), "x", 1000)] == lines


def test_broken_utf8_in_a_long_line_is_named():
    for content, byte in ((b"he\n" + b"a" * 25 + b"\xff\n", "ff"), (b"he\n" + b"a" * 25 + b"\xf0\x9f\n", "f0")):
        with pytest.raises(UserError, match=f"x, line 2: byte 0x{byte} is not UTF-8"):
            list(lines_in_parts(io.BytesIO(content), "x", 10))


# ---------------------------------------------------------------------------------------------------- byte-order marks


@pytest.mark.parametrize("text", ["he\r\nshe\n", "", "\n", "h", "long line, cut into parts"])
def test_no_reader_keeps_a_byte_order_mark(tmp_path, text):
    """Editors on Windows write one; a later one is a character of the text."""
    path = tmp_path / "x.txt"
    path.write_bytes(b"\xef\xbb\xbf" + f"{text}\ufeff".encode())
    with open_text(path) as stream:
        assert stream.read() == f"{text}\ufeff"
    assert decoded(path.read_bytes(), path) == f"{text}\ufeff"
    assert read_text(path) == f"{text}\ufeff".replace("\r\n", "\n")
    with path.open("rb") as stream:
        assert "".join(part + end for part, end in lines_in_parts(stream, "x", 9)) == f"{text}\ufeff"
