"""Whose folder it is: one run at a time, and what a kill left in it."""

import os
import signal
import time

import killed
from broken import folder_of

from distill import run_folder
from distill.recipe import Recipe


def test_two_runs_in_one_folder_are_refused_and_a_kill_leaves_no_lock(small_run, tmp_path):
    first = os.fork()
    if not first:
        (tmp_path / "run").mkdir()
        run_folder.lock(tmp_path / "run")
        (tmp_path / "locked").touch()
        signal.pause()
    try:
        while not (tmp_path / "locked").exists():
            time.sleep(0.01)
        told = killed.error_of(killed.run(tmp_path, small_run))
    finally:
        os.kill(first, signal.SIGKILL)
        os.waitpid(first, 0)
    assert "run is in use by a run that is still going on" in told
    assert f"process {first} on " in told
    assert [p.name for p in (tmp_path / "run").iterdir()] == [".lock"]
    assert killed.run(tmp_path, small_run).code == 0


def test_what_a_kill_left_half_written_is_removed_but_for_sampled_text(tmp_path):
    recipe = Recipe(output_dir=str(tmp_path / "run"))
    with run_folder.open_run(recipe) as folder:
        pass
    folder_of(folder / ".student.1a2b.partial", weights="half")
    folder_of(folder / "cache", **dict.fromkeys((".blocks-k.arrow.1a2b.partial", ".sampled-k.jsonl.1a2b.partial"), "x"))
    with run_folder.open_run(recipe):
        pass
    assert {p.name for p in folder.iterdir()} == {".lock", "recipe.yaml", "cache"}
    assert [p.name for p in (folder / "cache").iterdir()] == [".sampled-k.jsonl.1a2b.partial"]


def test_a_kill_while_the_folder_is_claimed_leaves_it_to_the_same_command(tmp_path):
    folder_of(tmp_path / "run", **{".lock": "process 1 on nowhere", "recipe.partial": "seed: "})
    with run_folder.open_run(Recipe(output_dir=str(tmp_path / "run"))):
        assert sorted(p.name for p in (tmp_path / "run").iterdir()) == [".lock", "recipe.yaml"]
