"""The process that stays on a client's machine: Flower starts one for every message, which asks this one and ends.

Libraries, teacher and text take seconds to load, and a short update less. So the process that Flower starts loads none
of them: it hands the message on to a worker that has them, over a socket in a folder that is its user's alone.

Who asks and finds no worker starts one, and hands it the listening socket: so a worker can be asked before it listens,
and who asked one that dies sees the connection end. Then another is started, once; an update that is done again gives
the same weights. A worker leaves when it was not asked for a while, and ends at once with the node that it belongs to,
or when who asked has gone.

A message is, either way, a line of JSON, where `bytes` is how many follow it. No torch is loaded here.
"""

import fcntl
import json
import os
import select
import socket
import stat
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from io import BufferedRWPair
from pathlib import Path
from typing import Any

from distill.base.console import warn
from distill.base.errors import UserError

#: What starts a worker; it calls `serve`.
_COMMAND = (sys.executable, "-m", "distill.federation.device")

_KEPT = "ends with {}; the terminal of its SuperNode says more, which may quote its text and stays with it"

Message = tuple[Mapping[str, Any], bytes]


class ToldError(UserError):
    """A mistake whose words hold nothing of the client's text or files: the server is told them."""


# -------------------------------------------------------------------------------------------------------- who asks it


def ask(folder: Path, request: Mapping[str, Any], payload: bytes, keep: float) -> tuple[dict[str, Any], bytes]:
    """What a node's worker answers; it is started where there is none.

    Args:
        folder: Of the socket, made where it is missing; no other user may look into it.
        request, payload: What the worker's `answer` is given.
        keep: Seconds for which a worker that is started here waits to be asked again.

    Raises:
        UserError: the worker raised an error (the words of a `ToldError` are told, of any other one its kind alone);
            it died twice; others may look into the folder; or the folder is another node's.
    """
    node = os.getppid()  # Flower's process that starts one for every message, and ends with the SuperNode
    for _ in range(2):
        with suppress(ConnectionError, EOFError):
            with _connected(folder, node, keep) as connection, connection.makefile("rwb") as channel:
                _send(channel, {**request, "node": node}, payload)
                head, answered = _receive(channel)
            if "error" in head:
                raise UserError(head["error"])
            return head, answered
    raise UserError(
        "the client's worker ended twice before it had answered; what it printed last in the SuperNode's terminal may "
        "say why, and if that says nothing, the system may have been short of memory"
    )


def _connected(folder: Path, node: int, keep: float) -> socket.socket:
    """A connection to the worker."""
    with _private(folder) as place:
        # A socket's address is short, and a folder's may be long.
        address = f"/proc/self/fd/{place}/socket"
        fcntl.flock(place, fcntl.LOCK_EX)  # of two who find no worker, one starts it
        with suppress(FileNotFoundError, ConnectionRefusedError):
            return _connection(address)
        with suppress(FileNotFoundError):
            os.unlink(address)  # that of a worker which is no more
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(address)
            listener.listen()
            os.set_inheritable(listener.fileno(), True)
            command = [*_COMMAND, str(listener.fileno()), str(node), str(keep)]
            stdin = [(os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0)]
            os.posix_spawn(command[0], command, os.environ, file_actions=stdin, setsid=True)
        return _connection(address)


def _connection(address: str) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX)
    try:
        connection.connect(address)
    except OSError:
        connection.close()
        raise
    return connection


@contextmanager
def _private(folder: Path) -> Iterator[int]:
    """A folder that nobody else may look into, opened."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    place = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        status = os.fstat(place)
        if status.st_uid != os.getuid() or stat.S_IMODE(status.st_mode) & 0o077:
            raise UserError(f"{folder}: other users may look into this folder; make it yours alone: chmod 700 {folder}")
        yield place
    finally:
        os.close(place)


# --------------------------------------------------------------------------------------------------------- who is asked


def serve(answer: Callable[[dict[str, Any], bytes], Message], argv: Sequence[str]) -> None:
    """Answer one message after another, until nobody has asked for a while.

    Args:
        answer: Request and payload -> head and payload of the answer. Of an error, who asked and the server are told
            what `ask` says; its words are printed here. After one that is no UserError the worker ends, as nobody knows
            what state it is in.
        argv: The listening socket's file descriptor, the node's process, and the seconds to wait; see `ask`.
    """
    listener, node = socket.socket(fileno=int(argv[0])), int(argv[1])
    listener.settimeout(float(argv[2]))
    gone = select.epoll()
    with suppress(ProcessLookupError):
        gone.register(os.pidfd_open(node), select.EPOLLIN)
        threading.Thread(target=_end_when, args=(gone,), daemon=True).start()
        with suppress(TimeoutError):
            while True:
                with listener.accept()[0] as connection, suppress(ConnectionError, EOFError):
                    _serve(connection, node, gone, answer)


def _end_when(gone: select.epoll) -> None:
    """End the process when one of those that it needs has gone, whatever it is at: nothing of it is half on disk."""
    while not gone.poll():
        pass
    os._exit(1)


def _serve(
    connection: socket.socket,
    node: int,
    gone: select.epoll,
    answer: Callable[[dict[str, Any], bytes], Message],
) -> None:
    with connection.makefile("rwb") as channel:
        request, payload = _receive(channel)
        if request.pop("node") != node:
            _send(channel, {"error": "this folder is another SuperNode's; give each one a folder of its own"}, b"")
            return
        gone.register(connection, select.EPOLLRDHUP)
        try:
            head, answered = answer(request, payload)
        except ToldError as error:
            head, answered = {"error": str(error)}, b""
        except UserError as error:
            warn(str(error))
            head, answered = {"error": _KEPT.format("a mistake in its recipe, text or environment")}, b""
        except Exception as error:
            gone.unregister(connection)
            _send(channel, {"error": _KEPT.format(type(error).__name__)}, b"")
            raise
        gone.unregister(connection)
        _send(channel, head, answered)


# ------------------------------------------------------------------------------------------------------------- messages


def _send(channel: BufferedRWPair, head: Mapping[str, Any], payload: bytes) -> None:
    channel.write(json.dumps({**head, "bytes": len(payload)}).encode() + b"\n")
    channel.write(payload)
    channel.flush()


def _receive(channel: BufferedRWPair) -> tuple[dict[str, Any], bytes]:
    """Raises EOFError where the other side ended before all was sent."""
    if not (line := channel.readline()).endswith(b"\n"):
        raise EOFError
    head = json.loads(line)
    payload = channel.read(size := head.pop("bytes"))
    if len(payload) < size:
        raise EOFError
    return head, payload
