"""What a study would end with after all rows were trained is told before the first one is: files, models, room.

Whatever will be scored is asked now for what scoring will ask of it, and nothing is written.
"""

import gc
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from transformers import PreTrainedTokenizerBase

from distill.base.errors import UserError
from distill.metrics import chosen, reads_documents
from distill.models.architecture import own_context, tokenizer_hash
from distill.models.loading import load_config, load_frozen
from distill.models.quantization import require_torchao
from distill.recipe import Recipe, TeacherConfig
from distill.scoring.measure import (
    Checkpoint,
    check_files,
    check_room,
    check_templates,
    context_of,
    tokenizer_of,
)
from distill.study.file import (
    derived_row,
    naming,
    row_recipe,
    shared_recipe,
    teacher_checkpoint,
    teacher_target,
)
from distill.study.schema import BASELINE, PromptedRow, QuantizedRow, Study
from distill.study.scores import study_prompts, study_texts
from distill.study.self_debiasing import prompt_tokens
from distill.study.untrained import KnownModel, row_students
from distill.text.conversations import Messages, rendered
from distill.text.counterfactual import Swapper
from distill.text.documents import read_documents
from distill.text.prompts import Prompt
from distill.text.wordlist import load_wordlist


@dataclass(frozen=True)
class _Asked:
    """What all models are scored on: the settings with all metrics, prompts, and documents of all texts."""

    recipe: Recipe
    swapper: Swapper
    prompts: list[Prompt]
    documents: list[str]


def check_data(study: Study) -> None:
    """Read texts and prompts and make or load all models once: training takes hours, and what is scored comes behind.

    Raises:
        UserError: there is no such data folder, a text in it cannot be read, a checkpoint from elsewhere cannot be had,
            a student cannot be made, a row cannot be had in fewer bits, prompts and continuations do not fit into a
            context or have no chat template, or a teacher that reads two views cannot be asked within that.
    """
    if study.data is not None and not Path(study.data).is_dir():
        raise UserError(f"--data: {study.data} is no folder; name one, or leave the option out to do without it")
    texts = study_texts(study, study.seeds[0])
    teacher = row_recipe(study, BASELINE, study.seeds[0]).teacher
    _check_quantized_rows(study, teacher)
    asked = _asked(study, [document for documents in texts.values() for document in documents])
    check_files(asked.recipe.scores, (), "scores.", asked.recipe.trusts_code)
    tokenizer = tokenizer_of(Checkpoint(teacher))
    of_teacher = KnownModel(tokenizer, context_of(Checkpoint(teacher)))
    _check_readers(asked, {"the teacher": of_teacher})
    _check_two_views(study, asked, tokenizer)
    _check_readers(asked, _checkpoints(study))
    students = row_students(study)
    _check_readers(asked, {f"row '{row}'": student for row, student in students.items()})
    _check_prompt_rows(study, of_teacher, students)
    torch.cuda.empty_cache()  # rows train in processes of their own, which want what was loaded here


def _asked(study: Study, texts: list[str]) -> _Asked:
    shared = shared_recipe(study, study.seeds[0])
    swapper = Swapper(load_wordlist(shared.wordlist))
    metrics = [*study.metrics, *study.half_metrics]
    recipe = replace(shared, scores=replace(shared.scores, metrics=metrics))
    # Text that a teacher draws holds no conversations.
    held_out: list[str] = []
    if shared.held_out.source != "teacher" and any(map(reads_documents, chosen(metrics).values())):
        held_out = list(read_documents(shared.held_out, shared.seed))
    return _Asked(recipe, swapper, study_prompts(shared, swapper)[0], [*held_out, *texts])


def _check_readers(asked: _Asked, readers: Mapping[str, KnownModel]) -> None:
    """Raises UserError for a model whose tokenizer cannot render what is asked, or whose context it exceeds."""
    seen = set()  # rows that differ in neither are asked the same
    for name, reader in readers.items():
        if reader.tokenizer is None or (key := (tokenizer_hash(reader.tokenizer), reader.context)) in seen:
            continue
        seen.add(key)
        with naming(name):
            check_templates(asked.recipe.scores, asked.documents, reader.tokenizer)
        scores, seed = asked.recipe.scores, asked.recipe.seed
        check_room(scores, seed, asked.swapper, asked.prompts, reader.tokenizer, {name: reader.context})


def _checkpoints(study: Study) -> dict[str, KnownModel]:
    """The rows of `teachers` that are checkpoints from elsewhere; each is loaded, and let go."""
    found = {}
    for row in study.teachers:
        if (checkpoint := teacher_checkpoint(study, row)) is not None:
            with naming(f"row '{row}'"):
                model, tokenizer = load_frozen(checkpoint)
            found[f"row '{row}'"] = KnownModel(tokenizer, own_context(model.config))
            del model  # or else it would stay while the next one is loaded
            gc.collect()
    return found


def _check_prompt_rows(study: Study, of_teacher: KnownModel, students: Mapping[str, KnownModel]) -> None:
    """Raises UserError for a row whose prompt leaves no room to the texts."""
    for name in study.teachers:
        if isinstance(row := derived_row(study, name), PromptedRow):
            reader = of_teacher if row.of is None else students[row.of]
            if reader.tokenizer is not None:
                with naming(f"row '{name}'"):
                    prompt_tokens(row.prompt, reader.tokenizer, reader.context)


def _check_quantized_rows(study: Study, teacher: TeacherConfig) -> None:
    """Raises UserError for a row in fewer bits that cannot be made here, or whose model is in such already."""
    for name in study.teachers:
        if isinstance(row := derived_row(study, name), QuantizedRow):
            require_torchao(f"row '{name}': quantize", row.quantize)
            if row.of is None and (already := _in_fewer_bits(teacher)) is not None:
                raise UserError(
                    f"row '{name}': quantize asks for a copy of the teacher, which {already} in fewer bits already; "
                    "leave the row out, or name a student by 'of'"
                )


def _in_fewer_bits(teacher: TeacherConfig) -> str | None:
    """By what a teacher is in fewer bits, as it begins a sentence; None where it is not."""
    if teacher.quantization is not None:
        return "teacher.quantization loads"
    if teacher.gguf_file is not None or teacher.path is None:  # a GGUF file's weights become plain ones
        return None
    with suppress(Exception):  # told by what loads the model
        config = load_config(teacher.path, teacher.trust_remote_code, **teacher.hub)
        if getattr(config, "quantization_config", None) is not None:
            return f"{teacher.path} holds"
    return None


def _check_two_views(study: Study, asked: _Asked, tokenizer: PreTrainedTokenizerBase) -> None:
    """Raises UserError for a chat template whose own text a teacher that reads two views would swap too.

    It is given tokens, in which template and messages cannot be told apart.
    """
    if all(teacher_target(study, row).op == "none" for row in study.teachers):
        return
    if not asked.recipe.scores.chat and not any(isinstance(document, Messages) for document in asked.documents):
        return
    text = rendered(Messages(["user", "assistant"], ["1", "1"]), tokenizer)
    if found := asked.swapper.matches(str(text)):
        raise UserError(
            f"teachers: the chat template of {tokenizer.name_or_path} says '{found[0].word}' itself, a word of the "
            f"list '{asked.swapper.wordlist.name}', which a teacher that reads two views would swap and students never "
            "see swapped; leave such teachers out of the study, or set scores.chat to false"
        )
