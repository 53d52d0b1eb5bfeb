"""constraints.txt -> DEPENDENCIES.md beside this file: every pinned package, its version and its licence.

Run it in an environment where the pins are installed: `python tests/benchmarks/dependencies.py`. The licence is what
the package says of itself: the expression in its metadata, else its classifiers, else the first line of its licence
field. A package that is not installed keeps the licence that the table has.
"""

import re
from importlib import metadata
from pathlib import Path

CONSTRAINTS = Path(__file__).resolve().parents[2] / "constraints.txt"
TABLE = Path(__file__).with_name("DEPENDENCIES.md")
_HEAD = """# Dependencies

Every package that `constraints.txt` pins, with the licence that it states. Made by `python
tests/benchmarks/dependencies.py`; a test holds it to be current. It is no audit of their code. Known vulnerabilities
are looked up by `pip-audit -r constraints.txt --no-deps --disable-pip`, which needs the network.

| package | version | licence |
|---|---|---|
"""


def pins() -> dict[str, str]:
    """Package -> version of every pin."""
    lines = CONSTRAINTS.read_text(encoding="utf-8").splitlines()
    return dict(line.split("==") for line in lines if line and not line.startswith("#"))


def installed(name: str) -> str | None:
    """The installed version of a package."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def licence_of(name: str) -> str:
    """What an installed package says of its licence, in one line."""
    about = metadata.metadata(name)
    if expression := about.get("License-Expression"):
        return expression
    classifiers = [c.split(" :: ")[-1] for c in about.get_all("Classifier", []) if c.startswith("License :: ")]
    stated = [c for c in classifiers if c != "OSI Approved"]
    if stated:
        return ", ".join(stated)
    first = (about.get("License") or "").strip().splitlines()[:1]
    return " ".join(first).replace("|", "/") or "not stated"


def read_table() -> dict[str, tuple[str, str]]:
    """Package -> (version, licence) as the table has it."""
    rows = re.findall(r"^\| ([\w.-]+) \| (\d\S*) \| (.*) \|$", TABLE.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return {name: (version, licence) for name, version, licence in rows}


def main() -> None:
    known = read_table() if TABLE.exists() else {}
    rows = []
    for name, version in pins().items():
        licence = licence_of(name) if installed(name) else known.get(name, ("", "not installed"))[1]
        rows.append(f"| {name} | {version} | {licence} |\n")
    TABLE.write_text(_HEAD + "".join(rows), encoding="utf-8")


if __name__ == "__main__":
    main()
