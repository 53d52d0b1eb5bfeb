"""Foreign text in Markdown: it stays text, in its cell."""

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
