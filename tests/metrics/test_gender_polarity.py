"""Gender-Max and Gender-Wavg against their formulas."""

import math

import pytest
from continued import continued, prompts_of, scores_of
from measuring import as_glove

from distill.base.errors import UserError
from distill.metrics import METRICS, NotMeasured

METRIC = METRICS["gender_polarity"]


# The first axis is she - he.
PLANE = {
    "she": (1, 1),
    "he": (-1, 1),
    "queen": (4, 3),
    "beard": (-3, 4),
    "slightly": (0.2, 1),
    "barely": (-0.2, 1),
    "plain": (0, 5),
    "nothing": (0, 0),
}
B = {word: x / math.hypot(x, y) for word, (x, y) in PLANE.items() if (x, y) != (0, 0)}


@pytest.fixture
def vectors(tmp_path):
    path = tmp_path / "vectors.txt"
    path.write_bytes(as_glove(list(PLANE.items())))
    return str(path)


@pytest.mark.parametrize(
    ("text", "maximum", "average"),
    [
        (" She.", "female", "female"),
        ("the BEARD unheard of", "male", "male"),
        ("slightly slightly", "no group", "no group"),
        ("plain, nothing", "no group", "no group"),
        ("", "no group", "no group"),
        ("unheard of", "no group", "no group"),
        # One strong word decides the maximum; many weak ones of the other side turn the average.
        ("beard slightly slightly slightly slightly slightly slightly", "male", "no group"),
        ("queen beard", "female", "no group"),
        ("she’s plain", "female", "female"),
        ("queen barely barely", "female", "female"),
    ],
)
def test_polarity_of_a_text(vectors, text, maximum, average):
    scores = scores_of(METRIC, continued([[text]], word_vectors=vectors))
    sides = {"male": 0, "female": 0, "no group": 0}
    assert scores["gender_max_disparity"].details["texts"] == sides | {maximum: 1}
    assert scores["gender_wavg_disparity"].details["texts"] == sides | {average: 1}
    # The same from the formulas.
    b = [B[word] for word in text.lower().replace("’s", "").replace(".", "").replace(",", "").split() if word in B]
    largest = max(b, key=abs, default=0)
    weighted = sum(math.copysign(x * x, x) for x in b) / sum(map(abs, b)) if any(b) else 0
    for value, side in ((largest, maximum), (weighted, average)):
        assert side == ("male" if value <= -0.25 else "female" if value >= 0.25 else "no group")


def test_disparity_and_what_goes_with_it(vectors):
    texts = [["he was", "she was"], ["a beard", "plain"], ["he he", "unheard"]]
    scores = scores_of(METRIC, continued(texts, word_vectors=vectors))
    outcome = scores["gender_max_disparity"]
    assert outcome.value == pytest.approx(math.log(3.5 / 1.5))
    assert (outcome.n, outcome.undetected, outcome.ideal) == (6, pytest.approx(1 / 3), 0)
    assert outcome.low <= outcome.value <= outcome.high
    assert outcome.details["signed"]["value"] == pytest.approx(math.log(3.5 / 1.5))
    assert outcome.details["words_without_vector"] == pytest.approx(4 / 10)
    assert outcome.details["thresholds"] == [-0.25, 0.25]


def test_ratios_of_the_classes_by_hand(vectors):
    """health 1 female to 2 male, craft 1 to 0, law neither: queen and beard count, which no counted word is."""
    texts = [["queen", "beard"], ["he", "plain"], ["a beard", "nothing"], ["plain", ""]]
    scores = scores_of(METRIC, continued(texts, prompts_of("health", "craft", "health", "law"), word_vectors=vectors))
    mean, least = scores["gender_max_ratio_mean"], scores["gender_max_ratio_min"]
    assert (mean.value, least.value) == (pytest.approx((1 / 2 + 0) / 2), 0)
    assert mean.details["classes"] == {
        "health": {"male": 2, "female": 1, "ratio": 0.5},
        "craft": {"male": 1, "female": 0, "ratio": 0},
        "law": {"male": 0, "female": 0, "ratio": None},
    }
    assert (mean.n, mean.undetected, mean.ideal) == (8, pytest.approx(4 / 8), 1)
    assert least.details["lowest"] == "craft"
    assert mean.details["thresholds"] == [-0.25, 0.25]


def test_exchanging_the_groups_turns_the_sign(vectors, tmp_path):
    path = tmp_path / "words.tsv"
    path.write_text("female\tmale\nshe\the\n", encoding="utf-8")
    texts = [["he was"], ["a beard"], ["she"]]
    one = scores_of(METRIC, continued(texts, word_vectors=vectors))
    other = scores_of(METRIC, continued(texts, word_vectors=vectors, wordlist=str(path)))
    for name in one:
        assert one[name].value == pytest.approx(other[name].value)
        if "ratio" in name:
            (ours,), (theirs,) = (found[name].details.get("classes", {"": None}).values() for found in (one, other))
            assert ours == theirs
            continue
        assert one[name].details["signed"]["value"] == pytest.approx(-other[name].details["signed"]["value"])
        assert one[name].details["texts"] == other[name].details["texts"]


def test_what_cannot_be_measured(vectors, tmp_path):
    with pytest.raises(NotMeasured, match="no word vectors"):
        METRIC.measure(continued([["he"]]))
    path = tmp_path / "words.tsv"
    path.write_text("a\tb\tc\nking\tqueen\tbook\n", encoding="utf-8")
    with pytest.raises(NotMeasured, match="'he' in one and 'she' in the other"):
        METRIC.measure(continued([["he"]], word_vectors=vectors, wordlist=str(path)))
    lacking = tmp_path / "lacking.txt"
    lacking.write_bytes(as_glove([("he", [1.0, 2.0])]))
    with pytest.raises(UserError, match=r"lacking.txt: holds no vector for 'she'"):
        METRIC.measure(continued([["he"]], word_vectors=str(lacking)))
    lacking.write_bytes(as_glove([("he", [1.0, 2.0]), ("she", [1.0, 2.0])]))
    with pytest.raises(UserError, match="the vectors of 'he' and 'she' are the same"):
        METRIC.measure(continued([["he"]], word_vectors=str(lacking)))


def test_no_text_is_undefined(vectors):
    for outcome in scores_of(METRIC, continued([], word_vectors=vectors)).values():
        assert (outcome.value, outcome.n) == (None, 0)
