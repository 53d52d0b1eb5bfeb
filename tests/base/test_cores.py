"""How many cores a process may use, and what an entry tells torch's threads, seen where torch is loaded."""

import json
import os
import subprocess
import sys

import pytest
from shared import REPOSITORY

from distill.base import cores
from distill.base.cores import share_cores, usable_cores


@pytest.fixture
def eight_cores(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))


def control_groups(folder, own: str, **files: str):
    """A mount and the file that names this process's groups; keys of `files` are paths with __ for /."""
    mount = folder / "cgroup"
    for path, content in files.items():
        file = mount / path.replace("__", "/").replace("cpu_max", "cpu.max").replace("cfs", "cpu.cfs")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(content + "\n")
    (folder / "own").write_text(own)
    return mount, folder / "own"


V2, V1 = "0::/a/b\n", "4:memory:/m\n3:cpu,cpuacct:/docker/x\n2:cpuset:/\n0::/\n"


@pytest.mark.parametrize(
    ("own", "files", "expected"),
    [
        (V2, {}, 8),
        (V2, {"a__b__cpu_max": "max 100000"}, 8),
        (V2, {"a__b__cpu_max": "200000 100000"}, 2),
        (V2, {"a__b__cpu_max": "150000 100000"}, 2),  # part of a core counts as one
        (V2, {"a__b__cpu_max": "10000 100000"}, 1),
        (V2, {"a__b__cpu_max": "1600000 100000"}, 8),  # more than there are
        (V2, {"a__b__cpu_max": "max 100000", "a__cpu_max": "150000 50000"}, 3),  # a group above it binds too
        (V2, {"a__b__cpu_max": "400000 100000", "a__cpu_max": "500000 100000"}, 4),
        (V2, {"a__c__cpu_max": "100000 100000"}, 8),  # another's
        ("0::/\n", {"cpu_max": "300000 100000"}, 3),  # in a container, with its own root
        (V2, {"cpu_max": "300000 100000"}, 3),  # in a container, told by the machine's names
        ("0::/../other\n", {"cpu_max": "nonsense"}, 8),
        (V1, {"cpu__docker__x__cfs_quota_us": "250000", "cpu__docker__x__cfs_period_us": "100000"}, 3),
        (V1, {"cpu__docker__x__cfs_quota_us": "-1", "cpu__docker__x__cfs_period_us": "100000"}, 8),
        (V1, {"cpu__cfs_quota_us": "100000", "cpu__cfs_period_us": "100000"}, 1),
        (V1, {"memory__m__cfs_quota_us": "100000", "memory__m__cfs_period_us": "100000"}, 8),
    ],
)  # fmt: skip
def test_no_more_cores_than_the_quota_and_the_affinity_allow(eight_cores, own, files, expected, tmp_path):
    assert usable_cores(*control_groups(tmp_path, own, **files)) == expected


def test_without_control_groups_the_affinity_counts(eight_cores, tmp_path):
    assert usable_cores(tmp_path, tmp_path / "absent") == 8


@pytest.mark.parametrize(
    ("given", "quota", "expected"),
    [
        ({}, 8, {"GOMP_SPINCOUNT": "10000"}),
        ({}, 3, {"GOMP_SPINCOUNT": "10000", "OMP_NUM_THREADS": "3"}),
        ({"OMP_NUM_THREADS": "5"}, 3, {"GOMP_SPINCOUNT": "10000", "OMP_NUM_THREADS": "5"}),
        ({"GOMP_SPINCOUNT": "7"}, 8, {"GOMP_SPINCOUNT": "7"}),
        ({"OMP_WAIT_POLICY": "active"}, 8, {"OMP_WAIT_POLICY": "active"}),
    ],
)
def test_what_the_user_has_set_stays(eight_cores, monkeypatch, given, quota, expected):
    monkeypatch.setattr(cores, "usable_cores", lambda: quota)
    monkeypatch.setattr(cores, "_threads_set_here", False)
    environment = dict(given)
    share_cores(environment)
    assert environment == expected
    share_cores(environment)
    assert environment == expected


def test_threads_by_the_quota_are_not_taken_for_the_users(eight_cores, monkeypatch):
    monkeypatch.setattr(cores, "usable_cores", lambda: 3)
    monkeypatch.setattr(cores, "_threads_set_here", False)
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    assert cores.threads_given()
    monkeypatch.delenv("OMP_NUM_THREADS")
    assert not cores.threads_given()
    share_cores()
    assert os.environ["OMP_NUM_THREADS"] == "3" and not cores.threads_given()


ASK = ["--config", str(REPOSITORY / "recipes/debug.yaml")]
ENTRIES = {
    "script": [str(REPOSITORY / "distill/train.py"), *ASK],  # what accelerate and torchrun start
    "module": ["-m", "distill.train", *ASK],
    "train": ["-m", "distill.cli", "train", *ASK],
    "score": ["-m", "distill.cli", "score", "demo"],
    "generate": ["-m", "distill.cli", "generate", "demo", "--prompt", "a"],
    "study": ["-m", "distill.cli", "study", "study"],
}

#: In the place of torch: says what it would read.
STUB = """import json, os, sys
wanted = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")
print("loaded with", json.dumps({name: os.environ[name] for name in wanted if name in os.environ}), file=sys.stderr)
os._exit(0)
"""


@pytest.mark.parametrize("entry", ENTRIES)
def test_an_entry_tells_threads_how_to_wait_before_torch_is_loaded(entry, tmp_path):
    (tmp_path / "torch.py").write_text(STUB)
    for given in ({}, {"OMP_WAIT_POLICY": "passive"})[: 2 if entry == "script" else 1]:
        own = {k: v for k, v in os.environ.items() if k not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")}
        path = f"{tmp_path}{os.pathsep}{REPOSITORY}"
        command = [sys.executable, *ENTRIES[entry]]
        done = subprocess.run(
            command, env={**own, **given, "PYTHONPATH": path}, cwd=tmp_path, capture_output=True, text=True
        )
        (line,) = [line for line in done.stderr.splitlines() if line.startswith("loaded with ")]
        assert json.loads(line.removeprefix("loaded with ")) == (given or {"GOMP_SPINCOUNT": "10000"})


def test_the_tests_wait_so_themselves():
    assert {"GOMP_SPINCOUNT", "OMP_WAIT_POLICY"} & os.environ.keys()


@pytest.mark.parametrize("launcher", [["accelerate.commands.launch"], ["torch.distributed.run"]])
@pytest.mark.slow
def test_the_openmp_of_torch_has_read_it_under_a_launcher(launcher, tmp_path):
    """libgomp itself says what it goes by, as it is loaded, in the launcher and in the run."""
    own = {k: v for k, v in os.environ.items() if k not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")}
    environment = {**own, "OMP_DISPLAY_ENV": "verbose", "PYTHONPATH": str(REPOSITORY), "HF_HUB_OFFLINE": "1"}
    options = ["--output_dir", str(tmp_path), "--teacher.path", str(tmp_path / "nowhere")]
    command = [sys.executable, "-m", *launcher, ENTRIES["script"][0], *ASK, *options]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert "nowhere" in done.stderr and "Traceback (most recent call last):\n  File" not in done.stdout
    said = [line.strip() for line in done.stderr.splitlines() if "GOMP_SPINCOUNT" in line]
    assert said[-1] == "GOMP_SPINCOUNT = '10000'" and said[0] != said[-1], said
