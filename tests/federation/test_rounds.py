"""Rounds: what they are equal to, what is left out of them, and that a kill changes nothing."""

import json
import os
import signal
from dataclasses import replace
from pathlib import Path

import forked
import jsonschema
import pytest
import torch
from shared import REPOSITORY
from toy_federation import federated, plain, student_of, text_of, toy_recipe, untrained

from distill.base.console import Stopped
from distill.base.errors import UserError
from distill.federation import clients, rounds
from distill.federation.aggregation import Answer
from distill.federation.rounds import State, finish_round, period_of
from distill.pipeline import train
from distill.privacy import accountant
from distill.recipe import FederationConfig, PrivacyConfig
from distill.reports.privacy_notes import guarantee
from distill.training.preflight import check_privacy
from distill.training.trainer import NotFiniteError


def furthest(ours, theirs):
    assert ours.keys() == theirs.keys()
    return max(float((ours[name] - theirs[name]).abs().max()) for name in ours)


PRIVATE = PrivacyConfig(epsilon=1000.0, delta=1e-3, batch_size=20)  # little noise, and rounding shows


# ---------------------------------------------------------------------------------------------------------------- laws


def test_one_client_is_plain_training(tmp_path):
    """One round is a training: Adam, mini-batches, a schedule with warmup, clipping, all as they are."""
    trainer = {
        "per_device_train_batch_size": 4, "optim": "adamw_torch", "learning_rate": 1e-3, "max_grad_norm": 1.0,
        "lr_scheduler_type": "cosine", "warmup_steps": 2,
    }  # fmt: skip
    recipe = toy_recipe(tmp_path / "federated", 6, trainer, clients=1, rounds=1)
    ours = federated(recipe)
    theirs = plain(toy_recipe(tmp_path / "plain", trainer=trainer), 6)
    assert furthest(ours, theirs) < 1e-5
    assert furthest(ours, untrained(recipe)) > 1e-3


def test_several_rounds_of_one_client_are_plain_training(tmp_path):
    """Where no state is lost between rounds: gradient descent over all text. The learning rate's schedule goes on."""
    trainer = {"lr_scheduler_type": "linear", "warmup_steps": 3}
    ours = federated(toy_recipe(tmp_path / "federated", 2, trainer, clients=1, rounds=3))
    assert furthest(ours, plain(toy_recipe(tmp_path / "plain", trainer=trainer), 6)) < 1e-5


@pytest.mark.parametrize("alpha", [1e6, 0.5])
def test_one_local_step_is_a_larger_batch(tmp_path, alpha):
    """Gradient descent over all of each client's text: their mean by tokens is a step over the union, equal or not."""
    recipe = toy_recipe(tmp_path / "federated", 1, clients=4, rounds=2, partition={"by": "quantity", "alpha": alpha})
    ours = federated(recipe)
    assert furthest(ours, plain(toy_recipe(tmp_path / "plain"), 2)) < 1e-5


def test_without_its_weight_the_proximal_term_is_none_and_with_it_it_pulls_back(tmp_path):
    """Two steps of gradient descent: the second one's gradient is larger by mu (w1 - w0)."""
    run = {"clients": 2, "rounds": 1}
    average = federated(toy_recipe(tmp_path / "avg", 2, **run))
    zero = federated(toy_recipe(tmp_path / "zero", 2, **run, algorithm="prox", mu=0.0))
    assert furthest(average, zero) == 0
    one_step = federated(toy_recipe(tmp_path / "one", 1, **run))
    recipe = toy_recipe(tmp_path / "prox", 2, **run, algorithm="prox", mu=3.0)
    begun, held = untrained(recipe), federated(recipe)
    expected = {name: average[name] - 0.1 * 3.0 * (one_step[name] - begun[name]) for name in average}
    assert furthest(held, expected) < 1e-6
    assert furthest(held, average) > 1e-4


def test_one_private_client_is_private_training(tmp_path):
    """The same documents are drawn, and the same noise; and what was spent is told alike."""
    trainer = {"per_device_train_batch_size": 7}
    folders = federated_to, plain_to = tmp_path / "federated", tmp_path / "plain"
    ours = federated(toy_recipe(federated_to, 3, trainer, PRIVATE, clients=1, rounds=1))
    theirs = plain(toy_recipe(plain_to, trainer=trainer, privacy=PRIVATE), 3)
    assert furthest(ours, theirs) < 1e-5
    told, alone = (json.loads((folder / "training/student.json").read_text())["privacy"] for folder in folders)
    assert told == alone | {"clients": 1}
    assert told["batch_size"] == 20 and told["documents"] == 40


def test_private_clients_account_for_all_rounds_and_small_ones_draw_all_they_have(tmp_path):
    """By hand: 2 rounds of each of 2 periods, 3 steps a round; the noise is what the accountant says of 6 steps."""
    run = {"clients": 2, "rounds": 4, "periods": 2, "partition": {"by": "quantity", "alpha": 0.8}}
    recipe = toy_recipe(tmp_path, 3, privacy=replace(PRIVATE, epsilon=200.0), **run)
    sizes = [len(blocks.first_pieces()) for text in text_of(recipe).texts for blocks in text.blocks]
    assert min(sizes) < PRIVATE.batch_size
    before = untrained(recipe)
    after = federated(recipe)
    head = "transformer.wte.weight"
    assert torch.equal(after[head], before[head]) and furthest(after, {n: before[n] for n in after}) > 1e-5
    told = json.loads((tmp_path / "training/student.json").read_text())["privacy"]
    assert (told["steps"], told["clients"], told["epsilon"], told["delta"]) == (6, 2, 200.0, 1e-3)
    assert told["documents"] == [min(sizes), max(sizes)]
    drawn = [min(size, PRIVATE.batch_size) for size in sizes]
    assert told["batch_size"] == [min(drawn), max(drawn)]
    noises = [accountant.least_noise(200.0, 1e-3, n / size, 6) for n, size in zip(drawn, sizes, strict=True)]
    assert told["noise_multiplier"] == rounds.ranges([{"noise": noise} for noise in noises])["noise"]
    schema = json.loads((REPOSITORY / "distill/assets/scores.schema.json").read_text(encoding="utf-8"))
    jsonschema.validate(told, schema["properties"]["privacy"])  # where the scores of the run will say it
    facts = " ".join(guarantee(recipe, told))
    assert f"{min(drawn)} to {max(drawn)} of {min(sizes)} to {max(sizes)} documents" in facts


def test_noise_is_weighed_by_the_clients_that_average_it(tmp_path):
    """Sixteen clients' mean has a quarter of the noise of one; too much of it is told before training."""
    for asked, allowed in ((1, False), (16, True)):
        recipe = toy_recipe(tmp_path, 1, privacy=replace(PRIVATE, epsilon=8.0), clients=16, fraction=asked / 16)
        blocks = text_of(toy_recipe(tmp_path, 1, privacy=PRIVATE, clients=1)).least
        given = recipe, student_of(recipe), blocks
        if allowed:
            check_privacy(*given)
        else:
            with pytest.raises(UserError, match="times the norm of the largest gradient"):
                check_privacy(*given)


def test_a_server_that_adds_the_mean_change_is_the_average(tmp_path):
    run = {"clients": 3, "rounds": 2}
    average = federated(toy_recipe(tmp_path / "avg", 1, **run))
    server = {"optimizer": "sgd", "lr": 1.0, "momentum": 0.0}
    assert furthest(average, federated(toy_recipe(tmp_path / "opt", 1, **run, algorithm="opt", server=server))) == 0


# ------------------------------------------------------------------------------------------------------ left out, lost


def answer(client, value=1.0, weight=10, **keys):
    return Answer(client, {"w": torch.full((2,), value)}, weight, **keys)


STATE = State({"w": torch.zeros(2)})
ASKED = dict.fromkeys(range(4), 1.0)


def test_clients_that_cannot_be_used_are_left_out_counted_and_named(capsys):
    config = FederationConfig(clients=4, deadline=5.0)
    answers = [
        answer(0, 1.0, weight=10, figures={"loss": 2.0}, totals={"student_tokens": 7}),
        answer(1, float("nan")),
        answer(2, 3.0, seconds=6.0),
        answer(3, 5.0, weight=30, figures={"loss": 4.0}, totals={"student_tokens": 5}),
    ]
    state = finish_round(config, STATE, ASKED, answers)
    record = state.records[0]
    assert state.weights["w"].tolist() == [4.0, 4.0]  # (10 * 1 + 30 * 5) / 40
    assert record["used"] == [0, 3]
    assert record["counted"]
    assert record["left_out"].keys() == {"1", "2"}
    assert "not finite" in record["left_out"]["1"]
    assert record["left_out"]["2"].startswith("late")
    assert record["figures"] == {"loss": pytest.approx(3.5)}
    assert record["tokens"] == state.totals["student_tokens"] == 12
    told = capsys.readouterr().err
    assert "client 1 is left out" in told
    assert "client 2 is left out" in told


def test_what_clients_say_is_summed_up_whatever_they_say():
    assert rounds.ranges([{"epsilon": 2.0, "n": 5}, {"epsilon": 1.0, "n": 5}]) == {"epsilon": [1.0, 2.0], "n": 5}
    assert rounds.ranges([{"epsilon": 2.0}, {"other": 1}]) == {"epsilon": 2.0, "other": 1}
    assert rounds.ranges([{"epsilon": 2.0}, {"epsilon": "much"}]) == {"epsilon": [2.0, "much"]}
    assert rounds.ranges([{"n": [1, 4]}, {"n": 9}]) == {"n": [1, 9]}


def test_those_that_are_not_there_are_named_and_no_round_waits_for_them():
    state = State({"w": torch.zeros(1)})
    config = FederationConfig(clients=5, min_fraction=1.0)
    answers = [Answer(k, {"w": torch.ones(1)}, weight=2) for k in (1, 3)]
    after = finish_round(config, state, {1: 1.0, 3: 1.0}, answers, {4: "is elsewhere"})
    assert after.records[0]["counted"]
    assert after.records[0]["used"] == [1, 3]
    assert after.records[0]["left_out"] == {"4": "is elsewhere"}


def test_who_says_nothing_has_dropped_out():
    state = finish_round(
        FederationConfig(clients=4), STATE, ASKED, [answer(0), answer(2), Answer(1, None, error="gone")]
    )
    assert state.records[0]["left_out"] == {"1": "dropped out: gone", "3": "dropped out: no answer"}


def test_a_round_of_too_few_changes_nothing(capsys):
    config = FederationConfig(clients=4, min_fraction=0.75, algorithm="opt")
    state = finish_round(config, STATE, ASKED, [answer(0), answer(2)])
    assert not state.records[0]["counted"]
    assert state.weights is STATE.weights
    assert state.moments == {}
    assert "round 1 changes nothing: 2 of 4" in capsys.readouterr().err
    assert finish_round(config, state, ASKED, [answer(0), answer(1), answer(2)]).records[1]["counted"]


def test_as_many_as_the_share_says_are_enough():
    config = FederationConfig(clients=100, min_fraction=0.55)
    asked = dict.fromkeys(range(100), 1.0)
    assert finish_round(config, STATE, asked, map(answer, range(55))).records[0]["counted"]
    assert not finish_round(config, STATE, asked, map(answer, range(54))).records[0]["counted"]


def test_a_client_whose_training_breaks_is_left_out_and_without_any_round_nothing_is_published(tmp_path, monkeypatch):
    def fit(*_):
        raise NotFiniteError("step 1: the loss is not finite in block 0")

    monkeypatch.setattr(clients, "fit", fit)
    recipe = toy_recipe(tmp_path, 1, clients=2, rounds=2)
    with pytest.raises(UserError, match=r"no student is published: in none of 2 rounds .*client 0: dropped out: step"):
        federated(recipe)
    assert not (tmp_path / "student").exists()


def test_periods_share_out_the_rounds():
    config = FederationConfig(clients=2, rounds=7, periods=3)
    assert [period_of(config, number) for number in range(7)] == [0, 0, 0, 1, 1, 2, 2]


# --------------------------------------------------------------------------------------------------------------- kills


MOMENTUM = {"algorithm": "opt", "server": {"optimizer": "adam"}, "fraction": 0.6, "periods": 2}
MINI = {"per_device_train_batch_size": 2, "optim": "adamw_torch", "learning_rate": 1e-3}


@pytest.fixture(scope="module")
def unharmed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("unharmed")
    return federated(toy_recipe(folder, 3, MINI, clients=4, rounds=4, **MOMENTUM)), folder


@pytest.mark.parametrize("at", [2, 5])
def test_a_killed_run_goes_on_bit_for_bit(tmp_path, unharmed, steps_made, at):
    """SIGKILL within a round, Adam at both ends, some of the clients asked: the same weights to the last bit."""
    recipe = toy_recipe(tmp_path, 3, MINI, clients=4, rounds=4, **MOMENTUM)

    def killed():
        plain_update, done = rounds.update, []

        def update(*args, **keys):
            done.append(1)
            if len(done) == at:
                os.kill(os.getpid(), signal.SIGKILL)
            return plain_update(*args, **keys)

        rounds.update = update
        federated(recipe)

    _, status = os.waitpid(forked.fork(killed), 0)
    assert os.waitstatus_to_exitcode(status) == -signal.SIGKILL
    assert not (tmp_path / "student").exists()
    ours, (theirs, folder) = federated(recipe), unharmed
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    records = [json.loads((Path(of) / "federation" / "student.json").read_text()) for of in (tmp_path, folder)]
    assert [r["used"] for r in records[0]] == [r["used"] for r in records[1]]
    assert [r["period"] for r in records[0]] == [1, 1, 2, 2]
    # The rounds before the one that it was killed in are not made again.
    updates = [len(r["used"]) for r in records[1]]
    done = sum(sum(updates[: number + 1]) < at for number in range(4))
    assert len(steps_made) == 3 * sum(updates[done:]) and (done > 0) == (at > updates[0])


def test_a_stop_signal_saves_the_step_and_the_update_goes_on_from_it(tmp_path, unharmed, steps_made, monkeypatch):
    recipe = toy_recipe(tmp_path, 3, MINI, clients=4, rounds=4, **MOMENTUM)
    plain_round, calls = rounds._round, []

    def round_(*args):
        calls.append(1)
        if len(calls) == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return plain_round(*args)

    monkeypatch.setattr(rounds, "_round", round_)
    with pytest.raises(Stopped):
        federated(recipe)
    checkpoints = [path.name for path in (tmp_path / "checkpoints/student/client").glob("*/checkpoint-*")]
    assert checkpoints == ["checkpoint-1"]
    ours, (theirs, folder) = federated(recipe), unharmed
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    records = json.loads((folder / "federation" / "student.json").read_text())
    assert len(steps_made) == 3 * sum(len(r["used"]) for r in records)  # each step once
    assert not list((tmp_path / "checkpoints/student/client").glob("*"))


def test_the_log_has_an_entry_a_round_and_the_watched_scores(tmp_path, monkeypatch):
    recipe = toy_recipe(tmp_path, 1, clients=2, rounds=2)
    recipe = replace(recipe, federation=replace(recipe.federation, watch=["perplexity"]))
    text = replace(text_of(recipe), held_out=["The nurse said that she was tired. He was late."] * 30)
    monkeypatch.setattr("toy_federation.text_of", lambda *_: text)
    federated(recipe)
    log = json.loads((tmp_path / "training" / "student.json").read_text())
    assert [entry["step"] for entry in log["history"]] == [1, 2]
    assert all(
        {"loss", "loss_kd", "score_perplexity", "clients", "left_out"} <= entry.keys() for entry in log["history"]
    )
    record = json.loads((tmp_path / "federation" / "student.json").read_text())
    assert log["student_tokens"] == sum(entry["tokens"] for entry in record) > 0


@pytest.mark.slow
def test_the_quickstart_of_eight_clients_ends_with_scores_and_a_report(tmp_path):
    scores = train(REPOSITORY / "recipes/federated/quickstart.yaml", output_dir=str(tmp_path / "run"))
    assert scores["models"].keys() == {"teacher", "baseline", "student"}
    records = json.loads((tmp_path / "run" / "federation" / "student.json").read_text())
    assert [record["used"] for record in records] == [list(range(8))] * 3
    assert "Rounds, each" in (tmp_path / "run" / "report.md").read_text(encoding="utf-8")
