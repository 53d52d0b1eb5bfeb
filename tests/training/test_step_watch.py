"""Losses that jump, and numbers that are not finite: found, named, and never saved."""

import json
import os
import shutil
from pathlib import Path

import killed
import numpy as np
import pytest
import torch
import train_toy
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file

from distill.base.errors import UserError
from distill.data.blocks import BlockDataset
from distill.training import student_loss, trainer
from distill.training.step_watch import SpikeWatch, smallest_bad


def test_a_jump_of_the_loss_is_told_once():
    watch = SpikeWatch()
    told = [watch.usual(loss) for loss in [2.0] * 20 + [7.0, 8.0, 9.0] + [2.0] * 3 + [6.5] + [5.9]]
    assert [(i, usual) for i, usual in enumerate(told) if usual] == [(20, 2.0), (26, 2.0)]
    assert not any(SpikeWatch().usual(loss) for loss in (1.0, 100.0, 10_000.0)), "too few to know what is usual"


@given(st.sets(st.integers(0, 200), min_size=1), st.integers(201, 300))
def test_halving_finds_one_of_the_culprits(culprits, n):
    calls = []

    def is_bad(items):
        calls.append(items)
        return bool(culprits & set(items))

    assert smallest_bad(range(n), is_bad)[0] in culprits
    assert len(calls) <= 2 * n.bit_length()


def test_halving_keeps_what_is_bad_only_together():
    assert list(smallest_bad(range(8), lambda items: {2, 3} <= set(items))) == [2, 3]


# ----------------------------------------------------------------------------- numbers that are not finite, in training


def poisoned(monkeypatch, where: str, token: int, value: float) -> None:
    """Let the teacher's or student's head give `value` at every position of one token."""
    plain = trainer.hidden_states

    def hidden_states(model, input_ids, *others, **named):
        states = plain(model, input_ids, *others, **named)
        mine = model.training == (where != "teacher")
        bad = (input_ids == token).unsqueeze(-1)
        return states.masked_fill(bad, value) if mine else states

    for module in (trainer, student_loss):  # that of the teacher, that of the student
        monkeypatch.setattr(module, "hidden_states", hidden_states)


@pytest.fixture
def toy():
    """The tokenizer of train_toy.py."""
    return train_toy.language()[0]


@pytest.mark.parametrize(
    ("where", "value", "what", "cached"),
    [
        ("teacher", float("nan"), "a logit of the teacher", False),
        ("teacher", float("nan"), "a logit of the teacher", True),
        ("teacher", float("inf"), "a logit of the teacher", False),
        ("student", float("nan"), "the loss", False),
    ],
)
def test_a_number_that_is_not_finite_stops_the_run_and_names_its_text(
    monkeypatch, tmp_path, toy, where, value, what, cached, capsys
):
    token = toy(" coat")["input_ids"][-1]
    keys = {"cache_hidden_states": cached}
    train_toy.main(str(tmp_path), 4, 2, steps=2, save_steps=1, teacher_keys=keys)
    shutil.rmtree(tmp_path / "student")
    poisoned(monkeypatch, where, token, value)
    with pytest.raises(UserError) as stopped:
        train_toy.main(str(tmp_path), 4, 2, steps=6, save_steps=1, teacher_keys=keys)
    message = str(stopped.value)
    assert message.startswith("step 3: ")
    assert f"{what} is not finite in block " in message
    assert str(tmp_path / "checkpoints" / "checkpoint-2") in message
    assert not (tmp_path / "student").exists()
    # The text that is quoted ends with the poisoned token, and lies where the message says.
    block, view, position = place_in(message)
    rows = train_toy_blocks(tmp_path)[block].input_ids
    assert rows[view, position] == token
    assert repr(toy.decode(rows[view, max(0, position - 7) : position + 1])) in message
    if cached:  # what the teacher could not say was not kept
        hidden = np.fromfile(next((tmp_path / "cache").glob("teacher-*/hidden.bin")), dtype=np.float32)
        assert hidden.any() and np.isfinite(hidden).all()


def place_in(message: str) -> tuple[int, int, int]:
    words = message.replace(",", "").split()
    view = int(words[words.index("counterfactual") + 1]) if "counterfactual" in words else 0
    return int(words[words.index("block") + 1]), view, int(words[words.index("token") + 1])


def train_toy_blocks(folder: Path):
    return BlockDataset(next((folder / "cache-0").glob("*.arrow")), 48)


def test_a_sharded_teacher_is_not_asked_again_as_it_needs_all_processes_at_once(monkeypatch, tmp_path, toy):
    """Of several, only those that read a bad text would run it, and wait for the others for ever."""
    reads = []
    plain = trainer.DistillationTrainer._teacher_view
    monkeypatch.setattr(trainer, "is_sharded", lambda model: True)
    monkeypatch.setattr(
        trainer.DistillationTrainer, "_teacher_view", lambda self, *args: reads.append(1) or plain(self, *args)
    )
    poisoned(monkeypatch, "student", toy(" coat")["input_ids"][-1], float("nan"))
    with pytest.raises(UserError, match=r"step 1: the loss is not finite, in one of the blocks [0-9]"):
        train_toy.main(str(tmp_path), 8, 2, steps=2)
    assert len(reads) == 2  # the micro-batches of the step, once each


def test_a_gradient_that_is_not_finite_is_found_where_the_loss_is_finite(monkeypatch, tmp_path, toy):
    token = toy(" coat")["input_ids"][-1]
    plain = student_loss.hidden_states

    def hidden_states(model, input_ids, *others, **named):
        states = plain(model, input_ids, *others, **named)
        if states.requires_grad:
            bad = (input_ids == token).unsqueeze(-1)
            states.register_hook(lambda gradient: gradient.masked_fill(bad & (gradient != 0), float("inf")))
        return states

    monkeypatch.setattr(student_loss, "hidden_states", hidden_states)
    with pytest.raises(UserError, match="the gradient is not finite in block") as stopped:
        train_toy.main(str(tmp_path), 4, 2, steps=6)
    block, view, position = place_in(str(stopped.value))
    assert train_toy_blocks(tmp_path)[block].input_ids[view, position] == token
    assert "checkpoint is none yet" in str(stopped.value)


def test_steps_that_are_not_finite_can_be_left_out(monkeypatch, tmp_path, toy, capsys):
    """The student of a training in which every step is bad is the untrained one, bit for bit; and it is counted."""
    poisoned(monkeypatch, "teacher", toy.bos_token_id, float("nan"))
    train_toy.main(str(tmp_path), 4, 2, steps=3, on_nonfinite="skip", logging_steps=1)
    said = capsys.readouterr().err
    assert "3 steps were left out of training" in said
    got, untrained = (
        load_file(tmp_path / "student" / "model.safetensors"),
        load_file(tmp_path / "untrained.safetensors"),
    )
    assert all(torch.equal(got[key], untrained[key]) for key in got)
    state = json.loads((tmp_path / "checkpoints" / "checkpoint-3" / "trainer_state.json").read_text())
    assert [entry["step"] for entry in state["log_history"]] == [1, 2, 3]
    assert all(torch.tensor([v for v in entry.values()]).isfinite().all() for entry in state["log_history"])


class Copied:
    """In the place of an event of a GPU, which says when numbers have been copied from there."""

    def record(self) -> None:
        """Nothing is under way on a CPU."""

    synchronize = record


@pytest.fixture
def asked_later(monkeypatch):
    """As on a GPU: the optimizer leaves out what is not finite, and the step is looked at when the next is made."""
    monkeypatch.setattr(trainer.DistillationTrainer, "_optimizer_can_skip", lambda self: True)
    monkeypatch.setattr(torch.cuda, "Event", Copied)


@pytest.mark.parametrize("steps", [3, 6])  # the bad step is the last, or others follow
def test_a_step_that_is_looked_at_later_stops_the_run_as_well(monkeypatch, asked_later, tmp_path, toy, steps):
    train_toy.main(str(tmp_path), 4, 2, steps=2, save_steps=1, optim="adamw_torch_fused")
    shutil.rmtree(tmp_path / "student")
    poisoned(monkeypatch, "teacher", toy(" coat")["input_ids"][-1], float("nan"))
    with pytest.raises(UserError, match="step 3: a logit of the teacher is not finite in block") as stopped:
        train_toy.main(str(tmp_path), 4, 2, steps=steps, save_steps=2, optim="adamw_torch_fused")
    assert str(tmp_path / "checkpoints" / "checkpoint-2") in str(stopped.value)
    assert sorted(p.name for p in (tmp_path / "checkpoints").iterdir()) == ["checkpoint-1", "checkpoint-2"]
    assert not (tmp_path / "student").exists()


def test_steps_that_are_looked_at_later_are_left_out_as_well(monkeypatch, asked_later, tmp_path, toy, capsys):
    poisoned(monkeypatch, "teacher", toy.bos_token_id, float("nan"))
    train_toy.main(str(tmp_path), 4, 2, steps=3, on_nonfinite="skip", optim="adamw_torch_fused")
    assert "3 steps were left out of training" in capsys.readouterr().err
    got, untrained = (load_file(tmp_path / name) for name in ("student/model.safetensors", "untrained.safetensors"))
    assert all(torch.equal(got[key], untrained[key]) for key in got)


def test_steps_that_are_looked_at_later_give_the_same_weights(asked_later, monkeypatch, tmp_path):
    train_toy.main(str(tmp_path / "later"), 4, 2, steps=3, optim="adamw_torch_fused")
    monkeypatch.undo()
    train_toy.main(str(tmp_path / "at once"), 4, 2, steps=3, optim="adamw_torch_fused")
    later, at_once = (load_file(tmp_path / name / "student" / "model.safetensors") for name in ("later", "at once"))
    assert all(torch.equal(later[key], at_once[key]) for key in at_once)


def test_weights_that_a_step_made_infinite_are_never_saved(monkeypatch, tmp_path):
    plain = torch.optim.SGD.step

    def step(self, closure=None):
        plain(self, closure)
        step.calls += 1
        if step.calls == 3:
            self.param_groups[0]["params"][0].data[0] = float("inf")

    step.calls = 0
    monkeypatch.setattr(torch.optim.SGD, "step", step)
    with pytest.raises(UserError, match="weights are not finite") as stopped:
        train_toy.main(str(tmp_path), 4, 1, steps=3, save_steps=2)
    assert str(tmp_path / "checkpoints" / "checkpoint-2") in str(stopped.value)
    assert sorted(p.name for p in (tmp_path / "checkpoints").iterdir()) == ["_partial", "checkpoint-2"]
    assert not (tmp_path / "student").exists()


def test_two_processes_stop_together_at_the_same_text(small_run, tmp_path):
    """Only the second process reads a bad text, and both end, with one sentence."""

    def poison() -> None:
        plain = trainer.DistillationTrainer._teacher_view

        def view(self, *args, **kwargs):
            found, read = plain(self, *args, **kwargs)
            if os.environ["RANK"] == "1" and self.state.global_step == 3:
                found.hidden[0] = float("nan")
            return found, read

        trainer.DistillationTrainer._teacher_view = view

    told = killed.error_of(killed.run(tmp_path, small_run, 2, prepare=poison))
    assert "step 4: a logit of the teacher is not finite in block " in told
    assert "checkpoint-2" in told
    assert not (tmp_path / "run" / "baseline").exists()
