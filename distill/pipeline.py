"""A recipe -> teacher and text -> baseline and student -> scores -> report.

1. What is asked for: every mistake that can be seen without work is seen here, before anything is written.
2. Text: read or sampled, swapped, aligned and packed by the first process; the others read its cache.
3. Students: the plain baseline and the mitigated one, same data, same steps.
4. Scores of teacher, baseline and student, and the report.

Every finished stage is kept in the output folder, so the same recipe continues where it stopped.
"""

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase, set_seed

from distill.base.console import counter, phase
from distill.data.audit import with_audit
from distill.data.corpus import open_corpus, with_template
from distill.data.counts import PackingCounts
from distill.data.stream import training_blocks
from distill.federation import clients, rounds
from distill.models.architecture import check_block_length, lent_to_gpu, model_hash, vocab_size
from distill.models.loading import load_teacher
from distill.models.probe import any_mixes
from distill.models.resolvers import load_resolver
from distill.models.student import corpus_tokenizer, make_student, student_tokenizer
from distill.objective.logit_ops import build_role_maps
from distill.recipe import Recipe, merge, read_recipe_file
from distill.recipe_check import recipe_of
from distill.reports.report import write_report
from distill.run_folder import unfinished
from distill.run_inputs import RunInputs
from distill.scoring.measure import check_metrics, check_run, check_templates, run_prompts
from distill.scoring.run_phases import SAMPLING, follow_run
from distill.scoring.score import run_models, score_run
from distill.scoring.scores_file import read_scores
from distill.scoring.so_far import probe_of
from distill.text.counterfactual import Swapper
from distill.text.documents import check_files
from distill.text.role_map import token_roles
from distill.text.wordlist import load_wordlist
from distill.training import preflight
from distill.training.arguments import start_processes, training_arguments
from distill.training.processes import leaving_nothing, opened_together, together
from distill.training.rehearsal import rehearse
from distill.training.run import cache_folder, train_student


@dataclass(frozen=True)
class _Asked:
    """What a recipe names, loaded.

    The word list's swapper; the teacher, if any; tokenizer and untrained student, unless text is to train the first.
    """

    swapper: Swapper
    teacher: PreTrainedModel | None
    tokenizer: PreTrainedTokenizerBase | None
    student: PreTrainedModel | None


@dataclass(frozen=True)
class _Text:
    """Training blocks, or those of each client, what packing saw, held-out documents, and all models' tokenizer."""

    blocks: Any
    counts: PackingCounts
    held_out: list[str]
    tokenizer: PreTrainedTokenizerBase


def train(recipe: Recipe | str | Path, **keys: Any) -> dict[str, Any]:
    """Run a recipe as `distill train` does, from Python; the contents of the run's scores.json.

    ```python
    scores = train("debug", output_dir="outputs/mine", target={"op": "expmean", "strength": 0.5})
    ```

    Args:
        recipe: A recipe by name or file, or a `Recipe`.
        keys: Recipe keys laid over it; a section takes a dictionary.

    Raises:
        UserError: see `run`, and `recipe_of` for keys that make no sound recipe.
    """
    values = recipe.to_dict() if isinstance(recipe, Recipe) else read_recipe_file(recipe)
    source = "the recipe" if isinstance(recipe, Recipe) else str(recipe)
    checked = recipe_of(merge(values, keys), source)
    with leaving_nothing(Path(checked.output_dir)):
        return run(checked) or read_scores(Path(checked.output_dir, "scores.json"))


def run(recipe: Recipe) -> dict[str, Any] | None:
    """Run a recipe from its text to its report.

    Returns:
        The contents of scores.json; None in all processes but the main one.

    Raises:
        UserError: see the modules of each stage; a mistake leaves no trace of a run that had not yet begun to train.
    """
    start_processes(recipe)
    with together():
        asked = _load(recipe)
    with opened_together(recipe) as folder, together(main_first=True) as process:
        preflight.check_start(recipe, folder, missing := unfinished(recipe, folder), process.num_processes)
        follow_run(recipe, folder, missing, asked.teacher, asked.student)
        text, student = _prepare(recipe, asked, folder, missing)
    _train(recipe, asked, text, student, folder)
    scores = None
    with together() as process:
        if process.is_main_process:
            scores = score_run(recipe, run_models(recipe, folder), asked.swapper.wordlist, text.held_out, folder)
            write_report(recipe, scores, text.counts, folder)
    process.destroy_process_group()
    return scores


def _load(recipe: Recipe) -> _Asked:
    arguments = training_arguments(recipe, Path(recipe.output_dir))
    check_metrics(recipe)
    check_files(*recipe.texts)
    wordlist = load_wordlist(recipe.wordlist)
    teacher, tokenizer = load_teacher(recipe.teacher) if recipe.teacher.path else (None, None)
    if teacher is not None:
        check_block_length(recipe.block_length, str(recipe.teacher.path), teacher)
    swapper = Swapper(wordlist, load_resolver(recipe.resolver, teacher, tokenizer, recipe.trusts_code), recipe.skip)
    run_prompts(recipe, swapper)
    if tokenizer is None and recipe.student.tokenizer != "train":
        tokenizer = student_tokenizer(recipe.student)
    student = _make_student(recipe, swapper, teacher, tokenizer) if tokenizer is not None else None
    rehearse(arguments, student)
    return _Asked(swapper, teacher, tokenizer, student)


def _prepare(recipe: Recipe, asked: _Asked, folder: Path, missing: Collection[str]) -> tuple[_Text, PreTrainedModel]:
    """The text, ready to train on, and an untrained student: how it treats packed documents decides the blocks."""
    inputs = RunInputs(recipe, folder, missing)
    cache = cache_folder(recipe, folder)
    teacher, tokenizer = asked.teacher, asked.tokenizer
    weights = inputs.look_at_models(asked.swapper.wordlist, teacher, asked.student)
    key = model_hash(teacher, tokenizer, weights) if teacher is not None else ""
    # Held-out samples must not be training samples: their seeds differ.
    corpus, held_out = (
        open_corpus(config, 2 * recipe.seed + n, cache, teacher, tokenizer, key, counter(name, "documents"), commit)
        for n, (name, config, commit) in enumerate(zip(SAMPLING, recipe.texts, inputs.commits, strict=True))
    )
    inputs.look_at_text(corpus, held_out)
    if tokenizer is None:
        tokenizer = corpus_tokenizer(recipe.student, corpus.documents, corpus.key, cache)
    corpus = with_audit(with_template(corpus, tokenizer, recipe.corpus.mask), recipe.audit, recipe.seed, folder)
    held_out_text = list(held_out.documents())
    check_templates(recipe.scores, held_out_text, tokenizer)
    student = asked.student or _make_student(recipe, asked.swapper, teacher, tokenizer)
    one_document = recipe.is_private or any_mixes(recipe.block_length, student, teacher)
    swapper = asked.swapper if recipe.needs_counterfactuals else None
    make_blocks: Any = clients.client_blocks if recipe.federation.clients else training_blocks
    with lent_to_gpu(swapper and swapper.model):
        blocks, counts = make_blocks(recipe, corpus, tokenizer, swapper, cache, held_out_text, one_document)
    preflight.check_privacy(recipe, student, blocks.least if recipe.federation.clients else blocks)
    inputs.look_at_blocks(blocks, bool(missing))
    return _Text(blocks, counts, held_out_text, tokenizer), student


def _make_student(
    recipe: Recipe, swapper: Swapper, teacher: PreTrainedModel | None, tokenizer: PreTrainedTokenizerBase
) -> PreTrainedModel:
    """An untrained student, whose positions neither a block nor what is sampled for the scores exceeds."""
    student = make_student(recipe.student, teacher, tokenizer, recipe.teacher.path)
    if recipe.student.init != "layers":  # or else they are the teacher's positions
        check_block_length(recipe.block_length, recipe.student.path or "student.config", student)
    check_run(recipe, swapper, tokenizer, teacher, student)
    return student


def _train(recipe: Recipe, asked: _Asked, text: _Text, student: PreTrainedModel, folder: Path) -> None:
    """Train every student that is not finished; `student` is one of them, untrained."""
    roles = token_roles(asked.swapper.wordlist, text.tokenizer, vocab_size(text.tokenizer, student, asked.teacher))
    teach: Any = rounds.train_federated if recipe.federation.clients else train_student
    watch = {} if recipe.federation.clients else {"probe": probe_of(recipe, asked.swapper, text.tokenizer)}
    if left := unfinished(recipe, folder):
        preflight.warn_of(recipe, len(left), asked.teacher, student, text.counts, roles, asked.swapper, text.held_out)
    for name, variant in left.items():
        phase(f"training {folder / name}")
        set_seed(recipe.seed)
        teach(
            variant,
            student=make_student(recipe.student, asked.teacher, text.tokenizer, recipe.teacher.path),
            teacher=asked.teacher,
            tokenizer=text.tokenizer,
            blocks=text.blocks,
            role_maps=build_role_maps(roles.edges, roles.vocab_size),
            checkpoints=folder / "checkpoints" / name,
            destination=folder / name,
            **watch,
        )
