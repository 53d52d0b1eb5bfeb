"""The output folder of a run: whose it is, what in it is finished, and how a finished thing gets there whole."""

import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from distill.errors import UserError
from distill.recipe import Recipe, read_resolved, write_recipe


@contextmanager
def open_run(recipe: Recipe) -> Iterator[Path]:
    """Claim the output folder for this recipe, or find that it is this recipe's already.

    Used as a context manager around the preparation of a run: a user's mistake that shows there leaves nothing behind
    of a folder that was claimed just now.

    Raises:
        UserError: it holds another recipe's run (the first key that differs is named), or cannot be written.
    """
    folder = Path(recipe.output_dir)
    record = folder / "recipe.yaml"
    fresh = not record.exists()
    if fresh:
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise UserError(f"{folder} is not empty and holds no recipe.yaml; choose another --output_dir")
    else:
        mine, theirs = _flat(recipe.to_dict()), _flat(read_resolved(record))
        # Where the run lies does not change what it is.
        differ = [k for k in {**theirs, **mine} if k != "output_dir" and mine.get(k) != theirs.get(k)]
        if differ:
            key = differ[0]
            raise UserError(
                f"{folder} holds another recipe's run ({key} is {theirs.get(key)!r} there, {mine.get(key)!r} here); "
                "choose another --output_dir, or remove that folder"
            )
        _refuse_links_out(folder)
    missing = [p for p in (folder, *folder.parents) if not p.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        partial = record.with_suffix(".partial")
        write_recipe(recipe, partial)
        os.replace(partial, record)
    except OSError as error:
        raise UserError(f"{folder}: cannot be written ({error.strerror}); choose another --output_dir") from None
    try:
        yield folder
    except UserError:
        if fresh:
            shutil.rmtree(missing[-1] if missing else folder)
            if not missing:
                folder.mkdir()
        raise


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
    flat = {}
    for key, value in values.items():
        if isinstance(value, dict) and value:
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat


def write_json(path: Path, content: Any) -> None:
    """Write JSON so that a reader sees the old file or the whole new one, never half of it."""
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    partial.write_text(json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")
    os.replace(partial, path)


def write_folder(path: Path, fill: Callable[[Path], None]) -> None:
    """Let `fill` write a folder that appears at `path` only when it is whole.

    Args:
        path: Where the folder shall be; an older one there is replaced.
        fill: Called with the temporary folder to write into.
    """
    partial = path.with_name(f".{path.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    fill(partial)
    if path.exists():
        shutil.rmtree(path)
    os.replace(partial, path)
