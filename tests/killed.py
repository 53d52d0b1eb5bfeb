"""Runs of the pipeline in forked processes, slowed down where they write, told of by phase, and killed by a schedule.

A process that has imported everything forks one child for each process of a run. The child patches itself so that it
says which phase it is in, one letter a call, through a pipe; the parent reads along and kills by the letters. Nothing
in distill/ knows of it.
"""

import os
import random
import select
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distill import console, corpus, counterfactual, generation, integrity, packing, report, run_folder, score, trainer
from distill import train as entry

# In the order in which a run comes through them.
PHASES = {
    "g": "generating",
    "s": "swapping",
    "t": "tokenising",
    "p": "packing",
    "l": "training",
    "w": "saving",
    "f": "saving the student",
    "m": "scoring",
    "r": "reporting",
}


def _marked(owner: Any, name: str, letter: str, tell: Callable[[str], None], seconds: float = 0.0) -> None:
    """Let a function or method say its phase, and take some time, before it does what it does."""
    plain = getattr(owner, name)

    def marked(*args: Any, **kwargs: Any) -> Any:
        tell(letter)
        time.sleep(seconds)
        return plain(*args, **kwargs)

    setattr(owner, name, marked)


def _mark_everything(tell: Callable[[str], None]) -> None:
    _marked(corpus, "sample_batch", "g", tell, 0.002)
    _marked(generation, "generate", "g", tell, 0.002)
    _marked(counterfactual.Swapper, "counterfactuals", "s", tell)
    _marked(packing, "_encode", "t", tell)
    _marked(packing, "_close", "p", tell, 0.001)
    _marked(packing, "put_file", "p", tell, 0.01)
    _marked(trainer.DistillationTrainer, "compute_loss", "l", tell)
    _marked(trainer.DistillationTrainer, "_save_checkpoint", "w", tell)
    _marked(trainer, "write_folder", "f", tell)
    _marked(score, "measured", "m", tell, 0.005)
    _marked(score, "write_scores", "m", tell, 0.01)
    _marked(entry, "write_report", "r", tell)
    _marked(report, "write_text", "r", tell, 0.01)
    for module in (integrity, run_folder):  # between any two files that are written
        for name in ("sync", "put_folder"):
            if hasattr(module, name):
                _marked(module, name, "", tell, 0.004)


@dataclass(frozen=True)
class Kill:
    """When to pull the plug: `seconds` after the `count`-th letter of a phase."""

    letter: str
    count: int
    seconds: float


@dataclass(frozen=True)
class Ending:
    """How a run ended. code: exit code of its first process, -9 after a kill. phases: the letters in their order."""

    code: int
    phases: str
    errors: str


def run(
    folder: Path, argv: Sequence[str], processes: int = 1, kill: Kill | None = None, sig: int = signal.SIGKILL
) -> Ending:
    """Run the pipeline in `folder` with forked processes, and kill all of them as told.

    Returns:
        Ending: of the first process.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    reading, writing = os.pipe()
    log = folder / "stderr.txt"
    children = [_fork(folder, argv, rank, processes, port, writing, reading, log) for rank in range(processes)]
    os.close(writing)
    phases, due = "", None
    while True:
        wait = None if due is None else max(0.0, due - time.monotonic())
        ready, _, _ = select.select([reading], [], [], wait)
        if ready:
            letters = os.read(reading, 1 << 16).decode()
            if not letters:
                break
            phases += letters
        if kill and due is None and phases.count(kill.letter) >= kill.count:
            due = time.monotonic() + kill.seconds
        if due is not None and time.monotonic() >= due:
            for child in children:
                os.kill(child, sig)
            kill, due = None, None
    os.close(reading)
    codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    return Ending(codes[0], phases, log.read_text(errors="replace"))


def _fork(
    folder: Path, argv: Sequence[str], rank: int, processes: int, port: int, writing: int, reading: int, log: Path
) -> int:
    child = os.fork()
    if child:
        return child
    code = 70
    try:
        os.close(reading)
        os.chdir(folder)
        with log.open("ab" if rank else "wb") as stream:
            os.dup2(stream.fileno(), 2)
            os.dup2(stream.fileno(), 1)
        sys.stdout, sys.stderr = os.fdopen(1, "w", buffering=1), os.fdopen(2, "w", buffering=1)
        if processes > 1:
            os.environ |= {
                "RANK": str(rank),
                "LOCAL_RANK": str(rank),
                "WORLD_SIZE": str(processes),
                "LOCAL_WORLD_SIZE": str(processes),
                "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": str(port),
            }
        _mark_everything(lambda letter: os.write(writing, letter.encode()) if rank == 0 else None)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        code = console.run_entry(entry.main, argv)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


def schedule(rng: random.Random, kills: int) -> Iterator[Kill]:
    """Kills at random moments of random phases, in the order in which a run meets the phases."""
    many = {"s": 60, "t": 80, "p": 4, "l": 20, "g": 3, "m": 9, "w": 4}
    for letter in sorted(rng.choices(list(PHASES), k=kills), key=list(PHASES).index):
        slow = 0.12 if letter in "wf" else 0.03
        yield Kill(letter, rng.randint(1, many.get(letter, 1)), rng.random() * slow)


def results(folder: Path) -> dict[str, bytes]:
    """What a run is for, to the last bit."""
    names = ("student/model.safetensors", "baseline/model.safetensors", "scores.json", "report.md")
    return {name: (folder / "run" / name).read_bytes() for name in names}
