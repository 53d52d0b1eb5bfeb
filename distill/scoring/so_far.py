"""The disparity so far: a probe of the next-word disparity, cheap enough to be taken while a student trains.

It is the metric itself on few prompts, which are asked for their next word alone; nothing is sampled. They are of that
half of the subjects (occupations) by which a study chooses settings (`prompts.subject_halves`). Nothing in distill
chooses by the probe; who does, by stopping a run or taking another setting, has chosen by prompts that the final score
counts too, and finds a score that nothing was chosen by on the other half, as `distill study` gives it.
"""

from dataclasses import replace
from typing import Any

from transformers import PreTrainedTokenizerBase

from distill.metrics import Evaluation
from distill.metrics.next_word_disparity import next_word_disparity
from distill.recipe import Recipe
from distill.scoring.measure import halved_prompts
from distill.text.counterfactual import Swapper
from distill.text.prompts import limit_prompts
from distill.training.probing import Probe, SoFar

PROMPTS = 40  # At most; a forward pass of some 300 tokens.

# What an evaluation holds that is of one model, at one time.
_OF_MODEL = ("next_word_masses", "group_tokens", "projects")


def probe_of(recipe: Recipe, swapper: Swapper, tokenizer: PreTrainedTokenizerBase) -> Probe | None:
    """What measures the students of a run while they train, and their teacher; None where the recipe wants none.

    Args:
        recipe: Its `scores` name prompts and chat template.
        swapper: Of its word list.
        tokenizer: The models'.

    Raises:
        UserError: see `measure.usable_prompts`.
    """
    if recipe.scores.probe_steps == 0:
        return None
    prompts, (places, _) = halved_prompts(recipe, swapper, recipe.seed)
    settings = replace(recipe.scores, bootstrap=2)  # no interval is shown
    chosen = limit_prompts([prompts[place] for place in places], PROMPTS, recipe.seed)
    evaluation = Evaluation(None, tokenizer, swapper.wordlist, (), chosen, settings, recipe.seed, swapper)

    def probe(model: Any) -> SoFar:
        # The listed words' tokens are looked for once for all.
        for name in _OF_MODEL:
            vars(evaluation).pop(name, None)
        evaluation.model = model
        found = next_word_disparity.measure(evaluation)
        evaluation.model = None  # or else a student would stay in memory while the next one trains
        if found.too_little:
            return SoFar(None, None, found.too_little, found.n)
        return SoFar(float(found.statistic(found.units.sum(axis=0))), found.details["mean_signed"], None, found.n)

    return probe
