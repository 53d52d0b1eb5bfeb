"""The bundled lists of words as the tests of each of them use them."""

import re
from collections.abc import Iterable

from distill.text.counterfactual import Swapper
from distill.text.wordlist import bundled_wordlists, load_wordlist

NEUTRAL = Swapper(load_wordlist("english_gender_neutral"))
RELIGION = Swapper(load_wordlist("english_religion"))
GENDER = Swapper(load_wordlist("english_gender+english_protected+english_biology"))


def phrases_of(name: str) -> list[str]:
    """The phrases of a bundled file, read without the loader."""
    lines = bundled_wordlists()[name].read_text(encoding="utf-8").splitlines()
    return [line for line in lines if line and not line.startswith("#")][1:]


def whole_word(words: Iterable[str]) -> re.Pattern:
    """A pattern that finds any of these words, whole, in any letter case."""
    longest_first = sorted(map(re.escape, words), key=len, reverse=True)
    return re.compile(rf"(?<!\w)(?:{'|'.join(longest_first)})(?!\w)", re.IGNORECASE)
