"""Recipes and studies that come with the package, by their names, and the data that lie beside them.

The folder `recipes/` of the repository is `distill/recipes` to the package: a link in a clone, files in a wheel.
"""

from pathlib import Path

from distill.base.files import PACKAGE

#: Where the recipes lie, in a clone and where the package was installed.
RECIPES = (PACKAGE / "recipes").resolve()
_NOT_OURS = "accelerate"  # its files are read by `accelerate launch`
_STUDIES = "study"


def recipe_names() -> dict[str, Path]:
    """Name -> file of every recipe that comes with the package: `quickstart`, `ablation/max`."""
    return {name: path for name, path in _files().items() if name.partition("/")[0] not in (_NOT_OURS, _STUDIES)}


def study_names() -> dict[str, Path]:
    """Name -> file of every study that comes with the package: `study`, `study/longer`."""
    return {name: path for name, path in _files().items() if name.partition("/")[0] == _STUDIES}


def _files() -> dict[str, Path]:
    files = sorted(RECIPES.rglob("*.yaml"), key=lambda path: (path.parent != RECIPES, path))
    return {path.relative_to(RECIPES).with_suffix("").as_posix(): path for path in files}


def named_file(name_or_path: str | Path) -> Path:
    """A file of one's own, or the recipe or study of that name; a file wins.

    Args:
        name_or_path: The path of a YAML file, or a name without ending, such as `quickstart`.

    Returns:
        The file; where there is neither, the path as it was given.
    """
    path = Path(name_or_path)
    return path if path.is_file() else _files().get(str(name_or_path), path)


def name_meant(path: Path) -> str | None:
    """The name of the recipe or study that a path of the repository means elsewhere: `recipes/quickstart.yaml`."""
    name = path.with_suffix("").as_posix().removeprefix("./").removeprefix("recipes/")
    return name if name in _files() else None


def summary(path: Path) -> str:
    """What a recipe or study says of itself in its first line."""
    with path.open(encoding="utf-8") as stream:
        return stream.readline().strip("# \n")


def at_hand(path: str | Path) -> Path:
    """Where data lie that a recipe names.

    Args:
        path: Relative to the working folder, or absolute. What begins with `recipes/` and is not there is looked for
            among the files that come with the package.

    Returns:
        The path of what there is; where there is nothing, the path as it was given.
    """
    path = Path(path)
    if path.parts[:1] == (RECIPES.name,) and not path.exists():
        packaged = RECIPES.joinpath(*path.parts[1:])
        return packaged if packaged.exists() else path
    return path
