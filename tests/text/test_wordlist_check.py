"""The check of a word list: mistakes, warnings by hand and on real lists, and coverage against naive counts."""

import gzip
import io
import json
import lzma
import re
import unicodedata
from collections import Counter

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from rich.console import Console
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import GPT2TokenizerFast, PreTrainedTokenizerFast

from distill.base.errors import UserError
from distill.text.counterfactual import Swapper
from distill.text.wordlist import bundled_wordlists, load_wordlist, wordlist_mistakes
from distill.text.wordlist_check import RowHits, check_dict, check_wordlist, print_check
from distill.text.wordlist_import import import_wordlist

LIST = """# licence: none
male\tfemale\twhen
he\tshe
his\ther\tdeterminer
him\ther\tobject
his\thers\tpronoun
king\tqueen
mr\tmrs
mr\tms\tone-way
lord\tlady\ttitle
gentleman\tlady
"""
# The roles are those of a reader, not of the program.
TEXT = [
    "He saw her. Her king said that the queen was his.\nMs. Bennet, said HE to Lady Anne; SHE left.",
    "Nothing of the kind: the kings, queenly, shethe.",
    "The lady told Mr. Kent's king about her book. The book is hers, he’s sure.",
]
ROW_HITS = {
    ("he", "she", None): 4,
    ("his", "her", "determiner"): 2,
    ("him", "her", "object"): 1,
    ("his", "hers", "pronoun"): 2,
    ("king", "queen", None): 3,
    ("mr", "mrs", None): 1,
    ("mr", "ms", None): 1,
    ("lord", "lady", "title"): 1,
    ("gentleman", "lady", None): 1,
}


@pytest.fixture
def write(tmp_path):
    """Content -> path of a word list, or of another file by its name."""

    def to_file(content: str, name: str = "list.tsv") -> str:
        path = tmp_path / name
        path.write_text(content, encoding="utf-8")
        return str(path)

    return to_file


@pytest.fixture
def texts(tmp_path):
    """Documents -> path of a .jsonl that holds them."""

    def to_file(*documents: str) -> str:
        path = tmp_path / "texts.jsonl"
        path.write_text("".join(json.dumps({"text": d}) + "\n" for d in documents), encoding="utf-8")
        return str(path)

    return to_file


def shown(check, width: int = 100) -> str:
    out = io.StringIO()
    print_check(check, Console(file=out, width=width))
    return out.getvalue()


# ------------------------------------------------------------------------------------------------------------ the list


def test_every_mistake_and_nothing_else(write):
    path = write("male\tfemale\nking\tqueen\nboy\nking\tqueen\ngirl\tking\n")
    check = check_wordlist(path, tokenizer=("unused", None))
    assert check.mistakes == tuple(wordlist_mistakes(path)) and len(check.mistakes) == 3
    assert [re.search(r"line (\d+): .*; ", mistake)[1] for mistake in check.mistakes] == ["3", "4", "5"]
    assert check.rows == 0 and check.coverage is None and not check.suspicions
    assert shown(check).splitlines() == [*check.mistakes, f"{path}: 3 mistakes"]


def test_numbers_of_a_sound_list(write):
    check = check_wordlist(write(LIST))
    assert check.mistakes == () and check.groups == ("male", "female") and check.rows == 9
    assert check.words_by_group == {"male": 7, "female": 7}
    assert check.roles == {"always": 5, "determiner": 1, "object": 1, "pronoun": 1, "title": 1}
    assert (check.protected, check.skip, check.suspicions) == (0, 0, ())


def test_words_with_several_counterparts(write):
    check = check_wordlist(write(LIST))
    assert {
        choice.word: [(option.when, option.counterparts, option.example) for option in choice.options]
        for choice in check.choices
    } == {
        "his": [
            ("determiner", ("her",), "his book → her book"),
            ("pronoun", ("hers",), "the book is his → the book is hers"),
        ],
        "her": [("determiner", ("his",), "her book → his book"), ("object", ("him",), "saw her → saw him")],
        "lady": [("title", ("lord",), "Lady Smith → Lord Smith"), (None, ("gentleman",), "lady → gentleman")],
    }
    assert [(row.words, row.when, row.holds_for) for row in check.one_way] == [(("mr", "ms"), None, ("ms",))]


def test_choices_of_three_groups(write):
    check = check_wordlist(write("male\tfemale\tneutral\twhen\nhis\ther\ttheir\tdeterminer\nhim\ther\tthem\tobject\n"))
    (choice,) = check.choices
    assert (choice.word, choice.group) == ("her", "female")
    assert [option.counterparts for option in choice.options] == [("his", "their"), ("him", "them")]
    assert choice.options[0].example == "her book → his book → their book"


def test_companions_are_counted(write):
    write("protected\nKing Street\nmankind\n", "places.tsv")
    write("skip\npregnant\n", "biology.tsv")
    check = check_wordlist(write("# with: places.tsv, biology.tsv\nmale\tfemale\nking\tqueen\n"))
    assert (check.protected, check.skip, check.rows) == (2, 1, 1)


def test_unknown_list():
    with pytest.raises(UserError, match="did you mean 'english_gender'"):
        check_wordlist("english_gendre")


# ------------------------------------------------------------------------------------------------------------ warnings

WARNINGS = {
    "plural and singular in -man": ("chairman\tchairwomen\n", "'chairwomen' is a plural and 'chairman' is not"),
    "plural and singular in -s": (
        "sultan\tsultana\nsultans\tsultanas\nrajas\trani\nraja\tranis\n",
        ["'rajas' is a plural and 'rani' is not", "'ranis' is a plural and 'raja' is not"],
    ),
    "one word for both numbers": (
        "tailor\tseamstress\ntailors\tseamstress\tone-way\n",
        "'seamstress' stands for 'tailors' and for 'tailor'",
    ),
    "a letter other": ("gentleman\tlady\nmentleman\tlady\tone-way\n", "'mentleman' .* misspelling of 'gentleman'"),
    "a letter other, good word not listed": ("mentleman\tlady\n", "'mentleman' .* misspelling of 'gentleman'"),
    "a letter less": ("god\tgoddess\ngod\tgodess\tone-way\n", "'godess' .* misspelling of 'goddess'"),
    "two letters exchanged": ("barons\tbarnoesses\n", "'barnoesses' .* misspelling of 'baronesses'"),
    "both words odd": ("adultor\tadultress\n", "'adultress' .* misspelling of 'adulteress'"),
    "underscore": ("semen\tfemale_ejaculation\n", "'female_ejaculation' has the character '_'"),
    "two words in a cell": ("king\tqueen, empress\n", "'queen, empress' has the character ','"),
    "crossed columns, known words": ("queen\tking\n", "'queen' is in group 'male', but it is female"),
    "crossed columns, by ending": ("snowwoman\tsnowman\n", "'snowwoman' is in group 'male', but it is female"),
    "one-way for nobody": (
        "king\tqueen\ngentleman\tlady\nking\tlady\tone-way\n",
        ["the one-way row king / lady has no effect", "'king' stands beside 'lady', but english_gender pairs"],
    ),
    "unusual pair": (
        "priest\tnun\n",
        "'priest' stands beside 'nun', but english_gender pairs 'priest' with priestess and 'nun' with monk",
    ),
}


@pytest.mark.parametrize("rows, reasons", WARNINGS.values(), ids=WARNINGS)
def test_warnings(write, rows, reasons):
    path = write(f"male\tfemale\twhen\nhusband\twife\n{rows}")
    check = check_wordlist(path)
    reasons = [reasons] if isinstance(reasons, str) else reasons
    assert check.mistakes == () and len(check.suspicions) == len(reasons)
    for suspicion, reason in zip(check.suspicions, reasons, strict=True):
        assert re.match(re.escape(path) + rf", line \d+: {reason}.*; \w", str(suspicion))
    last = rows.count("\n") + 2
    assert check.suspicions[-1].where == f"{path}, line {last}"
    assert f"warning: {check.suspicions[0]}" in shown(check).splitlines()


@pytest.mark.parametrize(
    "rows",
    [
        "his\ther\tdeterminer\nhis\thers\tpronoun\n",
        "mr\tmrs\nmr\tms\tone-way\n",
        "prince\tprincess\nprinces\tprincesses\n",
        "alumnus\talumna\nalumni\talumnae\n",
        "lineman\tlinewoman\nlinesman\tlineswoman\n",
        "dad\tmom\ndad\tmum\tone-way\npapa\tmama\npapa\tmamma\tone-way\n",
        "him or her\tthem\nhis or her\ttheir\tdeterminer\nhis/her\ttheir\tpronoun\nhim/her\tthem\tobject\n",
        "maharadscha\tmaharanee\nmaharadschah\tmaharanee\tone-way\n",
        "fiancé\tfiancée\nfiance\tfiancee\nstep-father\tstep-mother\nstep father\tstep mother\n",
        "John\tMary\tname\nJohns\tMarie\tname\n",
    ],
)
def test_no_warning(write, rows):
    assert check_wordlist(write(f"male\tfemale\twhen\n{rows}")).suspicions == ()


def test_no_english_rules_for_another_language(write):
    rows = "männlich\tweiblich\nmentleman\tlady\n"
    assert len(check_wordlist(write(f"male\tfemale\n{rows}")).suspicions) == 1
    assert not check_wordlist(write(f"# language: de\nmale\tfemale\n{rows}")).suspicions


@pytest.mark.parametrize("name", bundled_wordlists())
def test_our_own_lists_give_no_warning(name):
    phrases_only = any("phrases only" in mistake for mistake in wordlist_mistakes(name))
    check = check_wordlist(f"english_gender+{name}+none" if phrases_only else name)
    assert check.mistakes == () and list(map(str, check.suspicions)) == []
    assert check.rows == len(load_wordlist(check.name).rows) > 0


# Faults that a reader finds in these lists.
KNOWN_FAULTS = {
    ("male_word_file.txt", "female_word_file.txt"): {
        "mentleman", "godess", "barnoesses", "adultress", "adultresses", "heros", "stailor", "manservants",
    },
    ("generalized_swaps.txt",): {"mentleman"},
    ("extra_gendered_words.txt",): {"barnoesses", "adultress", "adultresses", "heros", "manservants", "tailors"},
    ("definitional_pairs.json",): set(),
    ("equalize_pairs.json",): set(),
}  # fmt: skip


@pytest.mark.parametrize(
    "names, faults", KNOWN_FAULTS.items(), ids=lambda value: None if set() == value else "+".join(sorted(value))
)
def test_published_lists(shared_data, tmp_path, names, faults):
    imported = import_wordlist([shared_data("wordlists", name) for name in names], tmp_path / "list.tsv")
    suspicions = check_wordlist(imported.path).suspicions
    told = {word for s in suspicions for word in re.findall(r"'(\S+?)'", s.reason)}
    assert faults <= told
    # Beside these, only pairs that our own list has otherwise.
    assert all(
        "english_gender pairs" in s.reason for s in suspicions if not faults & set(re.findall(r"'(\S+?)'", s.reason))
    )
    assert len(suspicions) <= len(faults) + 3


# ------------------------------------------------------------------------------------------------------------ coverage


def naive_hits(words, documents) -> Counter:
    """Listed words by a search of its own: whole words in lower case, capitals, or with a capital."""
    hits = Counter()
    for document in documents:
        for word in re.findall(r"\w+", document):
            lower = word.lower()
            if lower in words and word in (lower, lower.upper(), lower[0].upper() + lower[1:]):
                hits[lower] += 1
    return hits


def test_coverage_is_that_of_a_naive_count(write, texts):
    coverage = check_wordlist(write(LIST), [texts(*TEXT)]).coverage
    wordlist = load_wordlist(write(LIST))
    hits = naive_hits(wordlist.words, TEXT)
    assert coverage.hits == sum(hits.values()) == sum(ROW_HITS.values()) == 16
    assert coverage.hits_by_group == {
        group: sum(n for word, n in hits.items() if wordlist.groups[wordlist.group_of[word]] == group)
        for group in wordlist.groups
    }
    assert {(*row.words, row.when): row.hits for row in coverage.rows} == ROW_HITS
    assert [row.hits for row in coverage.rows] == sorted(ROW_HITS.values(), reverse=True)
    assert (coverage.documents, coverage.documents_with_hit, coverage.skipped_sentences) == (3, 2, 0)
    assert coverage.words == 21 + 8 + 14  # counted by hand
    assert coverage.hits_per_thousand_words == pytest.approx(16 / 43 * 1000)
    assert [(word.word, word.hits) for word in coverage.missing] == [("kings", 1), ("queenly", 1)]


def test_rows_that_never_hit_come_last(write, texts):
    coverage = check_wordlist(write(LIST), [texts("The king saw the queen.", "A king.")]).coverage
    assert coverage.rows[0] == RowHits(("king", "queen"), None, 3)
    assert len(coverage.rows) == 9 and not any(row.hits for row in coverage.rows[1:])
    text = shown(check_wordlist(write(LIST), [texts("The king saw the queen.", "A king.")]))
    assert "8 rows never hit: he / she, his / her, him / her" in text
    assert re.search(r"hits per 1,000 words +428\.6", text) and re.search(r"with a hit +2 \(100\.0%\)", text)


def test_a_text_without_words(write, texts):
    coverage = check_wordlist(write(LIST), [texts("...")]).coverage
    assert (coverage.words, coverage.hits, coverage.hits_per_thousand_words) == (0, 0, 0)


def test_other_kinds_of_text_files(write, texts, tmp_path):
    plain = write("The king.\n\nThe queen.", "a.txt")
    packed = tmp_path / "b.jsonl.gz"
    packed.write_bytes(gzip.compress(b'{"body": "A king."}\n{"body": "No one."}\n'))
    assert check_wordlist(write(LIST), [plain]).coverage.hits == 2
    coverage = check_wordlist(write(LIST), [str(packed)], text_column="body").coverage
    assert (coverage.documents, coverage.documents_with_hit, coverage.hits) == (2, 1, 1)
    with pytest.raises(UserError, match=r"none\.txt: no such corpus file"):
        check_wordlist(write(LIST), [str(tmp_path / "none.txt")])


def test_sentences_that_are_skipped(write, texts):
    write("skip\npregnant\n", "biology.tsv")
    path = write("# with: biology.tsv\nmale\tfemale\nhe\tshe\n")
    coverage = check_wordlist(path, [texts("She was pregnant. He left.", "She was not pregnant. Nobody was pregnant.")])
    coverage = coverage.coverage
    assert (coverage.skipped_sentences, coverage.hits, coverage.documents_with_hit) == (2, 1, 1)


def test_coverage_of_three_groups(write, texts):
    path = write(
        "male\tfemale\tneutral\twhen\nhe\tshe\tthey\nhis\ther\ttheir\tdeterminer\nhim\ther\tthem\tobject\n"
        "sir\tmadam\tmx\none\tmadam\tmx\tone-way\n"
    )
    coverage = check_wordlist(path, [texts("They told her. He took her book and their hat. Mx, madam, one and sir.")])
    coverage = coverage.coverage
    assert coverage.hits_by_group == {"male": 3, "female": 3, "neutral": 3}
    assert [(row.words[0], row.hits) for row in coverage.rows] == [
        ("sir", 3), ("he", 2), ("his", 2), ("him", 1), ("one", 1)
    ]  # fmt: skip


def test_coverage_of_three_groups_whose_forms_differ(texts):
    """Articles and possessives that follow a word in one view and stay in another are no hits, and move none."""
    text = texts("The girls' room. A bachelor saw an oarsman.", "An uncle, the nephews' friend, and a gunman.")
    coverage = check_wordlist("english_gender_neutral", [text]).coverage
    assert coverage.hits_by_group == {"male": 5, "female": 1, "neutral": 0}
    assert coverage.hits == 6
    hit = {row.words[0]: row.hits for row in coverage.rows if row.hits}
    assert hit == {"boys": 1, "bachelor": 1, "oarsman": 1, "an uncle": 1, "nephews": 1, "gunman": 1}


def test_missing_words(write, texts):
    text = texts(
        "The queen and the king saw Kings, a wife, a WIFE, a widow and a duchess.", "The queen.", "My duchess!"
    )
    missing = check_wordlist(write("Female\tMale\nwife\thusband\n"), [text]).coverage.missing
    assert [(word.word, word.group, word.hits, word.counterparts) for word in missing] == [
        ("duchess", "female", 2, ("duke",)),
        ("queen", "female", 2, ("king",)),
        ("king", "male", 1, ("queen",)),
        ("kings", "male", 1, ("queens",)),
        ("widow", "female", 1, ("widower",)),
    ]
    reason = "not looked for: that needs an English list with groups named male and female"
    for other in ("christian\tmuslim\nchurch\tmosque\n", "# language: es\nmale\tfemale\nmozo\tmoza\n"):
        check = check_wordlist(write(other), [text])
        assert check.coverage.missing is None
        assert reason in shown(check)


def test_coverage_of_real_text(shared_data, write):
    corpus = shared_data("corpus", "wikipedia_people.validation.jsonl.xz")
    with lzma.open(corpus, "rt", encoding="utf-8") as stream:
        documents = [json.loads(line)["text"] for line in stream]
    pairs = [("he", "she"), ("uncle", "aunt"), ("son", "daughter"), ("actor", "actress"), ("men", "women")]
    path = write("male\tfemale\n" + "".join(f"{a}\t{b}\n" for a, b in pairs))
    coverage = check_wordlist(path, [str(corpus)]).coverage
    hits = naive_hits({word for pair in pairs for word in pair}, documents)
    assert {row.words: row.hits for row in coverage.rows} == {(a, b): hits[a] + hits[b] for a, b in pairs}
    assert coverage.documents == len(documents) == 400
    missing = {word.word: word.hits for word in coverage.missing}
    some = ("his", "him", "hers", "wife", "emperor")
    assert {word: missing.get(word, 0) for word in some} == {word: naive_hits(some, documents)[word] for word in some}
    assert check_wordlist("english_gender", [str(corpus)]).coverage.missing == ()


ODD_WORDS = [
    "ß",
    "İx",
    "ſt",
    "ma'am",
    "step-son",
    "ǆa",
    "ᾳ",
    "fiancé",
    "fiance\u0301e",
    "x\u00ady",
    "a b",
    "kız",
    "ა",
    "𐐨",
]
# Below Thai, the first of the scripts without spaces between words: rows in these are refused.
WORDS = st.one_of(
    st.sampled_from(ODD_WORDS),
    st.text(st.characters(categories=["L", "M", "N"], max_codepoint=0x0DFF), min_size=1, max_size=5),
)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    words=st.lists(
        WORDS, min_size=2, max_size=8, unique_by=lambda word: unicodedata.normalize("NFKC", word).upper().casefold()
    ),
    filler=st.text(st.characters(exclude_categories=["Cs"])),
    data=st.data(),
)
def test_every_hit_in_any_text_belongs_to_a_row(words, filler, data, tmp_path):
    path = tmp_path / "list.tsv"
    rows = zip(words[::2], words[1::2], strict=False)
    path.write_text("a\tb\n" + "".join("\t".join(row) + "\n" for row in rows), encoding="utf-8")
    assume(not wordlist_mistakes(path))
    wordlist = load_wordlist(path)
    cases = st.sampled_from([str.lower, str.upper, str.capitalize, str.title, str.swapcase])
    text = " ".join(data.draw(cases)(word) for word in data.draw(st.lists(st.sampled_from(wordlist.words), max_size=9)))
    document = f"{filler} {text}"
    assume(document.strip())
    (tmp_path / "text.jsonl").write_text(json.dumps({"text": document}), encoding="utf-8")
    coverage = check_wordlist(path, [str(tmp_path / "text.jsonl")]).coverage
    assert coverage.hits == len(Swapper(wordlist).matches(document)) == sum(coverage.hits_by_group.values())
    assert sum(row.hits for row in coverage.rows) >= coverage.hits


# -------------------------------------------------------------------------------------------------------------- tokens


def test_tokens_of_the_toy_tokenizer(write, toy_tokenizer):
    """Words of the text that it learned from are one token, others are not."""
    check = check_wordlist(write(LIST), tokenizer=("toy", toy_tokenizer))
    vocabulary = toy_tokenizer.get_vocab()
    words = load_wordlist(write(LIST)).words
    tokens = check.tokens
    assert tokens.tokenizer == "toy"
    assert tokens.words == len(words) == 14 and tokens.rows == 9
    assert tokens.one_token == sum(f"Ġ{word}" in vocabulary for word in words) > 3
    assert tokens.one_token_capitalised == sum(word.capitalize() in vocabulary for word in words)
    assert {"gentleman", "lord"} <= set(tokens.unmovable) and "she" not in tokens.unmovable
    assert tokens.movable_rows == sum(
        not set(row.words) & set(tokens.unmovable) for row in load_wordlist(write(LIST)).rows
    )
    assert "one token" in shown(check)


def test_tokens_of_gpt2(shared_data):
    vocabulary = json.loads(shared_data("gpt2_tokenizer", "vocab.json").read_text(encoding="utf-8"))
    folder = str(shared_data("gpt2_tokenizer", "vocab.json").parent)
    tokens = check_wordlist("english_gender+none", tokenizer=("gpt2", GPT2TokenizerFast.from_pretrained(folder))).tokens
    words = load_wordlist("english_gender+none").words
    assert tokens.one_token == sum(f"Ġ{word}" in vocabulary for word in words) > 100
    assert tokens.one_token_capitalised == sum(word[:1].upper() + word[1:] in vocabulary for word in words) > 30
    assert 0 < tokens.movable_rows < tokens.rows and not {"he", "she", "king"} & set(tokens.unmovable)


def test_tokens_of_a_tokenizer_that_drops_what_it_does_not_know(write):
    """Neither the line break before a word nor letters that it lacks give a token."""
    tokenizer = Tokenizer(models.BPE({letter: number for number, letter in enumerate("a,xking")}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    known = PreTrainedTokenizerFast(tokenizer_object=tokenizer)
    tokens = check_wordlist(write("m\tf\nкороль\tx\n"), tokenizer=("letters", known)).tokens
    assert (tokens.words, tokens.one_token, tokens.unmovable) == (2, 1, ("король", "x"))


# ------------------------------------------------------------------------------------------------------------ terminal


def test_json_has_everything(write, texts, toy_tokenizer):
    check = check_wordlist(write(LIST + "priest\tnun\n"), [texts(*TEXT)], ("toy", toy_tokenizer))
    content = json.loads(json.dumps(check_dict(check)))
    assert content["coverage"]["hits"] == 16
    assert content["coverage"]["hits_per_thousand_words"] == pytest.approx(16 / 43 * 1000)
    assert content["suspicions"][0]["where"].endswith("list.tsv, line 12")
    assert content["choices"][0]["options"][0]["counterparts"] == ["her"]
    assert content["tokens"]["words"] == 16 and content["mistakes"] == []
    assert json.loads(json.dumps(check_dict(check_wordlist(write("male\tfemale\n")))))["mistakes"]


@pytest.mark.parametrize("width", [40, 100])
def test_print_is_plain_where_there_is_no_terminal(write, texts, width):
    text = shown(check_wordlist(write(LIST), [texts(*TEXT)]), width)
    assert "\x1b" not in text
    for word in ("determiner", "one-way", "documents", "Rows by hits", "no mistakes, no warnings"):
        assert word in " ".join(text.split())


def test_says_whether_the_rules_for_english_are_on(write):
    off = "rules for English"
    assert off in " ".join(shown(check_wordlist(write(LIST))).split())
    named = check_wordlist(write("# language: en\n" + LIST))
    assert named.language == "en" and off not in shown(named)
    assert off not in shown(check_wordlist(write("# language: de\nmale\tfemale\nkönig\tkönigin\n")))


def test_what_looks_like_markup_is_shown_as_it_is(write):
    check = check_wordlist(write("male\tfemale\nking [b]x\tqueen\n[b]lad\tlass\n"))
    assert "'[b]lad'" in shown(check)
    assert "'king [b]x' has the character '['" in shown(check_wordlist(write("male\tfemale\nking [b]x\tqueen\n")))
