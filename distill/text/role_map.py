"""A word list and a tokenizer -> token ids: which tokens are listed words, and which token stands for which.

1. Every row of the list is written in each surface form (" he", " He", " HE", "He")  -> forms, one text a group.
2. A form is tokenised behind a context, as it would be in a text                     -> token ids.
3. A form of one token is movable; so is one of several tokens whose first is its own -> one token a word.
4. A form that is movable in every group is an edge for each shift                    -> `TokenRoles`.

No tensors and no architecture names: the tokenizer is asked for ids and for its vocabulary, nothing else.
"""

import bisect
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

from distill.base.errors import UserError
from distill.text.wordlist import CAPITALISED, WordList, capitalised

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# Texts behind which a word begins: with a space in front of it, and without one. Of several, the first that keeps its
# own tokens when a word follows is used. A word at the very start of a text will not do: some tokenizers put a space
# in front of it.
_BEFORE_SPACE = ("a", ",", "x")
_BEFORE_WORD = ("\n", '"', "(")


@dataclass(frozen=True)
class TokenRoles:
    """The word list in tokens of one tokenizer.

    Attributes:
        vocab_size: V, the width of the model's logits; at least the size of the tokenizer's vocabulary.
        groups: by group, the sorted ids of the tokens that can be moved. Closed under the role map: every token of a
            group has a counterpart in every other group.
        edges: by shift - 1, sorted pairs (source, destination) that undo the shift: the source token of group
            (g + shift) mod K in a counterfactual stands where the original has the destination, of group g. Sources and
            destinations are the same tokens.
        num_words: listed words.
        unmovable: those of them, in the order of the list, of which no surface form can be moved.
    """

    vocab_size: int
    groups: tuple[tuple[int, ...], ...]
    edges: tuple[tuple[tuple[int, int], ...], ...]
    num_words: int
    unmovable: tuple[str, ...]


def token_roles(wordlist: WordList, tokenizer: "PreTrainedTokenizerBase", vocab_size: int) -> TokenRoles:
    """Find the tokens of a word list and their counterparts.

    A surface form that is one token can be moved. One word of several tokens is moved by its first token, if that is
    unique to it: it is more than a letter, no other surface form begins with it, and no vocabulary entry extends it but
    along the same word. Not so the first word of several (" police" of "police officer"), nor the beginning of a first
    name, which names share that are not listed. A row's form counts only where it can be moved in every group, and a
    token that two groups claim is left alone.

    Without a space in front, only capitalised words count ("He" at the start of a line or of a quotation), or words of
    a script without letter case. Elsewhere "he" and "HE" are mostly the end of a longer word (t-he, ac-he: 70% of the
    cases in English fiction with GPT-2's vocabulary, 92% with one of 8,192), and to move their mass would garble it.
    For the same reason, rows that hold as titles or first names only (Miss, John) count capitalised only, and names
    that are mostly something else (Will, Rose: `Row.ambiguous`) do not count.

    Args:
        wordlist: groups and rows. The roles of words with several counterparts play no part here: all are edges.
        tokenizer: of the model whose logits are mapped.
        vocab_size: V, the width of those logits.

    Raises:
        UserError: the tokenizer has ids that the logits have no place for.
    """
    vocabulary = _Vocabulary(tokenizer)
    if tokens_without_row(tokenizer, vocab_size):
        raise UserError(
            f"the tokenizer has {vocabulary.size} tokens, but the model predicts only {vocab_size}: "
            "give the tokenizer that the model was trained with"
        )
    rows = [row for row in wordlist.rows if not (row.ambiguous or row.generic)]
    forms = [(row.words, form) for row in rows for form in _surface_forms(row.words, row.when in CAPITALISED)]
    names = {word for row in rows if row.when == "name" for word in row.words}
    surfaces = {surface for _, form in forms for surface in form}
    whole_only = {s for s in surfaces if " " in s.strip() or s.strip().lower() in names}
    token_of = vocabulary.movable(surfaces, whole_only)
    claims = defaultdict(set)
    for _, form in forms:
        for group, surface in enumerate(form):
            claims[token_of.get(surface)].add(group)

    num_groups = wordlist.num_groups
    groups: list[set[int]] = [set() for _ in range(num_groups)]
    edges: list[set[tuple[int, int]]] = [set() for _ in range(num_groups - 1)]
    moved_words: set[str] = set()
    for words, form in forms:
        tokens = [token_of[surface] for surface in form if surface in token_of]
        if len(tokens) < len(form) or any(len(claims[token]) > 1 for token in tokens):
            continue
        moved_words.update(words)
        for group, token in enumerate(tokens):
            groups[group].add(token)
            for shift in range(1, num_groups):
                edges[shift - 1].add((token, tokens[(group - shift) % num_groups]))
    return TokenRoles(
        vocab_size,
        tuple(tuple(sorted(group)) for group in groups),
        tuple(tuple(sorted(shift)) for shift in edges),
        len(wordlist.words),
        tuple(word for word in wordlist.words if word not in moved_words),
    )


def tokens_without_row(tokenizer: "PreTrainedTokenizerBase", rows: int) -> list[int]:
    """Ids of a tokenizer's tokens that a head of so many rows has no place for.

    Special tokens are left out that begin, end or fill up no text. Text models of a family that also reads images may
    keep the token of an image in their tokenizer (Gemma 3 of 1B has 262,144 rows, and this token is number 262,144).
    Where a text holds it, see `architecture.require_rows`.
    """
    special = {i for i, token in tokenizer.added_tokens_decoder.items() if token.special}
    special -= {tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id, tokenizer.unk_token_id}
    return [i for i in tokenizer.get_vocab().values() if i >= rows and i not in special]


def _surface_forms(words: tuple[str, ...], capitalised_only: bool) -> Iterator[tuple[str, ...]]:
    """A row as it may be written: the same letter case and the same space in front for all its words."""
    initial = tuple(map(capitalised, words))
    spaced = [initial] if capitalised_only else [words, initial, tuple(word.upper() for word in words)]
    for form in dict.fromkeys(spaced):
        yield tuple(" " + word for word in form)
    yield initial  # in a script without letter case, this is the word itself


class _Vocabulary:
    """What is asked of a tokenizer."""

    def __init__(self, tokenizer: "PreTrainedTokenizerBase") -> None:
        self._tokenizer = tokenizer
        vocabulary = tokenizer.get_vocab()
        self._entries = sorted(vocabulary)
        self.size = 1 + max(vocabulary.values(), default=-1)
        self._encode = cache(lambda text: tuple(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]))

    def movable(self, surfaces: set[str], whole_only: set[str]) -> dict[str, int]:
        """Surface form -> the token that stands for it, for those that have one; whole_only: no first of several."""
        tokens = {surface: self._tokens(surface) for surface in surfaces}
        begins_with = defaultdict(set)  # letter cases may coincide (a tokenizer that lowers all): compare the tokens
        for ids in tokens.values():
            begins_with[ids[:1]].add(ids)
        return {
            surface: ids[0]
            for surface, ids in tokens.items()
            if len(ids) == 1
            or (ids and surface not in whole_only and len(begins_with[ids[:1]]) == 1 and self._only_begins(ids))
        }

    def _tokens(self, surface: str) -> tuple[int, ...]:
        """The tokens of a word in the middle of a text; none, if they cannot be told from those of the context."""
        for context in _BEFORE_SPACE if surface.startswith(" ") else _BEFORE_WORD:
            before, both = self._encode(context), self._encode(context + surface)
            if before and both[: len(before)] == before:
                tokens = both[len(before) :]
                return () if self._tokenizer.unk_token_id in tokens else tokens
        return ()

    def _only_begins(self, ids: tuple[int, ...]) -> bool:
        """Whether every vocabulary entry that extends the first of the tokens is a beginning of the same word.

        A single character, or a part of one, begins many words even where the vocabulary has none of them whole.
        """
        text = self._tokenizer.decode([ids[0]]).strip()
        if len(text) < 2 or "\N{REPLACEMENT CHARACTER}" in text:
            return False
        pieces = self._tokenizer.convert_ids_to_tokens(list(ids))
        first, word = pieces[0], "".join(pieces)
        start = bisect.bisect_left(self._entries, first)
        for entry in self._entries[start:]:
            if not entry.startswith(first):
                return True
            if not word.startswith(entry):
                return False
        return True
