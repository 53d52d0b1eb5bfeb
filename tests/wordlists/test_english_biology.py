"""Words of biology leave their sentence alone."""

import pytest
from bundled import GENDER, phrases_of

from distill.text.counterfactual import Swapper

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


BY_SENTENCE = Swapper(GENDER.wordlist, skip="sentence")


def test_biology_words_leave_their_sentence_alone():
    biology = phrases_of("english_biology")
    assert all(phrase == phrase.lower() for phrase in biology)
    assert not set(biology) & set(GENDER.wordlist.words) and not set(biology) & set(phrases_of("english_protected"))
    for phrase in biology:
        for form in (phrase, phrase.capitalize(), phrase.upper()):
            counterfactual = GENDER.swap(f"He came. She spoke of {form}, he said. He left.")
            assert counterfactual.skipped == 1
            assert counterfactual.text == f"He came. She spoke of {form}, he said. He left."  # its document, by default
            counterfactual = BY_SENTENCE.swap(f"He came. She spoke of {form}, he said. He left.")
            assert counterfactual.text == f"She came. She spoke of {form}, he said. She left."
        # a part of a longer word is none
        assert GENDER.swap(f"She spoke of {phrase}x.").text.startswith("He spoke of ")
