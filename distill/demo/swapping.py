"""A pasted text and a word list -> both texts with the edits marked, as JSON, and the mistakes of a list by line."""

import io
import tempfile
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Lock

from distill.base.errors import UserError
from distill.base.long_input import lines_in_parts
from distill.text.counterfactual import Counterfactual, Swapper
from distill.text.swap_lines import Line, as_json, as_pair, as_text, swap_lines
from distill.text.wordlist import WordList, bundled_wordlists, load_wordlist, wordlist_mistakes
from distill.text.wordlist_check import check_wordlist

MOST_CHARACTERS = 20_000  # of a text
MOST_BYTES = 1_000_000  # of a word list
_KEPT = 8  # lists that stay compiled
_SWAPPERS: OrderedDict[str, Swapper] = OrderedDict()
_GUARD = Lock()

# [start, end, group] of each edited word.
Places = list[tuple[int, int, int]]


@dataclass(frozen=True)
class Swapped:
    """A text and its counterfactual.

    Args:
        text, counterfactual: Both texts.
        edits, counterfactual_edits: Where the edits stand in each, with the group of the listed words; -1 for what
            follows their form (an earl, a countess).
        json: A line for each line of the text, as `distill swap - --json` prints it.
        skipped: Sentences that were left alone for a word to skip.
        no_prose: Words that were left alone in links, tags and code.
    """

    text: str
    counterfactual: str
    edits: Places
    counterfactual_edits: Places
    json: str
    skipped: int
    no_prose: int


@dataclass(frozen=True)
class ListSeen:
    """A word list as `distill wordlist check` sees it; `wordlist` is None where it has a mistake."""

    wordlist: WordList | None
    mistakes: tuple[str, ...] = ()
    suspicions: tuple[str, ...] = ()


def bundled_names(first: str) -> list[str]:
    """The word lists that may be chosen: that of the page, then those that come with distill."""
    usable = [name for name, path in bundled_wordlists().items() if not wordlist_mistakes(path)]
    return list(dict.fromkeys([first, *usable]))


def uploaded(content: bytes, name: str) -> ListSeen:
    """A word list of the user's, with what `distill wordlist check` says of it.

    Args:
        content: The file.
        name: What it is called, for messages.

    Raises:
        UserError: it is too large, or no text.
    """
    if len(content) > MOST_BYTES:
        raise UserError(f"{name}: larger than {MOST_BYTES // 10**6} MB; is it the right file? Split it if it is")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "list.tsv"
        path.write_bytes(content)
        try:
            check = check_wordlist(path)
            if check.mistakes:
                return ListSeen(None, tuple(mistake.replace(str(path), name) for mistake in check.mistakes))
            told = tuple(str(suspicion).replace(str(path), name) for suspicion in check.suspicions)
            return ListSeen(load_wordlist(path), (), told)
        except UserError as error:
            raise UserError(str(error).replace(str(path), name)) from None


def shifts(wordlist: WordList) -> list[str]:
    """What each shift does, from 1 on: `male to female, female to neutral, neutral to male`."""
    groups = wordlist.groups
    number = len(groups)
    return [
        ", ".join(f"{groups[g]} to {groups[(g + shift) % number]}" for g in range(number)) for shift in range(1, number)
    ]


def swap(text: str, wordlist: WordList, shift: int = 1) -> Swapped:
    """Both texts; each line is a text of its own, as `distill swap` reads them.

    Raises:
        UserError: the text is empty or too long, the list cannot be matched or has no such shift.
    """
    if not text.strip():
        raise UserError("there is no text yet: paste or type one")
    if len(text) > MOST_CHARACTERS:
        raise UserError(
            f"the text has {len(text):,} characters, and at most {MOST_CHARACTERS:,} are taken here; "
            "for long texts: distill swap FILE"
        )
    if not 1 <= shift < wordlist.num_groups:
        raise UserError(f"the list {wordlist.name} has {wordlist.num_groups} groups, so no shift {shift}; choose again")
    swapper = swapper_of(wordlist)
    lines = list(lines_in_parts(io.BytesIO(text.encode(errors="replace")), "the text", MOST_CHARACTERS))
    pairs: list[tuple[Line, Counterfactual]] = [
        (line, found) for line, (_, found) in zip(lines, swap_lines(lines, swapper, shift, 1, as_pair), strict=True)
    ]
    before: Places = []
    after: Places = []
    start = cf_start = 0
    for (line, ending), found in pairs:
        groups = {(match.start, match.end): match.group for match in swapper.matches(line)}
        for span in found.spans:
            group = groups.get((span.start, span.end), -1)
            before.append((start + span.start, start + span.end, group))
            other = (group + shift) % wordlist.num_groups if group >= 0 else -1
            after.append((cf_start + span.cf_start, cf_start + span.cf_end, other))
        start += len(line) + len(ending)
        cf_start += len(found.text) + len(ending)
    return Swapped(
        "".join(line + ending for (line, ending), _ in pairs),
        "".join(as_text(line, found) for line, found in pairs),
        before,
        after,
        "".join(as_json(line, found) + "\n" for line, found in pairs),
        sum(found.skipped for _, found in pairs),
        sum(found.no_prose for _, found in pairs),
    )


def swapper_of(wordlist: WordList) -> Swapper:
    """The list's swapper; the last few are kept, as to compile one takes a moment."""
    key = f"{wordlist.sha256} {wordlist.metadata.get('language', '')}"
    with _GUARD:
        if key in _SWAPPERS:
            _SWAPPERS.move_to_end(key)
            return _SWAPPERS[key]
    swapper = Swapper(wordlist)
    with _GUARD:
        _SWAPPERS[key] = swapper
        if len(_SWAPPERS) > _KEPT:
            _SWAPPERS.popitem(last=False)
    return swapper


def sentence(swapped: Swapped) -> str:
    """What happened, in one sentence."""
    number = len(swapped.edits)
    told = "nothing to swap" if not number else f"{number} edit{'s' * (number > 1)}"
    if swapped.skipped:
        told += f"; {_several(swapped.skipped, 'sentence')} with a word to skip left alone"
    if swapped.no_prose:
        told += f"; {_several(swapped.no_prose, 'word')} in links, tags or code left alone"
    return told


def _several(number: int, what: str) -> str:
    return f"{number} {what}{'s' * (number > 1)}"


def group_places(places: Sequence[tuple[int, int, int]], num_groups: int) -> list[list[int]]:
    """Places for `page.marked`: what belongs to no group gets an index of its own behind them."""
    return [[start, end, group if group >= 0 else num_groups] for start, end, group in places]
