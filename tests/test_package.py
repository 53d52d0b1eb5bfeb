"""What `import distill` offers, and what it costs."""

import ast
import doctest
import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import yaml
from shared import REPOSITORY

import distill


def test_what_a_notebook_wants_is_imported_when_it_is_asked_for():
    code = "import sys, distill; print('torch' in sys.modules, 'numpy' in sys.modules); distill.Swapper"
    code += "; print('torch' in sys.modules); distill.score; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False", "False", "True"]


@pytest.mark.parametrize("call", ["import distill", "from distill.cli import main; main(['--help'])"])
def test_windows_is_told_in_one_sentence(call):
    code = f"import logging, sys; sys.platform = 'win32'; {call}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "error: distill does not run on Windows itself; use it in WSL, the Linux of Windows\n"


def test_libraries_that_warn_as_they_are_imported_are_quiet():
    """torchao tells of kernels that do not fit this torch, in four lines before any output, in every process."""
    code = "import logging, distill; names = 'torchao', 'torch.utils._pytree'"
    code += "; print(*(logging.getLogger(name).isEnabledFor(level) for name in names for level in (30, 40)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "True"] * 2


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


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """What a wheel puts into site-packages, made from a copy of the repository without network."""
    pytest.importorskip("setuptools")
    source, site = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("site-packages")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(REPOSITORY / name, source)
    for name in ("distill", "recipes"):
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(REPOSITORY / name, source / name, symlinks=True, ignore=ignored)
    code = "import sys; from setuptools import build_meta; build_meta.build_wheel(sys.argv[1])"
    subprocess.run([sys.executable, "-c", code, str(source)], cwd=source, capture_output=True, check=True)
    (wheel,) = source.glob("*.whl")
    zipfile.ZipFile(wheel).extractall(site)
    shutil.rmtree(source)
    return site


def test_a_wheel_holds_every_recipe_and_their_data(installed):
    there = {path.relative_to(installed / "distill") for path in (installed / "distill").rglob("*")}
    ours = subprocess.run(["git", "ls-files", "recipes", "distill"], cwd=REPOSITORY, capture_output=True, text=True)
    files = {
        Path(line).relative_to("distill") if line.startswith("distill/") else Path(line) for line in ours.stdout.split()
    }
    assert len(files) > 150
    assert {file for file in files if file.name != "recipes"} <= there


def test_recipes_go_by_name_where_a_wheel_was_installed(installed, tmp_path):
    def distill_says(*arguments):
        environment = {**os.environ, "PYTHONPATH": str(installed)}
        program = [sys.executable, "-m", "distill.cli", *arguments]
        return subprocess.run(program, cwd=tmp_path, env=environment, capture_output=True, text=True)

    listed = json.loads(distill_says("recipes", "--json").stdout)
    assert {"quickstart", "debug", "nations", "ablation/max"} <= set(listed["recipes"])
    assert {"study", "study/longer"} <= set(listed["studies"])
    shown = yaml.safe_load(distill_says("train", "--config", "nations", "--print_config").stdout)
    assert (shown["trainer"]["max_steps"], shown["wordlist"]) == (500, "recipes/nations/words.tsv")
    (tmp_path / "mine.yaml").write_text("base: quickstart\noutput_dir: outputs/mine\n", encoding="utf-8")
    shown = yaml.safe_load(distill_says("train", "--config", "mine.yaml", "--print_config").stdout)
    assert (shown["trainer"]["max_steps"], shown["output_dir"]) == (500, "outputs/mine")
    swapped = distill_says("swap", "mine.txt", "--wordlist", "recipes/nations/words.tsv")
    assert "mine.txt" in swapped.stderr  # the list was found, the text was not
    (tmp_path / "mine.txt").write_text("The British dollar", encoding="utf-8")
    assert distill_says("swap", "mine.txt", "--wordlist", "recipes/nations/words.tsv").stdout == "The American pound"
    wrong = distill_says("train", "--config", "recipes/quickstart.yaml")
    assert wrong.returncode == 2
    assert "goes by its name, quickstart, from any folder" in wrong.stderr


def test_the_notebook_runs_from_top_to_bottom(tmp_path):
    """Its code cells in order, in a folder of its own; the last values are what the text beside them says."""
    notebook = json.loads((REPOSITORY / "recipes/notebooks/tour.ipynb").read_text(encoding="utf-8"))
    cells = ["".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert all(cell["outputs"] == [] for cell in notebook["cells"] if cell["cell_type"] == "code")
    lines = []
    for cell in cells:
        *before, last = ast.parse(cell).body
        lines += [*map(ast.unparse, before), f"print({ast.unparse(last)})"]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    program = [sys.executable, "-c", "\n".join(lines)]
    done = subprocess.run(program, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    said = done.stdout
    assert "The nurse lost his keys, and his sister found them." in said
    assert "The English pound rose." in said
    assert "The queen wrote to her husband." in said
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["Swapper", "load_wordlist", "swap_dataset"])
def test_examples_in_docstrings_are_true(name):
    offered = getattr(distill, name)
    tests = [test for test in doctest.DocTestFinder(recurse=False).find(offered, name) if test.examples]
    assert tests, f"{name} has no example"
    for test in tests:
        assert doctest.DocTestRunner().run(test).failed == 0
