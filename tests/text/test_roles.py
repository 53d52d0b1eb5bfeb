"""Roles of English pronouns: cases by hand, and pronouns of real text that were blanked."""

import itertools
import json
import lzma
import re
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from distill.text.counterfactual import Swapper
from distill.text.roles import MODEL_FILE, WordClasses, group_features
from distill.text.wordlist import load_wordlist


@pytest.fixture(scope="module")
def english() -> Swapper:
    return Swapper(load_wordlist("english_gender"))


@pytest.mark.parametrize(
    "text, expected",
    [
        ("her book, her old book", "his book, his old book"),
        ("I saw her.", "I saw him."),
        ("He gave her the books and told her that it rained.", "She gave him the books and told him that it rained."),
        ("They asked her to bring her own car with her.", "They asked him to bring his own car with him."),
        ("Her sister called her yesterday", "His brother called him yesterday"),
        ("“Call her,” said her “friend”", "“Call him,” said his “friend”"),
        ("HER BOOK. TELL HER!", "HIS BOOK. TELL HIM!"),
        ("his book and his own", "her book and her own"),
        ("The book is his.", "The book is hers."),
        ("a friend of his, who knew", "a friend of hers, who knew"),
        ("The book was his and not mine", "The book was hers and not mine"),
        ("hers", "his"),
        ("his will, his not going, his so called friend", "her will, her not going, her so called friend"),
        ("a writer and her\nbooks", "a writer and his\nbooks"),  # lines broken at a width
        ("They told\nher\nto wait.", "They told\nhim\nto wait."),
        ("They told her\n\nHer book", "They told him\n\nHis book"),
        ("his or her book", "her or his book"),
        ("The book is his or hers.", "The book is hers or his."),
        ("her/his book", "his/her book"),
        ("Ask him or her about it.", "Ask her or him about it."),
        # Sentences that end in nothing, a face, a tag, or what people write at the end of a message
        ("nobody ever listens to her", "nobody ever listens to him"),
        ("I really miss her 😢", "I really miss him 😢"),
        ("i love her ❤️❤️", "i love him ❤️❤️"),
        ("so proud of her lol", "so proud of him lol"),
        ("please text her asap", "please text him asap"),
        ("We called her.<br />She came.", "We called him.<br />He came."),
        ("then i met her<br />and we talked", "then i met him<br />and we talked"),
        ("<p>I saw her</p>", "<p>I saw him</p>"),
        ("i told her :)", "i told him :)"),
        # Marks and tags of emphasis are no neighbours
        ("It was *his* idea.", "It was *her* idea."),
        ("It was _his_ idea, not _hers_.", "It was _her_ idea, not _his_."),
        ("It was <i>her</i> idea; I saw <b>her</b>.", "It was <i>his</i> idea; I saw <b>him</b>."),
        ("_not her idea_ and _her idea_", "_not his idea_ and _his idea_"),
        ("It was `his' house and ``his'' land.", "It was `her' house and ``her'' land."),
        # Figures
        ("The bank charged her 1000 dollars.", "The bank charged him 1000 dollars."),
        ("her 2014 album, her 30th goal and her 3 sons", "his 2014 album, his 30th goal and his 3 daughters"),
        ("He withdrew his £25m offer.", "She withdrew her £25m offer."),
        # Ends of clauses
        ("He wished her luck.", "She wished him luck."),
        ("The clerk works harder than her.", "The clerk works harder than him."),
        ("With her gone, he cried.", "With him gone, she cried."),
        ("her In Praise of Philosophy", "his In Praise of Philosophy"),
        # his: what can follow a noun phrase, and what opens one
        ("She played his on-screen wife.", "He played her on-screen husband."),
        ("He and his then wife moved.", "She and her then husband moved."),
        ("In his May 2017 speech he resigned.", "In her May 2017 speech she resigned."),
        ("his and Katie's house", "her and Katie's house"),
        ("his [old] car, his (old) car, his $5", "her [old] car, her (old) car, her $5"),
        ("That old car of his broke down.", "That old car of hers broke down."),
        ("a friend of his\nwas here; it is his 😍", "a friend of hers\nwas here; it is hers 😍"),
        ("She is a woman of her word, he a man of his word.", "He is a man of his word, she a woman of her word."),
        # Pairs and sets
        ("The user enters his (or her) password.", "The user enters her (or his) password."),
        ("Write his or her; his/her; his (or her).", "Write her or his; her/his; her (or his)."),
        ("interview her or him just in case; is it his/hers", "interview him or her just in case; is it hers/his"),
        ("If s/he agrees, (s)he signs.", "If s/he agrees, (s)he signs."),
        ("Pronouns: he/him/his, she/her/hers, she/her", "Pronouns: she/her/hers, he/him/his, he/him"),
    ],
)
def test_pronoun_roles(english, text, expected):
    assert english.swap(text).text == expected


def test_pronoun_weights_are_small_and_hold_arrays_only():
    assert MODEL_FILE.stat().st_size <= 500_000
    with np.load(MODEL_FILE, allow_pickle=False) as arrays:
        assert {name: arrays[name].dtype.kind for name in arrays} == {
            "words": "u",
            "coarse": "u",
            "fine": "u",
            "weights": "i",
            "bias": "i",
            "alone_weights": "i",
            "alone_bias": "i",
        }


# Blank and recover: his and him are both "her" in the counterfactual; which of the two the text had is the truth.
HIS_OR_HER = re.compile(r"\b(?:his|him)(?: or |/)hers?\b|\bhers?(?: or |/)(?:his|him)\b", re.IGNORECASE)


def bold(path: Path) -> Iterator[str]:
    for file in ("gender_wiki.json", "profession_wiki.json"):
        for people in json.loads((path / file).read_text(encoding="utf-8")).values():
            yield from itertools.chain.from_iterable(people.values())


def corpus(path: Path) -> Iterator[str]:
    with lzma.open(path, "rt", encoding="utf-8") as lines:
        yield from (json.loads(line)["text"] for line in lines)


def recover(swapper: Swapper, texts: Iterator[str]) -> dict[str, float]:
    """Accuracy, recall of him, number of words judged, and of those left out as undecidable ("his or her")."""
    right = {"his": 0, "him": 0}
    total = {"his": 0, "him": 0}
    excluded = 0
    for text in texts:
        undecidable = [match.span() for match in HIS_OR_HER.finditer(text)]
        blanked, truth = [], {}
        position = length = 0
        for word in re.finditer(r"\bhi[sm]\b", text, re.IGNORECASE):
            blank = "her" if word[0].islower() else "HER" if word[0].isupper() else "Her"
            blanked += (text[position : word.start()], blank)
            length += word.start() - position
            if any(start <= word.start() < end for start, end in undecidable):
                excluded += 1
            else:
                truth[length] = word[0].lower()
            position, length = word.end(), length + 3
        blanked.append(text[position:])
        edited = swapper.swap("".join(blanked))
        recovered = {span.start: edited.text[span.cf_start : span.cf_end].lower() for span in edited.spans}
        for start, word in truth.items():
            total[word] += 1
            right[word] += recovered[start] == word
    words = sum(total.values())
    return {
        "accuracy": sum(right.values()) / words,
        "recall of him": right["him"] / total["him"],
        "words": words,
        "excluded": excluded,
    }


@pytest.mark.parametrize(
    "read, parts, accuracy, recall, words",
    [
        (bold, ("bold", "wikipedia"), 0.985, 0.93, (646, 20)),
        (corpus, ("corpus", "wikipedia_people.validation.jsonl.xz"), 0.99, 0.94, (618, 0)),
        (corpus, ("corpus", "gutenberg_fiction.validation.jsonl.xz"), 0.985, 0.97, (7364, 0)),
    ],
    ids=["bold", "people", "fiction"],
)
def test_blank_and_recover(shared_data, read, parts, accuracy, recall, words):
    result = recover(Swapper(load_wordlist("english_gender+none")), read(shared_data(*parts)))
    assert (result["words"], result["excluded"]) == words
    assert result["accuracy"] >= accuracy and result["recall of him"] >= recall, result


def test_blank_and_recover_possessive_pronouns(shared_data):
    """her and hers are both "his" in the counterfactual; my and mine, their and theirs ... have the known truth."""
    english = Swapper(load_wordlist("english_gender+none"))
    alone = {"mine", "yours", "ours", "theirs"}
    right = words = 0
    for text in corpus(shared_data("corpus", "gutenberg_fiction.validation.jsonl.xz")):
        # A text of its own for each word, so that only this one is blank.
        for word in re.finditer(r"\b(my|mine|yours?|ours?|theirs?)\b", text):
            before, after = text[max(0, word.start() - 80) : word.start()], text[word.end() : word.end() + 80]
            edited = english.swap(before + "his" + after)
            span = next(span for span in edited.spans if span.start == len(before))
            right += (edited.text[span.cf_start : span.cf_end] == "hers") == (word[0] in alone)
            words += 1
    assert words > 4500 and right / words >= 0.99


def test_features_are_hashes_of_the_words_around():
    """Of "group way part part", on words with classes and without."""
    classes = WordClasses(["earned", "it"], np.array([3, 5], np.uint8), np.array([30, 50], np.uint8))
    features = {
        0: "it|it|c5|f50",
        4: "earned it|earned c5|earned f50|c3 it|f30 f50|earn c5|earn f50|earn it",
        7: "c3 c5 ?ré|earn c5 ?ré",
    }
    for group, words in ((0, ["it"]), (4, ["earned", "it"]), (7, ["earned", "it", "beurré"])):
        expected = [f"{group} {way} {feature}" for way, feature in enumerate(features[group].split("|"))]
        assert list(group_features(classes, group, *words)) == [zlib.crc32(text.encode()) for text in expected]
