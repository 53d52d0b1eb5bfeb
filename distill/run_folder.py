"""The output folder of a run: whose it is, and which recipe's."""

import errno
import fcntl
import json
import os
import shutil
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from distill.base.console import is_first_process, warn
from distill.base.errors import UserError
from distill.base.files import is_finished
from distill.base.integrity import is_in_work, sync
from distill.recipe import Recipe, read_resolved, write_recipe

#: What the names in a run's recipe held when its training began; see `run_inputs`, which writes it.
RECORD = "inputs.json"
_LOCK = ".lock"
_CLAIMING = {_LOCK, "recipe.partial"}  # all that a kill leaves of a run that was claiming its folder
_NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP}
_APPEARS = 60.0  # seconds; NFS may hold on to what a folder was for so long
_locks: dict[str, int] = {}  # folder -> descriptor of its lock, held open until the process ends, or `unlock`


def lock(folder: Path) -> None:
    """Keep other runs out of a folder until this process ends, however it ends, or `unlock` lets them in.

    A POSIX record lock: the kernel drops it with the process, and children that outlive it do not inherit it. A disk
    without locks is warned of.

    Raises:
        UserError: another process holds it.
    """
    path = folder / _LOCK
    key = str(path.resolve())
    if key in _locks and path.exists() and os.path.samestat(os.fstat(_locks[key]), path.stat()):
        return  # ours already; to open it again, and close it, would drop the lock
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        holder = os.read(descriptor, 200).decode(errors="replace").strip() or "another process"
        os.close(descriptor)
        raise UserError(
            f"{folder} is in use by a run that has not ended ({holder}); wait for it, stop it, or choose another "
            "--output_dir"
        ) from None
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            os.close(descriptor)
            raise
        warn(
            f"{folder}: its disk has no locks ({error.strerror}), so that nothing keeps a second run out; do not give "
            "the same command again while this one runs"
        )
    os.truncate(descriptor, 0)
    os.write(descriptor, f"process {os.getpid()} on {socket.gethostname()}\n".encode())
    _locks[key] = descriptor


def unlock(folder: Path) -> None:
    """Let other runs into a folder again, if `lock` kept them out."""
    if (descriptor := _locks.pop(str((folder / _LOCK).resolve()), None)) is not None:
        os.close(descriptor)


@contextmanager
def making(folder: Path) -> Iterator[None]:
    """Around what makes an output folder. Raises UserError where it cannot be written."""
    try:
        yield
    except OSError as error:
        raise UserError(f"{folder}: cannot be written ({error.strerror}); choose another --output_dir") from None


@contextmanager
def open_run(recipe: Recipe) -> Iterator[Path]:
    """Claim the output folder for this recipe, or find that it is this recipe's already.

    Used as a context manager around the preparation of a run: a user's mistake that shows there leaves nothing behind
    of a folder that was claimed just now.

    Raises:
        UserError: it holds another recipe's run (the first key that differs is named), a run that has not ended,
            or cannot be written; or this is not the first process, and does not see what that one has written there.
    """
    folder = Path(recipe.output_dir)
    record = folder / "recipe.yaml"
    if not is_first_process():
        _require_shared(record)
    fresh = not record.exists()
    moved = False
    if fresh:
        if folder.exists() and (not folder.is_dir() or {p.name for p in folder.iterdir()} - _CLAIMING):
            raise UserError(f"{folder} is not empty and holds no recipe.yaml; choose another --output_dir")
    else:
        # What is not measured or published yet may be asked for in another way: the training stays what it is.
        free = ("trainer.push_to_hub", "trainer.hub_", *([] if (folder / "scores.json").exists() else ["scores."]))
        moved = refuse_another(recipe, folder, free=free)
        _refuse_links_out(folder)
    missing = [p for p in (folder, *folder.parents) if not p.exists()]
    with making(folder):
        folder.mkdir(parents=True, exist_ok=True)
        if is_first_process():
            lock(folder)
            _remove_partials(folder)
        if fresh or moved:  # of several processes, only the first one finds it so
            partial = record.with_suffix(".partial")
            write_recipe(recipe, partial)
            sync(partial)
            os.replace(partial, record)
    try:
        yield folder
    except UserError:
        if fresh:
            _leave(folder, missing)
        raise


def _require_shared(record: Path) -> None:
    """Raises UserError where the first process's record does not appear, which a network's disk may take a while to."""
    given_up = time.monotonic() + _APPEARS
    while not record.exists():
        if time.monotonic() > given_up:
            raise UserError(
                f"{record.parent}: {socket.gethostname()} does not see there what the first process has written; the "
                "output folder must lie on a disk that all machines share"
            )
        time.sleep(0.5)


def _leave(folder: Path, missing: Sequence[Path]) -> None:
    """Take away what a run made in its folder, then the folders that it made, `missing`, where they are empty.

    Others may have begun to work in a folder above since. One that was there before stays: it may be a link, a mount
    point, or in a place where its owner may not make another. Nothing is said of what cannot be taken away: it would
    be said in the place of the mistake that ends the run.
    """
    for path in folder.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            with suppress(OSError):
                path.unlink()
    with suppress(OSError):
        for path in missing:
            path.rmdir()


def unfinished(recipe: Recipe, folder: Path) -> dict[str, Recipe]:
    """Name -> recipe of a run's students that are not finished."""
    return {name: variant for name, variant in recipe.variants().items() if not is_finished(folder / name)}


def refuse_another(
    recipe: Recipe,
    folder: Path,
    decisive: Callable[[dict[str, Any]], dict[str, Any]] = lambda values: values,
    free: tuple[str, ...] = (),
) -> bool:
    """See to it that a run's folder is that of a recipe. Where a run lies, `output_dir`, does not change what it is.

    Args:
        recipe: What is wanted.
        folder: Of the run; holds its recipe.yaml.
        decisive: Nested keys of a recipe -> those that are compared; all, without it.
        free: Beginnings of dotted keys that may differ.

    Returns:
        Whether anything differs, so that the recipe must be written anew: the run lay elsewhere before.

    Raises:
        UserError: it is the run of another recipe; the first key that differs is named.
    """
    both = (recipe.to_dict(), read_resolved(folder / "recipe.yaml"))
    here, there = (_flat(decisive(values)) for values in both)
    differ = [key for key in there | here if there.get(key) != here.get(key)]
    for key in differ:
        if key != "output_dir" and not key.startswith(free):
            raise UserError(
                f"{folder} holds another recipe's run ({key} is {there.get(key)!r} there, {here.get(key)!r} here); "
                "choose another --output_dir, or remove that folder"
            )
    return both[0] != both[1]


def processes_of(folder: Path) -> int | None:
    """How many processes shared out each step of a run's training, by its record; None where that is not told."""
    try:
        number = json.loads((folder / RECORD).read_text(encoding="utf-8"))["processes"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
    return number if type(number) is int and 0 < number < 1e6 else None


def _remove_partials(folder: Path) -> None:
    """Remove what killed runs left half-written, which may be large; sampled text stays, to be continued.

    So does what another run, which uses this one's cache, is packing.
    """
    for parent in (folder, folder / "cache", folder / "cache" / "scores"):
        for stale in parent.glob(".*.partial*"):
            if stale.is_dir():
                shutil.rmtree(stale)
            elif not (stale.name.startswith(".sampled-") or is_in_work(stale)):
                stale.unlink(missing_ok=True)


def _refuse_links_out(folder: Path) -> None:
    """Raises UserError if a symbolic link in a run's folder leads out of it: what it points at would be overwritten."""
    inside = folder.resolve()
    for parent, folders, files in os.walk(folder):
        for name in (*folders, *files):
            path = Path(parent, name)
            if path.is_symlink() and not path.resolve().is_relative_to(inside):
                raise UserError(
                    f"{path}: is a symbolic link that leads out of the run's folder, which a run does not follow; "
                    "remove it (output_dir and cache_dir may themselves be links)"
                )


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Dotted keys; an empty section has none."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat
