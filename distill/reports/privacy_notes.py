"""scores.json of a private run -> what its epsilon means, and what it does not cover; no markup."""

from collections.abc import Mapping
from typing import Any

from distill.recipe import Recipe

#: As the accountant names itself; reports load none.
_ACCOUNTANT = "the PRV accountant (Gopi et al. 2021, arXiv 2106.02848), its upper bound, by opacus"


def hides_seed(scores: Mapping[str, Any]) -> bool:
    """Whether what is published must not name the seed, as the noise of a private run can be drawn from it again."""
    return "privacy" in scores and not scores["privacy"]["secure"]


def privacy_row(recipe: Recipe, scores: Mapping[str, Any]) -> list[tuple[str, str]]:
    """A row for the table of settings; none where the run is not private."""
    if not (facts := scores.get("privacy")):
        return []
    return [
        (
            "privacy",
            f"epsilon {facts['epsilon']:.3g}, delta {facts['delta']:.3g}; unit: a {_unit(recipe)} with its "
            f"counterfactuals{' at one client' if 'clients' in facts else ''}; trained: {facts['trained']}"
            + ("; of no effect against whoever knows or guesses the seed" if hides_seed(scores) else ""),
        )
    ]


def _unit(recipe: Recipe) -> str:
    """What epsilon is of: a document, or what the recipe cuts documents into."""
    if limit := recipe.corpus.passage_chars:
        return f"passage of at most {limit:,} characters"
    return "document"


def guarantee(recipe: Recipe, facts: Mapping[str, Any]) -> list[str]:
    """What is promised, and how it was made, a sentence each.

    Args:
        recipe: The run's.
        facts: `privacy` of its scores.json.
    """
    drawn, documents = (_range(facts[name], ",") for name in ("batch_size", "documents"))
    trained = "all weights" if facts["trained"] == "all" else "all but the token embedding and the output head"
    if facts["secure"]:
        numbers = "Documents and noise came from the operating system's generator, and cannot be drawn again."
    else:
        numbers = (
            "Documents and noise came from the recipe's seed. Whoever knows the seed, or guesses it, can draw them "
            "again for every text that they try, and take the noise off; nothing is promised against them: a student "
            "to be published wants privacy.secure."
        )
    unit = _unit(recipe)
    whole = "" if unit == "document" else " A document that was cut into several spends as many times as much."
    return [
        f"Epsilon {facts['epsilon']:.4g}, delta {facts['delta']:.3g}: but for a probability of delta, nothing is more "
        f"than e^epsilon times as likely to come out of the training with any one {unit} in its text as without it.",
        f"Unit: one {unit}, its first {recipe.block_length} tokens, together with its counterfactuals. Neighbours "
        f"are texts of which one holds a {unit.split()[0]} more.{whole}",
        *_of_clients(facts),
        f"Accountant: {_ACCOUNTANT}.",
        f"Sampling: Poisson; on average {drawn} of {documents} documents in each of {facts['steps']:,} steps, each "
        "with the same probability.",
        f"Each document's gradient was clipped to a norm of {facts['clip']:g}; noise of "
        f"{_range(facts['noise_multiplier'], '.4g')} times that came on each of {facts['weights']:,} numbers "
        f"({trained}).",
        numbers,
    ]


def _of_clients(facts: Mapping[str, Any]) -> list[str]:
    """What epsilon means where clients trained the student together."""
    if "clients" not in facts:
        return []
    against = (
        "Its epsilon holds against the server and the other clients, for what its weights tell"
        if facts["secure"]
        else "Server and clients know the seed, so that its epsilon holds against none of them. It is of what its "
        "weights tell"
    )
    return [
        f"Clients: each of {facts['clients']:,} clips and adds noise to its own steps, before it sends anything, and "
        f"accounts for all rounds in which it may be asked. {against}: the number of its documents and its time are "
        "told as they are; a document that several clients hold, or a person who appears at several, spends each one's."
    ]


def _range(values: Any, layout: str) -> str:
    """A number, or from the least to the largest of several."""
    return " to ".join(format(value, layout) for value in (values if isinstance(values, list) else [values]))


def not_covered(recipe: Recipe) -> list[str]:
    """What epsilon says nothing of, a sentence each."""
    source = "the teacher" if recipe.teacher.path is not None else "the model that it starts from"
    starts = {
        "layers": " It starts from layers of the teacher, with whatever they hold.",
        "checkpoint": " It starts from a model that was trained before, on text of which epsilon says nothing.",
    }.get(recipe.student.init, "")
    return [
        f"What {source} saw in its own training, this text included: the student learns it from there.{starts}",
        "A tokenizer that was trained on this text.",
        "Duplicates: of what stands in several documents, or a person who appears in several, as many times as much.",
        "The choice among settings or students by what they made of this text, and further students of the same text, "
        "the plainly distilled one beside this included: each spends an epsilon of its own."
        + (
            ""
            if recipe.privacy.secure
            else " Those of one seed draw the same documents, and may spend more than the sum."
        ),
        "What the run says of itself: losses, numbers of documents and tokens, its caches and audit, and scores on the "
        "training text. Keep its logs and the folders training, cache and audit to yourself.",
    ]
