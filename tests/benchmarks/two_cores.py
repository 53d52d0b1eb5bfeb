"""Two threads that wait for one another, alone and beside busy processes: libgomp's own waits, and those that we set.

    python tests/benchmarks/two_cores.py                                 a table of everything: hours
    python tests/benchmarks/two_cores.py --parts loop step debug         without the quickstart: minutes
    python tests/benchmarks/two_cores.py --parts training --waits 3000 10000 300000        training alone, settings
    python tests/benchmarks/two_cores.py --parts loop --waits 300000 3000 passive ours     other settings
    python tests/benchmarks/two_cores.py --runs runs.jsonl               goes on where it was stopped

Every run is a process of its own; the settings take turns. `loop` is 5,000 small products of matrices, `step` is 8
training steps of the demo teacher (4 x 128 tokens), `debug` and `quickstart` are `accelerate launch distill/train.py`
from its start to its end, `training` is the quickstart with 40 steps of each student, of which these steps alone count.
Of these three, the weights of the students are compared over all runs.

A setting is a number for GOMP_SPINCOUNT, `passive` for OMP_WAIT_POLICY, or `ours`: nothing is set, so distill does.

On a machine that is never idle, `--preempt` measures `loop` and `step` as if it were: their threads go before all other
work (SCHED_RR, which root may ask for), for a second a run.
"""

import argparse
import hashlib
import itertools
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
LIBGOMP = "300000"  # what it does when nothing is set
# The text of `training` is the same in every run, and is sampled in the first.
TRAINING = ["--trainer.max_steps", "40", "--scores.metrics", '["perplexity"]']
TRAINING += ["--cache_dir", f"{tempfile.gettempdir()}/two-cores-text"]
RUNS = {
    "debug": ["recipes/debug.yaml"],
    "quickstart": ["recipes/quickstart.yaml"],
    "training": ["recipes/quickstart.yaml", *TRAINING],
}

Times = tuple[float, float]  # by the clock, and by the processor


def loop() -> None:
    """Small products, as a small model's layers have them."""
    import torch

    a, b = torch.randn(128, 160), torch.randn(160, 160)
    for _ in range(5000):
        a @ b


def training_steps() -> None:
    """Forward, backward, update."""
    import torch
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_pretrained(REPOSITORY / "distill/assets/demo-teacher")
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    ids = torch.randint(5, 1000, (4, 128))
    for step in range(9):
        if step == 1:
            begin()
        model(ids, labels=ids).loss.backward()
        optimizer.step()
        optimizer.zero_grad()


def measure_here(part: str, preempt: bool) -> None:
    """Run the loop or the steps in this process, and print the times as JSON."""
    from distill.base.cores import share_cores

    share_cores()
    import torch

    torch.set_num_threads(2)
    a = torch.randn(512, 512)
    for _ in range(20):  # the threads are there, and the clock of the processor is up
        a = torch.tanh(a @ a)
    if preempt:
        for thread in os.listdir("/proc/self/task"):
            os.sched_setscheduler(int(thread), os.SCHED_RR, os.sched_param(1))
    begin()
    loop() if part == "loop" else training_steps()
    print(json.dumps([time.perf_counter() - _begun[0], time.process_time() - _begun[1]]))


_begun: list[float] = []


def begin() -> None:
    """What follows is measured."""
    _begun[:] = [time.perf_counter(), time.process_time()]


def environment(wait: str) -> dict[str, str]:
    """That of a run: one setting, and two threads."""
    kept = {k: v for k, v in os.environ.items() if k not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY", "OMP_NUM_THREADS")}
    setting = {} if wait == "ours" else {"OMP_WAIT_POLICY": wait} if wait == "passive" else {"GOMP_SPINCOUNT": wait}
    path = os.pathsep.join(filter(None, [str(REPOSITORY), kept.get("PYTHONPATH")]))
    return {**kept, **setting, "PYTHONPATH": path, "HF_HUB_OFFLINE": "1"}


def run(part: str, wait: str, preempt: bool) -> tuple[Times, str]:
    """One run: its times, and a hash of the weights that it made."""
    if part not in RUNS:
        command = [sys.executable, __file__, "--only", part, *(["--preempt"] if preempt else [])]
        done = subprocess.run(command, env=environment(wait), check=True, stdout=subprocess.PIPE, text=True)
        wall, processor = json.loads(done.stdout.splitlines()[-1])
        return (wall, processor), ""
    with tempfile.TemporaryDirectory() as folder:
        options = ["--config", *RUNS[part], "--output_dir", f"{folder}/run", "--quiet"]
        command = [sys.executable, "-m", "accelerate.commands.launch", "distill/train.py", *options]
        begun, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run(command, env=environment(wait), cwd=REPOSITORY, check=True, stdout=subprocess.DEVNULL)
        wall, after = time.perf_counter() - begun, resource.getrusage(resource.RUSAGE_CHILDREN)
        processor = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        if part == "training":
            told = [json.loads(file.read_text()) for file in Path(folder, "run/training").glob("*.json")]
            wall, processor = (sum(one[name] for one in told) for name in ("seconds", "processor_seconds"))
        weights = sorted(Path(folder, "run").glob("*/model.safetensors"))
        return (wall, processor), hashlib.sha256(b"".join(file.read_bytes() for file in weights)).hexdigest()[:12]


def run_beside(busy: int, apart: bool, part: str, wait: str, preempt: bool) -> tuple[Times, str]:
    """One run while so many other processes are busy. They end with this process, however it ends."""
    command = [sys.executable, "-c", f"import os\nwhile os.getppid() == {os.getpid()}: sum(range(1_000_000))"]
    others = [subprocess.Popen(command, start_new_session=apart) for _ in range(busy)]
    try:
        return run(part, wait, preempt)
    finally:
        for other in others:
            other.kill()
            other.wait()


def read_runs(file: Path | None) -> dict[tuple, tuple[Times, str]]:
    """(part, busy processes, whether apart, setting, whether before all others, turn) -> what `run` gave, of a file."""
    lines = file.read_text().splitlines() if file and file.exists() else []
    return {tuple(key): (taken, made) for key, taken, made in map(json.loads, lines)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parts = ["loop", "step", "debug", "quickstart"]
    parser.add_argument("--parts", nargs="+", choices=("loop", "step", *RUNS), default=parts)
    parser.add_argument("--waits", nargs="+", default=[LIBGOMP, "ours"], help="default: %(default)s")
    parser.add_argument("--beside", nargs="+", type=int, default=[0, 2], help="busy processes (default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--apart", action="store_true", help="busy processes have a session each, and so a share each")
    parser.add_argument("--runs", type=Path, help="a file of runs: those in it are not run again, new ones are added")
    parser.add_argument("--preempt", action="store_true", help="go before all other work; loop and step alone")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument("--only", choices=("loop", "step"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.only:
        measure_here(options.only, options.preempt)
        return
    if options.preempt and (set(options.parts) & set(RUNS) or options.beside != [0]):
        parser.error("--preempt goes with --parts loop step and --beside 0")

    from common import print_table

    times: dict[tuple[str, int, str], list[Times]] = defaultdict(list)
    weights: dict[str, set[str]] = defaultdict(set)
    done = read_runs(options.runs)
    for part in options.parts:
        for turn in range(options.repeats):
            for busy, wait in itertools.product(options.beside, options.waits):
                key = (part, busy, options.apart, wait, options.preempt, turn)
                if key not in done:
                    done[key] = taken, made = run_beside(busy, options.apart, part, wait, options.preempt)
                    if options.runs:
                        with options.runs.open("a") as file:
                            print(json.dumps([key, taken, made]), file=file)
                    said = f"{turn + 1}/{options.repeats} {part} beside {busy}, {wait}: {taken[0]:.1f} s"
                    print(f"{said}, {taken[1]:.1f} s of the processor {made}", file=sys.stderr, flush=True)
                times[part, busy, wait].append(done[key][0])
                weights[part].add(done[key][1])
    rows = []
    for (part, busy, wait), runs in times.items():
        wall, processor = zip(*runs, strict=True)
        columns = [f"{statistics.median(t):.2f} ({min(t):.2f} to {max(t):.2f})" for t in (wall, processor)]
        rows.append([part, str(busy), wait, *columns, str(len(runs)), str(len(weights[part]))])
    header = ("part", "beside", "waits", "seconds, median (range)", "of the processor", "n", "different weights")
    if options.json:
        print(json.dumps([dict(zip(header, row, strict=True)) for row in rows], indent=2))
    else:
        print_table(header, rows)


if __name__ == "__main__":
    main()
