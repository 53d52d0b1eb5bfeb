"""The disparity so far: when the probe is asked, what is told of it, and that it changes nothing."""

import json
import os
import shutil
import signal
from pathlib import Path

import pytest
import train_toy
from launched import train

from distill.base.console import Stopped
from distill.recipe import Recipe
from distill.scoring.so_far import probe_of
from distill.training.probing import MEAN, SIZE, SoFar, so_far_line
from distill.training.trainer import DistillationTrainer

STEPS = {"steps": 6, "optim": "adamw_torch", "dropout": 0.1, "logging_steps": 4, "save_steps": 2, "save_total_limit": 3}


class Counted:
    """A probe that says how often it was asked, draws no random number, and reads the weights."""

    def __init__(self) -> None:
        self.sums: list[float] = []

    def __call__(self, model) -> SoFar:
        self.sums.append(sum(float(p.detach().double().sum()) for p in model.parameters()))
        return SoFar(float(len(self.sums)), self.sums[-1], None, 40)


def history(folder: Path) -> list[dict]:
    return json.loads((folder / "training" / "student.json").read_text(encoding="utf-8"))["history"]


def probed(folder: Path) -> list[int]:
    return [entry["step"] for entry in history(folder) if SIZE in entry]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A training with a probe at every save, and the probe."""
    folder, probe = tmp_path_factory.mktemp("probed"), Counted()
    train_toy.main(str(folder), 4, 1, probe=probe, **STEPS)
    return folder, probe


def test_the_probe_is_asked_before_the_first_step_at_every_save_and_after_the_last(run, capsys):
    folder, probe = run
    assert probed(folder) == [0, 2, 4, 6]
    # Of the teacher first, of the student then; every time with other weights.
    assert len(probe.sums) == 5 == len(set(probe.sums))
    found = json.loads((folder / "training" / "student.json").read_text(encoding="utf-8"))
    assert found[f"teacher_{SIZE}"] == 1.0 and found[f"teacher_{MEAN}"] == probe.sums[0]
    # The log of the losses comes when it came before.
    assert [entry["step"] for entry in found["history"] if "loss" in entry] == [4]


def test_every_so_many_steps(tmp_path, capsys):
    train_toy.main(str(tmp_path / "three"), 4, 1, probe=Counted(), scores={"probe_steps": 4}, save_strategy="no", **{
        **STEPS, "save_steps": 500,
    })  # fmt: skip
    assert probed(tmp_path / "three") == [0, 4, 6]
    said = [line for line in capsys.readouterr().err.splitlines() if "so far" in line]
    assert len(said) == 3
    assert (
        said[1].endswith("on 40 prompts")
        and "step 4 of 6: next-word disparity so far 3.000, the teacher's 1.000" in (said[1])
    )


def test_a_training_with_a_probe_ends_in_the_same_bytes(run, tmp_path):
    """Dropout draws random numbers at every step: a probe that drew one would change all that follow."""
    train_toy.main(str(tmp_path), 4, 1, **STEPS)
    want, got = (folder / "student" / "model.safetensors" for folder in (tmp_path, run[0]))
    assert want.read_bytes() == got.read_bytes()
    assert not any(SIZE in entry for entry in history(tmp_path))


def test_the_curve_goes_on_after_a_stop(run, tmp_path):
    shutil.copytree(run[0] / "checkpoints", tmp_path / "checkpoints")
    for lost in (4, 6):
        shutil.rmtree(tmp_path / "checkpoints" / f"checkpoint-{lost}")
    probe = Counted()
    train_toy.main(str(tmp_path), 4, 1, probe=probe, **STEPS)
    assert probed(tmp_path) == [0, 2, 4, 6]
    assert len(probe.sums) == 3  # the teacher, and steps 4 and 6
    before, after = ([e[MEAN] for e in history(folder) if MEAN in e] for folder in (run[0], tmp_path))
    assert after == before


@pytest.mark.parametrize(
    ("steps", "saved", "asked", "whole"),
    [(4, 500, [0, 4], [0, 4, 6]), (None, 2, [0, 2, 4], [0, 2, 4, 6]), (None, 3, [0, 3], [0, 3, 6])],
)
def test_a_stop_loses_no_point_of_the_curve_and_adds_none(tmp_path, monkeypatch, steps, saved, asked, whole):
    """Stopped in step 4: where that step was to be looked at in any case, it is, and in no other."""
    settings = {**STEPS, "save_steps": saved, "logging_steps": 1, "scores": {"probe_steps": steps}}
    plain = DistillationTrainer.training_step

    def signalled(self, *args, **kwargs):
        if self.state.global_step == 3:
            os.kill(os.getpid(), signal.SIGTERM)
        return plain(self, *args, **kwargs)

    monkeypatch.setattr(DistillationTrainer, "training_step", signalled)
    with pytest.raises(Stopped):
        train_toy.main(str(tmp_path), 4, 1, probe=Counted(), **settings)
    state = json.loads((tmp_path / "checkpoints" / "checkpoint-4" / "trainer_state.json").read_text(encoding="utf-8"))
    assert [entry["step"] for entry in state["log_history"] if SIZE in entry] == asked
    monkeypatch.undo()
    train_toy.main(str(tmp_path), 4, 1, probe=Counted(), **settings)
    assert probed(tmp_path) == whole


@pytest.mark.parametrize("at", [3, 17])  # 17 blocks of 4 in an epoch: within one, and with its last step
def test_a_stop_at_the_end_of_an_epoch_is_looked_at_where_epochs_are_saved(tmp_path, monkeypatch, at):
    settings = {**STEPS, "steps": 20, "logging_steps": 1, "save_strategy": "epoch"}
    plain = DistillationTrainer.training_step

    def signalled(self, *args, **kwargs):
        if self.state.global_step == at - 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return plain(self, *args, **kwargs)

    monkeypatch.setattr(DistillationTrainer, "training_step", signalled)
    with pytest.raises(Stopped):
        train_toy.main(str(tmp_path), 4, 1, probe=Counted(), **settings)
    state = json.loads(
        (tmp_path / "checkpoints" / f"checkpoint-{at}" / "trainer_state.json").read_text(encoding="utf-8")
    )
    assert [e["step"] for e in state["log_history"] if SIZE in e] == ([0, 17] if at == 17 else [0])
    monkeypatch.undo()
    train_toy.main(str(tmp_path), 4, 1, probe=Counted(), **settings)
    assert probed(tmp_path) == [0, 17, 20]


def test_of_several_processes_the_first_one_asks(tmp_path):
    train(tmp_path, 2, processes=2, probe=Counted(), **STEPS)
    assert probed(tmp_path) == [0, 2, 4, 6]


def test_a_student_with_an_adapter_is_asked_with_it(tmp_path):
    """By the metric itself: the adapter's numbers show, and the base is the teacher's, before the first step alike."""
    pytest.importorskip("peft", reason="needs the extra lora")
    tokenizer, swapper, _ = train_toy.language()
    probe = probe_of(Recipe(), swapper, tokenizer)
    keys = {"init": "teacher", "lora": {"r": 3}}
    train_toy.main(str(tmp_path), 4, 1, probe=probe, student_keys=keys, **{**STEPS, "dropout": 0.0})
    found = json.loads((tmp_path / "training" / "student.json").read_text(encoding="utf-8"))
    sizes = {entry["step"]: entry[SIZE] for entry in found["history"] if SIZE in entry}
    assert sizes[0] == found[f"teacher_{SIZE}"] and len(set(sizes.values())) == 4


def test_the_line_says_what_there_is():
    found = SoFar(0.5, -0.25, None, 40)
    assert so_far_line(found, SoFar(1.0, 0.1, None, 40), 20, 500) == (
        "step 20 of 500: next-word disparity so far 0.500, the teacher's 1.000; mean -0.250, on 40 prompts"
    )
    three_groups = SoFar(0.5, None, None, 12)
    assert so_far_line(three_groups, None, 0, 9) == "step 0 of 9: next-word disparity so far 0.500, on 12 prompts"
    little = SoFar(None, None, "only 3 prompts gave a value, and 5 are needed", 3)
    assert so_far_line(little, found, 5, 9) == (
        "step 5 of 9: too little to tell the disparity so far: only 3 prompts gave a value, and 5 are needed"
    )
    assert little.figures() == {} and three_groups.figures() == {SIZE: 0.5}
