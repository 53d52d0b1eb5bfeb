"""What `gpu.sh` measured so far -> gpu.json.

python tests/benchmarks/gpu_report.py WORK OUT      the parts' files in WORK, and OUT/gpu.log, become OUT/gpu.json
                                                    and, as they were saved, OUT/figures.json

The report is written anew after each part and while it runs, in the card's time: so torch is not loaded.
"""

import argparse
import json
import os
import re
from collections import Counter
from pathlib import Path
from typing import Any

Parts = dict[str, Any]  # part of gpu.sh -> what it saved

STOPPED = (124, 137)  # exit codes of `timeout`: it ended a part, or had to kill it


def of_contenders(figures: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Contender -> milliseconds, tokens a second, share of the matrix rate, peak, n, and how the n differ.

    n are steps of one run in what `step.py` found, and calls in what `loss.py` did; tokens are those that the student
    reads.
    """
    found = {}
    for name, record in figures["contenders"].items():
        least, most = record["seconds_range"]
        each = record.get("each_step", {"least": least, "most": most})
        found[name] = {
            "ms": 1000 * record["seconds"],
            "row_tokens_per_second": record["tokens_per_second"],
            "matrix_rate_share": record.get("matrix_rate_share"),
            "peak_gib": record["bytes"] / 2**30,
            "n": record.get("steps", record["runs"]),
            **{f"ms_{which}": 1000 * seconds for which, seconds in each.items()},
        }
    return found


def endings(work: Path) -> dict[str, dict[str, Any]]:
    """Part -> how it ended, and the seconds that it took, in the order in which they ran."""
    found = []
    for path in work.glob("*.ended"):
        code, start, end = path.read_text(encoding="utf-8").split()
        how = "well" if code == "0" else "stopped at its limit" if int(code) in STOPPED else f"with exit code {code}"
        found.append((float(start), path.stem, {"ended": how, "seconds": float(end) - float(start)}))
    return {name: ending for _, name, ending in sorted(found, key=lambda part: part[0])}


def outcomes_of_tests(log: str) -> dict[str, int]:
    """Outcome -> how many tests had it so far, from the lines of several processes of `pytest -v`."""
    found = re.findall(r"^\[gw\d+\] \[ *\d+%\] ([A-Z]+) ", log, flags=re.MULTILINE)
    return dict(Counter(map(str.lower, found)))


def steps(parts: Parts) -> dict[str, Any]:
    """The training steps: ours and the peers', and the compiled ones."""
    found: dict[str, Any] = {}
    for key, name in (("step", "step"), ("step_compiled", "compiled")):
        if name in parts:
            found[key] = of_contenders(parts[name])
            found.setdefault("setting", parts[name]["setting"])
            found.setdefault("matrix_rate_tflops", parts[name]["setting"]["matrix_rate_tflops"])
    return found


def losses_differ(parts: Parts) -> dict[str, Any]:
    """Contender -> by what share its losses are at most other than those of the first that computes the same."""
    first: dict[str, list[float]] = {}
    found = {}
    for name, record in parts.get("step", {"contenders": {}})["contenders"].items():
        own = record["losses"]
        if (want := first.setdefault(record["computes"], own)) is not own:
            found[name] = max(abs(a - b) / (abs(b) or 1) for a, b in zip(own, want, strict=True))
    return {"losses_differ": found} if found else {}


def loss_alone(parts: Parts) -> dict[str, Any]:
    """The loss alone, and where the card's time goes in ours."""
    if (figures := parts.get("loss")) is None:
        return {}
    found = {"loss": of_contenders(figures), "loss_setting": figures["setting"]}
    return found | ({"loss_card_ms_of_4096_tokens": figures["card"]} if "card" in figures else {})


def others(parts: Parts) -> dict[str, Any]:
    """What needs little more than its name."""
    found = {name: parts[name] for name in ("sampling", "suite") if name in parts}
    if "quickstart" in parts:
        found["quickstart_seconds_after_imports"] = parts["quickstart"]["after_imports"]
    return found | ({"sampling": found["sampling"]["sampling"]} if "sampling" in found else {})


def saved_in(work: Path) -> Parts:
    """Part -> the JSON that it saved."""
    files = sorted(work.glob("*.json"))
    return {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in files if path.stat().st_size}


def report(work: Path, log: str = "") -> dict[str, Any]:
    """All that was measured; what failed is missing, and what was stopped has what it had by then.

    Args:
        work: Folder of the parts' files: NAME.json, what a part saved, and NAME.ended, see `endings`.
        log: What all parts said.
    """
    parts, ended = saved_in(work), endings(work)
    found: dict[str, Any] = {"parts": ended}
    for section in (steps, losses_differ, loss_alone, others):
        try:
            found |= section(parts)
        except Exception as error:  # figures of a kind that nobody thought of: the other sections are told
            found.setdefault("unread", {})[section.__name__] = f"{type(error).__name__}: {error}"
    if ended.get("quickstart", {}).get("ended") == "well":
        found["quickstart_seconds"] = ended["quickstart"]["seconds"]
    if tests := outcomes_of_tests(log):
        found["tests"] = tests
    return found


def main() -> None:
    """Both files, of what there is."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("work", type=Path, help="where the parts of gpu.sh saved")
    parser.add_argument("out", type=Path, help="where gpu.json goes")
    options = parser.parse_args()
    log = options.out / "gpu.log"
    said = log.read_text(encoding="utf-8", errors="replace") if log.exists() else ""
    for name, content in (("figures", saved_in(options.work)), ("gpu", report(options.work, said))):
        partial = options.out / f"{name}.partial"
        partial.write_text(json.dumps(content, indent=2), encoding="utf-8")
        os.replace(partial, options.out / f"{name}.json")  # whole, whenever the script is ended


if __name__ == "__main__":
    main()
