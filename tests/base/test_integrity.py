"""Files and folders that are whole, and seen to be."""

import os
import subprocess

import pytest
from broken import flip_bit, folder_of
from hypothesis import given
from hypothesis import strategies as st

from distill.base.integrity import MANIFEST, damage, file_is_whole, put_file, put_folder


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
