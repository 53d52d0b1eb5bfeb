"""Markdown: foreign text stays text, in its cell; what a program writes stays between its markers."""

import html
import re
from collections.abc import Iterable, Sequence


def escape(text: str) -> str:
    """Foreign text as literal Markdown in one line: no markup, no HTML, no cell or line breaks."""
    text = re.sub(r"\s*[\n\r\v\f\x85\u2028\u2029]\s*", " ⏎ ", text)
    text = html.escape(re.sub(r"[\x00-\x1f\x7f]", " ", text), quote=False)
    return re.sub(r"([\\`*_{}\[\]#|~!$@:])", r"\\\1", text).strip()


def table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Lines of a table, and the blank line that ends it. Headings and cells are escaped here."""
    lines = [f"| {' | '.join(map(escape, headings))} |", f"|{'---|' * len(headings)}"]
    return [*lines, *(f"| {' | '.join(map(escape, row))} |" for row in rows), ""]


def items(sentences: Iterable[str]) -> list[str]:
    """A bulleted list, and the blank line that ends it. The sentences are escaped here."""
    return [*(f"- {escape(sentence)}" for sentence in sentences), ""]


def between_markers(text: str, begin: str, end: str, content: str) -> str:
    """The same text with other content between its two markers, which have lines of their own."""
    before, _, rest = text.partition(begin)
    _, _, after = rest.partition(end)
    return f"{before}{begin}\n{content}\n{end}{after}"
