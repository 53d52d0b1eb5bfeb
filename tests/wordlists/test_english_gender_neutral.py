"""The list of men, women and neutral words: sentences, real text, and its words as tokens."""

import json
import lzma
import re

import pytest
from bundled import NEUTRAL

from distill.text.role_map import token_roles

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
    ("She was pregnant. She was happy.", "She was pregnant. She was happy.", "She was pregnant. She was happy."),
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


def test_rows_that_share_a_word_lead_to_its_main_counterpart():
    """son and boy are both a child in neutral words; child is a boy in male ones."""
    wordlist = NEUTRAL.wordlist
    assert [wordlist.counterparts("son", shift) for shift in (1, 2)] == [(("daughter", None),), (("child", None),)]
    assert [wordlist.counterparts("child", shift) for shift in (1, 2)] == [(("boy", None),), (("girl", None),)]
    assert [wordlist.counterparts("mum", shift) for shift in (1, 2)] == [(("parent", None),), (("dad", None),)]
    assert wordlist.counterparts("her", 1) == (("them", "object"), ("their", "determiner"))
    assert wordlist.counterparts("his", 2) == (("their", "determiner"), ("theirs", "pronoun"))
    assert wordlist.counterparts("their", 1) == (("his", "determiner"),)


def test_pronouns_of_three_groups_as_tokens(neutral_tokenizer):
    roles = token_roles(NEUTRAL.wordlist, neutral_tokenizer, 512)

    def tokens(*words):
        ids = [neutral_tokenizer(f" {word}", add_special_tokens=False)["input_ids"] for word in words]
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
