"""Text sources: formats, passages, and files that are not what they seem."""

import csv
import dataclasses
import errno
import gzip
import json
import lzma
import random
import tracemalloc

import pyarrow as pa
import pyarrow.parquet as parquet
import pytest
from datasets import Dataset, DatasetDict, IterableDataset
from hypothesis import given
from hypothesis import strategies as st

from distill.base.errors import UserError
from distill.recipe import CorpusConfig
from distill.text import documents
from distill.text.conversations import Messages
from distill.text.counterfactual import Swapper
from distill.text.documents import passages, read_documents
from distill.text.swap_lines import swap_file
from distill.text.wordlist import load_wordlist

TEXTS = ["One text.\nTwo lines.", "Zweiter Text: ä, 漢字, 👩‍⚕️."]


def from_files(*paths, **keys):
    return CorpusConfig(source="files", files=[str(p) for p in paths], **keys)


def read(*paths, **keys):
    return list(read_documents(from_files(*paths, **keys), seed=0))


@pytest.fixture
def jsonl():
    return "".join(json.dumps({"text": t}) + "\n" for t in TEXTS)


def test_every_format_gives_the_same_documents(tmp_path, jsonl):
    (tmp_path / "a.jsonl").write_text(jsonl, encoding="utf-8")
    with gzip.open(tmp_path / "a.jsonl.gz", "wt", encoding="utf-8") as stream:
        stream.write(jsonl)
    with lzma.open(tmp_path / "a.jsonl.xz", "wt", encoding="utf-8") as stream:
        stream.write(jsonl)
    parquet.write_table(pa.table({"text": TEXTS}), tmp_path / "a.parquet")
    for name in ("a.jsonl", "a.jsonl.gz", "a.jsonl.xz", "a.parquet"):
        assert read(tmp_path / name) == TEXTS, name


def test_text_files_are_documents_and_keep_their_line_ends(tmp_path):
    (tmp_path / "1.txt").write_bytes(b"one\r\ntwo\r\n")
    (tmp_path / "2.txt").write_bytes(b"three")
    assert read(tmp_path / "*.txt") == ["one\r\ntwo\r\n", "three"]


def test_rows_can_be_joined_into_documents(tmp_path):
    (tmp_path / "w.txt").write_text(" = A = \n\n text a\n = = part = = \n more\n = B = \n text b\n")
    assert read(tmp_path / "w.txt", document_start="^ = [^=].* = ?$") == [
        " = A = \n\n text a\n = = part = = \n more\n",
        " = B = \n text b\n",
    ]


def test_shuffle_depends_on_the_seed_alone(tmp_path):
    for i in range(20):
        (tmp_path / f"{i:02}.txt").write_text(f"text {i}")
    config = from_files(tmp_path / "*.txt", shuffle=True)
    first, again, other = (list(read_documents(config, seed)) for seed in (1, 1, 2))
    assert first == again != other
    assert sorted(first) == sorted(other)


@given(st.text(alphabet="ab .!\n\t'\"”)]é", max_size=300), st.integers(1, 60))
def test_passages_lose_nothing_but_white_space_and_keep_the_limit(text, limit):
    parts = list(passages(text, limit))
    assert all(0 < len(p) <= limit for p in parts)
    assert "".join("".join(parts).split()) == "".join(text.split())


def test_what_closes_a_sentence_stays_with_it():
    text = '"Go." She left. (He stayed.) “Then it rained.” And all day long.'
    assert " ".join(passages(text, 40)) == text
    assert list(passages(text, 16))[:2] == ['"Go." She left.', "(He stayed.)"]


def test_documents_begin_at_lines_alone_and_get_no_line_break(tmp_path):
    """What str.splitlines takes for the end of a line, beside a line feed, stands within one here."""
    text = "= A =\nof a\u2028= no =\x0cpage\x85two\r= no =\n= B =\nb\n"
    (tmp_path / "w.jsonl").write_text(json.dumps({"text": text}) + "\n", encoding="utf-8")
    assert read(tmp_path / "w.jsonl", document_start="^= ") == [text[: text.index("= B")], text[text.index("= B") :]]


def test_passages_break_at_lines_then_sentences():
    assert list(passages("Aa bb. Cc dd.\nEe.", 13)) == ["Aa bb. Cc dd.", "Ee."]
    assert list(passages("Aa bb. Cc dd.", 8)) == ["Aa bb.", "Cc dd."]


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("x.jsonl", b'{"text": "a"}\n{"text": \n', ["line 2", "JSON"]),
        ("x.jsonl", b'{"body": "a"}\n', ["line 1", "'text'", "body", "text_column"]),
        ("x.jsonl", b'{"text": 3}\n', ["line 1", "int"]),
        ("x.jsonl", b"[1]\n", ["line 1"]),
        ("x.txt", b"caf\xe9", ["x.txt", "UTF-8"]),
        ("x.txt", b" \n\t", ["no text"]),
        ("x.jsonl", b"", ["no text"]),
        ("x.jsonl.xz", b"no xz", ["x.jsonl.xz"]),
        ("x.jsonl.gz", gzip.compress(b'{"text": "' + b"A to Z" * 200 + b'"}\n', mtime=0)[:-20], ["x.jsonl.gz"]),
        ("x.jsonl.gz", gzip.compress(b"{}", mtime=0)[:10] + b"\xff" * 20, ["x.jsonl.gz"]),
        ("x.jsonl", b'{"text": ' + b"9" * 5000 + b"}\n", ["line 1", "JSON"]),
        ("x.parquet", b"PAR1 no", ["x.parquet"]),
    ],
)
def test_a_broken_file_is_named(tmp_path, name, content, words):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError) as error:
        read(tmp_path / name)
    assert "\n" not in str(error.value)
    for word in words:
        assert word in str(error.value)


def test_a_column_of_numbers_is_no_text(tmp_path):
    parquet.write_table(pa.table({"text": [1, 2]}), tmp_path / "x.parquet")
    with pytest.raises(UserError, match=r"x\.parquet: 'text' holds int"):
        read(tmp_path / "x.parquet")


def test_half_a_surrogate_pair_is_replaced(tmp_path, toy_tokenizer):
    """JSON can hold it, UTF-8 can not, and a tokenizer would fail on it."""
    (tmp_path / "x.jsonl").write_text(r'{"text": "he \ud83d she \ud83d\ude00"}', encoding="utf-8")
    (text,) = read(tmp_path / "x.jsonl")
    assert text == "he ? she \U0001f600"
    assert toy_tokenizer(text)["input_ids"]


def test_missing_files_and_folders_are_named(tmp_path):
    with pytest.raises(UserError, match="no such corpus file"):
        read(tmp_path / "absent*.txt")
    with pytest.raises(UserError, match="is a folder"):
        read(tmp_path)


def test_an_unreachable_hub_data_set_is_one_sentence(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    config = CorpusConfig(source="hub", dataset="nobody/nothing")
    with pytest.raises(UserError, match="nobody/nothing"):
        list(read_documents(config, 0))


# ------------------------------------------------------------------------------------------------------------- rows


def test_rows_without_text_are_left_out_of_every_format_alike_and_counted(tmp_path, capsys, monkeypatch):
    """One null among a million rows is no reason to refuse a corpus; a wrong column must not go unseen."""
    monkeypatch.setattr(documents, "_told", set())
    rows = [{"text": "one"}, {"text": None}, {"text": "two"}, {"text": None}]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "a.json").write_text(json.dumps(rows))
    (tmp_path / "a.csv").write_text("id,text\n1,one\n2,\n3,two\n4,\n")
    parquet.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet")
    Dataset.from_list(rows).save_to_disk(tmp_path / "a")
    for name in ("a.jsonl", "a.json", "a.csv", "a.parquet", "a"):
        assert read(tmp_path / name) == ["one", "two"], name
        assert f"{tmp_path / name}: 2 rows hold no 'text' and are left out" in capsys.readouterr().err, name
        read(tmp_path / name)
        assert "rows hold no" not in capsys.readouterr().err  # once is enough
    assert read(tmp_path / "a.csv", max_documents=1) == ["one"]


def test_a_byte_order_mark_is_no_text_of_a_document(tmp_path):
    """Of a file, and of a row that was made of such a file."""
    (tmp_path / "a.txt").write_bytes("\ufeffone".encode())
    (tmp_path / "a.jsonl").write_bytes(("\ufeff" + json.dumps({"text": "\ufeffone"})).encode())
    (tmp_path / "a.csv").write_bytes("\ufefftext\none\n".encode())
    (tmp_path / "a.json").write_bytes(("\ufeff" + json.dumps([{"text": "one"}])).encode())
    parquet.write_table(pa.table({"text": ["\ufeffone"]}), tmp_path / "a.parquet")
    for name in ("a.txt", "a.jsonl", "a.csv", "a.json", "a.parquet"):
        assert read(tmp_path / name) == ["one"], name


def test_conversations_are_read_whole(tmp_path):
    talk = [{"role": "user", "content": " Who is she? "}, {"role": "assistant", "content": "A king."}]
    (tmp_path / "a.jsonl").write_text(json.dumps({"messages": talk}) + '\n{"messages": []}\n')
    (found,) = read(tmp_path / "a.jsonl", text_column="messages")
    assert isinstance(found, Messages)
    assert (found.roles, found.contents) == (("user", "assistant"), ("Who is she?", "A king."))
    for keys in ({"passage_chars": 50}, {"document_start": "^x"}):
        with pytest.raises(UserError, match="conversations"):
            read(tmp_path / "a.jsonl", text_column="messages", **keys)


def test_conversations_may_be_json_in_a_cell(tmp_path):
    talk = [{"role": "user", "content": "Hello, she said."}, {"role": "assistant", "content": "He said\nhello."}]
    cells = [json.dumps(talk, indent=1), json.dumps(talk) + " is a text", '["a"]', '[{"role": "x"}]', "[]", "[{"]
    with (tmp_path / "a.csv").open("w", newline="") as stream:
        csv.writer(stream).writerows([["id", "messages"], *([number, cell] for number, cell in enumerate(cells))])
    found = read(tmp_path / "a.csv", text_column="messages")
    assert [isinstance(document, Messages) for document in found] == [True] + [False] * 5
    assert (found[0].roles, found[0].contents) == (("user", "assistant"), ("Hello, she said.", "He said\nhello."))
    assert [str(document) for document in found[1:]] == cells[1:]


def test_a_file_of_unknown_form_is_refused_before_the_others_are_read(tmp_path):
    (tmp_path / "a.txt").write_text("text")
    (tmp_path / "b.zip").write_text("text")
    with pytest.raises(UserError, match=r"b\.zip"):
        next(read_documents(from_files(tmp_path / "*"), 0))


@pytest.mark.parametrize("most", [None, 1, 7, 29, 30, 31])
def test_shuffling_takes_the_first_of_a_shuffled_list(tmp_path, most):
    texts = [f"Text {number}." for number in range(30)]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    expected = texts.copy()
    random.Random(5).shuffle(expected)
    config = from_files(tmp_path / "a.jsonl", shuffle=True, max_documents=most)
    assert list(read_documents(config, 5)) == expected[:most]


def test_shuffling_holds_no_more_documents_than_it_gives(tmp_path):
    with (tmp_path / "a.jsonl").open("w") as stream:
        stream.writelines(json.dumps({"text": f"{number} " + "he " * 5000}) + "\n" for number in range(1000))
    config = from_files(tmp_path / "a.jsonl", shuffle=True, max_documents=20)
    tracemalloc.start()
    found = list(read_documents(config, 0))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(found) == 20 and peak < 100 * 15_000  # bytes of 100 of the 1,000 documents


def test_a_file_that_is_named_several_times_is_read_once(tmp_path, capsys):
    (tmp_path / "more").mkdir()
    (tmp_path / "a.txt").write_text("One text.")
    (tmp_path / "more" / "b.txt").write_text("Another.")
    (tmp_path / "more" / "link.txt").symlink_to(tmp_path / "a.txt")
    patterns = [tmp_path / "**" / "*.txt", tmp_path / "more" / "*.txt", f"{tmp_path}/more/../a.txt"]
    assert read(*patterns) == ["One text.", "Another."]
    assert read(*patterns) == ["One text.", "Another."]
    said = capsys.readouterr().err
    assert said.count("b.txt: read once, though files names it several times") == 1
    assert "both read" not in said


@pytest.mark.parametrize("name", ["stories.txt", "stories.txt.gz"])
def test_end_tokens_between_texts_are_warned_of_once(tmp_path, capsys, name):
    path = tmp_path / name
    content = b"Once upon a time\nthere was a king.\n<|endoftext|>\n\nOnce more.\n<|endoftext|>\n"
    path.write_bytes(gzip.compress(content) if name.endswith("gz") else content)
    for _ in range(2):
        assert read(path) == [content.decode()]
    said = " ".join(capsys.readouterr().err.split())
    assert said.count(f"{name}: <|endoftext|> in it is read as text") == 1
    (tmp_path / "plain.txt").write_text("A text about endoftext.")
    read(tmp_path / "plain.txt")
    assert "endoftext" not in capsys.readouterr().err


def test_a_file_beside_its_compressed_twin_is_warned_of(tmp_path, capsys):
    (tmp_path / "train.jsonl").write_text('{"text": "One text."}')
    (tmp_path / "train.jsonl.gz").write_bytes(gzip.compress(b'{"text": "One text."}'))
    assert read(tmp_path / "train*") == ["One text."] * 2
    said = " ".join(capsys.readouterr().err.split())
    assert "train.jsonl.gz are both read; if they hold the same text, it counts twice" in said


def test_a_data_set_of_the_hub_is_read_as_files_are(tmp_path, monkeypatch):
    """A folder stands for it: null and nested columns alike."""
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    rows = [{"a": {"b": "one"}}, {"a": None}, {"a": {"b": "two"}}]
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "x.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for streaming in (False, True):
        config = CorpusConfig(source="hub", dataset=str(tmp_path / "set"), text_column="a.b", streaming=streaming)
        assert list(read_documents(config, 0)) == ["one", "two"]
        with pytest.raises(UserError, match="no column 'c'"):
            list(read_documents(dataclasses.replace(config, text_column="c"), 0))


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (ConnectionError("Server Disconnected"), r"cannot be read on \(Server Disconnected\); check the network"),
        (OSError(errno.ENOSPC, "No space left on device"), "no space left on device; free space"),
    ],
)
def test_a_stream_of_the_hub_that_breaks_off_is_one_sentence(monkeypatch, error, said):
    def rows():
        yield {"text": "one"}
        raise error

    monkeypatch.setattr("datasets.load_dataset", lambda *_, **__: IterableDataset.from_generator(rows))
    monkeypatch.setattr(documents, "_ROWS", 1)
    found = read_documents(CorpusConfig(source="hub", dataset="some/data", streaming=True), 0)
    assert next(found) == "one"
    with pytest.raises(UserError, match=said):
        next(found)


def test_a_damaged_part_of_a_data_set_is_one_sentence(tmp_path, monkeypatch):
    """A folder stands for it."""
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "a.jsonl").write_text('{"text": "one"}\n')
    (tmp_path / "set" / "b.jsonl").write_text('{"text": "tw')
    with pytest.raises(UserError, match=r"set': cannot be read on .*JSON parse error"):
        list(read_documents(CorpusConfig(source="hub", dataset=str(tmp_path / "set"), streaming=True), 0))


LINES = ["She was late.", "He asked: why?", '"Never!" she said.', "The king said (twice): no."]
OTHER_LINES = [
    "„Nie“, sagte sie.",
    "„Nie.“",
    "he said , `` no . ''",
    'she said , " no . "',
    "वह आया।",
    "وہ آیا۔",
    "آیا؟",
]
PROSE = "She was late, as she had been on every day of\nthat week. He asked why, and got no\nanswer that he liked.\n"


@pytest.mark.parametrize(
    ("text", "documents"),
    [
        ("\n".join(LINES), LINES),
        ("\r\n".join(LINES) + "\r\n", LINES),
        ("\n".join(OTHER_LINES), OTHER_LINES),
        ("\n\n".join(LINES), None),  # paragraphs of one text
        (PROSE, None),
        ("A single line.\n", None),
        ("\n".join([*LINES * 9, "A heading", "Another", "One more"]), [*LINES * 9, "A heading", "Another", "One more"]),
        ("\n".join([*LINES * 9, "A heading", "Another", "One more", "And one", "So on"]), None),
    ],
)
def test_lines_that_look_like_texts_are_texts(text, documents, tmp_path, capsys):
    path = tmp_path / "held-out.txt"
    path.write_bytes(text.encode())
    found = list(read_documents(CorpusConfig(source="files", files=[str(path)]), 0))
    assert found == (documents or [text.replace("\r\n", "\n")])
    assert ("every line ends like a text" in capsys.readouterr().err) == (documents is not None)
    whole = list(read_documents(CorpusConfig(source="files", files=[str(path)], document_start="^She"), 0))
    assert "".join(whole).split() == text.split()  # whoever says how documents begin is believed


def test_lines_are_swapped_as_they_are_scored(tmp_path, capsysbinary):
    """`distill swap` reads a text for each line: so do scores."""
    path = tmp_path / "held-out.txt"
    path.write_text("\n".join(LINES) + "\n", encoding="utf-8")
    swapper = Swapper(load_wordlist("english_gender"))
    swap_file(str(path), swapper, 1, 1, "text")
    lines = capsysbinary.readouterr().out.decode().splitlines()
    documents = read_documents(CorpusConfig(source="files", files=[str(path)]), 0)
    assert lines == [swapper.swap(document, 1).text for document in documents]


# -------------------------------------------------------------------------------------------------------------- labels


def test_documents_know_the_label_of_their_row_also_when_they_are_cut(tmp_path):
    path = tmp_path / "a.jsonl"
    rows = [{"who": "Ann", "text": "One line.\nAnother."}, {"who": None, "text": "Two."}, {"who": 3, "text": ""}]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    found = read(path, label="who", passage_chars=10)
    assert [(str(d), documents.label_of(d)) for d in found] == [("One line.", "Ann"), ("Another.", "Ann"), ("Two.", "")]
    assert found == read(path, passage_chars=10)
    assert all(documents.label_of(d) is None for d in read(path))


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_labels_of_tables(tmp_path, kind):
    path = tmp_path / f"a.{kind}"
    if kind == "csv":
        path.write_text("text,who\nOne.,Ann\nTwo.,Bob\n", encoding="utf-8")
    else:
        parquet.write_table(pa.table({"text": ["One.", "Two."], "who": ["Ann", "Bob"]}), path)
    assert [documents.label_of(d) for d in read(path, label="who")] == ["Ann", "Bob"]


def test_labels_of_a_saved_data_set_are_those_of_its_split(tmp_path):
    rows = {"train": ("One.", "Ann"), "test": ("Two.", "Bob")}
    splits = {name: Dataset.from_dict({"text": [text], "who": [who]}) for name, (text, who) in rows.items()}
    DatasetDict(splits).save_to_disk(tmp_path / "saved")
    for name, (text, who) in rows.items():
        (found,) = read(tmp_path / "saved", label="who", split=name)
        assert (str(found), documents.label_of(found)) == (text, who)
    DatasetDict(test=splits["test"]).save_to_disk(tmp_path / "one")
    for keys in ({}, {"label": "who"}):  # with labels as without
        with pytest.raises(UserError, match="holds no split 'train', but test"):
            read(tmp_path / "one", split="train", **keys)


def test_labels_of_files_and_of_conversations(tmp_path):
    (tmp_path / "a.txt").write_text("Prose. \n\n" * 3, encoding="utf-8")
    messages = [{"role": "user", "content": "Hello."}]
    (tmp_path / "b.jsonl").write_text(json.dumps({"text": messages}), encoding="utf-8")
    found = read(tmp_path / "a.txt", tmp_path / "b.jsonl", label="file")
    assert [documents.label_of(d) for d in found] == ["a.txt", "b.jsonl"]
    assert isinstance(found[1], Messages)


def test_rows_without_text_are_counted_with_labels_too(tmp_path, capsys):
    (tmp_path / "a.csv").write_text("text,by\nOne.,A\n,B\n,C\n", encoding="utf-8")
    assert read(tmp_path / "a.csv", label="by") == ["One."]
    assert "a.csv: 2 rows hold no 'text' and are left out" in capsys.readouterr().err


def test_a_label_is_that_of_a_file_whose_name_would_be_another_ones_pattern(tmp_path):
    for name in ("Anna 1.txt", "Anna [1].txt"):
        (tmp_path / name).write_text(f"Of {name}.")
    found = read(tmp_path / "*.txt", label="file")
    assert [(str(d), documents.label_of(d)) for d in found] == [
        ("Of Anna 1.txt.", "Anna 1.txt"), ("Of Anna [1].txt.", "Anna [1].txt"),
    ]  # fmt: skip


def test_a_column_of_labels_that_is_not_there(tmp_path, jsonl):
    (tmp_path / "a.txt").write_text("Prose.", encoding="utf-8")
    with pytest.raises(UserError, match=r"corpus\.label"):
        read(tmp_path / "a.txt", label="who")
    (tmp_path / "a.jsonl").write_text(jsonl, encoding="utf-8")
    with pytest.raises(UserError, match=r"who.*corpus\.label"):
        read(tmp_path / "a.jsonl", label="who")
