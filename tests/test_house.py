"""The house's rules: names that hide nothing, imports that point upstream, recipes and pins that fit together."""

import ast
import functools
import re
import sys
import tomllib
from dataclasses import replace
from graphlib import TopologicalSorter
from importlib import metadata
from pathlib import Path

import pytest
import yaml
from shared import REPOSITORY

import distill
from distill.objective.operations import OPERATIONS
from distill.recipe import Recipe
from distill.recipe_check import parse_recipe

PACKAGE = REPOSITORY / "distill"
PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
PINNED_EXTRAS = ("metrics", "test", "dev", "browser")
ACCELERATE = REPOSITORY / "recipes/accelerate"
STUDIES = {REPOSITORY / "recipes/study.yaml", *(REPOSITORY / "recipes/study").glob("*.yaml")}
RECIPES = sorted(
    path for path in (REPOSITORY / "recipes").rglob("*.yaml") if path.parent != ACCELERATE and path not in STUDIES
)
ABLATION = sorted((REPOSITORY / "recipes/ablation").glob("*.yaml"))

# Look-ups inside a function that point downstream on purpose, each with its reason. Imports at the head of a module may
# never do so.
LATE_IMPORTS = {
    ("recipe", "logit_ops"): "checks the operation's name before anything is loaded",
    ("recipe", "kd_loss"): "checks the divergence's name before anything is loaded",
    ("recipe", "metrics"): "checks the metrics' names before anything is loaded",
}


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


def module_of(path: Path) -> str:
    """The top-level name in distill/ that a file belongs to."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported(node: ast.AST) -> set[str]:
    """The top-level names in distill/ that an import statement asks for."""
    if isinstance(node, ast.Import):
        names = [alias.name for alias in node.names]
    elif isinstance(node, ast.ImportFrom):
        assert node.level == 0, f"line {node.lineno}: relative import; distill/ itself may be on the path"
        module = node.module or ""
        # `from distill import x` may mean the module x.
        names = [f"{module}.{alias.name}" for alias in node.names] if module == "distill" else [module]
    else:
        return set()
    parts = [name.split(".") for name in names]
    return {part[1] for part in parts if part[0] == "distill" and len(part) > 1} & module_names()


@functools.cache
def import_graph(late: bool) -> dict[str, set[str]]:
    """Module -> modules of distill/ that it imports at its head, or (late) inside functions."""
    graph: dict[str, set[str]] = {name: set() for name in module_names()}
    for path in PACKAGE.rglob("*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"), filename=str(path))
        functions = [n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)]
        inside = {n for function in functions for n in ast.walk(function)}
        for node in ast.walk(tree):
            if (node in inside) == late and path != PACKAGE / "__init__.py":
                graph[module_of(path)] |= imported(node) - {module_of(path)}
    return graph


def test_imports_make_no_circle():
    TopologicalSorter(import_graph(late=False)).prepare()  # raises CycleError


def test_nobody_imports_the_entry():
    for graph in (import_graph(late=False), import_graph(late=True)):
        assert not [name for name, imports in graph.items() if "train" in imports]


def told_order() -> list[str]:
    """The modules in the order in which `distill/__init__.py` tells the flow of data."""
    steps = re.findall(r"^    (\S.*?) {2,}\S", distill.__doc__, flags=re.MULTILINE)
    return [name for step in steps for name in step.split(", ")]


def test_the_flow_is_told_in_ten_lines_and_names_every_module():
    beside = set(re.findall(r"`(\w+)`", distill.__doc__.partition("Beside the flow")[2]))
    modules = {p.stem for p in PACKAGE.glob("*.py")} - {"__init__"} | {"metrics"}
    assert len(re.findall(r"^    \S", distill.__doc__, flags=re.MULTILINE)) <= 10
    assert len(told_order()) == len(set(told_order()))
    assert set(told_order()) | beside == modules


def test_imports_point_upstream_as_told():
    order = {name: place for place, name in enumerate(told_order())}
    for late in (False, True):
        for name, imports in import_graph(late).items():
            for other in imports:
                downstream = name in order and other in order and order[other] > order[name]
                assert not downstream or (late and (name, other) in LATE_IMPORTS), f"{name} imports {other} from below"


def test_late_imports_that_are_allowed_exist():
    graph = import_graph(late=True)
    assert not [pair for pair in LATE_IMPORTS if pair[1] not in graph[pair[0]]]


# ----------------------------------------------------------------------------------------------------------- sizes


def test_the_entry_and_the_readme_stay_short():
    for path, limit in (("distill/train.py", 100), ("README.md", 250)):
        lines = len((REPOSITORY / path).read_text(encoding="utf-8").splitlines())
        assert lines < limit, f"{path} has {lines} lines"


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
        match = re.fullmatch(r"([\w.-]+)(?:\[\w+\])?>=([\d.]+)", requirement)
        if match is None:
            assert requirement in ("distill[test]", "distill[metrics]")
            continue
        pinned = [int(part) for part in pins()[normalised(match[1])].split(".")]
        assert pinned >= [int(part) for part in match[2].split(".")], requirement


# --------------------------------------------------------------------------------------------------------- recipes


@functools.cache
def parsed(path: Path) -> Recipe:
    return parse_recipe(["--config", str(path)])


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
