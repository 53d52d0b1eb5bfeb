"""How a file or folder gets to its place: whole, hashed, so that damage is seen, and with the umask's permissions.

The ground under `files`, which is what the rest of the program writes with, and under what writes piece by piece: a
cache, a checkpoint. Such a thing is made under another name (`partial_of`), synced, given its hashes, and renamed.
"""

import errno
import fcntl
import hashlib
import json
import os
import shutil
import stat
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

MANIFEST = "manifest.json"
#: What some network drives and shared folders say who cannot sync the entries of a folder.
_NO_SYNC_OF_FOLDERS = {errno.EINVAL, errno.EBADF, errno.ENOTSUP, errno.EOPNOTSUPP}


def file_hash(path: Path) -> str:
    """SHA-256 of a file's content."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def sync(path: Path) -> None:
    """Have the disk confirm a file, or the entries of a folder: a rename before that may outlive the content."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _NO_SYNC_OF_FOLDERS or not path.is_dir():
            raise
    finally:
        os.close(descriptor)


def partial_of(path: Path) -> Path:
    """A name beside `path` for what will be renamed to it once it is whole, which nobody else uses on any machine."""
    return path.with_name(f".{path.name}.{uuid.uuid4().hex[:12]}.partial")


@contextmanager
def in_work(partial: Path) -> Iterator[None]:
    """Around what takes long to write a file: until it ends, `is_in_work` says so to other processes.

    By a lock, which the kernel drops with the process. On a disk without locks nobody is told.
    """
    with partial.open("ab") as stream:
        with suppress(OSError):
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield


def is_in_work(partial: Path) -> bool:
    """Whether another process is writing this file within `in_work`."""
    try:
        with partial.open("rb") as stream:
            fcntl.flock(stream, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:  # it is gone, or its disk has no locks
        return False
    return False


@contextmanager
def claimed_partial(path: Path) -> Iterator[IO[bytes]]:
    """A file to append to that will become `path`: one that a stopped run left, or a new one.

    Runs may share a cache. Whoever writes such a file holds a lock on it, which the kernel drops with the process.
    """
    left = sorted(path.parent.glob(f".{path.name}.*.partial"))
    for place in (*left, partial_of(path)):
        with place.open("a+b") as stream:
            if _locked(stream) or place not in left:  # a new one is ours, also on a disk without locks
                yield stream
                return


def _locked(stream: IO[bytes]) -> bool:
    """Whether this process has a file for itself now, which has not been renamed meanwhile."""
    try:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return os.path.samestat(os.fstat(stream.fileno()), os.stat(stream.name))
    except OSError:
        return False


def _permit_as(ours: Path, path: Path) -> None:
    """Give a file or folder the permissions of a file that we have opened ourselves.

    Those are what the umask and the folder's access list leave. Libraries that write by way of a temporary file, such
    as safetensors, leave one that only its owner may read. To ask for the umask itself means to change it, for all
    threads, for a moment.
    """
    wanted, mode = (stat.S_IMODE(p.stat().st_mode) for p in (ours, path))
    if path.is_dir():
        wanted |= (wanted & 0o444) >> 2 | mode  # to enter where one may read; a group that is handed down stays
    if mode != wanted:
        with suppress(PermissionError):  # some network drives have none to give
            path.chmod(wanted)


# ------------------------------------------------------------------------------------------------------------ folders


def seal_folder(folder: Path) -> None:
    """Sync all that lies in a folder, and write a manifest with the size and SHA-256 of every file as the last one.

    The files get the permissions that the umask leaves.
    """
    files = {}
    manifest = folder / MANIFEST
    manifest.touch()
    for path in sorted(folder.rglob("*")):
        _permit_as(manifest, path)
        sync(path)
        if path.is_file() and path != manifest:
            files[path.relative_to(folder).as_posix()] = {"bytes": path.stat().st_size, "sha256": file_hash(path)}
    manifest.write_text(json.dumps({"format": 1, "files": files}, indent=2) + "\n", encoding="utf-8")
    sync(manifest)
    sync(folder)


def damage(folder: Path) -> str | None:
    """What is wrong with a sealed folder; None where every file of its manifest is as it was.

    Files that came later, such as a model card, are not looked at.
    """
    try:
        for name, known in _files_of(folder).items():
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


def sealed_files(folder: Path) -> list[str]:
    """The names of the files of a sealed folder by its manifest, there or not; none where it cannot be read."""
    try:
        return list(_files_of(folder))
    except (OSError, ValueError, KeyError, TypeError):
        return []


def _files_of(folder: Path) -> dict[str, dict[str, Any]]:
    """Name -> size and hash, as the manifest of a sealed folder has them."""
    return json.loads((folder / MANIFEST).read_text(encoding="utf-8"))["files"]


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
    """Sync a file and rename it to `path`, its hash beside it as `sha256sum -c` reads it.

    It gets the permissions that the umask leaves.
    """
    seal = _seal_of(path)
    seal_partial = partial.with_name(f"{partial.name}.sha256")
    seal_partial.write_text(f"{file_hash(partial)}  {path.name}\n", encoding="utf-8")
    _permit_as(seal_partial, partial)
    sync(partial)
    sync(seal_partial)
    os.replace(seal_partial, seal)  # before the file: what lies there without its hash was not written by us
    os.replace(partial, path)
    sync(path.parent)


def file_is_whole(path: Path) -> bool:
    """Whether a file is what `put_file` wrote."""
    try:
        return sealed_hash(path) == file_hash(path)
    except (OSError, ValueError, IndexError):
        return False


def sealed_hash(path: Path) -> str:
    """The SHA-256 of a file that `put_file` wrote, without reading the file."""
    return _seal_of(path).read_text(encoding="utf-8").split()[0]


def _seal_of(path: Path) -> Path:
    return path.with_name(f"{path.name}.sha256")
