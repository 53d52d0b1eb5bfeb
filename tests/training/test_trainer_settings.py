"""Settings that make training faster or smaller must not change what is learned: the losses of a toy run say so.

The plain run: float32, SDPA, no compiler, every activation kept, AdamW one operation after the other.
"""

import json
import shutil
import sys
from pathlib import Path
from unittest.mock import Mock

import pytest
import torch
import train_toy
import transformers.modeling_utils
from torch._dynamo.utils import counters

from distill.base.errors import UserError
from distill.models.architecture import hidden_states
from distill.models.loading import load_teacher
from distill.models.student import make_student
from distill.recipe import StudentConfig, TeacherConfig

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

    def watched(model, *args):
        autocast.append((model.training, torch.is_autocast_enabled("cpu")))
        return hidden_states(model, *args)

    monkeypatch.setattr("distill.training.trainer.hidden_states", watched)
    found = losses(tmp_path, bf16=True)
    assert found == pytest.approx(plain, abs=1e-3)
    assert found != pytest.approx(plain, abs=1e-6)
    assert autocast == [(False, True), (True, True)] * 4


@pytest.mark.parametrize("whose", ["teacher_keys", "student_keys"])
def test_attention(tmp_path, plain, whose):
    assert losses(tmp_path, **{whose: {"attention": "eager"}}) == pytest.approx(plain, abs=1e-5)


@pytest.mark.parametrize(
    "backend",
    [
        "eager",  # traces the models, but has nothing to build
        pytest.param(
            "inductor",
            marks=[
                pytest.mark.slow,
                pytest.mark.skipif(not (shutil.which("c++") or shutil.which("clang++")), reason="needs a C++ compiler"),
            ],
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


def test_documents_of_a_block_do_not_see_each_other_under_any_attention():
    teacher, tokenizer = load_teacher(TeacherConfig(attention="eager"))
    assert teacher.config._attn_implementation == "eager"
    first, second = (
        torch.tensor([tokenizer(t)["input_ids"]]) for t in ("The nurse said that", "his old book was lost")
    )
    ids = torch.cat([first, second], dim=1)
    positions = torch.cat([torch.arange(first.shape[1]), torch.arange(second.shape[1])])[None]
    for attention, used in ((None, "eager"), ("sdpa", "sdpa")):
        student = make_student(StudentConfig(attention=attention), teacher, tokenizer, "demo")
        assert student.config._attn_implementation == used
        with torch.no_grad():
            packed = hidden_states(student, ids, positions)
            alone = [hidden_states(student, part, torch.arange(part.shape[1])[None]) for part in (first, second)]
        torch.testing.assert_close(packed, torch.cat(alone, dim=1), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(("name", "words"), [("eeger", "teacher.attention.*eeger"), ("flash_attention_2", "sdpa")])
def test_attention_that_cannot_be_had_is_a_users_mistake(name, words):
    with pytest.raises(UserError, match=words):
        load_teacher(TeacherConfig(attention=name))
