"""Measure contenders side by side: each run in a process of its own, the contenders by turns.

Processor time is that of the whole process, user and system, so that work in other threads or in the kernel (page
faults) counts, and other users of the machine hardly do. Memory is the highest resident set during the call above the
resident set right before it: the models and inputs are there already, everything that the call makes counts.

With `--device cuda`, time is that of the clock, from an empty queue to an empty queue, and memory is what torch has
allocated on the card, to the byte, so that all contenders may run in one process: `--together`. A process may need ten
times as long to start as what it measures takes. `--compile` gives every contender torch.compile, `--dtype bfloat16`
runs all under autocast.

A contender that fails is told on standard error and loses nothing of the others. `--save FILE` has the JSON after each
run, so that a benchmark that is stopped leaves what it found.
"""

import argparse
import ctypes
import gc
import itertools
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Sequence
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

Record = dict[str, Any]

HOW = ("device", "dtype", "compile")  # options that the measuring process is given, and that the report names

INSTALL = "pip install -c constraints.txt -e '.[bench]'"


def add_options(parser: argparse.ArgumentParser, choices: Sequence[str]) -> None:
    """The options that all benchmarks have."""
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument("--repeats", type=int, default=5, help="runs of each contender; medians are compared")
    parser.add_argument("--threads", type=int, default=1, help="threads of each run")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32", help="bfloat16: autocast")
    parser.add_argument("--compile", action="store_true", help="torch.compile for every contender")
    parser.add_argument(
        "--peak-tflops", type=float, help="the matrix rate, to give each contender's share of it (cuda: measured)"
    )
    parser.add_argument(
        "--profile", type=Path, help="folder for tables of each contender's operations; together, of ours"
    )
    parser.add_argument(
        "--together", action="store_true", help="all in one process, where only a GPU's memory is right"
    )
    add_save(parser)
    parser.add_argument("--contenders", nargs="+", choices=choices, help="default: those that `ratios` compares")
    parser.add_argument("--only", choices=choices, help=argparse.SUPPRESS)  # in the process that measures: which one


def add_save(parser: argparse.ArgumentParser) -> None:
    """The option for what is found so far."""
    parser.add_argument("--save", type=Path, help="file for the JSON, written anew as soon as there is more to tell")


def save(path: Path | None, figures: Any) -> None:
    """Write JSON where a file was asked for; a reader sees the old one or the new one."""
    if path is not None:
        partial = path.with_name(f"{path.name}.partial")
        partial.write_text(json.dumps(figures, indent=2), encoding="utf-8")
        os.replace(partial, path)


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


def settle_memory(device: str = "cpu") -> int:
    """Free what is free, forget the peak so far, return the bytes in use: the resident set (Linux only) or cuda's."""
    gc.collect()
    if device == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        return torch.cuda.memory_allocated()
    libc = ctypes.CDLL(None)
    if hasattr(libc, "malloc_trim"):  # glibc keeps freed memory; without this a call could reuse it unseen
        libc.malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    return status_bytes("VmRSS")


def peak_memory(device: str = "cpu") -> int:
    """The most bytes in use since `settle_memory`."""
    return torch.cuda.max_memory_allocated() if device == "cuda" else status_bytes("VmHWM")


def seconds(device: str = "cpu") -> float:
    """A clock: this process' processor time; for cuda that of the wall, read when the card has done all its work."""
    if device == "cuda":
        torch.cuda.synchronize()
        return time.perf_counter()
    return time.process_time()


def autocast(device: str, dtype: str) -> torch.autocast:
    """A context for half precision, or for none."""
    return torch.autocast(device, dtype=torch.bfloat16, enabled=dtype == "bfloat16")


def profiler(device: str) -> torch.profiler.profile:
    """Records the operations inside it, with their shares of the time."""
    activity = torch.profiler.ProfilerActivity
    return torch.profiler.profile(activities=[activity.CPU, activity.CUDA] if device == "cuda" else [activity.CPU])


def write_profile(profile: torch.profiler.profile, folder: Path, name: str, device: str) -> None:
    """The operations that take most of the time, as ``folder/name.txt``."""
    folder.mkdir(parents=True, exist_ok=True)
    table = profile.key_averages().table(sort_by=f"self_{device}_time_total", row_limit=40, max_name_column_width=90)
    (folder / f"{name}.txt").write_text(table, encoding="utf-8")


def measure(
    run: Callable[[], Any], device: str = "cpu", outcome: Callable[[Any], Record] = lambda found: found
) -> Record:
    """Time and peak memory of a second call of ``run``.

    The first call is for all that happens once: loading, compiling, growing the heap. On a card no code is counted, and
    what the first call keeps there for those after it is.

    Args:
        run: What is measured.
        device: Where.
        outcome: Makes of what ``run`` returned what the contenders must agree on, beside the clock.
    """
    at_first = settle_memory(device)
    outcome(run())
    before = settle_memory(device)
    start = seconds(device)
    found = run()
    taken, peak = seconds(device) - start, peak_memory(device)
    return {"seconds": taken, "bytes": peak - (at_first if device == "cuda" else before), **outcome(found)}


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


def by_turns(
    names: Sequence[str],
    repeats: int,
    run: Callable[[str], Record],
    then: Callable[[dict[str, list[Record]]], None] = lambda records: None,
    last: Collection[str] = (),
) -> dict[str, list[Record]]:
    """Rounds in which each contender runs once, told on standard error. One that fails takes no part any more.

    Args:
        names: The contenders.
        repeats: Number of rounds.
        run: Measures a contender, see `run_alone`.
        then: Given all that was found, after each run.
        last: Those that begin when all others have had their rounds.

    Returns:
        Contender -> its runs; one that never came through is missing.
    """
    records: dict[str, list[Record]] = {}
    failed = set()
    turns = itertools.product(range(1, repeats + 1), names)
    for turn, name in sorted(turns, key=lambda of: of[1] in last):
        if name in failed:
            continue
        try:
            record = run(name)
        except Exception as error:  # of whatever kind a peer, a compiler or a card raises
            failed.add(name)
            why = f"{type(error).__name__}: {error}"
            print(f"{turn}/{repeats} {name} is left out: {why}", file=sys.stderr, flush=True)
            continue
        records.setdefault(name, []).append(record)
        line = f"{turn}/{repeats} {name}: {record['seconds']:.4g} s, {record['bytes'] / 2**20:.0f} MiB"
        print(line, file=sys.stderr, flush=True)
        then(records)
    return records


def exit_code(names: Sequence[str], repeats: int, records: dict[str, list[Record]]) -> int:
    """1 where a contender failed in one of the rounds, else 0."""
    return int(any(len(records.get(name, ())) < repeats for name in names))


def median(records: list[Record], field: str) -> float:
    """The median of a field."""
    return statistics.median(record[field] for record in records)


def ratio(records: dict[str, list[Record]], ours: str, theirs: str, field: str) -> float | None:
    """Median of ours over median of theirs; None where one of the two did not run."""
    if ours not in records or theirs not in records:
        return None
    return median(records[ours], field) / median(records[theirs], field)


def machine(device: str = "cpu") -> Record:
    """Where the figures come from: processor or card, and versions of what was measured."""
    cpu = platform.processor() or platform.machine()
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            cpu = line.partition(":")[2].strip()
            break
    if device == "cuda":
        cpu = f"{torch.cuda.get_device_name()}, {cpu}"
    versions = {}
    for package in ("torch", "transformers", "trl", "liger-kernel"):
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            versions[package] = None
    return {"processor": cpu, "versions": versions}


def summary(records: dict[str, list[Record]]) -> dict[str, Record]:
    """Contender -> median and range of seconds and bytes, and the number of runs."""
    return {
        name: {
            "seconds": median(runs, "seconds"),
            "seconds_range": [min(r["seconds"] for r in runs), max(r["seconds"] for r in runs)],
            "bytes": int(median(runs, "bytes")),
            "bytes_range": [min(r["bytes"] for r in runs), max(r["bytes"] for r in runs)],
            "runs": len(runs),
        }
        for name, runs in records.items()
    }


def matrix_rate(device: str, size: int = 8192, repeats: int = 50) -> float:
    """10^12 operations a second in products of two (size, size) matrices in bfloat16: the best of some."""
    a, b = (torch.randn(size, size, device=device).bfloat16() for _ in range(2))
    best = float("inf")
    for _ in range(repeats):
        start = seconds(device)
        torch.mm(a, b)
        best = min(best, seconds(device) - start)
    return 2 * size**3 / best / 1e12


def find_peak(options: argparse.Namespace) -> None:
    """Measure a card's matrix rate where none was given."""
    if options.device == "cuda" and options.peak_tflops is None:
        options.peak_tflops = round(matrix_rate(options.device), 1)


def add_rates(contenders: dict[str, Record], tokens: int, flops: float, peak_tflops: float | None) -> None:
    """Add to each contender its tokens per second and, where the peak is known, its share of the matrix rate.

    Args:
        contenders: see `summary`; changed.
        tokens: of one call or step.
        flops: that the products of matrices need for one token, whoever computes them.
        peak_tflops: what the device can do, in 10^12 operations per second.
    """
    for record in contenders.values():
        record["tokens_per_second"] = tokens / record["seconds"]
        if peak_tflops:
            record["matrix_rate_share"] = record["tokens_per_second"] * flops / (peak_tflops * 1e12)


def as_options(values: Record) -> list[str]:
    """``{"tokens": 64, "compile": True}`` -> ``["--tokens", "64", "--compile"]``; what is None or False is left out."""
    given = {name: value for name, value in values.items() if value is not None and value is not False}
    return [part for name, value in given.items() for part in (f"--{name}", str(value))[: 1 if value is True else 2]]


def print_contenders(figures: Record) -> None:
    """The table of what each contender took."""
    rows = [
        [
            name,
            *(f"{s['seconds']:.3f}", f"{s['bytes'] / 2**20:.0f}", f"{s['tokens_per_second']:,.0f}"),
            f"{s['matrix_rate_share']:.1%}" if "matrix_rate_share" in s else "-",
            str(s["runs"]),
        ]
        for name, s in figures["contenders"].items()
    ]
    print_table(("contender", "seconds", "peak MiB", "tokens/s", "of matrix rate", "runs"), rows)


def print_ratios(ratios: dict[str, dict[str, float | None]]) -> None:
    """The table of ours over theirs; a peer that did not run has a dash."""
    rows = [
        [peer, *("-" if ratios[kind][peer] is None else f"{ratios[kind][peer]:.3f}" for kind in ("time", "memory"))]
        for peer in ratios["time"]
    ]
    print_table(("ours over theirs", "time", "peak memory"), rows)


def print_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Columns as wide as their widest cell, the first one to the left and the others to the right."""
    lines = [header, *rows]
    widths = [max(len(line[i]) for line in lines) for i in range(len(header))]
    for line in lines:
        cells = [
            cell.ljust(w) if i == 0 else cell.rjust(w) for i, (cell, w) in enumerate(zip(line, widths, strict=True))
        ]
        print("  ".join(cells).rstrip())
