"""What is measured of a federation's student: after each round on held-out text, at its end on each client's own.

An average hides whom the student serves worst. So the finished student is scored on text of each client by itself:
`federation/NAME-clients.json` lists what came out, and `over_clients` sums it up for the report.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from distill.metrics import CARDS, Evaluation, cards, chosen, measured, score
from distill.recipe import Recipe
from distill.scoring.measure import run_prompts
from distill.text.counterfactual import Swapper

DOCUMENTS = 64  # of a client, at most, that its scores are measured on
ENOUGH = 16  # documents; of fewer, a score is left out of what is said over all clients


def sample(documents: Sequence[str], most: int = DOCUMENTS) -> tuple[str, ...]:
    """So many of a client's documents, spread evenly over them, or all if there are no more."""
    places = np.linspace(0, len(documents) - 1, min(most, len(documents))).round().astype(int)
    return tuple(documents[place] for place in places)


def scorer(
    recipe: Recipe, tokenizer: Any, swapper: Swapper, names: Sequence[str], key: str
) -> Callable[[Any, Sequence[str]], dict[str, float]]:
    """A function that measures a student on documents: name of a score -> its value, of those that have one.

    Args:
        recipe: Its prompts, settings of scores and seed.
        tokenizer: Of the student.
        swapper: Of the word list.
        names: Of the metrics.
        key: The recipe's key that names them.

    Raises:
        UserError: an unknown metric.
    """
    metrics = chosen(names, key)
    prompts = run_prompts(recipe, swapper)[0] if metrics else []

    def values(student: Any, documents: Sequence[str]) -> dict[str, float]:
        evaluation = Evaluation(
            student, tokenizer, swapper.wordlist, documents, prompts, recipe.scores, recipe.seed, swapper
        )
        found = {}
        for metric in metrics.values():
            with torch.compiler.set_stance("force_eager"):  # the rounds' steps may be compiled, for other shapes
                measurements = measured(metric, evaluation)
            for card in cards(metric):
                value = score(card, measurements[card.name], resamples=0, seed=0).value
                if value is not None:
                    found[card.name] = value
        return found

    return values


def over_clients(found: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, float]]:
    """What the clients' scores are together, every client alike, of those whose text has `ENOUGH` documents.

    Args:
        found: Of each client: `client`, its number; `documents`, how many were read; and its scores by name.

    Returns:
        Score -> `clients`, how many have it; their `mean`; `spread`, the standard deviation over them; `least` and
        `largest`; and of the value farthest from the ideal, or where there is none from the mean, `worst` and
        `worst_client`.
    """
    scores: dict[str, dict[int, float]] = {}
    for of_client in found:
        if of_client["documents"] >= ENOUGH:
            for name in of_client.keys() - {"client", "documents"}:
                scores.setdefault(name, {})[of_client["client"]] = of_client[name]
    summary = {}
    for name, values in sorted(scores.items()):
        of_all = np.array(list(values.values()))
        ideal = CARDS[name].ideal
        centre = of_all.mean() if ideal is None else ideal
        worst = max(sorted(values), key=lambda client: abs(values[client] - centre))
        summary[name] = {
            "clients": len(values),
            "mean": float(of_all.mean()),
            "spread": float(of_all.std()),
            "least": float(of_all.min()),
            "largest": float(of_all.max()),
            "worst": values[worst],
            "worst_client": worst,
        }
    return summary
