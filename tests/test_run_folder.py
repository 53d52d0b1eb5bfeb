"""Whose folder it is: one run at a time, and what a kill left in it."""

import errno
import os
import signal
import stat
import time
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from unittest.mock import Mock

import killed
import pytest
import yaml
from broken import folder_of
from shared import REPOSITORY

from distill import run_folder
from distill.base.errors import UserError
from distill.data import packing
from distill.data.corpus import Corpus
from distill.data.packing import packed_blocks
from distill.recipe import Recipe, read_resolved
from distill.recipe_check import parse_recipe
from distill.run_folder import RECORD, open_run, processes_of


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
    assert "run is in use by a run that has not ended" in told
    assert f"process {first} on " in told
    assert [p.name for p in (tmp_path / "run").iterdir()] == [".lock"]
    assert killed.run(tmp_path, small_run).code == 0


def test_a_disk_without_locks_is_warned_of_and_a_broken_one_is_not_written_to(tmp_path, monkeypatch, capsys):
    """Lustre without -o flock, NFS without its lock daemon, some FUSE mounts."""
    for number in (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.EIO):
        monkeypatch.setattr(run_folder.fcntl, "lockf", Mock(side_effect=OSError(number, os.strerror(number))))
        recipe = Recipe(output_dir=str(tmp_path / str(number)))
        if number == errno.EIO:
            with pytest.raises(UserError, match="cannot be written"), open_run(recipe):
                pass
            continue
        for _ in range(2):
            with open_run(recipe) as folder:
                assert (folder / "recipe.yaml").exists()
        assert capsys.readouterr().err.count("its disk has no locks") == 1


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


@pytest.mark.parametrize("busy", ["packing", "hashing"])
def test_what_another_run_packs_into_this_ones_cache_stays_until_it_has_ended(tmp_path, toy_tokenizer, busy):
    """A second run with `cache_dir` there; its packing takes hours, and this one is started again meanwhile."""
    recipe = Recipe(output_dir=str(tmp_path / "run"))
    with open_run(recipe) as folder:
        pass

    def stand_still(*_):
        (tmp_path / "packs").touch()
        signal.pause()

    def documents():
        yield from ["She saw him."] * 3
        if busy == "packing":
            stand_still()

    packs = os.fork()
    if not packs:
        packing.put_file = stand_still
        packed_blocks(Corpus("key", documents), toy_tokenizer, None, 16, folder / "cache")
    try:
        while not (tmp_path / "packs").exists():
            time.sleep(0.01)
        (live,) = (folder / "cache").glob(".blocks-*.partial")
        with open_run(recipe):
            assert live.exists()
    finally:
        os.kill(packs, signal.SIGKILL)
        os.waitpid(packs, 0)
    with open_run(recipe):
        assert list((folder / "cache").iterdir()) == []


def test_a_kill_while_the_folder_is_claimed_leaves_it_to_the_same_command(tmp_path):
    folder_of(tmp_path / "run", **{".lock": "process 1 on nowhere", "recipe.partial": "seed: "})
    with run_folder.open_run(Recipe(output_dir=str(tmp_path / "run"))):
        assert sorted(p.name for p in (tmp_path / "run").iterdir()) == [".lock", "recipe.yaml"]


def test_an_output_folder_belongs_to_one_recipe(tmp_path):
    arguments = ["--config", str(REPOSITORY / "recipes/debug.yaml"), "--output_dir", str(tmp_path / "run")]
    with open_run(parse_recipe(arguments)) as folder:
        before = (folder / "recipe.yaml").read_bytes()
    with open_run(parse_recipe(arguments)) as again:
        assert again == folder
    with (
        pytest.raises(UserError, match=r"another recipe's run \(target.strength is 1.0 there, 0.5 here\)"),
        open_run(parse_recipe([*arguments, "--target.strength", "0.5"])),
    ):
        pass
    assert (folder / "recipe.yaml").read_bytes() == before


def test_what_is_measured_may_be_asked_for_in_another_way_until_it_is_measured(tmp_path):
    """Else a training would be lost for a mistake that shows when its student is scored."""
    arguments = ["--config", str(REPOSITORY / "recipes/debug.yaml"), "--output_dir", str(tmp_path / "run")]
    with open_run(parse_recipe(arguments)) as folder:
        pass
    other = parse_recipe([*arguments, "--scores.samples", "1"])
    with open_run(other):
        pass
    assert read_resolved(folder / "recipe.yaml")["scores"]["samples"] == 1
    (folder / "scores.json").write_text("{}", encoding="utf-8")
    with open_run(other):
        pass
    with (
        pytest.raises(UserError, match=r"scores.samples is 1 there, 3 here"),
        open_run(parse_recipe([*arguments, "--scores.samples", "3"])),
    ):
        pass


def test_a_section_that_is_empty_is_as_good_as_none(tmp_path):
    now = Recipe(output_dir=str(tmp_path / "run"))
    with open_run(now):
        pass
    with open_run(replace(now, trainer={"push_to_hub": True})):
        pass
    with open_run(now):
        pass
    with (
        pytest.raises(UserError, match=r"trainer.max_steps is None there, 0 here"),
        open_run(replace(now, trainer={"max_steps": 0})),
    ):
        pass


def test_a_run_of_before_a_key_was_there_goes_on_with_its_default(tmp_path):
    arguments = ["--config", str(REPOSITORY / "recipes/debug.yaml"), "--output_dir", str(tmp_path / "run")]
    with open_run(parse_recipe(arguments)) as folder:
        pass
    written = yaml.safe_load((folder / "recipe.yaml").read_text(encoding="utf-8"))
    del written["skip"], written["student"]["lora"], written["corpus"]["mask"]
    (folder / "recipe.yaml").write_text(yaml.safe_dump(written), encoding="utf-8")
    with open_run(parse_recipe(arguments)) as again:
        assert again == folder
    with (
        pytest.raises(UserError, match=r"another recipe's run \(skip is 'document' there, 'nothing' here\)"),
        open_run(parse_recipe([*arguments, "--skip", "nothing"])),
    ):
        pass


def test_a_mistake_in_preparation_leaves_nothing_behind_but_keeps_an_earlier_run(tmp_path):
    config = str(REPOSITORY / "recipes/debug.yaml")
    recipe = parse_recipe(["--config", config, "--output_dir", str(tmp_path / "a" / "b")])
    with pytest.raises(UserError, match="late"), open_run(recipe) as folder:
        (folder / "cache").mkdir()
        raise UserError("late")
    assert list(tmp_path.iterdir()) == []
    with open_run(recipe) as folder:
        (folder / "student").mkdir()
    with pytest.raises(UserError, match="late"), open_run(recipe):
        raise UserError("late")
    assert (folder / "student").exists()


def test_a_mistake_in_preparation_takes_away_nothing_of_another_run_that_began_meanwhile(tmp_path):
    recipes = [
        parse_recipe(
            ["--config", str(REPOSITORY / "recipes/debug.yaml"), "--output_dir", str(tmp_path / "outputs" / n)]
        )
        for n in ("a", "b")
    ]
    with ExitStack() as meanwhile:
        with pytest.raises(UserError, match="late"), open_run(recipes[0]):
            other = meanwhile.enter_context(open_run(recipes[1]))
            raise UserError("late")
        assert (other / "recipe.yaml").exists() and list((tmp_path / "outputs").iterdir()) == [other]


@pytest.mark.parametrize("kind", ["here", "link", "of another", "made before"])
def test_a_mistake_in_preparation_is_told_where_its_folder_cannot_be_taken_away(tmp_path, monkeypatch, kind):
    """The current folder, a link, one in a folder where nothing can be made or removed; all empty, as they were."""
    there = tmp_path / "of another" / "mine"
    there.mkdir(parents=True)
    there.chmod(0o750)
    given = there
    if kind == "here":
        monkeypatch.chdir(there)
        given = Path(".")
    elif kind == "link":
        given = tmp_path / "link"
        given.symlink_to(there)
    elif kind == "of another":
        monkeypatch.setattr(os, "rmdir", lambda *_, **__: pytest.fail("the folder is not ours"))
    recipe = parse_recipe(["--config", str(REPOSITORY / "recipes/debug.yaml"), "--output_dir", str(given)])
    with pytest.raises(UserError, match="late"), open_run(recipe) as folder:
        (folder / "sampled.jsonl").write_text("{}")
        raise UserError("late")
    assert list(there.iterdir()) == [] and stat.S_IMODE(there.stat().st_mode) == 0o750
    with open_run(recipe) as folder:
        assert (folder / "recipe.yaml").exists()


def test_a_folder_with_other_things_is_left_alone(tmp_path):
    (tmp_path / "thesis.tex").write_text("mine")
    recipe = parse_recipe(["--config", str(REPOSITORY / "recipes/debug.yaml"), "--output_dir", str(tmp_path)])
    with pytest.raises(UserError, match="not empty"), open_run(recipe):
        pass
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]


@pytest.mark.parametrize(
    ("record", "processes"),
    [
        (None, None), ('{"processes": 8}', 8), ("{}", None), ("[]", None), ("{", None), ("[" * 100_000, None),
        ('{"processes": "8"}', None), ('{"processes": true}', None), ('{"processes": 0}', None),
    ],
)  # fmt: skip
def test_the_number_of_processes_is_read_where_it_is_told(tmp_path, record, processes):
    """No report fails for a record that is damaged, or an older one."""
    if record is not None:
        (tmp_path / RECORD).write_text(record, encoding="utf-8")
    assert processes_of(tmp_path) == processes
