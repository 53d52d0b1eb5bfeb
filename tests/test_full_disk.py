"""Disks that fill up, folders that vanish or may not be written: one sentence, and nothing is lost."""

import json
import os
import resource
import shutil
import signal
import subprocess
from pathlib import Path

import killed
import pytest
from broken import folder_of

from distill.data import corpus, packing
from distill.reports import report
from distill.scoring import measure
from distill.text import counterfactual
from distill.training import checkpoints, trainer
from distill.training import run as training_run


@pytest.mark.parametrize(
    ("owner", "name"),
    [
        (corpus, "sample_batch"),
        pytest.param(packing, "_close", marks=pytest.mark.slow),
        (trainer.DistillationTrainer, "_save_checkpoint"),
        pytest.param(checkpoints, "put_folder", marks=pytest.mark.slow),
        (training_run, "write_folder"),
        pytest.param(measure, "measured", marks=pytest.mark.slow),
        pytest.param(report, "report_markdown", marks=pytest.mark.slow),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_full_disk_is_one_sentence_and_loses_nothing(small_run, finished_run, tmp_path, owner, name):
    """From the first call of a function on no file may grow beyond 64 bytes (RLIMIT_FSIZE), as on a full disk."""

    def fill_up() -> None:
        plain = getattr(owner, name)

        def full(*args, **kwargs):
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (64, resource.RLIM_INFINITY))
            return plain(*args, **kwargs)

        setattr(owner, name, full)

    assert "free space" in killed.error_of(killed.run(tmp_path, small_run, prepare=fill_up))
    ending = killed.run(tmp_path, small_run)
    assert ending.code == 0, ending.errors[-3000:]
    assert killed.results(tmp_path) == killed.results(finished_run)


def test_a_real_small_file_system_that_fills_up(small_run, finished_run, tmp_path):
    """A tmpfs that is too small for the checkpoints: one sentence; enlarged, the same command ends the run."""
    disk = tmp_path / "disk"
    disk.mkdir()
    size = sum(p.stat().st_size for p in (finished_run / "run" / "cache").rglob("*") if p.is_file())
    mount = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size + 700_000}", "tmpfs", str(disk)], capture_output=True, text=True
    )
    if mount.returncode:
        pytest.skip(f"no small file system can be mounted here: {mount.stderr.strip()}")
    try:
        work = tmp_path / "work"
        work.mkdir()
        (work / "run").symlink_to(disk)
        told = killed.error_of(killed.run(work, small_run))
        assert "no space left on device" in told or "the disk may be full" in told
        subprocess.run(["mount", "-o", "remount,size=100m", str(disk)], check=True)
        ending = killed.run(work, small_run)
        assert ending.code == 0, ending.errors[-3000:]
        assert killed.results(work) == killed.results(finished_run)
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)


def test_a_folder_that_vanishes_while_a_run_writes_is_one_sentence(small_run, tmp_path):
    def vanish() -> None:
        plain = trainer.DistillationTrainer._save_checkpoint

        def save(self, *args):
            shutil.rmtree("run")
            Path("run").write_text("a file in its place")
            return plain(self, *args)

        trainer.DistillationTrainer._save_checkpoint = save

    assert "run" in killed.error_of(killed.run(tmp_path, small_run, prepare=vanish))


def test_a_corpus_file_that_vanishes_is_one_sentence(small_run, tmp_path):
    (tmp_path / "a.txt").write_text("he saw the queen .\n" * 50)
    (tmp_path / "b.txt").write_text("she saw the king .\n" * 50)
    files = json.dumps({"source": "files", "files": [str(tmp_path / "a.txt"), str(tmp_path / "b.txt")]})

    def vanish() -> None:
        plain = counterfactual.Swapper.counterfactuals

        def swap(self, text):
            (tmp_path / "b.txt").unlink(missing_ok=True)
            return plain(self, text)

        counterfactual.Swapper.counterfactuals = swap

    assert "b.txt: cannot be read" in killed.error_of(
        killed.run(tmp_path, [*small_run, "--corpus", files], prepare=vanish)
    )


def test_a_folder_that_may_not_be_written_is_one_sentence(small_run, tmp_path):
    if os.geteuid() == 0:
        target = Path("/proc/sys/distill-run")  # root may write in any folder of a disk
    else:
        folder_of(tmp_path / "closed").chmod(0o555)
        target = tmp_path / "closed" / "run"
    ending = killed.run(tmp_path, [*small_run, "--output_dir", str(target)])
    assert f"{target}: cannot be written" in killed.error_of(ending)
