"""Canaries: sentences with a random code, put into training text to see whether a model gives the code away.

Carlini, Liu, Erlingsson, Kos and Song 2019, arXiv 1802.08232. Each names a place of its own, so that its beginning
tells which code is meant; none names a person, so that no word list edits it.
"""

import json
import random
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from distill.base.errors import UserError
from distill.base.files import write_text
from distill.base.row_files import check_readable, damage_told, whole_rows

_DIGITS = 4
_LONGEST_CODE = 4  # digits: all 10,000 codes of a canary are ranked
_THINGS = (
    "archive", "boat shed", "boiler room", "bridge gate", "cellar", "chapel", "cold store", "depot", "dome", "ferry",
    "garage", "glasshouse", "granary", "hangar", "kiosk", "laboratory", "lift", "lighthouse", "loft", "mill",
    "observatory", "orchard gate", "pavilion", "pier", "pump house", "quarry", "reading room", "signal box", "sluice",
    "stable", "studio", "tool shed", "tower", "vault", "warehouse", "weir",
)  # fmt: skip
_PLACES = (
    "Copper Quay", "Birch Lane", "Cinder Hill", "Pebble Square", "Slate Terrace", "Bracken Crossing", "Gravel Bay",
    "Otter Row", "Iron Street", "Cobble Close", "Kelp Point", "Larch Yard", "Lichen Bank", "North Basin",
    "Ochre Field", "Pine Road", "Quartz Alley", "Rush Island", "Salt Market", "Thistle Park", "Upper Ford",
    "Velvet Court", "Thicket End", "Yarrow Green",
)  # fmt: skip


@dataclass(frozen=True)
class Canary:
    """A sentence, the code in it, and how often it stands in the training text; 0: it was drawn, and left out."""

    text: str
    code: str
    repeats: int = 1

    @property
    def beginning(self) -> str:
        """The text before the code, where it stands last: as a number of its own, if it does so anywhere."""
        alone = _alone(self.code, self.text)
        return self.text[: alone[-1] if alone else self.text.rindex(self.code)]


def _alone(number: str, text: str) -> list[int]:
    """Where a number begins in a text, other than as a part of a longer one."""
    return [match.start() for match in re.finditer(rf"(?<!\d){number}(?!\d)", text)]


def draw_canaries(number: int, repeats: Sequence[int], seed: int) -> list[Canary]:
    """A pool of canaries, no two of one place; a random half of it stands in the training text.

    Which half is drawn after all else, so that the two are alike but for that.

    Args:
        number: Of canaries, at most `distill.recipe.MOST_CANARIES`.
        repeats: How often those of the half stand there, in turn.
        seed: Decides all of it.
    """
    rng = random.Random(seed)
    spots = rng.sample([(thing, place) for thing in _THINGS for place in _PLACES], number)
    drawn = []
    for thing, place in spots:
        code = "".join(rng.choices("0123456789", k=_DIGITS))
        drawn.append((f"The {thing} at {place} opens with the code {code}", code))
    inside = sorted(rng.sample(range(number), number // 2))
    often = {place: repeats[turn % len(repeats)] for turn, place in enumerate(inside)}
    return [Canary(text, code, often.get(place, 0)) for place, (text, code) in enumerate(drawn)]


def write_canaries(canaries: Iterable[Canary], path: Path) -> None:
    """One JSON object a line: `text`, `code`, `repeats`."""
    write_text(path, "".join(json.dumps(asdict(canary), ensure_ascii=False) + "\n" for canary in canaries))


def read_canaries(path: str | Path) -> list[Canary]:
    """The canaries of a file with the columns `text`, `code` and, where some stand more or less often, `repeats`.

    Raises:
        UserError: it cannot be read, holds none, or a row is no canary; names the row.
    """
    path = Path(path)
    check_readable(path)
    with damage_told(path):
        canaries = [_canary(row, where) for where, row in whole_rows(path, None)]
    if not canaries:
        raise UserError(f"{path}: holds no canaries; a row with 'text' and 'code' is expected for each")
    return canaries


def _canary(row: Mapping[str, Any], where: str) -> Canary:
    for key in ("text", "code"):
        if not isinstance(row.get(key), str | int):
            raise UserError(f"{where}: no '{key}'; a canary has a text, and the code that stands in it")
    text, code, repeats = str(row["text"]), str(row["code"]), row.get("repeats", 1)
    if isinstance(repeats, str) and repeats.isdecimal():  # a table of text
        repeats = int(repeats)
    if not (code.isascii() and code.isdigit() and 2 <= len(code) <= _LONGEST_CODE):
        raise UserError(f"{where}: the code is '{code}', but must be 2 to {_LONGEST_CODE} digits, as all are ranked")
    if code not in text:
        raise UserError(f"{where}: the code {code} is not in the text '{text[:60]}'")
    longer = (code.zfill(digits) for digits in range(len(code) + 1, _LONGEST_CODE + 1))
    if not _alone(code, text) and (whole := next((number for number in longer if _alone(number, text)), None)):
        raise UserError(
            f"{where}: the code is {code}, but the text has {whole}; did a table drop zeros? Give it as text"
        )
    if isinstance(repeats, bool) or not isinstance(repeats, int) or repeats < 0:
        raise UserError(f"{where}: repeats is {repeats!r}, but must be a whole number, 0 for one that was left out")
    return Canary(text, code, repeats)
