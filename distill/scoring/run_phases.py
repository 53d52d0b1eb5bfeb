"""A recipe -> the phases of its run, and a guess of how long each takes before anything of it is measured.

The guess counts floating-point operations (two a parameter and token of a forward pass, four of a backward pass: Kaplan
et al. 2020, arXiv 2001.08361, section 2.1) at the pace of the machine's matrix products. What is slower than these,
because it goes token by token or runs in Python, has a factor that the quickstart showed on two cores.
"""

from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from distill.base.console import follow
from distill.base.phase_speeds import phase_speeds_kept
from distill.base.phases import REPORT, Phase, Plan
from distill.data.stream import PACKING
from distill.models.architecture import default_device, parameter_count
from distill.recipe import CorpusConfig, Recipe
from distill.training.preflight import operations_per_second
from distill.training.trainer import COUNTER

SAMPLING = ("sampling training text", "sampling held-out text")

# Times the seconds of the operations alone, at the pace of large matrix products.
_TRAINED, _SAMPLED, _CONTINUED, _READ = 1.9, 26.0, 7.0, 2.6
_PACKED = 1.3e-3  # seconds a document
_SOME = {"documents": 3000, "tokens": 100, "steps": 1000, "prompts": 400, "parameters": 1e8}  # where nobody knows


def follow_run(recipe: Recipe, folder: Path, *of_run: Any) -> None:
    """Let progress tell the phases of this run from now on, and their speeds be kept; arguments as `phases_of` has."""
    follow(Plan(phases_of(recipe, folder, *of_run), keep=phase_speeds_kept(folder)))


def phases_of(
    recipe: Recipe,
    folder: Path,
    missing: Collection[str],
    teacher: PreTrainedModel | None,
    student: PreTrainedModel | None,
) -> list[Phase]:
    """What a run goes through, in order.

    Args:
        recipe: The run's.
        folder: Its folder.
        missing: The students that are to be trained; the others are finished.
        teacher: The teacher or None.
        student: An untrained student; None where it is not made yet.
    """
    pace = operations_per_second(default_device())
    sizes = [parameter_count(model) if model is not None else 0 for model in (teacher, student)]
    of_teacher, of_student = sizes[0], sizes[1] or sizes[0] or _SOME["parameters"]
    phases = [
        Phase(name, "sampling", _SAMPLED * 2 * of_teacher * _documents(text) * text.sample_tokens / pace, name)
        for name, text in zip(SAMPLING, recipe.texts, strict=True)
        if text.source == "teacher"
    ]
    if recipe.corpus.pack == "before_training":
        phases.append(Phase(PACKING, "packing", _PACKED * _documents(recipe.corpus)))
    for name, variant in recipe.variants().items():
        seconds = 0.0 if name not in missing else _TRAINED * _operations(variant, of_teacher, of_student) / pace
        phases.append(Phase(f"training {folder / name}", "training", seconds, COUNTER))
    phases += _scoring(recipe, of_teacher, of_student, pace)
    return [*phases, Phase(REPORT, "report", 1.0)]


def _documents(text: CorpusConfig) -> float:
    return text.max_documents or _SOME["documents"]


def _operations(recipe: Recipe, of_teacher: float, of_student: float) -> float:
    """Of a training: what the teacher and the student do for each view of a block that they read."""
    given = recipe.trainer
    steps = float(given.get("max_steps", -1))
    blocks = float(given.get("per_device_train_batch_size", 8)) * float(given.get("gradient_accumulation_steps", 1))
    tokens = steps * blocks * recipe.block_length
    if steps < 0:  # 0 is no step at all
        length = recipe.corpus.sample_tokens if recipe.corpus.source == "teacher" else _SOME["tokens"]
        tokens = float(given.get("num_train_epochs", 3)) * _documents(recipe.corpus) * length
    views = 2 if recipe.trains_on_views else 1
    return tokens * (2 * of_teacher * views + 6 * of_student * (views if recipe.target.augment else 1))


def _scoring(recipe: Recipe, of_teacher: float, of_student: float, pace: float) -> Iterator[Phase]:
    scores = recipe.scores
    prompts = scores.max_prompts or _SOME["prompts"]
    sampled = prompts * scores.samples * scores.max_new_tokens * _CONTINUED
    read = 3 * _documents(recipe.held_out) * recipe.held_out.sample_tokens * _READ  # likelihood, and both of a pair
    for name in (["teacher"] if recipe.teacher.path is not None else []) + list(recipe.variants()):
        size = of_teacher if name == "teacher" else of_student
        yield Phase(f"scoring {name}", "scoring", 2 * size * (sampled + read) / pace)
