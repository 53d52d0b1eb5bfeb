"""What the program writes with: text, JSON and folders that appear whole, and only then.

How that is done, and how damage is seen later, is in `integrity`. How text is read is in `long_input`.
"""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from distill.base.console import say
from distill.base.errors import storage_errors_as_user_errors
from distill.base.integrity import damage, partial_of, put_folder, sync

#: Where this package lies, with its word lists, prompts and assets.
PACKAGE = Path(__file__).resolve().parent.parent
#: What a recipe calls `demo`.
DEMO_TEACHER = PACKAGE / "assets" / "demo-teacher"


def is_finished(folder: Path) -> bool:
    """Whether a folder that `write_folder` wrote is there, and as it was written; damage is said."""
    found = damage(folder)
    if found and folder.exists():
        say(f"{folder} is damaged ({found}); making it again")
    return found is None


def can_be_written(folder: Path) -> bool:
    """Whether a folder may be written to; of one that is not there yet, the nearest one above it that is."""
    # Path.exists raises where a folder above may not be entered.
    there = next(place for place in (folder.absolute(), *folder.absolute().parents) if os.path.exists(place))
    return there.is_dir() and os.access(there, os.W_OK)


def write_json(path: Path, content: Any) -> None:
    """Write JSON, see `write_text`."""
    write_text(path, json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write a text so that a reader sees the old file or the whole new one, never half of it."""
    partial = partial_of(path)
    partial.write_text(text, encoding="utf-8")
    sync(partial)
    os.replace(partial, path)


def training_record(model: Path) -> Path:
    """Where a run tells of the training of the model in this folder: `training/NAME.json` beside it."""
    return model.parent / "training" / f"{model.name}.json"


def write_folder(path: Path, fill: Callable[[Path], None]) -> None:
    """Let `fill` write a folder that appears at `path`, with a manifest, only when it is whole.

    Args:
        path: Where the folder shall be; an older one there is replaced.
        fill: Called with the temporary folder to write into.

    Raises:
        UserError: the disk is full or cannot be written; what lay at `path` still lies there.
    """
    partial = partial_of(path)
    with storage_errors_as_user_errors():
        partial.mkdir(parents=True)
        try:
            fill(partial)
            put_folder(partial, path)
        finally:
            shutil.rmtree(partial, ignore_errors=True)  # what a failure leaves of it takes room on a full disk
