"""What the user can mend: the one exception for it, the hints that go with it, and what other errors become one."""

import difflib
import errno
import os
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

_CONTINUES = ": it continues from what was whole before"
_FEW = 8  # names that a hint may list
_LONGEST_MESSAGE = 2_000  # characters
# What a disk, a network drive, or whoever else has access to them can do to our files.
_STORAGE_ERRORS = {
    number
    for name in ("ENOSPC", "EDQUOT", "EFBIG", "EROFS", "EACCES", "EPERM", "EIO", "ENOENT", "ENOTDIR", "ESTALE")
    if (number := getattr(errno, name, None)) is not None
}
HUB_TOKEN = re.compile(r"\b(?:hf|api_org)_[A-Za-z0-9]{30,}")


class UserError(Exception):
    """A mistake in the user's input.

    The message is one clear sentence that names the file, line, key or option, and a hint. Entry points print it
    without a traceback and exit with code 2.

    What it quotes may come from anywhere, so it is made fit for a terminal and a log: see `printable`.
    """

    def __init__(self, message: str) -> None:
        super().__init__(printable(message))


def printable(text: str) -> str:
    """Foreign text in one line: tokens of the hub hidden, the middle of a long text left out, and control characters,
    direction marks and lone surrogates written as escapes."""
    text = HUB_TOKEN.sub("hf_***", text)
    if len(text) > _LONGEST_MESSAGE:
        text = f"{text[: _LONGEST_MESSAGE // 2]} ... {text[-_LONGEST_MESSAGE // 2 :]}"
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def suggestion(word: str, known: Iterable[str]) -> str:
    """A hint for a misspelt name: the nearest known ones, and all of them where they are few or none is near."""
    known = list(known)
    near = difflib.get_close_matches(word, known, n=3, cutoff=0.6)
    everything = f"known are: {', '.join(known)}"
    if not near:
        return everything
    return f"did you mean {' or '.join(repr(n) for n in near)}?" + (f" ({everything})" if len(known) <= _FEW else "")


def hub_hint() -> str:
    """What to do where something cannot be had from the hub."""
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE"):
        return "HF_HUB_OFFLINE is set, so it must be in the cache: unset it, or give a local path"
    return "check the name and the network, or give a local path"


def first_line(error: Exception) -> str:
    """What an error of a library says first, without a full stop, to be put into a sentence; its name if it is mute.

    A line that ends with a colon says it with the next one.
    """
    first, *others = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    return (f"{first} {others[0]}" if first.endswith(":") and others else first).rstrip(".")


def storage_error(error: Exception, continues: bool = True) -> UserError | None:
    """The sentence for a full disk, a folder that may not be written, a file that is gone, or a name that is too long.

    Of other errors, None.

    Args:
        error: What was raised.
        continues: Whether the same command continues where it was stopped, which is told then.
    """
    if isinstance(error, OSError) and error.errno == errno.ENAMETOOLONG:
        return UserError(f"{error.filename}: too long for the name of a file or folder; give a shorter one")
    message = str(error)
    if isinstance(error, OSError) and error.errno in _STORAGE_ERRORS:
        assert error.errno is not None  # it is among the errors above
        where, reason = error.filename, os.strerror(error.errno)
    elif type(error).__name__ == "SafetensorError" and "I/O error" in message:  # by name, as its import takes a while
        where, reason = None, message.rpartition("I/O error: ")[2].partition(" (os error")[0]
    elif isinstance(error, RuntimeError) and ("inline_container" in message or "PytorchStreamWriter" in message):
        where, reason = None, "torch could not write all of a file; the disk may be full"
    else:
        return None
    what = where or ("a file of the run" if continues else "the output")
    return UserError(
        f"{what}: {reason[0].lower() + reason[1:]}; free space, or mend access to it, and give the same command again"
        f"{_CONTINUES if continues else ''}"
    )


def memory_error(error: Exception) -> UserError | None:
    """The sentence for a device whose memory is full; None for other errors."""
    message = str(error)
    of_gpu = type(error).__name__ == "OutOfMemoryError" or "CUBLAS_STATUS_ALLOC_FAILED" in message  # as torch has them
    if not (of_gpu or "DefaultCPUAllocator" in message):
        return None
    asked = re.search(r"[Tt]ried to allocate ([\d.]+ \w+)", message)
    return UserError(
        f"{'the GPU' if of_gpu else 'this machine'} has too little free memory"
        f"{f' (asked for {asked[1]} more)' if asked else ''}; end what else takes it, do less at a time "
        "(trainer.per_device_train_batch_size with more gradient_accumulation_steps, block_length, "
        "trainer.gradient_checkpointing; scores.batch_size, scores.context) in another --output_dir, or take a "
        "smaller model"
    )


@contextmanager
def storage_errors_as_user_errors() -> Iterator[None]:
    """Turn what a full or vanished disk raises into a UserError."""
    try:
        yield
    except Exception as error:
        told = storage_error(error)
        if told is None:
            raise
        raise told from error
