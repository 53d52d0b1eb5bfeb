"""Sealed files and folders, and the permissions of everything that a run writes: those that the umask leaves."""

import errno
import json
import os
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import synthetic
from broken import flip_bit, folder_of
from hypothesis import given
from hypothesis import strategies as st
from shared import REPOSITORY

from distill.base.files import write_folder
from distill.base.integrity import MANIFEST, damage, file_is_whole, partial_of, put_file, put_folder


@pytest.fixture
def sealed(tmp_path):
    partial = folder_of(tmp_path / "partial", a="text a", b="text b")
    folder_of(partial / "sub", c="text c")
    put_folder(partial, tmp_path / "whole")
    return tmp_path / "whole"


def test_a_sealed_folder_is_whole_until_something_in_it_changes(sealed):
    assert damage(sealed) is None
    (sealed / "README.md").write_text("a card that came later")
    assert damage(sealed) is None
    flip_bit(sealed / "sub" / "c")
    assert "sub/c" in damage(sealed)
    flip_bit(sealed / "sub" / "c")
    assert damage(sealed) is None
    (sealed / "a").write_text("text")
    assert "a has 4 bytes instead of 6" in damage(sealed)
    (sealed / "a").unlink()
    assert damage(sealed) == "a is missing"


@given(content=st.binary())
def test_any_manifest_is_read_without_a_traceback(tmp_path_factory, content):
    folder = tmp_path_factory.mktemp("folder")
    (folder / MANIFEST).write_bytes(content)
    assert damage(folder) is not None
    assert damage(folder / "absent") == f"{MANIFEST} is missing"


def test_a_file_is_whole_only_with_its_hash(tmp_path):
    path, partial = tmp_path / "data.jsonl", tmp_path / "data.partial"
    partial.write_text("some text\n")
    assert not file_is_whole(path)
    put_file(partial, path)
    assert file_is_whole(path)
    check = subprocess.run(["sha256sum", "-c", "data.jsonl.sha256"], cwd=tmp_path, capture_output=True)
    assert check.returncode == 0
    for byte in range(10):
        flip_bit(path, byte)
        assert not file_is_whole(path)
        flip_bit(path, byte)
    os.truncate(path, 5)
    assert not file_is_whole(path)


def test_a_drive_that_syncs_no_folders_is_written_to_and_one_that_syncs_no_files_is_not(tmp_path, monkeypatch):
    """Some mounts of SMB, 9p and vboxsf say EINVAL to a folder."""
    refused, synced = stat.S_ISDIR, []

    def fsync(descriptor):
        if refused(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        synced.append(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    (tmp_path / "partial").write_text("some text\n")
    put_file(tmp_path / "partial", tmp_path / "data")
    put_folder(folder_of(tmp_path / "half", a="text a"), tmp_path / "whole")
    assert file_is_whole(tmp_path / "data") and damage(tmp_path / "whole") is None
    assert synced
    refused = stat.S_ISREG
    (tmp_path / "partial").write_text("some text\n")
    with pytest.raises(OSError, match=os.strerror(errno.EINVAL)):
        put_file(tmp_path / "partial", tmp_path / "data")


# ------------------------------------------------------------------------------------------------------- permissions

UMASKS = (0o022, 0o027, 0o077)

# For each umask, in one process: a teacher of random weights; students of it on text that it writes, its hidden states
# kept; a comparison of the two runs.
RUNS = """
import json, os, sys
from pathlib import Path
from distill.base.console import run_entry
from distill.cli import main as command
from distill.train import main
for umask in map(int, sys.argv[2:]):
    os.umask(umask)
    os.mkdir(f"{umask:03o}")
    os.chdir(f"{umask:03o}")
    for arguments in json.loads(sys.argv[1]):
        assert run_entry(main, arguments) == 0, arguments
    assert command(["report", "teacher-run", "run"]) == 0
    os.chdir("..")
"""


def arguments_of_runs(folder: Path) -> list[list[str]]:
    """A run of seconds, and one of its student as the teacher, in the folder that they are started in."""
    teacher = synthetic.write_teacher_recipe(folder, Path("teacher-run"))
    student = synthetic.write_student_recipe(folder, Path("teacher-run/student"), Path("run"))
    few = ["--held_out.max_documents", "12", "--scores.metrics", '["perplexity", "generation_disparity"]']
    few += ["--scores.samples", "1", "--scores.max_new_tokens", "2", "--scores.bootstrap", "5"]
    few += ["--trainer.max_steps", "2", "--trainer.save_steps", "1", "--trainer.per_device_train_batch_size", "2"]
    sampled = {"source": "teacher", "max_documents": 12, "sample_tokens": 24, "sample_batch_size": 6}
    return [
        ["--config", teacher, "--corpus.max_documents", "40", *few],
        ["--config", student, "--corpus", json.dumps(sampled), "--teacher.cache_hidden_states", "true", *few],
    ]


def modes(folder: Path) -> dict[str, int]:
    return {str(path.relative_to(folder)): stat.S_IMODE(path.stat().st_mode) for path in sorted(folder.rglob("*"))}


@pytest.mark.slow
def test_everything_that_runs_write_has_the_permissions_that_the_umask_leaves(tmp_path):
    work = tmp_path / "work"
    work.mkdir()
    arguments = arguments_of_runs(tmp_path)
    subprocess.run(
        [sys.executable, "-c", RUNS, json.dumps(arguments), *map(str, UMASKS)],
        cwd=work,
        env=os.environ | {"PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
        check=True,
        timeout=550,
    )
    for umask in UMASKS:
        folder = work / f"{umask:03o}"
        found = modes(folder)
        wrong = {
            name: oct(mode)
            for name, mode in found.items()
            if mode != (0o777 if (folder / name).is_dir() else 0o666) & ~umask
        }
        assert not wrong, f"umask {umask:03o}"
        # Of every kind: weights, tokenizers, checkpoints, caches, text, scores, reports.
        names = {Path(name).name for name in found}
        assert {"model.safetensors", "tokenizer.json", "manifest.json", "optimizer.pt", "trainer_state.json"} <= names
        assert {"scores.json", "report.html", "report.md", "README.md", "recipe.yaml", "student.json"} <= names
        assert {".arrow", ".jsonl", ".sha256", ".bin", ".csv"} <= {Path(name).suffix for name in found}


@pytest.fixture(params=UMASKS, ids=lambda umask: f"{umask:03o}")
def umask(request):
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def private_file(folder: Path, name: str) -> Path:
    """A file that only its owner may read, as libraries make them that write by way of a temporary one."""
    descriptor, made = tempfile.mkstemp(dir=folder)
    os.write(descriptor, b"weights")
    os.close(descriptor)
    assert stat.S_IMODE(os.stat(made).st_mode) == 0o600
    return Path(made).rename(folder / name)


def test_a_sealed_folder_is_readable_to_whom_the_umask_lets_read(umask, tmp_path):
    def fill(folder: Path) -> None:
        private_file(folder, "model.safetensors")
        os.mkdir(folder / "nested", 0o700)
        private_file(folder / "nested", "shard")
        (folder / "config.json").write_text("{}")

    write_folder(tmp_path / "student", fill)
    assert modes(tmp_path) == {
        "student": 0o777 & ~umask,
        "student/config.json": 0o666 & ~umask,
        "student/manifest.json": 0o666 & ~umask,
        "student/model.safetensors": 0o666 & ~umask,
        "student/nested": 0o777 & ~umask,
        "student/nested/shard": 0o666 & ~umask,
    }
    assert damage(tmp_path / "student") is None


def test_a_sealed_file_is_readable_to_whom_the_umask_lets_read(umask, tmp_path):
    path = tmp_path / "blocks.arrow"
    private_file(tmp_path, "partial").rename(partial_of(path))
    (partial,) = tmp_path.iterdir()
    put_file(partial, path)
    assert modes(tmp_path) == {"blocks.arrow": 0o666 & ~umask, "blocks.arrow.sha256": 0o666 & ~umask}
    assert file_is_whole(path)


def test_a_folder_keeps_the_group_that_its_parent_hands_down(tmp_path):
    """On a cluster, the shared folder has its group's bit: whatever is made in it belongs to the group."""
    tmp_path.chmod(0o2775)
    write_folder(tmp_path / "student", lambda folder: (folder / "nested").mkdir())
    assert all(mode & stat.S_ISGID for name, mode in modes(tmp_path).items() if (tmp_path / name).is_dir())
