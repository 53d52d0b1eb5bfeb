"""How a study was made: machine, commit, and the seconds that its parts took, which add up over calls in seconds.json.

What study.json and study.md tell of it, and nothing that a score depends on.
"""

import json
import platform
import resource
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from distill import __version__
from distill.base.cores import threads_given, usable_cores
from distill.base.files import PACKAGE, write_json
from distill.study.schema import Study

_SECONDS = "seconds.json"


def threads(study: Study) -> int:
    """Threads of each job: the cores are shared, unless the caller has set their number."""
    return torch.get_num_threads() if threads_given() else max(1, usable_cores() // study.jobs)


def machine(study: Study) -> dict[str, Any]:
    """{"gpu", "processor", "cores", "jobs", "threads"}: what the hours are hours of."""
    return {
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "processor": f"{platform.machine()} with {torch.backends.cpu.get_cpu_capability()}",
        "cores": usable_cores(),
        "jobs": study.jobs,
        "threads": threads(study),
    }


def commit() -> str:
    """The commit of this code, with `-dirty` where it was changed since; the version where git does not know it."""
    git = ["git", "-C", str(PACKAGE)]
    asked: dict[str, Any] = {"capture_output": True, "text": True, "check": True}
    try:
        # Installed into an environment inside another project, it is no file of that project's repository.
        subprocess.run([*git, "ls-files", "--error-unmatch", "__init__.py"], **asked)
        return subprocess.run([*git, "describe", "--always", "--dirty", "--exclude", "*"], **asked).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return f"version {__version__}"


def published_command(file: str, data: str | None, seeds: str | None, rows: str | None, jobs: int | None) -> str:
    """The command of a study by the options that it was given, without what is nobody's business: paths."""
    given = {"data": "DIR" if data else None, "seeds": seeds, "rows": rows, "jobs": jobs}
    named = Path(file).name if Path(file).is_absolute() else file
    options = [f"--{name} {value}" for name, value in given.items() if value is not None]
    return " ".join(["distill study", named, *options])


def children_seconds() -> float:
    """Processor time of all child processes that have ended."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def _seconds(out: Path) -> dict[str, dict[str, float]]:
    """Part of the study -> {"wall", "processor"}: what it has taken so far, in all calls together."""
    return json.loads((out / _SECONDS).read_text(encoding="utf-8")) if (out / _SECONDS).exists() else {}


def spend(out: Path, part: str, wall: float, processor: float) -> None:
    """Add seconds to what a part of the study has taken; what a kill cuts off is not counted."""
    spent = _seconds(out)
    before = spent.get(part, {"wall": 0.0, "processor": 0.0})
    spent[part] = {"wall": before["wall"] + wall, "processor": before["processor"] + processor}
    write_json(out / _SECONDS, spent)


@contextmanager
def timed(out: Path, part: str) -> Iterator[None]:
    """Add the seconds of the body to those of a part of the study in the folder `out`."""
    wall, processor = time.monotonic(), time.process_time()
    yield
    spend(out, part, time.monotonic() - wall, time.process_time() - processor)


def hours(out: Path) -> dict[str, dict[str, float]]:
    """Part of the study -> {"wall", "processor"} hours so far."""
    parts = _seconds(out).items()
    return {part: {of: round(seconds / 3600, 3) for of, seconds in times.items()} for part, times in parts}
