"""A study file -> a checked study, and the recipe of each of its runs."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from distill.base.errors import UserError, suggestion
from distill.metrics import chosen
from distill.objective.operations import OPERATIONS
from distill.recipe import Recipe, TargetConfig, merge, read_recipe_file, read_yaml
from distill.recipe_check import recipe_of
from distill.scoring.score_cache import content_hash

BASELINE = "plain"


HALVES = ("chosen", "held_out")


@dataclass(frozen=True)
class Study:
    """A study file. `base:` in it names another one, whose keys it replaces; `settings` are laid over those there,
    where the recipe is the same.

    Args:
        output_dir: Folder of all its runs.
        recipe: The recipe that all rows share, a path relative to the study file.
        settings: Keys laid over that recipe, for all rows. `{data}` in a text stands for the folder `data`.
        seeds: One run of each row for each.
        jobs: Rows that train, and models that are scored, at the same time; without a GPU they share the cores.
        teachers: Row name -> keys of `target`: the teacher itself, without any, or as a two-view teacher.
        students: Row name -> recipe keys.
        metrics: Scores of every model.
        half_metrics: Those that are also given for each half of the occupations.
        text_metrics: Those that are also given for each of `texts`.
        texts: Name -> file of held-out text below `data`.
        passage_chars: As in a recipe's corpus, for `texts`.
        max_documents: As in a recipe's corpus, for `texts`.
        data: Folder of benchmark data; `null`: what needs it is not measured.
    """

    output_dir: str = "outputs/study"
    recipe: str = "quickstart.yaml"
    settings: dict[str, Any] = field(default_factory=dict)
    seeds: tuple[int, ...] = (0, 1, 2)
    jobs: int = 1
    teachers: dict[str, Any] = field(default_factory=dict)
    students: dict[str, Any] = field(default_factory=dict)
    metrics: tuple[str, ...] = ()
    half_metrics: tuple[str, ...] = ()
    text_metrics: tuple[str, ...] = ()
    texts: dict[str, str] = field(default_factory=dict)
    passage_chars: int | None = None
    max_documents: int | None = None
    data: str | None = None


def read_study(path: str | Path, rows: Sequence[str] | None = None, **changes: Any) -> Study:
    """A checked study.

    Args:
        path: The study file.
        rows: The students to keep; None: all.
        changes: Fields that replace those of the file, where they are not None.

    Raises:
        UserError: an unknown key or row, a value of the wrong kind, or a row that is no sound recipe.
    """
    path = Path(path)
    values = _study_values(path)
    known = [f.name for f in fields(Study)]
    for key in values:
        if key not in known:
            raise UserError(f"{path}: unknown key '{key}'; {suggestion(str(key), known)}")
    values |= {key: value for key, value in changes.items() if value is not None}
    for key, value in values.items():
        default = getattr(Study(), key)
        kind = dict if isinstance(default, dict) else list if isinstance(default, tuple) else None
        if kind is not None and not isinstance(value, kind):
            raise UserError(f"{path}: key '{key}' must hold a {'mapping' if kind is dict else 'list'}, not {value!r}")
    given: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
    study = Study(**given)
    if not study.seeds or not all(isinstance(seed, int) and seed >= 0 for seed in study.seeds):
        raise UserError(f"{path}: key 'seeds' must list whole numbers of at least 0, not {list(study.seeds)}")
    if not isinstance(study.jobs, int) or study.jobs < 1:
        raise UserError(f"{path}: key 'jobs' is {study.jobs}, but must be at least 1")
    if rows is not None:
        for row in rows:
            if row not in study.students:
                raise UserError(f"{path}: holds no student '{row}'; {suggestion(row, list(study.students))}")
        study = replace(study, students={name: study.students[name] for name in study.students if name in rows})
    if BASELINE not in study.students:
        raise UserError(f"{path}: key 'students' has no row '{BASELINE}', against which the others are set")
    if both := study.students.keys() & study.teachers.keys():
        raise UserError(f"{path}: row '{sorted(both)[0]}' is named twice, under 'teachers' and under 'students'")
    for name in (*study.students, *study.teachers):
        if not str(name).replace("-", "").replace("_", "").isalnum():
            raise UserError(f"{path}: row '{name}': a name of letters, digits, - and _ is expected")
    chosen([*study.metrics, *study.half_metrics, *study.text_metrics])
    for name in study.students:
        row_recipe(study, name, study.seeds[0])
    for name, target in study.teachers.items():
        teacher_target(path, name, target)
    return study


def _study_values(path: Path, seen: tuple[Path, ...] = ()) -> dict[str, Any]:
    """The keys of a study file in the place of those of its `base:`, and `recipe` as a path from here.

    Settings are of a recipe: a file that names one of its own takes none of those below it.
    """
    values = read_yaml(path)
    if path.resolve() in seen:
        raise UserError(f"{path}: 'base' leads back to a file that is already being read; remove one of the two")
    base = values.pop("base", None)
    own_recipe = "recipe" in values
    if own_recipe or base is None:
        values["recipe"] = str(path.parent / str(values.get("recipe", Study.recipe)))
    if base is None:
        return values
    below = _study_values(path.parent / str(base), (*seen, path.resolve()))
    settings = {} if own_recipe else below.get("settings", {})
    return below | merge({"settings": settings}, values)


def teacher_target(path: Path | str, name: str, values: Mapping[str, Any]) -> TargetConfig:
    known = [f.name for f in fields(TargetConfig)]
    for key in values:
        if key not in known:
            raise UserError(f"{path}: row '{name}': unknown key '{key}'; {suggestion(key, known)}")
    target = TargetConfig(**values)
    if target.op not in OPERATIONS:
        raise UserError(f"{path}: row '{name}': unknown op '{target.op}'; {suggestion(target.op, list(OPERATIONS))}")
    return target


def row_recipe(study: Study, row: str, seed: int) -> Recipe:
    """The recipe of one run.

    Raises:
        UserError: the row's keys make no sound recipe.
    """
    out = Path(study.output_dir)
    shared = _shared_values(study, seed)
    recipe = _parsed_settings(json.dumps(shared))
    for section in SECTIONS:
        if getattr(recipe, section).source == "teacher":
            # Drawn once for all rows, see `make_text`; rows without a teacher could not draw it.
            shared |= {section: {"source": "files", "files": [str(text_of(out, section, recipe))]}}
    own = {
        "output_dir": str(run_of(study, row, seed)),
        "seed": seed,
        "baseline": False,
        "cache_dir": str(out / "cache"),
        "scores": {"metrics": ["perplexity", "bits_per_byte"]},
    }
    return recipe_of(merge(merge(shared, study.students.get(row, {})), own), f"row '{row}' of the study")


SECTIONS = ("corpus", "held_out")


def run_of(study: Study, row: str, seed: int) -> Path:
    return Path(study.output_dir) / "runs" / f"{row}-{seed}"


def _shared_values(study: Study, seed: int) -> dict[str, Any]:
    return merge(read_recipe_file(study.recipe), _with_data(study.settings, study.data)) | {"seed": seed}


def shared_recipe(study: Study, seed: int) -> Recipe:
    return _parsed_settings(json.dumps(_shared_values(study, seed)))


@lru_cache(maxsize=8)  # all rows of a seed ask for it
def _parsed_settings(values: str) -> Recipe:
    return recipe_of(json.loads(values), "the study's settings")


def _with_data(value: Any, data: str | None) -> Any:
    """The same settings with the data folder in the place of `{data}`."""
    if isinstance(value, dict):
        return {key: _with_data(of_key, data) for key, of_key in value.items()}
    if isinstance(value, list):
        return [_with_data(item, data) for item in value]
    if isinstance(value, str) and "{data}" in value:
        if data is None:
            raise UserError(f"the study reads {value}: name the folder {{data}} by --data")
        return value.replace("{data}", data)
    return value


def text_of(out: Path, section: str, recipe: Recipe) -> Path:
    """Where the text lies that is drawn as a recipe says."""
    key = content_hash([recipe.teacher.path, asdict(getattr(recipe, section))])
    return out / "text" / f"{section}-{recipe.seed}-{key[:8]}.jsonl"
