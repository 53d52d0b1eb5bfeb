"""Measure contenders side by side: each run in a process of its own, the contenders by turns.

Processor time is that of the whole process, user and system, so that work in other threads or in the kernel (page
faults) counts, and other users of the machine hardly do. Memory is the highest resident set during the call above the
resident set right before it: the models and inputs are there already, everything that the call makes counts.
"""

import argparse
import ctypes
import gc
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any

Record = dict[str, Any]

INSTALL = "pip install -c constraints.txt -e '.[bench]'"


def add_options(parser: argparse.ArgumentParser, choices: Sequence[str]) -> None:
    """The options that all benchmarks have."""
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument("--repeats", type=int, default=5, help="runs of each contender; medians are compared")
    parser.add_argument("--threads", type=int, default=1, help="threads of each run")
    parser.add_argument("--contenders", nargs="+", choices=choices, help="default: those that `ratios` compares")
    parser.add_argument("--only", choices=choices, help=argparse.SUPPRESS)  # in the process that measures: which one


def available(needs: dict[str, str | None]) -> list[str]:
    """The contenders whose package (None: none) is installed; says on standard error which are left out.

    Args:
        needs: contender -> the module of its package.
    """
    missing = [name for name, package in needs.items() if package and find_spec(package) is None]
    if missing:
        packages = ", ".join(dict.fromkeys(str(needs[name]) for name in missing))
        print(f"not installed: {packages}; left out: {', '.join(missing)}; to install: {INSTALL}", file=sys.stderr)
    return [name for name in needs if name not in missing]


def status_bytes(field: str) -> int:
    """A memory field of /proc/self/status in bytes."""
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024
    raise KeyError(field)


def settle_memory() -> int:
    """Free what is free, forget the peak so far, and return the resident set in bytes. Linux only."""
    gc.collect()
    libc = ctypes.CDLL(None)
    if hasattr(libc, "malloc_trim"):  # glibc keeps freed memory; without this a call could reuse it unseen
        libc.malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    return status_bytes("VmRSS")


def peak_memory() -> int:
    """The highest resident set since `settle_memory`, in bytes."""
    return status_bytes("VmHWM")


def measure(run: Callable[[], Record]) -> Record:
    """Processor time and peak memory of a second call of ``run``, which returns what the contenders must agree on.

    The first call is for all that happens once: loading, compiling, growing the heap.
    """
    run()
    before = settle_memory()
    start = time.process_time()
    outcome = run()
    return {"seconds": time.process_time() - start, "bytes": peak_memory() - before, **outcome}


def run_alone(script: str, name: str, options: Sequence[str], threads: int) -> Record:
    """Run ``script --only name`` in a fresh process and read the JSON of its last line.

    Raises:
        RuntimeError: it failed; with the end of what it said.
    """
    limit = str(threads)
    environment = {**os.environ, "OMP_NUM_THREADS": limit, "MKL_NUM_THREADS": limit, "TOKENIZERS_PARALLELISM": "false"}
    command = [sys.executable, script, "--only", name, "--threads", limit, *options]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(f"{name} failed: {done.stderr[-3000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def run_by_turns(
    script: str, names: Sequence[str], options: Sequence[str], repeats: int, threads: int
) -> dict[str, list[Record]]:
    """``repeats`` rounds in which each contender runs once, told on standard error."""
    records: dict[str, list[Record]] = {name: [] for name in names}
    for turn in range(1, repeats + 1):
        for name in names:
            record = run_alone(script, name, options, threads)
            records[name].append(record)
            line = f"{turn}/{repeats} {name}: {record['seconds']:.2f} s, {record['bytes'] / 2**20:.0f} MiB"
            print(line, file=sys.stderr, flush=True)
    return records


def median(records: list[Record], field: str) -> float:
    """The median of a field."""
    return statistics.median(record[field] for record in records)


def ratio(records: dict[str, list[Record]], ours: str, theirs: str, field: str) -> float | None:
    """Median of ours over median of theirs; None where one of the two did not run."""
    if ours not in records or theirs not in records:
        return None
    return median(records[ours], field) / median(records[theirs], field)


def machine() -> Record:
    """Where the figures come from: processor, and versions of what was measured."""
    cpu = platform.processor() or platform.machine()
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            cpu = line.partition(":")[2].strip()
            break
    versions = {}
    for package in ("torch", "transformers", "trl", "liger-kernel"):
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            versions[package] = None
    return {"processor": cpu, "versions": versions}


def summary(records: dict[str, list[Record]]) -> dict[str, Record]:
    """Contender -> median seconds and bytes, the range of the seconds, and the number of runs."""
    return {
        name: {
            "seconds": median(runs, "seconds"),
            "seconds_range": [min(r["seconds"] for r in runs), max(r["seconds"] for r in runs)],
            "bytes": int(median(runs, "bytes")),
            "runs": len(runs),
        }
        for name, runs in records.items()
    }


def as_options(values: dict[str, int]) -> list[str]:
    """``{"tokens": 64}`` -> ``["--tokens", "64"]``."""
    return [part for name, value in values.items() for part in (f"--{name}", str(value))]


def print_contenders(figures: Record) -> None:
    """The table of what each contender took."""
    rows = [
        [name, f"{s['seconds']:.2f}", f"{s['bytes'] / 2**20:.0f}", str(s["runs"])]
        for name, s in figures["contenders"].items()
    ]
    print_table(("contender", "CPU seconds", "peak MiB", "runs"), rows)


def print_ratios(ratios: dict[str, dict[str, float | None]]) -> None:
    """The table of ours over theirs; a peer that did not run has a dash."""
    rows = [
        [peer, *("-" if ratios[kind][peer] is None else f"{ratios[kind][peer]:.3f}" for kind in ("time", "memory"))]
        for peer in ratios["time"]
    ]
    print_table(("ours over theirs", "CPU time", "peak memory"), rows)


def print_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Columns as wide as their widest cell, the first one to the left and the others to the right."""
    lines = [header, *rows]
    widths = [max(len(line[i]) for line in lines) for i in range(len(header))]
    for line in lines:
        cells = [
            cell.ljust(w) if i == 0 else cell.rjust(w) for i, (cell, w) in enumerate(zip(line, widths, strict=True))
        ]
        print("  ".join(cells).rstrip())
