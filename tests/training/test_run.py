"""A whole training: it goes on after a stop to the last bit, and what makes it faster or smaller changes nothing."""

import json
import os
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import Mock

import pytest
import torch
import train_toy
import transformers
from launched import train
from safetensors.torch import load_file
from torch._dynamo.utils import counters
from transformers import AutoModelForCausalLM, TrainerCallback
from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK

from distill.base.errors import UserError
from distill.models.architecture import hidden_states
from distill.recipe import TeacherConfig
from distill.training.run import read_by_steps
from distill.training.trainer import DistillationTrainer


@pytest.mark.parametrize("workers", [{}, {"dataloader_num_workers": 1, "dataloader_persistent_workers": True}])
def test_training_goes_on_bit_for_bit(tmp_path, steps_made, workers):
    """Checkpoints every 2 of 6 steps, all but an early one lost: the end is the same to the last bit, dropout on.

    Over two epochs, with workers that stay for the next as a GPU's do.
    """
    arguments = {"steps": 6, "save_steps": 2, "dropout": 0.1, "optim": "adamw_torch", "save_total_limit": 3, **workers}
    train_toy.main(str(tmp_path / "whole"), 32, 1, **arguments)
    shutil.copytree(tmp_path / "whole" / "checkpoints", tmp_path / "again" / "checkpoints")
    for lost in (4, 6):
        shutil.rmtree(tmp_path / "again" / "checkpoints" / f"checkpoint-{lost}")
    steps_made.clear()
    train_toy.main(str(tmp_path / "again"), 32, 1, **arguments)
    assert steps_made == [3, 4, 5, 6]
    want, got = (load_file(tmp_path / name / "student" / "model.safetensors") for name in ("whole", "again"))
    assert all(torch.equal(want[k], got[k]) for k in want)
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "again" / "student")
    assert model.config.n_layer == 2


def test_a_finished_training_is_not_trained_further(tmp_path, steps_made):
    """A student that is lost after its last checkpoint comes back as it was; the learning rate does not end at 0."""
    arguments = {"steps": 3, "save_steps": 3, "lr_scheduler_type": "constant"}
    train_toy.main(str(tmp_path), 4, 1, **arguments)
    want = load_file(tmp_path / "student" / "model.safetensors")
    shutil.rmtree(tmp_path / "student")
    steps_made.clear()
    train_toy.main(str(tmp_path), 4, 1, **arguments)
    assert not steps_made
    got = load_file(tmp_path / "student" / "model.safetensors")
    assert all(torch.equal(want[k], got[k]) for k in want)


def test_nothing_is_published_from_no_steps_unless_that_is_asked_for(tmp_path, capsys):
    dropped = {"dataloader_drop_last": True, "num_train_epochs": 1}
    for steps in (-1, 3):  # as many as the text gives, and more than that
        with pytest.raises(UserError, match=r"no step can be made: the text gives \d+ blocks, .* takes 1000"):
            train_toy.main(str(tmp_path / "dropped"), 1000, 1, steps=steps, **dropped)
    assert not (tmp_path / "dropped" / "student").exists()
    train_toy.main(str(tmp_path / "asked"), 4, 1, steps=0)
    want, got = (
        load_file(tmp_path / "asked" / name) for name in ("untrained.safetensors", "student/model.safetensors")
    )
    assert all(torch.equal(want[name], got[name]) for name in got)
    assert "max_steps is 0, so the student stays untrained" in capsys.readouterr().err


def test_directions_are_taken_out_of_what_the_trained_students_head_sees(tmp_path):
    """The rest of the student is, to the byte, what it is without that."""
    arguments = {"steps": 2, "save_strategy": "no"}
    train_toy.main(str(tmp_path / "whole"), 4, 1, **arguments)
    keys = {"remove_directions": 2}
    train_toy.main(str(tmp_path / "less"), 4, 1, student_keys=keys, **arguments)
    models = [AutoModelForCausalLM.from_pretrained(tmp_path / name / "student") for name in ("whole", "less")]
    whole, less = (model.get_output_embeddings().weight.double() for model in models)
    assert less is not models[1].get_input_embeddings().weight and not models[1].config.tie_word_embeddings
    for name, weight in models[0].named_parameters():
        assert torch.equal(weight, models[1].get_parameter(name)), name
    # What is missing lies in two directions, of which nothing is left.
    directions = torch.linalg.svd(whole - less).Vh
    assert torch.linalg.matrix_rank(whole - less, rtol=1e-4) == 2
    torch.testing.assert_close(less @ directions[:2].T, torch.zeros(len(less), 2).double(), atol=1e-6, rtol=0)
    log = json.loads((tmp_path / "less" / "training" / "student.json").read_text(encoding="utf-8"))
    assert log["processor_seconds"] > 0 and log["seconds"] > 0


def test_each_student_is_a_run_of_its_own_in_trackers_that_go_on(tmp_path, monkeypatch):
    """wandb as its callback meets it: one run at a time, begun only where there is none."""
    runs: list[tuple[str, list[int]]] = []
    ended = []

    def finish(exit_code):
        ended.append(exit_code)
        fake.run = None
        raise OSError("the network is gone")

    fake = SimpleNamespace(run=None, finish=finish)

    class Callback(TrainerCallback):
        def on_train_begin(self, args, state, control, **kwargs):
            if fake.run is None:
                fake.run = args.run_name
                runs.append((args.run_name, []))

        def on_log(self, args, state, control, logs, **kwargs):
            runs[-1][1].append(state.global_step)

    monkeypatch.setitem(sys.modules, "wandb", fake)
    monkeypatch.setitem(INTEGRATION_TO_CALLBACK, "wandb", Callback)
    for name in ("one", "two"):
        train_toy.main(str(tmp_path / name), 4, 1, steps=2, report_to="wandb", logging_steps=1)
    assert runs == [("one-checkpoints", [1, 2, 2]), ("two-checkpoints", [1, 2, 2])] and fake.run is None
    with monkeypatch.context() as patched, pytest.raises(UserError):
        patched.setattr(DistillationTrainer, "_is_sound", Mock(side_effect=UserError("not finite")))
        train_toy.main(str(tmp_path / "broken"), 4, 1, steps=2, report_to="wandb", logging_steps=1)
    assert ended == [0, 0, 1] and runs.pop()[0] == "broken-checkpoints"
    fake.run = "a notebook's"  # which goes on with it
    train_toy.main(str(tmp_path / "three"), 4, 1, steps=2, report_to="wandb", logging_steps=1)
    assert len(runs) == 2 and fake.run == "a notebook's"


def test_a_folder_of_the_users_for_tensorboard_has_one_for_each_student(tmp_path, monkeypatch):
    pytest.importorskip("tensorboard", reason="needs the extra trackers")
    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", str(tmp_path / "board"))
    for name in ("one", "two"):
        train_toy.main(str(tmp_path / name), 4, 1, steps=1, report_to="tensorboard", logging_steps=1)
        assert [*(tmp_path / "board" / f"{name}-checkpoints").glob("events.*")]
    assert len([*(tmp_path / "board").iterdir()]) == 2


def test_another_number_of_processes_does_not_go_on_silently(tmp_path):
    train(tmp_path, 2, processes=2, steps=2, save_steps=1)
    shutil.rmtree(tmp_path / "student")
    with pytest.raises(UserError, match="written by 2 processes, but 1 was started"):
        train_toy.main(str(tmp_path), 4, 1, steps=2, save_steps=1)


# ------------------------------------------------------------------------------------------------------------- settings


STEPS = {"steps": 4, "logging_steps": 1, "save_strategy": "no", "optim": "adamw_torch", "dropout": 0.1}


def losses(folder: Path, **settings) -> list[float]:
    train_toy.main(str(folder), 4, 1, **{**STEPS, **settings})
    history = json.loads((folder / "training" / "student.json").read_text(encoding="utf-8"))["history"]
    return [entry["loss"] for entry in history if "loss" in entry]


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    found = losses(tmp_path_factory.mktemp("plain"))
    assert len(found) == 4 and found[0] - found[-1] > 0.01  # the updates can be seen in the losses
    return found


@pytest.mark.filterwarnings("ignore:`gradient_checkpointing` is deprecated:FutureWarning")
def test_gradient_checkpointing(tmp_path, plain, monkeypatch):
    """The second forward pass drops out what the first one did."""
    checkpoint = Mock(wraps=transformers.modeling_utils.checkpoint)
    monkeypatch.setattr(transformers.modeling_utils, "checkpoint", checkpoint)
    assert losses(tmp_path, gradient_checkpointing=True) == pytest.approx(plain, abs=1e-5)
    assert checkpoint.call_count == 4 * 2  # steps, layers of the student: the teacher has no part in it


def test_fused_adamw(tmp_path, plain, monkeypatch):
    module = sys.modules[torch.optim.Adam.__module__]  # torch.optim hides its name
    fused = Mock(wraps=module._fused_adam)
    monkeypatch.setattr(module, "_fused_adam", fused)
    assert losses(tmp_path, optim="adamw_torch_fused") == pytest.approx(plain, abs=1e-5)
    assert fused.call_count == 4 * 2  # steps, groups of parameters with and without weight decay


def test_bf16_autocast_of_student_and_teacher(tmp_path, plain, monkeypatch):
    autocast = []

    def watched(model, *args, **named):
        autocast.append((model.training, torch.is_autocast_enabled("cpu")))
        return hidden_states(model, *args, **named)

    for module in ("trainer", "student_loss"):  # the teacher's, the student's
        monkeypatch.setattr(f"distill.training.{module}.hidden_states", watched)
    found = losses(tmp_path, bf16=True)
    assert found == pytest.approx(plain, abs=1e-3)
    assert found != pytest.approx(plain, abs=1e-6)
    assert autocast == [(False, True), (True, True)] * 4


def test_products_in_tf32_and_deterministic_algorithms_are_those_of_steps_alone(tmp_path, plain, monkeypatch):
    """As on a card that has them; what follows in this process is made without them."""
    monkeypatch.setattr("os.environ", dict(os.environ))  # which transformers adds to
    monkeypatch.setattr(transformers.training_args, "is_torch_tf32_available", lambda: True)
    inside = []

    def watched(model, *args, **named):
        inside.append((torch.get_float32_matmul_precision(), torch.are_deterministic_algorithms_enabled()))
        return hidden_states(model, *args, **named)

    monkeypatch.setattr("distill.training.trainer.hidden_states", watched)
    found = losses(tmp_path, tf32=True, full_determinism=True)
    assert found == pytest.approx(plain, abs=1e-5)  # a CPU has no TF32
    assert inside == [("high", True)] * 4
    assert torch.get_float32_matmul_precision() == "highest" and not torch.are_deterministic_algorithms_enabled()


@pytest.mark.parametrize("whose", ["teacher_keys", "student_keys"])
def test_attention(tmp_path, plain, whose):
    assert losses(tmp_path, **{whose: {"attention": "eager"}}) == pytest.approx(plain, abs=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(
    "backend",
    [
        "eager",  # traces the models, but has nothing to build
        pytest.param(
            "inductor",
            marks=pytest.mark.skipif(
                not (shutil.which("c++") or shutil.which("clang++")), reason="needs a C++ compiler"
            ),
        ),
    ],
)
def test_compiled(tmp_path, backend):
    """Without dropout, whose random numbers the compiler draws in another order."""
    want = losses(tmp_path / "plain", dropout=0.0)
    counters.clear()
    found = losses(tmp_path / "compiled", dropout=0.0, torch_compile=True, torch_compile_backend=backend)
    assert found == pytest.approx(want, abs=1e-5)
    # One graph for the teacher, one for the student, which ends where the loss begins; and both once more, for any
    # number of rows, when a batch comes with another one.
    assert counters["stats"]["unique_graphs"] == 4
    assert [reason for reason in counters["graph_break"] if "fused_loss" not in reason] == []


class TestTheTeacherThatStepsRead:
    """On a GPU that trains in bfloat16 a copy of a float32 teacher, unless something else was asked for."""

    ON_GPU = SimpleNamespace(bf16=True, device=torch.device("cuda"))

    def test_is_a_copy_in_bfloat16_and_the_teacher_stays_as_it_was(self, toy_model, capsys):
        teacher = toy_model()
        before = {name: weight.clone() for name, weight in teacher.named_parameters()}
        copied = read_by_steps(TeacherConfig(), teacher, self.ON_GPU)
        assert copied is not teacher and copied.dtype == torch.bfloat16
        assert not any(weight.requires_grad for weight in copied.parameters())
        assert all(torch.equal(weight, before[name]) for name, weight in teacher.named_parameters())
        assert "teacher.dtype: float32 keeps its format" in capsys.readouterr().err

    @pytest.mark.parametrize(
        ("config", "arguments"),
        [
            (TeacherConfig(dtype="float32"), {}),
            (TeacherConfig(dtype="float16"), {}),
            (TeacherConfig(shard=True), {}),
            (TeacherConfig(), {"bf16": False}),
            (TeacherConfig(), {"device": torch.device("cpu")}),
        ],
    )
    def test_is_the_teacher_itself_otherwise(self, toy_model, config, arguments):
        teacher = toy_model()
        assert read_by_steps(config, teacher, SimpleNamespace(**{**vars(self.ON_GPU), **arguments})) is teacher
        assert read_by_steps(config, None, self.ON_GPU) is None

    def test_is_itself_where_its_weights_are_not_plain_or_no_copy_can_be_made(self, toy_model, monkeypatch, capsys):
        half = toy_model().to(torch.float16)
        assert read_by_steps(TeacherConfig(), half, self.ON_GPU) is half
        changed = toy_model()
        changed.forward = lambda *args, **kwargs: None
        assert read_by_steps(TeacherConfig(), changed, self.ON_GPU) is changed
        teacher = toy_model()
        monkeypatch.setattr(type(teacher), "_from_config", Mock(side_effect=RuntimeError("not of this kind")))
        assert read_by_steps(TeacherConfig(), teacher, self.ON_GPU) is teacher
        assert "no copy of it in bfloat16 can be made: not of this kind" in capsys.readouterr().err
