"""Several processes and machines: the same parameters as one process, and the same end after a mistake."""

import json
import re
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import synthetic
import torch
import train_toy
import yaml
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.utils import DeepSpeedPlugin, FullyShardedDataParallelPlugin, is_deepspeed_available
from accelerate.utils.launch import prepare_deepspeed_cmd_env, prepare_multi_gpu_env
from launched import ENVIRONMENT, HELPERS, TORCHRUN, processes, train
from safetensors.torch import load_file
from shared import REPOSITORY, TOY_TEXT
from torch.utils.data import BatchSampler, SequentialSampler
from transformers import AutoModelForCausalLM

from distill.base.errors import UserError
from distill.data.batches import FilledBatches, Filler
from distill.data.blocks import BlockDataset
from distill.data.counts import PackingCounts
from distill.data.packing import pack
from distill.models.student import train_tokenizer
from distill.objective.kd_loss import IGNORED
from distill.recipe import Recipe
from distill.text.counterfactual import Swapper
from distill.text.wordlist import load_wordlist
from distill.training.arguments import training_arguments

CONFIGS = sorted((REPOSITORY / "recipes/accelerate").glob("*.yaml"))
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


# ------------------------------------------------------------------------------------------------- the same student


@pytest.fixture(scope="module")
def one_process(tmp_path_factory):
    return train(tmp_path_factory.mktemp("one") / "run", 8, **TO_THE_END)


def test_accumulation_does_not_change_the_result(one_process, tmp_path):
    """8 x 1 and 1 x 8 give the same parameters after 9 steps with unequal token counts."""
    assert_same_student(one_process, train(tmp_path / "run", 1, accumulation=8, **TO_THE_END))


def test_two_processes_do_not_change_the_result(one_process, tmp_path):
    """The last step has two blocks: one process gets both, the other only blocks that do not count."""
    assert_same_student(one_process, train(tmp_path / "run", 4, *processes(2), **TO_THE_END))


@pytest.mark.slow
def test_four_processes_of_which_some_see_only_unedited_text_or_nothing(tmp_path):
    tokenizer = train_tokenizer([TOY_TEXT] * 4, 400)
    swapper = Swapper(load_wordlist("english_gender"))
    views = [len(block.input_ids) for block in pack(train_toy.toy_documents(), tokenizer, swapper, 48, PackingCounts())]
    steps = [[set(views[i : i + 2]) for i in range(n, min(n + 8, len(views)), 2)] for n in range(0, len(views), 8)]
    assert any({1} in step and any(2 in of_one for of_one in step) for step in steps)
    assert len(steps) == IN_ORDER["steps"] and len(steps[-1]) == 1
    one = train(tmp_path / "one", 8, **IN_ORDER)
    assert_same_student(one, train(tmp_path / "four", 2, *processes(4), teacher_keys={"shard": True}, **IN_ORDER))
    assert_same_student(one, train(tmp_path / "two", 2, *processes(2), accumulation=2, **IN_ORDER))


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
    want = first_losses(train(tmp_path / "ddp", 4, *processes(2), **options))
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


# ------------------------------------------------------------------------------------------------------- the batches


@pytest.mark.parametrize("processes", [2, 3, 4])
@pytest.mark.parametrize("size", [1, 3])
@pytest.mark.parametrize("blocks", [1, 5, 12])
def test_batches_are_filled_until_each_process_has_one(blocks, size, processes):
    filled = FilledBatches(BatchSampler(SequentialSampler(range(blocks)), size, drop_last=False), processes)
    batches = list(filled)
    assert len(batches) == len(filled)
    assert len(batches) % processes == 0
    assert {len(batch) for batch in batches} == {size}
    indices = [index for batch in batches for index in batch]
    assert [index for index in indices if not isinstance(index, Filler)] == list(range(blocks))
    assert len(indices) - blocks < size * processes


def test_a_filler_is_a_block_of_which_nothing_counts(tmp_path, toy_tokenizer):
    from distill.data.corpus import Corpus
    from distill.data.packing import packed_blocks

    blocks, _ = packed_blocks(Corpus("toy", train_toy.toy_documents), toy_tokenizer, None, 48, tmp_path)
    assert isinstance(blocks, BlockDataset)
    assert (blocks[Filler(3)].labels == IGNORED).all()
    assert (blocks[3].labels != IGNORED).any()
    assert (blocks[Filler(3)].input_ids == blocks[3].input_ids).all()


# ------------------------------------------------------------------------------------------ accelerate's configurations


def launcher_arguments(path: Path):
    arguments = launch_command_parser().parse_args(["--config_file", str(path), "distill/train.py"])
    return _validate_launch_command(arguments)[0]


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_configuration_holds_what_accelerate_knows(path):
    config = load_config_from_file(str(path))  # refuses unknown keys of the first level
    given = yaml.safe_load(path.read_text(encoding="utf-8"))
    known = vars(launch_command_parser().parse_args(["distill/train.py"]))
    for section in ("fsdp_config", "deepspeed_config"):
        assert set(given.get(section, {})) <= set(known)
    arguments = launcher_arguments(path)
    assert arguments.num_processes == config.num_processes
    for key, value in {**given.get("fsdp_config", {}), **given.get("deepspeed_config", {})}.items():
        assert getattr(arguments, key) == value


def test_the_fsdp2_configuration_says_fsdp2(monkeypatch):
    environment = prepare_multi_gpu_env(launcher_arguments(REPOSITORY / "recipes/accelerate/fsdp2.yaml"))
    for name in [name for name in environment if name.startswith("FSDP_")]:
        monkeypatch.setenv(name, environment[name])
    plugin = FullyShardedDataParallelPlugin()
    assert (plugin.fsdp_version, plugin.reshard_after_forward, plugin.cpu_ram_efficient_loading) == (2, True, False)


@pytest.mark.skipif(not is_deepspeed_available(), reason="DeepSpeed (the extra deepspeed) is not installed")
def test_the_deepspeed_configuration_says_zero2(monkeypatch):
    arguments = launcher_arguments(REPOSITORY / "recipes/accelerate/zero2.yaml")
    arguments.deepspeed_fields_from_accelerate_config = ""
    for name, value in prepare_deepspeed_cmd_env(arguments)[1].items():
        if name.startswith("ACCELERATE_"):
            monkeypatch.setenv(name, value)
    plugin = DeepSpeedPlugin()
    assert plugin.zero_stage == 2
    assert plugin.deepspeed_config["zero_optimization"]["stage"] == 2
    assert plugin.deepspeed_config["gradient_accumulation_steps"] == "auto"


def test_every_configuration_has_its_command():
    text = (REPOSITORY / "recipes/accelerate/README.md").read_text(encoding="utf-8")
    for path in CONFIGS:
        assert f"| `{path.name}` |" in text
        assert f"accelerate launch --config_file recipes/accelerate/{path.name} " in text


# ---------------------------------------------------------------------------------------------------------- mistakes


@pytest.mark.parametrize(
    ("environment", "trainer", "words"),
    [
        ({"WORLD_SIZE": "2", "RANK": "0"}, {"use_cpu": False}, "use_cpu"),
        ({"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2"}, {"use_cpu": True}, "leaves it out on a CPU"),
        ({}, {"use_cpu": True, "fsdp": True}, "leaves it out on a CPU"),
    ],
)
def test_processes_that_cannot_work_together(tmp_path, monkeypatch, environment, trainer, words):
    if environment.get("WORLD_SIZE") and torch.cuda.is_available():
        pytest.skip("with a GPU, the processes would find each other")
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=words):
        training_arguments(Recipe(trainer=trainer), tmp_path)


@pytest.fixture(scope="module")
def recipe_file(tmp_path_factory):
    """A recipe that needs no teacher, and a folder for its files."""
    folder = tmp_path_factory.mktemp("mistake")
    recipe = Path(synthetic.write_teacher_recipe(folder, folder / "run"))
    return recipe


def launch_two(*arguments: str) -> subprocess.CompletedProcess:
    command = [*processes(2), str(REPOSITORY / "distill/train.py"), *arguments, "--trainer.use_cpu", "true"]
    return subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, timeout=300)


def one_message(done: subprocess.CompletedProcess) -> str:
    messages = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(messages) == 1, done.stderr
    # torchrun ends what still runs, and says how each one ended that had ended by itself.
    codes = re.findall(r"exitcode\s*: (-?\d+)", done.stderr)
    assert "2" in codes and set(codes) <= {"2", "-15"}, done.stderr
    return messages[0]


@pytest.mark.parametrize("main_first", [False, True])
@pytest.mark.parametrize("rank", [0, 1])
def test_a_mistake_in_one_process_ends_all(tmp_path, rank, main_first):
    script = tmp_path / "mistaken.py"
    script.write_text(
        f"""
import sys
from accelerate import PartialState
from distill.base.console import run_entry
from distill.base.errors import UserError
from distill.training.processes import together

def main(argv):
    process = PartialState(cpu=True)
    with together(main_first={main_first}):
        if process.process_index == {rank}:
            raise UserError("seen in {rank}")
    print("went on")

sys.exit(run_entry(main, []))
"""
    )
    done = subprocess.run([*processes(2), str(script)], env=ENVIRONMENT, capture_output=True, text=True, timeout=120)
    assert one_message(done) == f"error: seen in {rank}"
    assert "went on" not in done.stdout


@pytest.mark.parametrize("mistake", ["recipe", "corpus"])
def test_a_mistake_ends_all_processes_with_one_message(recipe_file, tmp_path, mistake):
    """Seen by all in the recipe, or by the first alone, in the text, while the other waits for it."""
    if mistake == "recipe":
        arguments, words = ["--target.op", "expmeen"], "did you mean 'expmean'"
    else:
        (tmp_path / "empty.txt").write_text("")
        arguments, words = ["--corpus.files", f'["{tmp_path / "empty.txt"}"]'], "holds no text"
    begun = time.monotonic()
    done = launch_two("--config", str(recipe_file), "--output_dir", str(tmp_path / "run"), *arguments)
    assert time.monotonic() - begun < 120  # nobody waited for a time limit
    assert words in one_message(done)
    assert not (tmp_path / "run").exists()
