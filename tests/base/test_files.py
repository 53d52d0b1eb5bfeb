"""Files and folders that appear whole, and only then."""

import os

import pytest
from forked import fork, until

from distill.base import files
from distill.base.errors import UserError
from distill.base.files import write_folder
from distill.base.integrity import damage


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
