"""How fast models read and wrote in each phase of a run: `phases.json` in its folder.

A clock tells it, so no result holds it. Training has a record of its own, `training/NAME.json`.
"""

import json
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from distill.base.files import write_json

_FILE = "phases.json"
_KEYS, _SHARE = ("seconds", "tokens", "tokens_per_second"), "matrix_rate_share"
_ABSURD = 1e30  # no time or number of tokens; what was damaged may be a whole number that no float holds

PhaseSpeeds = dict[str, dict[str, float]]


def read_phase_speeds(folder: Path) -> PhaseSpeeds:
    """Phase -> `seconds`, `tokens`, `tokens_per_second` and, where the card's rate is known, `matrix_rate_share`.

    Of phases that came to their end, those of earlier parts of a run among them; of one that was stopped on its way,
    the part that ended it. What cannot be read is left out.
    """
    try:
        found = json.loads((folder / _FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    whole = {name: of_phase for name, of_phase in found.items() if _is_whole(of_phase)} if type(found) is dict else {}
    known = (*_KEYS, _SHARE)
    return {name: {key: of_phase[key] for key in known if key in of_phase} for name, of_phase in whole.items()}


def _is_whole(of_phase: Any) -> bool:
    if not (isinstance(of_phase, dict) and of_phase.keys() >= set(_KEYS)):
        return False
    numbers = [of_phase[key] for key in _KEYS] + [of_phase.get(_SHARE, 0.0)]
    return all(type(n) in (int, float) and 0 <= n < _ABSURD for n in numbers)


def phase_speeds_kept(folder: Path) -> Callable[[str, float, int, float], None]:
    """What adds to the record of a run, as `phases.Plan` calls it.

    Args:
        folder: The run's.
    """

    def keep(phase: str, seconds: float, tokens: int, at_matrix_rate: float) -> None:
        speeds = read_phase_speeds(folder)
        before = speeds.get(phase, {"seconds": 0.0, "tokens": 0})
        least = at_matrix_rate + before["seconds"] * before.get(_SHARE, 0.0)
        seconds, tokens = seconds + before["seconds"], tokens + int(before["tokens"])
        share = {_SHARE: least / seconds} if least else {}
        speeds[phase] = {"seconds": seconds, "tokens": tokens, "tokens_per_second": tokens / seconds, **share}
        with suppress(OSError):  # a full disk is told of by what matters
            write_json(folder / _FILE, speeds)

    return keep
