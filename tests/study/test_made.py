"""How a study was made: commit, machine and hours."""

import os
import re
import subprocess
import sys
import time

import pytest

from distill import __version__
from distill.study import made
from distill.study.made import children_seconds, commit, hours, machine, published_command, spend, threads, timed
from distill.study.schema import Study


def test_seconds_add_up_over_calls(tmp_path):
    assert hours(tmp_path) == {}
    spend(tmp_path, "training", 3600.0, 1800.0)
    spend(tmp_path, "training", 1800.0, 180.0)
    spend(tmp_path, "text", 36.0, 3.6)
    assert hours(tmp_path) == {
        "training": {"wall": 1.5, "processor": 0.55},
        "text": {"wall": 0.01, "processor": 0.001},
    }


def test_the_seconds_of_a_body_are_counted(tmp_path, monkeypatch):
    clock = iter((10.0, 7210.0))
    monkeypatch.setattr(made.time, "monotonic", lambda: next(clock))
    processor = iter((1.0, 3601.0))
    monkeypatch.setattr(made.time, "process_time", lambda: next(processor))
    with timed(tmp_path, "text"):
        pass
    assert hours(tmp_path) == {"text": {"wall": 2.0, "processor": 1.0}}


def test_the_processor_time_of_a_child_counts_once_it_has_ended():
    before = children_seconds()
    code = "import time\nwhile time.process_time() < 0.3: pass"
    begun = time.monotonic()
    subprocess.run([sys.executable, "-c", code], check=True)
    assert 0.25 < children_seconds() - before < time.monotonic() - begun + 0.1


def test_the_commit_of_a_clone_and_the_version_elsewhere(tmp_path, monkeypatch):
    assert re.fullmatch(r"[0-9a-f]{7,}(-dirty)?|version \S+", commit())
    monkeypatch.setattr(made, "PACKAGE", tmp_path)  # no clone
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert commit() == f"version {__version__}"


def test_the_commit_is_not_that_of_a_project_into_whose_environment_it_was_installed(tmp_path, monkeypatch):
    package = tmp_path / ".venv" / "lib" / "distill"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (tmp_path / "theirs.py").touch()
    (tmp_path / ".gitignore").write_text(".venv\n", encoding="utf-8")
    git = ["git", "-C", str(tmp_path), "-c", "user.name=n", "-c", "user.email=e"]
    for command in (["init", "-q"], ["add", "theirs.py", ".gitignore"], ["commit", "-qm", "theirs"]):
        subprocess.run([*git, *command], check=True)
    monkeypatch.setattr(made, "PACKAGE", package)
    assert commit() == f"version {__version__}"
    subprocess.run([*git, "add", "-f", str(package)], check=True)
    subprocess.run([*git, "commit", "-qm", "vendored"], check=True)
    assert re.fullmatch(r"[0-9a-f]{7,}", commit())


@pytest.mark.parametrize(("jobs", "given", "expected"), [(1, None, 4), (3, None, 1), (9, None, 1), (2, "1", None)])
def test_jobs_share_the_cores(monkeypatch, jobs, given, expected):
    import torch

    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(4)))
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if given is not None:
        monkeypatch.setenv("OMP_NUM_THREADS", given)
    assert threads(Study(jobs=jobs)) == (expected or torch.get_num_threads())
    told = machine(Study(jobs=jobs))
    assert told.keys() == {"gpu", "processor", "cores", "jobs", "threads"}
    assert (told["cores"], told["jobs"]) == (4, jobs)


def test_the_published_command_names_no_folder(tmp_path):
    file = str(tmp_path / "study.yaml")
    assert (
        published_command(file, "/home/me/data", "0,1", None, 2)
        == "distill study study.yaml --data DIR --seeds 0,1 --jobs 2"
    )
    assert published_command("recipes/study.yaml", None, None, "plain,max", None) == (
        "distill study recipes/study.yaml --rows plain,max"
    )
