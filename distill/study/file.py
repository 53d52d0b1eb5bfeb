"""A study file -> a checked study, the recipe of each of its runs, and the target of each of its teachers.

What a row lays over the shared recipe is read and checked as a recipe is, before anything is drawn or trained.
"""

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from distill.base.bundled import named_file
from distill.base.errors import UserError, suggestion
from distill.metrics import chosen
from distill.recipe import (
    Recipe,
    TargetConfig,
    TeacherConfig,
    base_file,
    merge,
    read_recipe_file,
    read_yaml,
    reject_unknown_keys,
)
from distill.recipe_check import LARGEST_SEED, check_recipe, typed
from distill.scoring.measure import check_metrics
from distill.scoring.score_cache import content_hash
from distill.study.against import check_against, own_keys, without_left_out
from distill.study.schema import BASELINE, HALVES, PromptedRow, QuantizedRow, Study
from distill.training.trainer_keys import check_trainer_keys

_REFERENCE = re.compile(r"\{student:([\w-]+)\}")

#: Keys of a recipe that say where its text comes from.
TEXT_SECTIONS = ("corpus", "held_out")


def read_study(path: str | Path, rows: Sequence[str] | None = None, **changes: Any) -> Study:
    """A checked study.

    Args:
        path: The study file, or the name of one that comes with the package (`study`).
        rows: The students to keep; None: all.
        changes: Fields that replace those of the file, where they are not None.

    Raises:
        UserError: an unknown key or row, a value of the wrong kind or out of its range, or a row that is no sound
            recipe.
    """
    path = named_file(path)
    given = {key: value for key, value in changes.items() if value is not None}
    study: Study = typed(Study, _study_values(path) | given, str(path))
    with naming(path):
        _check_ranges(study)
        _check_names(study)
        for key in ("metrics", "half_metrics", "text_metrics"):
            with naming(f"key '{key}'"):
                chosen(getattr(study, key))
        for name in study.teachers:
            derived_row(study, name)
        check_against(study)
        if rows is not None:
            study = _with_rows(study, rows)
        if BASELINE not in study.students:
            raise UserError(f"key 'students' has no row '{BASELINE}', against which the others are set")
        _check_baseline(row_recipe(study, BASELINE, study.seeds[0]))
        for name in study.students:
            _check_needed(study, name)
            row_recipe(study, name, study.seeds[0])
        _check_scores(study)
        for name in study.teachers:
            teacher_target(study, name)
    return study


@contextmanager
def naming(source: Path | str) -> Iterator[None]:
    """A mistake that shows in the body says first where it was made."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{source}: {error}") from None


def _study_values(path: Path, seen: tuple[Path, ...] = ()) -> dict[str, Any]:
    """The keys of a study file in the place of those of its `base:`, and `recipe` as a path from here.

    Settings are of a recipe: a file that names one of its own takes none of those below it.
    """
    values = read_yaml(path)
    if path.resolve() in seen:
        raise UserError(f"{path}: 'base' leads back to a file that is already being read; remove one of the two")
    base = values.pop("base", None)
    if not isinstance(base, str | None):
        raise UserError(f"{path}: key 'base' must name another study file, not {base!r}")
    _check_kinds(values, path)
    own_recipe = "recipe" in values
    if own_recipe or base is None:
        values["recipe"] = str(base_file(path, values.get("recipe", Study.recipe), "recipe"))
    if base is None:
        return values
    below = _study_values(base_file(path, base), (*seen, path.resolve()))
    settings = {} if own_recipe else below.get("settings", {})
    return below | merge({"settings": settings}, values)


def _check_kinds(values: Mapping[str, Any], path: Path) -> None:
    """Raises UserError for a key that no study has, or a value that is not of its kind."""
    reject_unknown_keys(values, Study, str(path))
    for key, value in values.items():
        default = getattr(Study(), key)
        kind, name = (dict, "mapping") if isinstance(default, dict) else (list, "list")
        if isinstance(default, dict | tuple) and not isinstance(value, kind):
            raise UserError(f"{path}: key '{key}' must hold a {name}, not {value!r}")
        for row, keys in value.items() if key in ("students", "teachers") else ():
            if not isinstance(keys, dict):
                raise UserError(f"{path}: row '{row}' must hold a mapping, not {keys!r}; write {{}} for none")
    typed(Study, values, str(path))


def _check_ranges(study: Study) -> None:
    if not study.seeds or not all(0 <= seed <= LARGEST_SEED for seed in study.seeds):
        raise UserError(
            f"key 'seeds' must list whole numbers of at least 0, and at most {LARGEST_SEED}, not {list(study.seeds)}"
        )
    if twice := [seed for seed in study.seeds if study.seeds.count(seed) > 1]:
        raise UserError(f"key 'seeds' lists {twice[0]} twice, but a seed gives one run of each row; leave one out")
    for key in ("jobs", "passage_chars", "max_documents"):
        value = getattr(study, key)
        if value is not None and value < 1:
            raise UserError(f"key '{key}' is {value}, but must be at least 1")


def _check_names(study: Study) -> None:
    """Of rows, which name folders, and of texts, which name scores."""
    if both := study.students.keys() & study.teachers.keys():
        raise UserError(f"row '{sorted(both)[0]}' is named twice, under 'teachers' and under 'students'")
    for kind, names in (("row", (*study.students, *study.teachers)), ("text", study.texts)):
        for name in names:
            if not name.replace("-", "").replace("_", "").isalnum():
                raise UserError(f"{kind} '{name}': a name of letters, digits, - and _ is expected")
    for name in study.texts:
        if name in HALVES:
            raise UserError(f"text '{name}' is called as a half of the occupations is; give it another name")


def _with_rows(study: Study, rows: Sequence[str]) -> Study:
    for row in rows:
        if row not in study.students:
            raise UserError(f"holds no student '{row}'; {suggestion(row, list(study.students))}")
    derived = {name: derived_row(study, name) for name in study.teachers}
    gone = {name for name, row in derived.items() if row is not None and row.of is not None and row.of not in rows}
    kept = replace(
        study,
        students={name: keys for name, keys in study.students.items() if name in rows},
        teachers={name: keys for name, keys in study.teachers.items() if name not in gone},
    )
    return without_left_out(kept)


def needed_rows(study: Study, row: str) -> list[str]:
    """The rows whose students a row reads: those that its keys name as `{student:ROW}`, with the same seed."""
    return list(dict.fromkeys(_REFERENCE.findall(json.dumps(study.students[row]))))


def _check_needed(study: Study, row: str) -> None:
    """Rows that read another one's student come behind it, so that none waits for itself."""
    names = list(study.students)
    for needed in needed_rows(study, row):
        if needed not in names:
            raise UserError(f"row '{row}' reads the student of row '{needed}', which is not among those to be trained")
        if names.index(needed) >= names.index(row):
            raise UserError(f"row '{row}' reads the student of row '{needed}', which comes behind it; put it before")


def _check_baseline(recipe: Recipe) -> None:
    """All models are scored with the teacher and the held-out text of this row, and set against it as unmitigated."""
    if recipe.teacher.path is None:
        raise UserError(f"row '{BASELINE}': teacher.path is null, but the models of a study are set beside its teacher")
    if recipe.held_out.source == "teacher":
        raise UserError(
            f"row '{BASELINE}': held_out.source is teacher, but text is drawn once for all rows; say it in 'settings'"
        )
    if mitigating := _mitigating(recipe):
        told, own = [], recipe.to_dict()
        for section, keys in mitigating.items():
            told += [f"{section}.{key} is {_yaml(own[section][key])}" for key in keys]
        instead = ", ".join(f"{section}: {_yaml(keys)}" for section, keys in mitigating.items())
        raise UserError(
            f"row '{BASELINE}': {', '.join(told)}, which mitigates, but this row is to do without; write {instead}"
        )


#: Keys of `scores` that a study does not heed -> what to do instead.
_NOT_OF_A_STUDY = {
    "reference": "the reference of every row is the teacher",
    "control": "a model that was trained on other text is a row of its own, beside the others",
    "quantize": "a copy in fewer bits is a row of 'teachers', {quantize: int4, of: ROW}",
}


def _check_scores(study: Study) -> None:
    """Raises UserError for a setting of the scores that would be read by no row, or whose results no table would show.

    It may be that of the recipe below the study.
    """
    recipes = {"settings": shared_recipe(study, study.seeds[0])}
    recipes |= {f"row '{row}'": row_recipe(study, row, study.seeds[0]) for row in study.students}
    for source, recipe in recipes.items():
        for key, instead in _NOT_OF_A_STUDY.items():
            if (value := getattr(recipe.scores, key)) is not None:
                raise UserError(f"{source}: scores.{key} is {value}, but in a study {instead}; set it to null")


def _mitigating(recipe: Recipe) -> dict[str, dict[str, Any]]:
    """Section -> the keys by which a recipe mitigates, with the values that its run's own baseline has."""
    plain = recipe.plain()
    if recipe.target.op == "none":  # then there is nothing whose strength it could be
        plain = replace(plain, target=replace(plain.target, strength=recipe.target.strength))
    own, other = recipe.to_dict(), plain.to_dict()
    return {
        section: {key: value for key, value in keys.items() if value != own[section][key]}
        for section, keys in other.items()
        if isinstance(keys, dict) and keys != own[section]
    }


def _yaml(value: Any) -> str:
    """A name, number, truth value or a mapping of them, as a study file has it."""
    if isinstance(value, dict):
        return f"{{{', '.join(f'{key}: {_yaml(of_key)}' for key, of_key in value.items())}}}"
    return value if isinstance(value, str) else json.dumps(value)


def teacher_target(study: Study, name: str) -> TargetConfig:
    """The target that a teacher decodes from; `op: none` for the teacher itself, a checkpoint, or another model.

    Raises:
        UserError: its keys would make no sound `target` of a recipe, no sound `teacher`, and no sound derived row.
    """
    if teacher_checkpoint(study, name) is not None or derived_row(study, name) is not None:
        return TargetConfig()
    values = row_recipe(study, BASELINE, study.seeds[0]).to_dict() | {"target": own_keys(study.teachers[name])}
    return _checked_recipe(json.dumps(values), f"row '{name}'").target


def teacher_checkpoint(study: Study, name: str) -> TeacherConfig | None:
    """The checkpoint from elsewhere that a row of `teachers` names; None where it is the teacher of the study.

    Raises:
        UserError: its keys would make no sound `teacher` of a recipe.
    """
    keys = own_keys(study.teachers[name])
    if "path" not in keys:
        return None
    if keys["path"] is None:
        raise UserError(f"row '{name}': path is null; name a folder or hub id, or leave it out for the study's teacher")
    values = row_recipe(study, BASELINE, study.seeds[0]).to_dict() | {"teacher": _with_data(keys, study.data)}
    return _checked_recipe(json.dumps(values), f"row '{name}'").teacher


def derived_row(study: Study, name: str) -> PromptedRow | QuantizedRow | None:
    """How a row of `teachers` makes its model from that of another row, or from the teacher; None for all others.

    Raises:
        UserError: its keys make no sound one, or it names no row of `students`.
    """
    keys = own_keys(study.teachers[name])
    kind = next((kind for key, kind in {"prompt": PromptedRow, "quantize": QuantizedRow}.items() if key in keys), None)
    if kind is None:
        return None
    row: PromptedRow | QuantizedRow = typed(kind, keys, f"row '{name}'")
    if isinstance(row, PromptedRow):
        if not row.prompt.strip():
            raise UserError(f"row '{name}': prompt is empty; say what announces the bias that is to be mitigated")
        if not 0 <= row.decay < math.inf:
            raise UserError(f"row '{name}': decay is {row.decay}, but must be at least 0")
    if row.of is not None and row.of not in study.students:
        raise UserError(f"row '{name}': of is {row.of}, which is no student; {suggestion(row.of, [*study.students])}")
    return row


def row_recipe(study: Study, row: str, seed: int) -> Recipe:
    """The recipe of one run.

    Raises:
        UserError: the row's keys make no sound recipe.
    """
    shared, recipe = _shared_values(study, seed), shared_recipe(study, seed)
    for section in TEXT_SECTIONS:
        if getattr(recipe, section).source == "teacher":
            # Drawn once for all rows, see `make_text`; rows without a teacher could not draw it.
            shared |= {section: {"source": "files", "files": [str(text_path(study, section, recipe))]}}
    own: dict[str, Any] = {
        "output_dir": str(run_folder(study, row, seed)),
        "seed": seed,
        "baseline": False,
        "cache_dir": str(Path(study.output_dir) / "cache"),
        "scores": {"metrics": ["perplexity", "bits_per_byte"]},
    }
    if recipe.audit.members or recipe.audit.canaries:
        own["audit"] = {"scored": False}  # the study asks all rows about the same
    of_row = _with_data(own_keys(study.students[row]), study.data)
    values = json.dumps(merge(merge(shared, of_row), own))
    values = _REFERENCE.sub(lambda found: _inside_json(run_folder(study, found[1], seed) / "student"), values)
    return _checked_recipe(values, f"row '{row}'")


def _inside_json(path: Path) -> str:
    """A path as it stands between the quotes of a text in JSON."""
    return json.dumps(str(path))[1:-1]


def shared_recipe(study: Study, seed: int) -> Recipe:
    """What all rows share: the study's recipe with its settings laid over it."""
    return _checked_recipe(json.dumps(_shared_values(study, seed)), "settings")


def _shared_values(study: Study, seed: int) -> dict[str, Any]:
    return merge(read_recipe_file(study.recipe), _with_data(study.settings, study.data)) | {"seed": seed}


@lru_cache(maxsize=512)  # the same recipe is asked for at every step of a study
def _checked_recipe(values: str, source: str) -> Recipe:
    recipe: Recipe = typed(Recipe, json.loads(values), source)
    with naming(source):
        check_recipe(recipe)
        check_trainer_keys(recipe.trainer)
        check_metrics(recipe)
    return recipe


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


def run_folder(study: Study, row: str, seed: int) -> Path:
    """Where a row's run of a seed lies."""
    return Path(study.output_dir) / "runs" / f"{row}-{seed}"


def text_path(study: Study, section: str, recipe: Recipe) -> Path:
    """Where the text lies that is drawn as the shared recipe of a seed says in `section`.

    Its name tells whatever decides which model draws it; of a teacher's keys those that are not left at their defaults,
    so that texts keep the names that they had before these keys were told.
    """
    teacher = recipe.teacher
    told = [teacher.path, asdict(getattr(recipe, section))]
    which = {"revision": teacher.revision, "gguf_file": teacher.gguf_file, "quantization": teacher.quantization}
    which |= {"dtype": teacher.loaded_in if teacher.loaded_in != TeacherConfig().loaded_in else None}
    if other := {key: value for key, value in which.items() if value is not None}:
        told.append(other)
    key = content_hash(told)
    return Path(study.output_dir) / "text" / f"{section}-{recipe.seed}-{key[:8]}.jsonl"
