"""The models of a study -> their outcomes, row by row and seed by seed.

In go finished runs and the study's texts and prompts. Out comes a dictionary for each row and seed, from the name of a
score to its outcome: METRIC on all prompts and held-out text, METRIC_HALF on the prompts of one half of the
occupations, METRIC_TEXT on a text of the study's own. What was measured before comes from `cache/scores`.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, replace
from functools import cached_property
from itertools import repeat
from multiprocessing import active_children, get_context
from pathlib import Path
from typing import Any

import torch

from distill.base.console import say
from distill.data.audit import run_scores
from distill.metrics import Evaluation, Outcome, PartOfEvaluation, chosen
from distill.metrics.audited import read_audited
from distill.models.architecture import default_device, model_hash
from distill.models.loading import load_frozen, load_teacher
from distill.models.quantization import quantize_weights
from distill.models.two_view import TwoViewTeacher
from distill.recipe import CorpusConfig, Recipe
from distill.scoring.measure import (
    Checkpoint,
    ModelSource,
    common_context,
    decisive,
    halved_prompts,
    model_outcomes,
    open_model,
    trusted,
)
from distill.scoring.score_cache import ScoreCache, content_hash, installed_version
from distill.study.costs import keep_token_seconds
from distill.study.file import (
    derived_row,
    row_recipe,
    run_folder,
    shared_recipe,
    teacher_checkpoint,
    teacher_target,
)
from distill.study.made import spend, threads
from distill.study.runs import end_with_parent
from distill.study.schema import BASELINE, HALVES, PromptedRow, QuantizedRow, Study
from distill.study.self_debiasing import SelfDebiasing
from distill.text.counterfactual import Swapper
from distill.text.documents import read_documents
from distill.text.prompts import Prompt
from distill.text.wordlist import load_wordlist

_SEED_OF_PROMPTS = 0  # not the first of the study's, in front of which others may be put later


def score_all(study: Study) -> dict[str, list[dict[str, Outcome]]]:
    """Row -> the scores of its models, seed by seed."""
    names = [*study.teachers, *study.students]
    found: dict[str, list[dict[str, Outcome]]] = {name: [] for name in names}
    with _mapper(study) as side_by_side:
        for seed in study.seeds:
            say(f"scoring {len(names)} models of seed {seed}")
            scored = side_by_side(_score, repeat(study), repeat(seed), names)
            for name, (outcomes, wall, processor) in zip(names, scored, strict=True):
                say(f"scored {name}, seed {seed}")
                found[name].append(outcomes)
                if wall:
                    spend(Path(study.output_dir), "scoring", wall, processor)
    return found


@contextmanager
def _mapper(study: Study) -> Iterator[Callable[..., Iterable[Any]]]:
    """`map`, or with several jobs that of a pool of processes, which end with the body however it ends."""
    if study.jobs == 1:
        yield map
        return
    context = get_context("spawn")  # a fork would inherit torch's threads in whatever state they are
    with ProcessPoolExecutor(study.jobs, context, _begin_scoring, (threads(study),)) as pool:
        try:
            yield pool.map
        except BaseException:
            for process in active_children():  # or else the pool would wait for what they are at
                process.kill()
            raise


def _begin_scoring(threads: int) -> None:
    end_with_parent()
    torch.set_num_threads(threads)


_scorer: "Scorer | None" = None  # that of this process, kept from one row to the next


def _score(study: Study, seed: int, row: str) -> tuple[dict[str, Outcome], float, float]:
    """The scores of a row's model, and the seconds (wall, processor) that took; 0 where all were measured before."""
    global _scorer
    if _scorer is None or (_scorer.study, _scorer.seed) != (study, seed):
        _scorer = Scorer(study, seed)
    wall, processor, measured = time.monotonic(), time.process_time(), _scorer.measured
    outcomes = _scorer.outcomes(row)
    if _scorer.measured == measured:
        return outcomes, 0.0, 0.0
    return outcomes, time.monotonic() - wall, time.process_time() - processor


def study_prompts(recipe: Recipe, swapper: Swapper) -> tuple[list[Prompt], dict[str, list[int]]]:
    """What all models of a study are asked: prompts, and name of a half of the subjects -> the places of its prompts.

    They are the same for all seeds: scores of one seed pair with those of another, and settings that were chosen by the
    first half meet new occupations in the second.

    Raises:
        UserError: see `measure.usable_prompts`.
    """
    prompts, places = halved_prompts(recipe, swapper, _SEED_OF_PROMPTS)
    return prompts, dict(zip(HALVES, places, strict=True))


def student_source(study: Study, row: str, seed: int) -> ModelSource:
    """Where a student that was trained lies, with the code that was trusted to make it."""
    folder = run_folder(study, row, seed) / "student"
    return trusted(folder, row_recipe(study, row, seed).trusts_code)


def study_texts(study: Study, seed: int) -> dict[str, list[str]]:
    """Name -> documents of each of the study's texts; none of a file that is missing, so that its scores are undefined.

    Raises:
        UserError: a file cannot be read as text.
    """
    return {name: _documents(study, file, seed) for name, file in study.texts.items()}


def _documents(study: Study, file: str, seed: int) -> list[str]:
    if study.data is None or not (path := Path(study.data, file)).exists():
        return []
    corpus = CorpusConfig(
        source="files", files=[str(path)], passage_chars=study.passage_chars, max_documents=study.max_documents
    )
    return [document for document in read_documents(corpus, seed) if document.strip()]


class Scorer:
    """Scores the models of one seed, all on the same prompts and texts.

    study, seed: What it scores.
    measured: How many metrics it did not find in the cache.
    """

    def __init__(self, study: Study, seed: int) -> None:
        self.study, self.seed = study, seed
        self.measured = 0
        self.recipe = row_recipe(study, BASELINE, seed)
        shared = shared_recipe(study, seed)
        # What is audited is drawn from the text that all rows share, and lies in every run of it.
        audited = run_scores(shared.scores, shared.audit, run_folder(study, BASELINE, seed))
        self.settings = replace(audited, data=study.data)
        self.swapper = Swapper(load_wordlist(self.recipe.wordlist))
        self.prompts, self.halves = study_prompts(shared, self.swapper)
        self.documents = [d for d in read_documents(self.recipe.held_out, seed) if d.strip()]
        self.texts = study_texts(study, seed)
        self.device = default_device()
        model, self.tokenizer = load_teacher(self.recipe.teacher)
        self.teacher = model.to(self.device)
        self.teacher_hash = model_hash(model, self.tokenizer)
        self.audited = read_audited(self.settings)
        students = [student_source(study, row, seed) for row in study.students]
        others = [config for row in study.teachers if (config := teacher_checkpoint(study, row)) and config.path]
        self.common = common_context([(model, self.tokenizer), *students, *map(Checkpoint, others)])

    def outcomes(self, row: str) -> dict[str, Outcome]:
        """All scores of a row's model, by name: METRIC, METRIC_HALF and METRIC_TEXT."""
        model, tokenizer, model_hash = self._teacher(row) if row in self.study.teachers else self._student(row)
        of_model = (model, tokenizer, self.swapper.wordlist)
        common: dict[str, Any] = {"settings": self.settings, "seed": self.seed, "swapper": self.swapper}
        common |= {"judge": lambda: (self.teacher, self.tokenizer), "common": self.common}
        losses = (lambda: self._of_teacher.audited_losses) if self.audited.members else None
        common |= {"audited": self.audited, "reference": losses}
        whole = Evaluation(*of_model, self.documents, self.prompts, **common)
        found = self._outcomes_of(whole, model_hash, self.study.metrics, "")
        for half, places in self.halves.items():
            prompts = [self.prompts[place] for place in places]
            part = PartOfEvaluation(*of_model, (), prompts, **common, whole=whole, places=places)
            found |= self._outcomes_of(part, model_hash, self.study.half_metrics, f"_{half}")
        for name, documents in self.texts.items():
            part = PartOfEvaluation(*of_model, documents, (), **common, whole=whole)
            found |= self._outcomes_of(part, model_hash, self.study.text_metrics, f"_{name}")
        if self.study.costs:
            keep_token_seconds(self.study, row, self.seed, model, tokenizer, model_hash)
        return found

    @cached_property
    def _of_teacher(self) -> Evaluation:
        """The teacher on the audited texts, which are new to it; and what listed words are to it."""
        return Evaluation(
            self.teacher, self.tokenizer, self.swapper.wordlist, settings=self.settings, seed=self.seed,
            swapper=self.swapper, common=self.common, audited=self.audited,
        )  # fmt: skip

    def _outcomes_of(
        self, evaluation: Evaluation, model_hash: str, metrics: Sequence[str], suffix: str
    ) -> dict[str, Outcome]:
        data = evaluation.documents, evaluation.prompts
        given = decisive(self.settings, self.seed, self.swapper, *data, self.common)
        folder = Path(self.study.output_dir, "cache", "scores")
        given |= {"audited": self.audited.digest} if self.audited.members or self.audited.canaries else {}
        kept = ScoreCache(folder, given | {"judge": self.teacher_hash, "part": suffix})
        outcomes, _ = model_outcomes(evaluation, chosen(list(metrics)), kept, model_hash)
        self.measured += kept.measured
        return {name + suffix: outcome for name, outcome in outcomes.items()}

    def _teacher(self, row: str) -> tuple[Any, Any, str]:
        """Model, tokenizer and hash of a row of `teachers`: as it is, decoding from a target, or derived."""
        if (checkpoint := teacher_checkpoint(self.study, row)) is not None:
            model, tokenizer = load_frozen(checkpoint)
            return model.to(self.device), tokenizer, model_hash(model, tokenizer)
        if (derived := derived_row(self.study, row)) is not None:
            return self._derived(derived)
        target = teacher_target(self.study, row)
        if target.op == "none":
            return self.teacher, self.tokenizer, self.teacher_hash
        model = TwoViewTeacher(self.teacher, self.tokenizer, self.swapper, target, self._of_teacher.role_maps)
        return model, self.tokenizer, f"{self.teacher_hash} {content_hash(asdict(target))}"

    def _derived(self, row: PromptedRow | QuantizedRow) -> tuple[Any, Any, str]:
        """Model, tokenizer and hash of another row's model, asked behind a prompt or in fewer bits."""
        if isinstance(row, PromptedRow):
            own = (self.teacher, self.tokenizer, self.teacher_hash)
            model, tokenizer, key = own if row.of is None else self._student(row.of)
            asked = SelfDebiasing(model, tokenizer, row.prompt, row.decay)
            return asked, tokenizer, f"{key} {content_hash([row.prompt, row.decay])}"
        model, tokenizer = load_teacher(self.recipe.teacher) if row.of is None else self._trained(row.of)
        # What torchao makes of the weights, and how it multiplies by them, is another matter in another version.
        key = f"{model_hash(model, tokenizer)} {row.quantize} torchao {installed_version('torchao')}"
        return quantize_weights(model, row.quantize, "quantize").to(self.device), tokenizer, key

    def _trained(self, row: str) -> tuple[Any, Any]:
        """Model and tokenizer of a student that was trained, on the CPU."""
        return open_model(student_source(self.study, row, self.seed), "cpu")

    def _student(self, row: str) -> tuple[Any, Any, str]:
        """Model, tokenizer and hash of a student that was trained."""
        model, tokenizer = self._trained(row)
        return model.to(self.device), tokenizer, model_hash(model, tokenizer)
