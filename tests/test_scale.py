"""Several processes and machines: the same parameters as one process."""

import json
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import train_toy
from accelerate.utils import is_deepspeed_available
from launched import ENVIRONMENT, HELPERS, TORCHRUN, torchrun, train
from safetensors.torch import load_file
from shared import REPOSITORY, TOY_TEXT
from transformers import AutoModelForCausalLM

from distill.data.counts import PackingCounts
from distill.data.packing import pack
from distill.models.student import train_tokenizer
from distill.text.counterfactual import Swapper
from distill.text.wordlist import load_wordlist

#: Goes past the end of an epoch of 66 blocks, of which the last step has two.
TO_THE_END = {"steps": 9}
#: First come the edited blocks, then the others, so that some process sees one kind and some the other.
IN_ORDER = {**TO_THE_END, "train_sampling_strategy": "sequential"}


def accelerated(config: str) -> list[str]:
    """`accelerate launch` of two processes with a file of recipes/accelerate."""
    program = [sys.executable, "-m", "accelerate.commands.accelerate_cli", "launch", "--main_process_port", "0"]
    return [*program, "--num_processes", "2", "--config_file", str(REPOSITORY / "recipes/accelerate" / config)]


def assert_same_student(one: Path, several: Path) -> None:
    want, got = (load_file(folder / "student" / "model.safetensors") for folder in (one, several))
    untrained = load_file(one / "untrained.safetensors")
    assert max(float((want[name] - untrained[name]).abs().max()) for name in want) > 1e-2  # it learned something
    assert got.keys() == want.keys()
    for name in want:
        torch.testing.assert_close(got[name], want[name], atol=1e-5, rtol=0, msg=name)
    loaded = AutoModelForCausalLM.from_pretrained(several / "student")
    assert all(torch.equal(loaded.state_dict()[name], got[name]) for name in got)
    assert (one / "student/config.json").read_text() == (several / "student/config.json").read_text()


@pytest.fixture(scope="module")
def one_process(tmp_path_factory):
    return train(tmp_path_factory.mktemp("one") / "run", 8, **TO_THE_END)


def test_accumulation_does_not_change_the_result(one_process, tmp_path):
    """8 x 1 and 1 x 8 give the same parameters after 9 steps with unequal token counts."""
    assert_same_student(one_process, train(tmp_path / "run", 1, accumulation=8, **TO_THE_END))


def test_two_processes_do_not_change_the_result(one_process, tmp_path):
    """The last step has two blocks: one process gets both, the other only blocks that do not count."""
    assert_same_student(one_process, train(tmp_path / "run", 4, processes=2, **TO_THE_END))


@pytest.mark.slow
def test_four_processes_of_which_some_see_only_unedited_text_or_nothing(tmp_path):
    tokenizer = train_tokenizer([TOY_TEXT] * 4, 400)
    swapper = Swapper(load_wordlist("english_gender"))
    views = [len(block.input_ids) for block in pack(train_toy.toy_documents(), tokenizer, swapper, 48, PackingCounts())]
    steps = [[set(views[i : i + 2]) for i in range(n, min(n + 8, len(views)), 2)] for n in range(0, len(views), 8)]
    assert any({1} in step and any(2 in of_one for of_one in step) for step in steps)
    assert len(steps) == IN_ORDER["steps"] and len(steps[-1]) == 1
    one = train(tmp_path / "one", 8, **IN_ORDER)
    assert_same_student(one, train(tmp_path / "four", 2, *torchrun(4), teacher_keys={"shard": True}, **IN_ORDER))
    assert_same_student(one, train(tmp_path / "two", 2, *torchrun(2), accumulation=2, **IN_ORDER))


@pytest.mark.slow
@pytest.mark.parametrize("shard_teacher", [False, True])
def test_fsdp2_with_a_tied_head(one_process, tmp_path, shard_teacher):
    """The weight of embedding and head gets both gradients, once."""
    options = {**TO_THE_END, "use_cpu": False, "teacher_keys": {"shard": shard_teacher}}
    run = train(tmp_path / "run", 4, *accelerated("fsdp2.yaml"), **options)
    assert (run / "checkpoints/checkpoint-9/pytorch_model_fsdp.bin").exists()  # so it was sharded
    assert_same_student(one_process, run)


@pytest.mark.slow
def test_fsdp2_goes_on_where_it_was_stopped(tmp_path):
    options = {**TO_THE_END, "use_cpu": False, "save_steps": 3, "optim": "adamw_torch"}
    run = train(tmp_path / "run", 4, *accelerated("fsdp2.yaml"), **options)
    whole = (run / "student").rename(tmp_path / "whole")
    shutil.rmtree(run / "checkpoints/checkpoint-9")
    train(run, 4, *accelerated("fsdp2.yaml"), **options)
    want, got = (load_file(folder / "model.safetensors") for folder in (whole, run / "student"))
    assert all(torch.equal(got[name], want[name]) for name in want)


@pytest.mark.slow
def test_fsdp2_with_a_head_of_its_own_a_projection_and_half_precision_on_disk(tmp_path):
    options = {
        **TO_THE_END,
        "architecture": "llama",
        "student": {"hidden_size": 16, "intermediate_size": 32, "tie_word_embeddings": False},
        "student_keys": {"save_dtype": "bfloat16"},
    }
    one = train(tmp_path / "one", 8, **options)
    run = train(tmp_path / "run", 4, *accelerated("fsdp2.yaml"), use_cpu=False, **options)
    assert {t.dtype for t in load_file(run / "student/model.safetensors").values()} == {torch.bfloat16}
    assert "lm_head.weight" in load_file(run / "student/model.safetensors")
    assert_same_student(one, run)


@pytest.mark.slow
def test_fsdp2_in_bf16_sums_the_loss_in_full_precision(tmp_path):
    def first_losses(run: Path) -> dict[str, float]:
        state = json.loads((run / "checkpoints/checkpoint-1/trainer_state.json").read_text())
        return {name: value for name, value in state["log_history"][0].items() if name in ("loss_ce", "loss_kd")}

    options = {"steps": 1, "bf16": True, "logging_steps": 1}
    want = first_losses(train(tmp_path / "ddp", 4, *torchrun(2), **options))
    got = first_losses(train(tmp_path / "fsdp2", 4, *accelerated("fsdp2.yaml"), use_cpu=False, **options))
    assert got == pytest.approx(want, rel=2e-4)


@pytest.mark.slow
@pytest.mark.skipif(not is_deepspeed_available(), reason="DeepSpeed (the extra deepspeed) is not installed")
@pytest.mark.skipif(shutil.which("g++") is None, reason="DeepSpeed compiles what its processes talk through with g++")
def test_zero2_with_a_tied_head(one_process, tmp_path):
    options = {**TO_THE_END, "use_cpu": False, "accumulation": 2}
    run = train(tmp_path / "run", 2, *accelerated("zero2.yaml"), **options)
    assert list((run / "checkpoints/checkpoint-9").glob("global_step*"))  # so DeepSpeed wrote it
    assert_same_student(one_process, run)


@pytest.mark.slow
def test_two_machines(one_process, tmp_path):
    """Two launchers that meet at an address, each with two processes, and one folder that both see."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    program = [str(HELPERS / "train_toy.py"), str(tmp_path / "run"), "2", "1", json.dumps(TO_THE_END)]
    address = ["--master_addr=127.0.0.1", f"--master_port={port}"]
    machines = [
        subprocess.Popen(
            [*TORCHRUN, "--nnodes=2", "--nproc_per_node=2", f"--node_rank={rank}", *address, *program],
            env=ENVIRONMENT,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    errors = [machine.communicate(timeout=580)[1] for machine in machines]
    assert [machine.returncode for machine in machines] == [0, 0], errors
    assert_same_student(one_process, tmp_path / "run")
