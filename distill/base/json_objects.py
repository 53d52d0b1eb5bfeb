"""JSON whose objects hold each key once: Python keeps the last of several values, and loses the others silently."""

import json
import re
from collections import Counter
from typing import Any


class KeyTwiceError(Exception):
    """An object of JSON holds a key twice; the message says which."""

    def __init__(self, key: str) -> None:
        super().__init__(f"one object holds the key '{key[:60]}' twice; leave one of the two out")
        self.key = key


def unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object of JSON from its pairs, for `object_pairs_hook`. Raises KeyTwiceError."""
    found = dict(pairs)
    if len(found) < len(pairs):
        raise KeyTwiceError(next(key for key, times in Counter(key for key, _ in pairs).items() if times > 1))
    return found


def line_of_second(key: str, text: str) -> int | None:
    """The line of a text of JSON in which a key stands for the second time; None where it stands there more often."""
    places = [match.start() for match in re.finditer(re.escape(json.dumps(key, ensure_ascii=False)) + r"\s*:", text)]
    return text.count("\n", 0, places[1]) + 1 if len(places) == 2 else None
