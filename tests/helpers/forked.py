"""Runs in processes forked from the tests' own, which has imported all that they need: what the command does, without
the seconds that a new Python takes to import torch and transformers.
"""

import gc
import os
import signal
import socket
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from accelerate.state import AcceleratorState, GradientState

from distill.base import console
from distill.train import main


@dataclass(frozen=True)
class Ended:
    """How processes ended. codes: by rank, -15 after SIGTERM. stdout, stderr: of all of them together."""

    codes: list[int]
    stdout: str
    stderr: str

    @property
    def returncode(self) -> int:
        return self.codes[0]


def fork(work: Callable[[], object]) -> int:
    """Do some work in a child, which ends with the number that it returns as its code; with 70 after an exception.

    Returns:
        The child's process id.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    child = os.fork()
    if child:
        return child
    code = 70
    try:
        gc.freeze()  # to look through the parent's objects would copy all of their pages
        # OpenMP's other threads, which a test before may have started, are not in the child: it would wait for them.
        torch.set_num_threads(1)
        AcceleratorState._reset_state(reset_partial_state=True)  # of a training in the parent
        GradientState._reset_state()
        signal.signal(signal.SIGINT, signal.default_int_handler)
        result = work()
        code = result if isinstance(result, int) else 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def rank_environment(rank: int, processes: int, port: int) -> dict[str, str]:
    """What a launcher tells each of several processes of a machine."""
    return {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(processes),
        "LOCAL_WORLD_SIZE": str(processes),
        "OMP_NUM_THREADS": "1",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }


def write_to(stdout: int, stderr: int) -> None:
    """Let this process write to these descriptors from now on."""
    os.dup2(stdout, 1)
    os.dup2(stderr, 2)
    sys.stdout, sys.stderr = os.fdopen(1, "w", buffering=1), os.fdopen(2, "w", buffering=1)


def call(work: Callable[[], object], processes: int = 1, patience: float = 5.0) -> Ended:
    """Do some work in a child, or in several that find each other as under a launcher; wait until they have ended.

    As under a launcher, the first that fails ends the others, unless they do so themselves within `patience` seconds.
    """
    port = free_port()
    with (
        tempfile.TemporaryFile() as stdout,
        tempfile.TemporaryFile() as stderr,
        tempfile.TemporaryDirectory() as launchers,
    ):

        def begin(rank: int) -> object:
            write_to(stdout.fileno(), stderr.fileno())
            if processes > 1:
                os.environ |= rank_environment(rank, processes, port)
                os.environ["TORCHELASTIC_ERROR_FILE"] = f"{launchers}/{rank}/error.json"
            return work()

        codes = _wait([fork(lambda rank=rank: begin(rank)) for rank in range(processes)], patience)
        texts = []
        for file in (stdout, stderr):
            file.seek(0)
            texts.append(file.read().decode(errors="replace"))
    return Ended(codes, *texts)


def _wait(children: Sequence[int], patience: float) -> list[int]:
    codes: dict[int, int] = {}
    deadline = None
    try:
        while len(codes) < len(children):
            for child in set(children) - set(codes):
                pid, status = os.waitpid(child, os.WNOHANG)
                if pid:
                    codes[child] = os.waitstatus_to_exitcode(status)
            if deadline is None and any(codes.values()):
                deadline = time.monotonic() + patience
            if deadline is not None and time.monotonic() > deadline:
                _signal(set(children) - set(codes), signal.SIGTERM)
            time.sleep(0.01)
    finally:
        _signal(set(children) - set(codes), signal.SIGKILL)  # a test's time is over
    return [codes[child] for child in children]


def _signal(children: set[int], number: int) -> None:
    for child in children:
        os.kill(child, number)


def run(*argv: str, processes: int = 1) -> Ended:
    """The entry with these arguments, as `python distill/train.py` or a launcher of several processes runs it."""
    return call(lambda: console.run_entry(main, argv), processes)


def until(condition: Callable[[], object]) -> None:
    """Wait for something that another process does."""
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)
