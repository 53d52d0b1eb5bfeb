"""Rounds by Flower give the weights that they give in one process; strategies draw, count and name as it does.

Flower excludes versions that constraints.txt pins, so these tests run in an environment of its own, made with
constraints-federated.txt, and are skipped elsewhere.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections import OrderedDict
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml
from safetensors.torch import load_file
from shared import REPOSITORY

pytest.importorskip("flwr", reason="the extra federated (flwr) is not installed")

from flwr.app import ArrayRecord, ConfigRecord, MessageType, RecordDict
from flwr.supercore.task_identity import TaskIdentity

from distill.base.errors import UserError
from distill.federation import network
from distill.federation.rounds import State
from distill.federation.selection import select_clients
from distill.pipeline import train
from distill.recipe import FederationConfig, Recipe


def recipe_file(folder: Path, **federation) -> str:
    """A recipe of seconds, over the demo teacher."""
    lines = (f"The nurse number {n} said that she was tired. The doctor saw his {n} patients." for n in range(40))
    (folder / "text.jsonl").write_text("".join(json.dumps({"text": line}) + "\n" for line in lines), encoding="utf-8")
    text = {"source": "files", "files": [str(folder / "text.jsonl")]}
    values = {
        "base": str(REPOSITORY / "recipes/debug.yaml"), "output_dir": str(folder / "out"), "block_length": 32,
        "corpus": {**text, "max_documents": None}, "held_out": {**text, "max_documents": 5}, "baseline": False,
        "scores": {"metrics": ["perplexity"]},
        "trainer": {"max_steps": -1, "per_device_train_batch_size": 2, "warmup_steps": 0, "use_cpu": True},
        "federation": {"clients": 4, "rounds": 3, "local_steps": 2, "watch": [], **federation},
    }  # fmt: skip
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(values), encoding="utf-8")
    return str(path)


@pytest.fixture(autouse=True)
def identity(monkeypatch):
    """What Flower sets in the process that it starts an app in."""
    for name in ("_run_id", "_node_id", "_task_id"):
        monkeypatch.setattr(TaskIdentity, name, 1)


class Grid:
    """Flower's grid, with the clients in this process. Node 100 + k is client k; those in `dead` do not answer."""

    def __init__(self, contexts, dead=()):
        self.contexts, self.dead = contexts, dead

    def get_node_ids(self):
        return list(self.contexts)

    def send_and_receive(self, messages, *, timeout=None):
        for message in messages:
            node = message.metadata.dst_node_id
            if message.metadata.message_type == MessageType.TRAIN and node in self.dead:
                continue
            message.metadata._message_id = "1"
            yield network.client(message, self.contexts[node])


def contexts(folder: Path, path: str, clients: int):
    return {
        100 + k: SimpleNamespace(node_config={"recipe": path, "client": k, "folder": str(folder / f"client-{k}")})
        for k in range(clients)
    }


@pytest.fixture(scope="module")
def one_process(tmp_path_factory):
    folder = tmp_path_factory.mktemp("one")
    train(recipe_file(folder))
    return folder / "out"


def test_both_ways_give_the_same_weights(tmp_path, one_process):
    path = recipe_file(tmp_path)
    network.serve(Grid(contexts(tmp_path, path, 4)), SimpleNamespace(run_config={"recipe": path, "wait": 5}))
    ours, theirs = (load_file(out / "student/model.safetensors") for out in (tmp_path / "out", one_process))
    assert ours.keys() == theirs.keys()
    assert max(float((ours[k] - theirs[k]).abs().max()) for k in theirs) < 1e-5
    records = [json.loads((out / "federation/student.json").read_text()) for out in (tmp_path / "out", one_process)]
    assert [r["used"] for r in records[0]] == [r["used"] for r in records[1]] == [[0, 1, 2, 3]] * 3


def test_a_node_that_does_not_answer_is_left_out_and_the_round_goes_on(tmp_path):
    path = recipe_file(tmp_path, rounds=1)
    grid = Grid(contexts(tmp_path, path, 4), dead=[102])
    network.serve(grid, SimpleNamespace(run_config={"recipe": path, "wait": 5}))
    record = json.loads((tmp_path / "out/federation/student.json").read_text())[0]
    assert record["used"] == [0, 1, 3]
    assert record["left_out"] == {"2": "dropped out: no answer"}


def test_strategies_draw_as_one_process_does(tmp_path):
    documents = {k: [size] for k, size in enumerate([100, 1, 5, 50, 20, 0])}
    config = FederationConfig(clients=6, fraction=0.5, rounds=9)
    state = State({"w": torch.zeros(2)})
    for strategy, select in ((network.Uniform, "uniform"), (network.ByActivity, "activity")):
        recipe = Recipe(seed=5, federation=replace(config, select=select))
        made = strategy(recipe, state, tmp_path, {k: 100 + k for k in documents}, documents)
        asked = [m.metadata.dst_node_id - 100 for m in made.configure_train(1, None, None, None)]
        assert asked == list(select_clients([100, 1, 5, 50, 20, 0], recipe.federation, 5, 0))


def test_an_error_of_a_node_and_weights_of_another_shape_are_left_out(tmp_path):
    recipe = Recipe(federation=FederationConfig(clients=3, min_fraction=0.3))
    state = State({"w": torch.zeros(2)})
    strategy = network.Uniform(recipe, state, tmp_path, {0: 100, 1: 101, 2: 102}, {k: [4] for k in range(3)})
    strategy.configure_train(1, None, None, None)

    def reply(node, weights=None, reason=""):
        facts = ConfigRecord({"tokens": 5, "seconds": 1.0, "error": ""})
        content = RecordDict({"facts": facts})
        if weights is not None:
            content["arrays"] = ArrayRecord(OrderedDict(weights))
        return SimpleNamespace(
            metadata=SimpleNamespace(src_node_id=node), content=content,
            has_error=lambda: bool(reason), error=SimpleNamespace(reason=reason),
        )  # fmt: skip

    strategy.aggregate_train(
        1, [reply(100, {"w": torch.ones(2)}), reply(101, reason="out of memory"), reply(102, {"w": torch.ones(3)})]
    )
    record = strategy.state.records[0]
    assert record["used"] == [0]
    assert record["left_out"]["1"] == "dropped out: out of memory"
    assert "other weights" in record["left_out"]["2"]
    assert State.load(tmp_path).weights["w"].tolist() == [1.0, 1.0]


def test_clients_with_another_recipe_or_a_number_twice_are_refused(tmp_path):
    recipe = network.read_recipe(recipe_file(tmp_path))

    class Answers(Grid):
        def send_and_receive(self, messages, *, timeout=None):
            for node, facts in self.contexts.items():
                content = RecordDict({"facts": ConfigRecord({"documents": [1], **facts})})
                yield SimpleNamespace(
                    metadata=SimpleNamespace(src_node_id=node), content=content, has_error=lambda: False
                )

    ours = network.agreed(recipe)
    with pytest.raises(UserError, match="client 0, which is taken"):
        network.introduced(recipe, Answers({n: {"client": 0, "agreed": ours} for n in (1, 2)}), 0)
    with pytest.raises(UserError, match="another recipe"):
        network.introduced(recipe, Answers({1: {"client": 0, "agreed": "x"}}), 0)
    assert network.agreed(replace(recipe, output_dir="elsewhere")) == ours
    assert network.agreed(replace(recipe, seed=9)) != ours


@pytest.mark.slow
def test_a_superlink_and_four_supernodes_on_the_loopback(tmp_path, one_process):
    path = recipe_file(tmp_path)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    start = [sys.executable, "-m", "distill.federation.app"]
    environment = {**os.environ, "FLWR_HOME": str(tmp_path / "home"), "PYTHONPATH": str(REPOSITORY)}
    environment.pop("FLWR_TELEMETRY_ENABLED", None)
    address = f"127.0.0.1:{port}"
    commands = [[*start, "superlink", "--insecure", "--host", "127.0.0.1", "--port", str(port)]]
    for k in range(4):
        told = f'recipe="{path}" client={k} folder="{tmp_path}/client-{k}"'
        node = ["supernode", "--insecure", "--superlink", address, "--host", "127.0.0.1", "--port", str(port + 1 + k)]
        commands.append([*start, *node, "--node-config", told])
    processes, logs = [], ExitStack()
    try:
        for number, command in enumerate(commands):
            log = logs.enter_context((tmp_path / f"{number}.log").open("w"))
            processes.append(subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True))
            if number == 0:
                _wait_for(port)
        run = [*start, "run", "--config", path, "--superlink", address, "--insecure", "--wait", "120"]
        done = subprocess.run(run, env=environment, capture_output=True, text=True, timeout=500, check=False)
    finally:
        for process in reversed(processes):
            os.killpg(process.pid, signal.SIGTERM)
        for process in processes:
            process.wait(30)
        logs.close()
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    ours, theirs = (load_file(out / "student/model.safetensors") for out in (tmp_path / "out", one_process))
    assert max(float((ours[k] - theirs[k]).abs().max()) for k in theirs) < 1e-5


def _wait_for(port: int) -> None:
    for _ in range(120):
        with socket.socket() as trial:
            if trial.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.5)
    raise TimeoutError("the SuperLink does not listen")
