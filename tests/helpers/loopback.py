"""A SuperLink and SuperNodes as processes on the loopback, started as recipes/federated/README.md says."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from shared import REPOSITORY

START = [sys.executable, "-m", "distill.federation.app"]
Run = Callable[[str], subprocess.CompletedProcess[str]]


@contextmanager
def machines(
    folder: Path, nodes: Sequence[str], tls: Path | None = None, strangers: Sequence[Path] = ()
) -> Iterator[Run]:
    """A federation that waits for runs; yields what runs a recipe, by its file.

    What the processes say is in FOLDER/link.log and FOLDER/node-K.log.

    Args:
        folder: Of logs, and of Flower's files.
        nodes: --node-config of each SuperNode.
        tls: Folder with ca.crt, server.pem and server.key; None: without TLS.
        strangers: Files of authorities by which further SuperNodes would know the server; they have no client.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {
        **os.environ,
        "FLWR_HOME": str(folder / "home"),
        "PYTHONPATH": os.pathsep.join([str(REPOSITORY), os.environ.get("PYTHONPATH", "")]),
    }
    environment.pop("FLWR_TELEMETRY_ENABLED", None)
    address = f"127.0.0.1:{port}"

    def trust(ca: Path | None) -> list[str]:
        return ["--root-certificates", str(ca)] if ca else ["--insecure"]

    def node(number: int, ca: Path | None) -> list[str]:
        own = ["--host", "127.0.0.1", "--port", str(port + 1 + number)]
        return [*START, "supernode", "--superlink", address, *own, *trust(ca)]

    ca = tls / "ca.crt" if tls else None
    secure = ["--insecure"]
    if tls:
        secure = [
            "--ssl-ca-certfile",
            str(ca),
            "--ssl-certfile",
            f"{tls}/server.pem",
            "--ssl-keyfile",
            f"{tls}/server.key",
        ]
    commands = {"link": [*START, "superlink", "--host", "127.0.0.1", "--port", str(port), *secure]}
    for number, told in enumerate(nodes):
        commands[f"node-{number}"] = [*node(number, ca), "--node-config", told]
    for number, other in enumerate(strangers, len(nodes)):
        commands[f"node-{number}"] = node(number, other)

    def run(recipe: str) -> subprocess.CompletedProcess[str]:
        words = [*START, "run", "--config", recipe, "--superlink", address, *trust(ca), "--wait", "240"]
        return subprocess.run(words, env=environment, capture_output=True, text=True, timeout=560, check=False)

    processes = []
    with ExitStack() as logs:
        try:
            for name, command in commands.items():
                log = logs.enter_context((folder / f"{name}.log").open("w"))
                processes.append(
                    subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)
                )
                if name == "link":
                    _wait_for(port)
            yield run
        finally:
            for process in reversed(processes):
                os.killpg(process.pid, signal.SIGTERM)
            for process in processes:
                process.wait(30)


def _wait_for(port: int) -> None:
    for _ in range(240):
        with socket.socket() as trial:
            if trial.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.5)
    raise TimeoutError("the SuperLink does not listen")
