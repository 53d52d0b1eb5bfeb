"""Checkpoints of a training: which one to continue from, how a new one gets there whole, which old ones go.

Trainer writes one into `_partial/` beside the others, every process its own files. Then the first process syncs them,
writes a manifest with their hashes, and renames the folder: a checkpoint that has its final name is whole, and one that
was damaged later is seen by its hashes.
"""

import shutil
from pathlib import Path

from distill.base.console import say
from distill.base.errors import UserError
from distill.base.integrity import damage, put_folder, sealed_files

PARTIAL = "_partial"  # uploads to the hub leave out what begins with an underscore


def name_of(step: int) -> str:
    """Trainer's name for the checkpoint after that many optimizer steps."""
    return f"checkpoint-{step}"


def _oldest_first(folder: Path) -> list[Path]:
    numbered = [(path.name.rpartition("-")[2], path) for path in folder.glob("checkpoint-*")]
    return [path for _, path in sorted((int(step), path) for step, path in numbered if step.isdecimal())]


def newest_whole(folder: Path) -> Path | None:
    """The newest checkpoint that is as it was written; damaged ones are named and left where they are."""
    for path in reversed(_oldest_first(folder)):
        found = damage(path)
        if found is None:
            return path
        say(f"skipped {path}: {found}")
    return None


def refuse_other_processes(folder: Path, processes: int) -> None:
    """See to it, before any work, that training continues from the newest checkpoint as it would have without a stop.

    Every process has random numbers of its own there, and a step's blocks are shared out among them.

    Args:
        folder: That of the checkpoints; need not exist.
        processes: How many were started.

    Raises:
        UserError: it was written by another number of them, or holds no optimizer.
    """
    if not (found := _oldest_first(folder)):
        return
    newest = found[-1]
    written = sealed_files(newest)  # what was lost since is damage, which `newest_whole` deals with
    before = sum(name.startswith("rng_state") for name in written)
    if before not in (0, processes):
        raise UserError(
            f"{newest} was written by {before} process{'es' if before > 1 else ''}, but {processes} "
            f"{'were' if processes > 1 else 'was'} started, which would train otherwise; start {before}, or remove "
            f"{folder} to begin again"
        )
    # Trainer's own file or FSDP's folder, or DeepSpeed's.
    if written and not any(name.startswith(("optimizer", "global_step")) for name in written):
        raise UserError(
            f"{newest} was written without the optimizer's state, and training would continue otherwise; remove "
            f"{folder} to begin again"
        )


def publish(folder: Path, step: int, keep: int | None) -> None:
    """Give the checkpoint that all processes have written its name, then remove the oldest but for `keep`.

    Args:
        folder: That of the checkpoints.
        step: Optimizer steps done.
        keep: How many checkpoints up to this step stay, at least 2; None: all. The new one, known to be whole, does.
    """
    put_folder(folder / PARTIAL / name_of(step), folder / name_of(step))
    older = [path for path in _oldest_first(folder) if int(path.name.rpartition("-")[2]) < step]
    for path in older[: 1 - keep] if keep else []:
        shutil.rmtree(path)


def clear_partial(folder: Path) -> None:
    """Remove what a kill left of a checkpoint that was being written."""
    shutil.rmtree(folder / PARTIAL, ignore_errors=True)
