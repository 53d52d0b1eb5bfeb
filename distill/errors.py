"""What the user can mend: the one exception for it, and the hint that goes with a misspelt name."""

import difflib
import os
from collections.abc import Iterable

_FEW = 8  # names that a hint may list


class UserError(Exception):
    """A mistake in the user's input.

    The message is one clear sentence that names the file, line, key or option, and a hint. Entry points print it
    without a traceback and exit with code 2.
    """


def suggestion(word: str, known: Iterable[str]) -> str:
    """A hint for a misspelt name: the nearest known ones, and all of them where they are few or none is near."""
    known = list(known)
    near = difflib.get_close_matches(word, known, n=3, cutoff=0.6)
    everything = f"known are: {', '.join(known)}"
    if not near:
        return everything
    return f"did you mean {' or '.join(repr(n) for n in near)}?" + (f" ({everything})" if len(known) <= _FEW else "")


def hub_hint() -> str:
    """What to do where something cannot be had from the hub."""
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE"):
        return "HF_HUB_OFFLINE is set, so it must be in the cache: unset it, or give a local path"
    return "check the name and the network, or give a local path"
