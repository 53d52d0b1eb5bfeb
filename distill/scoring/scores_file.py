"""scores.json as a file: its schema, writing and reading; see `score` for what it holds."""

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from functools import cache as cached
from pathlib import Path
from typing import Any

import jsonschema
from jsonschema.exceptions import ValidationError, best_match

from distill.base.errors import UserError
from distill.base.files import PACKAGE, can_be_written, write_json
from distill.base.long_input import read_text
from distill.recipe import ScoreConfig

FORMAT = 1
_SPEED = "speed.json"
SCHEMA = PACKAGE / "assets" / "scores.schema.json"

# A 1.0 is an integer to JSON Schema, and no index to Python.
_Validator = jsonschema.validators.extend(
    jsonschema.Draft202012Validator,
    type_checker=jsonschema.Draft202012Validator.TYPE_CHECKER.redefine("integer", lambda _, value: type(value) is int),
)


def write_scores(scores: Mapping[str, Any], path: str | Path) -> None:
    """Write scores as JSON, whole or not at all."""
    path = Path(path)
    jsonschema.validate(scores, _schema())
    for error in _details_errors(scores):
        raise error
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, scores)


_ASKED = "asked.json"


def refuse_other_scores(folder: Path, asked: Mapping[str, Any]) -> None:
    """Find a folder free for scores, or that what is asked for is what its scores were made from.

    Args:
        folder: Where scores.json is to go, and `asked.json` with it, see `keep_asked`.
        asked: What decides the scores, as it was asked for; ready for JSON. The batch size may differ.

    Raises:
        UserError: it holds a run, scores of something else (the first key that differs is named), or another report.
    """
    if not can_be_written(folder):
        raise UserError(f"{folder}: cannot be written; choose another --output_dir")
    if (folder / "recipe.yaml").exists():
        raise UserError(f"{folder} holds a run and its scores; choose another --output_dir")
    hint = "choose another --output_dir, or remove that folder"
    if (folder / "report.html").exists() and not (folder / "scores.json").exists():
        raise UserError(f"{folder} holds a report of something else; {hint}")
    here = _decisive(asked)
    if (folder / "scores.json").exists():
        try:
            there = json.loads((folder / _ASKED).read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError):
            there = None
        if not isinstance(there, dict):
            raise UserError(f"{folder} holds a scores.json, and nothing says what it was made from; {hint}")
        there = {key: value for key, value in asdict(ScoreConfig()).items() if key in here} | there  # of before the key
        for key in here | there:
            if there.get(key) != here.get(key):
                raise UserError(
                    f"{folder} holds other scores ({key} is {there.get(key)!r} there, {here.get(key)!r} here); {hint}"
                )


def keep_asked(folder: Path, asked: Mapping[str, Any]) -> None:
    """Write what scores were made from beside them, for `refuse_other_scores`."""
    write_json(folder / _ASKED, _decisive(asked))


def _decisive(asked: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in asked.items() if key != "batch_size"}


def read_scores(path: str | Path) -> dict[str, Any]:
    """Scores from a file; one of before there were cards is explained by those of today.

    Raises:
        UserError: there is none, it is of another format, or something in it is not as the schema says.
    """
    try:
        scores = json.loads(read_text(Path(path), "give a scores.json"), parse_constant=_no_number)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: not valid JSON ({error})") from None
    if not isinstance(scores, dict) or scores.get("format") != FORMAT:
        raise UserError(f"{path}: not a scores.json of format {FORMAT}; score the models again")
    problem = best_match(_Validator(_schema()).iter_errors(scores))
    if problem is None:
        _explain(scores)
        problem = best_match(_details_errors(scores))
    if problem is not None:
        where = ".".join(map(str, problem.absolute_path)) or "the whole file"
        raise UserError(f"{path}: {where}: {problem.message[:200]}; score the models again")
    if (what := _contradiction(scores)) is not None:
        raise UserError(f"{path}: {what}; score the models again")
    return scores


def _no_number(name: str) -> None:
    raise ValueError(f"{name} is no number of JSON")


def _explain(scores: dict[str, Any]) -> None:
    """Put in the cards and the names of the other metrics, where an older file does not tell them."""
    if "cards" in scores and "not_asked" in scores:
        return
    from distill.metrics import card_dicts, not_asked  # seconds, which only an older file shall cost

    names = list(dict.fromkeys(name for of_model in scores["models"].values() for name in of_model))
    scores.setdefault("cards", card_dicts(names))
    scores.setdefault("not_asked", not_asked(names))


def _details_errors(scores: Mapping[str, Any]) -> Iterator[ValidationError]:
    """What is wrong in the details that reports show: a score's card names them, and the schema says how they look."""
    definitions = _schema()["$defs"]
    for name, card in scores.get("cards", {}).items():
        for kind in dict.fromkeys(f"shown_{shown.partition('.')[0]}" for shown in card["shows"]):
            validator = _Validator({"$defs": definitions, "$ref": f"#/$defs/{kind}"})
            for model, of_model in scores["models"].items() if kind in definitions else ():
                for error in validator.iter_errors(of_model[name]["details"]) if name in of_model else ():
                    error.path.extendleft(("details", name, model, "models"))
                    yield error


def _contradiction(scores: Mapping[str, Any]) -> str | None:
    """What in the examples does not fit to the rest, which no schema can say."""
    groups = len(scores["settings"]["wordlist"]["groups"])
    prompts = (scores.get("examples") or {}).get("prompts", [])
    labels = {tuple(of_model["next_word"]) for prompt in prompts for of_model in prompt["models"].values()}
    if len(labels) > 1:
        return "examples.prompts: the models are not asked for the same next words"
    for number, prompt in enumerate(prompts):
        if unknown := prompt["models"].keys() - scores["models"].keys():
            return f"examples.prompts.{number}: there is no model {min(unknown)!r}"
        places = [*prompt["words"], *(place for of_model in prompt["models"].values() for place in of_model["words"])]
        if any(group >= groups for _, _, group in places):
            return f"examples.prompts.{number}: a listed word of a group that the word list does not have"
    return None


@cached
def _schema() -> dict[str, Any]:
    return json.loads(SCHEMA.read_text(encoding="utf-8"))


def without_nan(value: Any) -> Any:
    """The same tree with `None` for numbers that JSON cannot hold."""
    if isinstance(value, Mapping):
        return {key: without_nan(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [without_nan(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def scores_beside(folder: Path) -> dict[str, dict[str, Any]]:
    """The scores in this folder and in those beside it, by the folder's name; files of another format are left out."""
    found = {}
    for path in sorted(folder.resolve().parent.glob("*/scores.json")):
        try:
            found[path.parent.name] = read_scores(path)
        except UserError:
            continue
    return found


def read_speeds(folder: Path) -> dict[str, dict[str, Any]]:
    """Model -> `weights` (their SHA-256) and `tokens_per_second`, as far as they are there and can be read."""
    try:
        found = json.loads((folder / _SPEED).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return {name: of_model for name, of_model in found.items() if _is_speed(of_model)} if type(found) is dict else {}


def _is_speed(of_model: Any) -> bool:
    rate = of_model.get("tokens_per_second") if isinstance(of_model, dict) else None
    return type(rate) is float and 0 < rate < 1e12 and isinstance(of_model.get("weights"), str)


def write_speeds(speeds: Mapping[str, Mapping[str, Any]], folder: Path) -> None:
    """Write what `read_speeds` reads."""
    write_json(folder / _SPEED, speeds)
