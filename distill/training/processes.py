"""Processes of one run: they share the cores, a mistake in one ends all, and what is set for a run ends with it."""

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import gather_object
from transformers.utils.logging import enable_progress_bar, is_progress_bar_enabled

from distill.base.console import follow
from distill.base.cores import NUM_THREADS, usable_cores
from distill.base.errors import UserError
from distill.recipe import Recipe
from distill.run_folder import open_run, unlock

_backends: Any = torch.backends  # its types lack the precision


def use_all_cores(on_gpu: bool) -> None:
    """Share the machine's cores among its processes, unless a GPU trains.

    `accelerate launch` without a configuration gives each process a single thread, and so does torchrun where there are
    several; unless the user has said how many.
    """
    launched = not {"ACCELERATE_DYNAMO_BACKEND", "TORCHELASTIC_RUN_ID"}.isdisjoint(os.environ)
    if launched and torch.get_num_threads() == 1 and not (on_gpu or _launcher_was_given_threads()):
        processes = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
        torch.set_num_threads(max(1, usable_cores() // processes))


def _launcher_was_given_threads() -> bool:
    """Whether the launcher, this process's parent, began with the variable that it hands down in any case."""
    try:
        entries = Path(f"/proc/{os.getppid()}/environ").read_bytes().split(b"\0")
    except OSError:
        return False
    return any(entry.startswith(f"{NUM_THREADS}=".encode()) for entry in entries)


@contextmanager
def training_alone() -> Iterator[None]:
    """Compute gradients, and undo what a training sets for the process: products in TF32, deterministic algorithms.

    transformers sets them as it reads a training's settings or makes its trainer, accelerate where models are compiled,
    and neither sets them back. Text and scores are made as without them: a nucleus has no deterministic way on a GPU.
    """
    products = _float32_products()
    algorithms = (torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled())
    cudnn = (torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark)
    try:
        with torch.enable_grad():  # which a notebook may have turned off
            yield
    finally:
        if _float32_products() != products:
            # By the older name too, which torch's compiler asks for, and which raises where the two contradict.
            torch.set_float32_matmul_precision("high" if "tf32" in products else "highest")
            _backends.fp32_precision, _backends.cuda.matmul.fp32_precision = products
        torch.use_deterministic_algorithms(algorithms[0], warn_only=algorithms[1])
        torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = cudnn


def _float32_products() -> tuple[str, str]:
    """How products of float32 are made, "tf32" for one: by default on all devices, and on a GPU."""
    return _backends.fp32_precision, _backends.cuda.matmul.fp32_precision


@contextmanager
def leaving_nothing(folder: Path) -> Iterator[None]:
    """Around a run in a process that goes on behind it, as a notebook's does: what ends with a command's ends here.

    Its folder is free for others, what comes next is not told as a phase of it, and transformers draws its bars again.
    """
    draws_bars = is_progress_bar_enabled()
    try:
        yield
    finally:
        follow(None)
        unlock(folder)
        if draws_bars:
            enable_progress_bar()


@contextmanager
def together(main_first: bool = False) -> Iterator[PartialState]:
    """Run the body in every process and go on only if it went well in all; each waits here for the others.

    Without this, a process that stops would leave the others waiting for it at their next exchange.

    Args:
        main_first: The others begin when the main process has finished, and find what it has written.

    Returns:
        As a context: this process among the others.

    Raises:
        UserError: the body raised it in any process; the same one in all of them.
    """
    process, mistake = PartialState(), None
    if main_first and not process.is_main_process:
        _raise_any(None)
    try:
        yield process
    except UserError as error:
        mistake = str(error)
    if main_first and process.is_main_process:
        _raise_any(mistake)
    _raise_any(mistake)


@contextmanager
def opened_together(recipe: Recipe) -> Iterator[Path]:
    """`open_run` in every process, in the first one before the others: a context around the preparation of a run.

    The first process has the folder open until all have prepared: a mistake of any of them leaves nothing of a new one.

    Raises:
        UserError: see `open_run`; the same one in all processes.
    """
    with ExitStack() as opened:
        with together(main_first=True):
            folder = opened.enter_context(open_run(recipe))
        yield folder


def _raise_any(mistake: str | None) -> None:
    for message in gather_object([mistake]):
        if message is not None:
            PartialState().destroy_process_group()  # left to the interpreter, it may end with SIGABRT
            raise UserError(message)
