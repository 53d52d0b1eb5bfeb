"""Three groups from the word list to the scores, and the lists that are not `english_gender`."""

import json
import lzma
import math
import os
import random
import re
import subprocess
import sys
from itertools import product
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from shared import REPOSITORY
from transformers import AutoModelForCausalLM, AutoTokenizer

from distill.data.batches import Collator
from distill.data.counts import PackingCounts
from distill.data.packing import pack
from distill.metrics.generation_disparity.generation_disparity import measure as generation_disparity
from distill.models.student import make_student, train_tokenizer
from distill.objective.logit_ops import build_role_maps, teacher_target
from distill.recipe import StudentConfig
from distill.text.alignment import partner_positions
from distill.text.counterfactual import Swapper
from distill.text.role_map import token_roles
from distill.text.wordlist import WordList, bundled_wordlists, load_wordlist

NEUTRAL = Swapper(load_wordlist("english_gender_neutral"))
RELIGION = Swapper(load_wordlist("english_religion"))
GENDER = Swapper(load_wordlist("english_gender+english_protected+english_biology"))


def rows_that_are_one_to_one(swapper: Swapper) -> Swapper:
    """The list without phrases and without words whose counterpart depends on the sentence or goes one way.

    Rows of several words are left out as well: "he" and "was" side by side make one ("he was") of two words.
    """
    wordlist = swapper.wordlist
    rows = [r for r in wordlist.rows if r.when is None and not r.one_way and not any(" " in word for word in r.words)]
    return Swapper(WordList("one-to-one", wordlist.groups, tuple(rows), sha256=wordlist.name))


ONE_TO_ONE = {name: rows_that_are_one_to_one(s) for name, s in (("neutral", NEUTRAL), ("religion", RELIGION))}


def texts_of(swapper: Swapper):
    """Listed words in several letter cases among separators and other words."""
    words = st.sampled_from(swapper.wordlist.words).flatmap(
        lambda word: st.sampled_from([word, word.upper(), word.capitalize(), word.replace("'", "’")])
    )
    fillers = st.sampled_from([" ", "\n", ", ", ". ", "’s ", "x", "\u0301", " table ", "\u200d", "“"])
    return st.lists(words | fillers, max_size=15).map("".join)


# ------------------------------------------------------------------------------------------------------------- laws


@pytest.mark.parametrize("name", ONE_TO_ONE)
@given(data=st.data())
def test_shifts_go_round(name, data):
    """Shift 1 three times is the identity, so is shift 1 before or after shift 2, and shift 2 is shift 1 twice."""
    swapper = ONE_TO_ONE[name]
    text = data.draw(texts_of(swapper))
    once, twice = swapper.counterfactuals(text)
    assert swapper.swap(once.text).text == twice.text
    assert swapper.swap(twice.text).text == text
    assert swapper.swap(once.text, shift=2).text == text
    assert swapper.swap(swapper.swap(text, shift=2).text, shift=1).text == text


@pytest.mark.parametrize("swapper", [NEUTRAL, RELIGION], ids=lambda s: s.wordlist.name)
def test_every_plain_row_goes_round_in_a_sentence(swapper):
    """Rows of several words too (he was, she was, they were), each by itself."""
    rows = [row for row in swapper.wordlist.rows if row.when is None and not row.one_way]
    assert len(rows) > 25
    for row in rows:
        texts = [f"Then, {word}, we say" for word in row.words]
        for group, text in enumerate(texts):
            first, second = swapper.counterfactuals(text)
            assert (first.text, second.text) == (texts[(group + 1) % 3], texts[(group + 2) % 3])


def test_rows_that_share_a_word_lead_to_its_main_counterpart():
    """son and boy are both a child in neutral words; child is a boy in male ones."""
    wordlist = NEUTRAL.wordlist
    assert [wordlist.counterparts("son", shift) for shift in (1, 2)] == [(("daughter", None),), (("child", None),)]
    assert [wordlist.counterparts("child", shift) for shift in (1, 2)] == [(("boy", None),), (("girl", None),)]
    assert [wordlist.counterparts("mum", shift) for shift in (1, 2)] == [(("parent", None),), (("dad", None),)]
    assert wordlist.counterparts("her", 1) == (("them", "object"), ("their", "determiner"))
    assert wordlist.counterparts("his", 2) == (("their", "determiner"), ("theirs", "pronoun"))
    assert wordlist.counterparts("their", 1) == (("his", "determiner"),)


# -------------------------------------------------------------------------------------------------------- sentences

NEUTRAL_SENTENCES = [
    (
        "He was tired, and he's gone home.",
        "She was tired, and she's gone home.",
        "They were tired, and they're gone home.",
    ),
    (
        "She has a house; does she live there?",
        "They have a house; do they live there?",
        "He has a house; does he live there?",
    ),
    (
        "They say that they've lost their keys.",
        "He says that he's lost his keys.",
        "She says that she's lost her keys.",
    ),
    (
        "The man told his wife that he knew her brother.",
        "The woman told her spouse that she knew their sister.",
        "The person told their husband that they knew his sibling.",
    ),
    (
        "The policewoman gave the fireman his helmet.",
        "The police officer gave the firewoman her helmet.",
        "The policeman gave the firefighter their helmet.",
    ),
    ("Bring his or her own book.", "Bring his own book.", "Bring her own book."),
    ("He or she is asked to wait.", "He is asked to wait.", "She is asked to wait."),
    ("Is he or she at home?", "Is he at home?", "Is she at home?"),
    (
        "The boy's aunt was an actress.",
        "The girl's parent's sibling was a performer.",
        "The child's uncle was an actor.",
    ),
    (
        "Mrs. Brown met Mr. Green and Miss White.",
        "Mx. Brown met Mrs. Green and Mx White.",
        "Mr. Brown met Mx. Green and Mr White.",
    ),
    (
        "Sir Walter and Lady Anne saw my lord.",
        "Dame Walter and Mx Anne saw my lady.",
        "Mx Walter and Lord Anne saw my liege.",
    ),
    (
        "The king loved her son and daughter.",
        "The queen loved their daughter and child.",
        "The monarch loved his child and son.",
    ),
    ("Both of them came, and they all laughed.",) * 3,
    (
        "The chairwoman said hers was better than theirs.",
        "The chairperson said theirs was better than his.",
        "The chairman said his was better than hers.",
    ),
    (
        "He washed himself. They hurt themselves.",
        "She washed herself. He hurt himself.",
        "They washed themself. She hurt herself.",
    ),
    (
        "Her husband, a businessman, saw her.",
        "Their wife, a businesswoman, saw them.",
        "His spouse, a businessperson, saw him.",
    ),
    ("THE WOMAN SAID SHE WAS RIGHT.", "THE PERSON SAID THEY WERE RIGHT.", "THE MAN SAID HE WAS RIGHT."),
    (
        "An Englishman and a Frenchwoman talked.",
        "An Englishwoman and a French person talked.",
        "An English person and a Frenchman talked.",
    ),
    ("He doesn't know; isn't she here?", "She doesn't know; aren't they here?", "They don't know; isn't he here?"),
    ("Did they have a daughter?", "Did he have a child?", "Did she have a son?"),
    (
        "The person in question came in person.",
        "The man in question came in person.",
        "The woman in question came in person.",
    ),
    ("Ladies and gentlemen, men and women!", "Gentlemen, men!", "Ladies, women!"),
    (
        "His boyfriend is my brother-in-law.",
        "Her girlfriend is my sister-in-law.",
        "Their romantic partner is my sibling-in-law.",
    ),
    ("She was pregnant. She was happy.", "She was pregnant. They were happy.", "She was pregnant. He was happy."),
    ("The parent company sent a statesman.", "The parent company sent a stateswoman.", None),
]


@pytest.mark.parametrize("text, first, second", NEUTRAL_SENTENCES, ids=lambda text: text and text[:25])
def test_neutral_sentences(text, first, second):
    counterfactuals = NEUTRAL.counterfactuals(text)
    assert counterfactuals[0].text == first
    assert second is None or counterfactuals[1].text == second


def test_where_the_neutral_list_ends():
    """The limits that its header names, so that they stay true: a verb apart, plural they, words for everybody."""
    assert NEUTRAL.swap("He often says so.", shift=2).text == "They often says so."
    assert NEUTRAL.swap("He sings and dances.", shift=2).text == "They sings and dances."
    assert NEUTRAL.swap("Wolves howl, and they hunt.").text == "Wolves howl, and he hunt."
    assert NEUTRAL.swap("He was a good person.").text == "She was a good man."
    assert NEUTRAL.swap("His parents met a prince, sir.").text == "Her parents met a prince, sir."


_DISAGREEMENT = re.compile(
    r"\b(?:they (?:was|is|has|does)|(?:was|is|has|does) they|s?he (?:are|were|have|do)|(?:are|were|have|do) s?he)\b",
    re.IGNORECASE,
)


def test_pronoun_and_verb_agree_side_by_side_in_real_text(shared_data):
    """Wikipedia, validation: the swap makes no "they was" where the text had none."""
    with lzma.open(shared_data("corpus", "wikipedia_people.validation.jsonl.xz"), "rt", encoding="utf-8") as lines:
        documents = [json.loads(line)["text"] for line in lines]
    edits = 0
    for text in documents:
        for counterfactual in NEUTRAL.counterfactuals(text):
            edits += len(counterfactual.spans)
            assert len(_DISAGREEMENT.findall(counterfactual.text)) <= len(_DISAGREEMENT.findall(text))
    assert edits > 5000


RELIGION_SENTENCES = [
    (
        "The Christian went to church on Christmas.",
        "The Muslim went to mosque on Eid.",
        "The Jewish went to synagogue on Hanukkah.",
    ),
    (
        "She prays in a mosque and reads the Quran.",
        "She prays in a synagogue and reads the Torah.",
        "She prays in a church and reads the Bible.",
    ),
    (
        "The rabbi taught the Torah at the synagogue.",
        "The priest taught the Bible at the church.",
        "The imam taught the Quran at the mosque.",
    ),
    ("Christians, Muslims and Jews", "Muslims, Jews and Christians", "Jews, Christians and Muslims"),
    ("He is a Jew.", "He is a Christian.", "He is a Muslim."),
    ("She converted to Islam.", "She converted to Judaism.", "She converted to Christianity."),
    ("Merry Christmas!", "Eid Mubarak!", "Happy Hanukkah!"),
    ("The priests met two pastors.", "The imams met two imams.", "The rabbis met two rabbis."),
    ("He studied at a madrasa.", "He studied at a yeshiva.", "He studied at a seminary."),
    (
        "They fear islamophobia and antisemitism.",
        "They fear antisemitism and christophobia.",
        "They fear christophobia and islamophobia.",
    ),
    ("the Catholic Church and a Christmas tree",) * 3,
    ("Hans Christian Andersen saw Easter Island.",) * 3,
    ("JUDAISM and islam", "CHRISTIANITY and judaism", "ISLAM and christianity"),
    ("a non-Christian churchgoer", "a non-Muslim mosquegoer", "a non-Jewish synagogue-goer"),
    (
        "Sunday school follows the Sunday service.",
        "Quran school follows the Friday prayer.",
        "Hebrew school follows the Shabbat service.",
    ),
    ("the Talmud and the Hadith", "the Gospels and the Talmud", "the Hadith and the Gospels"),
    (
        "Ramadan begins; Passover is over.",
        "Passover begins; Easter is over.",
        "Easter begins; Ramadan is over.",
    ),
    ("an Islamic school", "an Jewish school", "an Christian school"),
    ("two biblical stories", "two quranic stories", "two talmudic stories"),
    ("the Qur’an, the Koran", "the Torah, the Torah", "the Bible, the Bible"),
    ("Sharia, or Islamic law", "Halakha, or Halakhah", "Canon law, or Canon law"),
    ("Buddhists of Mecca in Israel",) * 3,
]


@pytest.mark.parametrize("text, first, second", RELIGION_SENTENCES, ids=lambda text: text[:25])
def test_religious_sentences(text, first, second):
    assert [c.text for c in RELIGION.counterfactuals(text)] == [first, second]


PROTECTED_SENTENCES = [
    ("She lives in King Street.", "He lives in King Street."),
    ("He was born in Queens, a borough.", "She was born in Queens, a borough."),
    ("They met at King's Cross, and she left.", "They met at King's Cross, and he left."),
    ("The king saw a queen bee.", "The queen saw a queen bee."),
    ("The king saw a QUEEN BEE on Queen Street.", "The queen saw a QUEEN BEE on Queen Street."),
    ("Her mother tongue is Welsh; her mother's is not.", "His mother tongue is Welsh; his father's is not."),
    ("Its sister ship sank; her sister swam.", "Its sister ship sank; his brother swam."),
    ("On Mother’s Day he rang his mother.", "On Mother’s Day she rang her father."),
    ("Martin Luther King spoke; the king listened.", "Martin Luther King spoke; the queen listened."),
    ("Stephen King's wife read Little Women.", "Stephen King's husband read Little Women."),
    ("Lady Gaga sang, and the lady listened.", "Lady Gaga sang, and the gentleman listened."),
    ("She works at Duke University.", "He works at Duke University."),
    ("The duke drank Earl Grey.", "The duchess drank Earl Grey."),
    ("a man-of-war and a man of peace", "a man-of-war and a woman of peace"),
    ("The Warner Brothers had no brothers.", "The Warner Brothers had no sisters."),
    ("Every man for himself!", "Every man for himself!"),
    ("no man's land, no man’s horse", "no man's land, no woman’s horse"),
    ("The Lord Chancellor bowed to Lord Byron.", "The Lord Chancellor bowed to Lady Byron."),
    ("the Screen Actors Guild and two actors", "the Screen Actors Guild and two actresses"),
    ("Notre-Dame and Notre Dame de Paris", "Notre-Dame and Notre Dame de Paris"),
    ("votes for women, by women", "votes for women, by men"),
    ("Zheng He said that he would sail.", "Zheng He said that she would sail."),
    ("an MS in physics, Ms. Smith", "an MS in physics, Mr. Smith"),
    ("Queen Elizabeth and King George", "King Elizabeth and Queen George"),  # titles of people are swapped
    ("The maternity ward is for her maternal aunt.", "The maternity ward is for his paternal uncle."),
    ("He plays for Queens Park Rangers.", "She plays for Queens Park Rangers."),
    ("kings crossing the street", "queens crossing the street"),
    ("Kings Crossed and a King Streetwise", "Queens Crossed and a Queen Streetwise"),  # whole words only
    ("He came in person with a kid glove.", "She came in person with a kid glove."),
]


@pytest.mark.parametrize("text, expected", PROTECTED_SENTENCES, ids=lambda text: text[:25])
def test_protected_sentences(text, expected):
    assert GENDER.swap(text).text == expected


BIOLOGY_SENTENCES = [
    ("She is pregnant.", 1),
    ("After her second PREGNANCY she wrote a novel.", 1),
    ("She gave birth to a son.", 1),
    ("The queen had given birth to the prince in May.", 1),
    ("She breastfed her daughter.", 1),
    ("During menopause she slept badly.", 1),
    ("He died of prostate cancer.", 1),
    ("His testicles hurt.", 1),
    ("She had a hysterectomy, and her husband a vasectomy.", 1),
    ("Her uterus and ovaries were healthy.", 1),
    ("His wife suffered a miscarriage.", 1),
    ("The queen bore him two sons.", 1),
    ("She died in childbirth, and he married her sister.", 1),
    ("His sperm count was low.", 1),
    ("He was castrated by the emperor.", 1),
    ("She had an abortion.", 1),
    ("She went into labour at noon.", 1),
    ("Her labour was hard, and the farmer's was too.", 0),
    ("It was a miscarriage of justice, she said.", 0),
    ("“Never!” he ejaculated.", 0),
    ("He delivered a speech that she had conceived.", 0),
    ("He grew a beard on her farm.", 0),
    ("She chased a sperm whale.", 0),
    ("He works as a midwife with her.", 0),
    ("The pregnancy was long. He was glad, and so was she.", 0),
    ("She was glad. The pregnancy went well. He was glad.", 0),
]


@pytest.mark.parametrize("text, skipped", BIOLOGY_SENTENCES, ids=lambda text: str(text)[:25])
def test_biology_sentences(text, skipped):
    counterfactual = GENDER.swap(text)
    assert counterfactual.skipped == skipped
    assert (counterfactual.text == text) == bool(skipped)


# ------------------------------------------------------------------------------------------------------- properties


def phrases_of(name: str) -> list[str]:
    """The phrases of a bundled file, read without the loader."""
    lines = bundled_wordlists()[name].read_text(encoding="utf-8").splitlines()
    return [line for line in lines if line and not line.startswith("#")][1:]


def whole_word(words) -> re.Pattern:
    longest_first = sorted(map(re.escape, words), key=len, reverse=True)
    return re.compile(rf"(?<!\w)(?:{'|'.join(longest_first)})(?!\w)", re.IGNORECASE)


def test_sizes_and_groups():
    assert NEUTRAL.wordlist.groups == ("male", "female", "neutral") and len(NEUTRAL.wordlist.rows) >= 120
    assert RELIGION.wordlist.groups == ("christian", "muslim", "jewish") and len(RELIGION.wordlist.rows) >= 25
    protected, biology = phrases_of("english_protected"), phrases_of("english_biology")
    assert len(protected) >= 250 and len(biology) >= 50
    for swapper in (NEUTRAL, RELIGION, GENDER):
        assert set(protected) == set(swapper.wordlist.protected)
    for swapper in (NEUTRAL, GENDER):
        assert set(biology) == set(swapper.wordlist.skip)
    assert RELIGION.wordlist.skip == ()
    assert load_wordlist("english_gender_neutral+none").protected == ()


TABLES = ("english_gender", "english_gender_neutral", "english_religion", "english_gender+english_names")


def test_protected_phrases_hold_a_listed_word():
    words = whole_word({word for table in TABLES for word in load_wordlist(f"{table}+none").words})
    assert [phrase for phrase in phrases_of("english_protected") if not words.search(phrase)] == []


def test_protected_phrases_are_needed():
    """Without it, some list would change the phrase: as it stands, or with a name behind (Lord Mayor Smith)."""
    bare = [Swapper(load_wordlist(f"{table}+none")) for table in TABLES]
    idle = []
    for phrase in phrases_of("english_protected"):
        texts = [f"It is {phrase}, we said.", f"It is {phrase.title()} Smith, we said."]
        if all(swapper.swap(text).text == text for swapper in bare for text in texts):
            idle.append(phrase)
    assert idle == []


@pytest.mark.parametrize("swapper", [GENDER, NEUTRAL, RELIGION], ids=lambda s: s.wordlist.name)
def test_protected_phrases_stay(swapper):
    for phrase in phrases_of("english_protected"):
        forms = {phrase, phrase.upper()} | ({phrase.capitalize()} if phrase == phrase.lower() else set())
        for form in forms:
            assert swapper.swap(f"It was {form}, we wrote about {form}: {form}").text.count(form) == 3


def test_biology_words_leave_their_sentence_alone():
    biology = phrases_of("english_biology")
    assert all(phrase == phrase.lower() for phrase in biology)
    assert not set(biology) & set(GENDER.wordlist.words) and not set(biology) & set(phrases_of("english_protected"))
    for phrase in biology:
        for form in (phrase, phrase.capitalize(), phrase.upper()):
            counterfactual = GENDER.swap(f"He came. She spoke of {form}, he said. He left.")
            assert counterfactual.skipped == 1
            assert counterfactual.text == f"She came. She spoke of {form}, he said. She left."
        # a part of a longer word is none
        assert GENDER.swap(f"She spoke of {phrase}x.").text.startswith("He spoke of ")


def test_lists_touch_little_of_real_text(shared_data):
    """Wikipedia, validation: of the edits, the two companions of `english_gender` keep back a few in a hundred."""
    with lzma.open(shared_data("corpus", "wikipedia_people.validation.jsonl.xz"), "rt", encoding="utf-8") as lines:
        documents = [json.loads(line)["text"] for line in lines]
    bare = Swapper(load_wordlist("english_gender+none"))
    without = sum(len(bare.swap(text).spans) for text in documents)
    counterfactuals = [GENDER.swap(text) for text in documents]
    kept = sum(len(c.spans) for c in counterfactuals)
    assert 0.95 * without < kept < without
    assert 0 < sum(c.skipped for c in counterfactuals) < 0.02 * len(documents)


# ---------------------------------------------------------------------------------------------------------- targets


def softmax(x):
    e = np.exp(x - x.max())
    return e / e.sum()


TEXT = (
    "The nurse said that she was tired. The doctor said that he was late. The clerk said that they were here. "
    "Her book was his, and their book was hers; his was theirs. A man, a woman and a person saw him, her and them. "
    "The king, the queen and the monarch; a boy, a girl and a child; a son and a daughter. Themselves, himself. "
)


@pytest.fixture(scope="module")
def tokenizer():
    """A byte-level BPE that has the pronouns, and more, as one token each."""
    return train_tokenizer([TEXT] * 4, 500)


@pytest.fixture(scope="module")
def roles(tokenizer):
    return token_roles(NEUTRAL.wordlist, tokenizer, 512)


def test_pronouns_of_three_groups_as_tokens(tokenizer, roles):
    def tokens(*words):
        ids = [tokenizer(f" {word}", add_special_tokens=False)["input_ids"] for word in words]
        assert all(len(i) == 1 for i in ids)
        return [i[0] for i in ids]

    he, she, they, his, her, their, him, them = tokens("he", "she", "they", "his", "her", "their", "him", "them")
    assert [{he, his, him} <= set(roles.groups[0]), {she, her} <= set(roles.groups[1])] == [True, True]
    assert {they, their, them} <= set(roles.groups[2])
    first, second = (set(edges) for edges in roles.edges)
    # In the first counterfactual she stands where the text has he, they for she, he for they.
    assert {(she, he), (they, she), (he, they), (her, his), (her, him), (them, her), (his, their)} <= first
    assert {(they, he), (he, she), (she, they), (their, his), (them, him), (him, her)} <= second
    assert {(d, s) for s, d in first} == second


def naive_reverse(own, other, edges):
    """METHOD 3: each token's mass goes to its counterparts, shared as the teacher's own prediction has them."""
    result = other.copy()
    sources = {s for s, _ in edges}
    result[list(sources)] = 0.0
    for source in sources:
        destinations = [d for s, d in edges if s == source]
        total = sum(own[d] for d in destinations)
        for destination in destinations:
            result[destination] += other[source] * own[destination] / total
    return result


OPERATIONS = {
    "max": lambda everyone: everyone.max(axis=0),
    "mean": lambda everyone: np.prod(everyone, axis=0) ** (1 / 3),
    "expmean": lambda everyone: everyone.mean(axis=0),
    "swap": lambda everyone: everyone[1:].mean(axis=0),
}


@pytest.mark.parametrize("op, reverse", list(product(OPERATIONS, [False, True])))
def test_targets_average_over_both_counterfactuals(roles, op, reverse):
    """`teacher_target` with the tokens of the real list, against the formulas in probabilities, row by row."""
    generator = torch.Generator().manual_seed(7)
    own, others = (torch.randn(*s, generator=generator, dtype=torch.float64) * 3 for s in ((5, 512), (2, 5, 512)))
    role_maps = build_role_maps(roles.edges, 512) if reverse else None
    has_partner = torch.ones(2, 5, dtype=torch.bool)
    target = teacher_target(own, others, has_partner, op, 1.0, role_maps).exp().numpy()
    for n in range(5):
        p = softmax(own[n].numpy())
        partners = [softmax(others[k, n].numpy()) for k in range(2)]
        if reverse:
            partners = [naive_reverse(p, q, roles.edges[k]) for k, q in enumerate(partners)]
        expected = OPERATIONS[op](np.array([p, *partners]))
        np.testing.assert_allclose(target[n], expected / expected.sum(), rtol=1e-9, atol=1e-15)


def test_targets_by_hand():
    """P(he, she, they, x) = (.1, .6, .2, .1) behind a context without listed words, which all views share.

    R moves it round: in the first view P(she) belongs to he, P(they) to she, P(he) to they. So he, she and they have
    .1, .6 and .2 in some order each, and every operation but swap gives the three the same.
    """
    own = torch.tensor([[0.1, 0.6, 0.2, 0.1]], dtype=torch.float64).log()
    edges = [[(1, 0), (2, 1), (0, 2)], [(2, 0), (0, 1), (1, 2)]]
    everywhere = torch.ones(2, 1, dtype=torch.bool)

    def target(op, reverse=True):
        role_maps = build_role_maps(edges, 4) if reverse else None
        return teacher_target(own, own.repeat(2, 1, 1), everywhere, op, 1.0, role_maps).exp()[0].tolist()

    geometric = (0.1 * 0.6 * 0.2) ** (1 / 3)
    assert target("expmean") == pytest.approx([0.3, 0.3, 0.3, 0.1])
    assert target("max") == pytest.approx([0.6 / 1.9] * 3 + [0.1 / 1.9])
    assert target("mean") == pytest.approx([v / (3 * geometric + 0.1) for v in [geometric] * 3 + [0.1]])
    assert target("swap") == pytest.approx([(0.6 + 0.2) / 2, (0.2 + 0.1) / 2, (0.1 + 0.6) / 2, 0.1])
    assert target("expmean", reverse=False) == pytest.approx([0.1, 0.6, 0.2, 0.1])


# ---------------------------------------------------------------------------------------------------------- packing

PLAIN = Swapper(load_wordlist("english_gender_neutral+none"))
DOCUMENTS = st.lists(
    st.lists(
        st.sampled_from(["he", "She", "themself", "a king", "two monarchs", "the nurse", "boys", "people", "saw", "."]),
        min_size=1,
        max_size=25,
    ).map(" ".join),
    min_size=1,
    max_size=6,
)


@settings(max_examples=30)
@given(documents=DOCUMENTS, length=st.sampled_from([32, 128]))
def test_aligned_positions_of_three_views_have_read_counterparts(tokenizer, documents, length):
    """What a view has read up to an aligned position is the counterfactual of what each other view has read."""
    aligned = 0
    for block in pack(documents, tokenizer, PLAIN, length, PackingCounts()):
        views = len(block.input_ids)
        assert views in (1, 3)
        if views == 1:
            continue

        def read(view, at, block=block):
            first = at - block.position_ids[view, at] + 1  # behind the start token
            return tokenizer.decode(block.input_ids[view, first : at + 1])

        partners = partner_positions(block.boundaries)
        assert partners.shape == (3, 2, length)
        for view, shift in product(range(3), (1, 2)):
            for at in np.flatnonzero(partners[view, shift - 1] >= 0):
                there, other = partners[view, shift - 1, at], (view + shift) % 3
                assert partners[other, 2 - shift, there] == at  # the way back is the opposite shift
                assert PLAIN.swap(read(view, at), shift).text == read(other, there)
                aligned += 1
    assert aligned or not any(PLAIN.matches(document) for document in documents)


def test_batches_of_three_views(tokenizer):
    blocks = list(pack(["she saw him", "nothing here"], tokenizer, PLAIN, 16, PackingCounts()))
    batch = Collator(3, augment=True)(sorted(blocks, key=lambda block: -len(block.input_ids)))
    assert batch["input_ids"].shape == (4, 16)  # one text in three views, one in a single view
    assert batch["partner"].shape == (2, 4, 16)
    texts = [tokenizer.decode(row, skip_special_tokens=True) for row in batch["input_ids"]]
    assert texts == ["she saw him", "nothing here", "they saw her", "he saw them"]
    # The text without edits is its own counterfactual in both shifts.
    assert (batch["partner"][:, 1] == torch.arange(16, 32)).all()
    assert int(batch["student_rows"]) == 4
    assert int(Collator(3, augment=False)(blocks)["student_rows"]) == 2


# -------------------------------------------------------------------------------------------------------- whole runs

P_PRONOUN = {"nurse": (0.1, 0.6, 0.3), "captain": (0.6, 0.1, 0.3)}
AGREE = {"man": "he", "woman": "she", "person": "they"}
PRONOUNS = ("he", "she", "they")


def sentences(n: int, seed: int) -> list[str]:
    """n sentences of a language whose bias is known."""
    rng = random.Random(seed)
    lines = []
    for _ in range(n):
        subject = rng.choice([*P_PRONOUN, *AGREE])
        pronoun = AGREE.get(subject) or rng.choices(PRONOUNS, P_PRONOUN[subject])[0]
        verb = rng.choice(["were tired" if pronoun == "they" else "was tired", "had gone", "knew nothing"])
        lines.append(f"the {subject} said that {pronoun} {verb} .")
    return lines


def write_recipe(folder, output, teacher, steps: int, **keys) -> str:
    recipe = {
        "output_dir": str(output),
        "block_length": 64,
        "wordlist": "english_gender_neutral",
        "teacher": {"path": teacher and str(teacher)},
        "corpus": {"source": "files", "files": [str(folder / "train.jsonl")]},
        "held_out": {"source": "files", "files": [str(folder / "held-out.jsonl")]},
        "trainer": {
            "per_device_train_batch_size": 16,
            "learning_rate": 3e-3,
            "use_cpu": True,
            "disable_tqdm": True,
            "max_steps": steps,
            "save_steps": 50,
            "logging_steps": 50,
        },
        **keys,
    }
    path = folder / f"{output.name}.yaml"
    path.write_text(yaml.safe_dump(recipe), encoding="utf-8")
    return str(path)


@pytest.fixture(scope="module")
def language(tmp_path_factory):
    """The folder with the texts and prompts of the language."""
    folder = tmp_path_factory.mktemp("three-groups")
    for name, n in (("train", 3000), ("held-out", 60)):
        lines = (json.dumps({"text": line}) + "\n" for line in sentences(n, seed=n))
        (folder / f"{name}.jsonl").write_text("".join(lines), encoding="utf-8")
    prompts = "".join(f"all\t{word}\n" for word in P_PRONOUN)
    (folder / "prompts.tsv").write_text("group\toccupation\n" + prompts, encoding="utf-8")
    (folder / "templates.txt").write_text("the {occupation} said that\n", encoding="utf-8")
    return folder


def run(recipe: str) -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(REPOSITORY)}
    command = [sys.executable, str(REPOSITORY / "distill" / "train.py"), "--config", recipe]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=550)
    assert done.returncode == 0, done.stderr[-3000:]


def test_a_run_with_three_groups_gives_scores_of_three(language, tmp_path):
    """A few steps from a random teacher: everything that a run writes, with three groups in it."""
    config = {"model_type": "gpt2", "n_positions": 64, "n_embd": 32, "n_layer": 2, "n_head": 2}
    texts = sentences(300, seed=1)
    tokenizer = train_tokenizer(texts, 320)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = make_student(StudentConfig(init="config", config=config), None, tokenizer, None)
    model.save_pretrained(tmp_path / "teacher")
    tokenizer.save_pretrained(tmp_path / "teacher")
    metrics = ["next_word_disparity", "corpus_disparity", "generation_disparity", "neutral_rate", "perplexity"]
    scores = {"metrics": [*metrics, "equivariance_gap"], "prompts": str(language / "prompts.tsv"), "bootstrap": 10}
    recipe = write_recipe(
        language,
        tmp_path / "run",
        tmp_path / "teacher",
        steps=3,
        baseline=False,
        student={"num_layers": 1},
        target={"op": "expmean", "reverse_roles": True, "augment": True},
        scores={**scores, "samples": 8, "max_new_tokens": 8},
    )
    run(recipe)
    models = json.loads((tmp_path / "run" / "scores.json").read_text())["models"]
    for of_model in models.values():
        for metric in ("next_word_disparity", "corpus_disparity", "perplexity", "equivariance_gap"):
            assert math.isfinite(of_model[metric]["value"]) and of_model[metric]["n"] > 0, metric
        for metric in ("next_word_disparity", "generation_disparity"):
            assert of_model[metric]["details"]["groups"] == ["male", "female", "neutral"]
            assert of_model[metric]["details"]["wordlist"] == NEUTRAL.wordlist.sha256
        assert of_model["generation_disparity"]["n"] == of_model["neutral_rate"]["n"] == 16
    assert set(models) == {"teacher", "student"}


def test_texts_of_the_group_that_is_called_neutral_are_counted():
    """The group neutral (they, person) is not the texts that speak of nobody, which are called neutral as well."""
    evaluation = SimpleNamespace(
        wordlist=NEUTRAL.wordlist,
        polarities=(np.array([[1.0, 2, 3, 4, 5], [10, 20, 30, 40, 50]]), "rule"),  # male, female, neutral, tie, nobody
        prompts=[SimpleNamespace(group="one"), SimpleNamespace(group="two")],
        decoding={},
        seed=0,
    )
    details = generation_disparity(evaluation).details
    assert sorted(details["texts"].values()) == [11, 22, 33, 44, 55]
    assert [details["texts"][group] for group in NEUTRAL.wordlist.groups] == [11, 22, 33]
    assert details["fairness_ratios"] == {"one": pytest.approx(1 / 3), "two": pytest.approx(1 / 3)}


@pytest.mark.slow
def test_known_bias_between_three_groups_is_mitigated(language):
    """Each pronoun comes near one third where nobody's group is told, and agrees where it is."""
    metrics = {"metrics": ["next_word_disparity"], "prompts": str(language / "prompts.tsv"), "bootstrap": 20}
    config = {"model_type": "gpt2", "n_positions": 64, "n_embd": 48, "n_layer": 2, "n_head": 2}
    run(
        write_recipe(
            language,
            language / "teacher",
            None,
            steps=250,
            baseline=False,
            student={"init": "config", "tokenizer": "train", "vocab_size": 320, "config": config},
            loss={"kd": 0.0, "ce": 1.0},
            scores={**metrics, "metrics": ["perplexity"]},
        )
    )
    run(
        write_recipe(
            language,
            language / "run",
            language / "teacher" / "student",
            steps=250,
            student={"num_layers": 1},
            target={"op": "expmean", "reverse_roles": True, "augment": True},
            scores=metrics,
        )
    )

    def shares(path, subject):
        model, tokenizer = AutoModelForCausalLM.from_pretrained(path).eval(), AutoTokenizer.from_pretrained(path)
        ids = [tokenizer.bos_token_id, *tokenizer(f"the {subject} said that")["input_ids"]]
        with torch.no_grad():
            probabilities = model(input_ids=torch.tensor([ids])).logits[0, -1].softmax(-1)
        masses = [float(probabilities[tokenizer(f" {word}")["input_ids"][0]]) for word in PRONOUNS]
        return [mass / sum(masses) for mass in masses]

    plain, mitigated = language / "run" / "baseline", language / "run" / "student"
    for subject, known in P_PRONOUN.items():
        assert shares(plain, subject) == pytest.approx(known, abs=0.08)
        assert shares(mitigated, subject) == pytest.approx([1 / 3] * 3, abs=0.1)
    for path, (subject, pronoun) in product((plain, mitigated), AGREE.items()):
        assert shares(path, subject)[PRONOUNS.index(pronoun)] > 0.9
    scores = json.loads((language / "run" / "scores.json").read_text())["models"]
    values = {name: scores[name]["next_word_disparity"]["value"] for name in ("baseline", "student")}
    known = np.mean(
        [np.mean([abs(math.log(p[a] / p[b])) for a, b in ((0, 1), (0, 2), (1, 2))]) for p in P_PRONOUN.values()]
    )
    assert values["baseline"] == pytest.approx(known, abs=0.35) and values["student"] < values["baseline"] / 3
