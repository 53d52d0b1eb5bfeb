"""The typed fields of a recipe -> the table of keys in recipes/README.md.

`python -m distill.recipe_docs` writes the table anew; a test holds it to be current.
"""

import types
from collections.abc import Iterator
from dataclasses import MISSING, Field, fields
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

import docstring_parser  # the parser by which the command line's help reads the same docstrings
import yaml

from distill.base.markdown_text import between_markers
from distill.recipe import Recipe, section_type

README = Path(__file__).resolve().parent.parent / "recipes" / "README.md"
BEGIN, END = "<!-- keys: made by python -m distill.recipe_docs -->", "<!-- /keys -->"

_TYPE_NAMES = {str: "text", int: "integer", float: "number", bool: "true or false", type(None): "null", Any: "anything"}


def descriptions(section: type) -> dict[str, str]:
    """What the docstring of a recipe's dataclass says of each of its fields, as one line."""
    parsed = docstring_parser.parse(section.__doc__ or "")
    return {param.arg_name: " ".join((param.description or "").split()) for param in parsed.params}


def key_tables() -> str:
    """Markdown: the keys of a recipe's top level in one table, and each section's under a heading of its own."""
    about = descriptions(Recipe)
    parts = ["\n".join(_table(Recipe))]
    shown: dict[Any, str] = {}
    for f in fields(Recipe):
        if (section := section_type(f.type)) is None:
            continue
        first = shown.setdefault(section, f.name)
        table = "\n".join(_table(section, f"{f.name}."))
        parts += [f"### {f.name}", about[f.name], table if first == f.name else f"Its keys are those of `{first}`."]
    return "\n\n".join(parts)


def _table(section: type, prefix: str = "") -> Iterator[str]:
    yield from ("| key | type | default | meaning |", "|---|---|---|---|")
    yield from _rows(section, prefix)


def _rows(section: type, prefix: str) -> Iterator[str]:
    """Of a section; a section within it comes in its place, but those of the whole recipe have tables of their own."""
    about = descriptions(section)
    for f in fields(section):
        if inner := section_type(f.type):
            yield from _rows(inner, f"{prefix}{f.name}.") if prefix else ()
        else:
            cells = (f"`{prefix}{f.name}`", type_name(f.type), f"`{_default(f)}`", about[f.name])
            yield f"| {' | '.join(cell.replace('|', '&#124;') for cell in cells)} |"


def type_name(annotation: Any) -> str:
    """How a reader of YAML calls a type."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return ", ".join(f"`{value}`" for value in arguments)
    if origin in (Union, types.UnionType):
        return " or ".join(type_name(argument) for argument in arguments)
    if origin is list:
        return f"list of {type_name(arguments[0])}"
    if origin is dict:
        return "mapping"
    return _TYPE_NAMES[annotation]


def _default(f: Field) -> str:
    value = f.default_factory() if f.default_factory is not MISSING else f.default
    return yaml.safe_dump(value, default_flow_style=True, width=10_000).removesuffix("\n").removesuffix("\n...")


def with_key_tables(text: str) -> str:
    """The text of recipes/README.md with its tables made anew."""
    return between_markers(text, BEGIN, END, f"\n{key_tables()}\n")


if __name__ == "__main__":
    README.write_text(with_key_tables(README.read_text(encoding="utf-8")), encoding="utf-8")
