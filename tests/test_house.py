"""The house's rules: names that hide nothing, imports that point upstream, recipes and pins that fit together."""

import ast
import functools
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterable
from dataclasses import replace
from graphlib import TopologicalSorter
from importlib import metadata
from pathlib import Path

import pytest
import yaml
from shared import REPOSITORY

import distill
from distill.metrics import chosen
from distill.objective.operations import OPERATIONS
from distill.recipe import Recipe
from distill.recipe_check import parse_recipe
from distill.training.trainer_keys import check_trainer_keys

PACKAGE = REPOSITORY / "distill"
PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
PINNED_EXTRAS = ("metrics", "private", "test", "dev", "browser", "demo", "trackers", "onnx")
ACCELERATE = REPOSITORY / "recipes/accelerate"
STUDIES = {REPOSITORY / "recipes/study.yaml", *(REPOSITORY / "recipes/study").glob("*.yaml")}
RECIPES = sorted(
    path for path in (REPOSITORY / "recipes").rglob("*.yaml") if path.parent != ACCELERATE and path not in STUDIES
)
ABLATION = sorted((REPOSITORY / "recipes/ablation").glob("*.yaml"))


def module_names() -> set[str]:
    """Everything in distill/ that `import NAME` finds once distill/ itself is on the path, folders of data included."""
    entries = (p for p in PACKAGE.iterdir() if not p.name.startswith(("__", ".")))
    return {p.stem for p in entries if p.is_dir() or p.suffix == ".py"}


def normalised(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def pins() -> dict[str, str]:
    """Normalised name -> exact version of every line of constraints.txt."""
    lines = (REPOSITORY / "constraints.txt").read_text(encoding="utf-8").splitlines()
    found = {}
    for line in lines:
        if line.strip() and not line.startswith("#"):
            match = re.fullmatch(r"([A-Za-z0-9][\w.-]*)==(\d[\w.]*)", line)
            assert match, f"constraints.txt: {line!r} is no plain NAME==VERSION"
            assert normalised(match[1]) not in found, f"constraints.txt pins {match[1]} twice"
            found[normalised(match[1])] = match[2]
    return found


# ------------------------------------------------------------------------------------------------------------ names


def test_module_names_hide_no_library():
    hidden = module_names() & sys.stdlib_module_names
    assert not hidden, f"{hidden} would hide modules of the standard library"
    for module, distributions in metadata.packages_distributions().items():
        if module in module_names():
            owners = {normalised(d) for d in distributions} & set(pins())
            assert not owners, f"distill/{module} would hide the module of {owners}"


def test_the_names_that_would_be_worst_are_seen():
    known = set(sys.stdlib_module_names) | set(metadata.packages_distributions())
    assert {"types", "logging", "random", "profile", "statistics", "evaluate", "datasets", "tokenizers"} <= known


# ---------------------------------------------------------------------------------------------------------- imports


@functools.cache
def modules() -> dict[str, ast.Module]:
    """Every module of distill/ by its dotted name behind `distill.`, without data folders: `text.roles`, `cli`."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        name = ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__")
        if path.parent.name != "wordlists" and name != "__init__":
            found[name] = ast.parse(path.read_text(encoding="utf-8"), filename=str(path))
    return found


def imported(node: ast.AST) -> set[str]:
    """The modules of distill/ that an import statement asks for, also inside a function."""
    if isinstance(node, ast.Import):
        names = [alias.name for alias in node.names]
    elif isinstance(node, ast.ImportFrom):
        assert node.level == 0, f"line {node.lineno}: relative import; distill/ itself may be on the path"
        # `from distill.text import roles` means the module, `from distill.text.roles import Resolver` what is in it.
        names = [f"{node.module}.{alias.name}" for alias in node.names]
    else:
        return set()
    # What the package offers to notebooks comes from a module, too.
    names = [distill._OFFERED.get(name.removeprefix("distill."), name) for name in names]
    inside = [name.removeprefix("distill.") for name in names if name.startswith("distill.")]
    return {name if name in modules() else name.rpartition(".")[0] for name in inside} & modules().keys()


@functools.cache
def imports() -> dict[str, set[str]]:
    """Module -> the modules of distill/ that it imports, at its head or later."""
    return {
        name: set().union(*(imported(node) for node in ast.walk(tree))) - {name} for name, tree in modules().items()
    }


def told_wings() -> list[str]:
    """The wings in the order in which `distill/__init__.py` tells the flow of data."""
    return ["base", *re.findall(r"^    (\w+) {2,}\S", distill.__doc__, flags=re.MULTILINE)]


# Files beside the wings -> the wing behind which they come, the later of two last.
BESIDE = {
    "recipe_docs": "recipe",
    "run_folder": "recipe",
    "recipe_check": "objective",
    "run_inputs": "study",
    "pipeline": "study",
    "train": "study",
    "cli": "study",
}


def place_of(module: str) -> tuple[int, int]:
    """Where a module stands in the flow: the place of its wing, and that of a file beside the wings behind it."""
    wing = module.partition(".")[0]
    return told_wings().index(BESIDE.get(wing, wing)), 1 + list(BESIDE).index(wing) if wing in BESIDE else 0


def test_the_flow_is_told_in_thirteen_lines_and_names_every_wing():
    wings = {path.name for path in PACKAGE.iterdir() if (path / "__init__.py").exists()}
    files = {path.stem for path in PACKAGE.glob("*.py")} - {"__init__"}
    assert len(told_wings()) == 1 + 13
    assert set(told_wings()) == wings | {"recipe"}
    assert files == {"recipe", *BESIDE}


def test_imports_point_upstream_as_told():
    for name, others in imports().items():
        for other in others:
            assert place_of(other) <= place_of(name), f"{name} imports {other} from below"


def test_imports_make_no_circle():
    """Between modules, and not only between wings."""
    TopologicalSorter(imports()).prepare()  # raises CycleError


def test_nobody_imports_the_entries():
    assert not [name for name, others in imports().items() if others & {"train", "cli"}]


def test_the_objective_knows_tensors_only():
    for name, tree in modules().items():
        if name.startswith("objective."):
            assert {other.partition(".")[0] for other in imports()[name]} <= {"base", "objective"}
            heads = {
                (node.module if isinstance(node, ast.ImportFrom) else node.names[0].name).partition(".")[0]
                for node in ast.walk(tree)
                if isinstance(node, ast.Import | ast.ImportFrom)
            }
            assert heads - sys.stdlib_module_names <= {"torch", "triton", "distill"}, f"{name} imports {heads}"


def test_base_and_text_name_no_torch_at_any_depth():
    """Late imports too; the types of transformers' tokenizers are named for annotations alone."""
    for name, tree in modules().items():
        if name.startswith(("base.", "text.")):
            for_annotations = {
                inner
                for node in ast.walk(tree)
                if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
                for inner in ast.walk(node)
            }
            for node in ast.walk(tree):
                if isinstance(node, ast.Import | ast.ImportFrom) and node not in for_annotations:
                    of = [node.module] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]
                    heads = {module.partition(".")[0] for module in of}
                    assert not heads & {"torch", "transformers", "accelerate"}, f"{name}, line {node.lineno}"


def loaded_by(names: Iterable[str]) -> set[str]:
    """The top-level modules that a new Python has loaded once it has imported these."""
    code = f"import sys, importlib\nfor name in {sorted(names)!r}: importlib.import_module(name)\n"
    code += "print(*{name.partition('.')[0] for name in sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


@pytest.mark.parametrize(
    "names",
    [
        {
            "distill",
            "distill.cli",
            "distill.train",
            "distill.recipe_check",
            "distill.run_folder",
            "distill.recipe_docs",
        },
        {f"distill.{name}" for name in modules() if name.startswith("base.")},
        {f"distill.{name}" for name in modules() if name.startswith("text.")},
        {f"distill.{name}" for name in modules() if name.startswith("reports.")},
        {"distill.objective.settings", "distill.data.counts"},
    ],
    ids=["entries", "base", "text", "reports", "settings"],
)
def test_what_needs_no_tensors_loads_no_torch(names):
    assert not loaded_by(names) & {"torch", "transformers", "accelerate", "datasets"}


# ----------------------------------------------------------------------------------------------------------- sizes


def test_the_entry_and_the_readme_stay_short():
    for path, limit in (("distill/train.py", 40), ("distill/pipeline.py", 200), ("README.md", 200)):
        lines = len((REPOSITORY / path).read_text(encoding="utf-8").splitlines())
        assert lines < limit, f"{path} has {lines} lines"


def test_no_wing_is_crowded():
    for wing in (path for path in PACKAGE.iterdir() if (path / "__init__.py").exists()):
        assert len([path for path in wing.glob("*.py") if path.name != "__init__.py"]) <= 15, wing


def test_functions_are_read_at_one_look():
    for name, tree in modules().items():
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef):
                lines = node.end_lineno - node.lineno + 1
                assert lines <= 60, f"{name}.{node.name} has {lines} lines"


def test_every_module_has_the_test_file_of_its_name():
    tests = REPOSITORY / "tests"
    for name in modules():
        wing, _, file = name.rpartition(".")
        if (PACKAGE / Path(*name.split(".")) / "__init__.py").exists():
            continue
        path = tests / wing.partition(".")[0] / f"test_{file}.py"
        assert path.exists(), f"distill.{name} has no {path.relative_to(REPOSITORY)}"


def test_one_version():
    assert distill.__version__ == PROJECT["version"]
    citation = yaml.safe_load((REPOSITORY / "CITATION.cff").read_text(encoding="utf-8"))
    assert str(citation["version"]) == PROJECT["version"]
    assert f"## {PROJECT['version']}" in (REPOSITORY / "CHANGELOG.md").read_text(encoding="utf-8")


# ------------------------------------------------------------------------------------------------------------ pins


def test_constraints_pin_every_dependency():
    extras = PROJECT["optional-dependencies"]
    wanted = [*PROJECT["dependencies"], *(r for name in PINNED_EXTRAS for r in extras[name])]
    names = {normalised(re.match(r"[\w.-]+", w)[0]) for w in wanted} - {"distill"}
    assert not names - set(pins())
    assert not {"distill", "pip", "setuptools", "wheel"} & set(pins())
    assert pins()["torch"] == "2.13.0"


def test_constraints_meet_the_ranges_of_pyproject():
    extras = PROJECT["optional-dependencies"]
    for requirement in (*PROJECT["dependencies"], *(r for name in PINNED_EXTRAS for r in extras[name])):
        requirement = requirement.partition(";")[0]  # without what it says of platforms
        match = re.fullmatch(r"([\w.-]+)(?:\[\w+\])?>=([\d.]+)", requirement)
        if match is None:
            assert requirement in {f"distill[{name}]" for name in ("test", "metrics", "lora", "private", "trackers")}
            continue
        pinned = [int(part) for part in pins()[normalised(match[1])].split(".")]
        assert pinned >= [int(part) for part in match[2].split(".")], requirement


# --------------------------------------------------------------------------------------------------------- recipes


@functools.cache
def parsed(path: Path) -> Recipe:
    return parse_recipe(["--config", str(path)])


def test_recipes_name_what_trainer_and_metrics_know():
    for path in RECIPES:
        check_trainer_keys(parsed(path).trainer)
        chosen(parsed(path).scores.metrics)


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: str(path.relative_to(REPOSITORY)))
def test_every_recipe_is_sound(path):
    recipe = parsed(path)
    assert recipe.output_dir.startswith("outputs/")


def test_no_two_recipes_share_an_output_folder():
    folders = [parsed(path).output_dir for path in RECIPES]
    assert len(folders) == len(set(folders))


@pytest.mark.parametrize("path", ABLATION, ids=lambda path: path.stem)
def test_ablation_differs_in_target_and_folder_only(path):
    assert set(yaml.safe_load(path.read_text(encoding="utf-8"))) == {"base", "output_dir", "target"}
    row = parsed(path)
    base = parsed(REPOSITORY / "recipes/gpt2.yaml")
    assert replace(row, output_dir=base.output_dir, target=base.target) == base
    assert row.output_dir == f"outputs/ablation/{path.stem}"
    assert row.target.strength == 1.0


def test_ablation_has_every_row_once():
    rows = {}
    for path in ABLATION:
        target = parsed(path).target
        rows[path.stem] = (target.op, target.reverse_roles, target.augment)
    wanted = {("none", False, augment) for augment in (False, True)} | {
        (op, reverse, augment)
        for op in set(OPERATIONS) - {"none"}
        for reverse in (False, True)
        for augment in (False, True)
    }
    assert len(rows) == len(wanted)
    assert set(rows.values()) == wanted
    for name, (op, reverse, augment) in rows.items():
        words = [op] + ["reverse"] * reverse + ["augment"] * augment
        assert name == ("augment" if words == ["none", "augment"] else "-".join(words))
