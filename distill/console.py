"""What a run says to the person who waits for it, and how an entry point ends."""

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NoReturn

from distill.errors import UserError
from distill.integrity import storage_error

EXIT_USER_ERROR = 2
_SECONDS_BETWEEN_LINES = 5.0


def say(message: str) -> None:
    """One line of progress on standard error, with the time of day; silent on all but the first process."""
    if os.environ.get("RANK", "0") == "0":
        print(f"[{time.strftime('%H:%M:%S')}] {message}", file=sys.stderr, flush=True)


def counter(what: str, unit: str) -> Callable[..., None]:
    """A progress callback `(done, total=None)` that says how far `what` is, at most every few seconds."""
    begun = last = time.monotonic()

    def report(done: int, total: int | None = None) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last < _SECONDS_BETWEEN_LINES and done != total:
            return
        last = now
        rate = done / max(now - begun, 1e-9)
        left = f", {(total - done) / rate:.0f} s left" if total and rate else ""
        say(f"{what}: {done}{f' of {total}' if total else ''} {unit}{left}")

    return report


class Stopped(KeyboardInterrupt):
    """Somebody asked this process to end.

    signum: SIGINT (Ctrl-C) or SIGTERM.
    """

    def __init__(self, signum: int) -> None:
        super().__init__(signum)
        self.signum = signum


def _stop_now(signum: int, frame: Any) -> NoReturn:
    raise Stopped(signum)


@contextmanager
def stop_signals_kept() -> Iterator[list[int]]:
    """Keep SIGINT and SIGTERM instead of ending at once; gives the list that they are put into."""
    kept: list[int] = []

    def keep(signum: int, frame: Any) -> None:
        if not kept:
            say("asked to stop: finishing this step and saving it")
        kept.append(signum)

    with _handled(keep, signal.SIGINT, signal.SIGTERM):
        yield kept


@contextmanager
def _handled(handler: Callable[[int, Any], Any], *signals: int) -> Iterator[None]:
    # Python lets no other thread set handlers.
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {signum: signal.signal(signum, handler) for signum in signals}
    try:
        yield
    finally:
        for signum, previous in before.items():
            signal.signal(signum, previous)


def run_entry(main: Callable[[Sequence[str]], None], argv: Sequence[str]) -> int:
    """Call an entry point and turn its end into an exit code.

    0: done. 2: a mistake that the user can mend, a full disk among them. 130 after Ctrl-C, 143 after SIGTERM.
    """
    first = os.environ.get("LOCAL_RANK", "0") == "0"  # of each machine
    try:
        with _handled(_stop_now, signal.SIGTERM):
            main(argv)
    except (UserError, OSError, RuntimeError) as error:
        told = error if isinstance(error, UserError) else storage_error(error)
        if told is None:
            raise
        if first:
            print(f"error: {told}", file=sys.stderr)
        return EXIT_USER_ERROR
    except KeyboardInterrupt as stop:
        if first:
            print("stopped; the same command goes on from the last checkpoint", file=sys.stderr)
        return 128 + getattr(stop, "signum", signal.SIGINT)
    return 0
