"""Starts federated distillation over machines, by Flower (extra `federated`); see recipes/federated/README.md.

    python -m distill.federation.app superlink OPTIONS    what clients connect to; options of flower-superlink
    python -m distill.federation.app supernode OPTIONS    on each client's machine; options of flower-supernode
    python -m distill.federation.app run --config RECIPE --superlink HOST:PORT      trains a recipe's student

Flower's telemetry is off, unless FLWR_TELEMETRY_ENABLED is set to 1. No torch is loaded here.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from distill.base.console import run_entry, say, warn
from distill.base.errors import UserError
from distill.recipe_check import parse_recipe

os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")  # what is started here inherits it

# Flower looks for names that are assigned there. A client's process, which is short, loads nothing of the server's.
_SHIMS = {
    "client_app.py": "from distill.federation import node\nclient = node.client\n",
    "server_app.py": "from distill.federation import network\nserver = network.server\n",
}
_APP = """[project]
name = "distill-federation"
version = "1.0.0"
[tool.flwr.app]
publisher = "distill"
[tool.flwr.app.components]
serverapp = "server_app:server"
clientapp = "client_app:client"
[tool.flwr.app.config]
recipe = ""
wait = 600
"""


def main(argv: Sequence[str]) -> None:
    """The three verbs of this module's head."""
    parser = argparse.ArgumentParser(
        prog="python -m distill.federation.app",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("verb", choices=["superlink", "supernode", "run"], help="--help after it tells its options")
    verb, rest = parser.parse_args(argv[:1]).verb, argv[1:]
    if verb == "run":
        _run(rest)
        return
    if sys.platform != "linux":
        raise UserError(
            "federation over machines needs Linux on the server and on each client; for clients in one process: "
            "distill train --config RECIPE"
        )
    offline = ["--disable-runtime-dependency-installation"] if verb == "superlink" else []
    program = _program(f"flower-{verb}")
    os.environ["PATH"] = f"{Path(program).parent}{os.pathsep}{os.environ['PATH']}"  # it starts others by their names
    os.execv(program, [program, *offline, *rest])


def _program(name: str) -> str:
    """A program of Flower's, beside this Python."""
    path = Path(sys.executable).with_name(name)
    if not path.exists():
        raise UserError("Flower is not installed here; pip install -c constraints-federated.txt -e '.[federated]'")
    return str(path)


def _run(argv: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m distill.federation.app run")
    parser.add_argument("--config", required=True, help="Recipe; the server reads it by this path.")
    parser.add_argument("--superlink", default="127.0.0.1:9093", help="Address of the SuperLink's control API.")
    parser.add_argument("--root-certificates", help="File of the authority that signed the SuperLink's certificate.")
    parser.add_argument("--insecure", action="store_true", help="Without TLS: on one machine alone.")
    parser.add_argument("--wait", type=int, default=600, help="Seconds to wait for all clients to connect.")
    given = parser.parse_args(argv)
    recipe = parse_recipe(["--config", given.config])
    if not recipe.federation.clients:
        raise UserError(f"{given.config}: federation.clients is 0; say how many clients there are")
    with tempfile.TemporaryDirectory() as home:
        app = Path(home) / "app"
        app.mkdir()
        (app / "pyproject.toml").write_text(_APP, encoding="utf-8")
        for name, shim in _SHIMS.items():
            (app / name).write_text(shim, encoding="utf-8")
        trust = (
            f"root-certificates = {json.dumps(str(Path(given.root_certificates).resolve()), ensure_ascii=False)}"
            if given.root_certificates
            else f"insecure = {json.dumps(given.insecure)}"
        )
        address = f"address = {json.dumps(given.superlink)}"
        lines = ["[superlink]", 'default = "distill"', "[superlink.distill]", address, trust]
        (Path(home) / "config.toml").write_text("\n".join(lines) + "\n", encoding="utf-8")
        settings = f"recipe={json.dumps(str(Path(given.config).resolve()), ensure_ascii=False)} wait={given.wait}"
        number = _asked(home, "run", str(app), "distill", "-c", settings)["run-id"]
        try:
            _flower(home, "log", number, "distill", "--stream")
        except KeyboardInterrupt:  # or SIGTERM: the run is another machine's process, which knows nothing of it
            _stop(home, number)
            raise
        (ended,) = _asked(home, "list", "distill", "--run-id", number)["runs"]
    if ended["status"] != "finished:completed":
        why = ended["status-details"].removeprefix("ServerApp failed with exception: ")
        raise UserError(why or f"Flower's run {number} is {ended['status']}")


def _stop(home: str, number: str) -> None:
    """Stop a run at the SuperLink, and say so, or that it goes on."""
    try:
        _asked(home, "stop", number, "distill")
    except UserError as error:
        warn(f"Flower's run {number} goes on at the SuperLink, as it could not be stopped: {error}")
    else:
        say(f"Flower's run {number} is stopped; the same command continues behind the last whole round")


def _flower(home: str, *words: str, **options: Any) -> "subprocess.CompletedProcess[str]":
    """One of Flower's commands, over the connection that `home` describes."""
    environment = {**os.environ, "FLWR_HOME": home}
    return subprocess.run([_program("flwr"), *words], env=environment, text=True, check=False, **options)


def _asked(home: str, *words: str) -> dict[str, Any]:
    """What one of Flower's commands answers.

    Raises:
        UserError: it does not do what it was asked for.
    """
    done = _flower(home, *words, "--format", "json", stdout=subprocess.PIPE)
    try:
        answer = json.loads(done.stdout)
    except ValueError:
        raise UserError(f"flwr {words[0]} ended with code {done.returncode}; its lines above say why") from None
    if not answer["success"]:
        raise UserError(f"flwr {words[0]}: {' '.join(answer['error-message'].split())}")
    return dict(answer)


if __name__ == "__main__":
    sys.exit(run_entry(main, sys.argv[1:], continues=False))
