"""A text -> which of its words stand in prose, and not in a link, an address, a tag, code or a file's name.

Swapped there, a word breaks what it is part of: `https://example.org/his/man.html`, `<a title="his house">`.
Two kinds are told apart:

- what may hold spaces (tags and code) is searched for in the whole text, and only where it has their first character;
- everything else reaches from white space to white space, and is looked at only where a mark that it needs adjoins the
  word.
"""

import re
from bisect import bisect_left
from collections.abc import Sequence

# A script, a style, a block of code or a comment with what it holds; a tag; code between backticks, which in TeX only
# open a quotation: `his' house. An opening backtick follows no letter, a closing one comes before none.
_BLOCKS = re.compile(
    r"<(script|style|code|pre|kbd|samp)\b[^<>]*>.*?</\1\s*>|<!--.*?-->|</?[a-zA-Z!?][^<>]{0,2000}>"
    r"|^(?:```|~~~)[^\n]*\n.*?^(?:```|~~~)|```.*?```|(?<![`\w])(`{1,2})(?=[^\s`])[^`\n]*?(?<=[^\s`])\2(?![`\w])",
    re.DOTALL | re.IGNORECASE | re.MULTILINE,
)
_BLOCK_BEGINS = re.compile("[<`~]")  # every one of them; far faster to search for
# Marks that adjoin a word in a link, an address, a path, a handle, a hashtag or a file's name.
MARKS = frozenset("/@#.\\=&:-+%?~$")
_LONGEST_RUN = 300
RUN_ENDS = frozenset(("", *' \t\n\r\f\v\xa0<>"“”'))
_EXTENSIONS = (
    "avi|bat|bin|bmp|c|cc|cfg|conf|cpp|cs|css|csv|dll|docx?|eps|epub|exe|flac|gif|go|gz|h|hpp|html?|ini|ipynb|iso|jar|"
    "java|jpe?g|js|json|jsonl|jsx|log|lua|md|mkv|mov|mp3|mp4|mpeg|odt|ogg|pdf|php|pl|png|ppt|pptx|ps|psd|py|rar|rb|rs|"
    "rst|rtf|sh|sql|srt|svg|swf|tar|tex|tiff?|toml|ts|tsv|tsx|ttf|txt|wav|webm|webp|wmv|xhtml|xlsx?|xml|ya?ml|zip"
)
_DOMAINS = "ac|app|au|biz|blog|br|ca|cc|ch|cn|co|com|de|dev|edu|es|eu|fm|fr|gov|info|io|jp|ly|mil|net|nl|nz|org|pl|ru|"
_DOMAINS += "se|tv|uk|us|xyz"
_NO_PROSE = re.compile(
    r"://|^www\.|^mailto:"
    r"|[\w.+-]@[\w-]+\.\w"  # an e-mail address
    r"|^[(\[]?[@#]\w|[,;/(\[][@#]\w"  # a handle, a hashtag
    rf"|\w\.(?:{_EXTENSIONS})(?:[)\].,;:!?'’]*$|[/?#:])"  # a file
    rf"|\w\.(?:{_DOMAINS})(?:[)\],;:!?'’]|\.?$|[/?#:])"  # a domain
    r"|^[(\[]?(?:~|\.{1,2}|[A-Za-z]:)?[/\\]\w"  # a path from the root
    r"|\\\w|\w/\w*[_\d]\w*/|/\w+\.\w+$|\w/[\w-]+/[\w-]+/\w"  # a path: more than three parts, or odd ones
    r"|^--?[\w-]+=|^\$[a-z_]|\w=\w|\w[?&]\w+="  # an option, a variable, a query
    r"|\w::\w|\w\(\)"  # code
)
_NEEDED = frozenset(":.@#/\\=$(")  # `_NO_PROSE` finds nothing without one of these
# Three and more words of prose between slashes: he/she/they, mother/father/son/daughter.
_ONLY_WORDS = re.compile(r"[(\[]?[A-Za-z'’-]+(?:/[A-Za-z'’-]+)*[)\].,;:!?'’]*")


def blocks(text: str) -> list[tuple[int, int]]:
    """[start, end) of tags and code, with what they hold, from left to right."""
    if "<" not in text and "`" not in text and "~" not in text:
        return []
    spans, position = [], 0
    while begins := _BLOCK_BEGINS.search(text, position):
        position = begins.end()
        if block := _BLOCKS.match(text, begins.start()):
            spans.append(block.span())
            position = block.end()
    return spans


#: Without one of these in a text, only what is joined by the others of `MARKS` may be no prose: her.txt, www.her.com.
SIGNS = ("/", "@", "#", "\\", "=", "&", "+", "%", "~", "$", "www.", "()")
JOINED = frozenset(".-:")


def is_prose(text: str, start: int, end: int, of_text: Sequence[tuple[int, int]]) -> bool:
    """Whether the word [start, end) stands in prose.

    of_text: the `blocks` of the text.
    """
    if of_text:
        nearest = bisect_left(of_text, (end,)) - 1  # the last that begins before the word ends
        if nearest >= 0 and start < of_text[nearest][1]:
            return False
    before, after = text[start - 1 : start], text[end : end + 1]
    if before not in MARKS and after not in MARKS:
        return True
    if before not in MARKS and text[end + 1 : end + 2] in RUN_ENDS:  # a full stop, a dash
        return True
    first, last = start, min(len(text), end + _LONGEST_RUN)
    while first and first > start - _LONGEST_RUN and text[first - 1] not in RUN_ENDS:
        first -= 1
    while end < last and text[end] not in RUN_ENDS:
        end += 1
    run = text[first:end]
    if _NEEDED.isdisjoint(run):
        return True
    return _NO_PROSE.search(run) is None or _is_slashed(run)


def _is_slashed(run: str) -> bool:
    """Whether a run is words between slashes: he/him/his/himself."""
    return "/" in run and not run.startswith("/") and _ONLY_WORDS.fullmatch(run) is not None
