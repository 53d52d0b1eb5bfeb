"""What a run says to the person who waits for it, and how an entry point ends.

Progress goes to standard error: a bar on a terminal, a line every few seconds elsewhere, nothing with `--quiet`.
Results go to standard output and are none of this module's business.
"""

import io
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from distill.base.cores import share_cores
from distill.base.errors import UserError, memory_error, storage_error
from distill.base.phases import Mark, Plan, time_of_day

if TYPE_CHECKING:
    from rich.progress import Progress

EXIT_USER_ERROR = 2
QUIET = "--quiet"
QUIET_HELP = "no progress; warnings and errors only"
_SECONDS_BETWEEN_LINES = 5.0
_SECONDS_BETWEEN_FRAMES = 0.1

# Where one report says that much was done so soon, it was done before: no piece of work is that quick.
_AT_ONCE = 1.0
_BAR_WIDTH = 20
_BAR_AND_TIME = _BAR_WIDTH + 3 + len("-:--:--")  # with the spaces between

_quiet = False
_bar: "Progress | None" = None
_plan: Plan | None = None
_tokens, _at_matrix_rate = 0, 0.0  # what models have read and written so far, and the seconds that it had to take
_last_end = Mark(time.monotonic(), 0, 0.0)  # when the last counter ended, or a phase began


def is_first_process() -> bool:
    """Whether this is the process that talks; of several, the one of rank 0."""
    return os.environ.get("RANK", "0") == "0"


def on_terminal() -> bool:
    """Whether standard error is a terminal on which a line can be drawn again."""
    return sys.stderr.isatty() and os.environ.get("TERM", "dumb") not in ("dumb", "unknown")


def say(message: str) -> None:
    """One line of progress on standard error, with the time of day; silent on all but the first process."""
    if is_first_process() and not _quiet:
        _close_bar()
        print(f"[{time.strftime('%H:%M:%S')}] {message}", file=sys.stderr, flush=True)


def warn(message: str) -> None:
    """A warning in one sentence on standard error, `--quiet` or not; silent on all but the first process."""
    if is_first_process():
        _close_bar()
        print(f"warning: {message}", file=sys.stderr, flush=True)


def follow(plan: Plan | None) -> None:
    """Let what is said from now on tell the phase of a run, and when all of it will be done; None: no longer."""
    global _plan
    _plan = plan


def phase(name: str) -> bool:
    """A phase of the run that is followed begins, which is said; False where there is none of this name to begin."""
    global _last_end
    if _plan is None or not _plan.begin(name):
        return False
    _last_end = _now()
    left = _plan.seconds_left()
    when = f"all done at about {time_of_day(left)}, {duration(left)} left"
    say(f"phase {_plan.number} of {len(_plan.phases)}: {name}; {when}")
    return True


def count_tokens(number: int, at_matrix_rate: float = 0.0) -> None:
    """So many tokens were read or written; the counter that goes on tells how many a second.

    Args:
        number: Of tokens.
        at_matrix_rate: Seconds that they would have taken at the card's matrix rate; 0 where it is not known.
    """
    global _tokens, _at_matrix_rate
    _tokens += number
    _at_matrix_rate += at_matrix_rate


def speed(tokens_per_second: float, matrix_rate_share: float = 0.0) -> str:
    """`2,700 tokens/s`, and where the share is known: `2,700 tokens/s (1.5% of the matrix rate)`."""
    return f"{tokens_per_second:,.0f} tokens/s{of_matrix_rate(matrix_rate_share)}"


def of_matrix_rate(share: float) -> str:
    """What stands behind a speed where its share of the card's matrix rate is known, which 0 says that it is not."""
    return f" ({share:.1%} of the matrix rate)" if share else ""


def _of_run(what: str, done: int, total: int | None, before: int, begun: Mark | None) -> Callable[[str], str]:
    """Tell the plan how far a counter is, and where it began if its tokens are the phase's.

    Returns what is said of the whole run behind the count, by a form of words.
    """
    phase(what)
    plan = _plan
    if plan is None or not plan.is_at(what):
        return lambda form: ""
    if begun:
        plan.worked(begun, _now())
    if total:
        plan.report(what, done / total, before / total)
    return lambda form: form.format(plan.number, len(plan.phases), time_of_day(plan.seconds_left()))


def _cut(text: str, room: int) -> str:
    return text if len(text) <= room else f"{text[: max(room - 1, 0)]}…"


def _now() -> Mark:
    return Mark(time.monotonic(), _tokens, _at_matrix_rate)


def counter(
    what: str, unit: str, done: int = 0, tells_speed: bool = True, follows: bool = False
) -> Callable[..., None]:
    """A progress callback `(done, total=None, note="")` that says how far `what` is, at most every few seconds.

    A phase of that name, of the run that is followed, begins with the first report. Where tokens were counted since
    (`count_tokens`), it tells how many a second.

    Args:
        what: What is being done.
        unit: What is counted, in the plural.
        done: How many were done before now; they do not count for the remaining time.
        tells_speed: Whether it tells how many tokens a second; no where what is reported has a note of its own.
        follows: Whether the work began where the last counter ended, and not now.
    """
    last = time.monotonic()
    begun = _last_end if follows else _now()
    before, reported, bar, task = done, False, None, None

    def report(done: int, total: int | None = None, note: str = "") -> None:
        global _last_end
        nonlocal begun, before, reported, last, bar, task
        if not is_first_process():
            return
        now = time.monotonic()
        if not (reported or before) and now - begun.seconds < _AT_ONCE and done != total:
            before, begun = done, _now()
        reported = True
        if ended := done == total:
            _last_end = _now()
        of_run = _of_run(what, done, total, before, begun if tells_speed else None)
        if _quiet:
            return
        count = f"{done:,}{f' of {total:,}' if total else ''} {unit}"
        seconds = now - begun.seconds
        if tells_speed and _tokens > begun.tokens and seconds > 0:
            told = speed((_tokens - begun.tokens) / seconds, (_at_matrix_rate - begun.at_matrix_rate) / seconds)
            note = f"{told}, {note}" if note else told
        note = f", {note}" if note else ""
        if on_terminal():
            if bar is None or bar is not _bar:
                bar = _open_bar()
                task = bar.add_task(what, total=total, completed=before, count="")
            elif now - last < _SECONDS_BETWEEN_FRAMES and not ended:
                return
            room = bar.console.width - len(what) - _BAR_AND_TIME
            bar.update(task, completed=done, total=total, count=_cut(count + of_run(", all done {2}") + note, room))
            bar.refresh()
            if ended:
                _close_bar()
        elif now - last >= _SECONDS_BETWEEN_LINES or ended:
            rate = (done - before) / max(seconds, 1e-9)
            left = f", {duration((total - done) / rate)} left" if total and rate and not ended else ""
            whole = of_run("; phase {0} of {1}, all done at about {2}") if not ended else ""
            say(f"{what}: {count}{note}{left}{whole}")
        else:
            return
        last = now

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


def _open_bar() -> "Progress":
    """A terminal has one bar at a time, that of what reported last."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    global _bar
    _close_bar()
    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=_BAR_WIDTH),
        TextColumn("{task.fields[count]}", markup=False),
        TimeRemainingColumn(elapsed_when_finished=True),
    )
    # Drawn when there is something new and never by a thread, which would not survive the forks of data loaders.
    _bar = Progress(*columns, console=console, auto_refresh=False, redirect_stdout=False)
    _bar.start()
    console.show_cursor(True)  # or else a killed run would leave the terminal without one
    return _bar


def _close_bar() -> None:
    """What is finished stays on the screen; a bar that gives way to a line is drawn again below it."""
    global _bar
    if _bar is not None:
        _bar.live.transient = not _bar.finished
        _bar.stop()
        _bar = None


def duration(seconds: float) -> str:
    """`41 s`, `12 min`, `30 h`, `400 days`: two digits at least, in the largest unit that has them."""
    for unit, size in (("days", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= 10 * size:
            return f"{seconds / size:,.0f} {unit}"
    return f"{seconds:.0f} s"


def _switch_off_library_bars() -> None:
    """The bars of transformers, datasets and the hub are for terminals, and know nothing of `--quiet`."""
    for variable in ("HF_HUB_DISABLE_PROGRESS_BARS", "HF_DATASETS_DISABLE_PROGRESS_BARS"):
        os.environ.setdefault(variable, "1")
    if "transformers" in sys.modules:  # has read the variable already
        sys.modules["transformers"].logging.disable_progress_bar()


def _make_streams_usable() -> None:
    """Standard streams that were closed lead nowhere, and what an encoding of results cannot write is escaped."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115  # for as long as this process runs
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _is_first_of_machine() -> bool:
    return os.environ.get("LOCAL_RANK", "0") == "0"


def _tells_of_mistake() -> bool:
    """Whether this process tells why it ends: of those that a launcher has started on a machine, the first that fails.

    All may have met the mistake, or this one alone, as where one GPU is full: the launcher ends the others then. To
    each, torchrun names a file `attempt_N/LOCAL_RANK/error.json`, so that the folder above is that of this start on
    this machine, and a file there can be made by one of them only. Other launchers have no such folder.
    """
    file = os.environ.get("TORCHELASTIC_ERROR_FILE")
    if os.environ.get("WORLD_SIZE", "1") == "1" or not file:
        return _is_first_of_machine() or _is_among_others()
    try:
        os.close(os.open(Path(file).parent.parent / "distill-told", os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return False
    except OSError:  # a full disk, perhaps; better told twice than never
        pass
    return True


def _who_met_it() -> str:
    """Which process it is that met a mistake by itself; nothing of the first, which is the one that talks."""
    if is_first_process() or not _is_among_others():
        return ""
    return f"{this_process()}: "


def this_process() -> str:
    """Its number among those of a launcher, and its machine, for messages."""
    return f"process {os.environ.get('RANK', '0')} on {socket.gethostname()}"


def _is_among_others() -> bool:
    """Whether this is one of several processes that still exchange: where all have heard of a mistake, they do not."""
    torch = sys.modules.get("torch")  # which this module does not load
    return torch is not None and torch.distributed.is_available() and torch.distributed.is_initialized()


def run_entry(main: Callable[[Sequence[str]], None], argv: Sequence[str], continues: bool = True) -> int:
    """Call an entry point and turn its end into an exit code.

    0: done. 2: a mistake that the user can mend, a full disk among them. 130 after Ctrl-C, 143 after SIGTERM.

    `--quiet` among the arguments silences the progress of whatever runs. Every parser knows the option; it is looked
    for here because it has to work from the first line on. Threads are told how to share the cores (`cores`), so the
    entry may load torch only within `main`.

    Args:
        main: What is called with the arguments.
        argv: The arguments.
        continues: Whether the same call continues where it was stopped, which is told then.
    """
    global _quiet
    _quiet = QUIET in argv
    _make_streams_usable()
    share_cores()
    if _quiet or not on_terminal():
        _switch_off_library_bars()
    try:
        with _handled(_stop_now, signal.SIGTERM):
            main(argv)
    except (UserError, OSError, RuntimeError) as error:
        told = error if isinstance(error, UserError) else storage_error(error, continues) or memory_error(error)
        if told is None:
            raise
        _close_bar()
        if _tells_of_mistake():
            print(f"error: {_who_met_it()}{told}", file=sys.stderr)
        return EXIT_USER_ERROR
    except KeyboardInterrupt as stop:
        _close_bar()
        if _is_first_of_machine():
            print("stopped; the same command continues where it stopped" if continues else "stopped", file=sys.stderr)
        return 128 + getattr(stop, "signum", signal.SIGINT)
    finally:
        _close_bar()
    return 0
