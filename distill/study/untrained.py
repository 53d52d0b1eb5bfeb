"""Each row's student as it is before its first step: made once and let go, before hours of other rows.

Here a row that cannot be made is told of, by its name, and of one that can, how much its model will read. Rows that
differ in nothing that makes a student share one. Of a student that is made from another row's, which is not there yet,
no more is known than the recipes of both say.
"""

import copy
import gc
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from distill.base.errors import UserError
from distill.models.architecture import check_block_length, own_context
from distill.models.loading import load_teacher
from distill.models.student import chosen_layers, make_student, student_tokenizer, train_tokenizer
from distill.recipe import Recipe, StudentConfig, TeacherConfig
from distill.scoring.measure import context_of, tokenizer_of
from distill.scoring.score_cache import content_hash
from distill.study.file import naming, needed_rows, row_recipe, run_folder
from distill.study.schema import Study
from distill.study.scores import student_source


@dataclass(frozen=True)
class KnownModel:
    """What is known of a model before it is loaded to be scored; of a row's student, before it is trained.

    Args:
        tokenizer: None where the text will train it, with the student.
        context: In tokens, see `own_context`; None also where the model names no limit.
        outline: A model of its kind without weights, where it was made; None otherwise.
        adapter: Whether no folder will hold it but as an adapter beside its base.
    """

    tokenizer: PreTrainedTokenizerBase | None
    context: int | None
    outline: PreTrainedModel | None = None
    adapter: bool = False


def row_students(study: Study) -> dict[str, KnownModel]:
    """Row -> what is known of its student; those that are finished are looked up where they lie.

    Each teacher is loaded once, and one student is in memory at a time. Models that have weights are made with them: it
    is how layers that cannot be told apart, a head that the loss cannot read or a damaged file show.

    Raises:
        UserError: the student of a row cannot be made, or its blocks are longer than its model's positions.
    """
    recipes = _recipes_to_run(study)
    found = {row: _trained(study, row) for row in study.students if row not in recipes}
    awaited = {row: _awaited(study, recipe, row) for row, recipe in recipes.items()}
    tokenizers: dict[str, PreTrainedTokenizerBase] = {}  # of rows that wait for another's student, not for its teacher
    by_teacher: dict[TeacherConfig, list[str]] = {}
    for row, recipe in recipes.items():
        if _row_at(recipe.teacher.path, awaited[row]) is None:
            by_teacher.setdefault(recipe.teacher.as_it_predicts(), []).append(row)
    for teacher, rows in by_teacher.items():
        found |= _of_teacher(teacher, {row: recipes[row] for row in rows}, awaited, tokenizers)
        gc.collect()
    for row in study.students:  # a row comes behind those that it reads
        if row not in found:
            with naming(f"row '{row}'"):
                found[row] = _of_others(recipes[row], awaited[row], found, tokenizers.get(row))
    return found


def _recipes_to_run(study: Study) -> dict[str, Recipe]:
    """Row -> the recipe of its first run that is not finished; rows without one are left out."""
    recipes = {}
    for row in study.students:
        left = [seed for seed in study.seeds if not (run_folder(study, row, seed) / "scores.json").exists()]
        if left:
            recipes[row] = row_recipe(study, row, left[0])
    return recipes


def _trained(study: Study, row: str) -> KnownModel:
    source = student_source(study, row, study.seeds[0])
    with naming(f"row '{row}'"):
        return KnownModel(tokenizer_of(source), context_of(source))


def _awaited(study: Study, recipe: Recipe, row: str) -> dict[str, str]:
    """Folder -> row, of the students that a run reads and that are not there yet."""
    folders = {needed: run_folder(study, needed, recipe.seed) for needed in needed_rows(study, row)}
    return {
        str(folder / "student"): needed for needed, folder in folders.items() if not (folder / "scores.json").exists()
    }


def _row_at(path: str | None, awaited: Mapping[str, str]) -> str | None:
    """The row whose student a path leads to; None where that is not awaited."""
    return next((row for folder, row in awaited.items() if path is not None and path.startswith(folder)), None)


def _of_teacher(
    config: TeacherConfig,
    recipes: Mapping[str, Recipe],
    awaited: Mapping[str, Mapping[str, str]],
    tokenizers: dict[str, PreTrainedTokenizerBase],
) -> dict[str, KnownModel]:
    """What `row_students` gives of the rows of one teacher, or of none, that read no student which is awaited.

    Puts the tokenizer of the others into `tokenizers`.
    """
    with naming(f"row '{next(iter(recipes))}'"):
        teacher, of_teacher = load_teacher(config) if config.path is not None else (None, None)
    found: dict[str, KnownModel] = {}
    made: dict[str, KnownModel] = {}
    for row, recipe in recipes.items():
        with naming(f"row '{row}'"):
            if teacher is not None:
                check_block_length(recipe.block_length, str(config.path), teacher)
            if any(_row_at(path, awaited[row]) for path in (recipe.student.path, recipe.student.tokenizer)):
                tokenizers |= {row: of_teacher} if of_teacher is not None else {}
                continue
            key = content_hash([asdict(recipe.student), recipe.block_length])
            if key not in made:
                made[key] = _made(recipe, teacher, of_teacher)
                gc.collect()  # its memory is wanted for the next one
            found[row] = made[key]
    return found


def _made(recipe: Recipe, teacher: PreTrainedModel | None, tokenizer: PreTrainedTokenizerBase | None) -> KnownModel:
    """Make a student as its run will."""
    of_text = tokenizer is None and recipe.student.tokenizer == "train"
    if tokenizer is None:
        # One that knows bytes alone stands for that of a text which nobody has read yet.
        tokenizer = train_tokenizer([], recipe.student.vocab_size) if of_text else student_tokenizer(recipe.student)
    student = make_student(recipe.student, teacher, tokenizer, recipe.teacher.path)
    if recipe.student.init != "layers":  # or else they are the teacher's positions
        check_block_length(recipe.block_length, recipe.student.path or "student.config", student)
    adapter = _is_adapter(recipe.student)
    return KnownModel(None if of_text else tokenizer, own_context(student.config), _outline(student), adapter)


def _is_adapter(student: StudentConfig) -> bool:
    return student.lora.r > 0 and not student.lora.merge


def _outline(model: PreTrainedModel) -> PreTrainedModel | None:
    """A model of the same kind that takes no memory."""
    with suppress(Exception), torch.device("meta"):  # without it, a mistake is told by the run instead
        return type(model)._from_config(copy.deepcopy(model.config))
    return None


def _of_others(
    recipe: Recipe,
    awaited: Mapping[str, str],
    found: Mapping[str, KnownModel],
    tokenizer: PreTrainedTokenizerBase | None,
) -> KnownModel:
    """What the recipe of a row says of its student, whose teacher, weights or tokenizer are another row's student.

    Args:
        recipe: Of the row.
        awaited: As `_awaited` gives it.
        found: What is known of the other rows.
        tokenizer: That of its teacher, which is no row's student.

    Raises:
        UserError: its run would end with a mistake for sure.
    """
    config = recipe.student
    teacher = _row_at(recipe.teacher.path, awaited)
    if teacher is not None:
        tokenizer = found[teacher].tokenizer
        _check_positions(recipe, str(recipe.teacher.path), found[teacher])
    elif tokenizer is None:
        named = _row_at(config.tokenizer or config.path, awaited)
        tokenizer = found[named].tokenizer if named is not None else student_tokenizer(config)
    base = _row_at(config.path, awaited) if config.init == "checkpoint" else teacher
    if base is None or config.init == "config":
        # The weights are there: of the teacher they need the vocabulary alone, which is known by its tokenizer.
        return _made(recipe, None, tokenizer) if tokenizer is not None else KnownModel(None, None)
    if _is_adapter(config) and found[base].adapter:
        raise UserError(
            f"student.lora: its base is the student of row '{base}', an adapter itself, so that no folder holds it; "
            "set student.lora.merge to true in one of the two"
        )
    if config.init == "layers":
        if (outline := found[base].outline) is not None:
            chosen_layers(config, outline)
        return KnownModel(tokenizer, found[base].context)
    if config.init == "checkpoint":
        _check_positions(recipe, str(config.path), found[base])
        own = found[base].tokenizer
        if recipe.teacher.path is not None and tokenizer and own and own.get_vocab() != tokenizer.get_vocab():
            raise UserError(
                f"student.path: the student of row '{base}' has another tokenizer than the teacher "
                f"{recipe.teacher.path}; a student must share its teacher's"
            )
    return KnownModel(tokenizer, found[base].context, found[base].outline, _is_adapter(config))


def _check_positions(recipe: Recipe, name: str, student: KnownModel) -> None:
    if student.outline is not None:
        check_block_length(recipe.block_length, name, student.outline)
