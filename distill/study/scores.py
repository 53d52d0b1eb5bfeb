"""The models of a study -> their outcomes, row by row and seed by seed."""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from itertools import repeat
from multiprocessing import active_children, get_context
from pathlib import Path
from typing import Any

import torch

from distill.base.console import say
from distill.metrics import Evaluation, Outcome, chosen
from distill.models.architecture import default_device, weights_hash
from distill.models.loading import load_model, load_teacher, load_tokenizer
from distill.models.two_view import TwoViewTeacher
from distill.objective.logit_ops import build_role_maps
from distill.recipe import CorpusConfig
from distill.scoring.measure import decisive, model_outcomes, run_prompts
from distill.scoring.score_cache import ScoreCache, content_hash
from distill.study.file import BASELINE, HALVES, Study, row_recipe, shared_recipe, teacher_target
from distill.study.made import spend, threads
from distill.study.runs import end_with_parent
from distill.text.counterfactual import Swapper
from distill.text.documents import read_documents
from distill.text.prompts import Prompt
from distill.text.role_map import token_roles
from distill.text.wordlist import load_wordlist


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


_scorer: "_Scorer | None" = None  # that of this process, kept from one row to the next


def _score(study: Study, seed: int, row: str) -> tuple[dict[str, Outcome], float, float]:
    """The scores of a row's model, and the seconds (wall, processor) that took; 0 where all were measured before."""
    global _scorer
    if _scorer is None or (_scorer.study, _scorer.seed) != (study, seed):
        _scorer = _Scorer(study, seed)
    wall, processor, measured = time.monotonic(), time.process_time(), _scorer.measured
    outcomes = _scorer.outcomes(row)
    if _scorer.measured == measured:
        return outcomes, 0.0, 0.0
    return outcomes, time.monotonic() - wall, time.process_time() - processor


@dataclass
class _Part(Evaluation):
    """An evaluation of some of another's prompts, with the texts that were sampled there."""

    whole: Evaluation | None = None
    places: Sequence[int] = ()

    @cached_property
    def continuations(self) -> list[list[str]]:
        assert self.whole is not None
        return [self.whole.continuations[place] for place in self.places]


def halves(prompts: Sequence[Prompt]) -> dict[str, list[int]]:
    """The prompts of each half of the subjects (occupations): every second one, in the order of the source."""
    order = {subject: place for place, subject in enumerate(dict.fromkeys(prompt.subject for prompt in prompts))}
    return {
        half: [place for place, prompt in enumerate(prompts) if order[prompt.subject] % 2 == number]
        for number, half in enumerate(HALVES)
    }


class _Scorer:
    """Scores the models of one seed, all on the same prompts and texts."""

    def __init__(self, study: Study, seed: int) -> None:
        self.study, self.seed = study, seed
        self.measured = 0  # metrics that were not in the cache
        self.out = Path(study.output_dir)
        self.recipe = row_recipe(study, BASELINE, seed)
        shared = shared_recipe(study, seed)
        self.settings = replace(shared.scores, data=study.data)
        self.swapper = Swapper(load_wordlist(self.recipe.wordlist))
        self.prompts, _ = run_prompts(shared, self.swapper)
        self.halves = halves(self.prompts)
        self.documents = [d for d in read_documents(self.recipe.held_out, seed) if d.strip()]
        self.texts = {name: self._documents(file) for name, file in study.texts.items()}
        self.device = default_device()
        model, self.tokenizer = load_teacher(self.recipe.teacher)
        self.teacher = model.to(self.device)
        self.teacher_hash = weights_hash(model)

    def _documents(self, file: str) -> list[str]:
        """Texts of a file below the data folder; none where it is missing, so that its scores are undefined."""
        path = Path(self.study.data or "", file)
        if self.study.data is None or not path.exists():
            return []
        corpus = CorpusConfig(
            source="files",
            files=[str(path)],
            passage_chars=self.study.passage_chars,
            max_documents=self.study.max_documents,
        )
        return [document for document in read_documents(corpus, self.seed) if document.strip()]

    def outcomes(self, row: str) -> dict[str, Outcome]:
        """All scores of a row's model, by name: METRIC, METRIC_HALF and METRIC_TEXT."""
        model, tokenizer, model_hash = self._model(row)
        common: dict[str, Any] = {"settings": self.settings, "seed": self.seed, "swapper": self.swapper}
        common["judge"] = lambda: (self.teacher, self.tokenizer)
        whole = Evaluation(model, tokenizer, self.swapper.wordlist, self.documents, self.prompts, **common)
        found = self._measured(whole, model_hash, self.study.metrics, "")
        for half, places in self.halves.items():
            part = _Part(
                model, tokenizer, self.swapper.wordlist, (), [self.prompts[place] for place in places],
                **common, whole=whole, places=places,
            )  # fmt: skip
            found |= self._measured(part, model_hash, self.study.half_metrics, f"_{half}")
        for name, documents in self.texts.items():
            read = Evaluation(model, tokenizer, self.swapper.wordlist, documents, (), **common)
            found |= self._measured(read, model_hash, self.study.text_metrics, f"_{name}")
        return found

    def _measured(
        self, evaluation: Evaluation, model_hash: str, metrics: Sequence[str], suffix: str
    ) -> dict[str, Outcome]:
        given = decisive(self.settings, self.seed, self.swapper, evaluation.documents, evaluation.prompts)
        kept = ScoreCache(self.out / "cache" / "scores", given | {"judge": self.teacher_hash, "part": suffix})
        outcomes, _ = model_outcomes(evaluation, chosen(list(metrics)), kept, model_hash)
        self.measured += kept.measured
        return {name + suffix: outcome for name, outcome in outcomes.items()}

    def _model(self, row: str) -> tuple[Any, Any, str]:
        """Model, tokenizer and hash of a row."""
        if row in self.study.teachers:
            target = teacher_target(self.study.recipe, row, self.study.teachers[row])
            if target.op == "none":
                return self.teacher, self.tokenizer, self.teacher_hash
            roles = token_roles(
                self.swapper.wordlist, self.tokenizer, self.teacher.get_output_embeddings().weight.shape[0]
            )
            maps = [role_map.to(self.device) for role_map in build_role_maps(roles.edges, roles.vocab_size)]
            model = TwoViewTeacher(self.teacher, self.tokenizer, self.swapper, target, maps)
            return model, self.tokenizer, f"{self.teacher_hash} {content_hash(asdict(target))}"
        folder = str(self.out / "runs" / f"{row}-{self.seed}" / "student")
        model = load_model(folder).to(self.device)
        return model, load_tokenizer(folder), weights_hash(model)
