"""Evaluations of models that have already written: continuations given by hand, so that scores are known exactly."""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from types import ModuleType, SimpleNamespace
from typing import Any

import torch

from distill.metrics import Evaluation, Score, cards, measured, score
from distill.recipe import ScoreConfig
from distill.text.counterfactual import Swapper
from distill.text.prompts import Prompt
from distill.text.wordlist import load_wordlist

SMALL = ScoreConfig(samples=2, max_new_tokens=5, bootstrap=200, batch_size=3)


def prompts_of(*classes: str) -> list[Prompt]:
    """One prompt without a listed word for each of these classes."""
    return [Prompt(f"The {name} of no. {i} said", name, f"{name} {i}") for i, name in enumerate(classes)]


@lru_cache(maxsize=1)
def _english_gender() -> Swapper:
    return Swapper(load_wordlist("english_gender"))


def continued(
    texts: Sequence[Sequence[str]],
    prompts: Sequence[Prompt] | None = None,
    wordlist: str = "english_gender",
    tokenizer: Any = None,
    judge: Any = None,
    seed: int = 0,
    **settings: Any,
) -> Evaluation:
    """An evaluation of a model that continued each prompt with these texts."""
    swapper = _english_gender() if wordlist == "english_gender" else Swapper(load_wordlist(wordlist))
    evaluation = Evaluation(
        SimpleNamespace(device=torch.device("cpu")),
        tokenizer,
        swapper.wordlist,
        prompts=prompts_of(*["job"] * len(texts)) if prompts is None else prompts,
        settings=ScoreConfig(**vars(SMALL) | settings),
        seed=seed,
        swapper=swapper,
        judge=judge,
    )
    evaluation.continuations = [list(samples) for samples in texts]
    return evaluation


def scores_of(module: ModuleType, evaluation: Evaluation) -> Mapping[str, Score]:
    """Every score of a metric, as a run would write it."""
    outcome = measured(module, evaluation)
    return {
        card.name: score(card, outcome[card.name], resamples=evaluation.settings.bootstrap, seed=evaluation.seed)
        for card in cards(module)
    }
