"""The entry: recipe -> teacher and text -> baseline and student -> scores -> report.

Run it as `accelerate launch distill/train.py --config recipes/quickstart.yaml`, or as `distill train` on one process.
Every finished stage is kept in the output folder, so the same command goes on where it was stopped.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from transformers import set_seed

from distill.base.console import counter, run_entry, say
from distill.base.files import is_finished
from distill.data.corpus import open_corpus
from distill.data.stream import training_blocks
from distill.models.architecture import weights_hash
from distill.models.loading import load_teacher
from distill.models.resolvers import load_resolver
from distill.models.student import make_student, student_tokenizer
from distill.objective.logit_ops import build_role_maps
from distill.recipe_check import parse_recipe
from distill.reports.report import write_report
from distill.run_folder import open_run
from distill.scoring.measure import run_prompts
from distill.scoring.score import score_run
from distill.text.counterfactual import Swapper
from distill.text.role_map import token_roles
from distill.text.wordlist import load_wordlist
from distill.training import preflight
from distill.training.arguments import training_arguments, use_all_cores
from distill.training.processes import together
from distill.training.run import train_student


def main(argv: Sequence[str]) -> None:
    """Run a recipe from its text to its report.

    Raises UserError, see the modules above; a mistake leaves no trace of a run that had not yet begun to train.
    """
    # 1. What is asked for: every mistake that can be seen without work is seen here.
    recipe = parse_recipe(argv)
    use_all_cores()
    with together():
        training_arguments(recipe, Path(recipe.output_dir))
        wordlist = load_wordlist(recipe.wordlist)
        teacher, tokenizer = load_teacher(recipe.teacher) if recipe.teacher.path else (None, None)
        swapper = Swapper(wordlist, load_resolver(recipe.resolver, teacher, tokenizer))
        run_prompts(recipe, swapper)

    # 2. Text: read or sampled, swapped, aligned and packed by the first process; the others read its cache.
    with together(main_first=True), open_run(recipe) as folder:
        cache = Path(recipe.cache_dir or folder / "cache")
        model_key = weights_hash(teacher) if teacher is not None else ""
        # Held-out samples must not be training samples: their seeds differ.
        corpus, held_out = (
            open_corpus(config, seed, cache, teacher, tokenizer, model_key, counter("sampling text", "documents"))
            for config, seed in ((recipe.corpus, 2 * recipe.seed), (recipe.held_out, 2 * recipe.seed + 1))
        )
        if tokenizer is None:
            tokenizer = student_tokenizer(recipe.student, corpus.documents, corpus.key, cache)
        blocks, counts = training_blocks(
            recipe,
            corpus,
            tokenizer,
            swapper if recipe.needs_counterfactuals else None,
            cache,
            counter("swapping, tokenising and packing", "documents"),
        )
        held_out_documents = list(held_out.documents())
        student = make_student(recipe.student, teacher, tokenizer, recipe.teacher.path)

    # 3. Students: the plain baseline and the mitigated one, same data, same steps.
    roles = token_roles(wordlist, tokenizer, student.get_output_embeddings().weight.shape[0])
    missing = {name: variant for name, variant in recipe.variants().items() if not is_finished(folder / name)}
    if missing:
        preflight.warn_of(recipe, len(missing), teacher, student, counts, roles, swapper, held_out_documents)
    for name, variant in missing.items():
        say(f"training {folder / name}")
        set_seed(recipe.seed)
        train_student(
            variant,
            student=make_student(recipe.student, teacher, tokenizer, recipe.teacher.path),
            teacher=teacher,
            tokenizer=tokenizer,
            blocks=blocks,
            num_groups=wordlist.num_groups,
            role_maps=build_role_maps(roles.edges, roles.vocab_size),
            checkpoints=folder / "checkpoints" / name,
            destination=folder / name,
        )

    with together() as process:
        if process.is_main_process:
            models = {"teacher": recipe.teacher.path} if recipe.teacher.path is not None else {}
            models |= {name: str(folder / name) for name in recipe.variants()}
            scores = score_run(recipe, models, wordlist, held_out_documents, folder)
            write_report(recipe, scores, counts, folder)
    process.destroy_process_group()


if __name__ == "__main__":
    sys.exit(run_entry(main, sys.argv[1:]))
