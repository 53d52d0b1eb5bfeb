"""Import of published word lists: every fault by hand, the real lists, and any text at all."""

import io
import json
import random
import string

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rich.console import Console

from distill.base.errors import UserError
from distill.text.wordlist import load_wordlist, wordlist_mistakes
from distill.text.wordlist_import import FAULTS, import_dict, import_wordlist, print_import


@pytest.fixture
def source(tmp_path):
    """Name and content (text, bytes, or what JSON shall hold) -> path of a source."""

    def write(content, name: str = "source.txt"):
        path = tmp_path / name
        if not isinstance(content, str | bytes):
            content = json.dumps(content)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    return write


@pytest.fixture
def imported(source, tmp_path):
    """Content of one source -> (result, {words: marks of the row})."""

    def run(content, name: str = "source.txt", **options):
        result = import_wordlist([source(content, name)], tmp_path / "list.tsv", **options)
        return result, rows_of(result.path)

    return run


def rows_of(path) -> dict[tuple[str, ...], str]:
    assert wordlist_mistakes(path) == []
    return {row.words: f"{row.when or ''}{' one-way' * row.one_way}".strip() for row in load_wordlist(path).rows}


def faults_of(result) -> list[tuple[str, str]]:
    """(file name and line, kind) of every fault."""
    return [(fault.where.rpartition("/")[2], fault.kind) for fault in result.faults]


# ---------------------------------------------------------------------------------------------------------- formats


def test_parallel_files(source, tmp_path):
    male, female = source("King\nmale_host\r\nboy\n", "m.txt"), source("\ufeffqueen\nhostess\ngirl", "f.txt")
    result = import_wordlist([male, female], tmp_path / "new" / "list.tsv")
    assert result.source_format == "parallel" and result.sources == ("m.txt", "f.txt")
    assert rows_of(result.path) == {("king", "queen"): "", ("male host", "hostess"): "", ("boy", "girl"): ""}
    assert (result.entries, result.rows, result.one_way, result.with_role, result.faults) == (3, 3, 0, 0, ())
    metadata = load_wordlist(result.path).metadata
    assert metadata["licence"] == "see source" and metadata["source"] == "m.txt, f.txt"
    assert metadata["groups"] == "male, female" and metadata["name"] == "list"


@pytest.mark.parametrize(
    "content",
    [
        "king \t queen \n# a comment\n\nboy\tgirl\n",
        "king,queen\nboy, girl\n",
        '"king","queen"\r\n"boy","girl"\r\n',
        "king queen\nboy   girl\n",
    ],
)
def test_tables(imported, content):
    result, rows = imported(content)
    assert rows == {("king", "queen"): "", ("boy", "girl"): ""}
    assert result.source_format == "tab" and not result.faults


@pytest.mark.parametrize(
    "content, options",
    [
        ([["king", "queen"], ["boy", "girl"]], {}),
        ({"king": "queen", "boy": "girl"}, {}),
        ({"gender": [["king", "queen"], ["boy", "girl"]]}, {}),
        ({"other": [["a", "b"]], "gender": [["king", "queen"], ["boy", "girl"]]}, {"key": "gender"}),
    ],
)
def test_json(imported, content, options):
    result, rows = imported(content, "source.json", **options)
    assert rows == {("king", "queen"): "", ("boy", "girl"): ""}
    assert result.source_format == "json" and not result.faults


def test_an_object_with_a_word_twice_loses_neither(imported):
    _, rows = imported('{"mr": "mrs", "mr": "ms"}', "source.json")
    assert rows == {("mr", "mrs"): "", ("mr", "ms"): "one-way"}


def test_several_sources_of_one_format(source, tmp_path):
    result = import_wordlist(
        [source("king\tqueen\n", "a"), source("queen\tking\nboy\tgirl\n", "b")], tmp_path / "out.tsv"
    )
    assert list(rows_of(result.path)) == [("king", "queen"), ("boy", "girl")]
    assert (result.entries, result.mirrored) == (3, 1)


def test_more_than_two_groups(imported):
    content = {
        "religion": [
            ["Church", "mosque", "synagogue"],
            ["priest", "imam", "rabbi"],
            ["pastor", "imam", "rabbi"],
            ["pope", "church", "x"],
            ["bible", "quran"],
        ]
    }
    result, rows = imported(content, "source.json", groups=("christian", "muslim", "jewish"))
    assert rows == {
        ("church", "mosque", "synagogue"): "",
        ("priest", "imam", "rabbi"): "",
        ("pastor", "imam", "rabbi"): "one-way",
    }
    assert faults_of(result) == [
        ("source.json, entry 5", "columns"),
        ("source.json, entry 4", "both groups"),
        ("source.json, entry 3", "several counterparts"),
    ]


# ----------------------------------------------------------------------------------------------------------- faults


def test_parallel_files_with_gaps(source, tmp_path):
    male, female = source("king\n\nboy\nman\n\n", "m.txt"), source("queen\ngirl\n \n", "f.txt")
    result = import_wordlist([male, female], tmp_path / "list.tsv")
    assert rows_of(result.path) == {("king", "queen"): ""}
    assert faults_of(result) == [
        ("m.txt, line 4", "columns"),
        ("m.txt, line 5", "columns"),
        ("m.txt, line 2", "blank"),
        ("f.txt, line 3", "blank"),
    ]
    assert "f.txt ends before this line, so 'man' has no partner" in result.faults[0].what


def test_a_line_without_two_words(imported):
    result, rows = imported("king\tqueen\nboy\nman\twoman\tperson\nuncle\taunt\n")
    assert list(rows) == [("king", "queen"), ("uncle", "aunt")]
    assert faults_of(result) == [("source.txt, line 2", "columns"), ("source.txt, line 3", "columns")]


@pytest.mark.parametrize(
    "pair, kind",
    [
        ("man\tMan", "same word"),
        ("mr\tMR.", "same word"),
        ("--\tgirl", "no word"),
        ("a\t_\tb", "columns"),
        ("_\tgirl", "no word"),
        ("\u0301\tgirl", "no word"),
    ],
)
def test_what_is_no_pair_is_left_out(imported, pair, kind):
    result, rows = imported(f"king\tqueen\n{pair}\n")
    assert list(rows) == [("king", "queen")]
    assert ("source.txt, line 2", kind) in faults_of(result)


def test_json_entries_that_are_no_pair(imported):
    result, rows = imported([["king", "queen"], ["boy", 7], "man", ["x"], {"a": "b"}, None, ["", "y"]], "source.json")
    assert list(rows) == [("king", "queen")]
    assert faults_of(result) == [
        ("source.json, entry 3", "columns"),
        ("source.json, entry 4", "columns"),
        ("source.json, entry 5", "columns"),
        ("source.json, entry 6", "columns"),
        ("source.json, entry 2", "no word"),
        ("source.json, entry 7", "blank"),
    ]


@pytest.mark.parametrize(
    "written, word", [("seamstress'", "seamstress"), ("mrs.", "mrs"), ("(lady)", "lady"), ("a\x07b", "ab")]
)
def test_refused_characters_are_taken_off_and_reported(imported, written, word):
    result, rows = imported(f"king\tqueen\nx\t{written}\n")
    assert list(rows) == [("king", "queen"), ("x", word)]
    assert faults_of(result) == [("source.txt, line 2", "characters")]
    assert result.faults[0].done == f"written {word!r}"


def test_spelling_is_ours(imported):
    result, rows = imported("Fiance\u0301\tfiance\u0301e\nsir\tma’am\nCATHOLIC_priest\tNun\nstep‐father\tstep‑mother\n")
    assert list(rows) == [
        ("fiancé", "fiancée"), ("sir", "ma'am"), ("catholic priest", "nun"), ("step-father", "step-mother")
    ]  # fmt: skip
    assert not result.faults


def test_repeated_and_mirrored_pairs_are_folded_in_silence(imported):
    result, rows = imported("actor\tactress\nking\tqueen\nactress\tactor\nking\tqueen\nqueen\tking\n")
    assert rows == {("actor", "actress"): "", ("king", "queen"): ""}
    assert (result.entries, result.repeated, result.mirrored, result.faults) == (5, 1, 2, ())


# ----------------------------------------------------------------------------------------------------------- groups


def test_a_crossed_row_is_turned_by_what_english_knows(imported):
    result, rows = imported("cameraman\tcamerawoman\nzookeeperwomen\tzookeepers\nking\tqueen\nnun\tfrater\n")
    assert list(rows) == [
        ("cameraman", "camerawoman"), ("zookeepers", "zookeeperwomen"), ("king", "queen"), ("frater", "nun")
    ]  # fmt: skip
    assert faults_of(result) == [("source.txt, line 2", "crossed"), ("source.txt, line 4", "crossed")]


def test_pairs_in_both_directions_are_sorted_by_what_english_knows(imported):
    """In alphabetical order of the first word, the columns say nothing."""
    result, rows = imported("aunt\tuncle\nboy\tgirl\ngirl\tboy\nuncle\taunt\n")
    assert list(rows) == [("uncle", "aunt"), ("boy", "girl")]
    assert not result.faults


def test_columns_in_the_other_order_are_one_fault(imported):
    content = [["woman", "man"], ["girl", "boy"], ["Mary", "John"], ["king", "queen"]]
    result, rows = imported(content, "source.json")
    assert list(rows) == [("man", "woman"), ("boy", "girl"), ("john", "mary"), ("king", "queen")]
    assert faults_of(result) == [("source.json", "order"), ("source.json, entry 4", "crossed")]
    result, rows = imported(content[:3], "source.json", groups=("Female", "Male"), force=True)
    assert list(rows) == [("woman", "man"), ("girl", "boy"), ("mary", "john")]
    assert not result.faults


def test_unknown_words_follow_the_majority_of_rows(imported):
    """b stands in the second column twice and in the first once."""
    result, rows = imported("a\tb\nb\tc\nd\tb\n", groups=("left", "right"))
    assert rows == {("a", "b"): "", ("c", "b"): "one-way", ("d", "b"): "one-way"}
    assert faults_of(result)[0] == ("source.txt, line 2", "crossed")


def test_the_first_row_may_be_the_one_that_is_crossed(imported):
    result, rows = imported("b\ta\na\tc\na\td\n", groups=("left", "right"))
    assert list(rows) == [("a", "b"), ("a", "c"), ("a", "d")]
    assert [fault for fault in faults_of(result) if fault[1] == "crossed"] == [("source.txt, line 1", "crossed")]


def test_unknown_words_in_both_directions_follow_the_order_of_their_file(imported):
    content = [["woman", "man"], ["girl", "boy"], ["yin", "yang"], ["yang", "yin"]]
    _, rows = imported(content, "source.json")
    assert list(rows) == [("man", "woman"), ("boy", "girl"), ("yang", "yin")]


def test_unknown_words_in_both_directions_follow_the_first(imported):
    result, rows = imported("y\tx\na\tb\nx\ty\nb\ta\n", groups=("left", "right"))
    assert list(rows) == [("y", "x"), ("a", "b")]
    assert not result.faults


def test_a_row_of_two_words_of_one_group_is_left_out(imported):
    result, rows = imported("man\tboy\na\tb\nb\tc\na\tc\nking\tqueen\n")
    assert list(rows) == [("a", "b"), ("c", "b"), ("king", "queen")]
    assert [fault for fault in faults_of(result) if fault[1] == "both groups"] == [
        ("source.txt, line 1", "both groups"),
        ("source.txt, line 4", "both groups"),
    ]


@pytest.fixture(scope="module")
def pairs():
    rows = load_wordlist("english_gender+none").rows
    return [row.words for row in rows if row.when is None and not row.one_way]


@settings(max_examples=6)
@given(seed=st.integers(0, 2**32))
def test_known_pairs_come_out_alike_however_they_are_turned(seed, pairs, tmp_path_factory):
    turn = random.Random(seed)
    listed = [pair[:: turn.choice((1, -1))] for pair in pairs]
    folder = tmp_path_factory.mktemp("turned")
    (folder / "source.txt").write_text("\n".join(map("\t".join, listed)), encoding="utf-8")
    result = import_wordlist([folder / "source.txt"], folder / "list.tsv")
    assert list(rows_of(result.path)) == pairs


# ------------------------------------------------------------------------------------------------------ counterparts


def test_several_counterparts(imported):
    """The usual pair holds both ways wherever it stands; what adds nothing is left out."""
    result, rows = imported(
        "mentleman\tlady\nlord\tlady\ngentleman\tlady\nking\tqueen\nruler\tempress\nruler\tqueen\nking\tempress\n"
    )
    assert rows == {
        ("mentleman", "lady"): "one-way",
        ("lord", "lady"): "one-way",
        ("gentleman", "lady"): "",
        ("king", "queen"): "",
        ("ruler", "empress"): "",
    }
    assert [fault[0] for fault in faults_of(result)] == [f"source.txt, line {line}" for line in (1, 2, 6, 7)]
    assert result.faults[0].what == "'lady' has the counterpart 'gentleman' already"
    assert result.faults[0].done == "kept one-way, for 'mentleman'"
    assert result.faults[2].done.startswith("left out")
    wordlist = load_wordlist(result.path)
    assert wordlist.counterparts("lady", 1) == (("gentleman", None),)
    assert wordlist.counterparts("mentleman", 1) == (("lady", None),)


def test_a_word_has_one_one_way_row(imported):
    result, rows = imported("king\tqueen\nprince\tprincess\nruler\tqueen\nruler\tprincess\n")
    assert rows == {("king", "queen"): "", ("prince", "princess"): "", ("ruler", "queen"): "one-way"}
    assert [fault.done[:8] for fault in result.faults] == ["kept one", "left out"]


@pytest.mark.parametrize("groups", [("male", "female"), ("Female", "Male"), ("male", "female", "neutral")])
def test_pronouns_get_roles(imported, groups):
    order = [("male", "female", "neutral").index(group.lower()) for group in groups]
    triples = [
        ("he", "she", "they"), ("his", "her", "their"), ("him", "her", "them"), ("his", "hers", "theirs"),
        ("him", "hers", "x"),
    ]  # fmt: skip
    result, rows = imported([[triple[i] for i in order] for triple in triples], "source.json", groups=groups)
    roles = ["", "determiner", "object", "pronoun"]
    assert list(rows.items()) == [(tuple(t[i] for i in order), r) for t, r in zip(triples, roles, strict=False)]
    assert faults_of(result) == [("source.json, entry 5", "several counterparts")]
    assert result.with_role == 3


# ---------------------------------------------------------------------------------------------------------- mistakes


@pytest.mark.parametrize(
    "content, options, message",
    [
        ("king\nqueen\n", {}, r"one word a line.*male, female"),
        ("", {}, "one word a line"),
        ("man\tman\n", {}, r"no row of 2 different words.*line 1: 'man' stands for two groups"),
        ("a\tb\n", {"groups": ("male",)}, r"--groups is 'male'"),
        ("a\tb\n", {"groups": ("male", "")}, r"--groups has the name ''"),
        ("a\tb\n", {"groups": ("male", "When")}, r"--groups has the name 'When'"),
        ("a\tb\n", {"groups": ("male", "male")}, r"names 'male' twice"),
        ("a\tb\n", {"source_format": "tsv"}, r"--format is 'tsv'.*known are: auto, parallel, tab, json"),
        ("a\tb\n", {"source_format": "parallel"}, "1 parallel files for 2 groups"),
        ("a\tb\n", {"source_format": "json"}, "not valid JSON"),
        ("a\tb\n", {"key": "gender"}, "--key is for JSON"),
        ("[1, 2", {}, "not valid JSON"),
        ("[" * 100_000, {}, "not valid JSON"),
        ('{"a": [["x", "y"]], "b": []}', {}, r"holds 2 lists.*--key \(a, b\)"),
        ('{"gender": [["x", "y"]]}', {"key": "gendre"}, r"no list 'gendre'; did you mean 'gender'"),
        ('[["x", "y"]]', {"key": "gender"}, "no object of several lists"),
        ("[]", {}, "no row of 2"),
        (b"king\tqueen\nfianc\xe9\tx\n", {}, r"line 2: byte 0xe9 is not UTF-8"),
        ("king\tqueen\n".encode("utf-16"), {}, "UTF-16"),
    ],
)
def test_mistakes(imported, tmp_path, content, options, message):
    with pytest.raises(UserError, match=message) as caught:
        imported(content, **options)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "list.tsv").exists()


def test_sources_of_different_formats(source, tmp_path):
    with pytest.raises(UserError, match=r"several formats \(.*a looks like tab, .*b looks like json\)"):
        import_wordlist([source("a\tb\n", "a"), source([["a", "b"]], "b")], tmp_path / "out.tsv")


def test_missing_sources(tmp_path):
    for name in (tmp_path / "none.txt", tmp_path, "no\0name"):
        with pytest.raises(UserError, match=r"no such source|cannot be read"):
            import_wordlist([name], tmp_path / "out.tsv")
    with pytest.raises(UserError, match="a source is missing"):
        import_wordlist([], tmp_path / "out.tsv")


def test_nothing_is_overwritten_without_force(imported, tmp_path):
    (tmp_path / "list.tsv").write_text("mine", encoding="utf-8")
    with pytest.raises(UserError, match=r"list\.tsv exists.*--force"):
        imported("king\tqueen\n")
    assert (tmp_path / "list.tsv").read_text(encoding="utf-8") == "mine"
    _, rows = imported("king\tqueen\n", force=True)
    assert list(rows) == [("king", "queen")]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["list.tsv", "source.txt"]


def test_where_the_list_cannot_go(source, tmp_path):
    path = source("king\tqueen\n")
    with pytest.raises(UserError, match="is one of the sources"):
        import_wordlist([path], path, force=True)
    with pytest.raises(UserError, match="is a folder"):
        import_wordlist([path], tmp_path, force=True)
    for out in (path / "list.tsv", "no\0name", tmp_path / ("x" * 300)):
        with pytest.raises(UserError, match="cannot be written"):
            import_wordlist([path], out)
    assert [p.name for p in tmp_path.iterdir()] == ["source.txt"]


def test_odd_file_names(source, tmp_path):
    """They enter the comments of the list."""
    out = tmp_path / "a+b: c\nd.tsv"
    import_wordlist([source("king\tqueen\n", "with\nmale\tfemale")], out)
    assert rows_of(out) == {("king", "queen"): ""}
    assert load_wordlist(out).metadata["source"] == "with?male?female"


# ---------------------------------------------------------------------------------------------------------- terminal


def test_print_and_json(imported, tmp_path):
    result, _ = imported("king\tqueen\nmentleman\tlady\ngentleman\tlady\nboy\n")
    shown = io.StringIO()
    print_import(result, Console(file=shown, width=60))
    lines = shown.getvalue().splitlines()
    for fault in result.faults:
        assert f"{fault.where}: {fault.what}; {fault.done}" in lines
    for kind in ("columns", "several counterparts"):
        assert any(line.split()[-1:] == ["1"] and FAULTS[kind] in line for line in lines)
    assert lines[-1].endswith(f"distill wordlist check {result.path}")
    assert "\x1b" not in shown.getvalue()
    content = json.loads(json.dumps(import_dict(result)))
    assert content["rows"] == 3 and content["path"] == str(tmp_path / "list.tsv")
    assert content["faults"][0]["kind"] == "columns"


# -------------------------------------------------------------------------------------------------------- real lists


def plain(word: str) -> str:
    return word.strip().lower().replace("_", " ").rstrip(".'")


def check_real(result, pairs: list[tuple[str, str]]) -> dict[tuple[str, str], str]:
    """What must hold of any import, by a reading of the source that knows nothing of how it is done."""
    rows = rows_of(result.path)
    assert result.entries == len(pairs)
    distinct = {frozenset(pair) for pair in pairs}
    assert result.repeated + result.mirrored == len(pairs) - len(distinct)
    assert {frozenset(row) for row in rows} <= distinct
    words = {word for pair in pairs for word in pair}
    wordlist = load_wordlist(result.path)
    assert set(wordlist.words) == words
    left_out = [fault for fault in result.faults if fault.done.startswith("left out")]
    assert len(rows) + len(left_out) == len(distinct)
    in_two_way = {word for row, marks in rows.items() if "one-way" not in marks for word in row}
    assert result.one_way == len(words - in_two_way)  # each is there for one word that would have no row
    assert result.rows == len(rows)
    female = {word for word in words if word.endswith(("ess", "woman", "women", "girl", "mother", "sister"))}
    assert female <= {row[wordlist.groups.index("female")] for row in rows} and female
    return rows


def test_gn_glove(shared_data, tmp_path):
    files = [shared_data("wordlists", f"{group}_word_file.txt") for group in ("male", "female")]
    pairs = list(zip(*([plain(word) for word in file.read_text().split("\n")[:-1]] for file in files), strict=True))
    result = import_wordlist(files, tmp_path / "gn.tsv")
    rows = check_real(result, pairs)
    assert result.source_format == "parallel" and len(pairs) == 222 and result.repeated == 2
    assert set(rows) <= set(pairs)
    assert [rows[pair] for pair in (("his", "her"), ("him", "her"), ("his", "hers"))] == [
        "determiner", "object", "pronoun"
    ]  # fmt: skip
    assert rows["gentleman", "lady"] == "" and rows["lord", "lady"] == rows["mentleman", "lady"] == "one-way"
    assert sorted(fault.where.rpartition("/")[2] for fault in result.faults if fault.kind == "characters") == [
        "female_word_file.txt, line 159", "female_word_file.txt, line 220", "male_word_file.txt, line 159"
    ]  # fmt: skip


def table_pairs(path) -> list[tuple[str, str]]:
    return [tuple(map(plain, line.split("\t"))) for line in path.read_text().splitlines()]


def test_winobias_swaps(shared_data, tmp_path):
    path = shared_data("wordlists", "generalized_swaps.txt")
    pairs = table_pairs(path)
    result = import_wordlist([path], tmp_path / "swaps.tsv")
    rows = check_real(result, pairs)
    assert len(pairs) == 104 and result.repeated == 0
    assert result.mirrored == sum(pair[::-1] in pairs[:place] for place, pair in enumerate(pairs))
    assert rows["uncle", "aunt"] == rows["chairman", "chairwoman"] == rows["groom", "bride"] == ""
    assert rows["sir", "miss"] == "one-way" and ("chairman", "chairwomen") not in rows


def test_winobias_extra_words(shared_data, tmp_path):
    path = shared_data("wordlists", "extra_gendered_words.txt")
    result = import_wordlist([path], tmp_path / "extra.tsv")
    rows = check_real(result, table_pairs(path))
    assert result.entries == 92 and result.mirrored == result.repeated == 0
    assert rows["cameramen", "camerawomen"] == ""
    assert [fault.where.rpartition("/")[2] for fault in result.faults if fault.kind == "crossed"] == [
        "extra_gendered_words.txt, line 3"
    ]


@pytest.mark.parametrize("groups", [("male", "female"), ("female", "male")])
def test_definitional_pairs(shared_data, tmp_path, groups):
    path = shared_data("wordlists", "definitional_pairs.json")
    pairs = [tuple(map(str.lower, pair)) for pair in json.loads(path.read_text())]
    result = import_wordlist([path], tmp_path / "pairs.tsv", groups=groups)
    rows = rows_of(result.path)
    assert list(rows) == [pair if groups[0] == "female" else pair[::-1] for pair in pairs] and len(rows) == 10
    assert [fault.kind for fault in result.faults] == ([] if groups[0] == "female" else ["order"])


def test_equalize_pairs(shared_data, tmp_path):
    path = shared_data("wordlists", "equalize_pairs.json")
    pairs = [tuple(map(plain, pair)) for pair in json.loads(path.read_text())]
    result = import_wordlist([path], tmp_path / "pairs.tsv")
    rows = check_real(result, pairs)
    assert result.entries == 52 and result.repeated == 5
    assert {("ex boyfriend", "ex girlfriend"), ("catholic priest", "nun"), ("husbands", "wives")} <= set(rows)


def test_two_real_lists_at_once(shared_data, tmp_path):
    files = [shared_data("wordlists", name) for name in ("generalized_swaps.txt", "extra_gendered_words.txt")]
    result = import_wordlist(files, tmp_path / "both.tsv")
    check_real(result, [pair for file in files for pair in table_pairs(file)])


# ---------------------------------------------------------------------------------------------------------- any text

PIECES = st.sampled_from(
    ["\t", "\n", "\n", ",", " ", "_", "'", ".", '"', "#", "king", "Queen", "lady", "gentleman", "his", "him", "her",
     "hers", "women", "\r", "\0", "\u0301", "İ", "ß", "ǅ", "\u2028", "’", "a", "b", "c", "when", "[", "]", "{", "}",
     "\ufeff", "😀", "\u00ad"]
)  # fmt: skip
TEXTS = st.one_of(st.lists(PIECES, max_size=40).map("".join), st.text(max_size=40))
WORDS = st.one_of(st.sampled_from(["king", "queen", "lady", "her", "his", "him", "hers", "x", "y", "z"]), st.text())
JSON = st.one_of(
    st.lists(st.lists(WORDS, min_size=2, max_size=2), max_size=12),
    st.dictionaries(WORDS, WORDS, max_size=8),
    st.recursive(st.none() | st.integers() | WORDS, lambda s: st.lists(s) | st.dictionaries(WORDS, s), max_leaves=12),
).map(json.dumps)


@settings(max_examples=400, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    texts=st.lists(st.one_of(TEXTS, JSON), min_size=1, max_size=3),
    groups=st.sampled_from([("male", "female"), ("female", "male"), ("one", "two"), ("male", "female", "neutral")]),
    source_format=st.sampled_from(["auto", "auto", "parallel", "tab", "json"]),
    key=st.none() | st.sampled_from(["x", "king"]),
)
def test_any_source_is_a_mistake_or_a_list_that_loads(texts, groups, source_format, key, tmp_path):
    sources = [tmp_path / f"source-{name}" for name in string.ascii_lowercase[: len(texts)]]
    for path, text in zip(sources, texts, strict=True):
        path.write_bytes(text.encode(errors="surrogatepass"))
    out = tmp_path / "list.tsv"
    out.unlink(missing_ok=True)
    try:
        result = import_wordlist(sources, out, groups, source_format, key)
    except UserError as error:
        assert "\n" not in str(error) and "cannot be made into a list" not in str(error)
        assert not out.exists()
    else:
        assert wordlist_mistakes(out) == []
        wordlist = load_wordlist(out)
        assert wordlist.groups == groups and len(wordlist.rows) == result.rows
        # Every row is there for a word, and nothing was lost but what a fault tells of.
        for row in wordlist.rows:
            nexts = zip(row.words, row.words[1:] + row.words[:1], strict=True)
            assert any((other, row.when) in wordlist.counterparts(word, 1) for word, other in nexts)
        lost = sum(fault.done.startswith("left out") for fault in result.faults)
        assert result.rows <= result.entries - result.repeated - result.mirrored <= result.rows + lost
    assert not [path for path in tmp_path.iterdir() if path.name.endswith(".partial")]
