"""Files and folders that are whole or not there: synced, renamed into place, and hashed, so that damage is seen."""

import hashlib
import json
import os
import shutil
import uuid
from pathlib import Path

MANIFEST = "manifest.json"


def file_hash(path: Path) -> str:
    """SHA-256 of a file's content."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def sync(path: Path) -> None:
    """Have the disk confirm a file, or the entries of a folder: a rename before that may outlive the content."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def partial_of(path: Path) -> Path:
    """A name beside `path` for what will be renamed to it once it is whole, which nobody else uses on any machine."""
    return path.with_name(f".{path.name}.{uuid.uuid4().hex[:12]}.partial")


# ------------------------------------------------------------------------------------------------------------ folders


def seal_folder(folder: Path) -> None:
    """Sync all that lies in a folder, and write a manifest with the size and SHA-256 of every file as the last one."""
    files = {}
    for path in sorted(folder.rglob("*")):
        sync(path)
        if path.is_file() and path != folder / MANIFEST:
            files[path.relative_to(folder).as_posix()] = {"bytes": path.stat().st_size, "sha256": file_hash(path)}
    manifest = folder / MANIFEST
    manifest.write_text(json.dumps({"format": 1, "files": files}, indent=2) + "\n", encoding="utf-8")
    sync(manifest)
    sync(folder)


def damage(folder: Path) -> str | None:
    """What is wrong with a sealed folder; None where every file of its manifest is as it was.

    Files that came later, such as a model card, are not looked at.
    """
    try:
        files = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))["files"]
        for name, known in files.items():
            path = folder / name
            if path.stat().st_size != known["bytes"]:
                return f"{name} has {path.stat().st_size} bytes instead of {known['bytes']}"
            if file_hash(path) != known["sha256"]:
                return f"{name} is not what was written (another SHA-256)"
    except FileNotFoundError as error:
        return f"{Path(error.filename).name} is missing"
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        return f"{MANIFEST} cannot be read ({type(error).__name__})"
    return None


def put_folder(partial: Path, path: Path) -> None:
    """Seal a folder and rename it to `path`; one that lies there goes only when the new one is whole."""
    seal_folder(partial)
    old = path.with_name(f".{path.name}.replaced")
    shutil.rmtree(old, ignore_errors=True)
    if path.exists():
        os.replace(path, old)
    os.replace(partial, path)
    sync(path.parent)
    shutil.rmtree(old, ignore_errors=True)


# -------------------------------------------------------------------------------------------------------------- files


def put_file(partial: Path, path: Path) -> None:
    """Sync a file and rename it to `path`, its hash beside it as `sha256sum -c` reads it."""
    sync(partial)
    seal = _seal_of(path)
    seal_partial = partial.with_name(f"{partial.name}.sha256")
    seal_partial.write_text(f"{file_hash(partial)}  {path.name}\n", encoding="utf-8")
    sync(seal_partial)
    os.replace(seal_partial, seal)  # before the file: what lies there without its hash was not written by us
    os.replace(partial, path)
    sync(path.parent)


def file_is_whole(path: Path) -> bool:
    """Whether a file is what `put_file` wrote."""
    try:
        return _seal_of(path).read_text(encoding="utf-8").split()[0] == file_hash(path)
    except (OSError, ValueError, IndexError):
        return False


def _seal_of(path: Path) -> Path:
    return path.with_name(f"{path.name}.sha256")
