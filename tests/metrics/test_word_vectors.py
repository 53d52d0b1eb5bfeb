"""Word vectors from files in three formats, and what is no such file."""

import gzip
import math
import struct
import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from measuring import as_glove

from distill.base.errors import UserError
from distill.metrics import word_vectors as module
from distill.metrics.word_vectors import check_word_vectors, read_word_vectors


def as_word2vec(vectors) -> bytes:
    return f"{len(vectors)} {len(vectors[0][1])}\n".encode() + as_glove(vectors)


def as_binary(vectors, feed: bytes = b"") -> bytes:
    body = b"".join(word.encode() + b" " + struct.pack(f"<{len(v)}f", *v) + feed for word, v in vectors)
    return f"{len(vectors)} {len(vectors[0][1])}\n".encode() + body


FORMATS = {
    "glove": as_glove,
    "word2vec": as_word2vec,
    "binary": as_binary,
    "binary, line feeds": lambda vectors: as_binary(vectors, b"\n"),
}

VECTORS = [("she", [0.5, 1.0, 2.0]), ("he", [-0.5, 1.0, 2.0]), ("élan", [0.0, 3e-5, -7.25]), ("the", [1.0, 2.0, 3.0])]


def same(found, expected) -> bool:
    return found.keys() == expected.keys() and all(
        np.array_equal(found[word], np.float32(vector)) for word, vector in expected.items()
    )


@pytest.mark.parametrize("ending", ["", ".gz"])
@pytest.mark.parametrize("form", FORMATS)
def test_every_format_gives_the_wanted_words(tmp_path, form, ending):
    path = tmp_path / f"vectors{ending}"
    content = FORMATS[form](VECTORS)
    path.write_bytes(gzip.compress(content) if ending else content)
    assert same(read_word_vectors(path, ["he", "élan", "absent"]), dict(VECTORS[1:3]))
    assert same(read_word_vectors(path, []), {})


_numbers = st.floats(-100, 100, width=32)

_words = st.text(st.characters(blacklist_categories=["C", "Z"]), min_size=1, max_size=6).filter(
    lambda w: w.split() == [w]
)


@given(st.data(), st.sampled_from(list(FORMATS)), st.integers(2, 5))
def test_what_is_written_is_read(tmp_path_factory, data, form, dimensions):
    vector = st.lists(_numbers, min_size=dimensions, max_size=dimensions)
    vectors = data.draw(st.dictionaries(_words.filter(lambda w: not w.isdigit()), vector, min_size=1, max_size=6))
    path = tmp_path_factory.mktemp("vectors") / "file"
    path.write_bytes(FORMATS[form](list(vectors.items())))
    assert same(read_word_vectors(path, vectors), vectors)


def test_a_binary_file_whose_first_number_begins_like_a_line_feed(tmp_path):
    number = struct.unpack("<f", b"\n\n\n?")[0]
    path = tmp_path / "vectors"
    path.write_bytes(as_binary([("the", [number, 1.0]), ("he", [2.0, number])]))
    assert same(read_word_vectors(path, ["the", "he"]), {"the": [number, 1.0], "he": [2.0, number]})


def test_of_a_word_twice_the_first_counts(tmp_path):
    path = tmp_path / "vectors.txt"
    path.write_bytes(as_glove([("he", [1.0, 2.0]), ("he", [3.0, 4.0])]))
    assert same(read_word_vectors(path, ["he"]), {"he": [1.0, 2.0]})


def test_phrases_in_glove_are_no_words(tmp_path):
    """GloVe's largest file holds lines such as "at name@domain.com 0.1 ...", which say nothing about "at"."""
    path = tmp_path / "vectors.txt"
    path.write_bytes(as_glove([("the", [1.0, 2.0]), ("at home", [3.0, 4.0]), ("at", [5.0, 6.0])]))
    assert same(read_word_vectors(path, ["at", "home"]), {"at": [5.0, 6.0]})


@pytest.mark.parametrize("binary", [False, True])
def test_gensims_files(tmp_path, binary):
    models = pytest.importorskip("gensim.models", reason="gensim is not installed")
    rng = np.random.default_rng(0)
    words = [f"word{i}" for i in range(50)]
    vectors = rng.normal(size=(50, 20)).astype(np.float32)
    keyed = models.KeyedVectors(20)
    keyed.add_vectors(words, vectors)
    path = tmp_path / "vectors"
    keyed.save_word2vec_format(path, binary=binary)
    found = read_word_vectors(path, words)
    assert list(found) == words
    np.testing.assert_allclose(np.stack(list(found.values())), vectors, rtol=1e-6)
    own = tmp_path / "own"
    own.write_bytes((as_binary if binary else as_word2vec)(list(zip(words, vectors.tolist(), strict=True))))
    np.testing.assert_allclose(models.KeyedVectors.load_word2vec_format(own, binary=binary).vectors, vectors, rtol=1e-6)


@pytest.mark.parametrize("form", ["word2vec", "binary"])
def test_memory_does_not_grow_with_the_file(tmp_path, form):
    path = tmp_path / "vectors"
    numbers = [0.125] * 100
    # Lines of one vector, which is made once: `FORMATS` would write four million numbers one by one.
    (_, line) = FORMATS[form]([("word", numbers)]).split(b"\n", 1)
    with path.open("wb") as file:
        file.write(b"40000 100\n")
        for i in range(40_000):
            file.write(line.replace(b"word ", f"word{i} ".encode(), 1))
    assert path.stat().st_size > 15e6
    seen = []
    tracemalloc.start()
    found = read_word_vectors(path, ["word7", "word39999"], seen.append)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert same(found, {"word7": numbers, "word39999": numbers})
    assert most < 6e6


def test_progress(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_REPORT_EVERY", 2)
    path = tmp_path / "vectors"
    path.write_bytes(as_glove(VECTORS + VECTORS[:1]))
    seen = []
    read_word_vectors(path, ["he"], seen.append)
    assert seen == [2, 4]


GOOD = as_binary([("he", [1.0, 2.0]), ("she", [3.0, 4.0])])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "line 1: neither 'N D' nor a word and its numbers"),
        (b"\n\n", "line 1: neither"),
        (b"he\n", "line 1: neither"),
        (b"he one two\n", "line 1: neither"),
        (b"\x80\x04\x95\x00", r"is a Python pickle.*save_word2vec_format"),
        (b"0 5\n", "line 1: promises 0 vectors"),
        (b"2 2\nhe 1 2\n", "line 1: promises 2 vectors, but 1 follow"),
        (b"1 2\nhe 1 2\nshe 3 4\n", "line 1: promises 1 vectors, but 2 follow"),
        (b"2 2\nthe 1 2\nhe 1\n", "line 3: 'he' needs 2 finite numbers"),
        (b"the 1 2\nhe 1 2 3\n", "line 2: 'he' needs 2 finite numbers"),
        (b"the 1 2\nshe 1 2\nhe 1 x\n", "line 3: 'he' needs 2 finite numbers"),
        (b"the 1 2\nhe 1 nan\n", "line 2: 'he' needs 2 finite numbers"),
        (b"the 1 2\n" + b"x" * 2**20, "line 2: longer than"),
        (GOOD[:-1], "vector 2: malformed or cut off, of 2 vectors"),
        (GOOD[:11], "vector 1: malformed or cut off"),
        (b"2 2\n" + b"\x00" * 9000, "vector 1: malformed or cut off"),
        (as_binary([("he", [1.0, math.inf])]), "vector 1: 'he' has numbers that are not finite"),
    ],
)
def test_malformed_files_name_the_line(tmp_path, content, message):
    path = tmp_path / "vectors"
    path.write_bytes(content)
    with pytest.raises(UserError, match=message) as caught:
        read_word_vectors(path, ["he"])
    assert str(path) in str(caught.value)
    with pytest.raises(UserError, match=message.replace("'he'", "'.*'")):
        check_word_vectors(path)


@pytest.mark.parametrize("form", FORMATS)
def test_the_beginning_of_a_file_tells_beforehand_what_it_is(tmp_path, form):
    """By its first vectors alone: what comes behind is looked at when it is read."""
    path = tmp_path / "vectors"
    whole = FORMATS[form]([(f"word{i}", [0.5, 1.0]) for i in range(10)])
    for content in (whole, whole + b"more\xff"):
        path.write_bytes(content)
        check_word_vectors(path)
    path.write_bytes(as_binary([("x", [math.nan])]).replace(b"x ", b"\xff "))
    with pytest.raises(UserError, match="vector 1: '\ufffd' has numbers that are not finite"):
        check_word_vectors(path)


def test_files_that_cannot_be_read(tmp_path):
    with pytest.raises(UserError, match=r"nowhere: cannot be read \(No such file"):
        read_word_vectors(tmp_path / "nowhere", ["he"])
    with pytest.raises(UserError, match="cannot be read"):
        read_word_vectors(tmp_path, ["he"])
    for name, content in (("no.gz", b"he 1 2\n"), ("cut.gz", gzip.compress(GOOD)[:-9])):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UserError, match=f"{name}: cannot be decompressed"):
            read_word_vectors(tmp_path / name, ["he"])
