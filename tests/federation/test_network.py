"""Rounds by Flower give the weights that they give in one process; strategies draw, count and name as it does.

Flower excludes versions that constraints.txt pins, so these tests run in an environment of its own, made with
constraints-federated.txt, and are skipped elsewhere.
"""

import json
import re
import subprocess
import time
from collections import defaultdict
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import loopback
import pytest
import torch
import yaml
from safetensors.torch import load, load_file, save
from shared import REPOSITORY

pytest.importorskip("flwr", reason="the extra federated (flwr) is not installed")

from flwr.app import ConfigRecord, Error, Message, MessageType, MetricRecord, RecordDict
from flwr.common.constant import SUPERLINK_NODE_ID
from flwr.supercore.task_identity import TaskIdentity

from distill.base.errors import UserError
from distill.federation import network, node
from distill.federation.device import Answers, Loaded, agreed
from distill.federation.partitions import partition
from distill.federation.rounds import State
from distill.federation.selection import select_clients
from distill.pipeline import train
from distill.recipe import FederationConfig, Recipe
from distill.reports.findings import round_table
from distill.text.counterfactual import Swapper
from distill.text.wordlist import load_wordlist


def recipe_file(folder: Path, privacy=None, documents=40, **federation) -> str:
    """A recipe of seconds, over the demo teacher."""
    lines = (
        f"The nurse number {n} said that she was tired. The doctor saw his {n} patients." for n in range(documents)
    )
    (folder / "text.jsonl").write_text("".join(json.dumps({"text": line}) + "\n" for line in lines), encoding="utf-8")
    text = {"source": "files", "files": [str(folder / "text.jsonl")]}
    values = {
        "base": str(REPOSITORY / "recipes/debug.yaml"), "output_dir": str(folder / "out"), "block_length": 32,
        "corpus": {**text, "max_documents": None}, "held_out": {**text, "max_documents": 5}, "baseline": False,
        "scores": {"metrics": ["perplexity"]},
        "trainer": {"max_steps": -1, "per_device_train_batch_size": 2, "warmup_steps": 0, "use_cpu": True},
        "federation": {"clients": 4, "rounds": 3, "local_steps": 2, "watch": [], **federation},
        **({"privacy": privacy} if privacy else {}),
    }  # fmt: skip
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(values), encoding="utf-8")
    return str(path)


@pytest.fixture(autouse=True)
def here(monkeypatch):
    """What Flower sets in the process that it starts an app in; and workers in this process, one for each folder."""
    for name in ("_run_id", "_node_id", "_task_id"):
        monkeypatch.setattr(TaskIdentity, name, 1)
    answers = defaultdict(Answers)
    monkeypatch.setattr(node, "ask", lambda folder, request, payload, keep: answers[folder](request, payload))


class Grid:
    """Flower's grid, with the clients in this process. Node 100 + k is client k; those in `dead` do not answer.

    `change` is called with the client and its reply to be trained, before that is delivered; `trained` lists whom it
    was delivered of, and `timeouts` what each call was given.
    """

    def __init__(self, contexts, dead=(), change=lambda client, reply: None):
        self.contexts, self.dead, self.change = contexts, dead, change
        self.trained, self.timeouts = [], []

    def get_node_ids(self):
        return list(self.contexts)

    def send_and_receive(self, messages, *, timeout=None):
        self.timeouts.append(timeout)
        for message in messages:
            place = message.metadata.dst_node_id
            training = message.metadata.message_type == MessageType.TRAIN
            if training and place in self.dead:
                continue
            message.metadata._message_id = "1"
            reply = node.client(message, self.contexts[place])
            if training:
                self.change(place - 100, reply)
                self.trained.append(place - 100)
            yield reply


def contexts(folder: Path, path: str, clients: Iterable[int] = range(4)):
    return {
        100 + k: SimpleNamespace(
            node_config={"recipe": path, "client": k, "folder": str(folder / f"client-{k}")}, run_id=7
        )
        for k in clients
    }


def serve(grid: Grid, path: str) -> None:
    network.serve(grid, SimpleNamespace(run_config={"recipe": path, "wait": 0}))


def records_of(folder: Path) -> list[dict]:
    return json.loads((folder / "out/federation/student.json").read_text(encoding="utf-8"))


def weights_of(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "out/student/model.safetensors")


def furthest(ours: Path, theirs: Path) -> float:
    """The largest difference between two runs' students."""
    first, second = weights_of(ours), weights_of(theirs)
    assert first.keys() == second.keys()
    return max(float((first[name] - second[name]).abs().max()) for name in first)


@pytest.fixture(scope="module")
def one_process(tmp_path_factory):
    folder = tmp_path_factory.mktemp("one")
    train(recipe_file(folder))
    return folder


def test_both_ways_give_the_same_weights(tmp_path, one_process):
    path = recipe_file(tmp_path)
    serve(Grid(contexts(tmp_path, path)), path)
    assert furthest(tmp_path, one_process) < 1e-5
    assert [[r["used"] for r in records_of(folder)] for folder in (tmp_path, one_process)] == [[[0, 1, 2, 3]] * 3] * 2


@pytest.mark.parametrize(
    "keys",
    [
        {"select": "activity", "fraction": 0.5, "partition": {"by": "quantity", "alpha": 1.0}},
        {"algorithm": "opt", "server": {"lr": 0.003}},
        {"algorithm": "prox", "mu": 1.0, "fraction": 0.5},
        {"periods": 2},
    ],
    ids=["activity", "opt", "prox", "periods"],
)
def test_so_they_do_whoever_is_drawn_and_whatever_the_server_does(tmp_path, keys):
    keys = {"rounds": 2, "local_steps": 1, **keys}
    one, over_machines = tmp_path / "one", tmp_path / "machines"
    for folder in (one, over_machines):
        folder.mkdir()
    train(recipe_file(one, **keys))
    path = recipe_file(over_machines, **keys)
    serve(Grid(contexts(over_machines, path)), path)
    assert furthest(over_machines, one) < 1e-5
    ours, theirs = records_of(over_machines), records_of(one)
    assert [(r["period"], r["used"]) for r in ours] == [(r["period"], r["used"]) for r in theirs]


def test_a_killed_server_goes_on_from_its_last_whole_round(tmp_path, one_process):
    path = recipe_file(tmp_path)
    grid = Grid(contexts(tmp_path, path), change=lambda client, reply: killed() if len(grid.trained) == 5 else None)

    def killed():
        raise SystemExit

    with pytest.raises(SystemExit):
        serve(grid, path)
    assert not (tmp_path / "out/student").exists()
    goes_on = Grid(contexts(tmp_path, path))
    serve(goes_on, path)
    assert goes_on.trained == [0, 1, 2, 3] * 2
    assert furthest(tmp_path, one_process) < 1e-5
    finished = Grid(contexts(tmp_path, path))
    serve(finished, path)
    assert finished.trained == []


def test_a_folder_of_another_recipe_is_left_as_it_is(tmp_path):
    path = recipe_file(tmp_path, rounds=1)
    serve(Grid(contexts(tmp_path, path)), path)
    before = weights_of(tmp_path)
    other = Grid(contexts(tmp_path, recipe_file(tmp_path, rounds=2)))
    with pytest.raises(UserError, match=r"holds another recipe's run \(federation.rounds is 1 there, 2 here\)"):
        serve(other, path)
    assert other.trained == []
    assert all(torch.equal(weight, before[name]) for name, weight in weights_of(tmp_path).items())


def test_too_few_clients_are_refused_before_anything_is_written(tmp_path):
    path = recipe_file(tmp_path, rounds=1)
    with pytest.raises(
        UserError, match=r"of 4 clients, 1 are connected and have answered; 0, 2, 3 are missing, and .* asks for 0\.5"
    ):
        serve(Grid(contexts(tmp_path, path, [1])), path)
    assert not (tmp_path / "out").exists()
    with pytest.raises(UserError, match="0 are connected"):
        serve(Grid({}), path)
    assert not (tmp_path / "out").exists()


def test_clients_that_are_not_there_are_named_in_every_round(tmp_path, capsys):
    path = recipe_file(tmp_path, rounds=2, local_steps=1)
    serve(Grid(contexts(tmp_path, path, [0, 2, 3])), path)
    assert (
        "of 4 clients, 3 are connected and have answered; 1 are missing, and left out of every round"
        in capsys.readouterr().err
    )
    assert [(r["used"], r["left_out"]) for r in records_of(tmp_path)] == [([0, 2, 3], {"1": network.ABSENT})] * 2


def test_a_reply_that_is_not_as_it_should_be_does_not_end_the_run(tmp_path):
    def change(client, reply):
        if client == 0:
            del reply.content[node.FACTS]
        elif client == 1:
            reply.content[node.FIGURES]["loss"] = float("nan")
        elif client == 2:
            weights = {name: weight.double() for name, weight in load(node.unpacked(reply.content["arrays"])).items()}
            reply.content[node.ARRAYS] = node.packed(save(weights))

    path = recipe_file(tmp_path, rounds=1, deadline=77.0)
    grid = Grid(contexts(tmp_path, path), change=change)
    serve(grid, path)
    (record,) = records_of(tmp_path)
    assert record["used"] == [1, 3]
    assert "an answer that cannot be read: KeyError" in record["left_out"]["0"]
    assert "other weights" in record["left_out"]["2"]
    assert record["figures"]["loss"] > 0  # that of client 3
    assert 77.0 in grid.timeouts, "the deadline was to be Flower's"


def test_a_private_answer_without_its_epsilon_is_left_out():
    content = RecordDict({"facts": ConfigRecord({"weight": 5, "seconds": 1.0, "error": ""})})
    content["arrays"] = node.packed(save({"w": torch.zeros(2)}))
    reply = SimpleNamespace(content=content, has_error=lambda: False)
    assert network._answer(3, reply, private=False).weights is not None
    refused = network._answer(3, reply, private=True)
    assert refused.weights is None and "does not say what it spent" in refused.error


def test_clients_score_the_finished_student_on_their_own_text_as_one_process_does(tmp_path):
    run = {"rounds": 1, "client_metrics": ["perplexity", "corpus_disparity"]}
    one = tmp_path / "one"
    one.mkdir()
    train(recipe_file(one, **run))
    path = recipe_file(tmp_path, **run)
    serve(Grid(contexts(tmp_path, path)), path)
    ours, theirs = (
        json.loads((out / "federation/student-clients.json").read_text()) for out in (tmp_path / "out", one / "out")
    )
    assert [(c["client"], c["documents"]) for c in ours] == [(c["client"], c["documents"]) for c in theirs]
    assert len(ours) == 4 and sum(c["documents"] for c in ours) == 40
    for mine, of_one in zip(ours, theirs, strict=True):
        assert mine == pytest.approx(of_one, rel=1e-4) and mine.keys() == of_one.keys()


PRIVATE = {"epsilon": 200.0, "delta": 1e-3, "batch_size": 40}  # of so little text, for a student that may learn


def assert_alike(ours: Path, theirs: Path) -> None:
    """Weights within 1e-5, the same clients used, the same epsilon accounted for."""
    weights, others = (load_file(out / "student/model.safetensors") for out in (ours, theirs))
    assert weights.keys() == others.keys()
    assert max(float((weights[name] - others[name]).abs().max()) for name in others) < 1e-5
    for told in ("federation/student.json", "training/student.json"):
        records, expected = (json.loads((out / told).read_text()) for out in (ours, theirs))
        if isinstance(records, dict):
            assert records["privacy"] == expected["privacy"]
            assert records["privacy"]["epsilon"] <= PRIVATE["epsilon"]
        else:
            assert [(r["used"], r["privacy"]) for r in records] == [(r["used"], r["privacy"]) for r in expected]


def test_private_updates_are_those_of_one_process(tmp_path, capsys):
    """Noise follows from the seed, as is said; what is accounted for travels."""
    pytest.importorskip("opacus")
    one = tmp_path / "one"
    one.mkdir()
    train(recipe_file(one, privacy=PRIVATE, rounds=1, documents=160))
    path = recipe_file(tmp_path, privacy=PRIVATE, rounds=1, documents=160)
    serve(Grid(contexts(tmp_path, path)), path)
    assert "epsilon holds against none of them" in capsys.readouterr().err
    assert_alike(tmp_path / "out", one / "out")
    told = json.loads((tmp_path / "out/training/student.json").read_text())
    assert told.keys() == {"history", "privacy", "seconds", "processor_seconds"}, "the rest is the clients' own"
    assert told["history"][0].keys() == {"step", "round", "clients", "left_out"}
    assert "tokens" not in records_of(tmp_path)[0] and records_of(one)[0]["tokens"] > 0
    (row,) = round_table({"scores": []}, {"student": told})[1]
    assert row == ["student", "1", "4", "0", "–"]


def test_a_node_that_does_not_answer_is_left_out_and_the_round_goes_on(tmp_path):
    path = recipe_file(tmp_path, rounds=1)
    serve(Grid(contexts(tmp_path, path), dead=[102]), path)
    (record,) = records_of(tmp_path)
    assert record["used"] == [0, 1, 3]
    assert record["left_out"] == {"2": "dropped out: no answer"}


def lost(message, grid):
    """What Flower's SuperLink gives for a node that is gone: an error that comes from itself, node 1."""
    reply = Message(Error(code=7, reason="the node is gone"), reply_to=message)
    reply.metadata._src_node_id = SUPERLINK_NODE_ID
    assert reply.metadata.src_node_id == 1 and 1 not in grid.contexts
    return reply


def test_a_node_for_which_the_superlink_answers_is_left_out_of_round_and_scores(tmp_path, capsys):
    class Gone(Grid):
        def send_and_receive(self, messages, *, timeout=None):
            self.lives = [message.metadata.ttl for message in messages]
            for message in messages:
                if message.metadata.dst_node_id == 102 and message.metadata.message_type != MessageType.QUERY:
                    message.metadata._message_id = "1"
                    yield lost(message, self)
                else:
                    yield from super().send_and_receive([message], timeout=timeout)

    path = recipe_file(tmp_path, rounds=1, local_steps=1, deadline=50_000.0, client_metrics=["perplexity"])
    grid = Gone(contexts(tmp_path, path))
    serve(grid, path)
    (record,) = records_of(tmp_path)
    assert record["used"] == [0, 1, 3]
    assert record["left_out"] == {"2": "dropped out: no answer"}
    scored = json.loads((tmp_path / "out/federation/student-clients.json").read_text())
    assert [of_client["client"] for of_client in scored] == [0, 1, 3]
    assert "client 2 gives no scores of its text: no answer" in capsys.readouterr().err
    assert grid.lives == [50_000.0] * 4, "a question was to live until its deadline"


def test_scores_that_cannot_be_read_do_not_end_the_run(capsys):
    def reply(place, content):
        return SimpleNamespace(
            metadata=SimpleNamespace(src_node_id=place), content=RecordDict(content), has_error=lambda: False
        )

    facts, figures = ConfigRecord({"documents": 20}), MetricRecord({"perplexity": 4.0, "made_up": 1.0})
    replies = [reply(100, {"facts": facts, "figures": figures}), reply(101, {"facts": facts}), reply(102, {})]
    grid = SimpleNamespace(send_and_receive=lambda messages, timeout: replies)
    found = network.scores_of_clients({"w": torch.zeros(2)}, {k: 100 + k for k in range(3)}, grid, 1.0)
    assert found == [{"client": 0, "documents": 20, "perplexity": 4.0}]
    told = capsys.readouterr().err
    assert all(f"client {k} gives no scores that can be read: KeyError" in told for k in (1, 2))


def test_strategies_draw_as_one_process_does(tmp_path):
    documents = {k: [size] for k, size in enumerate([100, 1, 5, 50, 20, 0])}
    config = FederationConfig(clients=6, fraction=0.5, rounds=9)
    state = State({"w": torch.zeros(2)})
    for strategy, select in ((network.Uniform, "uniform"), (network.ByActivity, "activity")):
        recipe = Recipe(seed=5, federation=replace(config, select=select))
        made = strategy(recipe, state, tmp_path, {k: 100 + k for k in documents}, documents)
        messages = made.configure_train(1, node.packed(save(state.weights)), None, None)
        assert {message.metadata.ttl for message in messages} == {86_400.0}, "a day, where there is no deadline"
        asked = [message.metadata.dst_node_id - 100 for message in messages]
        assert asked == list(select_clients([100, 1, 5, 50, 20, 0], recipe.federation, 5, 0))


def test_an_error_of_a_node_and_weights_of_another_shape_are_left_out(tmp_path):
    recipe = Recipe(federation=FederationConfig(clients=4, min_fraction=0.2))
    state = State({"w": torch.zeros(2)})
    strategy = network.Uniform(recipe, state, tmp_path, {k: 100 + k for k in range(4)}, {k: [4] for k in range(4)})
    strategy.configure_train(1, node.packed(save(state.weights)), None, None)

    def reply(place, weights=None, reason=""):
        facts = ConfigRecord({"weight": 5, "seconds": 1.0, "error": ""})
        content = RecordDict({"facts": facts})
        if weights is not None:
            content["arrays"] = node.packed(weights if isinstance(weights, bytes) else save(weights))
        return SimpleNamespace(
            metadata=SimpleNamespace(src_node_id=place), content=content,
            has_error=lambda: bool(reason), error=SimpleNamespace(reason=reason),
        )  # fmt: skip

    strategy.aggregate_train(
        1,
        [
            reply(100, {"w": torch.ones(2)}),
            reply(101, reason="out of memory"),
            reply(102, {"w": torch.ones(3)}),
            reply(103, save({"w": torch.ones(2)})[:-1]),
        ],
    )
    record = strategy.state.records[0]
    assert record["used"] == [0]
    assert record["left_out"]["1"] == "dropped out: out of memory"
    assert "other weights" in record["left_out"]["2"]
    assert "an answer that cannot be read: SafetensorError" in record["left_out"]["3"]
    assert State.load(tmp_path).weights["w"].tolist() == [1.0, 1.0]


def test_clients_with_another_recipe_or_a_number_twice_are_refused(tmp_path, capsys):
    recipe = network.read_recipe(recipe_file(tmp_path))
    loaded = Loaded(None, Swapper(load_wordlist(recipe.wordlist)), "a teacher")

    class Answers(Grid):
        def send_and_receive(self, messages, *, timeout=None):
            for place, facts in self.contexts.items():
                content = RecordDict({"facts": ConfigRecord({"documents": [1], **facts})})
                yield SimpleNamespace(
                    metadata=SimpleNamespace(src_node_id=place), content=content, has_error=lambda: False
                )

    ours = json.dumps(agreed(recipe, loaded))
    with pytest.raises(UserError, match="client 0, which is taken"):
        network.introduced(recipe, loaded, Answers({n: {"client": 0, "agreed": ours} for n in (1, 2)}), 0)
    theirs = json.dumps(agreed(replace(recipe, seed=9, loss=replace(recipe.loss, ce=0.25)), loaded))
    with pytest.raises(UserError, match="client 0 has another recipe: its seed, loss must be as the server has it"):
        network.introduced(recipe, loaded, Answers({1: {"client": 0, "agreed": theirs}}), 0)
    two = {1: {"client": 0, "agreed": ours}, 2: {"client": 1, "agreed": ours}}
    odd = {3: {"client": 2, "agreed": "["}, 4: {"number": 3}}
    assert network.introduced(recipe, loaded, Answers(two | odd), 0)[0] == {0: 1, 1: 2}
    assert capsys.readouterr().err.count("says nothing that can be read") == 2


def test_a_node_that_is_gone_holds_nobodys_place_while_clients_are_waited_for(tmp_path, capsys):
    """Node 9 crashed a moment ago, and is still counted; its client comes back as node 12."""
    recipe = network.read_recipe(recipe_file(tmp_path, clients=2))
    loaded = Loaded(None, Swapper(load_wordlist(recipe.wordlist)), "a teacher")
    ours = json.dumps(agreed(recipe, loaded))
    client_of, asked = {11: 0, 12: 1}, []
    there = iter([[11, 9], [11, 9], [11], [11, 12], [11, 12]])

    def answer(messages, timeout):
        for place in [message.metadata.dst_node_id for message in messages]:
            asked.append(place)
            reply = SimpleNamespace(metadata=SimpleNamespace(src_node_id=place), has_error=lambda gone=place == 9: gone)
            if place == 9:
                reply.metadata.src_node_id, reply.error = SUPERLINK_NODE_ID, SimpleNamespace(reason="it is gone")
            else:
                facts = ConfigRecord({"client": client_of[place], "documents": [1], "agreed": ours})
                reply.content = RecordDict({"facts": facts})
            yield reply

    grid = SimpleNamespace(get_node_ids=lambda: next(there), send_and_receive=answer)
    assert network.introduced(recipe, loaded, grid, 60.0)[0] == {0: 11, 1: 12}
    assert asked == [11, 9, 12]
    assert "a node does not answer: it is gone" in capsys.readouterr().err


# --------------------------------------------------------------------------------------------------------- over Flower


def ended(folder: Path) -> bool:
    """Whether no worker of a client in the folder runs any more."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            found.append("distill.federation.device" in (process / "cmdline").read_text()
                         and str(folder) in (process / "environ").read_text())  # fmt: skip
    return not any(found)


@pytest.mark.slow
def test_four_machines_with_text_of_their_own_on_the_loopback(tmp_path, one_process):
    """Each has a file of its own, and in it what one process deals to that client: the weights are the same."""
    path = recipe_file(tmp_path)
    recipe = network.read_recipe(path)
    documents = [json.loads(line)["text"] for line in (tmp_path / "text.jsonl").read_text().splitlines()]
    finder = Swapper(load_wordlist(recipe.wordlist))
    nodes = []
    for k, share in enumerate(partition(documents, recipe.federation.partition, 4, recipe.seed, finder)):
        text = tmp_path / f"text-{k}.jsonl"
        text.write_text("".join(json.dumps({"text": documents[i]}) + "\n" for i in share), encoding="utf-8")
        copy = yaml.safe_load(Path(path).read_text()) | {"corpus": {"source": "files", "files": [str(text)]}}
        (tmp_path / f"recipe-{k}.yaml").write_text(yaml.safe_dump(copy), encoding="utf-8")
        nodes.append(f'recipe="{tmp_path}/recipe-{k}.yaml" client={k} folder="{tmp_path}/client-{k}" own=true')
    (tmp_path / "text.jsonl").unlink()
    with loopback.machines(tmp_path, nodes) as run:
        done = run(path)
        other = yaml.safe_load(Path(path).read_text()) | {"seed": 9}
        (tmp_path / "other.yaml").write_text(yaml.safe_dump(other), encoding="utf-8")
        refused = run(str(tmp_path / "other.yaml"))
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert furthest(tmp_path, one_process) < 1e-5
    assert refused.returncode == 2
    assert "holds another recipe's run (seed is" in refused.stderr
    assert "Traceback" not in refused.stdout + refused.stderr
    for k in range(4):  # a question and three updates
        log = (tmp_path / f"node-{k}.log").read_text()
        assert log.count("Sent successfully") == 4
        assert log.count("1 clients hold") == 1, "the worker was to load its text once"
    for _ in range(100):
        if ended(tmp_path):
            break
        time.sleep(0.1)
    assert ended(tmp_path)


def readme_certificates(folder: Path) -> Path:
    """Runs what recipes/federated/README.md says to make an authority and a server's certificate."""
    folder.mkdir()
    text = (REPOSITORY / "recipes/federated/README.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"```bash\n(openssl .*?)```", text, flags=re.DOTALL)
    subprocess.run(block, shell=True, cwd=folder, check=True, capture_output=True)
    return folder


@pytest.mark.slow
def test_over_tls_private_updates_are_those_of_one_process_and_a_stranger_is_refused(tmp_path):
    pytest.importorskip("opacus")
    keys = {"privacy": PRIVATE, "rounds": 2, "documents": 160}
    one = tmp_path / "one"
    one.mkdir()
    train(recipe_file(one, **keys))
    path = recipe_file(tmp_path, **keys)
    ours, theirs = readme_certificates(tmp_path / "tls"), readme_certificates(tmp_path / "others")
    nodes = [f'recipe="{path}" client={k} folder="{tmp_path}/client-{k}"' for k in range(4)]
    with loopback.machines(tmp_path, nodes, ours, [theirs / "ca.crt"]) as run:
        done = run(path)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert_alike(tmp_path / "out", one / "out")
    stranger = (tmp_path / "node-4.log").read_text()
    assert "CERTIFICATE_VERIFY_FAILED" in stranger or "certificate verify failed" in stranger
    assert "SuperNode ID" not in stranger
