"""The processor cores that this process may use, and how its threads share them with other work.

torch reads these settings from the environment as it is loaded, so they are made before; no torch is loaded here.
"""

import math
import os
from collections.abc import Iterator, MutableMapping
from pathlib import Path

NUM_THREADS = "OMP_NUM_THREADS"

# libgomp, the OpenMP that torch's wheels for Linux bring, lets a thread that waits spin for 300,000 turns before it
# sleeps: up to 20 ms, in which it keeps the thread that it waits for from a core that other work leaves to the two. A
# thirtieth of it bridges what one thread does alone between two operations of both, which a hundredth does not where an
# idle core is slow to wake, and is over before a scheduler's turn is. Measured in tests/benchmarks/CORE.md.
_SPIN = {"GOMP_SPINCOUNT": "10000"}
_HOW_TO_WAIT = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")

_CGROUPS = Path("/sys/fs/cgroup")
_OWN_CGROUPS = Path("/proc/self/cgroup")

_threads_set_here = False


def share_cores(environment: MutableMapping[str, str] = os.environ) -> None:
    """Let threads wait briefly, and be no more than the quota allows; what the user has set stays.

    To be called before torch is loaded; what this process starts inherits it.

    Args:
        environment: Changed.
    """
    global _threads_set_here
    if not any(name in environment for name in _HOW_TO_WAIT):
        environment.update(_SPIN)
    # OpenMP keeps to the affinity by itself.
    if NUM_THREADS not in environment and (cores := usable_cores()) < affine_cores():
        environment[NUM_THREADS] = str(cores)
        _threads_set_here = True


def threads_given() -> bool:
    """Whether the number of threads was set from outside."""
    return NUM_THREADS in os.environ and not _threads_set_here


def affine_cores() -> int:
    """The cores that the scheduler may put this process on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def usable_cores(cgroups: Path = _CGROUPS, own: Path = _OWN_CGROUPS) -> int:
    """As many cores as this process may keep busy: those of its affinity, or its control groups' quota if less.

    Part of a core counts as one.

    Args:
        cgroups: Where control groups are mounted.
        own: Names those of this process, as proc(5) has it.
    """
    return min([affine_cores(), *(max(1, math.ceil(quota)) for quota in _quotas(cgroups, own))])


def _quotas(cgroups: Path, own: Path) -> Iterator[float]:
    """Cores that each control group above this process allows it."""
    for folder, version in control_groups("cpu", cgroups, own):
        quota = _version_1(folder) if version == 1 else _version_2(folder)
        if quota is not None:
            yield quota


def control_groups(controller: str, cgroups: Path = _CGROUPS, own: Path = _OWN_CGROUPS) -> Iterator[tuple[Path, int]]:
    """Folder and version of each control group above this process; a group binds all that are in it.

    In a container the file names groups as the machine does, and the container's own is mounted as the root.

    Args:
        controller: What they bind, such as `cpu` or `memory`.
        cgroups, own: See `usable_cores`.
    """
    try:
        lines = own.read_text(encoding="utf-8").splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        mount = cgroups / controller if controllers else cgroups  # version 1, or 2, which names no controllers
        group = mount / path.lstrip("/")
        for folder in (group, *group.parents):
            yield folder, 1 if controllers else 2
            if folder == mount:
                break


def _version_2(group: Path) -> float | None:
    """Of `cpu.max`: "150000 100000" are microseconds of processor time in so many of the clock; "max" is no bound."""
    try:
        quota, period = (group / "cpu.max").read_text(encoding="ascii").split()
        return int(quota) / int(period) if quota != "max" else None
    except (OSError, ValueError):
        return None


def _version_1(group: Path) -> float | None:
    """The same in two files, where -1 is no bound."""
    try:
        quota, period = (
            int((group / f"cpu.cfs_{name}_us").read_text(encoding="ascii")) for name in ("quota", "period")
        )
        return quota / period if quota > 0 else None
    except (OSError, ValueError):
        return None
