"""What `import distill` offers, and what it costs."""

import subprocess
import sys
from pathlib import Path

import pytest

import distill


def test_what_a_notebook_wants_is_imported_when_it_is_asked_for():
    code = "import sys, distill; print('torch' in sys.modules, 'numpy' in sys.modules); distill.Swapper"
    code += "; print('torch' in sys.modules); distill.score; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False", "False", "True"]


def test_every_name_is_there_and_told():
    for name in distill.__all__:
        assert getattr(distill, name) is not None
        assert name in dir(distill)
    assert distill.Swapper(distill.load_wordlist("english_gender")).counterfactuals("He left.")[0].text == "She left."


def test_the_entry_does_not_hide_the_function_of_its_name():
    """`distill/train.py` is the entry, `distill.train` what a notebook calls."""
    import distill.train
    from distill.train import main

    assert main.__module__ == "distill.train"
    assert distill.train.__module__ == "distill.pipeline"


def test_another_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'swop'"):
        _ = distill.swop


def test_annotations_are_for_others_too():
    assert (Path(distill.__file__).parent / "py.typed").exists()
