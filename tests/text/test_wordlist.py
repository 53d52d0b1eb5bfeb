"""Word lists: what is read, and every mistake with its file, line and hint."""

import unicodedata
from pathlib import Path

import pytest
from shared import WORD_LISTS

from distill.base.errors import UserError
from distill.text.counterfactual import Swapper
from distill.text.wordlist import (
    ROLES,
    WordList,
    bundled_wordlists,
    is_word_character,
    load_wordlist,
    wordlist_mistakes,
)


@pytest.fixture
def write(tmp_path):
    """Text or bytes -> path of a word list with this content."""

    def to_file(content: str | bytes) -> Path:
        path = tmp_path / "list.tsv"
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    return to_file


def test_reads_groups_rows_roles_and_metadata(write):
    wordlist = load_wordlist(
        write(
            "\ufeff# licence: Apache-2.0\r\n# a plain comment\r\n\r\nmale\tfemale\twhen\r\n# note: no metadata\r\n"
            " Man \twoman\t-\r\nhis\ther\tdeterminer\r\nhim\ther\tObject\r\nhis\thers\tpronoun\r\nboy\tgirl\r\n"
            "old  man\told woman\t\r\n"
        )
    )
    assert wordlist.name == "list"
    assert wordlist.groups == ("male", "female")
    assert wordlist.metadata == {"licence": "Apache-2.0"}
    assert [(row.words, row.when, row.line) for row in wordlist.rows] == [
        (("man", "woman"), None, 6),
        (("his", "her"), "determiner", 7),
        (("him", "her"), "object", 8),
        (("his", "hers"), "pronoun", 9),
        (("boy", "girl"), None, 10),
        (("old man", "old woman"), None, 11),
    ]
    assert wordlist.words == ("man", "woman", "his", "her", "him", "hers", "boy", "girl", "old man", "old woman")
    assert wordlist.group_of["hers"] == 1
    assert wordlist.counterparts("her", 1) == (("his", "determiner"), ("him", "object"))
    assert wordlist.counterparts("his", 1) == (("her", "determiner"), ("hers", "pronoun"))
    assert wordlist.counterparts("hers", 1) == (("his", "pronoun"),)
    assert wordlist.counterparts("table", 1) == ()


def test_three_groups_shift_round(write):
    wordlist = load_wordlist(write("male\tfemale\tneutral\nman\twoman\tperson\n"))
    assert wordlist.num_groups == 3
    assert [wordlist.counterparts("woman", shift) for shift in (1, 2)] == [(("person", None),), (("man", None),)]


def test_one_way_rows(write):
    """Words with a row of their own keep it; the others of the row, whatever its place, are swapped by it."""
    wordlist = load_wordlist(
        write("m\tf\twhen\nmr\tmiss\ttitle one-way\nmr\tms\tone-way\nmr\tmrs\nmister\tmiss\tone-way\n")
    )
    assert wordlist.counterparts("mr", 1) == (("mrs", None),)
    assert wordlist.counterparts("ms", 1) == (("mr", None),)
    assert wordlist.counterparts("miss", 1) == (("mr", "title"), ("mister", None))


def test_hash_covers_the_content_and_nothing_else(write):
    def digest(content: str) -> str:
        return load_wordlist(write(content)).sha256

    plain = digest("m\tf\nman\twoman\n")
    assert plain == digest("# licence: none\nm\tf\twhen\n\n# people\nMan\twoman\t-\n")
    assert plain != digest("m\tf\nman\tlady\n")
    assert plain != digest("f\tm\nman\twoman\n")
    assert plain != digest("m\tf\twhen\nman\twoman\tone-way\n")
    assert plain != digest("m\tf\twhen\nman\twoman\ttitle\n")


def test_words_are_composed(write):
    wordlist = load_wordlist(write(unicodedata.normalize("NFD", "m\tf\nfiancé\tfiancée\n")))
    assert wordlist.rows[0].words == ("fiancé", "fiancée")


HEADER = "male\tfemale\twhen\nman\twoman\n"  # two lines, so that the mistake under test is on line 3

MISTAKES = {
    "empty file": ("", "empty"),
    "only comments": ("# male female\n\n", "empty"),
    "no rows": ("male\tfemale\n# nothing\n", "no row"),
    "one group": ("male\nman\n", r"line 1: .*at least two groups"),
    "a header of `when` alone": ("when\nman\twoman\n", r"line 1: the header names no group; .* at least two groups"),
    "spaces for tabs in the header": ("male female\nman woman\n", r"line 1: .*separated by tabs"),
    "unnamed group": ("male\t\tfemale\n", r"line 1: column 2 .*no name"),
    "group twice": ("male\tmale\n", r"line 1: group 'male' is named twice"),
    "when not last": ("male\twhen\tfemale\n", r"line 1: .*'when' must be the last"),
    "when twice": ("male\twhen\twhen\n", r"line 1: .*'when' must be the last"),
    "unknown group": (
        "# groups: male, female\n\nmale\tfemal\n",
        r"line 3: unknown group 'femal'.*did you mean 'female'",
    ),
    "group without column": ("# groups: a, b, c\na\tb\n", r"line 2: group 'c'"),
    "short row": (HEADER + "boy\n", r"line 3: the row has 1 of 2 words.*tabs"),
    "long row": (HEADER + "boy\tgirl\t-\tchild\n", r"line 3: the row has 4 of 2 words.*male, female"),
    "spaces for tabs": (HEADER + "boy girl\n", r"line 3: .*'boy girl'.*tabs"),
    "role without column": ("male\tfemale\nhim\ther\tobject\n", r"line 2: .*last column 'when'"),
    "empty word": (HEADER + "boy\t \t-\n", r"line 3: the word of group 'female' is empty"),
    "unknown role": (
        HEADER + "him\ther\tobjekt\n",
        r"line 3: unknown role 'objekt'.*did you mean 'object'.*determiner",
    ),
    "two roles": (HEADER + "him\ther\tobject determiner\n", r"line 3: the row has 2 roles"),
    "punctuation at the end": (HEADER + "mr.\tmrs.\n", r"line 3: 'mr\.' must begin and end with a letter"),
    "duplicate row": (HEADER + "man\twoman\n", r"line 3: the row man / woman repeats line 2"),
    "duplicate row in another case": (HEADER + "MAN\tWoman\t-\n", r"line 3: .*repeats line 2"),
    "conflicting pair": (HEADER + "man\tlady\n", r"line 3: 'man' .*'lady' and on line 2 with 'woman'"),
    "conflicting pair, same role": (
        HEADER + "his\ther\tobject\nhim\ther\tobject\n",
        r"line 4: 'her' .*'him' and on line 3",
    ),
    "word in two groups": (
        HEADER + "girl\tman\n",
        r"line 3: 'man' is in group 'female' and, on line 2, in group 'male'",
    ),
    "word twice in a row": (
        HEADER + "person\tperson\n",
        r"line 3: 'person' is in group 'female'.*line 3, in group 'male'",
    ),
    "not UTF-8": (HEADER.encode() + b"fianc\xe9\tfianc\xe9e\n", r"line 3: byte 0xe9 is not UTF-8"),
    "language by its name": (
        "# language: English\nmale\tfemale\nman\twoman\n",
        r"line 1: .*'English'.*code, such as en",
    ),
    "two languages": ("# language: en, es\nmale\tfemale\nman\twoman\n", r"line 1: .*'en, es', but must be a code"),
    "NUL byte": (HEADER + "boy\0\tgirl\n", r"line 3: a NUL byte"),
    "UTF-16": ("male\tfemale\n".encode("utf-16"), r"line 1: the file is UTF-16"),
}


@pytest.mark.parametrize("content, message", MISTAKES.values(), ids=MISTAKES)
def test_mistakes_name_file_line_and_reason(write, content, message):
    path = write(content)
    with pytest.raises(UserError, match=message) as caught:
        load_wordlist(path)
    assert str(caught.value).startswith(str(path)) and "\n" not in str(caught.value)


# ------------------------------------------------------------------------------------------------------------ parts


@pytest.fixture
def folder(tmp_path):
    """A function from file names and contents to a folder that holds them."""

    def make(**files: str) -> Path:
        for name, content in files.items():
            (tmp_path / f"{name}.tsv").write_text(content, encoding="utf-8")
        return tmp_path

    return make


WORDS = "male\tfemale\twhen\nman\twoman\n"


def test_a_list_of_several_files(folder):
    here = folder(
        words=WORDS,
        names="male\tfemale\twhen\nJohn\tMary\tname\nWill\tRose\tname ambiguous\n",
        streets="# source: a map\nProtected\nKing  Street\nno man's land\n",
        bodies="skip\npregnant\n",
    )
    wordlist = load_wordlist("+".join(f"{here}/{name}.tsv" for name in ("words", "streets", "names", "bodies")))
    assert wordlist.name == "words+streets+names+bodies"
    assert [(row.words, row.when, row.ambiguous, Path(row.file).stem) for row in wordlist.rows] == [
        (("man", "woman"), None, False, "words"),
        (("john", "mary"), "name", False, "names"),
        (("will", "rose"), "name", True, "names"),
    ]
    assert (wordlist.protected, wordlist.skip) == (("King Street", "no man's land"), ("pregnant",))
    alone = load_wordlist(here / "words.tsv")
    assert (alone.protected, alone.skip) == ((), ())
    assert len({wordlist.sha256, alone.sha256, load_wordlist(f"{here}/words.tsv+{here}/bodies.tsv").sha256}) == 3


def test_companions_come_along_unless_told_not_to(folder):
    here = folder(words=f"# with: streets.tsv\n{WORDS}", streets="protected\nKing Street\n")
    path = here / "words.tsv"
    assert load_wordlist(path).protected == ("King Street",)
    assert load_wordlist(f"{path}+none").protected == ()
    assert load_wordlist(f"{path}+none+{here}/streets.tsv").protected == ("King Street",)
    assert load_wordlist(f"{path}+{here}/streets.tsv").sha256 == load_wordlist(path).sha256  # once is enough


@pytest.mark.parametrize(
    ("named", "language"), [("es-MX", "es"), ("EN_us", "en"), ("eng", "en"), ("gsw", "gsw"), (None, "")]
)
def test_the_language_of_a_list_is_that_of_its_code(write, named, language):
    head = f"# language: {named}\n" if named else ""
    assert load_wordlist(write(f"{head}male\tfemale\nmozo\tmoza\n")).language == language


def test_what_is_joined_to_a_list_of_a_language_is_of_that_language(folder):
    """In any order; phrases in a language say nothing about the words."""
    own = "male\tfemale\nswain\twench\n"
    here = folder(own=own, bodies="# language: English\nskip\nx\n")
    for joined in (f"{here}/own.tsv+english_gender", f"english_gender+{here}/own.tsv"):
        wordlist = load_wordlist(joined)
        assert wordlist.metadata["language"] == "en"
        text = "She is an earl. Man the desk: 10 ms."
        assert Swapper(wordlist).swap(text).text == "He is a countess. Man the desk: 10 ms."
    assert "language" not in load_wordlist(f"{here}/own.tsv+{here}/bodies.tsv").metadata
    spanish = folder(spanish="# language: es\nmale\tfemale\nmozo\tmoza\n")
    for others in ("own.tsv", "own.tsv+english_names"):
        assert load_wordlist(f"{spanish}/spanish.tsv+{here}/{others}").metadata["language"] == "es"


def test_apostrophes_and_hyphens_of_a_word_processor_are_those_of_a_keyboard(folder):
    here = folder(
        own="male\tfemale\nsir\tma’am\nl’uomo\tla donna\nstep‑son\tstep‐daughter\n",
        hospital="protected\nSir John’s Hospital\n",
        plain="male\tfemale\nsir\tma'am\nl'uomo\tla donna\nstep-son\tstep-daughter\n",
        keyboard="protected\nSir John's Hospital\n",
    )
    curly = load_wordlist(f"{here}/own.tsv+{here}/hospital.tsv")
    assert curly.sha256 == load_wordlist(f"{here}/plain.tsv+{here}/keyboard.tsv").sha256
    text = "Ma'am, ma’am: l'uomo, L’uomo, step-son, step‑son at Sir John's Hospital, Sir John’s Hospital"
    swapped = "Sir, sir: la donna, La donna, step-daughter, step‑daughter at Sir John's Hospital, Sir John’s Hospital"
    assert Swapper(curly).swap(text).text == swapped
    both = here / "both.tsv"
    both.write_text("male\tfemale\nsir\tma'am\nman\twoman\nsir\tma’am\n", encoding="utf-8")
    assert [row.words for row in load_wordlist(both).rows].count(("sir", "ma'am")) == 1
    twice = here / "twice.tsv"
    twice.write_text("male\tfemale\nsir\tma'am\nmister\tma’am\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"line 3: \"ma'am\" is paired here with 'mister' and on line 2 with 'sir'"):
        load_wordlist(twice)


def test_a_plus_in_a_files_own_name(folder):
    here = folder(**{"a+b": WORDS})
    assert load_wordlist(here / "a+b.tsv").rows[0].words == ("man", "woman")


def test_mistakes_between_files_name_both(folder):
    here = folder(
        words=WORDS,
        turned="female\tmale\nqueen\tking\n",
        again="male\tfemale\nman\tlady\n",
        other_side="male\tfemale\nwoman\tgirl\n",
        phrases="protected\nKing Street\n",
    )
    words = here / "words.tsv"
    for other, message in {
        "turned": "turned.tsv: its groups are female, male, but those of .*words.tsv are male, female; files that are",
        "again": "again.tsv, line 2: 'man' is paired here with 'lady' and on line 2 of .*words.tsv with 'woman'; give",
        "other_side": "other_side.tsv, line 2: 'woman' is in group 'male' and, on line 2 of .*words.tsv, in group 'fem",
    }.items():
        with pytest.raises(UserError, match=message):
            load_wordlist(f"{words}+{here}/{other}.tsv")
    with pytest.raises(UserError, match=r"phrases\.tsv: it holds phrases only; join it to a list of words: engl"):
        load_wordlist(here / "phrases.tsv")
    with pytest.raises(UserError, match="'nowhere' not found"):
        load_wordlist(f"{words}+nowhere")
    for spec in ("none", f"{words}+"):
        with pytest.raises(UserError, match="a part without a name"):
            load_wordlist(spec)


@pytest.mark.parametrize(
    "content, message",
    {
        "protected\nKing Street\nking\tstreet\n": "line 3: the line has 2 columns, but a phrase is one",
        "protected\nKing Street\nKing  Street\n": "line 3: 'King Street' repeats line 2",
        "skip\n(pregnant)\n": r"line 2: '\(pregnant\)' must begin and end with a letter or digit",
        "skip\n# nothing\n": "a header but no phrase; add one a line",
        "a\tb\twhen\nx\ty\tambiguous\n": "line 2: 'ambiguous' is a mark of names; write 'name ambiguous'",
    }.items(),
)
def test_mistakes_in_phrases_and_names(write, content, message):
    with pytest.raises(UserError, match=message):
        load_wordlist(f"english_gender+{write(content)}")


def test_every_mistake_is_listed_and_the_first_is_raised(write):
    path = write("male\tfemale\twhen\nman\n he\tshe\tnever\nboy\tgirl\nboy\tlass\nking\tqueen\nking\tqueen\n-\tx\n")
    mistakes = wordlist_mistakes(path)
    assert [int(mistake.split("line ")[1].split(":")[0]) for mistake in mistakes] == [2, 3, 8, 5, 7]
    assert all(mistake.startswith(str(path)) for mistake in mistakes)
    with pytest.raises(UserError) as raised:
        load_wordlist(path)
    assert str(raised.value) == mistakes[0]
    assert wordlist_mistakes("english_gender") == []
    assert len(wordlist_mistakes(write("male\nman\n"))) == 1  # without a header no line can be judged


def test_missing_files(tmp_path):
    with pytest.raises(UserError, match=r"not found.*did you mean 'english_gender'"):
        load_wordlist("english-gender")
    with pytest.raises(UserError, match="not found"):
        load_wordlist(tmp_path / "none.tsv")
    with pytest.raises(UserError, match="not found"):
        load_wordlist("no\0name")
    with pytest.raises(UserError, match="is a folder"):
        load_wordlist(tmp_path)


@pytest.mark.parametrize("character", [*"aZß9_日", "\u0301", "\u0947", "\u200d"])
def test_word_characters(character):
    assert is_word_character(character)


@pytest.mark.parametrize("character", [*" '’-–.\t\n…\u00a0", "\ud800", "😀"])
def test_other_characters(character):
    assert not is_word_character(character)


@pytest.fixture(params=WORD_LISTS)
def bundled(request) -> WordList:
    return load_wordlist(bundled_wordlists()[request.param])


def test_bundled_lists_are_known_by_their_name(bundled):
    assert load_wordlist(bundled.metadata["name"]) == bundled


@pytest.mark.parametrize("path", bundled_wordlists().values(), ids=bundled_wordlists())
def test_bundled_files_say_where_they_come_from(path):
    head = path.read_text(encoding="utf-8").partition("\n#\n")[0]
    said = dict(line.removeprefix("# ").split(": ", 1) for line in head.splitlines() if line.startswith("# "))
    assert said["name"] == path.stem and said["licence"] == "Apache-2.0"
    assert said["version"] and said["description"] and said["source"]


def test_bundled_lists_swap_back(bundled):
    """Shift k and then K - k leads back to a word, unless the row goes one way or a role picks another."""
    one_way = {word for row in bundled.rows if row.one_way or row.generic for word in row.words}
    for word in bundled.words:
        for shift in range(1, bundled.num_groups):
            counterparts = bundled.counterparts(word, shift)
            back = {
                end for other, _ in counterparts for end, _ in bundled.counterparts(other, bundled.num_groups - shift)
            }
            assert counterparts and (word in back or word in one_way), word


def test_english_gender_is_ours_and_complete():
    wordlist = load_wordlist("english_gender")
    assert wordlist.groups == ("male", "female")
    assert len(wordlist.rows) >= 250
    pairs = {row.words for row in wordlist.rows}
    assert {("he", "she"), ("stepfathers", "stepmothers"), ("sir", "madam"), ("actor", "actress")} <= pairs
    assert {row.when for row in wordlist.rows} == {None, *ROLES} - {"name"}
    several = {word for word in wordlist.words if len(wordlist.counterparts(word, 1)) > 1}
    assert several == {"her", "his", "lady", "sir"}


def test_english_gender_has_the_plurals():
    """A document must not change gender between "the policewoman" and "the policewomen"."""
    pairs = {row.words for row in load_wordlist("english_gender").rows}
    in_man = [pair for pair in pairs if pair[0].endswith("man") and pair[1].endswith("woman") and pair[0] != "everyman"]
    assert len(in_man) > 80 and {tuple(word[:-3] + "men" for word in pair) for pair in in_man} <= pairs
    endings = ("father", "son", "brother", "boy", "master", "duke", "waiter")
    regular = [pair for pair in pairs if pair[0].endswith(endings)]
    plurals = {(male + "s", female + ("es" if female.endswith("s") else "s")) for male, female in regular}
    assert len(regular) > 40 and plurals <= pairs
