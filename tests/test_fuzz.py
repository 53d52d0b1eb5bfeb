"""Files that are not what they should be: valid ones, mutated, for every reader.

Whatever stands in a file, a reader ends well or with a UserError of one line that names it; anything else fails here.
By default each reader meets a few dozen cases; `pytest -m slow tests/test_fuzz.py` gives each of them thousands.
"""

import bz2
import gzip
import io
import json
import lzma
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import fields, is_dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pyarrow.parquet as parquet
import pytest
from chat_templates import chat_tokenizer
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rich.console import Console
from shared import REPOSITORY

from distill import cli
from distill.base import long_input, row_files
from distill.base.errors import UserError
from distill.data.counts import PackingCounts
from distill.data.packing import pack
from distill.recipe import CorpusConfig, Recipe
from distill.recipe_check import parse_recipe
from distill.reports.comparison import read_runs, write_comparison
from distill.reports.model_card import model_card
from distill.reports.page import run_page
from distill.reports.report import print_side_by_side, print_table, report_markdown
from distill.scoring.score import score_models
from distill.scoring.scores_file import read_scores
from distill.text import documents
from distill.text.conversations import rendered
from distill.text.counterfactual import Swapper
from distill.text.documents import passages, read_documents
from distill.text.prompts import load_prompts, without_listed_words
from distill.text.wordlist import load_wordlist, wordlist_mistakes
from distill.text.wordlist_check import check_dict, check_wordlist, print_check
from distill.text.wordlist_import import import_dict, import_wordlist, print_import

SECONDS = 60  # a case that takes longer hangs
TEXT = "He told his mother that the king saw her. Dr. Ann Lee, Mr. Will King\u2019s friend, said that she was tired.\n"

# What is put into a file: bytes that end lines, strings, numbers and patience.
SNIPPETS = [
    b"\x00", b"\xff", b"\xed\xa0\x80", b"\xc3", b"\xf0\x9f\x92", b"\xef\xbb\xbf", b"\xff\xfe", b"\r", b"\r\n", b"\n\n",
    "\u202e\u2066".encode(), "\u2028\u2029\x85".encode(), "\u200d\u0301\u0345".encode(), "\u0130\u1e9e\ufb03".encode(),
    "\U0001f469\u200d\u2695\ufe0f".encode(), rb"\ud800", rb"\udfff\ud800", rb"\u0000", b"\x1b[2J", b"\t", b"\t\t", b" ",
    b'"', b"'", b"\\", b"{", b"}", b"[", b"]", b":", b",", b"#", b"&a ", b"*a", b"<<: ", b"!!python/name:os.system ",
    b"!!binary aGk=", b"!!set {a}", b"2020-01-01", b"? ", b"- ", b"|", b">", b"%", b"@", b"`", b"null", b"true", b"~",
    b"0", b"-1", b"1e999", b"NaN", b"-Infinity", b".inf", b"9" * 5000, b"0x", b"1_0", b"[" * 3000, b'{"a":' * 3000,
    b"a" * 20_000, b"he ", b"she", b"_", b"-", b"+", b"{occupation}", b"text", b"base: r.yaml\n", b"$ref",
]  # fmt: skip


@st.composite
def mutated(draw: st.DrawFn, valid: list[bytes]) -> bytes:
    """One of some valid contents, changed in one to six places."""
    content = draw(st.sampled_from(valid))
    for _ in range(draw(st.integers(1, 6))):
        begin = draw(st.integers(0, len(content)))
        end = draw(st.integers(begin, min(len(content), begin + draw(st.sampled_from([0, 1, 8, 200])))))
        kind = draw(st.sampled_from(["snippet", "snippet", "bytes", "cut", "repeat", "move", "truncate"]))
        if kind == "truncate":
            content = content[:begin]
            continue
        put = {
            "snippet": lambda: draw(st.sampled_from(SNIPPETS)),
            "bytes": lambda: draw(st.binary(max_size=4)),
            "cut": lambda: b"",
            "repeat": lambda begin=begin, end=end, content=content: content[begin:end] * 3,
            "move": lambda content=content: draw(st.sampled_from(content.splitlines(keepends=True) or [b""])),
        }[kind]()
        content = content[:begin] + put + content[end:]
    return content


@contextmanager
def time_limit() -> Iterator[None]:
    """Fails a case that hangs; processor time, so that a busy machine does not count."""

    def stop(*_: object) -> None:
        raise AssertionError(f"no end after {SECONDS} seconds")

    before = signal.signal(signal.SIGVTALRM, stop)
    signal.setitimer(signal.ITIMER_VIRTUAL, SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)


def ends_well(use: Callable[[], object], *names: str) -> None:
    """Call it: it returns, or raises a UserError of one printable line that holds one of these names."""
    with time_limit():
        try:
            use()
        except UserError as error:
            message = str(error)
            assert message.isprintable(), message
            assert any(name in message for name in names), message
            assert len(message) < 3000


# ---------------------------------------------------------------------------------------------------------- readers

WORD_LISTS = [
    b"# licence: CC0-1.0\n# groups: male, female\nmale\tfemale\twhen\nhe\tshe\nhis\ther\tdeterminer\nhis\thers\t-\n"
    b"him\ther\tobject\nmr\tmrs\t-\nmr\tms\tone-way\nking\tqueen\nlord\tlady\ttitle\nwill\tann\tname ambiguous\n",
    "christian\tmuslim\tjewish\nchurch\tmosque\tsynagogue\npr\u00eatre\timam\trabbi\nhis house\tit\tx-y\n".encode(),
    b"protected\nKing Street\nqueen bee\n",
    b"skip\npregnant\n",
]


def use_wordlist(path: Path) -> None:
    wordlist_mistakes(path)
    swapper = Swapper(load_wordlist(path))
    text = " ".join((TEXT, *swapper.wordlist.words[:50]))
    for counterfactual in swapper.counterfactuals(text):
        assert (counterfactual.text == text) or counterfactual.spans


def use_wordlist_check(path: Path) -> None:
    (path.parent / "text.txt").write_text(TEXT, encoding="utf-8")
    check = check_wordlist(path, [str(path.parent / "text.txt")])
    json.dumps(check_dict(check))
    print_check(check, Console(file=io.StringIO()))


IMPORTS = [
    b'[["she", "he"], ["queen", "king"], ["her", "his"], ["her", "him"]]',
    b'{"she": "he", "queen": "king"}',
    b'{"pairs": [["she", "he"]], "more": [["aunt", "uncle"]]}',
    b"he\tshe\nking\tqueen\nhis\ther\nhim\ther\n",
    b"he,she\nking,queen\n",
]


def use_import(path: Path) -> None:
    imported = import_wordlist([path], path.parent / "out.tsv", force=True)
    json.dumps(import_dict(imported))
    print_import(imported, Console(file=io.StringIO()))
    load_wordlist(path.parent / "out.tsv")


RECIPES = [
    *(
        path.read_bytes()
        for path in sorted((REPOSITORY / "recipes").glob("*.yaml"))
        if b"base:" not in path.read_bytes()
    ),
    b"corpus: {source: files, files: ['a.txt'], passage_chars: 10, document_start: '^ = '}\n"
    b"held_out: {source: hub, dataset: some/set}\nseed: 3\nscores: {metrics: [perplexity], top_p: 0.5}\n"
    b"student: {init: config, config: {model_type: gpt2, n_layer: 1}}\nteacher: {path: null}\nloss: {kd: 0, ce: 1.5}\n"
    b"trainer: {max_steps: 3, learning_rate: 1.0e-3, optim: sgd}\n",
]


def use_recipe(path: Path) -> None:
    recipe = parse_recipe(["--config", str(path)])
    assert recipe == Recipe(**vars(recipe))


PROMPTS_TSV = [
    b"group\toccupation\ncare\tnurse\ncare\tmidwife\ntrade\tplumber\n",
    b"# ours\ngroup\tsubject\tprompt\ncare\tnurse\tThe nurse said that\ntrade\tplumber\tAs a plumber,\n",
]
PROMPTS_JSON = [b'{"care": {"nurse": ["The nurse said ", "A nurse"]}, "trade": {"plumber": ["The plumber "]}}']


def use_prompts(path: Path) -> None:
    prompts, _ = without_listed_words(load_prompts(path), SWAPPER)
    for prompt in prompts:
        prompt.text.encode()


JSONL = [
    b'{"text": "He told his mother."}\n{"text": "Zweiter Text: \xc3\xa4", "more": [1, {"a": null}]}\n\n{"text": ""}\n',
    json.dumps({"text": TEXT * 3, "id": 7}).encode() + b"\n",
]
TXT = [TEXT.encode() * 3, b" = A = \n\n he saw her\n = = part = = \n more\n = B = \n text\n"]


def parquet_bytes(table: pa.Table, **settings: object) -> bytes:
    out = io.BytesIO()
    parquet.write_table(table, out, **settings)
    return out.getvalue()


PARQUET = [
    parquet_bytes(pa.table({"text": [TEXT, None, "b"], "id": [1, 2, 3]})),
    parquet_bytes(pa.table({"text": [TEXT] * 50}), compression="gzip"),
    parquet_bytes(pa.table({"text": [1, 2]})),
    parquet_bytes(pa.table({"text": [[TEXT]]})),
]
GZ = [gzip.compress(JSONL[0]), gzip.compress(JSONL[1] * 50)]
XZ = [lzma.compress(JSONL[0]), lzma.compress(JSONL[1] * 50)]
BZ2 = [bz2.compress(JSONL[0]), bz2.compress(JSONL[1] * 50)]


def use_corpus(path: Path) -> None:
    for keys in ({}, {"passage_chars": 40, "shuffle": True}, {"document_start": "^ = [^=]", "max_documents": 2}):
        config = CorpusConfig(source="files", files=[str(path)], **keys)
        documents = list(read_documents(config, 0))
        assert documents
    list(pack(documents, TOKENIZER, SWAPPER, 32, PackingCounts()))
    "".join(documents).encode()


def use_swap(path: Path) -> None:
    (path.parent / "swap.tsv").write_text("male\tfemale\nhe\tshe\nking\tqueen\n", encoding="utf-8")
    out = io.BytesIO()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "stdout", SimpleNamespace(buffer=out, isatty=lambda: False))
        cli.swap([str(path), "--wordlist", str(path.parent / "swap.tsv")])
    assert out.getvalue().count(b"\n") == path.read_bytes().count(b"\n")


def use_scores(path: Path) -> None:
    """All that is made of a scores.json, by `distill report` and at the end of a run."""
    runs = read_runs([str(path.parent)])
    (path.parent / "reports").mkdir(exist_ok=True)
    write_comparison(runs, path.parent / "reports")
    scores, console = runs[0].scores, Console(file=io.StringIO())
    print_side_by_side({"one": scores, "two": scores}, console)
    print_table(scores, console)
    report_markdown(Recipe(), scores)
    run_page(Recipe(), scores)
    model_card(Recipe(), scores, "student")


TOKENIZER = SWAPPER = None


@pytest.fixture(scope="module", autouse=True)
def shared(toy_tokenizer, short_wordlist):
    """What several readers need and hypothesis can not be given."""
    global TOKENIZER, SWAPPER
    TOKENIZER, SWAPPER = toy_tokenizer, Swapper(short_wordlist)


@pytest.fixture(scope="module")
def valid_scores(toy_model, toy_tokenizer, short_wordlist) -> list[bytes]:
    """A scores.json of two models with the default metrics."""
    from distill.recipe import ScoreConfig

    scores = score_models(
        {name: (toy_model(seed=seed), toy_tokenizer) for seed, name in enumerate(("baseline", "student"))},
        wordlist=short_wordlist,
        documents=["The nurse said that she was tired."],
        prompts=load_prompts()[:4],
        settings=ScoreConfig(samples=1, max_new_tokens=3, bootstrap=5),
    )
    scores["settings"]["prompts"] |= {"source": "occupations", "left_out_with_listed_word": 0}
    return [json.dumps(scores).encode(), json.dumps(scores, indent=1).encode()]


def recipe_keys() -> tuple[str, ...]:
    """Every key of a recipe; those of a section with its name."""
    return tuple(
        f"{f.name}.{key.name}" if is_dataclass(f.type) else f.name
        for f in fields(Recipe)
        for key in (fields(f.type) if is_dataclass(f.type) else (f,))
    )


JSON_ARRAY = [
    b'[{"text": "He told his mother."},\n {"text": "Text: \xc3\xa4", "more": [1, {"a": null}]}, {"text": null}]',
    json.dumps([{"text": TEXT, "id": 7}] * 3, indent=1).encode(),
]
CSV = [
    b'id,text\n1,He told his mother.\n2,"""She"", he said,\nand left."\n3,\n',
    f"text\n{json.dumps(TEXT)}\n".encode(),
]
TSV = [b"id\ttext\n1\tHe told his mother.\n2\tShe left.\n"]
TALKS = [
    b'{"text": [{"role": "user", "content": "Who is she?"}, {"role": "assistant", "content": "King."}]}\n'
    b'{"text": []}\n',
    b'{"text": [{"role": "system", "content": ""}, {"role": "user", "content": " He <|end|> ", "weight": 1}]}\n',
]


def use_talks(path: Path) -> None:
    tokenizer = chat_tokenizer(TOKENIZER, "chatml")
    read = read_documents(CorpusConfig(source="files", files=[str(path)]), 0)
    talks = [d if type(d) is str else rendered(d, tokenizer, answers_only=True) for d in read]
    list(pack(talks, tokenizer, SWAPPER, 32, PackingCounts()))
    "".join(talks).encode()


READERS: dict[str, tuple[str, list[bytes] | None, Callable[[Path], None], int]] = {
    # name: (file name, valid contents, what reads it, cases in the slow set)
    "word list": ("list.tsv", WORD_LISTS, use_wordlist, 3000),
    "word list, checked": ("list.tsv", WORD_LISTS[:2], use_wordlist_check, 300),
    "word list, imported": ("pairs.json", IMPORTS[:3], use_import, 1200),
    "word pairs, imported": ("pairs.txt", IMPORTS[3:], use_import, 1200),
    "recipe": ("r.yaml", RECIPES, use_recipe, 2000),
    "prompts as a table": ("prompts.tsv", PROMPTS_TSV, use_prompts, 3000),
    "prompts as JSON": ("prompts.json", PROMPTS_JSON, use_prompts, 2000),
    "JSON lines": ("x.jsonl", JSONL, use_corpus, 2500),
    "text": ("x.txt", TXT, use_corpus, 1500),
    "gzip": ("x.jsonl.gz", GZ, use_corpus, 1000),
    "xz": ("x.jsonl.xz", XZ, use_corpus, 1000),
    "bzip2": ("x.jsonl.bz2", BZ2, use_corpus, 500),
    "parquet": ("x.parquet", PARQUET, use_corpus, 1000),
    "JSON array": ("x.json", JSON_ARRAY, use_corpus, 1500),
    "comma-separated": ("x.csv", CSV, use_corpus, 1500),
    "tab-separated": ("x.tsv", TSV, use_corpus, 500),
    "conversations": ("talk.jsonl", TALKS, use_talks, 1500),
    "swapped lines": ("lines.txt", TXT, use_swap, 500),
    "scores": ("scores.json", None, use_scores, 1500),
}


# What a message may name in place of the file: the key, once files and options are laid over one another; the list that
# was just made.
ALSO_NAMED = {
    "recipe": recipe_keys(),
    "word list, imported": ("out.tsv",),
    "word pairs, imported": ("out.tsv",),
}


def fuzz(folder: Path, name: str, valid: list[bytes], cases: int) -> None:
    file_name, _, use, _ = READERS[name]
    path = folder / file_name

    @settings(max_examples=cases, suppress_health_check=list(HealthCheck), deadline=None, database=None)
    @given(mutated(valid))
    def run(content: bytes) -> None:
        path.write_bytes(content)
        ends_well(lambda: use(path), path.name, *ALSO_NAMED.get(name, ()))

    run()


@pytest.mark.parametrize("name", READERS)
def test_a_few_mutated_files(name, tmp_path, valid_scores):
    fuzz(tmp_path, name, READERS[name][1] or valid_scores, 25)


@pytest.mark.slow
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("name", READERS)
def test_thousands_of_mutated_files(name, tmp_path, valid_scores):
    fuzz(tmp_path, name, READERS[name][1] or valid_scores, READERS[name][3])


JSON_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.sampled_from([1e308, -1e308, 5e-324, 10**400, 2**63, "", "male", "<b>", "\x00", "\ud800"])
    | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=4,
)


def places_in(tree: Any) -> list[tuple[Any, Any]]:
    """(container, key) of every sub-tree."""
    items = list(tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ())
    return [place for key, value in items for place in ((tree, key), *places_in(value))]


@st.composite
def pruned(draw: st.DrawFn, valid: bytes) -> bytes:
    """A valid JSON file of which one to three sub-trees are deleted, or replaced by each other or by anything."""
    tree = json.loads(valid)
    for _ in range(draw(st.integers(1, 3))):
        places = places_in(tree)
        container, key = draw(st.sampled_from(places))
        if draw(st.booleans()):
            del container[key]
        elif draw(st.booleans()):
            container[key] = draw(JSON_VALUES)
        else:
            other, there = draw(st.sampled_from(places))
            container[key] = json.loads(json.dumps(other[there]))
        if not places_in(tree):
            break
    return json.dumps(tree).encode()


def prune_scores(path: Path, valid: bytes, cases: int) -> None:
    @settings(max_examples=cases, suppress_health_check=list(HealthCheck), deadline=None, database=None)
    @given(pruned(valid))
    def run(content: bytes) -> None:
        path.write_bytes(content)
        ends_well(lambda: use_scores(path), path.name)

    run()


def test_scores_that_lack_something_make_a_report_or_one_sentence(tmp_path, valid_scores):
    prune_scores(tmp_path / "scores.json", valid_scores[0], 60)


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_thousands_of_scores_that_lack_something(tmp_path, valid_scores):
    prune_scores(tmp_path / "scores.json", valid_scores[0], 1500)


def test_the_slow_set_has_twenty_thousand_cases():
    assert sum(cases for *_, cases in READERS.values()) >= 20_000


@pytest.mark.parametrize("name", READERS)
@pytest.mark.parametrize("kind", ["empty", "folder", "missing", "link to itself"])
def test_no_file_at_all(name, kind, tmp_path):
    file_name, _, use, _ = READERS[name]
    path = tmp_path / file_name
    if kind == "empty":
        path.touch()
    elif kind == "folder":
        path.mkdir()
    elif kind == "link to itself":
        path.symlink_to(path)
    ends_well(lambda: use(path), path.name, *ALSO_NAMED.get(name, ()))


@settings(max_examples=50)
@given(st.text(st.characters(), max_size=200), st.integers(1, 40))
def test_passages_of_any_text(text, limit):
    assert all(0 < len(part) <= limit for part in passages(text, limit))


# ------------------------------------------------------------------------------------------------ lines of 50 million

LINE = b"He saw the house by the river, and nobody of them answered the letter that day. "
KINDS = {  # what stands in front of the line: with the last, Python keeps every character of it in four bytes
    "ascii": b"",
    "astral": "\U0001f469 ".encode(),
}


def read_all(path: Path) -> None:
    for _ in read_documents(CorpusConfig(source="files", files=[str(path)]), 0):
        pass


# File name: (what stands before the line, what behind it, the reader)
LONG: dict[str, tuple[bytes, bytes, Callable[[Path], object]]] = {
    "list.tsv": (b"male\tfemale\nhe\tshe\n", b"\tx\n", load_wordlist),
    "pairs.txt": (b"he\tshe\nking\tqueen\n", b"\tx\n", use_import),
    "pairs.json": (b'[["he", "she"], ["', b'", "x"]]', use_import),
    "r.yaml": (
        b"corpus: {max_documents: 5}\nheld_out: {max_documents: 5}\noutput_dir: ",
        b"\n",
        lambda path: parse_recipe(["--config", str(path)]),
    ),
    "prompts.tsv": (b"group\toccupation\ncare\tnurse\ncare\t", b"\n", load_prompts),
    "prompts.json": (b'{"care": {"nurse": ["', b'"]}}', load_prompts),
    "x.jsonl": (b'{"text": "', b'"}\n', read_all),
    "x.json": (b'[{"text": "', b'"}]', read_all),
    "x.txt": (b"", b"", read_all),
    "x.jsonl.gz": (b'{"text": "', b'"}\n', read_all),
    "x.jsonl.xz": (b'{"text": "', b'"}\n', read_all),
    "x.parquet": (b"", b"", read_all),
    "lines.txt": (b"", b"\n", use_swap),
    "scores.json": (b'{"format": 1, "models": "', b'"}', read_scores),
}

STORED: dict[str, Callable[[bytes], bytes]] = {
    ".gz": lambda content: gzip.compress(content, 1),
    ".xz": lambda content: lzma.compress(content, preset=0),
    ".parquet": lambda content: parquet_bytes(pa.table({"text": [content.decode()]})),
}

MEASURE = """
import sys
from pathlib import Path
from common import peak_memory, settle_memory
from test_fuzz import LONG, ends_well
names = "out.tsv",
for name in sys.argv[2:]:
    small, large = Path(sys.argv[1], "small", name), Path(sys.argv[1], "large", name)
    use = LONG[name][2]
    ends_well(lambda: use(small), name, *names)  # imports and the like
    before = settle_memory()
    ends_well(lambda: use(large), name, *names)
    print(peak_memory() - before)
"""


def peaks(folder: Path, sizes: dict[str, int], kind: str) -> dict[str, float]:
    """By file name, the most memory that its reader takes for one line of that size, in times the size."""
    for place in ("small", "large"):
        (folder / place).mkdir()
        for name, size in sizes.items():
            before, after, _ = LONG[name]
            content = before + KINDS[kind] + LINE * (size // len(LINE) if place == "large" else 1) + after
            (folder / place / name).write_bytes(STORED.get(Path(name).suffix, bytes)(content))
    tests = REPOSITORY / "tests"
    environment = {
        "PYTHONPATH": os.pathsep.join(map(str, (REPOSITORY, tests, tests / "helpers", tests / "benchmarks"))),
        "MALLOC_MMAP_THRESHOLD_": "65536",  # glibc gives a freed text back, whatever was freed before it
    }
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, str(folder), *sizes],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found = {name: int(peak) / sizes[name] for name, peak in zip(sizes, done.stdout.split(), strict=True)}
    print(kind, *(f"{name} {times:.2f}" for name, times in found.items()))
    return found


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", LONG)
def test_a_line_of_50_mb_takes_at_most_four_times_its_size(name, kind, tmp_path):
    assert peaks(tmp_path, {name: 50_000_000}, kind)[name] <= 4


def test_a_line_of_some_mb_takes_at_most_four_times_its_size(tmp_path):
    """A part of a swapped line and arrow's own copies take some 25 MB, which only a larger file makes up for."""
    sizes = dict.fromkeys(LONG, 5_000_000) | dict.fromkeys(("lines.txt", "x.parquet"), 20_000_000)
    found = peaks(tmp_path, sizes, "ascii")
    assert not {name: times for name, times in found.items() if times > 4}


@pytest.mark.parametrize("kind", KINDS)
def test_a_long_text_is_read_in_parts_and_loses_nothing(kind, tmp_path, monkeypatch):
    monkeypatch.setattr(documents, "_LONGEST_DOCUMENT", 1000)
    monkeypatch.setattr(long_input, "_READ", 300)
    text = (KINDS[kind] + LINE * 100).decode()
    (tmp_path / "x.txt").write_text(text, encoding="utf-8")
    (tmp_path / "x.jsonl").write_text(json.dumps({"text": text}), encoding="utf-8")
    for name in ("x.txt", "x.jsonl"):
        found = list(read_documents(CorpusConfig(source="files", files=[str(tmp_path / name)]), 0))
        assert len(found) > 8
        assert all(part.endswith(". ") for part in found)
        assert "".join(found) == text


@pytest.mark.parametrize("name", ["x.jsonl", "x.jsonl.gz", "x.json", "x.csv", "x.parquet"])
def test_a_row_that_is_too_long_is_refused(name, tmp_path, monkeypatch):
    monkeypatch.setattr(row_files, "LONGEST_ROW", 1000)
    row = b'{"text": "' + LINE * 20 + b'"}'
    other = {"x.parquet": LINE * 20, "x.json": b"[" + row + b"]", "x.csv": b'text\n"' + LINE.replace(b",", b"\n") * 20}
    content = other.get(name, b'{"text": "short"}\n' + row + b"\n")
    (tmp_path / name).write_bytes(STORED.get(Path(name).suffix, bytes)(content))
    with pytest.raises(UserError, match=rf"{name}.*: a row of more than .* characters.*\.txt"):
        read_all(tmp_path / name)


@pytest.mark.parametrize("name", ["list.tsv", "pairs.txt", "pairs.json", "prompts.tsv", "prompts.json", "scores.json"])
def test_a_file_that_is_too_large_to_be_read_whole_is_refused(name, tmp_path, monkeypatch):
    monkeypatch.setattr(long_input, "MOST_BYTES", 50)
    before, after, use = LONG[name]
    (tmp_path / name).write_bytes(before + LINE + after)
    with pytest.raises(UserError, match=rf"{name}: larger than"):
        use(tmp_path / name)


@pytest.mark.parametrize("name", ["list.tsv", "pairs.txt", "pairs.json", "prompts.tsv"])
def test_a_line_that_is_too_long_for_a_list_is_refused(name, tmp_path):
    before, after, use = LONG[name]
    (tmp_path / name).write_bytes(before + LINE * 2000 + after)
    with pytest.raises(UserError, match=rf"{name}, (line 3|entry 2): .*longer than 100,000 .*is it a list"):
        use(tmp_path / name)
