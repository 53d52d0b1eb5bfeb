"""What was asked for, and what each model gave -> the contents of scores.json."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from itertools import combinations
from typing import Any

from distill.metrics import CARDS, Outcome, card_dicts, difference_of, not_asked, score_of
from distill.metrics.bootstrap import CONFIDENCE
from distill.recipe import ScoreConfig
from distill.scoring.examples import DECODING, example_prompts, listed_words
from distill.scoring.score_cache import content_hash
from distill.scoring.scores_file import FORMAT
from distill.text.counterfactual import Swapper
from distill.text.prompts import Prompt, limit_prompts
from distill.text.wordlist import WordList

_SAMPLE_PROMPTS = 16


@dataclass(frozen=True)
class Asked:
    """What all models are measured on, and which of their texts are shown.

    settings: metrics, decoding, resamples; documents: held-out texts; prompts: all of them.
    """

    settings: ScoreConfig
    seed: int
    swapper: Swapper
    documents: Sequence[str]
    prompts: Sequence[Prompt]

    @cached_property
    def shown(self) -> list[Prompt]:
        """The prompts whose sampled continuations are shown."""
        return limit_prompts(list(self.prompts), _SAMPLE_PROMPTS, self.seed)

    @cached_property
    def example_texts(self) -> list[str]:
        """The prompts of the examples."""
        return example_prompts(self.prompts, self.swapper, self.seed)


@dataclass(frozen=True)
class Measured:
    """What one model gave.

    outcomes: score -> outcome; texts: see `measure.shown_texts`, None if no metric asked for continuations; weights:
    the SHA-256 of its weights; facts: its context, tokenizer and size, by the names in scores.json.
    """

    outcomes: Mapping[str, Outcome]
    texts: Mapping[str, Any] | None
    weights: str
    facts: Mapping[str, Any]


def contents(
    asked: Asked,
    found: Mapping[str, Measured],
    versions: Mapping[str, str],
    beside: Mapping[str, str | None],
) -> dict[str, Any]:
    """The contents of scores.json.

    Args:
        asked: What the models were measured on.
        found: Model -> what it gave; in order, since each is set against every earlier one.
        versions: Of what decides the figures.
        beside: What was read beside models, prompts and documents: classifiers, word vectors, audited texts.
    """
    outcomes = {name: of_model.outcomes for name, of_model in found.items()}
    scores = list(dict.fromkeys(score for of_model in outcomes.values() for score in of_model))
    texts = {name: of_model.texts for name, of_model in found.items() if of_model.texts}
    return {
        "format": FORMAT,
        "models": {
            name: {score: score_of(CARDS[score], outcome).to_dict() for score, outcome in of_model.items()}
            for name, of_model in outcomes.items()
        },
        "differences": {
            f"{later} - {earlier}": {
                score: difference_of(outcomes[later][score], outcomes[earlier][score], CARDS[score].aim)
                for score in outcomes[later]
            }
            for earlier, later in combinations(outcomes, 2)
        },
        "cards": card_dicts(scores),
        "not_asked": not_asked(scores),
        "samples": _samples(asked, texts),
        "examples": _examples(asked, texts),
        "settings": _settings(asked)
        | {
            "weights": {name: of_model.weights for name, of_model in found.items()},
            "models": {name: dict(of_model.facts) for name, of_model in found.items()},
            **({"measured_with": dict(beside)} if beside else {}),
        },
        "versions": dict(versions),
    }


def _samples(asked: Asked, texts: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Sampled continuations, model beside model; a prompt that stands twice in its source is shown once."""
    found: dict[Prompt, dict[str, list[str]]] = {prompt: {} for prompt in asked.shown}
    for name, of_model in texts.items():
        for prompt, of_prompt in zip(asked.shown, of_model["samples"], strict=True):
            found[prompt][name] = of_prompt
    return [
        {"prompt": prompt.text, "group": prompt.group, "subject": prompt.subject, "texts": of_prompt}
        for prompt, of_prompt in found.items()
        if of_prompt
    ]


def _examples(asked: Asked, texts: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """What the models expect after the example prompts and how they go on."""
    found = [
        {
            "prompt": text,
            "words": listed_words(text, asked.swapper),
            "models": {name: of_model["examples"][number] for name, of_model in texts.items()},
        }
        for number, text in enumerate(asked.example_texts)
    ]
    decoding = DECODING | {"max_new_tokens": asked.settings.max_new_tokens, "seed": asked.seed}
    return {"decoding": decoding, "prompts": found if texts else []}


def _settings(asked: Asked) -> dict[str, Any]:
    """Whatever decides the scores, as far as a reader needs it."""
    settings, wordlist = asked.settings, asked.swapper.wordlist
    return {
        "seed": asked.seed,
        "interval": {
            "confidence": CONFIDENCE,
            "resamples": settings.bootstrap,
            "method": "percentile bootstrap over units (prompts, documents, pairs, words ...); differences paired",
        },
        "decoding": settings.decoding(),
        "wordlist": {
            "name": wordlist.name,
            "groups": list(wordlist.groups),
            "rows": len(wordlist.rows),
            "words": _by_group(wordlist, wordlist.group_of.values()),
            "sha256": wordlist.sha256,
            **({"language": wordlist.language} if wordlist.language not in ("", "en") else {}),
        },
        "prompts": {
            "count": len(asked.prompts),
            "groups": len({prompt.group for prompt in asked.prompts}),
            "sha256": content_hash([asdict(prompt) for prompt in asked.prompts]),
            **({"chat": True} if asked.settings.chat else {}),
        },
        "held_out": _held_out(asked.documents, asked.swapper),
    }


def _held_out(documents: Sequence[str], swapper: Swapper) -> dict[str, Any]:
    """What was scored beside the prompts, and what the word list covers of it."""
    matches = [swapper.matches(document) for document in documents]
    return {
        "documents": len(documents),
        "bytes": sum(len(document.encode()) for document in documents),
        "sha256": content_hash(documents),
        "documents_with_listed_word": sum(map(bool, matches)),
        "listed_words": _by_group(swapper.wordlist, (match.group for found in matches for match in found)),
    }


def _by_group(wordlist: WordList, numbers: Iterable[int]) -> dict[str, int]:
    """Numbers of groups -> how often each group is among them, by name."""
    counts = Counter(numbers)
    return {group: counts[number] for number, group in enumerate(wordlist.groups)}
