"""What a run says to the person who waits for it, and how an entry point ends."""

import os
import sys
import time
from collections.abc import Callable, Sequence

from distill.errors import UserError

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


def run_entry(main: Callable[[Sequence[str]], None], argv: Sequence[str]) -> int:
    """Call an entry point and turn its end into an exit code: 0, 2 for a user's mistake, 130 after Ctrl-C."""
    try:
        main(argv)
    except UserError as error:
        if os.environ.get("LOCAL_RANK", "0") == "0":  # the first process of each machine
            print(f"error: {error}", file=sys.stderr)
        return EXIT_USER_ERROR
    except KeyboardInterrupt:
        print("stopped; the same command goes on from the last checkpoint", file=sys.stderr)
        return 130
    return 0
