"""What starts Flower: nothing of it and no torch is needed to say what is missing; telemetry is off."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from shared import REPOSITORY

from distill.base.console import Stopped, run_entry
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


@pytest.mark.parametrize("verb", ["superlink", "supernode"])
def test_another_system_than_linux_is_told_before_anything_starts(monkeypatch, verb):
    monkeypatch.setattr(sys, "platform", "darwin")
    with pytest.raises(UserError, match=r"needs Linux on the server and on each client; .* distill train --config"):
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


@pytest.fixture
def flower(monkeypatch, tmp_path):
    """Stands for Flower's commands, which answer as those of 1.42 do: `answers` by verb; `seen` is what they got."""
    (tmp_path / "flwr").touch()
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    done = {"status": "finished:completed", "status-details": ""}
    answers = {"run": {"success": True, "run-id": "17"}, "log": None, "list": {"success": True, "runs": [done]}}
    seen = {"commands": []}

    def run(command, env, check, text, stdout=None):
        home = Path(env["FLWR_HOME"])
        seen["commands"].append(command[1:])
        seen.update(
            telemetry=env["FLWR_TELEMETRY_ENABLED"],
            config=(home / "config.toml").read_text(),
            app=(home / "app/server_app.py").read_text(),
            client=(home / "app/client_app.py").read_text(),
        )
        answer = answers[command[1]]
        if isinstance(answer, BaseException):
            raise answer
        return subprocess.CompletedProcess(command, 1, answer if isinstance(answer, str) else json.dumps(answer))

    monkeypatch.setattr(subprocess, "run", run)
    return SimpleNamespace(answers=answers, seen=seen, done=done)


def test_a_run_gets_an_app_a_connection_and_no_telemetry(tmp_path, recipe, flower):
    app.main(["run", "--config", recipe, "--superlink", "host:9091", "--root-certificates", str(tmp_path / "ca.crt")])
    seen = flower.seen
    assert seen["telemetry"] == "0"
    assert 'address = "host:9091"' in seen["config"]
    assert f'root-certificates = "{tmp_path}/ca.crt"' in seen["config"]
    assert "insecure" not in seen["config"]
    assert "server = " in seen["app"]
    assert "client = " in seen["client"]
    started, shown, ended = seen["commands"]
    assert f'recipe="{recipe}" wait=600' in started
    assert shown[:3] == ["log", "17", "distill"]
    assert ended[:4] == ["list", "distill", "--run-id", "17"]
    app.main(["run", "--config", recipe, "--insecure"])
    assert "insecure = true" in seen["config"]


def test_a_run_that_fails_says_why(recipe, flower):
    """Flower's own `run --stream` ends with 0 then."""
    flower.done.update({"status": "finished:failed", "status-details": "ServerApp failed with exception: out is taken"})
    with pytest.raises(UserError, match=r"^out is taken$"):
        app.main(["run", "--config", recipe, "--insecure"])
    flower.done.update({"status": "finished:stopped", "status-details": ""})
    with pytest.raises(UserError, match="run 17 is finished:stopped"):
        app.main(["run", "--config", recipe, "--insecure"])


@pytest.mark.parametrize("stop", [KeyboardInterrupt(), Stopped(signal.SIGTERM)])
def test_who_stops_watching_a_run_stops_it(recipe, flower, capsys, stop):
    """It is a process of the SuperLink's, to which no signal comes; where it cannot be reached, that is said."""
    flower.answers |= {"log": stop, "stop": {"success": True, "run-id": "17"}}
    arguments = ["run", "--config", recipe, "--insecure"]
    assert run_entry(app.main, arguments, continues=False) == (143 if isinstance(stop, Stopped) else 130)
    assert flower.seen["commands"][2][:3] == ["stop", "17", "distill"]
    assert "run 17 is stopped; the same command continues" in capsys.readouterr().err
    flower.answers["stop"] = {"success": False, "error-message": "Connection refused"}
    run_entry(app.main, arguments, continues=False)
    assert "run 17 goes on at the SuperLink, as it could not be stopped: flwr stop: Conn" in capsys.readouterr().err


def test_a_run_that_does_not_start_says_why(recipe, flower):
    flower.answers["run"] = {"success": False, "error-message": "Connection\n  refused"}
    with pytest.raises(UserError, match=r"^flwr run: Connection refused$"):
        app.main(["run", "--config", recipe, "--insecure"])
    flower.answers["run"] = "Usage: flwr"
    with pytest.raises(UserError, match="code 1"):
        app.main(["run", "--config", recipe, "--insecure"])
    assert len(flower.seen["commands"]) == 2


@pytest.mark.parametrize(("words", "told"), [([], "superlink"), (["run"], "--root-certificates")])
def test_each_verb_has_help_of_its_own(capsys, words, told):
    with pytest.raises(SystemExit) as ended:
        app.main([*words, "--help"])
    assert ended.value.code == 0
    assert told in capsys.readouterr().out


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
