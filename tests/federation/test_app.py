"""What starts Flower: nothing of it and no torch is needed to say what is missing; telemetry is off."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from shared import REPOSITORY

from distill.base.errors import UserError
from distill.federation import app


@pytest.fixture
def recipe(tmp_path):
    values = {"base": str(REPOSITORY / "recipes/federated/quickstart.yaml"), "output_dir": str(tmp_path / "out")}
    path = tmp_path / "r.yaml"
    path.write_text(yaml.safe_dump(values), encoding="utf-8")
    return str(path)


@pytest.mark.parametrize("verb", ["superlink", "supernode"])
def test_without_flower_one_sentence_says_what_to_install(monkeypatch, tmp_path, verb):
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    with pytest.raises(UserError, match="constraints-federated"):
        app.main([verb, "--insecure"])


def test_the_launcher_passes_options_on_and_flower_installs_nothing(monkeypatch, tmp_path):
    for name in ("flower-superlink", "flower-supernode"):
        (tmp_path / name).touch()
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    monkeypatch.setenv("PATH", "/usr/bin")
    started = []
    monkeypatch.setattr(os, "execv", lambda program, words: started.append(words))
    app.main(["superlink", "--insecure"])
    app.main(["supernode", "--superlink", "host:9091"])
    assert started == [
        [str(tmp_path / "flower-superlink"), "--disable-runtime-dependency-installation", "--insecure"],
        [str(tmp_path / "flower-supernode"), "--superlink", "host:9091"],
    ]
    assert os.environ["PATH"].startswith(str(tmp_path))


def test_a_run_gets_an_app_a_connection_and_no_telemetry(monkeypatch, tmp_path, recipe):
    (tmp_path / "flwr").touch()
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    seen = {}

    def run(command, env, check):
        home = Path(env["FLWR_HOME"])
        seen.update(command=command, telemetry=env["FLWR_TELEMETRY_ENABLED"])
        seen.update(
            config=(home / "config.toml").read_text(),
            app=(home / "app/server_app.py").read_text(),
            client=(home / "app/client_app.py").read_text(),
        )
        return subprocess.CompletedProcess(command, seen["code"])

    monkeypatch.setattr(subprocess, "run", run)
    seen["code"] = 0
    app.main(["run", "--config", recipe, "--superlink", "host:9091", "--root-certificates", str(tmp_path / "ca.crt")])
    assert seen["telemetry"] == "0"
    assert 'address = "host:9091"' in seen["config"]
    assert f'root-certificates = "{tmp_path}/ca.crt"' in seen["config"]
    assert "insecure" not in seen["config"]
    assert "server = " in seen["app"]
    assert "client = " in seen["client"]
    assert f'recipe="{recipe}"' in seen["command"][-1]
    seen["code"] = 3
    with pytest.raises(UserError, match="code 3"):
        app.main(["run", "--config", recipe, "--insecure"])
    assert "insecure = true" in seen["config"]


def test_a_recipe_without_clients_is_refused():
    with pytest.raises(UserError, match=r"federation\.clients is 0"):
        app.main(["run", "--config", str(REPOSITORY / "recipes/debug.yaml")])


def test_it_loads_no_torch():
    code = "import sys, distill.federation.app; sys.exit('torch' in sys.modules or 'flwr' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_flowers_environment_differs_only_where_flower_asks_for_it():
    def pins(name):
        lines = (REPOSITORY / name).read_text(encoding="utf-8").splitlines()
        return {n.lower().replace("_", "-"): v for n, v in (li.split("==") for li in lines if li and li[0] != "#")}

    ours, theirs = pins("constraints.txt"), pins("constraints-federated.txt")
    assert "flwr" in theirs.keys() - ours.keys()
    differ = {name for name in ours.keys() & theirs.keys() if theirs[name] != ours[name]}
    assert differ <= {"certifi", "fastapi", "packaging", "protobuf", "rich", "starlette", "typer", "uvicorn"}
