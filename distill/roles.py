"""A word with several counterparts and the text around it -> its role in the sentence (her book: his; saw her: him).

English only, deterministic and offline: rules on the words that follow.
"""

import re
from collections.abc import Sequence
from typing import NamedTuple, Protocol


class Ambiguity(NamedTuple):
    """A listed word in a text, and the roles that tell its counterparts apart; start and end in characters."""

    start: int
    end: int
    roles: tuple[str, ...]


class Resolver(Protocol):
    """Chooses a role for every ambiguous word of a text; the role "" holds where no other does.

    A resolver may judge a text's ambiguities together; `version` enters the key of every cache of counterfactuals.
    """

    version: str

    def __call__(self, text: str, ambiguities: Sequence[Ambiguity]) -> Sequence[int]:
        """For every ambiguity the index of the chosen role in its `roles`."""
        ...


_FOLLOWING = re.compile(r"([^\w]*)([\w'’]*)")

# After these words a pronoun stands alone: they begin a new phrase, so they are not part of a noun phrase that the
# pronoun could open ("told her that", "gave her the", "saw her in").
_NEW_PHRASE = frozenset(
    ["a", "about", "above", "across", "after", "again", "against", "ago", "ahead", "all", "alone", "along", "already", "also", "although", "always", "am", "amid", "among", "an", "and", "another", "any", "anymore", "anything", "anyway", "apart", "are", "around", "as", "aside", "asleep", "at", "away", "back", "be", "because", "been", "before", "behind", "being", "below", "beneath", "beside", "besides", "between", "beyond", "both", "but", "by", "came", "can", "cannot", "could", "dead", "did", "do", "does", "down", "during", "each", "either", "else", "enough", "even", "ever", "every", "everything", "except", "far", "first", "for", "forever", "forth", "from", "forward", "go", "had", "hard", "has", "have", "he", "her", "here", "herself", "him", "himself", "his", "home", "how", "however", "i", "if", "immediately", "in", "indeed", "inside", "instead", "into", "is", "it", "its", "itself", "just", "last", "later", "like", "may", "maybe", "me", "merely", "might", "mine", "more", "most", "much", "must", "my", "near", "nearly", "neither", "never", "no", "nor", "not", "nothing", "now", "of", "off", "often", "on", "once", "one", "only", "onto", "or", "our", "out", "outside", "over", "past", "per", "perhaps", "quite", "rather", "regarding", "right", "round", "same", "say", "shall", "she", "should", "simply", "since", "so", "some", "somehow", "something", "sometimes", "somewhere", "soon", "still", "straight", "such", "than", "that", "the", "their", "them", "themselves", "then", "there", "therefore", "these", "they", "this", "those", "though", "through", "throughout", "thus", "till", "to", "today", "together", "tomorrow", "tonight", "too", "toward", "towards", "twice", "under", "unless", "until", "up", "upon", "us", "very", "via", "was", "we", "well", "were", "what", "whatever", "when", "whenever", "where", "whether", "which", "while", "who", "whom", "whose", "why", "will", "with", "within", "without", "would", "yet", "you", "your"]
)
# Of those, the ones that follow "her" in a noun phrase as often ("her first book", "her own") stay determiners.
_INSIDE_PHRASE = frozenset(["home", "later", "only", "every", "first", "hard", "last", "most", "much", "one", "right", "same", "very", "dead", "far", "past"])
_STANDS_ALONE = {"determiner": False, "object": True, "pronoun": True}
# After a possessive pronoun that stands alone come function words or the end of a clause; adjectives and adverbs
# ("his very first") would be part of a noun phrase.
_AFTER_POSSESSIVE = frozenset(
    ["a", "alone", "also", "am", "an", "and", "are", "as", "at", "because", "been", "before", "but", "by", "can", "could", "did", "do", "does", "for", "from", "had", "has", "have", "he", "if", "in", "into", "is", "it", "may", "might", "must", "nor", "not", "now", "of", "on", "or", "shall", "she", "should", "since", "so", "than", "that", "the", "then", "they", "this", "though", "to", "too", "until", "upon", "was", "we", "were", "when", "where", "which", "while", "who", "will", "with", "without", "would", "you"]
)


_BEFORE_NAME = re.compile(r"\.?[^\S\n]+(?:(?:da|de|des|di|du|la|le|of|van|von)[^\S\n]+)*\w")


def is_title(text: str, start: int, end: int) -> bool:
    """Whether the word [start, end) is capitalised before a name (Lady Anne, Mr. de Winter) or follows "my" (my lady)."""
    if text[start].isupper():
        name = _BEFORE_NAME.match(text, end)
        if name and text[name.end() - 1].isupper():
            return True
    return text[max(0, start - 3) : start].lower() == "my " and not (start > 3 and text[start - 4].isalnum())


class PronounRules:
    """Roles of English her and his from what follows them."""

    version = "rules-1"

    def __call__(self, text: str, ambiguities: Sequence[Ambiguity]) -> list[int]:
        """For every ambiguity the index of the chosen role in its `roles`."""
        return [self._choose(text, ambiguity) for ambiguity in ambiguities]

    def _choose(self, text: str, ambiguity: Ambiguity) -> int:
        possessive = "object" not in ambiguity.roles
        alone = _stands_alone(text, ambiguity.end, _AFTER_POSSESSIVE if possessive else _NEW_PHRASE - _INSIDE_PHRASE)
        for index, role in enumerate(ambiguity.roles):
            if _STANDS_ALONE.get(role) == alone:
                return index
        return ambiguity.roles.index("") if "" in ambiguity.roles else 0


def _stands_alone(text: str, end: int, new_phrase: frozenset[str]) -> bool:
    """Whether the pronoun that ends here opens no noun phrase."""
    gap, word = _FOLLOWING.match(text, end).groups()
    if not word or not gap or not gap[0].isspace():
        return True
    if gap.strip():
        return gap.strip() not in {'"', "“", "'", "‘", "``"}  # her "friend"
    return word.lower() in new_phrase
