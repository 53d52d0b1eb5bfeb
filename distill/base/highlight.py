"""Texts with their listed words marked by group, for a terminal; without colours, the words stand in brackets."""

from collections.abc import Iterable, Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

# Told apart by people who see red and green alike, on dark and on light ground.
_COLOURS = ("bold blue", "bold dark_orange3", "bold magenta", "bold cyan", "bold yellow4")


def marked(text: str, words: Iterable[Sequence[int]], colours: bool, groups: Sequence[str] = ()) -> Text:
    """The text with words marked.

    Args:
        text: Any text; what a terminal would take for a command is shown, not obeyed.
        words: (start, end, group) of each, in characters, from left to right.
        colours: Whether the terminal has colours; brackets otherwise.
        groups: Names of the groups, to stand in the brackets too.
    """
    out, position = Text(), 0
    for start, end, group in words:
        out.append(_harmless(text[position:start]))
        word = _harmless(text[start:end])
        name = f"{_harmless(groups[group])}: " if groups else ""
        out.append(word if colours else f"[{name}{word}]", style=_COLOURS[group % len(_COLOURS)])
        position = end
    out.append(_harmless(text[position:]))
    return out


def side_by_side(headings: Sequence[str], console: Console | None = None) -> Table:
    """An empty table of texts, one column a heading, for `add_row` and a console."""
    table = Table(show_lines=True, expand=console is None or console.is_terminal)
    for heading in headings:
        table.add_column(heading, ratio=1, overflow="fold")
    return table


def _harmless(text: str) -> str:
    """Control characters as visible signs."""
    return "".join(c if c.isprintable() or c == " " else f"\\x{ord(c):02x}" for c in text)
