"""Text, JSON and folders that appear whole, and only then."""

import json
import os
from pathlib import Path

import pytest
from forked import fork, until
from shared import REPOSITORY

from distill.base import files
from distill.base.errors import UserError
from distill.base.files import PACKAGE, can_be_written, is_finished, write_folder, write_json, write_text
from distill.base.integrity import MANIFEST, damage


def test_the_package_is_where_its_data_lie():
    assert PACKAGE == REPOSITORY / "distill"
    assert (PACKAGE / "wordlists" / "english_gender.tsv").is_file()


@pytest.mark.parametrize("text", ["", "one\r\ntwo\n", "漢字 👩‍⚕️"])
def test_a_text_is_written_in_place_of_the_old_one_and_leaves_nothing_beside_it(text, tmp_path):
    path = tmp_path / "report.md"
    path.write_text("old, and longer than what comes after it", encoding="utf-8")
    write_text(path, text)
    assert path.read_bytes().decode() == text
    assert list(tmp_path.iterdir()) == [path]


def test_until_a_text_is_whole_the_old_one_is_there(tmp_path, monkeypatch):
    path = tmp_path / "report.md"
    write_text(path, "old")
    seen = []
    monkeypatch.setattr(files, "sync", lambda partial: seen.append((partial.read_text(), path.read_text())))
    write_text(path, "new")
    assert seen == [("new", "old")] and path.read_text() == "new"


def test_json_is_read_back_and_holds_no_number_that_json_does_not_know(tmp_path):
    content = {"a": [1, 2.5, None, "ä"], "b": {}}
    write_json(tmp_path / "x.json", content)
    written = (tmp_path / "x.json").read_text(encoding="utf-8")
    assert json.loads(written) == content and written.endswith("}\n") and "ä" in written
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "y.json", float("nan"))
    assert not (tmp_path / "y.json").exists()


def fill(folder: Path) -> None:
    (folder / "weights").write_bytes(b"weights")


def test_a_folder_is_finished_once_it_is_written_and_until_it_is_damaged(tmp_path, capsys):
    path = tmp_path / "student"
    assert not is_finished(path) and capsys.readouterr().err == ""  # what is not there is not damaged
    write_folder(path, fill)
    assert is_finished(path) and (path / MANIFEST).exists()
    (path / "README.md").write_text("a card that came later")
    assert is_finished(path) and capsys.readouterr().err == ""
    (path / "weights").write_bytes(b"Weights")
    assert not is_finished(path)
    assert "student is damaged (weights is not what was written" in capsys.readouterr().err


def test_a_folder_that_cannot_be_filled_leaves_no_trace(tmp_path):
    def fail(folder: Path) -> None:
        fill(folder)
        raise OSError(28, os.strerror(28), str(folder / "weights"))

    with pytest.raises(UserError, match="no space left"):
        write_folder(tmp_path / "student", fail)
    assert not list(tmp_path.iterdir())


def test_a_folder_is_replaced_only_by_a_whole_one(tmp_path):
    def fill(text):
        return lambda folder: [(folder / name).write_text(text) for name in ("a", "b")]

    def fail(folder):
        (folder / "a").write_text("half")
        raise OSError(28, "No space left on device", str(folder / "b"))

    write_folder(tmp_path / "student", fill("old"))
    with pytest.raises(UserError, match="no space left"):
        write_folder(tmp_path / "student", fail)
    assert damage(tmp_path / "student") is None
    assert (tmp_path / "student" / "a").read_text() == "old"
    write_folder(tmp_path / "student", fill("new"))
    assert (tmp_path / "student" / "b").read_text() == "new"
    assert [p.name for p in tmp_path.iterdir()] == ["student"]


def test_two_runs_may_write_one_file(tmp_path):
    """As the scores that both measured; readers see one whole text or the other."""
    path = tmp_path / "score.json"
    texts = ["a" * 300_000, "b" * 500_000]
    children = [fork(lambda text=text: [files.write_text(path, text) for _ in range(40)]) for text in texts]
    until(path.exists)
    seen = {path.read_text() for _ in range(200)}
    assert [os.waitpid(child, 0)[1] for child in children] == [0, 0]
    assert seen | {path.read_text()} <= set(texts)
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_a_folder_can_be_written_where_the_nearest_one_that_is_there_can(tmp_path):
    assert can_be_written(tmp_path) and can_be_written(tmp_path / "new" / "er")
    (tmp_path / "file").write_text("x")
    assert not can_be_written(tmp_path / "file") and not can_be_written(tmp_path / "file" / "under")


def test_where_nobody_may_look_nothing_can_be_written(tmp_path, monkeypatch):
    """And the question ends in no error; root may look everywhere."""

    def stat(path, *args, real=os.stat, **kwargs):
        if Path(path).parent == tmp_path:
            raise PermissionError(13, "Permission denied", str(path))
        return real(path, *args, **kwargs)

    monkeypatch.setattr(os, "stat", stat)
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != tmp_path)
    assert not can_be_written(tmp_path / "run")
