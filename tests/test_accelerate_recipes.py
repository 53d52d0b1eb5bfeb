"""The files of recipes/accelerate: every key is one that accelerate knows, and comes out as what it says."""

from pathlib import Path

import pytest
import yaml
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.utils import DeepSpeedPlugin, FullyShardedDataParallelPlugin, is_deepspeed_available
from accelerate.utils.launch import prepare_deepspeed_cmd_env, prepare_multi_gpu_env
from shared import REPOSITORY

CONFIGS = sorted((REPOSITORY / "recipes/accelerate").glob("*.yaml"))


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
