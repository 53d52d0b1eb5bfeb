"""The documents say what is so: commands run, paths exist, tables are current."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from accelerate.commands.launch import launch_command_parser
from shared import REPOSITORY
from torch.distributed.run import get_args_parser

from distill import recipe_docs
from distill.metrics import METRICS
from distill.recipe import ScoreConfig
from distill.recipe_check import parse_recipe
from distill.text.counterfactual import Swapper
from distill.text.prompts import load_prompts, without_listed_words
from distill.text.wordlist import load_wordlist

README = (REPOSITORY / "README.md").read_text(encoding="utf-8")
RECIPES_README = recipe_docs.README.read_text(encoding="utf-8")
DOCUMENTS = [REPOSITORY / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "outputs/README.md")]
DOCUMENTS += [recipe_docs.README, recipe_docs.README.parent / "accelerate/README.md"]
DOCUMENTS += [REPOSITORY / "distill/wordlists/README.md", REPOSITORY / "distill/metrics/README.md"]
DOCUMENTS += [REPOSITORY / "distill/demo/README.md"]

INSTALL_AND_RUN = (
    "pip install -c constraints.txt -e . && accelerate launch distill/train.py --config recipes/quickstart.yaml"
)
INSTALL_AND_TEST = "pip install -c constraints.txt -e '.[test]' && pytest"


def code_blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL)


def commands(text: str) -> list[str]:
    """Every line of every shell block, continued lines joined."""
    lines = "".join(code_blocks(text, "bash")).replace("\\\n", " ").splitlines()
    return [" ".join(line.split()) for line in lines if line.strip()]


# ----------------------------------------------------------------------------------------------------------- README


def test_the_two_commands_stand_in_the_readme():
    assert INSTALL_AND_RUN in commands(README)
    assert INSTALL_AND_TEST in commands(README)


def test_the_readme_has_its_parts_in_order():
    headings = re.findall(r"^## (.*)$", README, flags=re.MULTILINE)
    assert headings == [
        "Quickstart",
        "How it works",
        "Your own word list",
        "Your own text and your own teacher",
        "As a library",
        "What it measures, and what it does not",
        "Results of the study",
        "Further",
        "Citation",
        "Licence",
    ]
    assert README.count("<!-- results -->") == README.count("<!-- /results -->") == 1


def test_every_default_score_is_explained():
    metrics_readme = (REPOSITORY / "distill/metrics/README.md").read_text(encoding="utf-8")
    for text in (README, metrics_readme):
        assert not [name for name in ScoreConfig().metrics if f"`{name}`" not in text]
    assert set(ScoreConfig().metrics) <= set(METRICS)


SCALE_README = (recipe_docs.README.parent / "accelerate/README.md").read_text(encoding="utf-8")
RUNS = [command for command in commands(README + RECIPES_README + SCALE_README) if "--config " in command]


@pytest.mark.parametrize("command", RUNS)
def test_the_options_in_the_documents_exist(command, monkeypatch):
    monkeypatch.chdir(REPOSITORY)
    words = shlex.split(command.rpartition("&& ")[2])
    program, arguments = words[: words.index("--config")], words[words.index("--config") :]
    parse_recipe(arguments)
    if program[:2] == ["accelerate", "launch"]:
        launcher = launch_command_parser().parse_args(program[2:])
        assert launcher.training_script == "distill/train.py"
    elif program[0] == "torchrun":
        assert get_args_parser().parse_args(program[1:]).training_script == "distill/train.py"
    else:
        assert program == ["distill", "train"]


def test_the_script_for_slurm_starts_the_entry():
    (script,) = code_blocks(SCALE_README, "sbatch")
    assert subprocess.run(["bash", "-n"], input=script, text=True).returncode == 0
    (command,) = [line for line in script.replace("\\\n", " ").splitlines() if line.startswith("srun ")]
    words = shlex.split(command)
    # Of itself it gives a task one core, whatever the job has.
    assert words[1:4] == ["--cpus-per-task", "$SLURM_CPUS_PER_TASK", "torchrun"]
    arguments = get_args_parser().parse_args(words[4:])
    assert arguments.training_script == "distill/train.py"
    assert arguments.training_script_args == ["--config", "recipes/gpt2.yaml"]


# What makes a run of the quickstart's kind a toy.
TOY = (
    "--corpus.max_documents 24 --held_out.max_documents 8 --block_length 32 --trainer.max_steps 2 "
    "--trainer.save_steps 2 --trainer.warmup_steps 0 --scores.max_prompts 4 --scores.samples 1 --scores.bootstrap 20 "
    "--scores.max_new_tokens 4"
)
# The README's commands -> what is added to them here.
RUN_AS_TOYS = {
    # Few documents of the demo teacher name a nation.
    "distill train --config nations": f"{TOY} --corpus.max_documents 256",
    "printf 'The nurse said that\\nMy boss thinks that\\n' > prompts.txt": "",
    "distill generate outputs/quickstart/student --against outputs/quickstart/baseline --prompts prompts.txt": "",
    "distill train --config debug --output_dir outputs/texts --corpus.source files --corpus.files '[\"*.md\"]'": TOY,
    "distill train --config debug --output_dir outputs/mine --teacher.path outputs/quickstart/baseline": TOY,
    "distill score outputs/quickstart/student --against outputs/quickstart/baseline --texts README.md": (
        "--max_prompts 4 --samples 1 --bootstrap 20 --max_new_tokens 4"
    ),
    "distill report outputs/quickstart outputs/mine": "",
}
NOT_RUN = {
    "python3 -m venv .venv && . .venv/bin/activate": "the tests run in one; .ci/run makes it",
    "pip install --no-deps --index-url https://download.pytorch.org/whl/cpu \"$(grep '^torch==' constraints.txt)\"": (
        "needs PyTorch's own index"
    ),
    INSTALL_AND_TEST: "installs from the package registry, and would run these tests again; .ci/run does it",
}


def in_a_shell(command: str, folder: Path, package: Path = REPOSITORY) -> subprocess.CompletedProcess:
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = {**os.environ, "PATH": path, "PYTHONPATH": str(package), "OMP_NUM_THREADS": "1"}
    return subprocess.run(["bash", "-c", command], cwd=folder, env=environment, capture_output=True, text=True)


def test_every_command_of_the_readme_is_run_or_says_why_not():
    assert set(commands(README)) == {INSTALL_AND_RUN, *RUN_AS_TOYS, *NOT_RUN}


def readme_script() -> str:
    """The README's commands in order as one script, and its Python examples where they stand, with toy values."""
    lines = ["set -euo pipefail"]
    for language, block in re.findall(r"^```(bash|python)\n(.*?)^```$", README, flags=re.MULTILINE | re.DOTALL):
        if language == "python":
            toys = {
                "max_prompts=40": "max_prompts=4, samples=1",
                'train("debug", ': 'train("debug", trainer={"max_steps": 2}, ',
            }
            for as_printed, as_toy in toys.items():
                block = block.replace(as_printed, as_toy)
            lines.append(f"{shlex.quote(sys.executable)} - <<'EOF'\n{block}EOF")
            continue
        for command in commands(f"```bash\n{block}```\n"):
            if command == INSTALL_AND_RUN:
                lines.append(f"{command.rpartition('&& ')[2]} {TOY}")
            elif command not in NOT_RUN:
                lines.append(f"{command} {RUN_AS_TOYS[command]}")
    return "\n".join(lines)


@pytest.mark.slow
@pytest.mark.timeout(2400)  # six runs, one after the other
def test_the_readme_runs_from_top_to_bottom_in_a_fresh_clone(tmp_path):
    """What is committed, in a clone called `distill`, as a user has it."""
    clone = tmp_path / "distill"
    subprocess.run(["git", "clone", "--quiet", str(REPOSITORY), str(clone)], check=True)
    done = in_a_shell(readme_script(), clone, package=clone)
    assert done.returncode == 0, done.stderr[-3000:]
    for text in ("The nurse said that", "The nurse lost his keys.", str(clone / "outputs/quickstart/report.html")):
        assert text in done.stdout
    for name in ("quickstart", "nations", "texts", "mine", "report"):
        assert (clone / "outputs" / name / "report.html").exists()


def test_the_console_example_is_true(tmp_path):
    (example,) = code_blocks(README, "console")
    command, expected = example.removeprefix("$ ").split("\n", 1)
    done = in_a_shell(command, tmp_path)
    assert (done.stdout, done.stderr) == (expected, "")


def test_the_word_list_in_the_readme_is_the_one_that_its_command_reads():
    (content,) = code_blocks(README, "tsv")
    path = REPOSITORY / "recipes" / "nations" / "words.tsv"
    rows = path.read_text(encoding="utf-8").splitlines()
    assert set(content.splitlines()) <= set(rows)
    assert f"has {len(rows) - 2} rows" in README  # without licence and header
    swapper = Swapper(load_wordlist(path))
    assert [c.text for c in swapper.counterfactuals("An American in New York")] == ["An English in London"]
    assert [c.text for c in swapper.counterfactuals("the British dollar")] == ["the American pound"]
    prompts, left_out = without_listed_words(load_prompts(path.with_name("prompts.tsv")), swapper)
    assert (len(prompts), left_out) == (64, 0)


# ------------------------------------------------------------------------------------------------------------ links


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(REPOSITORY)))
def test_links_and_paths_exist(document):
    text = document.read_text(encoding="utf-8")
    for target in re.findall(r"\]\((?!https?://)([^)#]+)\)", text):
        assert (document.parent / target).exists(), f"{document.name}: link to {target}"
    # Paths in code spans count from the repository's root.
    for target in re.findall(r"`((?:distill|recipes|tests)/[\w./-]+)`", text):
        assert "NAME" in target or (REPOSITORY / target).exists(), f"{document.name}: path {target}"


@pytest.mark.parametrize("document", sorted(REPOSITORY.glob("tests/benchmarks/*.md")), ids=lambda path: path.name)
def test_files_that_the_measured_documents_name_exist(document):
    """What was measured is measured again by what they name."""
    named = re.findall(r"(?<![\w/.])(?:tests|distill|recipes)/[\w./-]+\.(?:py|sh|yaml)", document.read_text())
    assert not [path for path in named if not (REPOSITORY / path).exists()]


def test_the_documents_hold_no_long_lines():
    for document in DOCUMENTS:
        prose = re.sub(r"^\|.*$", "", document.read_text(encoding="utf-8"), flags=re.MULTILINE)
        long = [line for line in prose.splitlines() if len(line) > 130]
        assert not long, f"{document.name}: {long[0]}"


def test_contributing_names_every_module():
    text = (REPOSITORY / "CONTRIBUTING.md").read_text(encoding="utf-8")
    tour = re.search(r"^recipe\.py .*?^```$", text, flags=re.MULTILINE | re.DOTALL)[0]
    told = set()
    for line in tour.splitlines()[:-1]:
        if not line:
            continue
        names = re.match(r"[\w./]+(?:, [\w./]+)*", line)[0].split(", ")
        wing = names[0].rpartition("/")[0]
        told |= {name if "/" in name or not wing else f"{wing}/{name}" for name in names}
    package = REPOSITORY / "distill"
    files = {path.relative_to(package).as_posix() for path in package.glob("*.py")}
    files |= {p.relative_to(package).as_posix() for p in package.glob("*/*.py") if p.parent.name != "wordlists"}
    files = {file for file in files if not file.startswith("metrics/") and not file.endswith("__init__.py")}
    assert told == files | {"metrics/"}


# ---------------------------------------------------------------------------------------------------------- recipes


def test_every_recipe_is_listed():
    folder = recipe_docs.README.parent
    assert not [path.name for path in folder.glob("*.yaml") if f"`{path.name}`" not in RECIPES_README]


# ----------------------------------------------------------------------------------------------- container and CI


def test_the_dockerfile_copies_what_exists():
    text = (REPOSITORY / "Dockerfile").read_text(encoding="utf-8")
    sources = [word for line in re.findall(r"^COPY (.*)$", text, flags=re.MULTILINE) for word in line.split()[:-1]]
    assert sources
    kept = {
        line.removeprefix("!")
        for line in (REPOSITORY / ".dockerignore").read_text(encoding="utf-8").splitlines()
        if line.startswith("!")
    }
    for source in sources:
        assert (REPOSITORY / source).exists()
        assert source in kept, f".dockerignore keeps {source} out"


def test_the_dockerfile_pins_its_base_and_drops_privileges():
    text = (REPOSITORY / "Dockerfile").read_text(encoding="utf-8")
    assert re.search(r"^FROM python:3\.\d+\.\d+-slim-\w+$", text, flags=re.MULTILINE)
    assert text.index("\nUSER 1000") < text.index("\nCMD ")
    (default,) = re.findall(r"^CMD (\[.*\])$", text, flags=re.MULTILINE)
    assert " ".join(yaml.safe_load(default)) in INSTALL_AND_RUN


def test_ci_runs_the_commands_of_the_readme():
    script = REPOSITORY / ".ci/run"
    assert os.access(script, os.X_OK)
    lines = script.read_text(encoding="utf-8").splitlines()
    assert lines[0] == "#!/usr/bin/env bash"
    install, test = INSTALL_AND_TEST.split(" && ")
    assert "set -euo pipefail" in lines
    assert [line for line in lines if line in (install, install.replace("install", "install --quiet"))]
    assert lines[-1] == test


def test_the_citation_is_whole():
    citation = yaml.safe_load((REPOSITORY / "CITATION.cff").read_text(encoding="utf-8"))
    assert {"cff-version", "message", "title", "authors", "license"} <= set(citation)
    assert citation["license"] == "Apache-2.0"
    (paper,) = citation["references"]
    assert len(paper["authors"]) == 10
    assert paper["title"] in " ".join(README.replace("> ", "").replace("*", "").split())
